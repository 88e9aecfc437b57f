"""The edit as an object and as a file: what it refuses, scaled and composed, and exported as a complete folder."""

import dataclasses
import hashlib
import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import mastlens as m
from mastlens.checkpoints.digests import fingerprint_of, tensor_digests
from mastlens.checkpoints.folders import MANIFEST
from mastlens.cli import main
from mastlens.edits import negation
from mastlens.edits.edit import Edit
from mastlens.models.weights import swapped

Q0, K0, V1 = (f"model.layers.{where}_proj.weight" for where in ("0.self_attn.q", "0.self_attn.k", "1.self_attn.v"))
UP0 = "model.layers.0.mlp.up_proj.weight"
NORM = "model.norm.weight"
ANOTHER = "another checkpoint"


def weights(folder):
    return load_file(folder / "model.safetensors")


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def negate(tiny, rlvr=None, **changes):
    settings = {"sft": tiny.sft, "rlvr": rlvr or tiny.rlvr, "progress": False}
    return negation.negate(**(settings | changes))


def bare(edit):
    """The edit as files of before have it: without the digests of its source's tensors."""
    return dataclasses.replace(edit, digests={})


@pytest.fixture(scope="module")
def edit(tiny):
    return negate(tiny, names=[Q0, K0])


@pytest.fixture(scope="module")
def edited(edit, tiny, tmp_path_factory):
    return m.apply_edit(edit, to=tiny.rlvr, out=tmp_path_factory.mktemp("edit") / "edited")


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny.rlvr, tmp_path / "copy")


