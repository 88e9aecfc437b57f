"""Write the figures of the README from the demo's tables, and those of a study: ``make figures``."""

import sys
from pathlib import Path

import pandas as pd

from mastlens import plots
from mastlens.reporting import outcome_figure

HERE = Path(__file__).parent


def main(demo: Path, study: Path | None = None) -> None:
    """Draw from the tables in ``demo``, and in ``study`` if there is one, into this folder."""
    geometry = pd.read_parquet(demo / "geometry.parquet")
    figures = {"outcome": outcome_figure(demo), "off-principal": plots.plot_off_principal(geometry)}
    if study is not None:
        arms = pd.read_parquet(study / "study.parquet")
        figures["study-graddiff"] = plots.plot_study_selections(arms, objective="graddiff")
        figures["study-ga"] = plots.plot_study_selections(arms, objective="ga", measure="retain_kl")
        for table in ("study", "summary", "contrasts"):
            pd.read_parquet(study / f"{table}.parquet").to_csv(HERE / f"study-{table}.csv", index=False)
    for name, figure in figures.items():
        saved = plots.save_figure(figure, HERE, name)
        sys.stdout.write(f"{name}: {', '.join(path.name for path in saved.paths)} {saved.note}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:] or ["demo"]))
