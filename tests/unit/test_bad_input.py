"""What bad input gets: one clear error that says what and what next, and nothing written."""

import contextlib
import json
import math
import pickle
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import mastlens as m

from ..conftest import tiny_config, write_tokenizer

NAME = "model.layers.1.self_attn.k_proj.weight"


def refused(call, *words, out=None):
    """Assert that ``call`` is refused with a message that has all the words, and that ``out`` stays as it was."""
    before = files(out) if out is not None else None
    with pytest.raises(m.MastlensError) as error:
        call()
    message = str(error.value)
    for word in words:
        assert word.lower() in message.lower(), f"{word!r} is not in: {message}"
    assert len(message) > 20
    assert "Traceback" not in message
    if out is not None:
        assert files(out) == before
    return message


def files(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()} if folder.exists() else {}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the RLVR checkpoint that a test may damage."""
    return shutil.copytree(tiny.rlvr, tmp_path / "copy")


def alter(folder, change):
    """Rewrite the weights of a folder with ``change`` applied to its tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def fresh(folder, model_type="qwen2", seed=99, **changes):
    """Write a model of random weights that has nothing to do with the lineage."""
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(tiny_config(model_type, **changes)).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def geometry(tiny, rlvr, out, **changes):
    settings = {"base": tiny.base, "sft": tiny.sft, "rlvr": rlvr, "rank": 4, "out": out, "progress": False}
    return m.geometry(**(settings | changes))


def couple(tiny, rlvr, out, **changes):
    settings = {"sft": tiny.sft, "rlvr": rlvr, "forget": tiny.forget, "out": out, "progress": False}
    return m.couple(**(settings | changes))


def unlearn(tiny, out, **changes):
    settings = {"rlvr": tiny.rlvr, "forget": tiny.forget, "objective": "ga", "steps": 1, "lr": 1e-3, "out": out}
    if not {"where", "names", "ranking", "all_parameters"} & set(changes):
        settings["where"] = "q_proj"
    return m.unlearn(**(settings | {"progress": False} | changes))


# Checkpoints


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_truncated_file(tiny, copy, out, keep):
    path = copy / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    refused(lambda: m.inspect(copy), "model.safetensors")
    message = refused(lambda: geometry(tiny, copy, out), "model.safetensors", out=out)
    assert any(word in message.lower() for word in ("truncated", "damaged", "incomplete", "corrupt", "cut"))
    assert any(word in message.lower() for word in ("download", "copy", "fetch", "again"))


@pytest.fixture
def sharded(tiny, tmp_path):
    folder = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(tiny.rlvr, dtype=torch.float32).save_pretrained(folder, max_shard_size="40KB")
    write_tokenizer(folder)
    assert len(list(folder.glob("*.safetensors"))) > 2  # else the shards below are no shards
    return folder


def test_shards_are_read_like_one_file(tiny, sharded):
    assert m.Checkpoint(sharded).fingerprint == m.Checkpoint(tiny.rlvr).fingerprint
    assert geometry(tiny, sharded, None).table.equals(geometry(tiny, tiny.rlvr, None).table)


def test_a_missing_shard(tiny, sharded, out):
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    refused(lambda: m.inspect(sharded), gone.name)
    refused(lambda: geometry(tiny, sharded, out), gone.name, out=out)
    refused(lambda: couple(tiny, sharded, out), gone.name, out=out)


def test_a_truncated_shard(tiny, sharded, out):
    cut = sorted(sharded.glob("*.safetensors"))[1]
    cut.write_bytes(cut.read_bytes()[:-7])
    refused(lambda: geometry(tiny, sharded, out), cut.name, out=out)
    refused(lambda: couple(tiny, sharded, out), cut.name, out=out)


def test_an_index_that_promises_what_is_not_there(tiny, sharded, out):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    shard = sharded / index["weight_map"][NAME]
    tensors = load_file(shard)
    del tensors[NAME]
    save_file(tensors, shard, metadata={"format": "pt"})
    refused(lambda: geometry(tiny, sharded, out), NAME, out=out)


