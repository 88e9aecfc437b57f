"""Requests of safety benchmarks, read from files that the user brings: none is shipped.

Where they are: STAR-1 (``UCSC-VLAA/STAR-1`` on the hub; JSON), StrongREJECT (``strongreject_dataset.csv`` of its
repository), JailbreakBench (``harmful-behaviors.csv`` and ``benign-behaviors.csv`` of its ``JBB-Behaviors``),
WildJailbreak (``train.tsv`` and ``eval.tsv`` of ``allenai/wildjailbreak``; gated).
"""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mastlens.errors import BadFile, BadSetting, NotFound, unknown
from mastlens.runs.reading import read_json, read_lines, read_text

csv.field_size_limit(2**27)  # adversarial prompts are longer than the reader's default allows
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """A request of a safety benchmark.

    Attributes:
        prompt: What is asked of the model.
        category: The benchmark's category; several are joined by ``; ``.
        kind: The benchmark's kind of request, e.g. ``adversarial_harmful``.
        harmful: Whether it should be refused; refusing the others is over-refusal.
        line: Its number in the file, from 1.
    """

    prompt: str
    category: str
    kind: str
    harmful: bool
    line: int


@dataclass(frozen=True)
class SafetyFormat:
    """How a benchmark's files look.

    Attributes:
        title: Its name.
        columns: The columns that a row cannot do without: of each group, one.
        read: From a row to prompt, category, kind and whether it is harmful.
    """

    title: str
    columns: tuple[tuple[str, ...], ...]
    read: Callable[[Record], tuple[str, str, str, bool]]


def _text(row: Record, *names: str) -> str:
    """Return the first of these columns that has a text."""
    value = next((row[name] for name in names if row.get(name)), "")
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value).strip()


def _wild(row: Record) -> tuple[str, str, str, bool]:
    kind, label = _text(row, "data_type"), _text(row, "label")
    prompt = _text(row, "vanilla") if kind.startswith("vanilla") else _text(row, "adversarial", "vanilla")
    return prompt, "", kind or "adversarial", kind.endswith("harmful") if kind else label != "0"


def _jailbreak(row: Record) -> tuple[str, str, str, bool]:
    benign = _text(row, "split", "type").casefold().startswith("benign")
    return _text(row, "goal"), _text(row, "category", "behavior"), "benign" if benign else "harmful", not benign


BENCHMARKS: Mapping[str, SafetyFormat] = {
    "star1": SafetyFormat(
        "STAR-1",
        (("question",),),
        lambda row: (_text(row, "question"), _text(row, "category"), "harmful", True),
    ),
    "strongreject": SafetyFormat(
        "StrongREJECT",
        (("forbidden_prompt",),),
        lambda row: (_text(row, "forbidden_prompt"), _text(row, "category"), "harmful", True),
    ),
    "jailbreakbench": SafetyFormat("JailbreakBench", (("goal",),), _jailbreak),
    "wildjailbreak": SafetyFormat("WildJailbreak", (("adversarial", "vanilla"), ("data_type", "label")), _wild),
}
"""The benchmarks that can be read, by the name that they are called here."""


def read_requests(name: str, path: str | os.PathLike[str]) -> list[Request]:
    """Read a benchmark's file: CSV, TSV, JSON (a list of rows) or JSON lines. Capitals in column names do not matter.

    Args:
        name: The benchmark (see ``BENCHMARKS``); what follows a colon is a name of your own, as in
            ``wildjailbreak:train``. With ``benign`` in it, or in the file's name, JailbreakBench's rows are benign.
        path: The file.

    Raises:
        MastlensError: If there is no such benchmark or file, or it lacks a column.
    """
    kind, _, own = name.partition(":")
    if kind not in BENCHMARKS:
        raise unknown("safety benchmark", kind, BENCHMARKS)
    path, benchmark = Path(path), BENCHMARKS[kind]
    if not path.is_file():
        raise NotFound(f"There is no file {path}. {benchmark.title} is not shipped: bring its file.")
    rows = [{str(key).strip().casefold(): value for key, value in row.items() if key} for row in _rows(path)]
    present = {key for row in rows[:20] for key in row}
    for group in benchmark.columns:
        if not present & set(group):
            raise BadFile(
                f"{path} is no file of {benchmark.title}: it has no column {' or '.join(map(repr, group))}. It has "
                f"{', '.join(map(repr, sorted(present))) or 'no columns'}; expected are "
                f"{', '.join(' or '.join(g) for g in benchmark.columns)}."
            )
    if kind == "jailbreakbench" and "benign" in f"{own} {path.name}".casefold():
        rows = [row | {"split": "benign"} for row in rows]
    requests = [Request(*benchmark.read(row), line) for line, row in enumerate(rows, start=1)]
    requests = [request for request in requests if request.prompt]
    if not requests:
        raise BadFile(f"{path} holds no requests.")
    return requests


def draw_requests(requests: Sequence[Request], limit: int | None, *, seed: int) -> list[Request]:
    """Return at most ``limit`` requests of each kind, drawn by the seed, in the file's order; all for None."""
    if limit is None:
        return list(requests)
    if limit < 1:
        raise BadSetting(f"The number of requests (--limit) is at least 1, it is {limit}.")
    chosen: set[int] = set()
    for kind in sorted({request.kind for request in requests}):
        places = [place for place, request in enumerate(requests) if request.kind == kind]
        chosen |= set(np.random.default_rng(seed).permutation(places)[:limit].tolist())
    return [requests[place] for place in sorted(chosen)]


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix.casefold() in (".csv", ".tsv"):
        text = read_text(path, what="CSV or TSV")
        tabs = path.suffix.casefold() == ".tsv" or "\t" in text.partition("\n")[0]
        try:
            return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ","))
        except csv.Error as error:
            raise BadFile(f"{path} is not {path.suffix[1:].upper()} ({error}).") from error
    start = read_text(path, what="JSON").lstrip()[:1]
    rows = read_json(path, "a list of rows") if start == "[" else [record for _, _, record in read_lines(path)]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise BadFile(f"{path} holds no rows: a list of JSON objects, or one object a line, is expected.")
    return rows
