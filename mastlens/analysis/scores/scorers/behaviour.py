"""Scorer ``behaviour``: integrated gradients along the line SFT -> RLVR of what the model does, not finds likely.

Asked about is the share of right responses, J = E[r(y)] over prompts and responses y that are sampled at temperature 1
from the model where it stands on the line. Its gradient is the score function's (Williams 1992),

    dJ/dW = E[(r(y) - b) d log p(y)/dW],

with the mean reward of the other responses to the same prompt for b, which leaves it without bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from mastlens.analysis.scores.line import Functional, shares_of_change
from mastlens.analysis.scores.scorer import Scorer, Scoring
from mastlens.decoding.answering import Answered, answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.graders import Grader, find_grader
from mastlens.decoding.prompts import problem_prompts
from mastlens.decoding.sampling import Sampling
from mastlens.errors import BadSetting
from mastlens.models.gradients import mean_gradients
from mastlens.problems.encoding import EncodedProblem


@dataclass
class _Reward(Functional):
    """The share of right responses, summed over problems; its size is their number."""

    estimated: ClassVar[bool] = True

    scoring: Scoring
    grader: Grader
    samples: int
    max_new_tokens: int
    drawn: dict[str, list[list[Answered]]] = field(default_factory=dict)

    def size(self, side: str, items: Sequence[int]) -> float:
        return float(len(items))

    def move(self, place: int) -> None:
        """Sample anew: every place on the line has draws of its own."""
        scoring = self.scoring
        settings = scoring.settings
        sampling = Sampling(1.0, seed=settings.seed + place)
        decoding = Decoding(self.max_new_tokens, sampling=sampling)
        for side, problems in scoring.sides.items():
            prompts = problem_prompts(problems.problems, scoring.tokenizer, chat_template=settings.asking)
            prompts = [replace(prompt, name=f"{side}/{prompt.name}") for prompt in prompts]
            found = answer(
                HuggingFaceEngine(scoring.model, scoring.tokenizer),
                prompts,
                decoding,
                samples=self.samples,
                grader=self.grader,
            )
            self.drawn[side] = [found[start : start + self.samples] for start in range(0, len(found), self.samples)]

    def slope(self, side: str, items: Sequence[int], names: Sequence[str]) -> Mapping[str, Tensor]:
        encoded, weights = [], []
        for item in items:
            prompt = self.scoring.sides[side].encoded[item].prompt
            rewards = np.array([one.correct for one in self.drawn[side][item]], dtype=float)
            others = (rewards.sum() - rewards) / (self.samples - 1)
            for one, advantage in zip(self.drawn[side][item], rewards - others, strict=True):
                encoded.append(EncodedProblem(prompt, tuple(one.response.ids)))
                weights.append(advantage / self.samples)
        told = [place for place, weight in enumerate(weights) if weight]  # all right, or none: nothing to learn
        if not told:
            return {}
        encoded, weights = ([row[place] for place in told] for row in (encoded, weights))
        loss = mean_gradients(
            self.scoring.model, encoded, names, weights=weights, batch_size=self.scoring.settings.batch_size
        )
        tokens = sum(len(one.solution) for one in encoded)
        return {name: gradient.mul_(-tokens) for name, gradient in loss.items()}

    def value(self, side: str) -> tuple[float, float]:
        right = np.array([np.mean([one.correct for one in each]) for each in self.drawn[side]])
        return float(right.mean()), float(right.std(ddof=1) / len(right) ** 0.5) if len(right) > 1 else float("nan")


def behaviour_shares(scoring: Scoring) -> pd.DataFrame:
    """Return every matrix's share of what RLVR did to the share of right responses, forget beyond retain.

    Parameters: ``points`` on the line, ``samples`` a prompt at each (two at least), ``max_new_tokens``. The columns are
    those of ``line.shares_of_change``.
    """
    parameters = scoring.parameters
    samples = int(parameters["samples"])
    if samples < 2:
        raise BadSetting(
            f"Responses are held against others to their prompt: 2 (--parameter samples=2) or more, not {samples}."
        )
    grader = find_grader(scoring.settings.grader)
    asked = _Reward(scoring, grader, samples, int(parameters["max_new_tokens"]))
    return shares_of_change(scoring, asked, int(parameters["points"]), unit="behaviour")


BEHAVIOUR = Scorer(
    "behaviour",
    "its share of what RLVR did to the share of right sampled responses on forget, less that on retain",
    "integrated gradients (arXiv:1703.01365) of the expected reward, by its score function (Williams 1992)",
    behaviour_shares,
    parameters={"points": 4.0, "samples": 4.0, "max_new_tokens": 128.0},
    grades=True,
)