def test_an_index_that_points_outside_the_folder(tiny, sharded, tmp_path):
    """Checkpoints come from strangers: whatever their index says, an export writes into its own folder only."""
    edit = unlearn(tiny, None, names=[NAME]).edit
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shard = index["weight_map"][NAME]
    shutil.move(sharded / shard, tmp_path / "outside.safetensors")
    for name, file in index["weight_map"].items():
        if file == shard:
            index["weight_map"][name] = "../outside.safetensors"
    path.write_text(json.dumps(index))
    before = files(tmp_path)
    new = tmp_path / "a" / "new"
    with contextlib.suppress(m.MastlensError):  # refused, or made whole inside
        m.apply_edit(edit, to=sharded, out=new)
        assert NAME in load_file(next(f for f in new.glob("*.safetensors") if NAME in load_file(f)))
        exported = json.loads((new / "model.safetensors.index.json").read_text())["weight_map"]
        assert all((new / file).is_file() and "/" not in file for file in exported.values())
    after = files(tmp_path)
    assert {k: v for k, v in after.items() if not k.startswith(str(new))} == before


def test_a_missing_tensor(tiny, copy, out):
    alter(copy, lambda tensors: tensors.pop(NAME))
    refused(lambda: geometry(tiny, copy, out), NAME, out=out)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_folder_that_is_not_whole(tiny, copy, out, gone):
    (copy / gone).unlink()
    message = refused(lambda: geometry(tiny, copy, out), str(copy), out=out)
    assert ("config.json" if gone == "config.json" else "weight") in message


def test_a_configuration_that_is_no_json(tiny, copy, out):
    (copy / "config.json").write_text('{"model_type": ')
    refused(lambda: geometry(tiny, copy, out), "config.json", out=out)


def test_a_folder_without_tokenizer(tiny, copy, out):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    refused(lambda: couple(tiny, copy, out), "tokenizer", str(copy), out=out)
    geometry(tiny, copy, out)  # which needs none
    assert (out / "geometry.parquet").is_file()


def test_an_unknown_architecture(tiny, copy, out):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "qwen22", "architectures": ["Qwen22"]}))
    refused(lambda: m.inspect(copy), "qwen22", "qwen2")
    refused(lambda: geometry(tiny, copy, out), "qwen22", out=out)


def test_another_architecture_in_the_lineage(tiny, tmp_path, out):
    other = fresh(tmp_path / "llama", "llama")
    refused(lambda: geometry(tiny, other, out), "llama", "qwen2", out=out)
    refused(lambda: couple(tiny, other, out), "llama", "qwen2", out=out)
    assert m.inspect(other).summary["architecture"] == "llama"  # by itself it is fine


@pytest.mark.parametrize("changes", [{"hidden_size": 16}, {"num_hidden_layers": 3}, {"num_key_value_heads": 1}])
def test_another_shape_in_the_lineage(tiny, tmp_path, out, changes):
    other = fresh(tmp_path / "other", **changes)
    message = refused(lambda: geometry(tiny, other, out), out=out)
    assert "rlvr" in message.lower() or str(other) in message
    assert any(word in message.lower() for word in ("shape", "size", "layers", "tensor", "heads"))
    refused(lambda: couple(tiny, other, out), out=out)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_tensor_that_holds_no_numbers(tiny, copy, out, value):
    def spoil(tensors):
        tensors[NAME][3, 5] = value

    alter(copy, spoil)
    message = refused(lambda: geometry(tiny, copy, out), NAME, out=out)
    assert "nan" in message.lower() or "inf" in message.lower()
    refused(lambda: couple(tiny, copy, out), NAME, out=out)
    refused(lambda: unlearn(tiny, out, rlvr=copy), NAME, out=out)


