"""One function a figure: a tidy table in, a plotly figure out.

Every figure has a title that says its point, a subtitle for model, revision, dtype and seed, the units in
its axis titles, and its own ``.table``; ``.save(path)`` writes it.
"""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.plots.angles import plot_principal_angles
    from mastlens.plots.attacks import plot_attack_variants, plot_code_changes, plot_relearning
    from mastlens.plots.attention import plot_attention
    from mastlens.plots.causal import plot_causal_groups, plot_causal_map, plot_cumulative, plot_first_order
    from mastlens.plots.coupling import plot_coupling, plot_coupling_heads
    from mastlens.plots.coupling_spectrum import plot_coupling_spectrum
    from mastlens.plots.crosscoder import plot_crosscoder
    from mastlens.plots.departure import plot_departure
    from mastlens.plots.depth import plot_depth
    from mastlens.plots.directions import plot_directions
    from mastlens.plots.evaluation import plot_accuracy
    from mastlens.plots.extrapolation import plot_extrapolation
    from mastlens.plots.features import plot_features
    from mastlens.plots.figure import Figure, TextFigure
    from mastlens.plots.files import SavedFigure, save_figure, save_figures, save_text_figure
    from mastlens.plots.forgetting import plot_collateral, plot_edits
    from mastlens.plots.heads import plot_head_map
    from mastlens.plots.inside_maps import plot_patches, plot_writers
    from mastlens.plots.items import plot_items
    from mastlens.plots.lasting import plot_lasting
    from mastlens.plots.magnitude import plot_increment_magnitude
    from mastlens.plots.maps import plot_score_map
    from mastlens.plots.measured import plot_measures, plot_reasoning
    from mastlens.plots.misdirection import plot_misdirection
    from mastlens.plots.overlap import plot_selection_overlap
    from mastlens.plots.pareto import pareto_front
    from mastlens.plots.paths import plot_paths
    from mastlens.plots.principal import plot_off_principal
    from mastlens.plots.projection import plot_projection_angles, plot_projection_spectrum, plot_standing
    from mastlens.plots.projection_effect import plot_projection_effect, plot_projection_map, plot_put_back
    from mastlens.plots.projection_heads import plot_projection_coupling, plot_projection_heads
    from mastlens.plots.ranking import plot_score_decomposition, plot_selection
    from mastlens.plots.requests import plot_requests
    from mastlens.plots.responses import item_responses_html
    from mastlens.plots.scores import plot_scores
    from mastlens.plots.search import plot_search
    from mastlens.plots.spectra import plot_spectra
    from mastlens.plots.steering import plot_steering
    from mastlens.plots.study import plot_study, plot_study_selections
    from mastlens.plots.tables import figure_table
    from mastlens.plots.token_sides import plot_token_sides, token_sides_html
    from mastlens.plots.tokens import plot_token_differences, plot_token_entropy, token_text_html, token_weights_html
    from mastlens.plots.trace_categories import plot_trace_categories
    from mastlens.plots.trace_text import trace_text_html
    from mastlens.plots.tradeoff import plot_tradeoff
    from mastlens.plots.training import plot_training
    from mastlens.plots.trajectories import plot_trajectory, plot_trajectory_explained, plot_trajectory_geometry
    from mastlens.plots.undoing import plot_undoing
    from mastlens.plots.unlearning import plot_unlearning_curve

