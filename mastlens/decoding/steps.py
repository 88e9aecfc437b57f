"""A response cut into its steps, which are scored one by one."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mastlens.errors import unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EQUATION = re.compile(r"(-?\d+)\s*([-+*/])\s*(-?\d+)\s*=\s*(-?\d+)")
"""One line of working: ``a op b = c``."""

CUTS = {
    "blank-lines": re.compile(r"\n[^\S\n]*\n\s*"),
    "lines": re.compile(r"\n\s*"),
    "headings": re.compile(r"\n(?=#{3})"),
    "equations": EQUATION,
}
"""How a response is cut, to what a step ends with: at blank lines (as Qwen2.5-Math-PRM is asked), at lines, before
``###`` (as ExpRL's policy writes), or behind each equation."""


def cut_steps(text: str, how: str) -> list[str]:
    """Return the steps of a response: joined they are the response, and none is white space alone.

    Args:
        text: The response.
        how: A key of ``CUTS``.

    Raises:
        MastlensError: For another way to cut.
    """
    if how not in CUTS:
        raise unknown("way to cut steps", how, CUTS)
    ends = [found.end() for found in CUTS[how].finditer(text)]
    places = [0, *(end for end in ends if end < len(text)), len(text)]
    steps: list[str] = []
    for start, end in pairwise(places):
        piece = text[start:end]
        if steps and not (piece.strip() and steps[-1].strip()):
            steps[-1] += piece
        elif piece:
            steps.append(piece)
    return steps


def steps_of_tokens(ids: Sequence[int], steps: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the number of the step in which each token of a response begins; what is behind the text, the last one.

    Args:
        ids: The response's tokens, special ones too.
        steps: Its steps, cut from its text without special tokens.
        tokenizer: The tokenizer.
    """
    ends: list[int] = []
    for step in steps:
        ends.append(len(step) + (ends[-1] if ends else 0))
    found, place, at = [], 0, 0
    for count in range(len(ids)):
        found.append(min(at, max(len(steps) - 1, 0)))
        # Of the whole beginning: a token alone may be half a character, or lose the space in front of it.
        place = len(tokenizer.decode(list(ids[: count + 1]), skip_special_tokens=True))
        while at < len(ends) and place >= ends[at]:
            at += 1
    return found
