"""A page of every figure with the call that makes it, drawn from invented tables: to be looked through by eye.

``make gallery`` writes figures/gallery.html; ``--large`` draws the sizes of large models instead.
"""

import argparse
from pathlib import Path

from mastlens.plots.page import Section, write_page
from tests.drawn import DRAWN, SMALL, Drawn, Size


def section(drawn: Drawn, size: Size) -> Section:
    """Return the section of one figure."""
    figure = drawn.draw(*drawn.make(size))
    if isinstance(figure, str):
        return Section(drawn.name, drawn.call, fragments=(("An HTML fragment", figure),))
    return Section(drawn.name, drawn.call, figures=(figure,))


def main(arguments: list[str] | None = None) -> Path:
    """Write the page and return its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("figures/gallery.html"))
    parser.add_argument("--large", action="store_true", help="80 layers x 7 projections, 128 heads, 30 arms")
    asked = parser.parse_args(arguments)
    return write_page(
        asked.out,
        title="Every figure",
        question="What does each figure look like, and which call makes it?",
        verdict="Drawn from invented tables with the columns that commands write: nothing here is a result.",
        sections=[section(drawn, drawn.large if asked.large else SMALL) for drawn in DRAWN],
        reproduce={"command": "make gallery"},
    )


if __name__ == "__main__":
    print(main())
