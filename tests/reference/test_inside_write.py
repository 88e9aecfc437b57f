"""Who writes a logit difference: against plain hooks and float64, and what each part of a change is made of."""

import math

import numpy as np
import pytest
import torch

import mastlens
from mastlens.analysis.inside.attribution import Writer, logit_difference, strongest_other, summed
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.models.hooked import HookedModel
from tests.columns import check_table
from tests.conftest import run_command
from tests.reference.plain import encode_file, load_model
from tests.reference.test_hooked import ARCHITECTURES, make_model, tokens

SHARES = ["by_weights", "by_input", "by_readout"]


@pytest.fixture(scope="module")
def written(tiny):
    return mastlens.inside_write(
        sft=tiny.sft, rlvr=tiny.rlvr, splits={"f": tiny.forget}, draws=4, dtype="float32", progress=False
    )


def by_hand(folder, prompt, solution, other):
    """Part to its mean contribution over the tokens of one text, in float64 from plain hooks."""
    model = load_model(folder)
    kept = {}

    def keep(name):
        def hook(module, args, output):
            kept[name] = (args[0][0].double(), output[0].double())

        return hook

    layers = model.model.layers
    for i, layer in enumerate(layers):
        layer.self_attn.o_proj.register_forward_hook(keep(("o", i)))
        layer.mlp.register_forward_hook(keep(("mlp", i)))
    model.model.norm.register_forward_hook(keep("norm"))
    model.model.embed_tokens.register_forward_hook(keep("embed"))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + solution]), use_cache=False).logits[0].double()
    at = torch.arange(len(prompt) - 1, len(prompt) + len(solution) - 1)
    target = torch.tensor(solution)
    stream = kept["norm"][0][at]
    scale = 1 / (stream.square().mean(1) + model.config.rms_norm_eps).sqrt()
    unembed = model.lm_head.weight.detach().double()
    direction = scale[:, None] * model.model.norm.weight.detach().double() * (unembed[target] - unembed[other])
    parts = {("embed", -1, -1): kept["embed"][1][at]}
    for i, layer in enumerate(layers):
        given, weight = kept["o", i][0][at], layer.self_attn.o_proj.weight.detach().double()
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            parts["z", i, head] = given[:, part] @ weight[:, part].T
        parts["mlp_out", i, -1] = kept["mlp", i][1][at]
    found = {part: float((value * direction).sum(1).mean()) for part, value in parts.items()}
    return found, float((logits[at, target] - logits[at, other]).mean())


def test_parts_are_those_of_plain_hooks_and_add_up(tiny):
    (prompt, solution), *_ = encode_file(tiny.forget, tiny.rlvr)
    tokenizer = Checkpoint(str(tiny.rlvr)).load_tokenizer()
    other = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert len(other) == 1
    found = mastlens.inside_write(
        sft=tiny.sft, rlvr=tiny.rlvr, splits={"f": tiny.forget}, limit=1, against="a", draws=0, dtype="float32",
        progress=False,
    ).table.set_index(["site", "layer", "head"])  # fmt: skip
    for column, folder in (("before", tiny.sft), ("after", tiny.rlvr)):
        parts, whole = by_hand(folder, prompt, solution, torch.tensor(other).expand(len(solution)))
        assert found.loc[("logits", -1, -1), column] == pytest.approx(whole, abs=1e-5)
        for part, value in parts.items():
            assert found.loc[part, column] == pytest.approx(value, abs=1e-5), part
        assert sum(parts.values()) == pytest.approx(whole, abs=1e-5)
    assert found.loc[("logits", -1, -1), "completeness_error"] < 1e-4
    assert found["change_p"].isna().all()


def test_shares_of_a_change_add_up_to_it(written):
    table = written.table
    np.testing.assert_allclose(table[SHARES].sum(axis=1), table["change"], rtol=1e-4, atol=2e-6)
    parts, whole = table[table["site"] != "logits"], table[table["site"] == "logits"].iloc[0]
    for column in ("before", "after", "change", *SHARES):
        assert parts[column].sum() == pytest.approx(whole[column], rel=1e-4, abs=2e-6)
    assert len(parts) == 1 + 2 * (4 + 1)
    assert table["change_null"].notna().all()
    assert "none of 11 parts" in written.card().verdict
    assert len(written.plot().data) >= 1
    with pytest.raises(MastlensError, match="split"):
        written.plot("nowhere")


