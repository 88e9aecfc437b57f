"""Write the figures of the README from the demo's tables: ``make figures``."""

import sys
from pathlib import Path

import pandas as pd

from mastlens import plots
from mastlens.reporting import outcome_figure

HERE = Path(__file__).parent


def main(demo: Path) -> None:
    """Draw from the tables in ``demo`` into this folder."""
    geometry = pd.read_parquet(demo / "geometry.parquet")
    figures = {"outcome": outcome_figure(demo), "off-principal": plots.plot_off_principal(geometry)}
    for name, figure in figures.items():
        saved = plots.save_figure(figure, HERE, name)
        sys.stdout.write(f"{name}: {', '.join(path.name for path in saved.paths)} {saved.note}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
