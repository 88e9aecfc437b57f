"""One step of each objective against the formulas of its source, in float64 and plain torch, a problem at a time.

The model is moved away from its source first, so that nothing is zero by symmetry. Loss, gradient norm and the whole
gradient must agree; so must the gradient of the token weights' scorer.
"""

import copy

import pytest
import torch
from torch.nn.functional import logsigmoid

import mastlens as m
from mastlens.problems.encoding import EncodedProblem
from mastlens.unlearning import TokenWeights, Unlearner
from mastlens.unlearning.objectives import make_objective
from mastlens.unlearning.scorer import Scorer

UPPER = ["model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"]
TIED = ["model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight"]  # the output embedding is moved too
BATCH, CLIP, ALPHA, GAMMA = 3, 1.0, 0.7, 1.3
BETA = {"npo": 0.3, "npo-token": 2.0, "simnpo": 3.0, "dpo": 0.2, "wga": 1.5, "satimp": 1.5, "undial": 4.0}


def draw_problems(seed, *, alike=None):
    """Return five problems of random tokens and of different lengths; ``alike`` gives the prompts."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(1, 380, (length,), generator=generator).tolist())

    prompts = [tokens(2, 9) if alike is None else alike[item].prompt for item in range(5)]
    return [EncodedProblem(prompt, tokens(2, 12)) for prompt in prompts]


FORGET, RETAIN = draw_problems(1), draw_problems(2)
REFUSALS = draw_problems(3, alike=FORGET)


def moved_model(folder, names):
    """Return (model as stored, parameters by name with noise on those named)."""
    model = m.Checkpoint(folder).load_model()
    generator = torch.Generator().manual_seed(7)
    named = dict(model.named_parameters())
    return model, {n: named[n].detach() + 0.03 * torch.randn(named[n].shape, generator=generator) for n in names}


def look(model, problem):
    """Return logits (tokens, vocabulary) before each solution token, the states below them, and the tokens."""
    ids = torch.tensor([[*problem.prompt, *problem.solution]])
    kept = []
    handle = model.lm_head.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    logits = model(input_ids=ids).logits[0]
    handle.remove()
    first = len(problem.prompt) - 1
    return logits[first:-1], kept[0][0, first:-1], list(problem.solution)


def log_p(logits, tokens):
    table = logits - logits.exp().sum(dim=1, keepdim=True).log()
    return torch.stack([table[place, token] for place, token in enumerate(tokens)])


def weigh_nothing(states):
    return None


def forget_loss(name, now, source, items, weigh, *, constant_model=False):
    """Return the forget term over a batch: sources' formulas, tokens one by one where they are about tokens.

    Args:
        name: The objective.
        now: The model, moved.
        source: The model before unlearning.
        items: Numbers of the problems.
        weigh: States to g, one a token; None for no weights.
        constant_model: Detach everything of the model: the scorer's view.
    """
    beta = BETA.get(name, 0.0)
    by_token, by_problem = [], []
    for item in items:
        logits, states, tokens = look(now, FORGET[item])
        before = look(source, FORGET[item])[0].detach()
        if constant_model:
            logits = logits.detach()
        g = weigh(states.detach())
        values = log_p(logits, tokens)
        p = values.detach().exp()
        length = len(tokens)
        plain_sum = values.sum() if g is None else (g * values).sum()
        rescaled = plain_sum if g is None else plain_sum * length / g.sum()
        ratio = rescaled - log_p(before, tokens).sum()
        if name == "npo":
            by_problem.append(-2 / beta * logsigmoid(-beta * ratio))
        elif name == "npo-token":
            by_problem.append(-2 / beta * logsigmoid(-beta * ratio / length))
        elif name == "simnpo":
            by_problem.append(-2 / beta * logsigmoid(beta * (-plain_sum / length - 0.1)))
        elif name == "dpo":
            refusal, _, said = look(now, REFUSALS[item])
            first = look(source, REFUSALS[item])[0].detach()
            preferred = log_p(refusal.detach() if constant_model else refusal, said).sum() - log_p(first, said).sum()
            by_problem.append(-2 / beta * logsigmoid(beta * (preferred - ratio)))
        for place, token in enumerate(tokens):
            weight = 1.0 if g is None else g[place]
            table = logits[place].log_softmax(0)
            if name == "ga":
                by_token.append(weight * values[place])
            elif name == "wga":
                by_token.append(weight * p[place] ** (beta * weight) * values[place])
            elif name == "satimp":
                by_token.append(weight * p[place] ** beta * (1 - p[place]) ** 0.5 * values[place])
            elif name == "undial":
                onehot = torch.zeros_like(before[place])
                onehot[token] = 1
                teacher = (before[place] - beta * onehot).softmax(0)
                by_token.append(weight * torch.nn.functional.cross_entropy(logits[place][None], teacher[None]))
            elif name == "ce-u" and place:
                others = [v for v in range(len(table)) if v != token]
                teacher = logits[place].detach()[others].softmax(0)
                by_token.append(-weight * (teacher * table[others]).sum())
    return torch.stack(by_problem or by_token).mean()


def retain_term(kind, now, source, items):
    total, count = 0.0, 0
    for item in items:
        logits, _, tokens = look(now, RETAIN[item])
        before = look(source, RETAIN[item])[0].detach().log_softmax(1)
        if kind == "nll":
            total = total - log_p(logits, tokens).sum()
        else:
            total = total + (before.exp() * (before - logits.log_softmax(1))).sum()
        count += len(tokens)
    return total / count


def make_run(tiny, name, names, *, weights=None, retain_loss="nll", steps=1):
    """Return (a run whose model was moved, the same model and its source in float64, the scorer's w)."""
    model, moved = moved_model(tiny.rlvr, names)
    source = copy.deepcopy(model).double()
    made = make_objective(
        name,
        beta=BETA.get(name),
        beta2=0.5 if name == "satimp" else None,
        delta=0.1 if name == "simnpo" else None,
        gamma=GAMMA,
        retain_weight=ALPHA,
        retain_loss=retain_loss,
        token_weights=weights,
    )
    run = Unlearner(
        model, names, made, FORGET, RETAIN, alternatives=REFUSALS, lr=1e-6, steps=steps, batch_size=BATCH, seed=3
    )
    named = dict(model.named_parameters())
    with torch.no_grad():
        for n in names:
            named[n].copy_(moved[n])
    return run, copy.deepcopy(model).double().requires_grad_(True), source


def unclipped(run, record):
    return [p.grad.double() * max(1.0, record.grad_norm / CLIP) for p in run.masters.parameters]


def check_gradients(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert float(theirs.norm()) > 1e-4  # there is something to compare
        assert float((ours - theirs).norm()) <= 2e-4 * float(theirs.norm())


@pytest.mark.parametrize("names", [UPPER, TIED], ids=["upper", "tied"])
@pytest.mark.parametrize(
    ("name", "retain_loss"),
    [
        ("ga", "nll"),
        ("npo", "kl"),
        ("npo-token", "nll"),
        ("simnpo", "kl"),
        ("dpo", "nll"),
        ("wga", "nll"),
        ("satimp", "nll"),
        ("undial", "kl"),
        ("ce-u", "nll"),
    ],
)
def test_loss_and_gradient(tiny, name, retain_loss, names):
    run, now, source = make_run(tiny, name, names, retain_loss=retain_loss)
    forget = forget_loss(name, now, source, run.schedules["forget"][0], weigh_nothing)
    retain = retain_term(retain_loss, now, source, run.schedules["retain"][0])
    named = dict(now.named_parameters())
    expected = torch.autograd.grad(GAMMA * forget + ALPHA * retain, [named[n] for n in names])
    record = run.step()
    assert record.forget_loss == pytest.approx(float(forget.detach()), rel=1e-4)
    assert record.retain_loss == pytest.approx(float(retain.detach()), rel=1e-4)
    assert record.grad_norm == pytest.approx(float(torch.cat([g.flatten() for g in expected]).norm()), rel=1e-4)
    check_gradients(unclipped(run, record), expected)


@pytest.mark.parametrize("names", [UPPER, TIED], ids=["upper", "tied"])
@pytest.mark.parametrize("name", ["ga", "npo", "npo-token", "simnpo", "dpo", "wga", "satimp", "undial", "ce-u"])
def test_token_weights_in_the_models_step_and_in_the_scorers(tiny, name, names):
    settings = TokenWeights(budget=0.3, every=1, budget_weight=4.0, entropy_weight=0.2, decay=0.05, lr=0.01)
    run, now, source = make_run(tiny, name, names, weights=settings, steps=2)
    drawn = 0.2 * torch.randn(32, generator=torch.Generator().manual_seed(11))
    run.scorer = Scorer(32, settings, torch.device("cpu"))
    with torch.no_grad():
        run.scorer.w.copy_(drawn)
    w = drawn.double()

    # The model's step: g is a constant.
    named = dict(now.named_parameters())
    forget = forget_loss(name, now, source, run.schedules["forget"][0], lambda states: torch.sigmoid(states @ w))
    retain = retain_term("nll", now, source, run.schedules["retain"][0])
    expected = torch.autograd.grad(GAMMA * forget + ALPHA * retain, [named[n] for n in names])
    record = run.step()
    assert torch.equal(run.scorer.w.detach(), drawn)  # the first step of the model is before the first of the scorer
    assert record.forget_loss == pytest.approx(float(forget.detach()), rel=1e-4)
    check_gradients(unclipped(run, record), expected)

    # The scorer's step: the model is a constant, on the second step's batch and at the second step's weights.
    now = copy.deepcopy(run.model).double().requires_grad_(False)
    w.requires_grad_(True)
    seen = []

    def weigh(states):
        seen.append(torch.sigmoid(states @ w))
        return seen[-1]

    forget = forget_loss(name, now, source, run.schedules["forget"][1], weigh, constant_model=True)
    g = torch.cat(seen)
    entropy = -(g * g.log() + (1 - g) * (1 - g).log()).mean()
    loss = GAMMA * forget + 0.2 * entropy + 4.0 * (g.mean() - 0.3) ** 2 + 0.05 * (w**2).sum()
    (slope,) = torch.autograd.grad(loss, [w])
    run.step()
    assert float((run.scorer.w.grad.double() - slope).norm()) <= 1e-4 * float(slope.norm())
    # AdamW's first step goes lr along the sign of each slope.
    assert torch.allclose((run.scorer.w.detach() - drawn).double(), -0.01 * slope.sign(), atol=1e-4)