__all__ = [
    "Figure",
    "SavedFigure",
    "TextFigure",
    "figure_table",
    "item_responses_html",
    "pareto_front",
    "plot_accuracy",
    "plot_attack_variants",
    "plot_attention",
    "plot_causal_groups",
    "plot_causal_map",
    "plot_code_changes",
    "plot_collateral",
    "plot_coupling",
    "plot_coupling_heads",
    "plot_coupling_spectrum",
    "plot_crosscoder",
    "plot_cumulative",
    "plot_departure",
    "plot_depth",
    "plot_directions",
    "plot_edits",
    "plot_extrapolation",
    "plot_features",
    "plot_first_order",
    "plot_head_map",
    "plot_increment_magnitude",
    "plot_items",
    "plot_lasting",
    "plot_measures",
    "plot_misdirection",
    "plot_off_principal",
    "plot_patches",
    "plot_paths",
    "plot_principal_angles",
    "plot_projection_angles",
    "plot_projection_coupling",
    "plot_projection_effect",
    "plot_projection_heads",
    "plot_projection_map",
    "plot_projection_spectrum",
    "plot_put_back",
    "plot_reasoning",
    "plot_relearning",
    "plot_requests",
    "plot_score_decomposition",
    "plot_score_map",
    "plot_scores",
    "plot_search",
    "plot_selection",
    "plot_selection_overlap",
    "plot_spectra",
    "plot_standing",
    "plot_steering",
    "plot_study",
    "plot_study_selections",
    "plot_token_differences",
    "plot_token_entropy",
    "plot_token_sides",
    "plot_trace_categories",
    "plot_tradeoff",
    "plot_training",
    "plot_trajectory",
    "plot_trajectory_explained",
    "plot_trajectory_geometry",
    "plot_undoing",
    "plot_unlearning_curve",
    "plot_writers",
    "save_figure",
    "save_figures",
    "save_text_figure",
    "token_sides_html",
    "token_text_html",
    "token_weights_html",
    "trace_text_html",
]

_PUBLIC = {
    "Figure": "figure",
    "SavedFigure": "files",
    "TextFigure": "figure",
    "figure_table": "tables",
    "item_responses_html": "responses",
    "pareto_front": "pareto",
    "plot_accuracy": "evaluation",
    "plot_attack_variants": "attacks",
    "plot_attention": "attention",
    "plot_causal_groups": "causal",
    "plot_causal_map": "causal",
    "plot_code_changes": "attacks",
    "plot_collateral": "forgetting",
    "plot_coupling": "coupling",
    "plot_coupling_heads": "coupling",
    "plot_coupling_spectrum": "coupling_spectrum",
    "plot_crosscoder": "crosscoder",
    "plot_cumulative": "causal",
    "plot_departure": "departure",
    "plot_depth": "depth",
    "plot_directions": "directions",
    "plot_edits": "forgetting",
    "plot_extrapolation": "extrapolation",
    "plot_features": "features",
    "plot_first_order": "causal",
    "plot_head_map": "heads",
    "plot_increment_magnitude": "magnitude",
    "plot_items": "items",
    "plot_lasting": "lasting",
    "plot_measures": "measured",
    "plot_misdirection": "misdirection",
    "plot_off_principal": "principal",
    "plot_patches": "inside_maps",
    "plot_paths": "paths",
    "plot_principal_angles": "angles",
    "plot_projection_angles": "projection",
    "plot_projection_coupling": "projection_heads",
    "plot_projection_effect": "projection_effect",
    "plot_projection_heads": "projection_heads",
    "plot_projection_map": "projection_effect",
    "plot_projection_spectrum": "projection",
    "plot_put_back": "projection_effect",
    "plot_reasoning": "measured",
    "plot_relearning": "attacks",
    "plot_requests": "requests",
    "plot_score_decomposition": "ranking",
    "plot_score_map": "maps",
    "plot_scores": "scores",
    "plot_search": "search",
    "plot_selection": "ranking",
    "plot_selection_overlap": "overlap",
    "plot_spectra": "spectra",
    "plot_standing": "projection",
    "plot_steering": "steering",
    "plot_study": "study",
    "plot_study_selections": "study",
    "plot_token_differences": "tokens",
    "plot_token_entropy": "tokens",
    "plot_token_sides": "token_sides",
    "plot_trace_categories": "trace_categories",
    "plot_tradeoff": "tradeoff",
    "plot_training": "training",
    "plot_trajectory": "trajectories",
    "plot_trajectory_explained": "trajectories",
    "plot_trajectory_geometry": "trajectories",
    "plot_undoing": "undoing",
    "plot_unlearning_curve": "unlearning",
    "plot_writers": "inside_maps",
    "save_figure": "files",
    "save_figures": "files",
    "save_text_figure": "files",
    "token_sides_html": "token_sides",
    "token_text_html": "tokens",
    "token_weights_html": "tokens",
    "trace_text_html": "trace_text",
}

__getattr__, __dir__ = attach(__name__, _PUBLIC)
