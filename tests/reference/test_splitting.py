"""However a step is split, and whatever is computed twice, it is the same step; and what is kept is what is said."""

import numpy as np
import pytest
import torch

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.models import likelihood
from mastlens.problems.encoding import EncodedProblem
from mastlens.unlearning.loop import Unlearner
from mastlens.unlearning.objectives import OBJECTIVES, ForgetBatch, OutputObjective, make_objective
from mastlens.unlearning.schedules import rate_by_step
from mastlens.unlearning.splitting import Splitting, kept_bytes, shares
from mastlens.unlearning.token_weights import TokenWeights

NAMES = [
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.1.self_attn.o_proj.weight",
]
SPLIT = [name for name, kind in OBJECTIVES.shipped.items() if name not in ("rewind", "gates")]
STEPS, BATCH = 3, 5


def texts(seed, count=9, low=1, high=12):
    draw = np.random.default_rng(seed)
    return [
        EncodedProblem(
            tuple(draw.integers(0, 384, draw.integers(2, 9)).tolist()),
            tuple(draw.integers(0, 384, draw.integers(low, high)).tolist()),
        )
        for _ in range(count)
    ]


def run(tiny, objective, **settings):
    """Return the records of a few steps and the edited tensors."""
    model = Checkpoint(tiny.rlvr).load_model()
    more = {}
    if objective.needs.alternatives:
        more["alternatives"] = texts(3)
    if objective.needs.traces:
        more["traces"] = [texts(10 + place, 2) for place in range(9)]
    if objective.needs.cot:
        more["cot"] = texts(4)
    if getattr(objective, "reflection_words", ""):
        more["reflection"] = [5, 300]
    names = [name for name in NAMES if not hasattr(objective, "layer") or ".0." in name]
    unlearner = Unlearner(
        model, names, objective, texts(1), texts(2), lr=1e-3, steps=STEPS, batch_size=BATCH, **more, **settings
    )
    records = list(unlearner.remaining())
    return records, {name: model.get_parameter(name).detach().clone() for name in names}, unlearner


def objective_called(name, **coefficients):
    more = {"layer": 0} if name.startswith(("rmu", "r2mu")) else {}
    return make_objective(name, **more, **coefficients)


def assert_same(one, other, *, exact=False):
    for first, second in zip(one[0], other[0], strict=True):
        assert vars(first) == pytest.approx(vars(second), rel=1e-4, abs=1e-6, nan_ok=True)
    for name, tensor in one[1].items():
        apart = (tensor - other[1][name]).abs()
        # AdamW's first steps are signs: where a gradient is next to nothing, rounding decides its direction.
        assert torch.equal(tensor, other[1][name]) if exact else float((apart > 1e-4).float().mean()) < 0.01, name


