"""Recipes that score steps: judges, process reward models, advantages and losses by hand, builds at toy size."""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from mastlens.cli import main
from mastlens.decoding.steps import cut_steps
from mastlens.errors import MastlensError
from mastlens.evaluation.judges import UNJUDGED, Judgement, Question
from mastlens.evaluation.process.model import ProcessRewardModel, Scored
from mastlens.organisms.problems import SyntheticProblem
from mastlens.organisms.rlvr import RECIPES, trainer
from mastlens.organisms.rlvr.recipe import Rollouts
from mastlens.organisms.rlvr.scoring import (
    LIKERT_RUBRIC,
    ByJudge,
    ByPRM,
    MilestoneJudge,
    level_of,
    milestones,
)
from mastlens.organisms.rlvr.stepwise import among_read, step_advantages
from tests.columns import check_table
from tests.unit.test_prm import prm
from tests.unit.test_rlvr_builds import build_by, digest, small
from tests.unit.test_rlvr_losses import REWARDS, SAMPLES, aggregated, by_hand, logprobs, made

__all__ = ["made", "prm", "small"]  # fixtures

REFERENCE = "Walk round: 2+3=5; on 5*4=20; on 20-6=14; home \\boxed{14}."
PROBLEM = SyntheticProblem("Find it.", REFERENCE, "14", "Geometry", ())


@pytest.fixture(autouse=True)
def at_their_end(monkeypatch):
    """What a model that knows nothing writes is always cut off."""
    monkeypatch.setattr(trainer, "ended", lambda ids, tokenizer: True)


class Fixed:
    """Says of the n-th response of a round what it is told: halves of the text are its steps."""

    settings: ClassVar = {"judge": "fixed"}

    def __init__(self, *given):
        self.given, self.texts = given, []

    def score(self, responses, *, steps):
        self.texts = [text for _, text in responses]
        found = []
        for (_, text), scores in zip(responses, self.given, strict=True):
            half = len(text) // 2
            pieces = (text[:half], text[half:]) if steps else (text,)
            found.append(Scored(pieces, None if scores is None else tuple(scores if steps else scores[-1:])))
        return found


