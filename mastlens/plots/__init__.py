"""One function a figure: a tidy table in, a plotly figure out.

Every figure has a title that says its point, a subtitle for model, revision, dtype and seed, the units in
its axis titles, and its own table, which :func:`figure_table` hands back. :func:`save_figure` writes it.
"""

from mastlens.plots.coupling import plot_coupling
from mastlens.plots.evaluation import plot_accuracy
from mastlens.plots.files import SavedFigure, save_figure
from mastlens.plots.items import plot_items
from mastlens.plots.magnitude import plot_increment_magnitude
from mastlens.plots.maps import plot_score_map
from mastlens.plots.principal import plot_off_principal
from mastlens.plots.ranking import plot_score_decomposition, plot_selection
from mastlens.plots.spectra import plot_spectra
from mastlens.plots.tables import figure_table
from mastlens.plots.tradeoff import plot_tradeoff
from mastlens.plots.unlearning import plot_unlearning_curve

__all__ = [
    "SavedFigure",
    "figure_table",
    "plot_accuracy",
    "plot_coupling",
    "plot_increment_magnitude",
    "plot_items",
    "plot_off_principal",
    "plot_score_decomposition",
    "plot_score_map",
    "plot_selection",
    "plot_spectra",
    "plot_tradeoff",
    "plot_unlearning_curve",
    "save_figure",
]
