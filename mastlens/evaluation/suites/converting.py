"""Benchmarks of unlearning as problem files: listed, and converted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mastlens.errors import BadSetting, unknown
from mastlens.evaluation.benchmarks import ProblemFiles
from mastlens.evaluation.suites.catalogue import SUITES
from mastlens.evaluation.suites.settings import ConvertBenchmarkSettings, ListBenchmarksSettings
from mastlens.evaluation.suites.sources import Source
from mastlens.runs.calls import takes
from mastlens.runs.files import sha256_json, write_text
from mastlens.runs.stages import stage

if TYPE_CHECKING:
    from mastlens.evaluation.suites.suite import SplitFile


@takes(ListBenchmarksSettings)
def list_benchmarks(settings: ListBenchmarksSettings) -> pd.DataFrame:
    """Return one row a benchmark that can be read.

    Returns:
        ``benchmark``, ``summary``, ``hub``, ``licence``, ``size``, ``parts``, ``asks`` (the metrics of its paper),
        ``note``, ``source``.
    """
    return pd.DataFrame(
        {
            "benchmark": name,
            "summary": one.summary,
            "hub": ", ".join(one.hub),
            "licence": one.licence,
            "size": one.size,
            "parts": ", ".join(one.parts),
            "asks": one.asks,
            "note": one.note,
            "source": one.source,
        }
        for name, one in SUITES.items()
    )


@takes(ConvertBenchmarkSettings)
def convert_benchmark(settings: ConvertBenchmarkSettings) -> ProblemFiles:
    """Write a benchmark of unlearning as problem files, laid out as published, into ``out``.

    Its ``table`` says by which option each file is taken. Nothing of a benchmark comes with this package.

    Raises:
        MastlensError: If there is no such benchmark, part or source, or a row is malformed (with its line and field).
    """
    suite = SUITES.find(settings.name)()
    parts = suite.parts or ("",)
    part = parts[0] if settings.part is None else settings.part
    if part not in parts:
        raise unknown(f"part of {suite.name}", part, suite.parts or ["(it has one part)"])
    if settings.out is None:
        raise BadSetting("The files need a folder to be written to: out (--out).")
    made = [_limited(one, settings.limit) for one in suite.read(Source.open(settings.source), part)]
    files = {one.name: f"{one.name}.jsonl" for one in made}
    recorded = {"benchmark": suite.name, "part": part, "limit": settings.limit}
    with stage(
        settings.out,
        "convert",
        outputs=list(files.values()),
        inputs={one.name: sha256_json(list(one.records)) for one in made},
        settings=recorded,
        command=settings,
        overwrite=settings.overwrite,
    ) as current:
        if not current.done:
            for one in made:
                lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in one.records)
                write_text(current.folder / files[one.name], "".join(lines))
    rows = [
        {"split": one.name, "subject": str(dict(one.records[0]).get("subject", "")), "n": len(one.records)}
        for one in made
    ]
    table = pd.DataFrame(rows).assign(option=[one.option for one in made])
    return ProblemFiles({name: Path(settings.out) / file for name, file in files.items()}, table, recorded)


def _limited(one: "SplitFile", limit: int | None) -> "SplitFile":
    return replace(one, records=list(one.records)[:limit])