@pytest.mark.parametrize("name", SPLIT)
def test_a_step_is_the_same_however_it_is_split(tiny, name):
    objective = objective_called(name)
    whole = run(tiny, objective)
    assert_same(whole, run(tiny, objective, micro_batch=BATCH), exact=True)
    start = Checkpoint(tiny.rlvr).load_model()
    assert any(not torch.equal(tensor, start.get_parameter(key)) for key, tensor in whole[1].items())
    for size in (1, 2):
        split = run(tiny, objective, micro_batch=size)
        assert len(split[2].passes.parts("forget", range(BATCH))) == -(-BATCH // size)
        assert_same(whole, split)


@pytest.mark.parametrize("name", ["npo", "undial", "ce-u", "dpo"])
def test_the_scorer_learns_from_the_whole_batch(tiny, name):
    objective = objective_called(name, token_weights=TokenWeights(every=1), retain_loss="kl")
    whole, split = run(tiny, objective), run(tiny, objective, micro_batch=2)
    assert_same(whole, split)
    assert float(whole[2].scorer.w.detach().norm()) > 0
    torch.testing.assert_close(whole[2].scorer.w, split[2].scorer.w, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", ["npo", "rmu", "undial"])
def test_activations_that_are_computed_again_change_nothing(tiny, name):
    objective = objective_called(name)
    off = run(tiny, objective, checkpoint_activations="off")
    on = run(tiny, objective, checkpoint_activations="on", micro_batch=2)
    assert on[2].passes.splitting.checkpointed
    assert not off[2].passes.splitting.checkpointed
    assert_same(off, on)


def test_all_parameters_with_logits_in_parts(tiny, monkeypatch):
    """The head is learnt too: its logits are made part by part, and the gradient is that of all at once."""

    def gradients(tokens):
        monkeypatch.setitem(likelihood._LOGITS, "cpu", 384 * tokens)
        model = Checkpoint(tiny.rlvr).load_model()
        names = [name for name, _ in model.named_parameters()]
        unlearner = Unlearner(model, names, objective_called("npo"), texts(1), texts(2), lr=1e-9, steps=1)
        record = unlearner.step()
        return record, {name: value.grad.clone() for name, value in model.named_parameters()}

    whole, split = gradients(10_000), gradients(3)
    assert vars(whole[0]) == pytest.approx(vars(split[0]), rel=1e-5, nan_ok=True)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(split[1][name], gradient, rtol=1e-4, atol=1e-7)


def test_memory_is_that_of_a_micro_batch(tiny):
    model = Checkpoint(tiny.rlvr).load_model()
    unlearner = Unlearner(
        model, NAMES, objective_called("ga"), texts(1, 8, 20, 21), texts(2), lr=1e-3, steps=1, batch_size=8
    )
    passes = unlearner.passes

    def kept(rows, checkpointed=False):
        passes.splitting = Splitting(checkpointed=checkpointed)
        return kept_bytes(
            lambda: (r := passes.read("forget", rows), r.logprobs),
            {p.untyped_storage().data_ptr() for p in model.parameters()},
        )

    assert 0.2 * kept(range(8)) < kept(range(2)) < 0.32 * kept(range(8))
    assert kept(range(8), checkpointed=True) < 0.5 * kept(range(8))
    # Below the lowest selected tensor nothing is kept: the embedding would be reached otherwise.
    top = Unlearner(model, NAMES[1:], objective_called("ga"), texts(1), texts(2), lr=1e-3, steps=1)
    assert top.passes.start == 1


def test_parameters_are_not_what_a_pass_keeps():
    layer, inputs = torch.nn.Linear(16, 16, bias=False), torch.ones(4, 16, requires_grad=True)
    weight = layer.weight.nbytes
    assert kept_bytes(lambda: layer(inputs), {layer.weight.untyped_storage().data_ptr()}) == inputs.nbytes
    assert kept_bytes(lambda: layer(inputs), ()) == inputs.nbytes + weight


def test_auto_packs_by_length_and_leaves_what_fits_whole():
    assert Splitting().parts([5, 9, 2]) == [[0, 1, 2]]
    assert Splitting(tokens=27.0).parts([5, 9, 2]) == [[0, 1, 2]]  # as it is: the same bits
    assert Splitting(tokens=26.0).parts([5, 9, 2]) == [[2, 0, 1]] or Splitting(tokens=26.0).parts([5, 9, 2]) == [
        [2, 0],
        [1],
    ]
    assert Splitting(tokens=4.0).parts([5, 9, 2]) == [[2], [0], [1]]  # a text that is longer goes alone
    assert Splitting(size=2).parts([5, 9, 2, 2]) == [[2, 3], [0, 1]]
    assert shares("tokens", [1, 2, 5], [[0, 1], [2]]) == [3 / 8, 5 / 8]
    assert shares("sequences", [1, 2, 5], [[0, 1], [2]]) == [2 / 3, 1 / 3]
    assert shares("later tokens", [1, 2, 5], [[0, 1], [2]]) == [1 / 5, 4 / 5]
    assert shares("later tokens", [1, 1], [[0], [1]]) == [0.5, 0.5]


def test_what_is_no_mean_is_not_split(tiny):
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Largest(OutputObjective):
        name = "largest"

        def forget_loss(self, batch: ForgetBatch, weights=None):
            return batch.solutions.logprobs.values.max()

    with pytest.raises(MastlensError, match="does not say what it is a mean over"):
        run(tiny, Largest(), micro_batch=2)
    records, _, unlearner = run(tiny, Largest(), checkpoint_activations="on")
    assert len(records) == STEPS
    assert unlearner.passes.parts("forget", range(BATCH)) == [list(range(BATCH))]
    with pytest.raises(MastlensError, match="number of texts from 1"):
        run(tiny, objective_called("ga"), micro_batch=0)
    with pytest.raises(MastlensError, match="Did you mean 'off'"):
        run(tiny, objective_called("ga"), checkpoint_activations="of")


@pytest.mark.parametrize(("schedule", "warmup"), [("linear", 0), ("linear", 3), ("cosine", 2), ("constant", 2)])
def test_rates_are_those_of_transformers(schedule, warmup):
    from transformers import get_scheduler

    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(name, optimiser, num_warmup_steps=warmup, num_training_steps=8)
    rate = rate_by_step(schedule, warmup=warmup, steps=8)
    for done in range(8):
        assert 0.5 * rate(done) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        scheduler.step()
    assert rate_by_step("constant", warmup=0, steps=8)(5) == 1.0
    with pytest.raises(MastlensError, match="Warm-up"):
        rate_by_step(schedule, warmup=8, steps=8)


def test_a_schedule_decides_the_edit_and_a_resumed_run_knows_it(tiny):
    objective = objective_called("ga")
    constant, linear = run(tiny, objective), run(tiny, objective, schedule="linear")
    first, second = constant[0], linear[0]
    assert first[0] == second[0]
    assert first[-1] != second[-1]
    model = Checkpoint(tiny.rlvr).load_model()
    settings = {"lr": 1e-3, "steps": STEPS, "batch_size": BATCH, "schedule": "linear"}
    begun = Unlearner(model, NAMES, objective, texts(1), texts(2), **settings)
    begun.step()
    state = {key: value.clone() for key, value in begun.state().items()}
    resumed = Unlearner(Checkpoint(tiny.rlvr).load_model(), NAMES, objective, texts(1), texts(2), **settings)
    resumed.load_state(state)
    assert [vars(step) for step in resumed.remaining()] == [vars(step) for step in second[1:]]
    for name, tensor in linear[1].items():
        assert torch.equal(resumed.model.get_parameter(name), tensor)
