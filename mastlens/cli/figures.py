"""What the command that draws the paper's figures tells."""

from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome

if TYPE_CHECKING:
    from mastlens.paper.making import PaperFigures
    from mastlens.paper.settings import FiguresSettings


def figures(result: "PaperFigures", settings: "FiguresSettings") -> Outcome:
    """Tell which figures were drawn, and why others were not."""
    from mastlens.plots.tables import layout_of

    titles = {name: layout_of(figure).meta["title"] for name, figure in result.figures.items()}
    lines = [f"{name}: {title}" for name, title in titles.items()]
    lines += [f"{name}: left out; {why}" for name, why in result.missing.items()]
    lines += [result.note] if result.note else []
    text = "\n".join(lines)
    return Outcome(
        f"{text}\n\n{len(result.files)} files are in {settings.out}",
        {
            "figures": titles,
            "missing": result.missing,
            "note": result.note,
            "files": [str(path) for path in result.files],
            "out": str(settings.out),
        },
    )
