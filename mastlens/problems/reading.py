"""Forget and retain problems: read with line numbers, and checked.

Files are JSON lines in MATH's names (``problem``, ``solution``, ``answer``) or GSM8K's (``question``, ``answer``
with ``#### n``); ``subject`` is optional.
"""

import json
import math
import os
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from mastlens.errors import BadFile, NotFound
from mastlens.problems.answers import final_answer
from mastlens.runs.reading import read_lines

_CALCULATOR_MARK = re.compile(r"<<[^<>]*=[^<>]*>>")


@dataclass(frozen=True)
class Problem:
    r"""One problem with its worked solution.

    Attributes:
        problem: What is asked.
        solution: The reference solution, ending in the answer.
        answer: The final answer alone, e.g. ``\frac{1}{2}``.
        subject: The subject or source; empty where the file names none.
        line: The line of the file it stands on, from 1; 0 where it was not read from a file.
        level: Difficulty, 1 to 5 in MATH; 0 where the file names none.
        person: Whom it asks about, in questions about people; empty where the file names none.
    """

    problem: str
    solution: str
    answer: str
    subject: str = ""
    line: int = 0
    level: int = 0
    person: str = ""


def read_problems(path: str | os.PathLike[str], limit: int | None = None) -> list[Problem]:
    """Read a file of problems, all of it or the first ``limit``.

    Raises:
        MastlensError: If the file is missing or empty, or a line is malformed (with its number).
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no problem file {path}.")
    problems = [parse_problem(where, number, record) for where, number, record in read_lines(path)]
    if not problems:
        raise BadFile(f"{path} holds no problems. One JSON object a line is expected.")
    return problems[:limit]


def parse_problem(where: str, number: int, record: Any) -> Problem:
    """Return the problem that a record holds, in MATH's names or GSM8K's.

    Args:
        where: What to call the record in a message, e.g. its file and line.
        number: Its line.
        record: The record; MATH's own ``type`` is taken for the subject, and ``Level 5`` for level 5.

    Raises:
        MastlensError: If it is malformed.
    """
    if not isinstance(record, dict):
        raise BadFile(f"{where}: a JSON object is expected, this is a {type(record).__name__}.")
    if "question" in record and "problem" not in record:
        return _parse_gsm8k(where, number, record)
    missing = [key for key in ("problem", "solution") if not isinstance(record.get(key), str)]
    if missing:
        raise BadFile(
            f"{where}: no text under {' and '.join(map(repr, missing))}. It has {', '.join(map(repr, record))}; "
            "expected are 'problem', 'solution', 'answer', or GSM8K's 'question', 'answer'."
        )
    answer = record.get("answer")
    answer = final_answer(record["solution"]) if answer is None else _answer_text(where, answer)
    if answer is None:
        raise BadFile(f"{where}: no 'answer', and the solution has no \\boxed{{}} to take it from.")
    problem = Problem(
        problem=record["problem"],
        solution=record["solution"],
        answer=answer,
        subject=str(record.get("subject") or record.get("type") or ""),
        line=number,
        level=int(level[-1]) if (level := re.findall(r"\d+", str(record.get("level") or ""))) else 0,
        person=str(record.get("person") or ""),
    )
    _check_not_blank(where, problem)
    return problem


def _answer_text(where: str, answer: Any) -> str:
    """Return an answer as text: itself, or a number's digits (1e-06 is no way to write one in mathematics)."""
    if isinstance(answer, str):
        return answer
    whole = isinstance(answer, int) and not isinstance(answer, bool)
    if not whole and not (isinstance(answer, float) and math.isfinite(answer)):
        shown = json.dumps(answer)[:60]
        raise BadFile(
            f"{where}: the answer {shown} is no text and no number, and could be read in several ways. Write it as "
            'the text that a response should end in, e.g. "1, 2" or "\\\\text{true}".'
        )
    return str(answer) if whole else format(Decimal(repr(answer)), "f")


def _parse_gsm8k(where: str, number: int, record: dict[str, Any]) -> Problem:
    if not isinstance(record["question"], str) or not isinstance(record.get("answer"), str):
        raise BadFile(f"{where}: 'question' and 'answer' must both be text.")
    solution = _CALCULATOR_MARK.sub("", record["answer"])
    _, mark, answer = solution.rpartition("####")
    if not mark:
        raise BadFile(f"{where}: the answer does not end in '#### n', as GSM8K's do.")
    problem = Problem(
        problem=record["question"],
        solution=solution,
        answer=answer.strip().replace(",", ""),
        subject=str(record.get("subject") or ""),
        line=number,
    )
    _check_not_blank(where, problem)
    return problem


def _check_not_blank(where: str, problem: Problem) -> None:
    for key in ("problem", "solution", "answer"):
        if not getattr(problem, key).strip():
            raise BadFile(f"{where}: {key!r} is blank.")
