"""The counterparts of the paper's figures and tables, drawn from the organism, each with its data and its caption."""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.paper.making import CAPTIONS, PaperFigures, captions, figures, make_paper_figures
    from mastlens.paper.settings import SUBTITLE

__all__ = ["CAPTIONS", "SUBTITLE", "PaperFigures", "captions", "figures", "make_paper_figures"]

__getattr__, __dir__ = attach("mastlens.paper", {**dict.fromkeys(__all__, "making"), "SUBTITLE": "settings"})
