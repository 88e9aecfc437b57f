"""Items that metrics are measured on: problems, with other answers beside the right one."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastlens.errors import BadFile, NotFound
from mastlens.problems.reading import Problem, parse_problem
from mastlens.runs.reading import read_lines

PARAPHRASED = ("paraphrased", "paraphrased_answer")
PERTURBED = ("perturbed", "perturbed_answer")
"""Names of the other answers in a file: ours, TOFU's."""


@dataclass(frozen=True)
class MetricItem:
    """A problem with other answers.

    Attributes:
        problem: The problem; its solution is the answer that metrics are of.
        paraphrased: The right answer in other words; empty where the file has none.
        perturbed: Wrong answers in the form of the right one.
    """

    problem: Problem
    paraphrased: str = ""
    perturbed: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The answer, the paraphrased answer where there is one, and the wrong ones."""
        return (self.problem.solution, *filter(None, [self.paraphrased]), *self.perturbed)


@dataclass(frozen=True)
class ItemSet:
    """The items of a split.

    Attributes:
        split: Its name.
        items: Its items.
        source: Its file, for messages.
        texts: Whether they are bare texts, to which nothing is asked: their first token alone stands before them.
    """

    split: str
    items: tuple[MetricItem, ...]
    source: str = ""
    texts: bool = False

    def where(self, item: MetricItem) -> str:
        """Return what an item is called in a message."""
        return f"{self.source or self.split}, line {item.problem.line}"

    def check_perturbed(self, metric: str) -> None:
        """Raise ``MastlensError``, with its line, unless every item has wrong answers, and all or none a paraphrase."""
        for item in self.items:
            if not item.perturbed:
                raise BadFile(
                    f"{self.where(item)}: no 'perturbed' answers, which the metric {metric!r} holds the right one "
                    "against. Add a list of wrong answers in its form (TOFU's 'perturbed_answer'), or leave the metric "
                    f"out for the split {self.split!r}."
                )
        without = [item for item in self.items if not item.paraphrased]
        if without and len(without) < len(self.items):
            raise BadFile(
                f"{self.where(without[0])}: no 'paraphrased' answer, and other items of this file have one: their "
                "truth ratios would be of different answers. Give all of them one, or none."
            )


def read_items(split: str, path: str | os.PathLike[str], limit: int | None = None) -> ItemSet:
    """Read a problem file with its other answers, all of it or the first ``limit``.

    Raises:
        MastlensError: If the file is missing or empty, or a line is malformed (with its number and field).
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no problem file {path}.")
    found = [
        MetricItem(parse_problem(where, number, record), *_others(where, record))
        for where, number, record in read_lines(path)
    ]
    if not found:
        raise BadFile(f"{path} holds no problems. One JSON object a line is expected.")
    return ItemSet(split, tuple(found[:limit]), str(path))


def read_text_items(split: str, path: str | os.PathLike[str], limit: int | None = None) -> ItemSet:
    """Read bare texts, JSON lines with a ``text`` each, all of them or the first ``limit``.

    Raises:
        MastlensError: If the file is missing or empty, or a line has no text (with its number).
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no file of texts {path}.")
    found = []
    for where, number, record in read_lines(path):
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise BadFile(f"{where}: no text under 'text'.")
        found.append(MetricItem(Problem("", text, "", line=number)))
    if not found:
        raise BadFile(f"{path} holds no texts. One JSON object a line is expected.")
    return ItemSet(split, tuple(found[:limit]), str(path), texts=True)


def _others(where: str, record: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the paraphrased answer and the wrong ones of a record."""
    said, wrong = (
        next(((key, record[key]) for key in names if key in record), ("", None)) for names in (PARAPHRASED, PERTURBED)
    )
    if said[1] is not None and not isinstance(said[1], str):
        raise BadFile(f"{where}: {said[0]!r} must be one text, the right answer in other words.")
    texts = [wrong[1]] if isinstance(wrong[1], str) else wrong[1] or []
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadFile(f"{where}: {wrong[0]!r} must be a list of wrong answers, none of them blank.")
    return said[1] or "", tuple(texts)
