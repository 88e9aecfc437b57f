"""Settings of the paper's figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from mastlens.runs.settings import REPORT, FilePath, Settings, setting

SUBTITLE = "organism:qwen2, float32, seed 0"


def figure_lines() -> list[str]:
    """Return every figure with what it stands for, for the help."""
    from mastlens.paper.catalogue import FIGURES

    return [f"{figure.name}: {figure.counterpart}" for figure in FIGURES]


@dataclass(frozen=True, kw_only=True)
class FiguresSettings(Settings):
    """Settings of ``figures``."""

    command, group = "figures", REPORT
    summary = "the paper's figures and tables from the organism, with data and captions"
    example = "figures --only outcome --out figures"
    function = "mastlens.paper.making:figures"

    out: FilePath = setting("where to; files of the same names are replaced", "figures", metavar="DIR", placed=True)
    demo: FilePath = setting("a demo's folder; the demo is run first if it is missing", "demo", metavar="DIR")
    study: FilePath | None = setting(
        "a study's folder, whose tables are then kept in --out; by default the tables kept there", None, metavar="DIR"
    )
    only: Sequence[str] = setting(
        "these figures alone; captions stay as they are", (), metavar="NAME", listing=figure_lines
    )
    images: Sequence[str] = setting(
        "of svg, png, pdf; none where nothing follows",
        ("svg", "pdf"),
        metavar="KIND",
        shown_default="svg pdf",
        may_be_empty=True,
    )
    subtitle: str = setting("below every title: model, dtype, seed", SUBTITLE)
