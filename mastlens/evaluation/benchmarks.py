r"""Public benchmarks as problem files: GSM8K, MATH and MATH-500, from local files or the datasets hub.

What comes out are the JSON lines that every command reads.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mastlens.decoding.sampling import Sampling
from mastlens.errors import BadSetting, NotFound, UnknownName, unknown
from mastlens.evaluation.hub_rows import hub_rows
from mastlens.evaluation.settings import STYLES, TakeBenchmarkSettings
from mastlens.problems.asking import INSTRUCTION, boxed_solution
from mastlens.problems.reading import Problem, parse_problem, read_problems
from mastlens.runs.calls import takes
from mastlens.runs.files import write_text
from mastlens.runs.reading import read_object, read_parquet


@dataclass(frozen=True)
class ProblemFiles:
    """Problem files that were written.

    Attributes:
        files: Split to its file.
        table: One row a split and subject: ``split``, ``subject``, ``n``.
        settings: What they were drawn by.
    """

    files: Mapping[str, Path]
    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, files: Mapping[str, Path], splits: Mapping[str, Sequence[Problem]], settings: dict[str, Any]
    ) -> "ProblemFiles":
        """Return the files with the numbers of their problems."""
        table = pd.DataFrame([{"split": name, "subject": p.subject} for name, ps in splits.items() for p in ps])
        counts = table.groupby(["split", "subject"], sort=False).size().reset_index(name="n")
        return cls(files, counts, settings)


def read_benchmark(
    source: str | os.PathLike[str],
    *,
    split: str = "test",
    subjects: Sequence[str] = (),
    levels: Sequence[int] = (),
) -> list[Problem]:
    """Read the problems of a benchmark, in its own order.

    Args:
        source: A file of JSON lines or parquet; a folder of such, or of MATH's own one-problem JSON files, taken in
            the order of their names; or a dataset of the hub, ``OWNER/NAME``, ``OWNER/NAME:CONFIG``, each with an
            optional ``@REVISION`` (this needs the ``datasets`` package).
        split: Split of a dataset of the hub.
        subjects: Only these; all by default.
        levels: Only these of MATH's levels 1 to 5; all by default.

    Raises:
        MastlensError: If there is no such source, a record is malformed, or nothing is left.
    """
    problems = list(_records(source, split))
    known = {problem.subject for problem in problems}
    for subject in subjects:
        if subject not in known:
            raise unknown(f"subject in {source}", subject, sorted(known - {""}) or ["(it names none)"])
    kept = [p for p in problems if (not subjects or p.subject in subjects) and (not levels or p.level in levels)]
    if not kept:
        stated = sorted({p.level for p in problems if not subjects or p.subject in subjects} - {0})
        raise UnknownName(f"{source} has no problem of level {list(levels)}; its levels are {stated or 'not stated'}.")
    return kept


def _records(source: str | os.PathLike[str], split: str) -> Iterator[Problem]:
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".jsonl", ".json", ".parquet") and p.is_file())
        if not files:
            raise NotFound(f"{path} holds no .jsonl, .json or .parquet file.")
        for file in files:
            yield from _of_file(file)
    elif path.is_file():
        yield from _of_file(path)
    elif os.fspath(source).count("/") == 1 and not os.fspath(source).startswith((".", "/", "~")):
        yield from _of_hub(os.fspath(source), split)
    else:
        raise NotFound(
            f"There is no file or folder {source}, and it is not a dataset of the hub (OWNER/NAME[:CONFIG][@REVISION])."
        )


def _of_file(path: Path) -> Iterator[Problem]:
    if path.suffix == ".parquet":
        rows = read_parquet(path).to_dict("records")
        yield from (parse_problem(f"{path}, row {i}", i, row) for i, row in enumerate(rows, start=1))
    elif path.suffix == ".json":  # as MATH was published: one problem a file, named by its number
        yield parse_problem(str(path), 1, read_object(path))
    else:
        yield from read_problems(path)


def _of_hub(source: str, split: str) -> Iterator[Problem]:
    named, _, revision = source.partition("@")
    name, _, config = named.partition(":")
    check = (
        f"Check the name, its configuration (after a colon) and the split {split!r}, or download its files and give "
        "their folder."
    )
    instead = "Or give a local .jsonl or .parquet file."
    rows = hub_rows(source, name, config=config or None, split=split, revision=revision, check=check, instead=instead)
    yield from (parse_problem(f"{source}, row {i}", i, row) for i, row in enumerate(rows, start=1))


def draw_problems(problems: Sequence[Problem], count: int, *, seed: int, name: str) -> list[Problem]:
    """Return ``count`` problems drawn without replacement, in their own order.

    The draw depends on the seed, the name and the problems alone; a smaller one is part of a larger one.

    Raises:
        MastlensError: If there are fewer.
    """
    if count > len(problems):
        raise BadSetting(
            f"{count} problems are asked for as {name}, and only {len(problems)} are there. Ask for fewer, or give a "
            "larger file (MATH-500 is a tenth of MATH's test set)."
        )
    order = np.random.Generator(np.random.Philox(Sampling(seed=seed).seed_of(name))).permutation(len(problems))
    return [problems[i] for i in sorted(order[:count])]


def prompted(
    problems: Sequence[Problem],
    *,
    style: str = "boxed",
    shots: int = 0,
    examples: Sequence[Problem] = (),
    seed: int = 0,
) -> list[Problem]:
    r"""Return problems with the instruction, and worked examples before them, in the problem's own text.

    Args:
        problems: The problems.
        style: ``plain`` leaves the text as it is; ``boxed`` asks for the answer in a box, and ends solutions that
            end in GSM8K's ``#### n`` in ``\boxed{n}`` instead.
        shots: Number of worked examples, the same for all problems.
        examples: Where they are drawn from; a training set. A problem is never its own example.
        seed: Of that draw.

    Raises:
        MastlensError: For a style that does not exist, or too few examples.
    """
    if style not in STYLES:
        raise unknown("style of prompt", style, STYLES)
    # One more than needed, for the problem that is itself among them.
    drawn = draw_problems(examples, shots + 1, seed=seed, name="examples") if shots else []
    asked = []
    for problem in problems:
        before = [_styled(e, style) for e in drawn if e.problem != problem.problem][:shots]
        styled = _styled(problem, style)
        if shots:
            worked = [f"Problem:\n{e.problem}\n\nSolution:\n{e.solution}\n\n" for e in before]
            styled = replace(styled, problem="".join(worked) + f"Problem:\n{styled.problem}\n\nSolution:")
        asked.append(styled)
    return asked


def _styled(problem: Problem, style: str) -> Problem:
    if style == "plain":
        return problem
    return replace(boxed_solution(problem), problem=f"{problem.problem}\n\n{INSTRUCTION}")


def write_problems(path: str | os.PathLike[str], problems: Sequence[Problem]) -> Path:
    """Write problems as JSON lines, as ``read_problems`` reads them."""
    lines = []
    for problem in problems:
        record = {key: value for key, value in asdict(problem).items() if key != "line" and value not in ("", 0)}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(lines))
    return path


@takes(TakeBenchmarkSettings)
def take_benchmark(settings: TakeBenchmarkSettings) -> ProblemFiles:
    """Write one benchmark, whole or in part, as a problem file.

    See ``read_benchmark`` for what a source is and ``prompted`` for the prompts.

    Raises:
        MastlensError: If there is no such source, it lacks problems, or worked examples have no source of their own.
    """
    seed, shots = settings.seed, settings.shots
    problems = read_benchmark(
        settings.source, split=settings.hub_split, subjects=settings.subjects, levels=settings.levels
    )
    if settings.count is not None:
        problems = draw_problems(problems, settings.count, seed=seed, name="take")
    if shots and settings.examples is None:
        raise BadSetting("Worked examples come from a set of their own: give --examples, e.g. the training set.")
    examples = [] if settings.examples is None else read_benchmark(settings.examples, split="train")
    asked = prompted(problems, style=settings.style, shots=shots, examples=examples, seed=seed)
    path = write_problems(settings.out, asked)
    drawn = {"count": settings.count, "style": settings.style, "shots": shots, "seed": seed}
    return ProblemFiles.of({path.stem: path}, {path.stem: asked}, drawn)