def test_a_tensor_off_the_attention_that_holds_no_numbers(tiny, copy, out):
    """Geometry never looks there, but a loss through it is NaN."""
    name = "model.layers.0.mlp.up_proj.weight"

    def spoil(tensors):
        tensors[name][0, 0] = math.nan

    alter(copy, spoil)
    refused(lambda: couple(tiny, copy, out), name, out=out)
    refused(lambda: unlearn(tiny, out, rlvr=copy), name, out=out)
    refused(lambda: m.evaluate(model=copy, splits={"f": tiny.forget}, max_new_tokens=1, out=out), name, out=out)


@pytest.mark.parametrize("same", ["sft and rlvr", "base and sft", "base and rlvr", "all"])
def test_identical_checkpoints(tiny, copy, out, same):
    roles = {
        "sft and rlvr": {"sft": tiny.rlvr},
        "base and sft": {"base": tiny.sft},
        "base and rlvr": {"base": tiny.rlvr, "sft": None},
        "all": {"base": tiny.rlvr, "sft": tiny.rlvr},
    }[same]
    message = refused(lambda: geometry(tiny, copy, out, **roles), out=out)  # a copy: not the same path
    assert any(word in message.lower() for word in ("same", "identical", "equal"))
    if same != "all":
        for role in same.split(" and "):
            assert role in message.lower()


@pytest.mark.parametrize("seed", [1, 99])
def test_unrelated_checkpoints(tiny, tmp_path, out, seed):
    other = fresh(tmp_path / "other", seed=seed)
    message = refused(lambda: geometry(tiny, other, out), "related", out=out)
    assert any(character.isdigit() for character in message)  # how it looks: a number
    refused(lambda: couple(tiny, other, out), "related", out=out)
    refused(lambda: geometry(tiny, tiny.rlvr, out, base=other), "related", out=out)


def test_paths_that_name_nothing(tiny, tmp_path, out):
    refused(lambda: geometry(tiny, tmp_path / "nowhere", out), "nowhere", out=out)
    refused(lambda: geometry(tiny, tiny.rlvr / "model.safetensors", out), "model.safetensors", "folder", out=out)
    refused(lambda: geometry(tiny, "nobody-at-all/nothing-here", out), "nobody-at-all/nothing-here", out=out)
    refused(lambda: geometry(tiny, "organism:no-such-lineage/rlvr", out), "no-such-lineage", out=out)
    (tmp_path / "empty").mkdir()
    refused(lambda: geometry(tiny, tmp_path / "empty", out), "empty", out=out)


