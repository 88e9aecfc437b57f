"""Every attack on a tiny edit: its tables, its figures, what it leaves untouched, how it refuses."""

import hashlib
import json
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch

from mastlens.attacks import ATTACKS, Attack, attack, describe_attacks
from mastlens.attacks.methods.relearn_forget import HELD_OUT
from mastlens.attacks.reinforcing import reinforce
from mastlens.attacks.running import FILE, ITEMS, TENSORS
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.cli import main
from mastlens.decoding.generation import generate
from mastlens.decoding.graders import Mathematics
from mastlens.edits.edit import Edit
from mastlens.errors import MastlensError
from mastlens.models.likelihood import sequence_logprobs
from mastlens.models.weights import swapped
from mastlens.plots.tables import figure_table
from mastlens.problems.encoding import encode_problem
from mastlens.problems.reading import read_problems
from mastlens.runs.settings import declared

from ..conftest import write_problems

NAMES = ["model.layers.0.self_attn.v_proj.weight", "model.layers.1.self_attn.o_proj.weight"]
CONTRACT = ["attack", "variant", "model", "step", "split", "n", "correct", "accuracy", "ci_low", "ci_high"]
CONTRACT += ["logprob_solution", "recovered", "recovered_beyond_control"]


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory):
    """An edit of two tensors, and problems to train on that are not tested."""
    folder = tmp_path_factory.mktemp("attack")
    checkpoint = Checkpoint(tiny.rlvr)
    before = {name: checkpoint.tensor(name) for name in NAMES}
    step = torch.Generator().manual_seed(1)
    after = {name: t + 0.05 * torch.randn(t.shape, generator=step) for name, t in before.items()}
    edit = Edit(before, after, checkpoint.fingerprint, {}).save(folder / "edit.safetensors")
    return edit, write_problems(folder / "train.jsonl", first=30, count=8)


def run(name, tiny, files, **changes) -> Attack:
    edit, train = files
    settings = {"edit": edit, "control": tiny.sft, "splits": {"forget": tiny.forget}, "limit": 3}
    settings |= {"max_new_tokens": 4, "progress": False, "steps": 2, "lr": 1e-2, "train_batch_size": 2}
    settings |= {"train": train, "shots": [1], "formats": ["int8", "nf4"], "ks": [2]} | changes
    return attack(name, model=tiny.rlvr, **settings)


def digests(*folders):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for f in folders for p in sorted(f.glob("*")) if p.is_file()}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "relearn-rlvr"])
def test_tables_and_what_stays(name, tiny, files, tmp_path):
    before = digests(tiny.rlvr, tiny.sft, files[0].parent)
    result = run(name, tiny, files, out=tmp_path / "out")
    assert digests(tiny.rlvr, tiny.sft, files[0].parent) == before
    table, items = (pd.read_parquet(tmp_path / "out" / file) for file in (FILE, ITEMS))
    assert set(CONTRACT) <= set(table)
    assert {"attack", "variant", "model", "step", "split", "item", "correct"} <= set(items)
    assert set(table["attack"]) == {name}
    assert list(dict.fromkeys(table["model"])) == ["edited", "source", "control"]
    splits = {"forget", HELD_OUT} if name == "relearn-forget" else {"forget"}
    assert set(table["split"]) == splits
    assert (table["n"] == 3).all()
    assert len(items) == table["n"].sum()
    grouped = items.groupby(["variant", "model", "step", "split"])["correct"].sum()
    assert table["baseline"].any() == (name != "probe")
    for row in table.to_dict("records"):
        assert row["correct"] == grouped[(row["variant"], row["model"], row["step"], row["split"])]
        assert 0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1
    steps = {0, 1, 2} if ATTACKS[name].curve else {0}
    assert set(table["step"]) == steps
    fig = result.plot()
    assert len(figure_table(fig)) == len(table)
    assert (tmp_path / "out" / TENSORS).is_file() == (name == "quantise")
    assert set(ATTACKS[name].columns) <= {*table, *result.tensors}
    if name == "quantise":
        assert set(result.tensors["name"]) == {*NAMES, "all edited tensors"}
        assert len(figure_table(result.plot_tensors())) == len(result.tensors)


