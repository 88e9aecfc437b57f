"""How much of what an edit took out an attack brings back: accuracy by attack, and shares of it with intervals."""

import math

import numpy as np
import pandas as pd

from mastlens.statistics import NONE, Interval, recovered_share, share_interval, wilson

EDITED, SOURCE, CONTROL, REFERENCE = "edited", "source", "control", "reference"
ROLES = (EDITED, SOURCE, CONTROL, REFERENCE)
"""The edited model; the model before the edit; a model without the skill; one that was retrained without it."""

RECOVERED = ("recovered", f"recovered_beyond_{CONTROL}", f"recovered_beyond_{REFERENCE}")
"""What came back: all of it, and beyond what the same attack taught a model that has not forgotten anything."""


def summarise_attack(items: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each model, variant, step and split of an attack.

    Args:
        items: The items of one attack. The rows at each variant's ``baseline`` are the model that is not attacked.

    Returns:
        ``attack``, ``variant``, ``model``, ``step``, ``split``, ``baseline``, ``n``, ``correct``, ``accuracy`` (the
        mean of ``rate`` where items have one) with Wilson ``ci_low`` and ``ci_high``, ``logprob_solution`` (the mean
        over the solution's tokens; NaN of what has none), ``truncated``, and of the edited model, where the source is
        there:

        - ``recovered`` = (attacked - edited) / (source - edited), the accuracies of the edited model under attack, of
          the edited model and of the source, both without it; with ``recovered_low`` and ``recovered_high``, the 95%
          interval over the items of all three together (Fieller);
        - ``recovered_beyond_control`` = ((attacked - edited) - (control attacked - control)) / (source - edited), the
          same beyond what the attack teaches a model without the skill, with its interval;
        - ``recovered_beyond_reference``, the same beyond what it teaches the reference.

        They are NaN where nothing was forgotten or nothing is without the attack, and an interval is NaN where what
        was forgotten is not told from nothing: then it has no bound.
    """
    keys = ["attack", "variant", "model", "step", "split"]
    groups = {key: rows.sort_values("item") for key, rows in items.groupby(keys, sort=False)}
    plain = {(key[2], key[4]): rows for key, rows in groups.items() if bool(rows["baseline"].iloc[0])}
    rows = []
    for (name, variant, role, step, split), found in groups.items():
        right = _right(found)
        ends_of_accuracy = _interval(found, right)
        tokens = float(found["solution_tokens"].sum())
        row = {
            **dict(zip(keys, (name, variant, role, step, split), strict=True)),
            "baseline": bool(found["baseline"].iloc[0]),
            "n": len(right),
            "correct": int(found["correct"].sum()),
            "accuracy": float(right.mean()),
            "ci_low": ends_of_accuracy.low,
            "ci_high": ends_of_accuracy.high,
            "logprob_solution": float(found["logprob_solution"].sum()) / tokens if tokens else math.nan,
            "truncated": int(found["truncated"].sum()),
        }
        edited, source = plain.get((EDITED, split)), plain.get((SOURCE, split))
        shares: dict[str, tuple[float, Interval]] = {}
        if role == EDITED and edited is not None and source is not None:
            forgotten, back = _right(source) - _right(edited), right - _right(edited)
            shares["recovered"] = recovered_share(back, forgotten)
            for null in (CONTROL, REFERENCE):
                attacked, start = groups.get((name, variant, null, step, split)), plain.get((null, split))
                if attacked is not None and start is not None:
                    taught = _right(attacked) - _right(start)
                    shares[f"recovered_beyond_{null}"] = recovered_share(back - taught, forgotten)
        for column in RECOVERED:
            share, ends = shares.get(column, (math.nan, NONE))
            if row["baseline"] and share == 0:  # the edited model beside itself: nothing came back, for certain
                ends = Interval(0.0, 0.0)
            row |= {column: share, f"{column}_low": ends.low, f"{column}_high": ends.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _right(rows: pd.DataFrame) -> np.ndarray:
    """Return what each item counts for: right or not, or the chance that it is, where that was estimated."""
    right = rows["correct"].to_numpy(dtype=float)
    return np.where(rows["rate"].notna(), rows["rate"], right).astype(float) if "rate" in rows else right


def _interval(rows: pd.DataFrame, right: np.ndarray) -> Interval:
    if "rate" not in rows or rows["rate"].isna().all():
        return wilson(int(right.sum()), len(right))
    return share_interval(right, counts=rows["samples"].to_numpy(dtype=float))
