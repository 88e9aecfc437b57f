"""Rewards for reinforcement learning: what a grader says, as a number, in the form that TRL asks for."""

from collections.abc import Callable, Sequence
from typing import Any

from mastlens.decoding.graders import Grader


def reward_of(grader: Grader, *, opened: bool = False) -> Callable[..., list[float]]:
    """Return the reward that is 1 where the grader finds a completion right and 0 where it does not.

    Args:
        grader: The same object that grades an evaluation.
        opened: Whether the prompts end inside an open ``<think>``.
    """

    def reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
        texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
        return [
            float(grader.grade(text, gold, opened=opened).correct) for text, gold in zip(texts, answer, strict=True)
        ]

    return reward
