"""Relearning against a plain loop; what comes back in it; weights restored; what is recovered, by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from mastlens.attacks.answers import restored
from mastlens.attacks.recovery import summarise_attack
from mastlens.attacks.relearning import curve_points, halves, relearning_steps
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError, MastlensWarning
from mastlens.problems.encoding import encode_problems
from mastlens.problems.reading import read_problems
from mastlens.statistics import recovered_share, wilson
from mastlens.unlearning.loop import batch_schedule

from . import plain

STEPS, LR, BATCH = 4, 2e-3, 5  # the batch does not divide the 12 problems: a pass ends inside one


def bits(model):
    return {name: p.detach().clone().view(torch.uint8) for name, p in model.named_parameters()}


def run(tiny, **changes):
    checkpoint = Checkpoint(tiny.rlvr)
    model = checkpoint.load_model()
    encoded = encode_problems(read_problems(tiny.forget), checkpoint.load_tokenizer())
    settings = {"lr": LR, "steps": STEPS, "batch_size": BATCH, "seed": 0} | changes
    return model, list(relearning_steps(model, encoded, **settings))


def test_agrees_with_a_plain_loop(tiny):
    found, records = run(tiny)
    model = plain.load_model(tiny.rlvr)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    items = plain.encode_file(tiny.forget, tiny.rlvr)
    model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.999), weight_decay=0)
    losses = []
    for rows in batch_schedule(len(items), BATCH, STEPS, 0, side=0):
        optimiser.zero_grad()
        sums = [plain.logprob(model, *items[i]) for i in rows]
        loss = -sum(sums) / sum(len(items[i][1]) for i in rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert [record.loss for record in records] == pytest.approx(losses, rel=1e-5)
    after = dict(model.named_parameters())
    for name, parameter in found.named_parameters():
        moved = float((after[name].detach() - before[name]).norm())
        assert moved > 0, name  # everything learns
        assert float((parameter - after[name]).detach().norm()) <= 1e-2 * moved, name


def test_one_seed_gives_one_result_and_another_seed_another(tiny):
    runs = [bits(run(tiny, seed=seed)[0]) for seed in (3, 3, 4)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_a_model_comes_back_bit_for_bit_also_after_an_exception(tiny):
    checkpoint = Checkpoint(tiny.rlvr)
    model = checkpoint.load_model()
    encoded = encode_problems(read_problems(tiny.forget), checkpoint.load_tokenizer())
    before, end = bits(model), model.generation_config.eos_token_id

    def interrupted():
        with restored(model):
            for step in relearning_steps(model, encoded, lr=LR, steps=STEPS):
                model.generation_config.eos_token_id = 7
                if step.step == 2:
                    assert not any(torch.equal(before[name], now) for name, now in bits(model).items())
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(before[name], now) for name, now in bits(model).items())
    assert model.generation_config.eos_token_id == end
    assert not model.training
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_a_loss_that_is_not_finite_ends_the_curve_with_a_warning(tiny):
    with pytest.warns(MastlensWarning, match="not finite"):
        _, records = run(tiny, lr=1e30, steps=5)
    assert 1 <= len(records) < 5


def test_points():
    assert curve_points(10) == [0, 1, 2, 4, 8, 10]
    assert curve_points(8) == [0, 1, 2, 4, 8]
    assert curve_points(1) == [0, 1]


def test_halves_share_no_problem(tiny):
    problems = read_problems(tiny.forget)
    doubled = [*problems, problems[0]]
    one, other = halves(doubled, seed=0)
    assert not {p.problem for p in one} & {p.problem for p in other}
    assert {p.problem for p in [*one, *other]} == {p.problem for p in problems}
    assert len(one) + len(other) == 13
    assert halves(doubled, seed=0) == (one, other)
    assert halves(doubled, seed=1) != (one, other)
    with pytest.raises(MastlensError, match="two problems"):
        halves(problems[:1], seed=0)


def item_rows(role, variant, correct, *, baseline=False, step=0):
    n = len(correct)
    return pd.DataFrame(
        {
            "attack": "a",
            "variant": variant,
            "model": role,
            "step": step,
            "baseline": baseline,
            "split": "forget",
            "item": range(n),
            "correct": np.array(correct, dtype=bool),
            "logprob_solution": -1.0 * np.arange(n),
            "solution_tokens": 2,
            "truncated": False,
        }
    )


def test_recovery_by_hand():
    items = pd.concat(
        [
            item_rows("edited", "none", [1, 1, 0, 0, 0, 0, 0, 0, 0, 0], baseline=True),
            item_rows("edited", "hard", [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]),
            item_rows("source", "none", [1] * 10, baseline=True),
            item_rows("source", "hard", [1] * 9 + [0]),
            item_rows("control", "none", [0] * 10, baseline=True),
            item_rows("control", "hard", [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]),
        ]
    )
    table = summarise_attack(items).set_index(["model", "variant"])
    hard = table.loc[("edited", "hard")]
    assert hard["recovered"] == pytest.approx((0.6 - 0.2) / (1.0 - 0.2))
    assert hard["recovered_beyond_control"] == pytest.approx((0.4 - 0.2) / 0.8)
    assert hard["recovered_low"] < 0.5 < hard["recovered_high"]
    assert hard["logprob_solution"] == pytest.approx(-45 / 20)
    assert (hard["ci_low"], hard["ci_high"]) == (wilson(6, 10).low, wilson(6, 10).high)
    assert table.loc[("edited", "none"), ["recovered", "recovered_low", "recovered_high"]].tolist() == [0, 0, 0]
    assert table.loc[["source", "control"], "recovered"].isna().all()


def test_what_merely_teaches_recovers_nothing_beyond_the_control():
    taught = [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    items = [item_rows("edited", "none", [0] * 10, baseline=True), item_rows("edited", "hard", taught)]
    items += [item_rows("source", "none", [1] * 10, baseline=True), item_rows("control", "none", [0] * 10)]
    items[-1]["baseline"] = True
    row = summarise_attack(pd.concat([*items, item_rows("control", "hard", taught)])).set_index("model").loc["edited"]
    attacked = row[row["variant"] == "hard"].iloc[0]
    assert attacked["recovered"] == pytest.approx(0.4)
    assert attacked["recovered_beyond_control"] == 0
    assert attacked["recovered_beyond_control_low"] < 0 < attacked["recovered_beyond_control_high"]
    alone = summarise_attack(pd.concat(items[:3]))
    assert alone["recovered_beyond_control"].isna().all()


def test_interval_of_a_share_against_scipy():
    from scipy import stats

    generator = np.random.default_rng(0)
    forgotten = (generator.random(200) < 0.6).astype(float) - (generator.random(200) < 0.05)
    back = forgotten * (generator.random(200) < 0.5)
    share, ends = recovered_share(back, forgotten)
    assert share == pytest.approx(back.sum() / forgotten.sum())
    oracle = stats.bootstrap(
        (back, forgotten), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True,
        method="BCa", n_resamples=10_000, rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert (ends.low, ends.high) == pytest.approx((oracle.low, oracle.high), abs=0.02)
    assert recovered_share(back, forgotten)[1] == ends


def test_nothing_forgotten_has_no_share_and_little_no_interval():
    share, ends = recovered_share(np.ones(5), np.zeros(5))
    assert math.isnan(share)
    assert math.isnan(ends.low)
    share, ends = recovered_share(np.eye(20)[0], np.eye(20)[0])  # one item: not told from none
    assert share == 1
    assert math.isnan(ends.low)