def altered(folder, *names):
    tensors = weights(folder)
    for name in names:
        tensors[name].view(-1)[0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def same(a, b):
    return (a.names, a.source) == (b.names, b.source) and all(
        bits(getattr(a, side)[name]) == bits(getattr(b, side)[name]) for name in a.names for side in ("before", "after")
    )


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


# Where it belongs


def test_the_digests_are_those_of_the_fingerprint(tiny, edit):
    digests = tensor_digests(m.Checkpoint(tiny.rlvr))
    assert edit.digests == digests
    tensor = weights(tiny.rlvr)[Q0]
    assert digests[Q0] == f"torch.float32 (32, 32) {hashlib.sha256(bits(tensor)).hexdigest()}"
    assert fingerprint_of(digests) == m.Checkpoint(tiny.rlvr).fingerprint == edit.source
    assert fingerprint_of(digests | {Q0: "else"}) != edit.source


def test_a_wrong_checkpoint_is_told_tensor_by_tensor(tiny, edit, copy, tmp_path):
    def refusal(made, folder):
        with pytest.raises(m.MastlensError) as error:
            m.apply_edit(made, to=folder, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert ANOTHER in str(error.value) and edit.source[:12] in str(error.value)
        return str(error.value)

    altered(copy, UP0, NORM)
    said = refusal(edit, copy)
    assert "All 2 edited tensors agree" in said and f"others 2 differ: {UP0}, {NORM}." in said
    said = refusal(bare(edit), copy)
    assert "All 2 edited tensors agree" in said and "does not know" in said and UP0 not in said
    altered(copy, K0)
    said = refusal(edit, copy)
    assert f"1 are not what the edit expects: {K0}." in said and f"others 2 differ: {UP0}, {NORM}." in said
    said = refusal(edit, tiny.sft)
    assert "Of 2 edited tensors 2 are not" in said and "and 19 more" in said
    said = refusal(edit, edit_of_two_layers_less(tiny, tmp_path))
    assert f"It lacks 1 of 2 edited tensors: {K0}" in said


def edit_of_two_layers_less(tiny, tmp_path):
    """A checkpoint without one of the edited tensors."""
    folder = shutil.copytree(tiny.rlvr, tmp_path / "less")
    tensors = weights(folder)
    del tensors[K0]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_only_the_edited_tensors_count_when_it_is_taken_out(tiny, edit, edited, tmp_path):
    other = altered(shutil.copytree(edited, tmp_path / "other"), UP0)
    back = weights(m.revert_edit(edit, source=other, out=tmp_path / "back"))
    assert bits(back[Q0]) == bits(weights(tiny.rlvr)[Q0])
    assert bits(back[UP0]) == bits(weights(other)[UP0]) != bits(weights(tiny.rlvr)[UP0])
    with pytest.raises(m.MastlensError, match=f"does not hold this edit.*{Q0}"):
        m.revert_edit(edit, source=tiny.rlvr, out=tmp_path / "no")


# The file


def rewritten(path, change):
    """Write the file with other metadata, the tensors as they are."""
    with safe_open(path, "pt") as stream:
        tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        metadata = json.loads(stream.metadata()["mastlens"])
    change(metadata)
    save_file(tensors, path, metadata={"mastlens": json.dumps(metadata, sort_keys=True, ensure_ascii=False)})
    return path


def test_a_file_keeps_all_and_names_itself_by_a_hash_that_anyone_can_check(edit, tmp_path):
    path = edit.save(tmp_path / "edit.safetensors")
    read = Edit.load(path)
    assert same(read, edit)
    assert (read.settings, read.digests, read.sha256) == (edit.settings, edit.digests, edit.sha256)
    with safe_open(path, "pt") as stream:
        assert hashlib.sha256(stream.metadata()["mastlens"].encode()).hexdigest() == edit.sha256
    assert dataclasses.replace(edit, settings={"seed": 1}).sha256 != edit.sha256
    old = Edit.load(bare(edit).save(tmp_path / "old.safetensors"))
    assert same(old, edit) and not old.digests and old.sha256 == bare(edit).sha256


def test_the_digests_take_little_room(edit, tmp_path):
    sizes = [made.save(tmp_path / "e.safetensors").stat().st_size for made in (edit, bare(edit))]
    assert sizes[0] - sizes[1] < 200 * len(edit.digests)


@pytest.mark.parametrize("which", ["digest", "source", "edited"])
def test_tampered_digests_are_found(edit, tiny, tmp_path, capsys, which):
    def change(metadata):
        if which == "digest":
            metadata["tensors"][UP0] = metadata["tensors"][NORM]
        elif which == "source":
            metadata["source"] = "0" * 64
        else:
            metadata["tensors"][Q0] = metadata["tensors"][K0]
            metadata["source"] = fingerprint_of(metadata["tensors"])

    path = rewritten(edit.save(tmp_path / "edit.safetensors"), change)
    code, out, err = run(capsys, "edit", "apply", path, "--to", tiny.rlvr, "--out", tmp_path / "out")
    assert (code, out) == (2, "") and "tampered" in err
    assert not (tmp_path / "out").exists()


def test_damage_and_wrong_checkpoints_exit_with_2(edit, tiny, tmp_path, capsys):
    path = edit.save(tmp_path / "edit.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-5])
    flipped = tmp_path / "flipped.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    flipped.write_bytes(data)
    out = tmp_path / "out"
    for given, to, said in (
        (cut, tiny.rlvr, "truncated"),
        (flipped, tiny.rlvr, "tampered"),
        (tmp_path / "no.safetensors", tiny.rlvr, "There is no edit file"),
        (tiny.rlvr / "model.safetensors", tiny.rlvr, "is not an edit"),
        (path, tiny.sft, ANOTHER),
    ):
        for arguments in (["apply", given, "--to", to], ["scale", given, "--by", 2], ["compose", given, given]):
            if arguments[0] != "apply" and given == path:
                continue
            code, told, err = run(capsys, "edit", *arguments, "--out", out)
            assert (code, told) == (2, "") and said in err
            assert not out.exists()
    assert run(capsys, "edit", "apply", path, "--to", tiny.rlvr, "--out", out)[0] == 0


def test_show(edit, tmp_path, capsys):
    path = edit.save(tmp_path / "edit.safetensors")
    code, text, _ = run(capsys, "edit", "show", path)
    assert code == 0
    assert all(word in text for word in (edit.source, edit.sha256, Q0, K0, "32 x 32", "negated increment"))
    told = json.loads(run(capsys, "edit", "show", path, "--json")[1])
    assert [row["name"] for row in told["tensors"]] == edit.names
    assert told["settings"]["selection"] == [K0, Q0]
    change = (edit.after[Q0].double() - edit.before[Q0].double()).norm()
    assert {row["name"]: row["change_norm"] for row in told["tensors"]}[Q0] == pytest.approx(float(change), rel=1e-12)


# Scaled


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("by", [0.5, 3.0, -1.0, 0.1])
def test_a_scaled_edit_is_computed_wide_and_rounded_once(dtype, by):
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(64, 32, generator=generator).to(dtype)
    before[0, :2] = torch.tensor([-0.0, 0.0], dtype=dtype)
    after = before.clone()
    after[32:] = torch.randn(32, 32, generator=generator).to(dtype)
    after[0, 0] = 0.0  # equal to -0.0, not the same bits
    made = Edit({"w": before}, {"w": after}, "source", {"seed": 3}).scale(by)
    assert made.after["w"].dtype == dtype
    a, b = before[32:].double().numpy(), after[32:].double().numpy()
    assert torch.equal(made.after["w"][32:], torch.from_numpy(a + by * (b - a)).to(dtype))
    assert bits(made.after["w"][:32]) == bits(before[:32])  # what the edit leaves stays, signed zeros too
    assert bits(made.before["w"]) == bits(before) and made.settings == {"seed": 3, "scaled_by": [by]}
    assert bits(Edit({"w": before}, {"w": after}, "source", {}).scale(1.0).after["w"]) == bits(after)


def test_nothing_is_left_at_0_and_what_overflows_is_refused(edit):
    assert same(edit.scale(1.0), edit)
    assert edit.scale(0.5).scale(2.0).settings["scaled_by"] == [0.5, 2.0]
    with pytest.raises(m.MastlensError, match="edit is empty"):
        edit.scale(0.0)
    with pytest.raises(m.MastlensError, match="edit is empty"):
        edit.scale(1e-12)  # below what float32 resolves
    for by in (float("nan"), float("inf")):
        with pytest.raises(m.MastlensError, match="finite number"):
            edit.scale(by)
    with pytest.raises(m.MastlensError, match=f"{K0}|{Q0} does not fit float32"):
        edit.scale(1e300)


def test_a_head_scaled_leaves_the_others(tiny):
    made = negate(tiny, names=[f"{Q0}#h1"]).scale(0.3)
    before = weights(tiny.rlvr)[Q0]
    assert bits(made.after[Q0][:8]) == bits(before[:8]) and bits(made.after[Q0][16:]) == bits(before[16:])
    assert not torch.equal(made.after[Q0][8:16], before[8:16])


def test_scale_and_compose_on_the_command_line(tiny, edit, edited, tmp_path, capsys):
    path, out = edit.save(tmp_path / "edit.safetensors"), tmp_path / "half.safetensors"
    code, told, _ = run(capsys, "edit", "scale", path, "--by", 0.5, "--out", out, "--json")
    assert code == 0 and json.loads(told)["tensors"] == 2
    assert same(Edit.load(out), edit.scale(0.5))
    code, told, err = run(capsys, "edit", "scale", path, "--by", 2, "--out", out)
    assert (code, told) == (2, "") and "--overwrite" in err
    assert same(Edit.load(out), edit.scale(0.5))
    assert run(capsys, "edit", "scale", path, "--by", -2, "--out", out, "--overwrite")[0] == 0
    assert same(Edit.load(out), edit.scale(-2.0))
    for by, said in ((0, "edit is empty"), ("nan", "finite number")):
        code, _, err = run(capsys, "edit", "scale", path, "--by", by, "--out", tmp_path / "none")
        assert code == 2 and said in err and not (tmp_path / "none").exists()
    code, _, err = run(capsys, "edit", "scale", path, "--by", 2, "--out", tmp_path)
    assert code == 2 and "is a folder" in err

    second = negate(tiny, edited, names=[V1]).save(tmp_path / "second.safetensors")
    both = tmp_path / "both.safetensors"
    assert run(capsys, "edit", "compose", path, second, "--out", both)[0] == 0
    assert Edit.load(both).names == [*edit.names, V1]
    code, _, err = run(capsys, "edit", "compose", second, path, "--out", tmp_path / "none")
    assert code == 2 and "not made on what the first one gives" in err and not (tmp_path / "none").exists()


# Composed


def chain(first, second, source, folder):
    """What applying one after the other gives, on disk."""
    middle = m.apply_edit(first, to=source, out=folder / "middle")
    return m.Checkpoint(m.apply_edit(second, to=middle, out=folder / "last"))


@pytest.mark.parametrize("names", [[Q0, V1], [V1], [Q0, K0]], ids=["some shared", "none shared", "all shared"])
@pytest.mark.parametrize("known", ["both", "first", "second"])
def test_two_edits_made_one_give_what_one_after_the_other_gives(tiny, edit, edited, tmp_path, names, known):
    base = {"part": "principal", "base": tiny.base, "rank": 4, "scale": -2.0}
    half = edit.scale(0.5)
    middle = m.apply_edit(half, to=tiny.rlvr, out=tmp_path / "half")
    second = negate(tiny, middle, names=names, **base)
    one = (half if known != "second" else bare(half)).compose(second if known != "first" else bare(second))
    last = chain(half, second, tiny.rlvr, tmp_path)
    made = m.Checkpoint(m.apply_edit(one, to=tiny.rlvr, out=tmp_path / "at once"))
    assert made.fingerprint == last.fingerprint != m.Checkpoint(tiny.rlvr).fingerprint
    assert set(one.names) == {*edit.names, *names}
    assert one.digests == edit.digests and one.source == edit.source
    assert one.settings["edits"] == [dict(half.settings), dict(second.settings)]
    back = m.revert_edit(one, source=made, out=tmp_path / "back")
    assert m.Checkpoint(back).fingerprint == m.Checkpoint(tiny.rlvr).fingerprint


def test_independent_edits_of_one_source_are_merged_either_way_round(tiny, edit, tmp_path):
    other = negate(tiny, names=[V1, UP0], scale=0.5)
    one, round_ = edit.compose(other), other.compose(edit)
    assert set(one.names) == set(round_.names) == {Q0, K0, V1, UP0}
    assert all(bits(one.after[name]) == bits(round_.after[name]) for name in one.names)
    made = weights(m.apply_edit(one, to=tiny.rlvr, out=tmp_path / "made"))
    before = weights(tiny.rlvr)
    for name, tensor in made.items():
        wanted = {**before, **edit.after, **other.after}[name]
        assert bits(tensor) == bits(wanted)


def test_edits_that_do_not_fit_are_refused_with_their_tensors(tiny, edit, edited, copy):
    with pytest.raises(m.MastlensError, match=f"both change 1 tensors: {Q0}"):
        edit.compose(negate(tiny, names=[Q0, V1], scale=0.5))
    second = negate(tiny, edited, names=[V1, UP0])
    with pytest.raises(m.MastlensError, match="not made on what the first one gives"):
        second.compose(edit)
    elsewhere = negate(tiny, altered(copy, NORM), names=[V1])  # made on neither
    with pytest.raises(m.MastlensError, match=f"differ in 3 tensors: {K0}, {Q0}, {NORM}"):
        edit.compose(elsewhere)
    with pytest.raises(m.MastlensError, match="not made on what the first one gives"):
        bare(edit).compose(elsewhere)
    with pytest.raises(m.MastlensError, match="nothing says"):
        bare(edit).compose(bare(second))
    stronger = negate(tiny, edited, names=[UP0])
    shared = dataclasses.replace(stronger, before={Q0: edit.before[Q0]}, after={Q0: edit.after[Q0]}, digests={})
    with pytest.raises(m.MastlensError, match=f"1 are not what the second expects: {Q0}"):
        edit.compose(shared)


def test_without_digests_the_checkpoint_has_the_last_word(tiny, edit, edited, tmp_path):
    second = negate(tiny, edited, names=[V1])
    undone = dataclasses.replace(second, before=second.before | {Q0: edit.after[Q0]}, digests={})
    undone = dataclasses.replace(undone, after=second.after | {Q0: edit.before[Q0]})
    one = bare(edit).compose(undone)
    assert sorted(one.names) == [K0, V1]  # what comes out as it was is no part of the edit
    assert m.apply_edit(one, to=tiny.rlvr, out=tmp_path / "made").is_dir()
    wrong = dataclasses.replace(undone, before=undone.before | {V1: undone.before[V1] + 1})
    with pytest.raises(m.MastlensError, match=V1):
        m.apply_edit(bare(edit).compose(wrong), to=tiny.rlvr, out=tmp_path / "no")


def test_an_edit_and_its_undoing_are_no_edit(tiny, edit, edited):
    undoing = Edit(edit.after, edit.before, m.Checkpoint(edited).fingerprint, {})
    with pytest.raises(m.MastlensError, match="edit is empty"):
        edit.compose(undoing)


# Exported


@torch.no_grad()
def test_the_folder_is_complete_and_its_logits_are_those_of_the_model_in_memory(tiny, edit, edited):
    loaded = AutoModelForCausalLM.from_pretrained(edited)
    tokenizer = AutoTokenizer.from_pretrained(edited)
    assert GenerationConfig.from_pretrained(edited).eos_token_id == 0
    ids = tokenizer("What is 3 + 4?", return_tensors="pt").input_ids
    model = m.Checkpoint(tiny.rlvr).load_model()
    plain = model(ids).logits
    with swapped(model, edit.after):
        inside = model(ids).logits
    assert bits(loaded.eval()(ids).logits) == bits(inside) != bits(plain)
    expected = {file.name for file in tiny.rlvr.iterdir()} | {"README.md", MANIFEST}
    assert {file.name for file in edited.iterdir()} == expected


def test_shards_and_their_index_are_written_again(tiny, edit, tmp_path):
    source = tmp_path / "source"
    AutoModelForCausalLM.from_pretrained(tiny.rlvr).save_pretrained(source, max_shard_size="20KB")
    index = json.loads((source / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    out = m.apply_edit(edit, to=source, out=tmp_path / "out")
    assert json.loads((out / "model.safetensors.index.json").read_text()) == index
    found = dict(AutoModelForCausalLM.from_pretrained(out).named_parameters())
    for name, tensor in {**weights(tiny.rlvr), **edit.after}.items():
        assert bits(found[name].detach()) == bits(tensor)


def test_the_card_says_what_was_done(tiny, edited, edit, tmp_path):
    made = m.unlearn(
        rlvr=tiny.rlvr, forget=tiny.forget, objective="ga", steps=1, lr=1e-3, seed=7, names=[f"{Q0}#h1", V1],
        progress=False,
    ).edit  # fmt: skip
    text = (m.apply_edit(made, to=tiny.rlvr, out=tmp_path / "a") / "README.md").read_text()
    problems = hashlib.sha256(tiny.forget.read_bytes()).hexdigest()
    for word in (made.source, made.sha256, f"`{Q0}#h1`", f"`{V1}`", "| seed | 7 |", '"lr": 0.001', problems, "`ga`"):
        assert word in text, word
    assert "2 tensors or parts of tensors, 1 of them single heads" in text and "| tensors changed | 2 of 26 |" in text
    assert "mastlens edit revert" in text
    assert str(tiny.rlvr.parent) not in text and "`rlvr`" in text  # a folder's name, not where it lies
    data = ModelCard(text).data
    assert data.library_name == "transformers" and "base_model" not in data.to_dict()
    assert {"mastlens", "unlearning"} <= set(data.tags)
    again = m.apply_edit(made.save(tmp_path / "e.safetensors"), to=tiny.rlvr, out=tmp_path / "b") / "README.md"
    assert again.read_text() == text


def test_the_card_names_a_base_on_the_hub_and_takes_over_its_licence(tiny, edit, copy, monkeypatch):
    from mastlens.edits.model_card import write_card

    (copy / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\ntags: [theirs]\n---\n# Theirs\n")
    checkpoint = m.Checkpoint(copy)
    monkeypatch.setattr(checkpoint, "spec", "someone/some-model@abc123")
    data = ModelCard(write_card(edit, checkpoint)).data
    assert (data.base_model, data.license, data.language) == ("someone/some-model", "apache-2.0", "en")
    assert "theirs" not in data.tags
    (copy / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    assert ModelCard(write_card(edit, checkpoint)).data.license is None


def test_what_an_edit_file_says_is_not_markup(tiny, edit):
    from mastlens.edits.model_card import write_card

    hostile = "x` |\n\n<script>alert(1)</script>\n```\n# Title"
    settings = {"kind": hostile, "selection": [hostile], "note": hostile}
    text = write_card(dataclasses.replace(edit, settings=settings), m.Checkpoint(tiny.rlvr))
    lines = text.splitlines()
    assert "# Title" not in lines and lines.count("```") == 1 and lines.count("```json") == 1
    assert all("<script>" not in line or line.count("`") == 2 or line.startswith("  ") for line in lines)


def test_cards_of_the_source_are_kept_and_come_back(tiny, edit, copy, tmp_path):
    (copy / "README.md").write_text("# Theirs\n")
    once = m.apply_edit(edit, to=copy, out=tmp_path / "once")
    second = negate(tiny, once, names=[V1])
    twice = m.apply_edit(second, to=once, out=tmp_path / "twice")
    assert (once / "README.source.md").read_text() == "# Theirs\n"
    assert (twice / "README.source.md").read_text() == (once / "README.md").read_text()
    assert (twice / "README.source.source.md").read_text() == "# Theirs\n"
    back = m.revert_edit(second, source=twice, out=tmp_path / "back")
    assert files(back) == files(once)
    source = m.revert_edit(edit, source=back, out=tmp_path / "source")
    assert files(source) == files(copy)


def test_a_card_that_is_not_the_edits_stays(edit, edited, tmp_path):
    own = shutil.copytree(edited, tmp_path / "own")
    (own / "README.md").write_text("# Mine\n")
    back = m.revert_edit(edit, source=own, out=tmp_path / "back")
    assert (back / "README.md").read_text() == "# Mine\n"


def files(folder):
    """Name to content of everything; of the weights the tensors, since a header may order them otherwise."""
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".safetensors"}
    found.pop(MANIFEST, None)  # what was written there, for overwriting
    return found | {name: bits(tensor) for name, tensor in weights(folder).items()}
