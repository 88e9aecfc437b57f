"""Settings of the demo and the report."""

from dataclasses import dataclass
from typing import Any

from mastlens.runs.settings import REPORT, FilePath, Settings, Writing, setting


@dataclass(frozen=True, kw_only=True)
class DemoCommandSettings(Writing):
    """Settings of ``demo``."""

    command, group = "demo", REPORT
    summary = "the whole method on the shipped organism, with a report"
    example = "demo --out demo"
    function = "mastlens.reporting.demonstration:demo"
    then = "figures --demo {out} --out figures"

    out: FilePath = setting("the run's output folder", "demo", metavar="DIR", placed=True)
    settings: Any = setting("a DemoSettings: what to vary of the method", None, python_only=True)
    lineage: FilePath | None = setting(
        "a folder as organism build writes it, in place of the shipped one", None, metavar="DIR"
    )


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """Settings of ``report``."""

    command, group = "report", REPORT
    summary = "write report.html from what DIR holds"
    example = "report demo"
    function = "mastlens.reporting.writing:report"

    folder: FilePath = setting("a run's output folder", positional=True, metavar="DIR")
    before: FilePath | None = setting(
        "evaluation before the edit, where DIR holds the one after it", None, metavar="DIR"
    )
    smallest_lift: float = setting(
        "smallest ratio to what chance gives that is of interest: beyond chance and nearer to 1 is too small to matter",
        1.1,
    )
    pdf: bool = setting("also print the page to report.pdf; needs Chrome, Chromium or Edge", False)
