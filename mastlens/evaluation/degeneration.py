"""Damage that an accuracy hides: responses that repeat themselves, never end, or give no answer at all."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mastlens.problems.answers import final_answer

_WORD = re.compile(r"\w+|[^\w\s]")

CLASSES = ("right", "wrong", "no answer", "truncated")
"""What can become of a response, each in one class only."""


def repeated_ngrams(text: str, n: int = 4) -> float:
    """Return the share of n-grams that occurred before: 1 - different n-grams / n-grams.

    This is seq-rep-n of Welleck et al. (2020), arXiv:1908.04319, over words and single marks instead of a model's
    tokens, so that models with different tokenizers can be compared. 0 where the text is shorter than n.
    """
    words = _WORD.findall(text)
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def response_classes(responses: Sequence[str], correct: Sequence[bool], truncated: Sequence[bool], /) -> list[str]:
    """Return the class of each response; a wrong answer is one thing, no answer another.

    ``right``: graded right (tolerant), cut off or not. ``truncated``: not right and cut off before an end of
    sequence. ``no answer``: ended, with neither a box nor ``####``. ``wrong``: ended with an answer that is not
    right.

    Args:
        responses: What the model wrote.
        correct: The tolerant grade of each.
        truncated: Whether each was cut off.
    """
    classes = []
    for response, right, cut in zip(responses, correct, truncated, strict=True):
        if right:
            classes.append("right")
        elif cut:
            classes.append("truncated")
        else:
            classes.append("no answer" if final_answer(response) is None else "wrong")
    return classes


def response_faults(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each response of a table of ``evaluate`` suffers from.

    Returns:
        One row a response: ``split``, ``item``, ``repetition`` (share of repeated 4-grams) and one column a class
        but ``right``, True where the response is of it.
    """
    responses = [str(response) for response in table["response"]]
    found = response_classes(responses, table["correct"].tolist(), table["truncated"].tolist())
    classes = np.asarray(found)
    return pd.DataFrame(
        {
            "split": table["split"].to_numpy(),
            "item": table["item"].to_numpy(),
            "repetition": [repeated_ngrams(response) for response in responses],
            **{name: classes == name for name in CLASSES[1:]},
        }
    )