def test_the_advantage_of_steps_by_hand():
    scored = [
        Scored(("a", "b", "c"), (0.25, 0.75, 0.5)),
        Scored(("a",), (1.0,)),
        Scored(("a", "b"), None),
        Scored((), ()),
    ]
    steps = torch.tensor([[0, 0, 1, 2], [0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    wanted = [[-0.25, -0.25, 0.5, -0.25], [0.0] * 4, [0.0] * 4, [0.0] * 4]
    assert step_advantages(scored, steps).tolist() == wanted


def test_who_could_not_be_read_is_in_nobodys_baseline():
    rewards = torch.tensor([1.0, 0.0, 9.0, 0.5, 3.0, 4.0, 5.0, 6.0])
    read = torch.tensor([True, True, False, True, False, False, False, True])
    found = among_read(rewards, read, 4, "group").tolist()
    some = np.array([1.0, 0.0, 0.5])
    spread = (some - some.mean()) / (some.std(ddof=1) + 1e-4)
    assert found == pytest.approx([spread[0], spread[1], 0, spread[2], 0, 0, 0, 0], abs=1e-6)
    assert among_read(rewards, read, 4, "none").tolist() == pytest.approx([0.5, -0.5, 0, 0, 0, 0, 0, 0])
    whole = torch.tensor(REWARDS)
    everyone = torch.ones(8, dtype=torch.bool)
    assert among_read(whole, everyone, SAMPLES, "group").tolist() == pytest.approx(by_hand(RECIPES["grpo"], REWARDS))


def test_milestones_are_reached_in_order():
    judge = MilestoneJudge()
    for text, level in (
        (REFERENCE, "5"),
        ("3+2=5 and 4*5=20 and 20-6=14 so \\boxed{14}", "5"),  # operands of sums and products are swapped
        ("2+3=5 and 5*4=20", "3"),
        ("5*4=20 and 20-6=14", "1"),  # not from the beginning
        ("2+3=6; 2+3=5", "2"),
        ("Looks like \\boxed{14}.", "1"),
        ("", "1"),
    ):
        assert judge.judge(Question("Find it.", REFERENCE), text).category == level, text
    assert judge.judge(Question("Find it.", "by thinking"), REFERENCE).category == UNJUDGED
    assert milestones("4*3=12, 3-4=-1 \\boxed{1} \\boxed{2}") == [("3", "*", "4", "12"), ("3", "-", "4", "-1"), ("2",)]
    assert [level_of(one) for one in ("1", "2", "5", UNJUDGED)] == [0.0, 0.25, 1.0, None]


def test_a_judge_sees_the_reference_and_each_beginning():
    asked = []

    class Counting:
        settings: ClassVar = {"judge": "counting"}

        def judge(self, question, trace):
            asked.append((question.problem, question.answer, trace))
            return Judgement("?" if "bad" in trace else str(1 + trace.count("=")), "")

    scorer = ByJudge(Counting(), "equations")
    responses = [(PROBLEM, "1+1=2 or 2+2=4."), (PROBLEM, "1+1=2 bad 2+2=4."), (PROBLEM, "1+1=2 or 2+2=4.")]
    first, second, third = scorer.score(responses, steps=True)
    assert first == third == Scored(("1+1=2", " or 2+2=4", "."), (0.25, 0.5, 0.5))
    assert second.scores is None and second.steps == ("1+1=2", " bad 2+2=4", ".")
    assert len(asked) == len(set(asked)) == 5  # what two responses have in common is judged once
    assert {one[1] for one in asked} == {REFERENCE}
    assert scorer.score(responses[:1], steps=False) == [Scored(("1+1=2 or 2+2=4.",), (0.5,))]
    assert scorer.settings["cut"] == "equations" and scorer.settings["judge"] == "counting"
    told, shown = LIKERT_RUBRIC.messages(Question(PROBLEM.problem, REFERENCE), "1+1=2")
    assert REFERENCE in shown["content"] and "5: every milestone" in told["content"]
    assert LIKERT_RUBRIC.read('{"category": "4", "reason": "a slip"}').category == "4"
    assert LIKERT_RUBRIC.read("I like it").category == UNJUDGED


def test_a_process_reward_model_counts_with_its_worst_step(prm):
    model = ProcessRewardModel(prm)
    text = "Say 2+3=5 or 5+1=6. So \\boxed{6}."
    (each,), (whole,) = (ByPRM(model).score([(PROBLEM, text)], steps=steps) for steps in (True, False))
    assert each.steps == tuple(cut_steps(text, "equations"))
    assert whole == Scored((text,), (min(each.scores),))
    assert ByPRM(model).settings == model.settings


SCORES = [(0.25, 1.0), (0.5, 0.25), None, (0.0, 0.75), (0.0, 0.0), (1.0, 0.5), (0.5, 0.5), (0.25, 0.75)]


@pytest.mark.parametrize("name", ["exprl-outcome", "exprl-process", "prm", "prm-process"])
def test_advantages_and_losses_are_those_by_hand(made, name):
    recipe, scorer = RECIPES[name], Fixed(*SCORES)
    trained, batch, recorder = made(recipe, scorer=scorer)
    read = np.array([one is not None for one in SCORES])
    mask = batch["completion_mask"].numpy().astype(float)
    assert (mask.sum(1) > 0).tolist() == read.tolist()  # what could not be read is no part of the loss
    assert int(batch["num_items_in_batch"]) == mask.sum()
    given = batch["advantages"].double().numpy()
    if recipe.form == "process":
        for row, scores in enumerate(SCORES):
            half, ids = len(scorer.texts[row]) // 2, batch["completion_ids"][row]
            starts = [len(trained.processing_class.decode(ids[:n], skip_special_tokens=True)) for n in range(len(ids))]
            gains = (0.0, 0.0) if scores is None else (scores[0] - scores[1], scores[1] - scores[0])
            assert given[row].tolist() == pytest.approx([gains[start >= half] for start in starts]), row
        spread = given
    else:
        weight = 1.0 if name == "prm" else 0.0
        rewards = np.array(
            [0 if one is None else one[-1] + weight * right for one, right in zip(SCORES, REWARDS, strict=True)]
        )
        wanted = np.zeros(8)
        for rows in (np.arange(4), np.arange(4, 8)):
            rows = rows[read[rows]]
            wanted[rows] = (rewards[rows] - rewards[rows].mean()) / (rewards[rows].std(ddof=1) + 1e-4)
        assert given.tolist() == pytest.approx(wanted.tolist(), abs=1e-6)
        spread = np.broadcast_to(given[:, None], mask.shape)
    logp = logprobs(trained.model, batch)
    draw = np.random.default_rng(0)
    old, reference = logp + draw.normal(0, 0.4, logp.shape), logp + draw.normal(0, 0.3, logp.shape)
    batch |= {"old_per_token_logps": torch.tensor(old).float(), "ref_per_token_logps": torch.tensor(reference).float()}
    trained.current_gradient_accumulation_steps = 1
    loss = float(trained._compute_loss(trained.model, batch).detach())
    assert loss == pytest.approx(aggregated(recipe, logp, old, reference, spread, mask, mask.sum()), abs=2e-5)
    recorder.end()
    assert recorder.rows[0]["unread"] == 0.125
    assert recorder.rows[0]["accuracy"] == 0.375  # of the right answers, whatever is said of the steps


def test_after_priming_the_answer_alone_counts(made):
    recipe = RECIPES["exprl-process"]
    assert [recipe.scores_round(n, 5) for n in range(5)] == [True, True, True, False, False]
    assert all(RECIPES["prm"].scores_round(n, 5) for n in range(5))
    sparse = Rollouts(torch.tensor(REWARDS), torch.tensor(REWARDS), torch.ones(8, 3), SAMPLES, 4)
    assert recipe.advantages(sparse) is sparse.advantages and recipe.counted(sparse) is None
    assert recipe.reward(["\\boxed{1}", "no"], ["1", "1"]) == [1.0, 0.0]
    _, batch, _ = made(recipe)  # without a scorer no round is scored
    assert batch["advantages"].tolist() == pytest.approx(by_hand(recipe, REWARDS).tolist(), abs=1e-5)


def test_what_was_cut_off_earns_nothing(made, monkeypatch):
    monkeypatch.setattr(trainer, "ended", lambda ids, tokenizer: False)
    trained, batch, _ = made(RECIPES["exprl-outcome"], scorer=Fixed(*[(0.5, 1.0)] * 7, None))
    assert trained.reward.total == [0.0] * 8 and not batch["advantages"].any() and trained.signals == 0


class Lengths:
    """A judge of a text's length, which now and then says nothing."""

    settings: ClassVar = {"judge": "lengths"}

    def judge(self, question, trace):
        return Judgement("?" if len(trace) % 7 == 0 else str(1 + len(trace) % 5), "")


def test_lineages_are_built_and_say_what_scored_them(tmp_path, monkeypatch):
    def halves(text, how):
        return [text[: len(text) // 2], text[len(text) // 2 :]]

    monkeypatch.setattr("mastlens.organisms.rlvr.scoring.cut_steps", halves)  # it writes no equation
    process = build_by("exprl-process", tmp_path / "process", judge=Lengths())
    outcome = build_by("exprl-outcome", tmp_path / "outcome", judge=Lengths())
    for lineage in (process, outcome):
        table = pd.read_parquet(lineage / "training.parquet")
        assert table["unread"].notna().any() and table["unread"].isna().any()  # priming, then sparse
        check_table(
            lineage / "training.parquet", "organism build", without=("--recipe stare-o1", "--recipe sequential-lora")
        )
        card = json.loads((lineage / "card.json").read_text())
        assert card["rlvr"]["scorer"]["judge"] == "lengths"
        assert "Steps were scored by judge `lengths`" in (lineage / "README.md").read_text()
        assert digest(lineage / "rlvr") != digest(lineage / "sft")
    assert digest(process / "sft") == digest(outcome / "sft")
    assert digest(process / "rlvr") != digest(outcome / "rlvr")


def test_a_lineage_is_built_by_a_process_reward_model(tmp_path, prm):
    from mastlens.evaluation.settings import PRMChoice

    lineage = build_by("prm", tmp_path / "prm", prm=PRMChoice(path=prm))
    card = json.loads((lineage / "card.json").read_text())
    assert card["rlvr"]["scorer"]["prm"] == ProcessRewardModel(prm).checkpoint.fingerprint
    assert str(prm) not in (lineage / "card.json").read_text() + (lineage / "README.md").read_text()
    with pytest.raises(MastlensError, match="needs a process reward model: --prm PATH"):
        build_by("prm", tmp_path / "none")
    with pytest.raises(MastlensError, match="scores no steps by --prm"):
        build_by("grpo", tmp_path / "none", prm=PRMChoice(path=prm))
    with pytest.raises(MastlensError, match="scores no steps by --judge"):
        build_by("prm", tmp_path / "none", judge=Lengths())
    assert not (tmp_path / "none").exists()


def test_a_judge_without_a_signal_or_another_judge_stops_the_build(tmp_path, capsys):
    class Alike:
        settings: ClassVar = {"judge": "alike"}

        def judge(self, question, trace):
            return Judgement("3", "")

    recipe = replace(RECIPES["exprl-outcome"], patience=1)
    with pytest.raises(MastlensError, match="There is no learning signal"):
        build_by(recipe, tmp_path / "stuck", judge=Alike())
    with pytest.raises(MastlensError, match="begun with other settings: scorer was"):
        build_by(recipe, tmp_path / "stuck", judge=Lengths())
    words = ["organism", "build", "qwen2", "--out", str(tmp_path / "none")]
    assert main([*words, "--judge", "rule"]) == 2
    assert "go with a recipe that scores steps" in capsys.readouterr().err
    assert main([*words, "--recipe", "exprl-process", "--judge", "local"]) == 2
    assert "--judge local needs --judge-model" in capsys.readouterr().err


def test_a_form_that_is_none_is_refused():
    with pytest.raises(MastlensError, match="Did you mean 'process'"):
        replace(RECIPES["prm"], form="proces")
    with pytest.raises(MastlensError, match="priming lies in"):
        replace(RECIPES["prm"], priming=0.0)