@torch.no_grad()
@pytest.mark.parametrize(("module", "changed"), [("mlp.down_proj", {("mlp_out", 0, -1)}), ("self_attn.o_proj", None)])
def test_own_weights_and_input_are_told_apart(tmp_path, tiny, module, changed):
    """One matrix of layer 0 changed: its part has new weights and its old input, what is above a new input alone."""
    model = load_model(tiny.sft)
    model.save_pretrained(tmp_path / "sft")
    model.get_submodule(f"model.layers.0.{module}").weight.mul_(1.1)
    model.save_pretrained(tmp_path / "rlvr")
    for step in ("sft", "rlvr"):
        Checkpoint(str(tiny.sft)).load_tokenizer().save_pretrained(tmp_path / step)
    table = mastlens.inside_write(
        sft=tmp_path / "sft", rlvr=tmp_path / "rlvr", splits={"f": tiny.forget}, draws=0, dtype="float32",
        progress=False,
    ).table.set_index(["site", "layer", "head"])  # fmt: skip
    changed = changed or {("z", 0, head) for head in range(4)}
    above = [("z", 1, 0), ("mlp_out", 1, -1), *([("mlp_out", 0, -1)] if module != "mlp.down_proj" else [])]
    for part in changed:
        assert abs(table.loc[part, "by_weights"]) > 1e-4
        assert table.loc[part, "by_input"] == pytest.approx(0, abs=1e-7)
    for part in above:
        assert table.loc[part, "by_weights"] == pytest.approx(0, abs=1e-6)
        assert abs(table.loc[part, "by_input"]) > 1e-5
    assert table.loc[("embed", -1, -1), "by_weights"] == table.loc[("embed", -1, -1), "by_input"] == 0
    assert abs(table["by_readout"]).sum() > 0  # the size of the stream is another one


@torch.no_grad()
@pytest.mark.parametrize("model_type", [name for name in ARCHITECTURES if name != "qwen3_next"])
def test_parts_add_up_in_every_architecture(model_type):
    """Biases, norms behind attention and MLP, parallel blocks, LayerNorm, caps: the sum is the difference of logits."""
    from mastlens.problems.encoding import EncodedProblem, collate

    model, ids = make_model(model_type), tokens(1, 8)[0].tolist()
    batch = collate([EncodedProblem(tuple(ids[:3]), tuple(ids[3:]))])
    writer = Writer(HookedModel(model), "it")
    at = torch.nn.functional.pad(batch.is_solution[:, 1:], (0, 1))
    target = torch.tensor(ids[3:])
    seen = writer.run(batch, at)
    other = strongest_other(seen, target)
    assert not (other == target).any()
    way = writer.readout(seen, target, other)
    logits = model(input_ids=batch.input_ids, use_cache=False).logits[0, 2:-1].double()
    cap = getattr(model.config, "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.atanh(logits / cap)
    expected = logits.gather(1, target[:, None]) - logits.gather(1, other[:, None])
    torch.testing.assert_close(logit_difference(seen, target, other), expected[:, 0], rtol=1e-3, atol=1e-3)
    parts = writer.parts(seen, way.direction)
    error = summed(parts) + way.constant - logit_difference(seen, target, other)
    assert float(error.norm()) < 1e-4 * float(expected.norm())
    heads = any(site == "z" for site, _, _ in parts)
    assert heads == (model_type not in ("gemma2", "gemma3_text", "olmo2"))


def test_what_cannot_be_attributed_is_refused(tiny):
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "splits": {"f": tiny.forget}, "draws": 0, "progress": False}
    with pytest.raises(MastlensError, match="no single token: the tokenizer makes"):
        mastlens.inside_write(**pair, against="What is it?")
    with pytest.raises(MastlensError, match="--first"):
        mastlens.inside_write(**pair, first=-1)


def test_the_command_writes_what_is_declared(tmp_path, tiny):
    out = tmp_path / "run"
    line = f"inside write --sft {tiny.sft} --rlvr {tiny.rlvr} --split f={tiny.forget} --limit 2 --first 2 --draws 2"
    told = run_command(*line.split(), "--batch-size", 1, "--out", out)
    check_table(out / "inside_write.parquet", "mastlens inside write")
    assert told.summary["totals"][0]["tokens"] == 4
    whole = run_command(*line.split(), "--batch-size", 2, "--out", tmp_path / "other").summary["totals"][0]
    assert whole["change"] == pytest.approx(told.summary["totals"][0]["change"], rel=1e-4)
    assert not math.isnan(whole["completeness_error"])
