"""ATWU's two presets: the paper's scorer as before, the authors' as their code has it, computed once more by hand."""

import pytest
import torch

import mastlens as m
from mastlens.models.likelihood import read_solutions
from mastlens.problems.encoding import collate, encode_problems
from mastlens.problems.reading import read_problems
from mastlens.unlearning.objectives import make_objective
from mastlens.unlearning.scorer import Scorer
from mastlens.unlearning.token_weights import TokenWeights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch(tiny):
    checkpoint = m.Checkpoint(tiny.rlvr)
    problems = encode_problems(read_problems(tiny.forget)[:3], checkpoint.load_tokenizer())
    return checkpoint.load_model(dtype=torch.float32), collate(problems)


def test_a_tokens_own_state_is_the_one_behind_it_and_the_rest_stays(batch):
    model, texts = batch
    plain, own = read_solutions(model, texts), read_solutions(model, texts, own=True)
    assert plain.own is None
    for part in ("hidden", "targets", "rows"):
        assert torch.equal(getattr(plain, part), getattr(own, part)), part
    states = model(texts.input_ids, attention_mask=texts.attention_mask.long(), output_hidden_states=True)
    last = states.hidden_states[-1]  # behind the last norm
    assert torch.allclose(own.own, last[texts.is_solution], atol=1e-5)
    before = torch.nn.functional.pad(texts.is_solution[:, 1:], (0, 1))
    assert torch.allclose(own.hidden, last[before], atol=1e-5)
    assert not torch.allclose(own.own, own.hidden, atol=1e-2)


def test_the_authors_scorer_takes_their_steps():
    """SGD with momentum and decay on a linear layer with a bias, a hard budget in each text, clipped, a line to 0."""
    draw = torch.Generator().manual_seed(0)
    hidden, rows = torch.randn(6, 3, generator=draw), torch.tensor([0, 0, 1, 1, 1, 2])
    losses = torch.rand(6, generator=draw)
    settings = TokenWeights(preset="authors", lr=0.5, every=1)
    scorer = Scorer(3, settings, CPU, factor=2.0)
    layer = torch.nn.Linear(3, 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    plain = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(plain, start_factor=1.0, end_factor=0.0, total_iters=4)
    for done in range(3):
        scorer.learn(hidden, lambda weights: (weights * losses).mean(), rows, settings.rate_at(done, 4))
        g = torch.sigmoid(layer(hidden))[:, 0]
        clamped = g.clamp(1e-6, 1 - 1e-6)
        entropy = -(clamped * clamped.log() + (1 - clamped) * (1 - clamped).log()).mean()
        hard = (g > 0.5).float() - g.detach() + g
        shares = torch.stack([hard[rows == text].mean() for text in range(3)])
        squared = sum(p.square().sum() for p in layer.parameters())
        loss = (2 * g * losses).mean() + entropy + 15 * ((shares - 0.2) ** 2).mean() + squared
        plain.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        plain.step()
        schedule.step()
        mine = torch.cat([layer.weight.detach()[0], layer.bias.detach()])
        assert torch.allclose(scorer.w.detach(), mine, atol=1e-6), done
    assert float(scorer.w[-1]) != 0
    assert len(Scorer(3, TokenWeights(), CPU).w) == 3


def test_when_a_scorer_learns_and_what_its_weights_count():
    paper, authors = TokenWeights(every=5), TokenWeights(every=5, preset="authors")
    assert [done for done in range(12) if paper.learns_at(done)] == [5, 10]
    assert [done for done in range(12) if authors.learns_at(done)] == [4, 9]
    assert [paper.rate_at(done, 20) for done in (5, 10)] == [1.0, 1.0]
    assert [authors.rate_at(done, 20) for done in (4, 9, 14, 19)] == [1.0, 0.75, 0.5, 0.25]
    assert (authors.factor("simnpo"), authors.factor("npo"), paper.factor("simnpo")) == (2.0, 1.0, 1.0)


def test_a_run_takes_either_and_the_record_of_the_papers_is_as_before(tiny, tmp_path):
    asked = {"rlvr": tiny.rlvr, "forget": tiny.forget, "objective": "wga", "steps": 4, "lr": 1e-3, "batch_size": 4}
    asked |= {"where": "layers.1.self_attn.v", "progress": False}
    made = {
        preset: m.unlearn(**asked, token_weights=TokenWeights(every=2, preset=preset), micro_batch=micro)
        for preset, micro in (("paper", "auto"), ("authors", "auto"))
    }
    weights = {preset: run.token_weights["weight"] for preset, run in made.items()}
    assert weights["paper"].nunique() > 1
    assert weights["authors"].nunique() > 1
    assert not torch.allclose(*(torch.tensor(w.to_numpy()) for w in weights.values()), atol=1e-3)
    kept = {preset: run.settings["objective"]["token_weights"] for preset, run in made.items()}
    assert "preset" not in kept["paper"]
    assert kept["authors"]["preset"] == "authors"
    # Texts apart, two at a time: the same step to rounding, the authors' budget being one of texts.
    apart = m.unlearn(**asked, token_weights=TokenWeights(every=2, preset="authors"), micro_batch=2)
    assert torch.allclose(
        *(torch.tensor(run.token_weights["weight"].to_numpy()) for run in (made["authors"], apart)), atol=1e-4
    )
    with pytest.raises(m.UnknownName, match="no preset of token weights 'author'"):
        make_objective("wga", token_weights=TokenWeights(preset="author"))
