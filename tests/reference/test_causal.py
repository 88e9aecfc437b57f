"""The causal map against whole models with the tensor replaced, in plain transformers."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import AutoConfig, AutoModelForCausalLM

from mastlens.analysis.causal.causal_map import causal_map
from mastlens.analysis.causal.cumulative import cumulative_curves
from mastlens.analysis.causal.patching import patches_of, read_patched, stored_tensors
from mastlens.analysis.causal.tables import rank_agreement
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.graders import find_grader
from mastlens.errors import MastlensError
from mastlens.models.suffix import PartialForward, decoder_layers, partial_forward
from mastlens.problems.encoding import EncodedProblem, encode_problems
from mastlens.problems.reading import read_problems
from mastlens.statistics import ratio_intervals, spearman
from tests.conftest import tiny_config, write_lineage

from .plain import encode_file, greedy, load_model, load_tokenizer, projection_names, token_mean_nll

SIDES = ("forget", "retain")
PART = {"q": 0, "k": 1, "v": 2, "o": 3}


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Four layers, and an SFT that moves the log-probabilities well beyond float32 rounding."""
    return write_lineage(tmp_path_factory.mktemp("deep"), num_hidden_layers=4)


@pytest.fixture(scope="module")
def found(deep):
    return causal_map(
        sft=deep.sft,
        rlvr=deep.rlvr,
        forget=deep.forget,
        retain=deep.retain,
        heads=True,
        progress=False,
    )


@pytest.fixture(scope="module")
def weights(deep):
    return {stage: load_file(getattr(deep, stage) / "model.safetensors") for stage in ("sft", "rlvr")}


def mean_logprob(folder, tensors, path):
    """Return the log-probability a token of a model with these tensors, in float64, without batches or padding."""
    model = model_with(folder, tensors).double()
    total = tokens = 0
    for prompt, solution in encode_file(path, folder):
        with torch.no_grad():
            table = model(input_ids=torch.tensor([prompt + solution])).logits[0].log_softmax(dim=-1)
        total += float(table[len(prompt) - 1 : -1].gather(1, torch.tensor(solution)[:, None]).sum())
        tokens += len(solution)
    return total / tokens


