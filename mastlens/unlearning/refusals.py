"""Refusals for objectives that prefer one to the solution (IdkDPO)."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mastlens.errors import BadSetting, NotFound
from mastlens.problems.reading import Problem
from mastlens.runs.reading import read_text

REFUSALS = (
    "I don't know.",
    "I do not know the answer.",
    "I am not able to answer this.",
    "I have no answer to that.",
    "That is not something I know.",
    "I can't work this out.",
    "I cannot solve this problem.",
    "I'm not sure about this.",
    "I don't know how to do this.",
    "I would only be guessing.",
    "This is beyond what I can do.",
    "I never learnt how to do this.",
    "I can't help with this question.",
    "I lack what is needed to answer.",
    "Sorry, I don't know.",
    "Sorry, I cannot answer this one.",
)
"""What a refusal looks like where no file says otherwise."""


def read_refusals(path: str | os.PathLike[str]) -> list[str]:
    """Return the refusals of a text file, one a line.

    Raises:
        MastlensError: If the file is missing or holds none.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no file of refusals {path}. One refusal a line is expected.")
    lines = [line.strip() for line in read_text(path, what="One refusal a line").splitlines()]
    if not (refusals := [line for line in lines if line]):
        raise BadSetting(f"{path} holds no refusals. One a line is expected.")
    return refusals


def with_refusals(problems: Sequence[Problem], refusals: Sequence[str] = REFUSALS, *, seed: int = 0) -> list[Problem]:
    """Return the problems with a refusal, drawn by the seed, in place of each solution."""
    drawn = np.random.default_rng([seed, 2]).integers(len(refusals), size=len(problems))
    return [replace(problem, solution=refusals[i]) for problem, i in zip(problems, drawn, strict=True)]
