"""What the demo's tables say, in words: the one table for a terminal, and the verdict with its numbers."""

from pathlib import Path
from typing import Any

import pandas as pd

from mastlens.runs.stages import read_record
from mastlens.statistics import permutation_p

SPLITS = ("forget", "retain-math", "retain-gsm")
"""The evaluation splits of an organism."""

PARTS = ("retain, solved by SFT", "retain, RLVR-induced")
"""Both retain splits together, cut by how their subjects were learnt."""


_LEVEL = 0.05


def summary_text(table: pd.DataFrame, arms: pd.DataFrame) -> str:
    """Return the demo's table as text: one line an arm, differences in percentage points."""
    lines = []
    for arm in arms.to_dict("records"):
        cells = []
        for split in SPLITS:
            row = table[(table["arm"] == arm["arm"]) & (table["split"] == split)].iloc[0]
            cell = f"{row['accuracy']:6.1%}"
            if arm["arm"] != "rlvr":
                cell += (
                    f" {100 * row['difference']:+6.1f} [{100 * row['ci_low']:+5.1f},{100 * row['ci_high']:+6.1f}]"
                    f" {row['b']:3d}/{row['c']:<3d} p={row['mcnemar_p']:.1g}"
                )
            cells.append(cell)
        edited = "" if pd.isna(arm["parameters"]) else f"{int(arm['parameters']):,}"
        cost = "" if pd.isna(arm["seconds"]) else f"{arm['seconds']:.1f}"
        memory = "" if pd.isna(arm["peak_mb"]) else f"{arm['peak_mb']:.0f}"
        lines.append(
            {
                "": arm["label"],
                **dict(zip(SPLITS, cells, strict=True)),
                "worked": f"{arm['forget_worked']:.0%}",
                "perplexity": f"{arm['perplexity']:.3f}",
                "parameters": edited,
                "s": cost,
                "MB": memory,
            }
        )
    legend = (
        "accuracy; then the difference to the RLVR source in points with its 95 % paired interval,\n"
        "items lost/gained, exact McNemar p. worked: share of forget responses that work the problem out, rightly or\n"
        "wrongly. perplexity: on neutral text. s, MB: time and peak memory of the edit alone."
    )
    return pd.DataFrame(lines).to_string(index=False, justify="left") + "\n\n" + legend


def verdict_sentence(table: pd.DataFrame, arms: pd.DataFrame) -> str:
    """Return what came out, in a few sentences with their numbers."""

    def row(arm: str, split: str) -> pd.Series:
        return table[(table["arm"] == arm) & (table["split"] == split)].iloc[0]

    def points(arm: str, split: str) -> str:
        r = row(arm, split)
        return _minus(f"{100 * r['difference']:+.1f} [{100 * r['ci_low']:+.1f}, {100 * r['ci_high']:+.1f}]")

    draws = [arm for arm in arms["arm"] if str(arm).startswith("random-")]
    spread = [100 * float(row(arm, "retain")["difference"]) for arm in draws]
    worked = arms.set_index("arm")["forget_worked"]
    chosen, reference = row("selected", "forget"), row("rlvr-retain", "forget")
    over = " (over-forgetting)" if chosen["accuracy"] < reference["accuracy_low"] else ""
    return (
        f"The selected edit brings forget accuracy from {row('rlvr', 'forget')['accuracy']:.1%} to "
        f"{chosen['accuracy']:.1%}{over}, where a model never rewarded for it stands at "
        f"{reference['accuracy']:.1%}; retain changes by {points('selected', 'retain')} points. At matched "
        f"forgetting, editing all parameters changes retain by {points('all-matched', 'retain')} points, random "
        f"selections of the same size by {_minus(f'{min(spread):+.1f} to {max(spread):+.1f}')} over "
        f"{len(spread)} draws{_against_draws(100 * float(row('selected', 'retain')['difference']), spread)}. "
        f"{worked['selected']:.0%} of the edited model's forget responses still work the problem out, against "
        f"{worked['rlvr-retain']:.0%} of the model never rewarded for it."
    )


def _against_draws(ours: float, draws: list[float]) -> str:
    """Return whether a selection's retain loss can be told from random draws: the permutation p, one-sided."""
    as_good = sum(draw >= ours for draw in draws)
    p, least = permutation_p(as_good, len(draws)), permutation_p(0, len(draws))
    if p <= _LEVEL:
        return f", none of which does as well (p = {p:.2g})"
    said = f"{as_good} of them {'does' if as_good == 1 else 'do'} as well" if as_good else "none does as well"
    return f": {said}, which is not distinguishable from chance (p = {p:.2g}, and no less than {least:.2g})"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def recorded_costs(out: Path, arm: str) -> dict[str, Any]:
    """Return what the run record says of an arm's edit: lr, step, reached, seconds, peak memory."""
    return read_record(out / "arms" / arm)["stages"].get("edit", {}).get("notes", {})