def test_baselines_are_the_plain_evaluation_of_each_model(tiny, files):
    items = run("quantise", tiny, files).items
    edit, problems = Edit.load(files[0]), read_problems(tiny.forget)[:3]
    for role, path, tensors in (
        ("edited", tiny.rlvr, edit.after),
        ("source", tiny.rlvr, {}),
        ("control", tiny.sft, {}),
    ):
        checkpoint = Checkpoint(path)
        model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
        encoded = [encode_problem(p, tokenizer) for p in problems]
        with swapped(model, tensors):
            texts = [r.text for r in generate(model, tokenizer, [e.prompt for e in encoded], max_new_tokens=4)]
            sums, _ = sequence_logprobs(model, encoded)
        found = items[(items["model"] == role) & items["baseline"]]
        assert found["response"].tolist() == texts
        assert found["correct"].tolist() == [
            Mathematics().grade(t, p.answer).correct for t, p in zip(texts, problems, strict=True)
        ]
        assert found["logprob_solution"].tolist() == pytest.approx(sums.tolist(), rel=1e-5)
    sums = items.groupby(["model", "variant"])["logprob_solution"].sum().unstack()
    assert (sums["nf4"] != sums["unquantised"]).all()  # and the attack does something to each


def test_what_is_right_is_the_graders_to_say(tiny, files, tmp_path):
    (tmp_path / "all.py").write_text("def right(said, gold):\n    return True\n")
    plain = run("quantise", tiny, files, formats=["int8"])
    graded = run("quantise", tiny, files, formats=["int8"], grader=f"{tmp_path / 'all.py'}:right")
    assert graded.items["correct"].all()
    assert not plain.items["correct"].all()
    same = ["response", "logprob_solution", "truncated"]
    assert graded.items[same].equals(plain.items[same])
    assert graded.settings["grader"]["function"] == "right"
    assert "grader" not in plain.settings  # as in records from before there were others


def test_every_model_is_attacked_from_its_own_weights(tiny, files):
    """The edited model and the source share one loaded model: neither may start where the other ended."""
    together = run("relearn-retain", tiny, files, control=None).items
    alone = run("relearn-retain", tiny, files, edit=None, control=None).items  # --model as it stands: the source
    source = together[together["model"] == "source"].reset_index(drop=True)
    assert source.drop(columns="model").equals(alone.drop(columns="model"))
    edited = together[together["model"] == "edited"].reset_index(drop=True)
    assert not np.allclose(edited["logprob_solution"], source["logprob_solution"])


def test_equal_runs_are_equal_bytes_and_a_run_is_remembered(tiny, files, tmp_path):
    for folder in ("a", "b"):
        run("relearn-forget", tiny, files, control=None, out=tmp_path / folder)
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()
    assert (tmp_path / "a" / ITEMS).read_bytes() == (tmp_path / "b" / ITEMS).read_bytes()
    other = run("relearn-forget", tiny, files, control=None, seed=5)
    first = run("relearn-forget", tiny, files, control=None, out=tmp_path / "a")
    assert first.table.equals(pd.read_parquet(tmp_path / "a" / FILE))
    assert not other.items["logprob_solution"].equals(first.items["logprob_solution"])
    with pytest.raises(MastlensError, match="--overwrite"):
        run("quantise", tiny, files, control=None, out=tmp_path / "a")


def test_an_edited_folder_with_its_source_is_the_edit(tiny, files, tmp_path):
    from mastlens.edits.applying import apply_edit

    apply_edit(files[0], to=tiny.rlvr, out=tmp_path / "edited")
    one = run("quantise", tiny, files, control=None)
    settings = {"splits": {"forget": tiny.forget}, "limit": 3, "max_new_tokens": 4, "formats": ["int8", "nf4"]}
    other = attack("quantise", model=tmp_path / "edited", source=tiny.rlvr, progress=False, **settings)
    assert other.table.equals(one.table)
    assert other.tensors.empty


