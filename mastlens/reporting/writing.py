"""Writes ``report.html``: what was asked, the verdict, the chapters, limits, data, and how to reproduce it."""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from mastlens.errors import BadFile, BadSetting, NotFound
from mastlens.plots.files import write_file
from mastlens.plots.images import print_page
from mastlens.plots.page import Section, write_page
from mastlens.reporting.chapters import CHAPTERS, Chapter
from mastlens.reporting.chapters.demo import outcome_figure as draw_outcome
from mastlens.reporting.chapters.demo import tables_of
from mastlens.reporting.folder import Findings, RunFolder
from mastlens.reporting.reproducing import data_list, reproduce
from mastlens.reporting.settings import ReportSettings
from mastlens.runs.calls import takes
from mastlens.runs.stages import RECORD

_INTERVALS = "Intervals are over items or problems unless a sentence says seeds; one training seed stands behind them."


@takes(ReportSettings)
def report(settings: ReportSettings) -> Path:
    """Write ``report.html`` from the tables that a folder holds, and return its path.

    Works for a demo, a study, and the folder of any command with ``--out``: what is there is told, in the order of
    the method, and what is missing is not. Equal folders give equal pages, byte for byte. With ``before``, the page
    compares two evaluations, item by item; with ``pdf``, ``report.pdf`` stands beside it.

    Raises:
        MastlensError: If the folder holds no stage of a run, a table is damaged, the two evaluations are of different
            items, or there is no browser to print with.
    """
    if not settings.smallest_lift >= 1:
        raise BadSetting(f"--smallest-lift is a ratio of 1 or more, not {settings.smallest_lift:g}.")
    before = settings.before
    run = RunFolder(Path(settings.folder), None if before is None else Path(before), settings.smallest_lift)
    if not run.record["stages"] and not run.within:
        raise BadFile(f"{run.path} holds no run (no {run.path / RECORD}). Run a stage with --out {run.path} first.")
    chapters = [(chapter, findings) for chapter in CHAPTERS if (findings := chapter.build(run)) is not None]
    is_demo, is_study = tables_of(run) is not None, run.table("study.parquet") is not None
    title, question, verdict = _opening(run, chapters)
    page = write_page(
        run.path / "report.html",
        title=title,
        question=question,
        verdict=verdict,
        sections=[*(findings.section for _, findings in chapters), *_closing(run, chapters)],
        reproduce=reproduce(run, is_demo=is_demo, study=is_study),
    )
    if settings.pdf:
        write_file(page.with_suffix(".pdf"), print_page(page))
    return page


def outcome_figure(folder: Path, subtitle: str = "") -> go.Figure:
    """Return the figure of a demo's outcome: forgetting against collateral, one point an arm."""
    tables = tables_of(RunFolder(Path(folder)))
    if tables is None:
        raise NotFound(f"{folder} is no demo: it lacks summary.parquet or arms.parquet. mastlens demo makes them.")
    return draw_outcome(*tables, subtitle=subtitle)


def _opening(run: RunFolder, chapters: list[tuple[Chapter, Findings]]) -> tuple[str, str, str]:
    """Return title, question and verdict: the chapter with the last word comes first, the others follow in order."""
    if not chapters:
        stages = ", ".join(run.record["stages"])
        return f"Run {run.path.name}", "What was run in this folder?", f"Stages that have run: {stages}."
    first = max(chapters, key=lambda pair: pair[0].weight)[0]
    if first.weight == max(chapter.weight for chapter in CHAPTERS):  # a demo asks one question, and answers it whole
        return first.title, first.question, next(findings.finding for chapter, findings in chapters if chapter is first)
    asked = " ".join(dict.fromkeys(chapter.question for chapter, _ in chapters if chapter.question))
    verdicts = [findings.finding for chapter, findings in chapters if chapter is first]
    verdicts += [findings.finding for chapter, findings in chapters if chapter is not first]
    verdict = "\n\n".join(filter(None, verdicts))
    title = f"{first.title}: {run.path.resolve().name}" if first.title else f"Run {run.path.resolve().name}"
    return title, asked, verdict or "Nothing in this folder has been measured against anything yet."


def _closing(run: RunFolder, chapters: list[tuple[Chapter, Findings]]) -> list[Section]:
    """Return what ends every page: its limits, and the tables behind it."""
    limits = list(dict.fromkeys(limit for _, findings in chapters for limit in findings.limits))
    headings: dict[str, str] = {}
    for chapter, findings in chapters:
        for table in chapter.tables:
            headings.setdefault(table, findings.section.heading)
            headings.setdefault(f"*/{table}", findings.section.heading)
    sections = [Section("Limits", "\n\n".join([*limits, _INTERVALS]))] if chapters else []
    data = data_list(run, headings)
    stages = pd.DataFrame(
        [{"stage": name, "files": ", ".join(stage.get("outputs", {}))} for name, stage in run.record["stages"].items()]
    )
    tables = [("What was run", stages)] if len(stages) else []
    if len(data):
        tables.append(("Tables in this folder", data))
    text = "Parquet files; pandas.read_parquet reads them. The reference (make docs) says what the columns mean."
    return [*sections, Section("Data", text, tables=tuple(tables))]
