"""Problem files whose solutions are a model's own right answers: the texts in which a behaviour shows as it is.

RLVR rewards a right answer in whatever words. Where a model works a problem out in other words than the reference
solution, what reads that solution (coupling, causal map, path) sees little of what RLVR did.
"""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from mastlens.errors import BadSetting, MastlensWarning
from mastlens.problems.reading import Problem
from mastlens.runs.files import write_text


def check_names(splits: Iterable[str]) -> None:
    """Refuse names of splits that could not stand in a file's name.

    Raises:
        MastlensError: If one leads to another folder.
    """
    for name in splits:
        if Path(name).name != name or "\0" in name:
            raise BadSetting(f"own-SPLIT.jsonl is a file's name, and the split {name!r} is none. Call it otherwise.")


def own_texts(table: pd.DataFrame, splits: Mapping[str, Sequence[Problem]]) -> dict[str, list[dict[str, str]]]:
    """Return the problems that were answered rightly, with the first right response as the solution, by split.

    Args:
        table: As ``evaluate`` gives it.
        splits: Split to the problems that were asked.
    """
    found: dict[str, list[dict[str, str]]] = {name: [] for name in splits}
    right = table[table["correct"].astype(bool)].drop_duplicates(["split", "item"])
    for row in right.to_dict("records"):
        problem = splits[row["split"]][row["item"]]
        record = {"problem": problem.problem, "solution": str(row["response"]), "answer": problem.answer}
        found[row["split"]].append(record | ({"subject": problem.subject} if problem.subject else {}))
    return found


def write_own_texts(table: pd.DataFrame, splits: Mapping[str, Sequence[Problem]], folder: Path) -> None:
    """Write ``own-SPLIT.jsonl`` for each split, and warn of one without a right response, which gets no file."""
    for split, records in own_texts(table, splits).items():
        if records:
            write_text(
                folder / f"own-{split}.jsonl", "".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in records)
            )
        else:
            said = f"No response of split {split!r} is right: there is no own-{split}.jsonl to measure on."
            warnings.warn(said, MastlensWarning, stacklevel=3)
