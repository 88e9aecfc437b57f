"""What commands tell that look at the activations of a pair of models."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome
from mastlens.cli.tables import show

if TYPE_CHECKING:
    from mastlens.analysis.inside.crosscoding import SharedFeatures
    from mastlens.analysis.inside.departing import Departure
    from mastlens.analysis.inside.directing import Directions
    from mastlens.analysis.inside.featuring import Features
    from mastlens.analysis.inside.patching import ActivationPatches
    from mastlens.analysis.inside.pathing import Paths
    from mastlens.analysis.inside.settings import (
        InsideCrosscoderSettings,
        InsideDepartSettings,
        InsideDictionarySettings,
        InsideDirectSettings,
        InsidePatchSettings,
        InsidePathSettings,
        InsideSteerSettings,
        InsideUndoSettings,
        InsideWriteSettings,
    )
    from mastlens.analysis.inside.steering import Steering
    from mastlens.analysis.inside.undoing import Undoing
    from mastlens.analysis.inside.writing import Writers


def inside_depart(result: "Departure", settings: "InsideDepartSettings") -> Outcome:
    """Tell where the two models part."""
    from mastlens.statistics import claim

    table = result.table[result.table["position"] == -1]
    measures = (
        "difference",
        "angle_deg",
        "cka_distance",
        "procrustes",
        "lens_kl",
        "tuned_kl",
        "kl",
        "js",
        "entropy_change",
        "top_differs",
    )
    there = [measure for measure in measures if measure in table]
    columns = ["split", "layer", "site", "tokens"]
    columns += [f"{measure}{end}" for measure in ("difference", "kl") for end in ("", "_null", "_distinguishable")]
    columns += [column for column in map(str, table) if "_error_" in column]
    return Outcome(
        show(table, columns, rows=80),
        {
            "rows": len(result.table),
            "claims": {measure: asdict(claim(table, measure)) for measure in there},
            "forks": len(result.forks),
            "out": str(settings.out),
        },
    )


def inside_write(result: "Writers", settings: "InsideWriteSettings") -> Outcome:
    """Tell who writes the logits."""
    from mastlens.statistics import claim

    table = result.table
    whole = table["site"] == "logits"
    columns = ["split", "layer", "site", "head", "before", "after", "change", "change_null", "change_distinguishable"]
    columns += ["by_weights", "by_input", "by_readout"]
    order = table[~whole].reindex(table.loc[~whole, "change"].abs().sort_values(ascending=False, kind="stable").index)
    return Outcome(
        show(table[whole], [*columns, "completeness_error"]) + "\n\n" + show(order, columns, rows=40),
        {
            "rows": len(table),
            "claims": {"change": asdict(claim(table[~whole], "change"))},
            "totals": table[whole].to_dict("records"),
            "out": str(settings.out),
        },
    )


def inside_patch(result: "ActivationPatches", settings: "InsidePatchSettings") -> Outcome:
    """Tell what exchanged activations do."""
    from mastlens.statistics import claim

    table, agreement = result.table, result.agreement
    value = "effect" if "effect" in table else "first_order"
    columns = ["split", "direction", "layer", "site", "head", "effect", "effect_low", "effect_high", "first_order"]
    columns += ["integrated"] if "integrated" in table else []
    columns += [f"{value}_null", f"{value}_distinguishable", "total"]
    order = table.reindex(table[value].abs().sort_values(ascending=False, kind="stable").index)
    text = show(order, columns, rows=40)
    if len(agreement):
        text += "\n\nrank correlation of exact and first-order effect\n" + show(agreement)
    return Outcome(
        text,
        {
            "rows": len(table),
            "claims": {value: asdict(claim(table, value))},
            "agreement": agreement.to_dict("records"),
            "out": str(settings.out),
        },
    )


def inside_path(result: "Paths", settings: "InsidePathSettings") -> Outcome:
    """Tell what paths between components carry."""
    from mastlens.statistics import claim

    table = result.table
    columns = ["split", "direction", "sender", "receiver", "effect", "effect_low", "effect_high", "effect_null"]
    order = table.reindex(table["effect"].abs().sort_values(ascending=False, kind="stable").index)
    return Outcome(
        show(order, [*columns, "effect_distinguishable", "resampled", "total"], rows=40),
        {"rows": len(table), "claims": {"effect": asdict(claim(table, "effect"))}, "out": str(settings.out)},
    )


def inside_direct(result: "Directions", settings: "InsideDirectSettings") -> Outcome:
    """Tell what directions there are, and what RLVR does along them."""
    from mastlens.statistics import claim

    table = result.table
    columns = ["layer", "site", "head", "position", "probe", "auc_before", "auc_before_distinguishable", "auc_after"]
    columns += ["auc_after_distinguishable", "cosine", "writes", "writes_null", "writes_distinguishable", "reads"]
    columns += ["reads_null", "reads_distinguishable"]
    measures = ("auc_before", "auc_after", "cosine", "writes", "reads")
    return Outcome(
        show(table, columns, rows=60),
        {
            "rows": len(table),
            "texts": int(table["texts"].iloc[0]),
            "claims": {measure: asdict(claim(table, measure)) for measure in measures},
            "out": str(settings.out),
        },
    )


def inside_steer(result: "Steering", settings: "InsideSteerSettings") -> Outcome:
    """Tell what steering does, dose by dose."""
    from mastlens.statistics import claim

    table = result.table
    measures = [one for one in ("effect", "accuracy_change") if one in table]
    ends = ("", "_low", "_high", "_null", "_distinguishable")
    columns = ["split", "how", "dose", *(f"{one}{end}" for one in measures for end in ends), "unsteered", "total"]
    return Outcome(
        show(table, columns, rows=60),
        {
            "rows": len(table),
            "claims": {one: asdict(claim(table, one)) for one in measures},
            "out": str(settings.out),
        },
    )


def inside_undo(result: "Undoing", settings: "InsideUndoSettings") -> Outcome:
    """Tell what an edit takes back."""
    from mastlens.statistics import claim

    table = result.table
    whole = table["site"] == "logits"
    columns = ["split", "layer", "site", "head", "back", "back_low", "back_high", "back_null", "back_distinguishable"]
    answers = ["split", "said_back", "said_back_null", "said_back_distinguishable", "kl_left", "kl_left_null"]
    return Outcome(
        show(table[whole], answers) + "\n\n" + show(table[~whole], [*columns, "left", "left_null"], rows=80),
        {
            "rows": len(table),
            "claims": {"back": asdict(claim(table[~whole], "back"))},
            "answers": table.loc[whole, answers].to_dict("records"),
            "out": str(settings.out),
        },
    )


def inside_crosscoder(result: "SharedFeatures", settings: "InsideCrosscoderSettings") -> Outcome:
    """Tell which features RLVR's change makes active, and how well the crosscoder fits."""
    table = result.table
    columns = ["split", "feature", "share", "cosine", "active", "active_low", "active_high", "active_null", "active_q"]
    order = table.reindex((table["active"] - table["active_null"].fillna(0)).abs().sort_values(ascending=False).index)
    changed = table[table["active_distinguishable"]]
    return Outcome(
        show(result.fit) + "\n\n" + show(order, [*columns, "active_distinguishable", "firing"], rows=30),
        {
            "rows": len(table),
            "more": int((changed["active"] > changed["active_null"]).sum()),
            "less": int((changed["active"] < changed["active_null"]).sum()),
            "fit": result.fit.to_dict("records"),
            "out": str(settings.out),
        },
    )


def inside_dictionary(result: "Features", settings: "InsideDictionarySettings") -> Outcome:
    """Tell which features changed, and how well the dictionary fits."""
    table = result.table
    columns = ["split", "feature", "before", "after", "change", "change_low", "change_high", "change_null", "change_q"]
    columns += ["change_distinguishable", "firing_before", "firing_after", "firing_change_distinguishable"]
    order = table.reindex(table["change"].abs().sort_values(ascending=False, kind="stable").index)
    fit = ["split", "tokens", "alive", "fvu_before", "fvu_after", "fvu_null", "fvu_distinguishable", "l0_before"]
    changed = table[table["change_distinguishable"]]
    return Outcome(
        show(result.fit, [*fit, "l0_after"]) + "\n\n" + show(order, columns, rows=30),
        {
            "rows": len(table),
            "raised": int((changed["change"] > 0).sum()),
            "lowered": int((changed["change"] < 0).sum()),
            "fit": result.fit.to_dict("records"),
            "out": str(settings.out),
        },
    )
