"""Chapters on the models at work: coupling, causal map, cumulative curves, token differences."""

from typing import Any

import pandas as pd

from mastlens import plots
from mastlens.plots.page import Section
from mastlens.reporting.folder import Findings, RunFolder
from mastlens.reporting.wording import interval, p_value, plain, signed
from mastlens.statistics import claim

_DIRECTIONS = {"restore": "SFT weights put back into RLVR", "insert": "RLVR weights put into SFT"}
_MILLI = 1000  # effects are a few thousandths of a nat a token
_TEXTS = 2  # problems whose tokens are shown


def coupling(run: RunFolder) -> Findings | None:
    """Tell how the loss gradients lie to the increment, beside chance."""
    table = run.table("coupling.parquet")
    if table is None:
        return None
    figures = [plots.plot_coupling(table, geometry=run.table("geometry.parquet"), subtitle=run.subtitle)]
    heads, spectrum = run.table("coupling_heads.parquet"), run.table("coupling_spectrum.parquet")
    sides = [side for side in ("forget", "retain") if f"{side}_cosine" in table]
    if heads is not None:
        figures += [plots.plot_coupling_heads(heads, side=side, subtitle=run.subtitle) for side in sides]
    if spectrum is not None:
        for side in sides:
            figures.append(plots.plot_coupling_spectrum(spectrum, side=side, subtitle=run.subtitle))
    text = (
        "The cosine between the gradient of the forget (and retain) loss at the RLVR weights and the increment "
        "RLVR - SFT. Negative: moving on along the increment would lower the loss further. The cosine of a random "
        "direction shrinks with the number of entries; the chance level allows for all tensors of the table together. "
        "The coupling spectrum takes the same inner product apart by the increment's singular directions."
    )
    cosine = table["forget_cosine"]
    finding = (
        f"The forget gradient and the increment have cosines from {signed(cosine.min(), 3)} to "
        f"{signed(cosine.max(), 3)} over {len(table)} projections"
    )
    if "forget_above_chance" in table:
        finding += f": {claim(table, 'forget_cosine').sentence('projection')}"
    return Findings(
        Section("How the forget gradient couples to it", text, tuple(figures)),
        finding + ".",
        ("A coupling is first order and says what goes together, not what causes what.",),
    )


def causal_map(run: RunFolder) -> Findings | None:
    """Tell what changes when the other checkpoint's weights are put in."""
    table, groups = run.table("causal_map.parquet"), run.table("causal_groups.parquet")
    if table is None:
        return None
    figures = []
    for direction in [d for d in _DIRECTIONS if d in set(table["direction"])]:
        drawn: dict[str, Any] = {"direction": direction, "subtitle": run.subtitle}
        if groups is not None:
            figures.append(plots.plot_causal_groups(groups, **drawn))
        figures.append(plots.plot_causal_map(table, **drawn))
        if bool((table["head"] >= 0).any()):
            figures.append(plots.plot_causal_map(table, heads=True, **drawn))
        figures.append(plots.plot_first_order(table, **drawn))
    text = (
        "The change of the log-probability of the reference solutions, in nats a token, when weights of one checkpoint "
        "are put into the other: first whole groups of parameters, then each projection alone, then each head. "
        "Intervals are paired over problems. Where attention as a whole does little beside all weights together, what "
        "is looked for does not lie in attention, and no ranking of its projections can find it."
    )
    tables = [] if groups is None else [("Whole groups of parameters", _group_table(groups))]
    return Findings(
        Section("What matters, and not only what moved", text, tuple(figures), tuple(tables)),
        "" if groups is None else _causal_finding(groups),
        ("A causal map measures the problems that it was given, on the training side.",),
    )


def _group_table(groups: pd.DataFrame) -> pd.DataFrame:
    shown = groups.assign(direction=[_DIRECTIONS.get(str(name), str(name)) for name in groups["direction"]])
    columns = ["direction", "group"]
    for side in ("forget", "retain"):
        columns += [c for c in (f"{side}_effect", f"{side}_effect_low", f"{side}_effect_high") if c in shown]
        columns += [c for c in (f"{side}_exact_change",) if c in shown]
    return shown[columns]


