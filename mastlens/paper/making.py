"""Draws the counterparts of the paper's figures and tables, and writes them with their data and captions."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mastlens.errors import NotFound, unknown
from mastlens.paper.catalogue import FIGURES, PaperFigure
from mastlens.paper.settings import FiguresSettings
from mastlens.paper.sources import PaperSources
from mastlens.plots import Figure, save_figures
from mastlens.plots.images import check_images
from mastlens.runs.calls import takes
from mastlens.runs.files import atomic_path, write_text

CAPTIONS = "captions.md"
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


@takes(FiguresSettings)
def figures(settings: FiguresSettings) -> PaperFigures:
    """Draw every figure of the paper's counterparts with its data and ``captions.md``, from a demo that is run first.

    Raises:
        MastlensError: If a name is none of the figures'.
    """
    from mastlens.reporting.demonstration import ARMS, demo

    if not (Path(settings.demo) / ARMS).is_file():
        demo(settings.demo, seed=settings.seed, device=settings.device, progress=settings.progress)
    return make_paper_figures(settings)


@takes(FiguresSettings)
def make_paper_figures(settings: FiguresSettings) -> PaperFigures:
    """Draw every figure of the paper's counterparts with its data and ``captions.md``.

    Raises:
        MastlensError: If the demo is not finished, or a name is none of the figures'.
    """
    demo, study, only, subtitle = settings.demo, settings.study, settings.only, settings.subtitle
    names = [entry.name for entry in FIGURES]
    for name in only:
        if name not in names:
            raise unknown("figure", name, names)
    images, out = check_images(settings.images), Path(settings.out)
    sources = PaperSources(Path(demo), out if study is None else Path(study))
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
        raise NotFound(f"None of {', '.join(entry.name for entry in chosen)} could be drawn: {missing}.")
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


def _keep_study(sources: PaperSources, out: Path) -> None:
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
