"""What commands tell that run models and change nothing, and the ranking from what they found."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome
from mastlens.cli.tables import show

if TYPE_CHECKING:
    from mastlens.analysis.causal.causal_map import CausalMap
    from mastlens.analysis.causal.cumulative import CumulativeCurves
    from mastlens.analysis.causal.settings import CausalMapSettings, CumulativeCurvesSettings
    from mastlens.analysis.coupling.coupling import Coupling
    from mastlens.analysis.coupling.settings import CoupleSettings
    from mastlens.analysis.scores.scored import Scores
    from mastlens.analysis.scores.settings import ScoreSettings
    from mastlens.analysis.settings import TokenDifferencesSettings
    from mastlens.analysis.tokens import TokenDifferences
    from mastlens.selection.ranking import Ranking
    from mastlens.selection.settings import RankSettings


def couple(result: "Coupling", settings: "CoupleSettings") -> Outcome:
    """Tell the coupling."""
    from mastlens.statistics import claim

    cosines = [c for c in map(str, result.table.columns) if c.endswith("_cosine")]
    columns = ["layer", "projection", "forget_grad_norm", "forget_inner", *cosines, "forget_above_chance"]
    sides = [c.removesuffix("_above_chance") for c in map(str, result.table.columns) if c.endswith("_above_chance")]
    claims = {side: claim(result.table, f"{side}_cosine") for side in sides}
    last = "\n".join(f"cosine of {side} gradient: {found.sentence('tensor')}" for side, found in claims.items())
    return Outcome(
        show(result.table, columns, rows=80),
        {
            "rows": len(result.table),
            "claims": {side: asdict(found) for side, found in claims.items()},
            "mean_absolute": result.table[cosines].abs().mean().to_dict(),
            "out": str(settings.out),
        },
        last,
    )


def score(result: "Scores", settings: "ScoreSettings") -> Outcome:
    """Tell the scores, the largest first."""
    table = result.table.sort_values("score", ascending=False, kind="stable")
    columns = ["layer", "projection", "name", "delta_norm", "score", "standard_error", "forget_path", "retain_path"]
    text = show(table, columns, rows=40)
    summary = {"rows": len(table), "rule": settings.rule, "first": table["name"].head(10).tolist()}
    return Outcome(text, {**summary, "verdict": result.card().verdict, "out": str(settings.out)})


def rank(result: "Ranking", settings: "RankSettings") -> Outcome:
    """Tell the ranking and what it selects."""
    text = f"{show(result.table, rows=60)}\n{len(result.selected)} selected, {result.parameters:,} parameters"
    summary = {"selected": result.selected, "parameters": result.parameters, **result.settings}
    if "reference_parameters" in result.table:
        summary["reference_parameters"] = int(result.table["reference_parameters"].iloc[0])
        text += f"; the selection it is matched to has {summary['reference_parameters']:,}"
    return Outcome(text, summary)


def causal_map(result: "CausalMap", settings: "CausalMapSettings") -> Outcome:
    """Tell what each projection does."""
    columns = ["direction", "layer", "projection", "head", "forget_effect", "forget_effect_low", "forget_effect_high"]
    columns += ["forget_first_order", "forget_exact_change", "retain_effect", "retain_first_order"]
    groups = ["direction", "group", "forget_effect", "retain_effect"]
    text = show(result.table, columns, rows=80) + "\n\n" + show(result.groups, groups)
    text += "\n\nrank correlation of effect and first-order prediction\n" + show(result.correlation)
    return Outcome(
        text,
        {
            "rows": len(result.table),
            "correlation": result.correlation.to_dict("records"),
            "groups": result.groups.to_dict("records"),
            "out": str(settings.out),
        },
    )


def cumulative_curves(result: "CumulativeCurves", settings: "CumulativeCurvesSettings") -> Outcome:
    """Tell how early a ranking finds what matters."""
    return Outcome(
        show(result.areas),
        {"rows": len(result.table), "areas": result.areas.to_dict("records"), "out": str(settings.out)},
    )


def token_differences(result: "TokenDifferences", settings: "TokenDifferencesSettings") -> Outcome:
    """Tell where log-probabilities moved."""
    return Outcome(
        show(result.summary, rows=80),
        {"tokens": len(result.table), "summary": result.summary.to_dict("records"), "out": str(settings.out)},
    )