def _causal_finding(groups: pd.DataFrame) -> str:
    part = groups[groups["direction"] == "restore"]
    direction = "restore" if len(part) else str(groups["direction"].iloc[0])
    rows = {str(row["group"]): row for row in groups[groups["direction"] == direction].to_dict("records")}
    if not {"projections", "all"} <= set(rows):
        return ""

    def effect(group: str) -> str:
        row = rows[group]
        return (
            f"{signed(_MILLI * row['forget_effect'], 1)} "
            f"{interval(_MILLI * row['forget_effect_low'], _MILLI * row['forget_effect_high'], 1)}"
        )

    attention = rows["projections"]
    none = attention["forget_effect_low"] <= 0 <= attention["forget_effect_high"]
    statement = (
        f"With all attention projections' {_DIRECTIONS[direction]}, the forget log-probability changes by "
        f"{effect('projections')} thousandths of a nat a token{', not distinguishable from nothing' if none else ''}; "
        f"all weights together change it by {effect('all')}"
    )
    rest = {group: abs(row["forget_effect"]) for group, row in rows.items() if group not in ("projections", "all")}
    if rest:
        largest = max(rest, key=lambda group: rest[group])
        statement += f", the {largest} alone by {effect(largest)}"
    return statement + "."


def cumulative(run: RunFolder) -> Findings | None:
    """Tell whether the ranking's first projections do more than those of random orders."""
    table, areas = run.table("cumulative.parquet"), run.table("cumulative_areas.parquet")
    if table is None or areas is None:
        return None
    figure = plots.plot_cumulative(table, areas, subtitle=run.subtitle)
    text = (
        "The first k projections of the ranking are put over into the other model, for growing k; beside it the "
        "reverse order and random ones. A ranking that finds what matters has a larger area under its curve than "
        "random orders have."
    )
    row = areas[areas["side"] == "forget"].iloc[0]
    apart = row["p_value"] <= 0.05
    finding = (
        f"The ranking's area on forget differs by {signed(_MILLI * row['above_random'], 2)} "
        f"{interval(_MILLI * row['above_random_low'], _MILLI * row['above_random_high'], 2)} thousandths of a nat "
        f"from that of {int(row['draws'])} random orders ({p_value(row['p_value'])}): "
        f"{'beyond' if apart else 'not distinguishable from'} chance."
    )
    if abs(row["end"]) < 0.1 * abs(row["total"]):
        finding += (
            f" All these projections together make {plain(100 * abs(row['end'] / row['total']), 1)} % of what all "
            "weights make."
        )
    columns = ["side", "end", "end_low", "end_high", "total", "area", "area_random", "above_random"]
    columns += ["above_random_low", "above_random_high", "p_value", "draws"]
    return Findings(
        Section("Whether the ranking finds it", text, (figure,), (("Areas, nats a token", areas[columns]),)),
        finding,
    )


def tokens(run: RunFolder) -> Findings | None:
    """Tell which tokens became more or less likely."""
    table, summary = run.table("tokens.parquet"), run.table("token_summary.parquet")
    if table is None or summary is None:
        return None
    figures = (
        plots.plot_token_differences(table, subtitle=run.subtitle),
        plots.plot_token_entropy(summary, subtitle=run.subtitle),
    )
    last = str(table["increment"].iloc[-1])
    splits = list(dict.fromkeys(table["split"].astype(str)))
    fragments = []
    for split in splits:
        part = table[(table["split"] == split) & (table["increment"] == last)]
        items = sorted(part["item"].unique())[:_TEXTS]
        shown = plots.token_text_html(table, increment=last, split=split, items=[int(item) for item in items])
        fragments.append((f"Solutions of {split}, coloured by what the {last.upper()} increment did", str(shown)))
    whole = summary[(summary["entropy_quantile"] == 0) & (summary["increment"] == last)]
    statement = "; ".join(
        f"{row['split']} {signed(row['mean'], 3)} {interval(row['ci_low'], row['ci_high'], 3)}, "
        f"higher at {plain(100 * row['fraction_above'], 0)} % of {int(row['tokens']):,} tokens"
        for row in whole.to_dict("records")
    )
    text = (
        "Log-probability of each solution token after an increment minus before it, in nats. The first figure shows "
        "all tokens, the second the mean by how uncertain the model was before; intervals resample problems."
    )
    return Findings(
        Section(
            "Which tokens it changed",
            text,
            figures,
            (("By increment, split and class of entropy (0: all tokens)", summary),),
            fragments=tuple(fragments),
        ),
        f"The {last.upper()} increment changes the log-probability of a solution token by, on average, {statement}.",
    )