@pytest.mark.slow
def test_rewards_move_the_model_and_it_comes_back(tiny, files, tmp_path):
    pytest.importorskip("trl")
    checkpoint = Checkpoint(tiny.rlvr)
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen = []
    settings = {"lr": 1e-2, "steps": 2, "batch_size": 2, "max_new_tokens": 4, "after_step": seen.append}
    reinforce(model, tokenizer, read_problems(files[1]), **settings)
    assert seen == [1, 2]
    assert not model.training
    assert set(before) == set(dict(model.named_parameters()))
    on_disk = digests(tiny.rlvr)
    first = run("relearn-rlvr", tiny, files, control=None)
    again = run("relearn-rlvr", tiny, files, control=None, out=tmp_path / "out")
    assert set(first.table["step"]) == {0, 1, 2}
    assert first.items.equals(again.items)
    assert digests(tiny.rlvr) == on_disk


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("relearn", {}, "relearn-forget"),
        ("relearn-retain", {"train": None}, "--train"),
        ("relearn-retain", {"train": "FORGET"}, "also in the split"),
        ("prompts", {"train": "FORGET"}, "also in the split"),
        ("relearn-forget", {"lr": 0.0}, "--lr"),
        ("relearn-forget", {"steps": 0}, "--steps"),
        ("quantise", {"formats": ["nf3"]}, "'nf4'"),
        ("quantise", {"splits": {}}, "--split"),
        ("quantise", {"limit": 0}, "--limit"),
        ("quantise", {"source": "SOURCE"}, "not both"),
        ("samples", {"ks": [1, 4]}, "at least 2 responses"),
        ("samples", {"ks": [4], "draws": 3}, "--draws"),
        ("samples", {"temperature": 0.0}, "--temperature"),
        ("prune", {"sparsity": [1.0]}, "--sparsity"),
        ("interpolate", {"towards": [0.0]}, "--towards"),
        ("interpolate", {"edit": None}, "--source"),
        ("soft-prompt", {"vectors": 0}, "--vectors"),
        ("probe", {"train": None}, "--train"),
        ("probe", {"penalty": 0.0}, "--penalty"),
    ],
)
def test_a_users_mistake_is_said_before_anything_is_written(name, changes, said, tiny, files, tmp_path):
    places = {"FORGET": tiny.forget, "SOURCE": tiny.base}
    changes = {key: places.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(MastlensError, match=said):
        run(name, tiny, files, out=tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_command(tiny, files, tmp_path, capsys):
    given = ["attack", "quantise", "--model", tiny.rlvr, "--edit", files[0], "--control", tiny.sft, "--limit", 2]
    given += ["--split", f"forget={tiny.forget}", "--format", "nf4", "--max-new-tokens", 4, "--out", tmp_path / "out"]
    assert main([str(one) for one in [*given, "--json"]]) == 0
    summary = json.loads(capsys.readouterr().out)
    table = pd.read_parquet(tmp_path / "out" / FILE)
    assert len(summary["rows"]) == len(table) == 2 * 3
    assert summary["codes"][0]["format"] == "nf4"
    assert main([str(one) for one in given]) == 0  # nothing is left to do
    assert "kept_along_edit" in capsys.readouterr().out


def test_the_help_is_of_the_attacks_themselves(capsys):
    with pytest.raises(SystemExit):
        main(["attack", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, method in ATTACKS.items():
        assert f"{name}: {method.summary[:40]}" in said
        for item in fields(method):
            assert declared(item).help in said
    assert "constant (default relearn-forget 1e-05; relearn-retain 1e-05; relearn-rlvr 1e-06; soft-prompt 0.01)" in said


def test_what_an_attack_says_of_itself():
    table = describe_attacks().set_index("attack")
    assert set(table.index) == set(ATTACKS)
    assert (table["summary"] != "").all()
    assert (table["source"] != "").all()
    assert table.loc["relearn-rlvr", "settings"] == "steps=64, lr=1e-06, train_batch_size=8"
    for method in ATTACKS.values():
        assert set(method.needs) <= set(method.uses) <= {"train", "retain"}
        assert method().record().keys() == {item.name for item in fields(method)}
