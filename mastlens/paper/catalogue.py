"""The paper's figures and tables and what stands for each of them here: what is drawn, from what, and how to read it.

The paper is MAST, arXiv:2606.19222; its tables and figures are counted by what they show, not by their numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mastlens import plots
from mastlens.paper.drawing import (
    draw_accuracy,
    draw_controls,
    draw_diagnostics,
    draw_objectives,
    draw_outcome,
    draw_r2mu,
    draw_strength,
    of_study,
)
from mastlens.paper.sources import PaperSources
from mastlens.plots import Figure

_DEMO = "mastlens demo --out demo && mastlens figures --demo demo"
_STUDY = "mastlens run organism:qwen2 --out study && mastlens figures --study study (363 arms, about an hour)"
_PAIRED = "95 % paired interval over items"


@dataclass(frozen=True)
class PaperFigure:
    """One figure of the paper's counterparts.

    Attributes:
        name: Its files' name.
        counterpart: What of the paper it stands for.
        caption: What is shown, n, intervals, null.
        command: What makes its data.
        draw: Sources and subtitle to figure; None where the data is not there.
    """

    name: str
    counterpart: str
    caption: str
    command: str
    draw: Callable[[PaperSources, str], Figure | None]


FIGURES: tuple[PaperFigure, ...] = (
    PaperFigure(
        "outcome",
        "forgetting against retention by method, with full-parameter and random controls",
        f"Accuracy lost on forget (n = 150) and on retain (n = 456), one point an arm; {_PAIRED}; dotted, the Pareto "
        "front. Null: the random selections of the same size.",
        _DEMO,
        draw_outcome,
    ),
    PaperFigure(
        "accuracy",
        "headline table: accuracy of source, MAST and full-parameter unlearning by split",
        "Greedy accuracy on the evaluation splits, n in the panels' titles; 95 % Wilson intervals of each model alone. "
        "Dashed: SFT, and the model that was never rewarded on forget.",
        _DEMO,
        draw_accuracy,
    ),
    PaperFigure(
        "items",
        "items lost and gained, exact McNemar test",
        "Every evaluation item before and after the selected edit. Null: as many gained as lost, exact "
        "two-sided McNemar.",
        _DEMO,
        lambda sources, subtitle: plots.plot_items(sources.items, subtitle=subtitle),
    ),
    PaperFigure(
        "strength",
        "strength sweep: learning rates and steps",
        "Forget accuracy on calibration items at each saved step, by learning rate and arm; Wilson intervals on hover.",
        _DEMO,
        draw_strength,
    ),
    PaperFigure(
        "views",
        "three views of forgetting: answer, log p(solution), log p(answer)",
        f"Changes to the source on the 150 forget items; {_PAIRED}. Null: 0, no change. A triangle at an edge "
        "is a value beyond the panel, written beside it.",
        _DEMO,
        lambda sources, subtitle: plots.plot_measures(
            sources.views,
            nulls=dict.fromkeys(sources.views["measure"], 0.0),
            title="Forgetting in three views: the answer, its working, and the answer without working",
            subtitle=subtitle,
            note="Bars: 95 % paired intervals over items. Lines: no change. A triangle: a value beyond the panel, "
            "written beside it.",
        ),
    ),
    PaperFigure(
        "diagnostics",
        "diagnostics table of the SFT and the RLVR update",
        "Mean change of token log-probabilities and the share that rose, teacher-forced on the organism's training "
        "solutions; energy outside the principal subspaces beside a random increment's; cosine of the forget gradient "
        "with the increment. 95 % intervals over items.",
        _DEMO,
        draw_diagnostics,
    ),
    PaperFigure(
        "token-differences",
        "token-level change of log-probability",
        "Cumulative distribution of each solution token's change, SFT and RLVR, forget and retain. Null: 0.",
        _DEMO,
        lambda sources, subtitle: plots.plot_token_differences(sources.tokens, subtitle=subtitle),
    ),
    PaperFigure(
        "off-principal",
        "off-principal fraction by layer and projection",
        "Energy of the RLVR increment inside the base weight's top-16 subspaces over that of a random increment "
        "(left), and outside with the null's mean and 95 % band over all 32 tensors (right).",
        _DEMO,
        lambda sources, subtitle: plots.plot_off_principal(sources.geometry, subtitle=subtitle),
    ),
    PaperFigure(
        "magnitude",
        "score component: size of the increment",
        "Frobenius norm of both increments, absolute and relative; hatched: not above the floor of float32.",
        _DEMO,
        lambda sources, subtitle: plots.plot_increment_magnitude(sources.geometry, subtitle=subtitle),
    ),
    PaperFigure(
        "coupling",
        "score component: coupling to the forget gradient",
        "Cosines of the loss gradients with the increment and with each other, on the training problems; rings: within "
        "what 95 % of random directions stay below, all cells together.",
        _DEMO,
        lambda sources, subtitle: plots.plot_coupling(sources.coupling, subtitle=subtitle),
    ),
    PaperFigure(
        "principal-angles",
        "how far the principal subspaces turned",
        "Largest angle of the top-16 subspaces before and after each increment, 32 tensors and two sides; open "
        "marks: as a random increment of that norm gives (p ≥ 0.001 each).",
        _DEMO,
        lambda sources, subtitle: plots.plot_principal_angles(sources.geometry, subtitle=subtitle),
    ),
    PaperFigure(
        "score-decomposition",
        "score components: what decides the ranking",
        "The three factors of the MAST score of every tensor, in doublings above their medians. No interval: an "
        "identity.",
        _DEMO,
        lambda sources, subtitle: plots.plot_score_decomposition(sources.table("ranking.parquet"), subtitle=subtitle),
    ),
    PaperFigure(
        "selection",
        "selection by layer and projection",
        "Rank by MAST score, and the 12 of 32 projections that were selected.",
        _DEMO,
        lambda sources, subtitle: plots.plot_selection(sources.table("ranking.parquet"), subtitle=subtitle),
    ),
    PaperFigure(
        "selection-overlap",
        "ranking specificity: selections of other rules",
        "Jaccard overlap of the rules' top 12 of 32; rings: an overlap that independent random selections give.",
        _DEMO,
        lambda sources, subtitle: plots.plot_selection_overlap(sources.overlap, subtitle=subtitle),
    ),
    PaperFigure(
        "study-graddiff",
        "ranked against random selections at matched forgetting (GradDiff)",
        "Retain accuracy of every selection under GradDiff, one dot a seed or draw; 95 % t-intervals over three seeds; "
        "grey band: 95 % of 20 random draws. From the committed study-study.csv.",
        _STUDY,
        of_study("study", lambda t, s: plots.plot_study_selections(t, objective="graddiff", subtitle=s)),
    ),
    PaperFigure(
        "study-ga",
        "ranked against random, complement and whole-attention selections (gradient ascent)",
        "KL from the reference on retain, every selection under gradient ascent, as above. From study-study.csv.",
        _STUDY,
        of_study("study", lambda t, s: plots.plot_study_selections(t, objective="ga", measure="retain_kl", subtitle=s)),
    ),
    PaperFigure(
        "study-outcome",
        "forgetting against retention by objective and selection, with seeds",
        "Every arm under three objectives, paired 95 % intervals over items, one point a seed; small dots: "
        "random draws. From study-study.csv.",
        _STUDY,
        of_study("study", lambda t, s: plots.plot_study(t, objectives=["ga", "npo", "graddiff"], subtitle=s)),
    ),
    PaperFigure(
        "study-objectives",
        "objective table: GA, NPO, SimNPO and others at matched forgetting",
        "MAST's selection under every objective, means over seeds with 95 % t-intervals; objectives "
        "whose arms never reached the target are left out. From study-summary.csv.",
        _STUDY,
        of_study("summary", draw_objectives),
    ),
    PaperFigure(
        "study-controls",
        "seeds table and random control: MAST minus random draws",
        "Difference in retain accuracy to the mean of the random draws of the same size, 95 % t-intervals over seeds; "
        "n is the number of draws. From study-contrasts.csv.",
        _STUDY,
        of_study("contrasts", draw_controls),
    ),
    PaperFigure(
        "r2mu",
        "R2MU (arXiv:2506.12963): reasoning traces and final answers",
        "Each measure with its 95 % interval, n on hover. From the committed r2mu.csv; left out where there is none.",
        "mastlens reasoning-table --organism --out DIR",
        draw_r2mu,
    ),
)
"""In the order of the captions."""
