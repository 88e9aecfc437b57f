"""Objectives against values worked out by hand, and against the traps that ports of them fell into."""

import math

import pytest
import torch

import mastlens as m
from mastlens.models.likelihood import Head, Reading
from mastlens.unlearning.losses import gradient_ascent, npo, retain_nll, simnpo
from mastlens.unlearning.objectives import OBJECTIVES, ForgetBatch, OutputObjective, SteeringObjective, make_objective
from mastlens.unlearning.token_weights import TokenWeights

from .plain import sigmoid


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_gradient_ascent_and_retain_by_hand():
    sums, counts = vector(-6, -1), vector(4, 1)
    # (-6 - 1) / (4 + 1); the mean of the two token means would be (-1.5 - 1) / 2 = -1.25
    assert float(gradient_ascent(sums, counts)) == pytest.approx(-1.4)
    assert float(retain_nll(sums, counts)) == pytest.approx(1.4)


def test_npo_by_hand():
    # log-ratios -2 and 0; -beta * ratio = 1 and 0; log sigma(1) = -0.3132617, log sigma(0) = -0.6931472;
    # mean = -0.5032044; times -2 / 0.5
    loss = npo(vector(-6, -3), vector(-4, -3), beta=0.5)
    assert float(loss) == pytest.approx(2.0128177, abs=1e-6)


def test_npo_sign_trap():
    """What became less likely lowers the loss; with the sign wrong, -6 against -4 would give 4.0128."""
    less, same, more = (float(npo(vector(s), vector(-4), beta=0.5)) for s in (-6, -4, -2))
    assert less < same < more
    assert same == pytest.approx(2 / 0.5 * math.log(2))
    assert float(npo(vector(-6, -3), vector(-4, -3), beta=0.5)) != pytest.approx(4.0128177, abs=1e-3)


def test_npo_is_summed_and_simnpo_is_per_token():
    """The same text twice as long: NPO sees the ratio double, SimNPO sees no difference."""
    short = npo(vector(-3), vector(-1), beta=0.1)
    long = npo(vector(-6), vector(-2), beta=0.1)
    assert float(short) == pytest.approx(20 * math.log1p(math.exp(-0.2)))
    assert float(long) == pytest.approx(20 * math.log1p(math.exp(-0.4)))
    one = simnpo(vector(-3), vector(2), beta=2.5)
    two = simnpo(vector(-6), vector(4), beta=2.5)
    assert float(one) == pytest.approx(float(two))


def test_npo_mean_is_over_sequences_not_over_one_scalar():
    """One batch-mean loss inside the sigmoid is another objective (3.1, trap 6)."""
    sums, reference = vector(-9, -1), vector(-1, -1)
    right = -2 / 0.5 * (math.log(sigmoid(4)) + math.log(sigmoid(0))) / 2
    wrong = -2 / 0.5 * math.log(sigmoid(2))
    assert float(npo(sums, reference, beta=0.5)) == pytest.approx(right)
    assert right != pytest.approx(wrong, rel=0.1)


def test_simnpo_by_hand():
    # NLL per token 1.5 and 1.0; times 2.5: 3.75 and 2.5; log sigma: -0.0232455 and -0.0788897;
    # mean -0.0510676, times -2 / 2.5 = 0.0408541
    loss = simnpo(vector(-6, -3), vector(4, 3), beta=2.5)
    assert float(loss) == pytest.approx(0.0408541, abs=1e-6)


def test_simnpo_margin_stands_inside_beta():
    """As in the code and not as in the paper: delta = gamma_paper / beta."""
    inside = simnpo(vector(-6), vector(4), beta=2.5, delta=1.0)
    # 2.5 * (1.5 - 1.0) = 1.25
    assert float(inside) == pytest.approx(2 / 2.5 * math.log1p(math.exp(-1.25)))
    outside = 2 / 2.5 * math.log1p(math.exp(-(2.5 * 1.5 - 1.0)))
    assert float(inside) != pytest.approx(outside, rel=0.1)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_npo_gradient_is_the_analytic_weight(beta):
    sums = vector(-12, -3, -0.5).requires_grad_()
    reference = vector(-4, -3, -2)
    npo(sums, reference, beta=beta).backward()
    # d/ds of (2/beta) softplus(beta (s - r)) / B = 2 sigma(beta (s - r)) / B
    expected = [2 * sigmoid(beta * (s - r)) / 3 for s, r in ((-12, -4), (-3, -3), (-0.5, -2))]
    assert sums.grad.tolist() == pytest.approx(expected)


def test_simnpo_gradient_is_the_analytic_weight():
    sums, counts = vector(-12, -3).requires_grad_(), vector(6, 2)
    simnpo(sums, counts, beta=2.5, delta=0.2).backward()
    expected = [2 / n * sigmoid(-2.5 * (-s / n - 0.2)) / 2 for s, n in ((-12, 6), (-3, 2))]
    assert sums.grad.tolist() == pytest.approx(expected)


