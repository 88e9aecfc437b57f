"""Cards of what is read off weights and gradients: increments, coupling, causal maps, rankings, trajectories."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mastlens.plots.cards.card import Card, CellMap
from mastlens.plots.cards.wording import below_floor, beyond_in, is_beyond, median_of
from mastlens.plots.tables import told_from_zero
from mastlens.statistics import claim

NO_FRAME = "orange above, blue below"
INTERVAL = "orange above, blue below, framed where the interval leaves out zero"

_SIDES = ("forget_path", "retain_path", "forget_behaviour", "retain_behaviour", "gain")


def geometry_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of increments: where they lie against the principal subspaces, counted beyond their null."""
    part = table[table["increment"] == "rlvr"] if "increment" in table else table
    floor, beyond = below_floor(part), is_beyond(part, "off_principal")
    said = median_of(part[~floor], "off_principal", "of the increment's energy lies off the principal subspaces")
    verdict = f"{beyond_in(part, 'off_principal', 'projection')} {said}".strip()
    inside, chance = 1 - part["off_principal"], 1 - part["off_principal_null"]
    lift = np.log2((inside / chance.where(chance > 0)).where(inside > 0))
    order = part.assign(lift=2**lift, beyond=beyond, size=lift.abs()).sort_values(
        ["beyond", "size"], ascending=False, kind="stable"
    )
    columns = ["layer", "projection", "relative_norm", "off_principal", "off_principal_null", "lift", "beyond"]
    return Card(
        "Geometry of the RLVR increment",
        verdict,
        order[columns],
        len(table),
        CellMap.of(part, lift, "lift of principal energy over chance, log2", beyond=beyond, floor=floor),
        ("result.plot()", "mastlens.couple(sft=..., rlvr=..., forget=...)"),
    )


def coupling_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of the coupling of gradient and increment."""
    floor, beyond = below_floor(table), is_beyond(table, "forget_cosine")
    falls = beyond & (table["forget_cosine"] < 0)
    rises = beyond & (table["forget_cosine"] > 0)
    verdict = beyond_in(table, "forget_cosine", "projection")
    if beyond.any():
        verdict += f" The forget loss falls along the increment in {int(falls.sum())} of them and rises in "
        verdict += f"{int(rises.sum())}."
    columns = ["layer", "projection", "forget_cosine", "forget_cosine_p", "retain_cosine", "forget_retain_cosine"]
    shown = table.assign(beyond=beyond, size=table["forget_cosine"].abs())
    order = shown.sort_values(["beyond", "size"], ascending=False, kind="stable")
    return Card(
        "Coupling of gradient and increment",
        verdict,
        order[[column for column in (*columns, "beyond") if column in order]],
        len(table),
        CellMap.of(table, table["forget_cosine"], "forget cosine", beyond=beyond, floor=floor),
        ("result.plot()", "mastlens.rank(folder, top=12)"),
    )


def ranking_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of a ranking: how much of it is selected, and the first."""
    chosen = table["selected"].astype(bool)
    share = table.loc[chosen, "numel"].sum() / max(table["numel"].sum(), 1)
    rule = settings.get("rule", "this rule")
    verdict = (
        f"{rule} selects {int(chosen.sum())} of {len(table)} tensors, {share:.1%} of their parameters. A rank is an "
        "order, not a finding: random selections of the same size show what the order is worth."
    )
    if "recommended" in settings:
        verdict = f"auto is {rule}: {settings['recommended']} {verdict}"
    columns = ["rank", "layer", "projection", "name", "score", "selected"]
    return Card(
        "Ranking",
        verdict,
        table.sort_values("rank")[columns],
        len(table),
        CellMap.of(table, chosen.astype(float), "selection", beyond=chosen, key="framed where selected"),
        ("result.plot()", "mastlens.unlearn(rlvr=..., ranking=..., forget=..., objective='npo', steps=50, lr=5e-6)"),
    )


def scores_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of what a scorer measured: how many scores are told from zero, and the largest."""
    known = told_from_zero(table)
    unit = "nats a token" if "forget_path" in table else "of right responses"
    verdict = (
        f"{int(known.sum())} of {len(table)} scores are told from zero one by one (95 % intervals); "
        f"about {0.05 * len(table):.1f} would be by chance alone."
    )
    if "score_low" not in table or table["score_low"].isna().all():
        verdict = "An order, without an error of its own: another seed says how far it holds."
        if "gate" in table:
            verdict = (
                f"{int((table['gate'] > 0.5).sum())} of {len(table)} increments are taken back for the most part. "
                + verdict
            )
    if "completeness_error" in table and len(table) and pd.notna(table["completeness_error"].iloc[0]):
        verdict += (
            f" Together all parameters account for {1 + table['completeness_error'].iloc[0]:.1%} of the change of "
            f"{table['change'].iloc[0]:+.4g} {unit}; the matrices here for "
            f"{table['score'].sum() / table['change'].iloc[0]:.1%}."
        )
    order = table.assign(known=known).sort_values("score", ascending=False, kind="stable")
    columns = ["layer", "projection", "name", "score", "standard_error", *_SIDES, "known"]
    rule = settings.get("rule", "score")
    return Card(
        f"Score {rule}",
        verdict,
        order[[column for column in columns if column in order]],
        len(table),
        CellMap.of(table, table["score"], "score", beyond=known, key=INTERVAL),
        ("result.plot()", f"mastlens.rank(folder, rule={rule!r}, top=12)"),
    )


def causal_card(table: pd.DataFrame, groups: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of what putting weights back does, counted where the interval leaves out zero."""
    direction = table["direction"].iloc[0] if len(table) else ""
    part = table[table["direction"] == direction]
    if "head" in part:
        part = part[part["head"].isna() | (part["head"] == -1)] if not part["head"].isna().all() else part
    known = (part["forget_effect_low"] > 0) | (part["forget_effect_high"] < 0)
    verdict = (
        f"Putting one projection back changes the forget log-likelihood beyond its interval in {int(known.sum())} of "
        f"{len(part)}; about {0.05 * len(part):.1f} would by chance alone at the 5 % level."
    )
    columns = ["layer", "projection", "forget_effect", "forget_effect_low", "forget_effect_high", "retain_effect"]
    order = part.assign(known=known, size=part["forget_effect"].abs()).sort_values(
        ["known", "size"], ascending=False, kind="stable"
    )
    return Card(
        f"Causal map, {direction}".rstrip(", "),
        verdict,
        order[[column for column in columns if column in order]],
        len(table),
        CellMap.of(part, part["forget_effect"], "forget effect, nats a token", beyond=known, key=INTERVAL),
        ("result.plot()", "result.correlation", "mastlens.cumulative_curves(...)"),
    )


