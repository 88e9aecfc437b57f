"""Texts of two kinds: read from a file with a column that says which are alike."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mastlens.analysis.inside.pair import Pair
from mastlens.errors import BadFile, BadSetting, unknown
from mastlens.problems.answers import response_style
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import EncodedProblem
from mastlens.problems.reading import Problem, parse_problem
from mastlens.runs.reading import read_lines, read_parquet

WORKED = "worked"
"""The label that is read off a response where no column of this name says otherwise."""
_STYLES = {"worked": True, "guessed": False}
_RENDERED = ("prompt", "response")


@dataclass(frozen=True)
class LabelledTexts:
    """Texts of two kinds.

    Attributes:
        encoded: The texts as token ids.
        labels: True for those that have the label.
        groups: Texts of one prompt have one number.
        lines: Where each stands in its file, from 1.
        label: What the label is.
        source: The file.
        left_out: Texts of the file that say nothing of the label.
    """

    encoded: list[EncodedProblem]
    labels: np.ndarray
    groups: np.ndarray
    lines: Sequence[int]
    label: str
    source: str
    left_out: int


def read_labelled(
    pair: Pair, path: str | os.PathLike[str], label: str, *, limit: int | None, asking: Asked
) -> LabelledTexts:
    """Read texts with their labels.

    A row has ``prompt`` (rendered, read as it stands) and ``response``, as ``responses.parquet`` of ``evaluate`` has
    them, or is a problem with its solution, asked as problems are everywhere. Rows that say nothing of the label are
    left out.

    Args:
        pair: The models that read them.
        path: JSON lines, or parquet.
        label: A column of truth values (or 0 and 1), or ``COLUMN=VALUE``; see ``inside_direct``.
        limit: Only so many rows; None for all.
        asking: How problems are asked.

    Raises:
        MastlensError: If the file or a row has another form, there is no such column, or it names no two kinds.
    """
    rows = list(_rows(Path(path)))[:limit]
    if not rows:
        raise BadFile(f"{path} holds no texts. One JSON object a line is expected, or a row of a table.")
    rendered = all(key in rows[0][2] for key in _RENDERED)
    problems = [_problem(*row, rendered=rendered) for row in rows]
    told = _labels(str(path), [record for _, _, record in rows], problems, label)
    kept = [place for place, one in enumerate(told) if one is not None]
    chosen = [problems[place] for place in kept]
    encoded = pair.encoded(chosen, str(path), asking, verbatim=rendered)
    cut = [rows[place][2].get("truncated") in (True,) for place in kept] if rendered else [False] * len(kept)
    encoded = [replace(ids, solution=ids.solution[:-1]) if off else ids for ids, off in zip(encoded, cut, strict=True)]
    prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(ids.prompt for ids in encoded))}
    return LabelledTexts(
        encoded,
        np.array([told[place] for place in kept], dtype=bool),
        np.array([prompts[ids.prompt] for ids in encoded], dtype=int),
        [one.line for one in chosen],
        label,
        str(path),
        len(rows) - len(kept),
    )


def _rows(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    if path.suffix == ".parquet":
        for number, record in enumerate(read_parquet(path, maker="mastlens evaluate").to_dict("records"), start=1):
            yield f"{path}, row {number}", number, {str(key): value for key, value in record.items()}
        return
    for where, number, record in read_lines(path):
        if not isinstance(record, dict):
            raise BadFile(f"{where}: a JSON object is expected, this is a {type(record).__name__}.")
        yield where, number, record


def _problem(where: str, number: int, record: Mapping[str, Any], *, rendered: bool) -> Problem:
    if not rendered:
        if "problem" not in record and "question" not in record:
            raise BadFile(
                f"{where}: no text. It has {', '.join(map(repr, record))}; expected are 'prompt' and 'response', or a "
                "problem's 'problem' and 'solution'."
            )
        return parse_problem(where, number, dict(record))
    missing = [key for key in _RENDERED if not isinstance(record.get(key), str)]
    if missing or not record["prompt"]:
        raise BadFile(f"{where}: no text under {' and '.join(map(repr, missing or ['prompt']))}.")
    return Problem(record["prompt"], record["response"], "", line=number)


def _labels(
    source: str, records: Sequence[Mapping[str, Any]], problems: Sequence[Problem], label: str
) -> list[bool | None]:
    """Return for each text whether it has the label; None where its row says nothing."""
    column, equals, wanted = label.partition("=")
    there = list(dict.fromkeys(key for record in records for key in record))
    if column not in there:
        if label == WORKED:
            return [_STYLES.get(response_style(problem.solution)) for problem in problems]
        raise unknown("column", column, [*there, *([] if WORKED in there else [WORKED])], of=source)
    values = [record.get(column) for record in records]
    known = [None if isinstance(value, float) and value != value else value for value in values]  # an empty cell
    if equals:
        found = list(dict.fromkeys(str(value) for value in known if value is not None))
        if wanted not in found:
            raise unknown(f"value of {column!r}", wanted, found, of=source)
        return [None if value is None else str(value) == wanted for value in known]
    strange = next((value for value in known if value is not None and not _is_truth(value)), None)
    if strange is not None:
        raise BadSetting(
            f"The column {column!r} of {source} holds {str(strange)[:40]!r}, no truth value: say which texts are "
            f"meant, e.g. --label {column}={str(strange)[:40]}."
        )
    return [None if value is None else bool(value) for value in known]


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.bool_ | np.number) and value in (0, 1)
