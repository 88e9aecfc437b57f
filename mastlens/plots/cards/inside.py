"""Cards of what changed in the computation between a pair of models."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mastlens.plots.cards.card import Card
from mastlens.plots.cards.wording import counted, is_beyond
from mastlens.statistics import claim

_SHOWN = ("split", "layer", "site", "difference", "difference_null", "kl", "kl_null", "top_differs", "beyond")
_ALONE = 0.9
"""Share of a feature's decoder from which on it is said to be one model's alone (Minder et al. 2025)."""
_SPLIT = ("by_weights", "by_input", "by_readout")


def departure_card(table: pd.DataFrame, forks: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of where two models part, counted beyond what random changes of that size do."""
    whole = table[table["position"] == -1]
    stream, said = whole[whole["site"] != "logits"], whole[whole["site"] == "logits"]
    verdict = (
        f"How far the residual stream moved: {claim(stream, 'difference').sentence('stream reading')}; how far the "
        f"next-token distributions did: {claim(said, 'kl').sentence('split')}. "
        f"In {counted(len(forks), 'text')} SFT and RLVR would have gone on with another token."
    )
    if not settings.get("draws", 1):
        verdict = f"No random changes were made (draws=0), so nothing here has a verdict. {verdict.split('. ')[-1]}"
    verdict += _of_lenses(stream, settings)
    beyond = is_beyond(whole, "difference") | is_beyond(whole, "kl")
    size = whole["difference"].div(whole["difference_null"]).fillna(whole["kl"].div(whole["kl_null"]))
    order = whole.assign(beyond=beyond, size=size).sort_values(["beyond", "size"], ascending=False, kind="stable")
    return Card(
        "Inside: where SFT and RLVR part",
        verdict,
        order[list(_SHOWN)],
        len(table),
        None,
        ("result.plot()", "result.plot('kl')", "result.forks"),
    )