def trajectory_card(table: pd.DataFrame, steps: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of a run's path, beside what a random walk and AdamW on noise give."""
    walk = table["explained_variance_walk"]
    verdict = (
        f"One direction explains {table['explained_variance'].median():.3f} of a tensor's path (median over "
        f"{len(table)}); a random walk of as many steps gives {walk.median():.3f}"
    )
    if {"explained_variance_adamw", "linearity_distinguishable"} <= set(table):
        verdict += (
            f", and AdamW on noise {table['explained_variance_adamw'].median():.3f}. How straight the path is, beside "
            f"both: {claim(table, 'linearity').sentence('tensor')}"
        )
    verdict += "."
    columns = ["layer", "projection", "name", "explained_variance", "explained_variance_walk", "linearity"]
    order = table.assign(size=table["explained_variance"] - walk).sort_values("size", ascending=False, kind="stable")
    return Card(
        "Trajectory",
        verdict,
        order[[column for column in columns if column in order]],
        len(table),
        CellMap.of(table, order["size"].reindex(table.index), "explained variance beyond a random walk", key=NO_FRAME),
        ("result.plot()", "result.plot_explained()"),
    )


def agreement_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of masks that runs share, counted where chance is ruled out, also at equal magnitude."""
    beyond = is_beyond(table, "jaccard")
    verdict = (
        f"Update masks overlap by {table['jaccard'].mean():.3f} (mean Jaccard), where masks that are independent at "
        f"equal magnitude give {table['jaccard_matched_null'].mean():.3f}: "
        f"{claim(table, 'jaccard').sentence('comparison')}."
    )
    columns = ["layer", "projection", "run_a", "run_b", "jaccard", "jaccard_matched_null", "distinguishable"]
    order = table.assign(size=(table["jaccard"] - table["jaccard_matched_null"]).abs(), beyond=beyond)
    return Card(
        "Agreement of update masks",
        verdict,
        order.sort_values(["beyond", "size"], ascending=False, kind="stable")[columns],
        len(table),
        CellMap.of(table, table["jaccard"] - table["jaccard_matched_null"], "overlap beyond chance", beyond=beyond),
        ("result.summary",),
    )


def tokens_card(summary: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of what stages did to the tokens of fixed texts."""
    known = (summary["ci_low"] > 0) | (summary["ci_high"] < 0)
    verdict = (
        f"The mean log-probability of a token changed beyond its interval in {int(known.sum())} of {len(summary)} "
        f"groups of tokens; about {0.05 * len(summary):.1f} would by chance alone at the 5 % level."
    )
    columns = ["increment", "split", "entropy_quantile", "tokens", "mean", "ci_low", "ci_high"]
    return Card("Token differences", verdict, summary[columns], next=("result.plot()",))


def curves_card(areas: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of a ranking judged by putting its tensors back one after the other."""
    parts = [
        f"{row.side}: area {row.above_random:+.3f} beyond random orders "
        f"[{row.above_random_low:+.3f}, {row.above_random_high:+.3f}], p = {row.p_value:.2g}"
        for row in areas.itertuples()
    ]
    columns = ["side", "area", "area_random", "above_random", "above_random_low", "above_random_high", "p_value"]
    return Card("Cumulative curves", "; ".join(parts) + ".", areas[columns], next=("result.plot()",))


def _of_codes(coded: Mapping[str, int]) -> str:
    return f", read from codes ({', '.join(f'{count} as {kind}' for kind, count in coded.items())})" if coded else ""


def inspection_card(table: pd.DataFrame, summary: Mapping[str, Any]) -> Card:
    """Return the card of a checkpoint."""
    what = summary.get("architecture", "checkpoint")
    verdict = (
        f"{what}, {summary.get('parameters', 0):,} parameters, of them {summary.get('attention_parameters', 0):,} in "
        f"{len(table)} attention projections over {summary.get('layers', '?')} layers; stored as "
        f"{_listed(summary.get('dtypes', ''))}{_of_codes(summary.get('coded', {}))}."
    )
    columns = ["layer", "projection", "name", "rows", "cols", "heads", "dtype"]
    rows = table[[column for column in columns if column in table]]
    return Card("Checkpoint", verdict, rows, next=("mastlens.geometry(base=..., sft=..., rlvr=...)",))


def _listed(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value))
