"""What the demo, the report and the commands on lineages tell."""

from pathlib import Path
from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome
from mastlens.cli.tables import show
from mastlens.organisms import get_organism

if TYPE_CHECKING:
    import pandas as pd

    from mastlens.organisms.settings import (
        BuildOrganismSettings,
        FetchOrganismSettings,
        ListOrganismsSettings,
        OrganismTrajectorySettings,
        TrainPRMSettings,
    )
    from mastlens.reporting.demonstration import Demonstration
    from mastlens.reporting.settings import DemoCommandSettings, ReportSettings


def demo(result: "Demonstration", settings: "DemoCommandSettings") -> Outcome:
    """Tell what came out of the demo."""
    return Outcome(result.text, result.summary)


def report(result: Path, settings: "ReportSettings") -> Outcome:
    """Tell where the report is."""
    printed = result.with_suffix(".pdf")
    if not settings.pdf:
        return Outcome(f"Wrote {result}", {"report": str(result)})
    return Outcome(f"Wrote {result} and {printed.name}", {"report": str(result), "pdf": str(printed)})


def organism_list(result: "pd.DataFrame", settings: "ListOrganismsSettings") -> Outcome:
    """Tell which lineages there are."""
    return Outcome(show(result), {"organisms": result.to_dict("records")})


def organism_trajectory(result: Path, settings: "OrganismTrajectorySettings") -> Outcome:
    """Tell where the steps are."""
    text = f"Steps are in {result}"
    if settings.cache is None and settings.lineage is None:
        text += f"; organism:{settings.name}/trajectory names them"
    return Outcome(text, {"folder": str(result)})


def organism_prm(result: Path, settings: "TrainPRMSettings") -> Outcome:
    """Tell where the process reward model is, and how well it tells right steps from wrong ones."""
    import pandas as pd

    from mastlens.organisms.prm import CARD
    from mastlens.runs.reading import read_object

    told = read_object(result / CARD, "a card")
    return Outcome(f"{show(pd.DataFrame(told['accuracy']))}\n\nWrote {result}", {"out": str(result), **told})


def organism_build(result: Path, settings: "BuildOrganismSettings | FetchOrganismSettings") -> Outcome:
    """Tell where the lineage is."""
    text = f"Wrote {result}"
    if settings.out is None:
        stages = ", ".join(f"organism:{settings.name}/{stage}" for stage in get_organism(settings.name).stages)
        text = f"It is in {result}: {stages}"
    return Outcome(text, {"out": str(result)})