class Trap:
    """Unpickling this runs code."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


@pytest.fixture
def pickled(tiny, tmp_path):
    """The RLVR checkpoint with its weights as pytorch_model.bin."""
    folder = shutil.copytree(tiny.rlvr, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save(load_file(tiny.rlvr / "model.safetensors"), folder / "pytorch_model.bin")
    return folder


def test_harmless_pickled_weights_are_read(tiny, pickled):
    assert m.Checkpoint(pickled).fingerprint == m.Checkpoint(tiny.rlvr).fingerprint
    assert geometry(tiny, pickled, None).table.equals(geometry(tiny, tiny.rlvr, None).table)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_pickled_weights_that_would_run_code(tiny, pickled, tmp_path, out, protocol):
    witness = tmp_path / "witness"
    content = load_file(tiny.rlvr / "model.safetensors") | {"trap": Trap(witness)}
    if protocol == "torch":
        torch.save(content, pickled / "pytorch_model.bin")
    else:
        (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({"trap": Trap(witness)}))
    for call in (
        lambda: m.inspect(pickled),
        lambda: geometry(tiny, pickled, out),
        lambda: couple(tiny, pickled, out),
        lambda: unlearn(tiny, out, rlvr=pickled),
    ):
        refused(call, "pytorch_model.bin", out=out)
        assert not witness.exists()
    pickle.loads(pickle.dumps(Trap(witness))).close()
    assert witness.exists()


def test_remote_code_does_not_run(tiny, copy, tmp_path, out):
    witness = tmp_path / "witness"
    config = json.loads((copy / "config.json").read_text())
    auto = {"AutoConfig": "stranger.Config", "AutoModelForCausalLM": "stranger.Model"}
    (copy / "config.json").write_text(json.dumps(config | {"auto_map": auto}))
    (copy / "stranger.py").write_text(f"open({str(witness)!r}, 'w')\n")
    couple(tiny, copy, out)  # a known architecture: transformers' own code is used
    assert (out / "coupling.parquet").is_file()
    assert not witness.exists()


# Problems


@pytest.mark.parametrize(
    ("command", "side"),
    [("couple", "forget"), ("couple", "retain"), ("unlearn", "forget"), ("unlearn", "retain"), ("evaluate", "forget")],
)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["no problem"]),
        ('{"problem": "p", "solution": "s", "answer": "1"}\n{oops\n', ["2"]),
        ('{"problem": "p", "solution": "s", "answer": "1"}\n\n{"problem": "p"}\n', ["3"]),
        (json.dumps({"problem": "p " * 300, "solution": "s", "answer": "1"}) + "\n", ["1", "128"]),
    ],
    ids=["empty", "no JSON", "no solution", "too long"],
)
def test_problem_files(tiny, tmp_path, out, command, side, content, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    call = {
        "couple": lambda: couple(tiny, tiny.rlvr, out, **{side: path}),
        "unlearn": lambda: unlearn(tiny, out, **{side: path}),
        "evaluate": lambda: m.evaluate(model=tiny.rlvr, splits={side: path}, max_new_tokens=1, out=out),
    }[command]
    message = refused(call, "bad.jsonl", out=out)
    for word in words:
        assert word in message.lower().replace(str(tmp_path).lower(), "")


def test_a_missing_problem_file(tiny, tmp_path, out):
    refused(lambda: couple(tiny, tiny.rlvr, out, forget=tmp_path / "no.jsonl"), "no.jsonl", out=out)
    refused(lambda: unlearn(tiny, out, retain=tmp_path / "no.jsonl"), "no.jsonl", out=out)


def test_no_room_to_answer(tiny, tmp_path, out):
    """The problem fits the context of 128 tokens, but nothing fits behind it."""
    tokenizer = m.Checkpoint(tiny.rlvr).load_tokenizer()
    text = "Nothing here is about numbers at all. "
    while len(tokenizer(text + "\n")["input_ids"]) < 128:
        text += "x"
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"problem": text, "solution": "s", "answer": "1"}) + "\n")
    refused(lambda: m.evaluate(model=tiny.rlvr, splits={"f": path}, max_new_tokens=1, out=out), "context", out=out)


def test_forget_and_retain_overlap(tiny, tmp_path, out):
    both = tmp_path / "both.jsonl"
    both.write_text(tiny.retain.read_text() + tiny.forget.read_text().splitlines()[4] + "\n")
    shared = json.loads(tiny.forget.read_text().splitlines()[4])["problem"]
    message = refused(lambda: unlearn(tiny, out, retain=both), "retain", "forget", out=out)
    assert shared in message or "line" in message.lower()
    refused(lambda: unlearn(tiny, out, retain=tiny.forget), "retain", out=out)


# Settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "npoo"}, ["npoo", "npo"]),
        ({"objective": "gradient-diff"}, ["gradient-diff", "graddiff"]),
        ({"objective": "npo", "preset": "masst"}, ["masst", "mast"]),
        ({"where": r"self_attn\.Q_proj"}, ["Q_proj", "q_proj"]),
        ({"where": "("}, ["regular expression"]),
        ({"where": r"q_proj\.bias"}, ["bias"]),
        ({"names": ["model.layers.1.self_attn.q_prj.weight"]}, ["q_prj", "model.layers.1.self_attn.q_proj.weight"]),
        ({"names": ["model.layers.1.self_attn.q_proj.bias"]}, ["bias"]),
        ({"names": []}, []),
        ({"where": "q_proj", "all_parameters": True}, ["where", "all"]),
        ({"lr": math.nan}, ["learning rate"]),
        ({"lr": math.inf}, ["learning rate"]),
        ({"lr": 0.0}, ["learning rate"]),
        ({"lr": -1e-3}, ["learning rate"]),
        ({"steps": 0}, ["steps"]),
        ({"steps": -1}, ["steps"]),
        ({"batch_size": 0}, ["batch"]),
        ({"objective": "graddiff"}, ["graddiff", "retain"]),
        ({"objective": "npo", "beta": math.nan}, ["beta"]),
        ({"objective": "npo", "beta": 0.0}, ["beta"]),
    ],
    ids=str,
)
def test_unlearning_settings(tiny, out, changes, words):
    refused(lambda: unlearn(tiny, out, **changes), *words, out=out)


def test_no_selection_at_all(tiny, out):
    message = refused(
        lambda: m.unlearn(rlvr=tiny.rlvr, forget=tiny.forget, objective="ga", steps=1, lr=1e-3, out=out), out=out
    )
    for word in ("ranking", "where", "all"):
        assert word in message


@pytest.mark.parametrize("rank", [0, -1, 17, 1000])
def test_a_rank_that_does_not_fit(tiny, out, rank):
    refused(lambda: geometry(tiny, tiny.rlvr, out, rank=rank), "rank", str(rank), out=out)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"max_new_tokens": 0}, "max"),
        ({"max_new_tokens": -3}, "max"),
        ({"batch_size": 0}, "batch"),
        ({"splits": {}}, "split"),
    ],
    ids=str,
)
def test_evaluation_settings(tiny, out, changes, word):
    settings = {"model": tiny.rlvr, "splits": {"f": tiny.forget}, "max_new_tokens": 1, "progress": False} | changes
    refused(lambda: m.evaluate(out=out, **settings), word, out=out)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing(tiny, out, batch_size):
    refused(lambda: couple(tiny, tiny.rlvr, out, batch_size=batch_size), "batch", out=out)


def test_ranking_settings(tiny, tmp_path, out):
    refused(lambda: m.rank(out, top=3), "geometry", out=out)
    geometry(tiny, tiny.rlvr, out)
    refused(lambda: m.rank(out, top=3), "coupl", out=out)
    couple(tiny, tiny.rlvr, out)
    refused(lambda: m.rank(out, top=3, rule="masst"), "masst", "mast", out=out)
    refused(lambda: m.rank(out, top=9), "9", "8", out=out)
    refused(lambda: m.rank(out, top=0), "top", out=out)
    refused(lambda: m.rank(out, top=-2), "top", out=out)
    assert len(m.rank(out, top=8).selected) == 8


def test_a_ranking_of_another_checkpoint(tiny, tmp_path, out):
    tables = tmp_path / "tables"
    geometry(tiny, tiny.rlvr, tables)
    couple(tiny, tiny.rlvr, tables)
    m.rank(tables, top=2)
    ranking = tables / "ranking.parquet"
    refused(lambda: unlearn(tiny, out, rlvr=tiny.sft, ranking=ranking), "ranking", out=out)
    refused(lambda: unlearn(tiny, out, ranking=tmp_path / "no.parquet"), "no.parquet", out=out)
    refused(lambda: unlearn(tiny, out, ranking=tiny.forget), "forget.jsonl", out=out)
    refused(lambda: unlearn(tiny, out, ranking=tables / "geometry.parquet"), "geometry.parquet", out=out)
    assert len(unlearn(tiny, out, ranking=ranking).edit.after) == 2


# Output folders


def test_an_output_folder_that_is_none(tiny, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    refused(lambda: geometry(tiny, tiny.rlvr, path), "file")
    assert path.read_text() == "mine"


def test_a_run_record_that_is_damaged(tiny, out):
    geometry(tiny, tiny.rlvr, out)
    (out / "run.json").write_text('{"stages": ')
    refused(lambda: geometry(tiny, tiny.rlvr, out), "run.json", out=out)
    refused(lambda: couple(tiny, tiny.rlvr, out), "run.json", out=out)


def test_exports_never_write_over_something(tiny, tmp_path):
    edit = unlearn(tiny, None).edit
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    refused(lambda: m.apply_edit(edit, to=tiny.rlvr, out=taken), "taken", out=taken)
    refused(lambda: m.apply_edit(edit, to=tiny.rlvr, out=tiny.rlvr), "rlvr", out=tiny.rlvr)
    copy = shutil.copytree(tiny.rlvr, tmp_path / "copy")
    with pytest.raises(m.MastlensError):  # not even when told to: it would be read while it is written
        m.apply_edit(edit, to=copy, out=copy, overwrite=True)
    assert files(copy).values() != []
    assert m.Checkpoint(copy).fingerprint == m.Checkpoint(tiny.rlvr).fingerprint


# Edits


@pytest.fixture
def patch(tiny, tmp_path):
    unlearn(tiny, tmp_path / "patch", where=r"layers\.1\.self_attn\.k_proj")
    return tmp_path / "patch" / "edit.safetensors"


def test_an_edit_on_the_wrong_checkpoint(tiny, patch, out):
    refused(lambda: m.apply_edit(patch, to=tiny.sft, out=out), "sft", out=out)
    refused(lambda: m.revert_edit(patch, source=tiny.rlvr, out=out), "rlvr", out=out)
    refused(
        lambda: m.evaluate(model=tiny.sft, splits={"f": tiny.forget}, edit=patch, max_new_tokens=1, out=out),
        "edit",
        out=out,
    )
    edited = m.apply_edit(patch, to=tiny.rlvr, out=out / "edited")
    refused(lambda: m.apply_edit(patch, to=edited, out=out / "twice"), out=out)
    assert not (out / "twice").exists()


def test_an_edit_is_bound_to_the_whole_checkpoint(tiny, copy, patch, out):
    """The edited tensor is as before, but another one is not."""

    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 1

    alter(copy, change)
    refused(lambda: m.apply_edit(patch, to=copy, out=out), "copy", out=out)


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_tampered_edit(tiny, patch, out, side):
    with safe_open(patch, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors[f"{side}/{NAME}"][0, 0] += 1e-6
    save_file(tensors, patch, metadata=metadata)
    refused(lambda: m.Edit.load(patch), "edit.safetensors")
    refused(lambda: m.apply_edit(patch, to=tiny.rlvr, out=out), NAME, out=out)


@pytest.mark.parametrize("which", ["extra", "missing"])
def test_an_edit_whose_tensors_do_not_match_its_metadata(tiny, patch, out, which):
    with safe_open(patch, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if which == "extra":
        tensors["after/model.norm.weight"] = torch.zeros(32)
    else:
        del tensors[f"after/{NAME}"]
    save_file(tensors, patch, metadata=metadata)
    refused(lambda: m.apply_edit(patch, to=tiny.rlvr, out=out), "edit.safetensors", out=out)


def test_files_that_are_no_edit(tiny, patch, tmp_path, out):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(patch.read_bytes()[:-9])
    text = tmp_path / "text.safetensors"
    text.write_text("not at all")
    for path in (cut, text, tiny.rlvr / "model.safetensors", tmp_path / "none.safetensors", tmp_path):
        refused(lambda path=path: m.apply_edit(path, to=tiny.rlvr, out=out), path.name, out=out)


def test_comparing_what_does_not_belong_together(tiny, tmp_path):
    def evaluate(name, splits):
        m.evaluate(model=tiny.rlvr, splits=splits, max_new_tokens=1, out=tmp_path / name, progress=False)
        return tmp_path / name

    one = evaluate("one", {"f": tiny.forget})
    refused(lambda: m.compare(one, evaluate("two", {"f": tiny.retain})), "f")
    refused(lambda: m.compare(one, evaluate("three", {"g": tiny.forget})), "f")
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(tiny.forget.read_text().splitlines()[:5]) + "\n")
    refused(lambda: m.compare(one, evaluate("four", {"f": short})), "item")
    refused(lambda: m.compare(one, tmp_path / "nowhere"), "nowhere")
    (row,) = m.compare(one, one).table.to_dict("records")
    assert (row["n"], row["b"], row["c"], row["mcnemar_p"], row["difference"]) == (12, 0, 0, 1.0, 0.0)