def test_npo_without_temperature_is_gradient_ascent():
    """Zhang et al., proposition 1: as beta -> 0, loss - 2 log 2 / beta -> mean log-ratio, gradient weight 1."""
    sums, reference = vector(-7, -2).requires_grad_(), vector(-4, -3)
    loss = npo(sums, reference, beta=1e-6)
    assert float(loss.detach()) - 2 * math.log(2) / 1e-6 == pytest.approx(((-7 + 4) + (-2 + 3)) / 2, abs=1e-4)
    loss.backward()
    assert sums.grad.tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    far = vector(-7, -2).requires_grad_()
    npo(far, reference, beta=2.0).backward()
    assert far.grad.tolist() != pytest.approx([0.5, 0.5], abs=0.1)


def test_npo_saturates_without_overflow():
    """A hundred nats down at beta 0.1: weight e^-10, and far beyond it zero, never NaN."""
    sums = vector(-100, -1e5, 1e5).requires_grad_()
    loss = npo(sums, vector(0, 0, 0), beta=0.1)
    assert math.isfinite(float(loss.detach()))
    loss.backward()
    assert float(sums.grad[0]) == pytest.approx(2 * math.exp(-10) / 3, rel=1e-4)
    assert float(sums.grad[1]) == 0
    assert float(sums.grad[2]) == pytest.approx(2 / 3)


def test_the_table_of_objectives():
    plain = {"ga", "graddiff", "npo", "npo-token", "simnpo", "dpo", "wga", "satimp", "undial", "ce-u", "rewind"}
    plain |= {"gates"}
    steering = {"rmu", "rmu-rtp", "r2mu-v0", "r2mu"}
    assert set(OBJECTIVES) == plain | steering
    assert {name for name, kind in OBJECTIVES.items() if issubclass(kind, OutputObjective)} == plain
    assert {name for name, kind in OBJECTIVES.items() if issubclass(kind, SteeringObjective)} == steering
    assert {preset for kind in OBJECTIVES.values() for preset in kind.presets} == {
        *("mast", "open-unlearning", "paper", "release"),
    }
    assert all(kind.over in ("sequences", "tokens", "later tokens") for kind in OBJECTIVES.values())
    assert make_objective("npo").needs.reference
    assert not any(make_objective(name).needs.reference for name in ("ga", "graddiff", "simnpo"))
    assert make_objective("graddiff").needs.retain
    assert not make_objective("ga").needs.retain


@pytest.mark.parametrize(
    ("preset", "name", "beta", "delta", "gamma", "alpha"),
    [
        ("mast", "npo", 0.5, 0.0, 1.0, 1.0),
        ("mast", "simnpo", 2.5, 0.0, 1.0, 1.0),
        ("mast", "ga", None, None, 1.0, 1.0),
        ("open-unlearning", "graddiff", None, None, 1.0, 1.0),
        ("open-unlearning", "npo", 0.1, 0.0, 1.0, 1.0),
        ("open-unlearning", "simnpo", 4.5, 0.0, 0.125, 1.0),
    ],
)
def test_presets(preset, name, beta, delta, gamma, alpha):
    made = make_objective(name, preset=preset)
    assert (made.gamma, made.retain_weight) == (gamma, alpha)
    if beta is not None:
        assert (made.settings()["beta"], made.settings()["delta"]) == (beta, delta)


def test_what_is_given_goes_before_the_preset():
    made = make_objective("simnpo", preset="open-unlearning", beta=3.0, delta=0.1, gamma=0.5, retain_weight=2.0)
    assert (made.beta, made.delta, made.gamma, made.retain_weight) == (3.0, 0.1, 0.5, 2.0)
    kept = make_objective("simnpo", preset="open-unlearning", retain_weight=2.0)
    assert (kept.beta, kept.gamma, kept.retain_weight) == (4.5, 0.125, 2.0)
    assert make_objective("simnpo", preset="open-unlearning").retain_weight == 1.0  # the preset itself is untouched


def reading(rows, table):
    """Return what a model says whose logits are given: one list of logits, target and row a token."""
    logits, targets = zip(*table, strict=True)
    return Reading(torch.tensor(logits), Head(), torch.tensor(targets), torch.tensor(rows), max(rows) + 1)


def shifted(now):
    """Return logits before: the present ones and a little, some tokens at a time."""
    return lambda part: now.hidden[part] + torch.tensor([0.1, 0.0, 0.0])


TWO = ([0, 0, 1], [([0.0, 1.0, 2.0], 2), ([1.0, 0.0, -1.0], 1), ([0.5, 0.5, 0.0], 0)])
LOGPROBS = [
    2 - math.log(1 + math.e + math.e**2),
    -math.log(1 + math.e + 1 / math.e),
    0.5 - math.log(1 + 2 * math.e**0.5),
]


