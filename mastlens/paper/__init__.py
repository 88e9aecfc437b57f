"""The counterparts of the paper's figures and tables, drawn from the organism, each with its data and its caption."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mastlens.errors import MastlensError
from mastlens.paper.catalogue import FIGURES, PaperFigure
from mastlens.paper.sources import Sources
from mastlens.plots import Figure, save_figures
from mastlens.plots.images import check_images
from mastlens.runs.files import atomic_path, write_text

CAPTIONS = "captions.md"
SUBTITLE = "organism:qwen2, float32, seed 0"
_HEAD = """# Captions

Counterparts of the figures and tables of MAST (arXiv:2606.19222) on the shipped organism, a model of under a million
parameters: that every step works, not what holds for large models. `mastlens figures` writes this folder. Each figure
has `.csv` and `.json` (the data that is drawn), `.svg` and `.pdf` where a browser was found, and `.html`, which needs
the `plotly.min.js` beside it; pages and script are written anew and not kept in git.
"""


@dataclass(frozen=True)
class PaperFigures:
    """What was written.

    Attributes:
        figures: Name to figure, in the order of the captions.
        files: All files of the figures, and the captions.
        missing: Name to why a figure was not drawn.
        note: Why images are missing, as one line; empty when none is.
    """

    figures: dict[str, Figure]
    files: tuple[Path, ...]
    missing: dict[str, str]
    note: str


def make_paper_figures(
    out: str | os.PathLike[str] = "figures",
    *,
    demo: str | os.PathLike[str] = "demo",
    study: str | os.PathLike[str] | None = None,
    only: Sequence[str] = (),
    images: Sequence[str] = ("svg", "pdf"),
    subtitle: str = SUBTITLE,
) -> PaperFigures:
    """Draw every figure of the paper's counterparts with its data and ``captions.md``.

    Args:
        out: Where to; files of the same names are replaced.
        demo: The folder of a finished demo.
        study: The folder of a finished study, whose tables are then kept in ``out``; by default ``out`` itself with the
            tables kept there.
        only: Names of the figures to draw; all by default. With some of them, the captions stay as they are.
        images: Which of svg, png and pdf to make, where there is a browser.
        subtitle: Below every title: model, dtype, seed.

    Raises:
        MastlensError: If the demo is not finished, or a name is none of the figures'.
    """
    from mastlens.errors import unknown

    names = [entry.name for entry in FIGURES]
    for name in only:
        if name not in names:
            raise unknown("figure", name, names)
    images, out = check_images(images), Path(out)
    sources = Sources(Path(demo), out if study is None else Path(study))
    drawn: dict[str, Figure] = {}
    missing: dict[str, str] = {}
    chosen = [entry for entry in FIGURES if not only or entry.name in only]
    for entry in chosen:
        figure = entry.draw(sources, subtitle)
        if figure is None:
            missing[entry.name] = f"{sources.study} has no data for it ({entry.command})"
        else:
            drawn[entry.name] = figure
    if not drawn:
        raise MastlensError(f"None of {', '.join(entry.name for entry in chosen)} could be drawn: {missing}.")
    if study is not None and Path(study).resolve() != out.resolve():
        _keep_study(sources, out)
    saved = save_figures(drawn, out, images=images)
    files = [path for one in saved.values() for path in one.paths]
    if not only:
        write_text(out / CAPTIONS, captions({entry: drawn[entry.name] for entry in chosen if entry.name in drawn}))
        files.append(out / CAPTIONS)
    return PaperFigures(drawn, tuple(files), missing, next(iter(saved.values())).note)


def captions(figures: dict[PaperFigure, Figure]) -> str:
    """Return the captions as Markdown: for each figure what it says, stands for, shows, and how it is made."""
    parts = [_HEAD]
    for entry, figure in figures.items():
        meta = figure.layout.meta  # pyright: ignore[reportAttributeAccessIssue] - plotly builds it at run time
        parts.append(
            f"## {entry.name}\n\n**{meta['title']}.** {entry.caption}\n\n"
            f"- Stands for: {entry.counterpart}\n- Rows of data: {len(figure.table)} ([csv]({entry.name}.csv))\n"
            f"- Made by: `{entry.command}`\n"
        )
    return "\n".join(parts)


def _keep_study(sources: Sources, out: Path) -> None:
    """Keep the study's tables beside the figures, from where they are drawn again without running it."""
    for name in ("study", "summary", "contrasts"):
        kept, table = sources.study / f"study-{name}.csv", sources.studied(name)
        if table is None:
            continue
        with atomic_path(out / f"study-{name}.csv") as temporary:
            if (sources.study / f"{name}.parquet").is_file():
                table.to_csv(temporary, index=False, lineterminator="\n")
            else:
                shutil.copyfile(kept, temporary)
