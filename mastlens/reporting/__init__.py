"""The report: from the tables of any run's folder to one page."""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.reporting.writing import outcome_figure, report

__all__ = ["outcome_figure", "report"]

__getattr__, __dir__ = attach("mastlens.reporting", {"outcome_figure": "writing", "report": "writing"})
