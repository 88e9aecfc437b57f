"""What the explorer measures is what plain Hugging Face and scipy give, and the model is left as it was."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import subspace_angles

from mastlens.errors import MastlensError
from mastlens.explorer.measuring import PatchBench
from mastlens.explorer.patterns import attention_patterns
from mastlens.explorer.sources import RunSources

NAME = "model.layers.0.self_attn.q_proj.weight"
PROBLEMS = 5


def sources_of(tiny, edit=None):
    checkpoints = {"base": tiny.base, "sft": tiny.sft, "rlvr": tiny.rlvr}
    return RunSources(checkpoints, {"forget": tiny.forget, "retain": tiny.retain}, edit, {})


@pytest.fixture(scope="module")
def bench(tiny):
    return PatchBench(sources_of(tiny), limit=PROBLEMS, device="cpu", rank="4")


@pytest.fixture(scope="module")
def plain(tiny):
    """The RLVR model and the weights of SFT, loaded without this package."""
    from transformers import AutoModelForCausalLM

    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        for folder in (tiny.rlvr, tiny.sft)
    ]
    return models[0], dict(models[1].named_parameters())


def solution_logprobs(model, encoded):
    """Summed log-probability of each solution, one problem at a time, by a full softmax in float64."""
    sums = []
    for ids in encoded:
        tokens = torch.tensor([[*ids.prompt, *ids.solution]])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(tokens).logits.double(), dim=-1)
        start = len(ids.prompt)
        sums.append(sum(float(logprobs[0, at - 1, tokens[0, at]]) for at in range(start, tokens.shape[1])))
    return np.array(sums)


def test_put_back_is_what_copying_the_weights_by_hand_gives(bench, plain):
    found = bench.put_back(NAME)
    model, sft = plain
    for side in ("forget", "retain"):
        encoded = bench.problems[side].encoded
        tokens = np.array([len(ids.solution) for ids in encoded])
        before = solution_logprobs(model, encoded)
        weight = model.get_parameter(NAME)
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(sft[NAME])
        after = solution_logprobs(model, encoded)
        with torch.no_grad():
            weight.copy_(kept)
        row = found.table.set_index("side").loc[side]
        items = found.items[found.items["side"] == side]
        assert len(items) == PROBLEMS
        assert row["before"] == pytest.approx(before.sum() / tokens.sum(), abs=2e-6)
        assert row["effect"] == pytest.approx((after - before).sum() / tokens.sum(), abs=2e-6)
        np.testing.assert_allclose(items["change"], (after - before) / tokens, atol=5e-6)
        assert row["effect_low"] <= row["effect"] <= row["effect_high"]
        # A small step: the gradient's prediction has its sign and about its size.
        assert row["first_order"] == pytest.approx(row["effect"], rel=0.5, abs=5e-5)
    assert found.stage == "sft"


def test_a_projection_is_put_back_once_and_the_model_keeps_every_bit(tiny):
    bench = PatchBench(sources_of(tiny), limit=2, device="cpu", rank="4")
    before = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in bench.model.modules())
    function = bench.model.config._attn_implementation
    assert bench.put_back(NAME) is bench.put_back(NAME)
    bench.attention(NAME)
    assert bench.measured == [NAME]
    after = bench.model.state_dict()
    assert all(torch.equal(before[name].view(torch.int32), after[name].view(torch.int32)) for name in before)
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in bench.model.modules())
    assert bench.model.config._attn_implementation == function
    assert not any(parameter.requires_grad for parameter in bench.model.parameters())


def test_patterns_are_those_of_hugging_face_and_their_mean_is_a_sum_divided_by_counts(bench, plain):
    encoded = bench.problems["forget"].encoded
    found = attention_patterns(bench.model, encoded, 1, batch_size=2)
    lengths = sorted((len(ids.prompt) + len(ids.solution) for ids in encoded), reverse=True)
    size = lengths[(len(lengths) - 1) // 2]
    sums, counts = np.zeros((4, size, size)), np.zeros(size)
    for ids in encoded:
        with torch.no_grad():
            tokens = torch.tensor([[*ids.prompt, *ids.solution]])
            pattern = plain[0](tokens, output_attentions=True).attentions[1][0].double().numpy()
        width = min(size, pattern.shape[-1])
        sums[:, :width, :width] += pattern[:, :width, :width]
        counts[:width] += 1
    assert found.shape == (4, size, size)
    np.testing.assert_allclose(found, sums / counts[None, :, None], atol=2e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    one_at_a_time = attention_patterns(bench.model, encoded, 1, batch_size=1)
    np.testing.assert_allclose(found, one_at_a_time, atol=1e-6)


def test_attention_shows_the_layer_that_can_move_and_the_tokens_of_one_problem(bench):
    q, v = bench.attention(NAME), bench.attention(NAME.replace("q_proj", "v_proj"))
    assert set(q.table["layer"]) == {0}
    assert set(v.table["layer"]) == {1}  # v acts after the pattern of its own layer
    assert q.problems == PROBLEMS
    assert (q.moved["moved"] > 0).all()
    moved = q.table.assign(gone=(q.table["after"] - q.table["before"]).abs()).groupby("head")["gone"].sum() / 2
    size = q.table["query"].max() + 1
    np.testing.assert_allclose(moved / size, q.moved["moved"], atol=1e-5)

    one = bench.attention(NAME, problem=1)
    ids = bench.problems["forget"].encoded[1]
    words = one.table.drop_duplicates("query").sort_values("query")["query_token"]
    assert "".join(words) == bench.tokenizer.decode([*ids.prompt, *ids.solution])
    with pytest.raises(MastlensError, match="no forget problem 99"):
        bench.attention(NAME, problem=99)
    with pytest.raises(MastlensError, match="acts after all attention patterns"):
        bench.attention("model.layers.1.self_attn.o_proj.weight")


def test_attention_before_and_after_an_edit(tiny):
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.edits.edit import Edit

    rlvr = Checkpoint(tiny.rlvr)
    old = rlvr.tensor(NAME)
    edit = Edit({NAME: old}, {NAME: old + 0.05}, rlvr.fingerprint, {})
    bench = PatchBench(sources_of(tiny, edit), limit=2, device="cpu", rank="4")
    found = bench.attention("model.layers.1.self_attn.o_proj.weight")  # with an edit, the layer itself
    assert found.change == "the edit of 1 tensors"
    assert set(found.table["layer"]) == {1}
    assert (found.moved["moved"] > 0).any()
    foreign = Edit({NAME: old + 1}, {NAME: old}, "0" * 64, {})
    with pytest.raises(MastlensError, match="another checkpoint"):
        PatchBench(sources_of(tiny, foreign), limit=2, device="cpu", rank="4").attention(NAME)


def test_angles_are_those_of_scipy(bench, plain, tiny):
    from safetensors.torch import load_file

    stages = [load_file(folder / "model.safetensors")[NAME].double().numpy() for folder in (tiny.sft, tiny.rlvr)]
    found = bench.angles(NAME)
    rlvr = found[found["increment"] == "rlvr"]
    (u_before, _, v_before), (u_after, _, v_after) = (np.linalg.svd(weight) for weight in stages)
    pairs = {"left": (u_before[:, :4], u_after[:, :4]), "right": (v_before[:4].T, v_after[:4].T)}
    for side, (before, after) in pairs.items():
        expected = np.sort(np.degrees(subspace_angles(before, after)))
        np.testing.assert_allclose(rlvr.loc[rlvr["side"] == side, "degrees"], expected, rtol=1e-5)
        assert (rlvr.loc[rlvr["side"] == side, "chance_max"] > 0).all()
    assert set(found["increment"]) == {"sft", "rlvr"}


def test_another_checkpoint_than_the_tables_is_refused(tiny):
    checkpoints = {"base": tiny.base, "sft": tiny.sft, "rlvr": tiny.rlvr}
    with pytest.raises(MastlensError, match="made from another sft checkpoint"):
        _ = RunSources(checkpoints, {}, None, {"sft": "0" * 64}).lineage
    with pytest.raises(MastlensError, match="explore\\(study, base=PATH"):
        _ = RunSources({}, {}, None, {}).lineage
    with pytest.raises(MastlensError, match="forget problems"):
        RunSources(checkpoints, {}, None, {}).need_problems()


def test_tables_are_tidy(bench):
    found = bench.put_back(NAME)
    assert list(found.table["side"]) == ["forget", "retain"]
    assert isinstance(found.items, pd.DataFrame)
    assert found.items.groupby("side")["tokens"].sum().gt(0).all()