def _of_lenses(stream: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """Return what tuned lenses are worth; nothing where there are none."""
    if "tuned_error_before" not in stream:
        return ""
    errors = stream[stream["tuned_error_before"].notna()].filter(like="_error_").mean()
    how = "trained on the other texts" if settings.get("tuned_lens") == "trained" else "given"
    said = " and ".join(
        f"{errors[f'tuned_error_{when}']:.3g} nats off what {model} says, where the logit lens is "
        f"{errors[f'lens_error_{when}']:.3g}"
        for when, model in (("before", "SFT"), ("after", "RLVR"))
    )
    return f" Tuned lenses ({how}) are {said} (mean over layers)."


def writers_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of who writes a logit difference, counted beyond what random changes of that size do."""
    whole = table["site"] == "logits"
    parts = table[~whole]
    made = ", ".join(
        f"{row['split']} {row['before']:+.3g} to {row['after']:+.3g}" for row in table[whole].to_dict("records")
    )
    error = float(table.loc[whole, "completeness_error"].max())
    verdict = (
        f"The logit difference went from {made}. What parts write to it: {claim(parts, 'change').sentence('part')}. "
        f"Parts add up to it with an error of {error:.1g}."
    )
    if not settings.get("draws", 1):
        verdict = f"No random changes were made (draws=0), so nothing here has a verdict. {verdict}"
    beyond = is_beyond(parts, "change")
    order = parts.assign(beyond=beyond, size=parts["change"].abs())
    order = order.sort_values(["beyond", "size"], ascending=False, kind="stable")
    columns = ["split", "layer", "site", "head", "before", "after", "change_null", *_SPLIT, "beyond"]
    return Card(
        "Inside: who writes the difference",
        verdict,
        order[columns],
        len(parts),
        None,
        ("result.plot()", "result.table"),
    )


def directions_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of directions that tell texts apart, counted beyond shuffled labels and random changes."""
    label = f"{settings.get('label', 'the label')!r}"
    first = table.iloc[0]
    verdict = (
        f"Of {first['texts']:.0f} held-out texts, {first['positives']:.0f} with {label}, a probe tells which: in SFT "
        f"{claim(table, 'auc_before').sentence('probe')}, in RLVR {claim(table, 'auc_after').sentence('probe')}. "
    )
    if settings.get("draws", 1):
        verdict += (
            f"What RLVR moves along SFT's direction: {claim(table, 'writes').sentence('reading')}; how it answers to "
            f"it: {claim(table, 'reads').sentence('reading')}."
        )
    else:
        verdict += "No random changes were made (draws=0), so what RLVR does along it has no verdict."
    beyond = is_beyond(table, "auc_before") | is_beyond(table, "auc_after")
    order = table.assign(beyond=beyond, size=table[["auc_before", "auc_after"]].max(axis=1))
    order = order.sort_values(["beyond", "size"], ascending=False, kind="stable")
    columns = ["probe", "layer", "site", "head", "position", "auc_before", "auc_before_null", "auc_after"]
    return Card(
        "Inside: directions that tell texts apart",
        verdict,
        order[[*columns, "auc_after_null", "writes", "writes_null", "reads", "reads_null", "beyond"]],
        len(table),
        None,
        ("result.plot()", "result.plot('writes')", "result.vectors"),
    )


def steering_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of what steering does, counted beyond random directions of the same length."""
    first = table.iloc[0]
    what = "taken out of" if first["how"] == "project" else "added to"
    said = []
    for split, part in table.groupby("split", sort=False):
        low = part.iloc[int(part["effect"].argmin())]
        said.append(
            f"{split} {low['effect']:+.3g} at most down, at a dose of {low['dose']:g} (all of RLVR taken back: "
            f"{low['total']:+.3g})"
        )
    verdict = (
        f"{first['direction']} {what} the states changes the solutions' log-probability: "
        f"{claim(table, 'effect').sentence('dose')}. In nats a token: {'; '.join(said)}."
    )
    if not settings.get("draws", 1):
        verdict = f"No random directions were made (draws=0), so no dose has a verdict. {verdict.split('. ', 1)[-1]}"
    measures = [one for one in ("effect", "accuracy_change") if one in table]
    beyond = is_beyond(table, "effect")
    columns = [f"{one}{end}" for one in measures for end in ("", "_low", "_high", "_chance_low", "_chance_high")]
    return Card(
        "Inside: what steering does",
        verdict,
        table.assign(beyond=beyond)[["split", "how", "dose", *columns, "total", "beyond"]],
        len(table),
        None,
        ("result.plot()", "result.table"),
    )


def undoing_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of what an edit takes back, counted beyond what random changes of the edit's size do."""
    states = table[table["site"] != "logits"]
    said = []
    for split, part in table.groupby("split", sort=False):
        answer = part[part["site"] == "logits"].iloc[0]
        stream = part[part["site"] == "resid_post"]["back"]
        inside = f", of the stream {stream.median():.2g} (median over layers)" if len(stream) else ""
        said.append(f"{split}: of the solutions' log-probability {answer['said_back']:.2g}{inside}")
    verdict = (
        f"Of what RLVR changed, the edit takes back, {'; '.join(said)}; 1 is as in the reference. Of the states: "
        f"{claim(states, 'back').sentence('reading')}."
    )
    if not settings.get("draws", 1):
        verdict = f"No random changes were made (draws=0), so nothing here has a verdict. {verdict}"
    beyond = is_beyond(table, "back") | is_beyond(table, "said_back")
    order = table.assign(beyond=beyond, size=table["back"].abs())
    order = order.sort_values(["beyond", "size"], ascending=False, kind="stable")
    columns = ["split", "layer", "site", "head", "back", "back_low", "back_high", "back_null", "left", "said_back"]
    return Card(
        "Inside: what an edit takes back",
        verdict,
        order[[*columns, "kl_left", "beyond"]],
        len(table),
        None,
        ("result.plot()", "result.table"),
    )


def paths_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of what paths between components carry, counted beyond random changes of RLVR's size."""
    said = claim(table, "effect").sentence("path")
    verdict = f"What paths carry of the solutions' log-probability: {said}."
    first = table.reindex(table["effect"].abs().sort_values(ascending=False, kind="stable").index).iloc[0]
    verdict += (
        f" Most: {first['sender']} to {first['receiver']}, {first['effect']:+.3g} nats a token ({first['direction']}, "
        f"{first['split']}; another text {first['resampled']:+.3g}; the whole model {first['total']:+.3g})."
    )
    if not settings.get("draws", 1):
        verdict = f"No random changes were made (draws=0), so nothing here has a verdict. {verdict}"
    order = table.assign(beyond=is_beyond(table, "effect"), size=table["effect"].abs())
    order = order.sort_values(["beyond", "size"], ascending=False, kind="stable")
    columns = ["split", "direction", "sender", "receiver", "effect", "effect_low", "effect_high", "effect_null"]
    return Card(
        "Inside: what paths carry",
        verdict,
        order[[*columns, "resampled", "total", "beyond"]],
        len(table),
        None,
        ("result.plot()", "result.table"),
    )


def crosscoder_card(table: pd.DataFrame, fit: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of the features that a pair has alone or shares, and of how well the crosscoder fits."""
    said = []
    for split, part in table.groupby("split", sort=False):
        changed = part[part["active_distinguishable"]]
        more = int((changed["active"] > changed["active_null"]).sum())
        alone = f"{int((part['share'] > _ALONE).sum())} RLVR's alone, {int((part['share'] < 1 - _ALONE).sum())} SFT's"
        said.append(f"{split}: {more} more and {len(changed) - more} less active of {len(part):,} ({alone})")
    fits = ", ".join(f"{row['fvu_before']:.2g} and {row['fvu_after']:.2g}" for row in fit.to_dict("records"))
    verdict = (
        f"Features beyond random changes, at most 5 % of them by chance: {'; '.join(said)}. Of the states' variance "
        f"the crosscoder leaves {fits} in SFT and RLVR."
    )
    if not settings.get("draws", 1):
        verdict = f"No random changes were made (draws=0), so no feature has a verdict. {verdict.split('. ')[-1]}"
    order = table.assign(beyond=table["active_distinguishable"], size=table["active"])
    order = order.sort_values(["beyond", "size"], ascending=False, kind="stable")
    columns = ["split", "feature", "share", "cosine", "active", "active_low", "active_high", "active_null", "active_q"]
    return Card(
        "Inside: features that SFT and RLVR share or have alone",
        verdict,
        order[[*columns, "firing", "beyond"]],
        len(table),
        None,
        ("result.plot()", "result.fit"),
    )


def features_card(table: pd.DataFrame, fit: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of the features that RLVR raised or lowered, and of how well the dictionary fits."""
    said = []
    for split, part in table.groupby("split", sort=False):
        changed = part[part["change_distinguishable"]]
        raised = int((changed["change"] > 0).sum())
        said.append(f"{split}: {raised} raised and {len(changed) - raised} lowered of {len(part):,} that are ever on")
    fits = ", ".join(f"{row['fvu_before']:.2g} and {row['fvu_after']:.2g}" for row in fit.to_dict("records"))
    verdict = (
        f"Features beyond both nulls, at most 5 % of them by chance: {'; '.join(said)}. Of the states' variance the "
        f"dictionary leaves {fits} in SFT and RLVR."
    )
    if not settings.get("draws", 1):
        verdict = f"No random changes were made (draws=0), so no feature has a verdict. {verdict.split('. ')[-1]}"
    order = table.assign(beyond=table["change_distinguishable"], size=table["change"].abs())
    order = order.sort_values(["beyond", "size"], ascending=False, kind="stable")
    columns = ["split", "feature", "before", "after", "change_low", "change_high", "change_null", "change_q"]
    return Card(
        "Inside: features that RLVR raised or lowered",
        verdict,
        order[[*columns, "firing_before", "firing_after", "beyond"]],
        len(table),
        None,
        ("result.plot()", "result.fit"),
    )


def patches_card(table: pd.DataFrame, agreement: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of what exchanged activations do, counted beyond what random changes of that size do."""
    value = "effect" if "effect" in table else "first_order"
    said = claim(table, value).sentence("exchange")
    form = "exact" if value == "effect" else "to first order"
    verdict = f"What exchanged activations do to the solutions' log-probability ({form}): {said}."
    if len(agreement):
        verdict += f" First order and exact agree in rank by {agreement['spearman'].median():.2f} (median over sites)"
        if "integrated_spearman" in agreement:
            verdict += f", integrated gradients and exact by {agreement['integrated_spearman'].median():.2f}"
        verdict += "."
    if not settings.get("draws", 1):
        verdict = f"No random changes were made (draws=0), so nothing here has a verdict. {verdict}"
    beyond = is_beyond(table, value)
    order = table.assign(beyond=beyond, size=table[value].abs())
    order = order.sort_values(["beyond", "size"], ascending=False, kind="stable")
    columns = [
        "split",
        "direction",
        "layer",
        "site",
        "head",
        "effect",
        "first_order",
        f"{value}_null",
        "total",
        "beyond",
    ]
    return Card(
        "Inside: what exchanged activations do",
        verdict,
        order[[column for column in columns if column in order]],
        len(table),
        None,
        ("result.plot()", "result.agreement"),
    )
