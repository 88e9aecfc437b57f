"""What scores the steps of sampled responses while a policy is reinforced: a process reward model, or a judge.

A judge sees the reference solution, which the policy never does (ExpRL, arXiv:2606.17024).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mastlens.decoding.steps import EQUATION, cut_steps
from mastlens.errors import BadSetting
from mastlens.evaluation.judges import UNJUDGED, Judge, Judgement, Question, judge_all, judge_settings
from mastlens.evaluation.judges.choosing import make_judge
from mastlens.evaluation.judges.rubrics import Rubric
from mastlens.evaluation.process.model import ProcessRewardModel, Scored, find_prm
from mastlens.evaluation.settings import JudgeChoice
from mastlens.organisms.rlvr.recipe import RLVRRecipe
from mastlens.organisms.settings import BuildOrganismSettings
from mastlens.problems.answers import boxed

if TYPE_CHECKING:
    from mastlens.organisms.problems import SyntheticProblem

LEVELS = ("1", "2", "3", "4", "5")
"""Likert categories; a level s is the reward (s - 1) / 4."""

LIKERT_RUBRIC = Rubric(
    "progress",
    "You grade how far a solution gets. You get a problem, a reference solution as its right answer, and a text that "
    "may be a whole solution or its beginning. Grade the progress that the text makes by correct reasoning towards the "
    "milestones of the reference solution; another correct way counts as well. Length and style count nothing.",
    {
        "1": "no progress: wrong from the start, off the topic, or nothing but a guess",
        "2": "a first milestone is reached, and little else",
        "3": "about half of the milestones are reached",
        "4": "nearly all milestones are reached, with a slip or a gap",
        "5": "every milestone is reached and the final answer is right",
    },
    {},
)
"""What a model is asked that judges ExpRL's responses; the levels are the paper's, the wording is ours."""


@runtime_checkable
class StepScorer(Protocol):
    """Anything that scores the steps of responses."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that its scores depend on, as JSON can hold it."""
        ...

    def score(self, responses: "Sequence[tuple[SyntheticProblem, str]]", *, steps: bool) -> list[Scored]:
        """Return the scores of each response's steps; with ``steps`` False that of the whole response, as one step."""
        ...


@dataclass(frozen=True)
class ByPRM:
    """Steps scored by a process reward model; of a whole response the lowest of its steps' scores.

    Attributes:
        model: The model.
    """

    model: ProcessRewardModel

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on."""
        return self.model.settings

    def score(self, responses: "Sequence[tuple[SyntheticProblem, str]]", *, steps: bool) -> list[Scored]:
        """Return the scores; the lowest of several, because a sum can be had by writing more steps."""
        found = self.model.score([(problem.problem, text) for problem, text in responses])
        if steps:
            return found
        return [
            Scored(("".join(one.steps),), None if one.scores is None else (min(one.scores, default=0.0),))
            for one in found
        ]


@dataclass(frozen=True)
class ByJudge:
    """Steps scored by a judge of levels: of a step, the level of everything up to its end.

    Attributes:
        judge: The judge; its categories are ``LEVELS``.
        cut: How responses are cut, a key of ``CUTS``.
    """

    judge: Judge
    cut: str

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {**judge_settings(self.judge), "cut": self.cut}

    def score(self, responses: "Sequence[tuple[SyntheticProblem, str]]", *, steps: bool) -> list[Scored]:
        """Return the scores; None of a response one of whose judgements could not be read."""
        cut = [tuple(cut_steps(text, self.cut)) if steps else (text,) for _, text in responses]
        asked = [
            (Question(problem.problem, problem.solution, subject=problem.subject), "".join(pieces[: count + 1]))
            for (problem, _), pieces in zip(responses, cut, strict=True)
            for count in range(len(pieces))
        ]
        different = list(dict.fromkeys(asked))  # a round has many responses twice
        said = dict(zip(different, judge_all(self.judge, different), strict=True))
        levels = iter(level_of(said[one].category) for one in asked)
        found = []
        for pieces in cut:
            scores = [next(levels) for _ in pieces]
            known = [score for score in scores if score is not None]
            found.append(Scored(pieces, tuple(known) if len(known) == len(scores) else None))
        return found


def find_scorer(settings: BuildOrganismSettings, recipe: RLVRRecipe) -> StepScorer | None:
    """Return what scores a recipe's steps; None where nothing does.

    Raises:
        MastlensError: If it is missing, or asked for in vain.
    """
    judged = settings.judge is not None or settings.judged_by is not None
    if (settings.prm is not None and recipe.scored_by != "prm") or (judged and recipe.scored_by != "judge"):
        option = "--prm" if settings.prm is not None else "--judge"
        raise BadSetting(f"The recipe {recipe.name} scores no steps by {option}. Leave it out.")
    if recipe.scored_by == "prm":
        model = find_prm(settings.prm, settings.device)
        if model is None:
            raise BadSetting(
                f"The recipe {recipe.name} needs a process reward model: --prm PATH. Train one: mastlens organism prm "
                f"{settings.name} --out DIR"
            )
        return ByPRM(model)
    if recipe.scored_by != "judge":
        return None
    out = None if settings.out is None else Path(settings.out)
    judge = settings.judge or make_judge(
        settings.judged_by or JudgeChoice(),
        lambda _: MilestoneJudge(),
        LIKERT_RUBRIC,
        settings.device,
        None if out is None else out.with_name(f"{out.name}.judge-cache"),  # the folder itself is not there yet
    )
    return ByJudge(judge, getattr(recipe, "cut", "equations"))


def level_of(category: str) -> float | None:
    """Return (s - 1) / 4 of a Likert level s; None of anything else."""
    return LEVELS.index(category) / (len(LEVELS) - 1) if category in LEVELS else None


@dataclass(frozen=True)
class MilestoneJudge:
    """The exact judge of the organism: how many of the reference's equations, and its box, a text reaches in order.

    Level 1 + the floor of 4 times the share of milestones reached; operands of sums and products may be swapped.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """What the judgements depend on: nothing but its code, which the package's version says."""
        return {"judge": "milestones"}

    def judge(self, question: Question, trace: str) -> Judgement:
        """Return the level of a text; unjudged where the reference has no milestone."""
        wanted = milestones(question.answer)
        if not wanted:
            return Judgement(UNJUDGED, "the reference has neither an equation nor a box")
        reached = 0
        for one in milestones(trace):
            reached += reached < len(wanted) and one == wanted[reached]
        return Judgement(LEVELS[reached * 4 // len(wanted)], f"{reached} of {len(wanted)} milestones")


def milestones(text: str) -> list[tuple[str, ...]]:
    """Return the equations of a text in order, in one form whatever the order of operands, and its last box."""
    found: list[tuple[str, ...]] = []
    for a, op, b, c in EQUATION.findall(text):
        first, second = sorted((a, b)) if op in "+*" else (a, b)
        found.append((first, op, second, c))
    box = boxed(text)
    return found if box is None else [*found, (box.strip(),)]
