"""What a figure function returns: a plotly figure, or a coloured text, that hands back its data and saves itself."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from mastlens.errors import BadSetting
from mastlens.plots.images import IMAGES
from mastlens.plots.tables import figure_table

if TYPE_CHECKING:
    from mastlens.plots.files import SavedFigure


class Figure(go.Figure):
    """A plotly figure that carries the tidy table it was drawn from.

    It is a ``plotly.graph_objects.Figure`` in everything else: shown, pickled, copied and changed like one.
    """

    @property
    def table(self) -> pd.DataFrame:
        """The table that was drawn, computed columns included; a new one each time."""
        return figure_table(self)

    def _repr_html_(self) -> str:
        """Return it as HTML that holds plotly.js: plotly's own would fetch that from the web."""
        return self.to_html(full_html=False, include_plotlyjs=True)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        images: Sequence[str] = IMAGES,
        style: str | None = None,
        width: str = "column",
        title: bool = True,
    ) -> "SavedFigure":
        """Write the figure: with an ending one file, without one all that there is.

        ``fig.save("x.pdf", style="neurips", title=False)`` writes a PDF that is as wide as a column, with letters of at
        least 6 points, its caption as ``x.txt`` and its data as ``x.csv``.

        Args:
            path: A file that ends in .pdf, .svg, .png or .html; or folder and name without an ending, for
                ``path.html``, ``.json``, ``.csv`` and, where a browser is found, the images.
            images: Without an ending: which of svg, png and pdf.
            style: Of one file: neurips, icml, acl, nature or slides; None for the size it has on a screen.
            width: Of the style: ``column`` or ``text``.
            title: Of one file: whether title, subtitle and note stand in it.

        Returns:
            The files, and a line that says why images are missing when they are.

        Raises:
            MastlensError: If a name is not known, the figure cannot be read at that width, or a file that was asked for
                cannot be drawn or written.
        """
        from mastlens.plots.files import save_figure
        from mastlens.plots.printed import ending, save_printed

        path = Path(path)
        if ending(path):
            return save_printed(self, path, style=style, width=width, title=title)
        if style is not None or not title:
            raise BadSetting(
                f"A style and title=False are of one file: give it an ending, e.g. {path.name}.pdf, .svg or .png."
            )
        return save_figure(self, path.parent, path.name, images=images)


class TextFigure(str):
    """A figure that is text: an HTML fragment without script, shown as such in a notebook.

    It is a ``str``, ready for a page.

    Attributes:
        table: The tidy table that was drawn.
    """

    table: pd.DataFrame

    def __new__(cls, html: str, table: pd.DataFrame | None = None) -> "TextFigure":
        """Return the fragment with its table; both are kept when it is pickled or copied."""
        made = super().__new__(cls, html)
        made.table = pd.DataFrame() if table is None else table.reset_index(drop=True)
        return made

    def _repr_html_(self) -> str:
        return str(self)

    def save(self, path: str | os.PathLike[str]) -> "SavedFigure":
        """Write ``path.html``, a page of its own, and ``path.json`` and ``path.csv`` with the data.

        Args:
            path: Folder and name, without an ending.
        """
        from mastlens.plots.files import save_text_figure

        path = Path(path)
        return save_text_figure(self, path.parent, path.name)