def model_with(folder, tensors):
    """Return the folder's architecture with these weights and no others."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).float().eval()
    lacking, strange = model.load_state_dict(tensors, strict=False)
    assert not strange and all("lm_head" in name for name in lacking)
    return model


def head_of(tensor, projection, head, head_dim=8):
    mine = slice(head * head_dim, (head + 1) * head_dim)
    return tensor[:, mine] if projection == "o" else tensor[mine]


@pytest.mark.parametrize("direction", ["restore", "insert"])
def test_agrees_with_a_whole_model_that_has_the_tensor(deep, found, weights, direction):
    own, other = ("rlvr", "sft") if direction == "restore" else ("sft", "rlvr")
    folder = getattr(deep, own)
    rows = found.table[found.table["direction"] == direction]
    assert list(rows[rows["head"] == -1]["name"]) == projection_names(4)
    chosen = rows[(rows["head"] == -1) | (rows["layer"] == 1)]
    assert {*chosen["head"]} == {-1, 0, 1, 2, 3}
    for side in SIDES:
        path = getattr(deep, side)
        before = mean_logprob(folder, weights[own], path)
        total = mean_logprob(folder, weights[other], path) - before
        assert np.allclose(chosen[f"{side}_unpatched"], before, atol=1e-6)
        assert np.allclose(chosen[f"{side}_total"], total, atol=1e-6)
        effects = []
        for row in chosen.itertuples():
            tensors = {name: tensor.clone() for name, tensor in weights[own].items()}
            put, taken = tensors[row.name], weights[other][row.name]
            if row.head == -1:
                put.copy_(taken)
            else:
                head_of(put, row.projection, row.head).copy_(head_of(taken, row.projection, row.head))
            assert row.delta_norm == pytest.approx(float((put - weights[own][row.name]).norm()), rel=1e-5)
            effects.append(mean_logprob(folder, tensors, path) - before)
        assert np.abs(chosen[f"{side}_effect"] - effects).max() < 1e-6
        assert np.abs(effects).max() > 1e-3  # or the line above would say nothing
        low, high = chosen[f"{side}_effect_low"], chosen[f"{side}_effect_high"]
        assert ((low <= chosen[f"{side}_effect"]) & (chosen[f"{side}_effect"] <= high)).all()


def test_groups_and_their_end(deep, found, weights):
    """All weights put in give the other model; all projections together give what they give in plain transformers."""
    rows = found.groups[found.groups["direction"] == "restore"].set_index("group")
    assert list(rows.index) == ["projections", "attention", "mlp", "embeddings", "norms", "all"]
    before = mean_logprob(deep.rlvr, weights["rlvr"], deep.forget)
    after = mean_logprob(deep.sft, weights["sft"], deep.forget)
    assert rows.loc["all", "forget_effect"] == pytest.approx(after - before, abs=1e-6)
    assert rows["forget_total"].to_numpy() == pytest.approx(after - before, abs=1e-6)
    parts = {
        "projections": lambda name: name in projection_names(4),
        "attention": lambda name: "self_attn" in name,
        "mlp": lambda name: "mlp" in name,
        "embeddings": lambda name: "embed_tokens" in name,
        "norms": lambda name: "norm" in name,
    }
    for group, belongs in parts.items():
        mixed = {name: weights["sft" if belongs(name) else "rlvr"][name] for name in weights["rlvr"]}
        expected = mean_logprob(deep.rlvr, mixed, deep.forget) - before
        assert rows.loc[group, "forget_effect"] == pytest.approx(expected, abs=1e-6), group
    shares = [sum(belongs(name) for name in weights["rlvr"]) for belongs in list(parts.values())[1:]]
    assert sum(shares) == len(weights["rlvr"])  # nothing is in two groups, nothing in none


def test_first_order_is_the_derivative(deep, weights, tmp_path):
    """The error of a first-order prediction falls with the square of the change."""
    errors = []
    for step in (2.0, 1.0):
        folder = tmp_path / f"step-{step}"
        shutil.copytree(deep.rlvr, folder)
        far = {n: t + step * (weights["sft"][n] - t) for n, t in weights["rlvr"].items()}
        save_file(far, folder / "model.safetensors", metadata={"format": "pt"})
        made = causal_map(sft=folder, rlvr=deep.rlvr, forget=deep.forget, both_directions=False, progress=False)
        errors.append((made.table["forget_effect"] - made.table["forget_first_order"]).abs())
        assert (np.sign(made.table["forget_effect"]) == np.sign(made.table["forget_first_order"])).mean() > 0.8
    assert errors[1].mean() < 0.2 * made.table["forget_first_order"].abs().mean()
    clear = errors[0] > 5e-5  # below, float32 rounding blurs what is left
    assert clear.sum() >= 6
    assert np.median(errors[0][clear] / errors[1][clear]) == pytest.approx(4, rel=0.2)


def test_null_is_the_spread_of_random_changes(found):
    """|g| |d| / sqrt(n) is the standard deviation of <g, random direction of length |d|>."""
    rng = np.random.default_rng(0)
    g, d = rng.normal(size=200), rng.normal(size=200)
    drawn = rng.normal(size=(4000, 200))
    drawn *= np.linalg.norm(d) / np.linalg.norm(drawn, axis=1, keepdims=True)
    assert np.std(drawn @ g) == pytest.approx(np.linalg.norm(g) * np.linalg.norm(d) / 200**0.5, rel=0.05)
    from mastlens.analysis.causal.first_order import first_order
    from mastlens.analysis.causal.patching import Patch
    from mastlens.architectures.projections import Projection

    projection = Projection(0, 0, "q", "w", 10, 20, 1, 10)
    old = {"w": torch.zeros(10, 20)}
    row = first_order(
        [Patch(projection)],
        {"w": torch.tensor(g.reshape(10, 20), dtype=torch.float32)},
        old,
        {"w": torch.tensor(d.reshape(10, 20), dtype=torch.float32)},
    ).iloc[0]
    assert row["first_order"] == pytest.approx(-(g @ d), rel=1e-5)
    assert row["null_sd"] == pytest.approx(np.linalg.norm(g) * np.linalg.norm(d) / 200**0.5, rel=1e-5)
    assert (found.table["forget_null_sd"] > 0).all()


LENGTH = "def even(said, gold):\n    return len(said) % 2 == 0\n"


@pytest.mark.parametrize("name", ["mathematics", "even"])
def test_accuracy_is_that_of_the_patched_model(name, tiny, tmp_path):
    (tmp_path / "length.py").write_text(LENGTH)
    grader = "mathematics" if name == "mathematics" else f"{tmp_path}/length.py:{name}"
    made = causal_map(
        sft=tiny.sft,
        rlvr=tiny.rlvr,
        forget=tiny.forget,
        limit=2,
        accuracy=True,
        max_new_tokens=8,
        grader=grader,
        both_directions=False,
        progress=False,
    ).table
    own, other = (load_file(folder / "model.safetensors") for folder in (tiny.rlvr, tiny.sft))
    tokenizer, problems = load_tokenizer(tiny.rlvr), read_problems(tiny.forget)[:2]
    name = "model.layers.0.self_attn.v_proj.weight"

    def response(model, problem):
        return greedy(model, tokenizer, tokenizer(f"{problem.problem}\n")["input_ids"], 8)[0]

    accuracies = [
        sum(find_grader(grader).grade(response(model, p), p.answer).correct for p in problems) / len(problems)
        for model in (model_with(tiny.rlvr, tensors) for tensors in (own, {**own, name: other[name]}))
    ]
    assert made.set_index("name").loc[name, "forget_accuracy_change"] == accuracies[1] - accuracies[0]
    assert {"forget_accuracy_change_low", "forget_accuracy_change_high"} <= set(made)


def test_an_equal_tensor_has_no_effect_at_all(deep, weights, tmp_path):
    name = "model.layers.1.self_attn.k_proj.weight"
    folder = tmp_path / "rlvr"
    shutil.copytree(deep.rlvr, folder)
    save_file({**weights["rlvr"], name: weights["sft"][name]}, folder / "model.safetensors", metadata={"format": "pt"})
    made = causal_map(sft=deep.sft, rlvr=folder, forget=deep.forget, batch_size=3, progress=False).table
    mine = made["name"] == name
    zeros = ["forget_effect", "forget_effect_low", "forget_effect_high", "forget_first_order", "forget_null_sd"]
    assert (made.loc[mine, [*zeros, "forget_exact_change", "delta_norm"]] == 0).all(axis=None)
    assert (made.loc[~mine, ["forget_effect", "delta_norm"]] != 0).all(axis=None)


def test_batch_size_does_not_matter(deep):
    call = {"sft": deep.sft, "rlvr": deep.rlvr, "forget": deep.forget, "both_directions": False, "limit": 4}
    one = causal_map(**call, batch_size=1, progress=False).table
    all_at_once = causal_map(**call, batch_size=64, progress=False).table
    columns = ["forget_effect", "forget_first_order", "forget_effect_low", "forget_effect_high"]
    assert np.abs(one[columns] - all_at_once[columns]).to_numpy().max() < 2e-6
    assert (one["forget_exact_change"] == all_at_once["forget_exact_change"]).all()
    assert not any(column.startswith("retain") for column in one)


def encoded_of(lineage, path):
    return encode_problems(read_problems(path), load_tokenizer(lineage.rlvr))


def test_leaves_the_model_as_it_was(deep):
    model = load_model(deep.rlvr)
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    checkpoint = Checkpoint(deep.sft)
    other = stored_tensors(checkpoint, model, checkpoint.projections)
    patches = [[patch] for patch in patches_of(checkpoint.projections, heads=True)[::3]]
    read_patched(model, encoded_of(deep, deep.forget)[:3], patches, other, batch_size=2)

    class Interrupted(Exception):
        pass

    calls = []

    def interrupt(module, args, output):
        calls.append(1)
        if len(calls) == 30:
            raise Interrupted

    layer = model.model.layers[3]
    handle = layer.register_forward_hook(interrupt)
    with pytest.raises(Interrupted):
        read_patched(model, encoded_of(deep, deep.forget)[:3], patches, other, batch_size=2)
    handle.remove()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, kept[name]), name
    for module in model.modules():
        assert not module._forward_hooks and "forward" not in module.__dict__


ARCHITECTURES = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {},
    "mistral": {"sliding_window": 6},
    "gemma2": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "phi3": {},
    "gpt2": {},
    "gpt_neox": {},
    "bloom": {},
    "olmo2": {},
}


def random_model(model_type, layers=3):
    torch.manual_seed(0)
    config = tiny_config(model_type, num_hidden_layers=layers, **ARCHITECTURES[model_type])
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.15)
    return model


def some_tokens(count=3):
    generator = torch.Generator().manual_seed(1)
    draw = lambda n: tuple(torch.randint(1, 300, (n,), generator=generator).tolist())  # noqa: E731
    return [EncodedProblem(draw(5 + i), draw(4 + 2 * i)) for i in range(count)]


def logits_of(model, batch):
    with torch.no_grad():
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), use_cache=False).logits


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_upper_layers_alone_are_the_same_computation(model_type):
    from mastlens.problems.encoding import collate

    model = random_model(model_type)
    names = [name for name, p in model.named_parameters() if ".1." in name or ".2." in name]
    layers = decoder_layers(model, names)
    assert layers is not None and len(layers) == 3
    partial = partial_forward(model, names, some_tokens())
    assert partial is not None
    batch = collate(some_tokens())
    with partial.recording():
        whole = logits_of(model, batch)
    runs = []
    inner = [next(m for m in layer.modules() if not list(m.children())) for layer in layers]
    handles = [m.register_forward_hook(lambda module, args, out: runs.append(module)) for m in inner]
    for layer in range(4):
        runs.clear()
        with partial.above(layer):
            assert torch.equal(logits_of(model, batch), whole)
        assert [inner.index(m) for m in runs] == list(range(layer, 3))  # and those below did not run
    for handle in handles:
        handle.remove()
    # A change in an upper layer is seen from below it, and is not seen from above it.
    with torch.no_grad():
        for parameter in layers[1].parameters():
            parameter.mul_(1.1)
    changed = logits_of(model, batch)
    with partial.above(1):
        assert torch.equal(logits_of(model, batch), changed)
    with partial.above(2):
        assert torch.equal(logits_of(model, batch), whole)
    assert not torch.equal(changed, whole)


def test_a_model_whose_upper_layers_use_more_runs_whole(deep):
    """Layer 2 adds what layer 0 did on the side: from layer 1 on, that is not the same computation."""
    model = load_model(deep.rlvr)
    side = {}
    layers = model.model.layers
    first, third = layers[0].forward, layers[2].forward

    def keeps(hidden, *args, **kwargs):
        side["kept"] = hidden
        return first(hidden, *args, **kwargs)

    layers[0].forward = keeps
    layers[2].forward = lambda hidden, *args, **kwargs: third(hidden + side.pop("kept"), *args, **kwargs)
    encoded = encoded_of(deep, deep.forget)
    assert partial_forward(model, projection_names(4), encoded) is None
    assert layers[0].__dict__["forward"] is keeps  # what stood there stands there again
    checkpoint = Checkpoint(deep.sft)
    other = stored_tensors(checkpoint, model, checkpoint.projections)
    patches = [[patch] for patch in patches_of(checkpoint.projections, heads=False)]
    made = read_patched(model, encoded, patches, other)
    name = "model.layers.3.self_attn.o_proj.weight"
    with torch.no_grad():
        model.get_parameter(name).copy_(other[name])
        expected = -float(token_mean_nll(model, encode_file(deep.forget, deep.rlvr))) * made.counts.sum()
    row = [patch[0].projection.name for patch in patches].index(name)
    assert made.patched[row].sum() == pytest.approx(expected, rel=1e-6)


def test_a_layer_that_changes_its_input_in_place_is_found_out(deep):
    model = load_model(deep.rlvr)
    layer = model.model.layers[1]
    whole = layer.forward
    layer.forward = lambda hidden, *args, **kwargs: whole(hidden.add_(1.0), *args, **kwargs)
    with torch.no_grad():
        assert partial_forward(model, projection_names(4), encoded_of(deep, deep.forget)) is None


def test_names_outside_of_layers_have_no_partial_forward(deep):
    model = load_model(deep.rlvr)
    assert decoder_layers(model, ["model.embed_tokens.weight"]) is None
    assert isinstance(partial_forward(model, projection_names(4), encoded_of(deep, deep.forget)), PartialForward)


ORDER = projection_names(4)


@pytest.fixture(scope="module")
def curves(deep, found):
    whole = found.table[(found.table["direction"] == "restore") & (found.table["head"] == -1)]
    order = whole.sort_values("forget_effect")["name"].tolist()
    return cumulative_curves(
        sft=deep.sft,
        rlvr=deep.rlvr,
        forget=deep.forget,
        retain=deep.retain,
        ranking=order,
        draws=5,
        points=4,
        progress=False,
    )


def test_curves_agree_with_plain_models(deep, found, curves, weights):
    whole = found.table[(found.table["direction"] == "restore") & (found.table["head"] == -1)]
    order = whole.sort_values("forget_effect")["name"].tolist()
    before = mean_logprob(deep.rlvr, weights["rlvr"], deep.forget)
    for name, names in (("ranking", order), ("reverse", order[::-1])):
        rows = curves.table[curves.table["order"] == name]
        assert list(rows["k"]) == [0, 4, 8, 12, 16]
        assert rows["forget_effect"].iloc[0] == 0
        for row in rows.itertuples():
            mixed = {**weights["rlvr"], **{n: weights["sft"][n] for n in names[: row.k]}}
            expected = mean_logprob(deep.rlvr, mixed, deep.forget) - before
            assert row.forget_effect == pytest.approx(expected, abs=1e-6)
    ends = curves.table.groupby(["order", "draw"])["forget_effect"].last()
    assert len(ends) == 7 and ends.nunique() == 1
    projections = found.groups.query("direction == 'restore' and group == 'projections'")
    assert ends.iloc[0] == pytest.approx(projections["forget_effect"].item(), abs=1e-6)


def test_areas_are_those_of_the_drawn_curves(curves):
    area = {
        key: np.trapezoid(rows["forget_effect"], rows["k"] / rows["k"].max())
        for key, rows in curves.table.groupby(["order", "draw"])
    }
    row = curves.areas.set_index("side").loc["forget"]
    random = [value for (order, _), value in area.items() if order == "random"]
    assert row["area"] == pytest.approx(area["ranking", -1], abs=1e-9)
    assert row["area_reverse"] == pytest.approx(area["reverse", -1], abs=1e-9)
    assert row["area_random"] == pytest.approx(np.mean(random), abs=1e-9)
    assert row["above_random"] == pytest.approx(area["ranking", -1] - np.mean(random), abs=1e-9)
    assert row["above_random_low"] <= row["above_random"] <= row["above_random_high"]
    # Ordered by the measured effect itself: no random order gets further down, and the reverse goes up.
    assert row["area"] < min(random) and row["area_reverse"] > max(random)
    orders = np.array([area["ranking", -1], *random])
    distance = np.abs(orders - orders.mean())
    assert row["p_value"] == pytest.approx(np.mean(distance >= distance[0] - 1e-12))


def test_rankings_that_do_not_fit_are_refused(deep, tmp_path):
    call = {"sft": deep.sft, "rlvr": deep.rlvr, "forget": deep.forget, "progress": False}
    with pytest.raises(MastlensError, match="each of them once"):
        cumulative_curves(**call, ranking=ORDER[:-1])
    with pytest.raises(MastlensError, match="each of them once"):
        cumulative_curves(**call, ranking=[*ORDER[:-1], ORDER[0]])
    with pytest.raises(MastlensError, match=r"Did you mean 'model\.layers\.0\.self_attn\.q_proj\.weight'"):
        cumulative_curves(**call, ranking=["model.layers.0.self_attn.q_proj", *ORDER[1:]])
    with pytest.raises(MastlensError, match="mastlens rank"):
        cumulative_curves(**call, ranking=tmp_path / "none.parquet")
    with pytest.raises(MastlensError, match="restore"):
        cumulative_curves(**call, ranking=ORDER, direction="back")
    with pytest.raises(MastlensError, match="at least 1"):
        causal_map(**call, limit=0)


def test_rank_agreement(found):
    whole = found.table[(found.table["direction"] == "insert") & (found.table["head"] == -1)]
    size = dict(zip(whole["name"], whole["forget_effect"].abs(), strict=True))
    assert rank_agreement(found.table, size, direction="insert")["spearman"] == pytest.approx(1)
    assert rank_agreement(found.table, {n: -s for n, s in size.items()}, direction="insert")["spearman"] == -1
    scores = pd.DataFrame({"name": list(size), "score": np.arange(len(size), dtype=float)})
    expected = stats.spearmanr(np.arange(len(size)), list(size.values()))[0]
    assert rank_agreement(found.table, scores, direction="insert")["spearman"] == pytest.approx(expected)
    with pytest.raises(MastlensError, match="no score"):
        rank_agreement(found.table, {ORDER[0]: 1.0})
    with pytest.raises(MastlensError, match="forget_effect"):
        rank_agreement(found.table, size, effect="forget_efect")
    correlation = found.correlation
    assert set(correlation["part"]) == {"projection", "head"} and set(correlation["side"]) == set(SIDES)
    rows = correlation.query("direction == 'insert' and part == 'projection' and side == 'forget'").iloc[0]
    expected = stats.spearmanr(whole["forget_effect"], whole["forget_first_order"])[0]
    assert rows["spearman"] == pytest.approx(expected) and rows["n"] == 16


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=12))
def test_spearman_is_that_of_scipy(pairs):
    a, b = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    made = spearman(a, b, resamples=199)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(made["spearman"]) and np.isnan(made["p_value"])
        return
    assert made["spearman"] == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
    assert 1 / 200 <= made["p_value"] <= 1
    assert spearman(-a, b, resamples=199)["p_value"] == pytest.approx(made["p_value"])
    assert spearman(np.exp(a), b, resamples=199) == made  # only order counts


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(150):
        weights = rng.integers(5, 30, size=60).astype(float)
        differences = 0.3 * weights + rng.normal(size=(2, 60)) * weights**0.5
        low, high = ratio_intervals(differences, weights)
        covered += list((low <= 0.3) & (high >= 0.3))
    assert 0.90 <= np.mean(covered) <= 0.985
    single = ratio_intervals(np.ones((2, 1)), np.ones(1))
    assert np.isnan(single).all()


def test_figures_hold_their_table(found, curves):
    from mastlens.plots import figure_table

    for direction in ("restore", "insert"):
        for heads in (False, True):
            drawn = figure_table(found.plot(direction, heads=heads))
            rows = found.table[(found.table["direction"] == direction) & ((found.table["head"] >= 0) == heads)]
            assert drawn["forget_effect"].tolist() == rows["forget_effect"].tolist()
        fig = found.plot(direction)
        maps = [trace for trace in fig.data if trace.type == "heatmap"]
        assert len(maps) == 2 and fig.layout.coloraxis.cmin == -fig.layout.coloraxis.cmax
        first = found.plot_first_order(direction)
        points = sum(len(trace.x) for trace in first.data if trace.mode == "markers")
        assert points == 2 * 16
        groups = found.plot_groups(direction)
        assert list(groups.data[0].x)[-1] == "all"
    fig = curves.plot()
    assert {trace.name for trace in fig.data} >= {"by the ranking", "its reverse", "range of 5 random orders"}
    with pytest.raises(MastlensError, match="direction"):
        found.plot("back")


def test_written_once_and_read_back(deep, tmp_path):
    call = {"sft": deep.sft, "rlvr": deep.rlvr, "forget": deep.forget, "limit": 3, "progress": False}
    a, b = causal_map(**call, out=tmp_path / "a"), causal_map(**call, out=tmp_path / "b")
    for file in ("causal_map.parquet", "causal_groups.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    again = causal_map(**call, out=tmp_path / "a")
    pd.testing.assert_frame_equal(a.table, again.table)
    pd.testing.assert_frame_equal(b.groups, again.groups)
    with pytest.raises(MastlensError, match="limit"):
        causal_map(**{**call, "limit": 4}, out=tmp_path / "a")
    curves = cumulative_curves(**call, ranking=ORDER, draws=2, points=2, out=tmp_path / "a")
    read = cumulative_curves(**call, ranking=ORDER, draws=2, points=2, out=tmp_path / "a")
    pd.testing.assert_frame_equal(curves.table, read.table)
    pd.testing.assert_frame_equal(curves.areas, read.areas)


def test_a_slice_of_a_fused_tensor(tmp_path):
    """q, k and v in one stored tensor: the patch of one leaves the others' rows alone; names carry the slice."""
    lineage = write_lineage(tmp_path, "phi3")
    made = causal_map(
        sft=lineage.sft, rlvr=lineage.rlvr, forget=lineage.forget, heads=True, both_directions=False, progress=False
    ).table
    assert set(made["head"]) == {-1, 0, 1, 2, 3}
    name = "model.layers.0.self_attn.qkv_proj.weight"
    own, other = (load_file(folder / "model.safetensors") for folder in (lineage.rlvr, lineage.sft))
    before = mean_logprob(lineage.rlvr, own, lineage.forget)
    rows = {("q", -1): slice(0, 32), ("k", -1): slice(32, 48), ("v", -1): slice(48, 64), ("k", 1): slice(40, 48)}
    effects = made.set_index(["name", "head"])["forget_effect"]
    for (projection, head), mine in rows.items():
        mixed = {**own, name: own[name].clone()}
        mixed[name][mine] = other[name][mine]
        expected = mean_logprob(lineage.rlvr, mixed, lineage.forget) - before
        assert effects[f"{name}#{projection}", head] == pytest.approx(expected, abs=1e-6)
