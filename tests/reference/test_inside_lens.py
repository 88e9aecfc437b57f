"""Tuned lenses: loaded ones against plain PyTorch, trained ones against what was planted, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mastlens
from mastlens.analysis.inside.lenses import TunedLens, read_lenses
from mastlens.analysis.inside.settings import InsideDepartSettings
from mastlens.analysis.inside.tuning import HELD, STEPS, lesson, train_lens, train_translator
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import Head
from mastlens.problems.encoding import EncodedProblem
from tests.columns import check_table
from tests.conftest import run_command
from tests.lineages import write_lineage, write_problems
from tests.reference.plain import encode_file, load_model

WIDTH, LAYERS = 32, 2
NULL = ["tuned_kl_null", "tuned_kl_p"]
ERRORS = [f"{lens}_error_{when}" for lens in ("lens", "tuned") for when in ("before", "after")]


def write_lens(folder, parts, *, pickled=True, width=WIDTH, layers=LAYERS, **config):
    """Write a lens as the package tuned-lens does."""
    folder.mkdir()
    named = {
        f"{i}.{name}": part for i, both in enumerate(parts) for name, part in zip(("weight", "bias"), both, strict=True)
    }
    shape = {"base_model_name_or_path": "somebody/some-model", "d_model": width, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps({**shape, "bias": True, "lens_type": "linear_tuned_lens", **config}))
    torch.save(named, folder / "params.pt") if pickled else save_file(named, folder / "params.safetensors")
    return folder


def drawn(scale, width=WIDTH, layers=LAYERS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [((width, width), (width,)) for _ in range(layers)]
    return [tuple(scale * torch.randn(shape, generator=generator) for shape in both) for both in shapes]


@pytest.fixture(scope="module", autouse=True)
def _fewer_steps():
    """Enough to see a lens learn; what is planted is found in as many as there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mastlens.analysis.inside.tuning.STEPS", 60)
        yield


@pytest.fixture(scope="module")
def ask(tiny):
    def asked(lenses, **changes):
        given = {"sft": tiny.sft, "rlvr": tiny.rlvr, "splits": {"forget": tiny.forget}, "draws": 2, "dtype": "float32",
                 "progress": False}  # fmt: skip
        return mastlens.inside_depart(tuned_lens=lenses, **given | changes)

    return asked


def log_softmax(logits):
    return logits.double().log_softmax(dim=-1)


def kl(one, other):
    return (one.exp() * (one - other)).sum(-1)


@torch.no_grad()
def by_hand(folder, encoded, parts):
    """What the model says, and what logit lens and tuned lens read off embedding and first layer, from hooks alone."""
    model = load_model(folder)
    said, plain, tuned = [], ([], []), ([], [])
    for prompt, solution in encoded:
        kept = []
        hooks = [
            module.register_forward_hook(lambda m, a, out, kept=kept: kept.append(out[0]))
            for module in (model.model.embed_tokens, model.model.layers[0])
        ]
        logits = model(input_ids=torch.tensor([prompt + solution]), use_cache=False).logits[0]
        for hook in hooks:
            hook.remove()
        at = slice(len(prompt) - 1, len(prompt) + len(solution) - 1)
        said.append(log_softmax(logits[at]))
        for i, h in enumerate(kept):
            weight, bias = parts[i]
            plain[i].append(log_softmax(model.lm_head(model.model.norm(h[at]))))
            tuned[i].append(log_softmax(model.lm_head(model.model.norm(h[at] + h[at] @ weight.T + bias))))
    return torch.cat(said), [torch.cat(one) for one in plain], [torch.cat(one) for one in tuned]