def test_forget_loss_is_the_pure_function():
    now = reading(*TWO)
    sums, counts, reference = now.logprobs.sums, now.logprobs.counts, torch.tensor([-5.0, -2.0])
    assert sums.tolist() == pytest.approx([LOGPROBS[0] + LOGPROBS[1], LOGPROBS[2]])
    batch = ForgetBatch(now, reference, shifted(now), torch.tensor([-1.0, -2.0]), -reference)
    for name, expected in {
        "ga": gradient_ascent(sums, counts),
        "graddiff": gradient_ascent(sums, counts),
        "npo": npo(sums, reference, beta=0.5),
        "simnpo": simnpo(sums, counts, beta=2.5, delta=0.0),
    }.items():
        made = make_objective(name, preset="mast", gamma=0.3)  # gamma weighs the term outside
        assert float(made.forget_loss(batch)) == pytest.approx(float(expected)), name
    p = [math.exp(v) for v in LOGPROBS]
    for name, expected in {
        "npo-token": 2 * sum(math.log1p(math.exp(d)) for d in ((sum(LOGPROBS[:2]) + 5) / 2, LOGPROBS[2] + 2)) / 2,
        "wga": sum(a * b for a, b in zip(p, LOGPROBS, strict=True)) / 3,
        "satimp": sum(a**5 * (1 - a) * b for a, b in zip(p, LOGPROBS, strict=True)) / 3,
    }.items():
        assert float(make_objective(name).forget_loss(batch)) == pytest.approx(expected), name


@pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if issubclass(kind, OutputObjective)])
def test_weights_of_one_change_nothing_and_of_a_half_do(name):
    now = reading(*TWO)
    refusals = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    batch = ForgetBatch(now, torch.tensor([-5.0, -2.0]), shifted(now), *refusals)
    made = make_objective(name)
    plainly = float(made.forget_loss(batch))
    assert float(made.forget_loss(batch, torch.ones(3))) == pytest.approx(plainly, rel=1e-5)
    uneven = torch.tensor([1.0, 0.25, 0.5])
    assert float(made.forget_loss(batch, uneven)) != pytest.approx(plainly, rel=1e-3)
    if name in ("npo", "npo-token", "dpo"):  # log-ratios are rescaled by length / sum of weights: even ones cancel
        assert float(made.forget_loss(batch, torch.full((3,), 0.5))) == pytest.approx(plainly, rel=1e-5)


def test_settings_that_do_not_go_together():
    for name, given, told in (
        ("rmu", {}, "--layer"),
        ("rmu", {"layer": 1, "steering": 0.0}, "steering"),
        ("rmu", {"layer": 1, "retain_loss": "kl"}, "no retain_loss"),
        ("rmu", {"layer": 1, "token_weights": TokenWeights()}, "no token_weights.*of .*r2mu"),
        ("ga", {"layer": 1}, "no layer.*It has gamma, retain_weight, retain_loss; layer is a coefficient of .*rmu"),
        ("npo", {"beta3": 1}, "Did you mean 'beta'"),
        ("npo", {"beta": "low"}, "beta of npo is a number, not 'low'"),
        ("rmu", {"layer": 1.5}, "layer of rmu is a whole number, not 1.5"),
        ("npo", {"preset": "mats"}, "Did you mean 'mast'"),
        ("rmu", {"layer": 1, "unthink_weight": 1.0}, "no unthink_weight"),
        ("r2mu-v0", {"layer": 1, "cot_weight": 1.0}, "no cot_weight"),
        ("r2mu", {"layer": 1, "reflection": "code"}, "rmu-rtp"),
        ("r2mu", {"layer": 1, "unthink_weight": -1.0}, "negative"),
        ("r2mu", {"layer": 1, "steering": 2.0, "control_norm": 6.5}, "give one"),
        ("r2mu", {"layer": 1, "trace_tokens": 0}, "--trace-tokens"),
        ("rmu", {"layer": 1, "trace_tokens": 9}, "trace_tokens would change nothing"),
        ("npo", {"text_tokens": 9}, "text_tokens would change nothing"),
        ("rmu-rtp", {"layer": 1, "reflection": "papers"}, "paper"),
        ("ga", {"retain_loss": "l2"}, "nll, kl"),
        ("wga", {"preset": "mast"}, "says nothing of wga"),
        ("satimp", {"beta2": -1.0}, "negative"),
    ):
        with pytest.raises(m.MastlensError, match=told):
            make_objective(name, **given)
    for wrong in ({"budget": 0.0}, {"budget": 1.0}, {"lr": 0.0}, {"every": 0}):
        with pytest.raises(m.MastlensError):
            TokenWeights(**wrong)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["beta", "delta", "gamma", "retain_weight"])
def test_coefficients_that_are_no_numbers(which, value):
    with pytest.raises(m.MastlensError) as error:
        make_objective("simnpo", **{which: value})
    assert which in str(error.value).replace("-", "_").replace(" ", "_")


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_beta_must_be_positive(beta):
    with pytest.raises(m.MastlensError, match="beta"):
        make_objective("npo", beta=beta)
    assert make_objective("npo", beta=0.1, retain_weight=0.0).retain_weight == 0.0  # zero is a weight like any other