def test_a_loaded_lens_reads_as_plain_pytorch_does(ask, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mastlens.analysis.inside.departing._check_lenses", lambda *_: None
    )  # random ones are no lenses
    parts = drawn(0.05), drawn(0.05, seed=1)
    folders = [write_lens(tmp_path / f"{i}", each, pickled=i == 0) for i, each in enumerate(parts)]
    encoded = encode_file(tiny.forget, tiny.rlvr)
    for lenses, used in ((folders[:1], (parts[0], parts[0])), (folders, parts)):
        found = ask(lenses).table
        rows = found.set_index(["site", "layer"])
        (old, old_plain, old_tuned), (new, new_plain, new_tuned) = (
            by_hand(folder, encoded, each) for folder, each in zip((tiny.sft, tiny.rlvr), used, strict=True)
        )
        for i, place in enumerate([("embed", -1), ("resid_post", 0)]):
            row = rows.loc[place]
            expected = [kl(old, old_plain[i]), kl(new, new_plain[i]), kl(old, old_tuned[i]), kl(new, new_tuned[i])]
            assert row[ERRORS].tolist() == pytest.approx([float(one.mean()) for one in expected], rel=1e-3)
            assert row["tuned_kl"] == pytest.approx(float(kl(old_tuned[i], new_tuned[i]).mean()), rel=1e-3)
            assert row["lens_kl"] == pytest.approx(float(kl(old_plain[i], new_plain[i]).mean()), rel=1e-3)
            assert row[NULL].notna().all() == (len(lenses) == 1)  # two lenses: random changes have none of their own
        last = rows.loc[("resid_post", 1)]
        assert last["tuned_kl"] == last["lens_kl"] == pytest.approx(rows.loc[("logits", -1), "kl"], rel=1e-6)
        assert last[ERRORS].abs().max() < 1e-9
        assert rows.loc[("logits", -1), ["tuned_kl", *ERRORS]].isna().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lens_of_noughts_is_the_logit_lens_bit_for_bit(ask, tmp_path, dtype):
    nothing = [(torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH))] * LAYERS
    table = ask([write_lens(tmp_path / "lens", nothing)], dtype=dtype).table
    stream = table[table["site"] != "logits"]
    for column in ("", "_null", "_p"):
        assert stream[f"tuned_kl{column}"].equals(stream[f"lens_kl{column}"].rename(f"tuned_kl{column}"))
    assert stream["tuned_error_after"].tolist() == stream["lens_error_after"].tolist()
    assert (stream["lens_error_before"].iloc[:2] > 0.01).all()
    assert (stream["tuned_kl_null"] > 0).all()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A lineage whose layers turn what they are given, and problems enough to train a lens on."""
    folder = tmp_path_factory.mktemp("many")
    return write_lineage(folder / "lineage"), write_problems(folder / "many.jsonl", first=11, count=40)


@pytest.fixture(scope="module")
def trained(many, tmp_path_factory):
    tiny, texts = many
    out = tmp_path_factory.mktemp("out")
    given = {"sft": tiny.sft, "rlvr": tiny.rlvr, "splits": {"f": texts}, "draws": 2, "dtype": "float32",
             "progress": False, "out": out}  # fmt: skip
    return mastlens.inside_depart(tuned_lens=(), **given), given


def test_training_brings_what_is_read_nearer_to_what_is_said_of_texts_held_out(trained, many):
    found, given = trained
    stream = found.table[found.table["site"] != "logits"].reset_index(drop=True)
    for when in ("before", "after"):
        tuned, plain = stream[f"tuned_error_{when}"], stream[f"lens_error_{when}"]
        assert (tuned[:2] < 0.7 * plain[:2]).all()
        assert tuned[2] == plain[2] < 1e-9
    assert stream[NULL].notna().all().all()  # each random change through a lens of its own, trained alike
    assert "trained on the other texts" in found.card().verdict
    whole = mastlens.inside_depart(**{**given, "out": None, "lens": True}).table
    held = lesson({"f": _encoded(many)}, most=2**14, seed=0).held["f"]
    assert len(held) == 10
    tokens = [len(solution) for _, solution in encode_file(many[1], many[0].rlvr)]
    assert (found.table["tokens"] == sum(tokens[i] for i in held)).all()
    assert (whole["tokens"] == sum(tokens)).all()
    assert set(found.forks["item"]) <= set(held)


def _encoded(many):
    return [EncodedProblem(tuple(p), tuple(s)) for p, s in encode_file(many[1], many[0].rlvr)]


def test_lenses_that_were_trained_are_kept_known_again_and_can_be_given(trained, many, ask):
    found, given = trained
    out = given["out"]
    check_table(out / "inside_depart.parquet", "inside depart")
    before = (out / "inside_lenses.safetensors").read_bytes()
    again = mastlens.inside_depart(tuned_lens=(), **given)
    assert again.table.equals(found.table)
    assert all(torch.equal(again.lenses[name], part) for name, part in found.lenses.items())
    assert (out / "inside_lenses.safetensors").read_bytes() == before
    assert {name.split("/")[0] for name in found.lenses} == {"sft", "rlvr"}
    assert len(found.lenses) == 2 * 2 * LAYERS
    sft, rlvr = read_lenses([out / "inside_lenses.safetensors"])
    assert torch.equal(sft.weights[1], found.lenses["sft/1.weight"])
    assert not torch.equal(sft.weights, rlvr.weights)
    all_texts = ask(
        (out / "inside_lenses.safetensors",), sft=many[0].sft, rlvr=many[0].rlvr, splits={"f": many[1]}
    ).table
    assert (all_texts["tokens"] > found.table["tokens"]).all()
    assert (all_texts["tuned_error_before"][:2] < 0.7 * all_texts["lens_error_before"][:2]).all()
    with pytest.raises(MastlensError, match="tuned_lens"):
        mastlens.inside_depart(tuned_lens=(out / "inside_lenses.safetensors",), **given)


def test_training_leaves_the_model_and_does_not_hang_on_batches(many):
    tiny, _ = many
    model = load_model(tiny.sft).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    taught = lesson({"f": _encoded(many)}, most=120, seed=3)
    assert 100 < taught.tokens <= 120
    one, other, another = (
        train_lens(HookedModel(model), taught, "it", batch_size=size, seed=seed, progress=None)
        for size, seed in ((1, 0), (7, 0), (7, 1))
    )
    torch.testing.assert_close(one.weights, other.weights, atol=1e-3, rtol=1e-2)
    assert not torch.allclose(other.weights, another.weights, atol=1e-3, rtol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert one.weights.shape == (LAYERS, WIDTH, WIDTH)


def test_an_affine_change_that_was_planted_is_found():
    """States are an affine image of what the last layer gives: the map back is found, to within its fit."""
    generator = torch.Generator().manual_seed(0)
    width, words, tokens = 12, 40, 3000
    last = torch.randn(tokens, width, generator=generator)
    there = torch.eye(width) + 0.25 * torch.randn(width, width, generator=generator) / width**0.5
    moved = 3 * torch.randn(width, generator=generator)
    states = last @ there.T + moved
    norm, embedding = torch.nn.LayerNorm(width), torch.nn.Linear(width, words, bias=False)
    torch.nn.init.normal_(embedding.weight, std=0.5, generator=generator)
    for one in (norm, embedding):
        one.requires_grad_(False)
    head, final = Head(embedding, type("Config", (), {})()), norm(last)
    order = [torch.randint(tokens, (512,), generator=generator) for _ in range(STEPS)]
    weight, bias = train_translator(states, final, norm, head, order)
    fresh = torch.randn(500, width, generator=generator)
    seen = fresh @ there.T + moved
    lens = TunedLens("", "", weight[None], bias[None])
    said, plain, tuned = (log_softmax(embedding(norm(h))) for h in (fresh, seen, lens.translate(seen, -1)))
    assert kl(said, tuned).mean() < 0.005 * kl(said, plain).mean()
    back = torch.linalg.inv(there)
    made = (seen + seen @ weight.T + bias)[:, :, None]
    made, right = made[:, :, 0], fresh  # up to what a norm does not see: a shift of all entries, and their scale
    made, right = (torch.nn.functional.layer_norm(one, (width,)) for one in (made, right))
    assert float((made - right).square().mean()) < 0.01
    centred = torch.eye(width) - 1 / width
    both = [(centred @ one).flatten() for one in (torch.eye(width) + weight, back)]
    assert float(torch.nn.functional.cosine_similarity(*both, dim=0)) > 0.99


def test_texts_are_held_out_by_prompt_and_by_the_seed_alone():
    def problem(prompt, solution):
        return EncodedProblem((prompt,), (solution, 0))

    texts = {"a": [problem(i // 2, i) for i in range(24)], "b": [problem(i, 50 + i) for i in range(8, 16)]}
    one, same, other = (lesson(texts, most=99, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.held != other.held
    out = {texts[split][i].prompt for split, places in one.held.items() for i in places}
    trained = {ids.prompt for ids in one.texts}
    assert not out & trained
    assert out | trained == {ids.prompt for encoded in texts.values() for ids in encoded}
    assert all(len({texts[split][i].prompt for i in places}) >= HELD for split, places in one.held.items())
    turned = lesson({"b": texts["b"], "a": texts["a"][::-1]}, most=99, seed=1)
    assert (turned.texts, len(turned.held["a"])) == (one.texts, len(one.held["a"]))
    assert lesson(texts, most=6, seed=1).tokens == 6
    assert len(lesson(texts, most=1, seed=1).texts) == 1
    with pytest.raises(MastlensError, match="b has 3, and each split needs 4"):
        lesson({**texts, "b": texts["b"][:3]}, most=99, seed=1)
    with pytest.raises(MastlensError, match=f"b has 1, and each split needs {2 * HELD}"):
        lesson({**texts, "b": [problem(1, i) for i in range(9)]}, most=99, seed=1)


def test_lenses_that_are_none_are_refused_by_name(ask, tiny, tmp_path):
    nothing = [(torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH))] * LAYERS
    wide = [(torch.zeros(8, 8), torch.zeros(8))] * LAYERS
    wrong = {
        "another width": (wide, {"width": 8}, "somebody/some-model: 2 layers, 8 wide.*has 2 layers and is 32 wide"),
        "another depth": (nothing * 2, {"layers": 4}, "some-model: 4 layers, 32 wide"),
        "another model": (drawn(1.0), {}, "but of somebody/some-model"),
        "too few": (nothing[:1], {}, "lacks 1.weight"),
        "a flood": (nothing, {"num_hidden_layers": 10**12}, "4 tensors, too few for the 1,000,000,000,000 layers"),
        "too many": (nothing * 2, {}, r"has 2.weight, 2.bias, 3.weight, 3.bias besides"),
        "of another shape": (wide, {}, r"0.weight is \(8, 8\)"),
        "of another kind": (nothing, {"lens_type": "mlp"}, "a lens of the type 'mlp'"),
        "without a width": (nothing, {"d_model": "wide"}, "d_model is wide"),
    }
    for name, (parts, config, why) in wrong.items():
        with pytest.raises(MastlensError, match=why):
            ask([write_lens(tmp_path / name, parts, **config)])
    with pytest.raises(MastlensError, match="There is no file"):
        ask([tmp_path / "none"])
    with pytest.raises(MastlensError, match="There is no folder"):
        read_lenses([tmp_path / "none"])
    lenses = [tmp_path / "fine", tmp_path / "another model"]
    write_lens(lenses[0], nothing)
    with pytest.raises(MastlensError, match="no lens of this RLVR model but of"):
        ask(lenses)
    ran = tmp_path / "ran"
    evil = write_lens(tmp_path / "evil", nothing)
    torch.save({"0.weight": _Runs(ran)}, evil / "params.pt")
    with pytest.raises(MastlensError, match="never executed"):
        ask([evil])
    assert not ran.exists()
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(MastlensError, match="no lens of sft: it holds x"):
        ask([tmp_path / "other.safetensors"])
    with pytest.raises(MastlensError, match=r"Too few texts.*each split needs 4"):
        ask((), limit=3)
    for settings in ({"tuned_lens": ("a", "b", "c")}, {"lens_tokens": 0}):
        with pytest.raises(MastlensError, match=r"--tuned-lens|--lens-tokens"):
            InsideDepartSettings(sft="a", rlvr="b", splits={"f": "f"}, **settings)


class _Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_the_option_stands_alone_or_before_folders(tmp_path, many, capsys):
    tiny, texts = many
    words = ["inside", "depart", "--sft", tiny.sft, "--rlvr", tiny.rlvr, "--split", f"f={texts}", "--draws", 0]
    outcome = run_command(*words, "--limit", 8, "--lens-tokens", 60, "--tuned-lens", "--out", tmp_path / "run")
    assert "tuned_error_after" in outcome.text
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["inside-depart"]
    assert (record["settings"]["tuned_lens"], record["settings"]["lens_tokens"]) == ("trained", 60)
    kept = tmp_path / "run" / "inside_lenses.safetensors"
    outcome = run_command(*words, "--limit", 2, "--tuned-lens", kept, "--out", tmp_path / "given")
    record = json.loads((tmp_path / "given" / "run.json").read_text())["stages"]["inside-depart"]
    assert "SFT's tuned lenses" in record["inputs"]
    assert not (tmp_path / "given" / "inside_lenses.safetensors").exists()


def test_a_first_translator_waits_where_something_is_added_to_the_embedding(tmp_path, tiny):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"vocab_size": 384, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 128}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    for name in ("sft", "rlvr"):
        model.save_pretrained(tmp_path / name)
        model.transformer.h[0].mlp.c_fc.weight.data *= 1.05
        Checkpoint(str(tiny.sft)).load_tokenizer().save_pretrained(tmp_path / name)
    nothing = [(torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH))] * LAYERS
    found = mastlens.inside_depart(
        sft=tmp_path / "sft", rlvr=tmp_path / "rlvr", splits={"f": tiny.forget}, draws=0, limit=2, progress=False,
        tuned_lens=[write_lens(tmp_path / "lens", nothing)],
    )  # fmt: skip
    rows = found.table.set_index(["site", "layer"])
    assert math.isnan(rows.loc[("embed", -1), "tuned_kl"])
    assert rows.loc[("resid_post", 0), "tuned_kl"] == rows.loc[("resid_post", 0), "lens_kl"] > 0
    assert np.isfinite(rows.loc[("resid_post", 0), ERRORS].astype(float)).all()
