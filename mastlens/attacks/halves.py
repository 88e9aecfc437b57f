"""How long it takes until half of what was forgotten is back, and how long a model takes that never knew it."""

import math

import pandas as pd

from mastlens.attacks.recovery import EDITED, ROLES, SOURCE

COLUMNS = ("variant", "split", "model", "half", "half_step", "half_step_low", "half_step_high", "steps")


def steps_to_half(table: pd.DataFrame) -> pd.DataFrame:
    """Return the step at which each model's curve has reached half of the gap that the edit made.

    Half of the gap is the same accuracy for every model: (edited + source) / 2, both without the attack. A reference
    that never knew it, or a control, says how fast it is learnt anew; nothing is hidden if the edited model needs as
    long.

    Args:
        table: As ``summarise_attack`` returns it.

    Returns:
        One row a variant, split and model, where the edited model lies below the source by more than both intervals:
        ``half``, the accuracy; ``half_step``, the first tested step at or above it; ``half_step_low`` and
        ``half_step_high``, the first at which the upper and the lower end of the accuracy's interval are (a step
        between two tested ones is not told); ``steps``, the last one tested. NaN: not within these steps.
    """
    rows = []
    for (variant, split), part in table.groupby(["variant", "split"], sort=False):
        plain = part[part["baseline"].astype(bool)].drop_duplicates("model").set_index("model")
        if not part["step"].max() > 0 or not {EDITED, SOURCE} <= set(plain.index):
            continue
        if not float(plain["ci_high"].loc[EDITED]) < float(plain["ci_low"].loc[SOURCE]):
            continue
        half = float(plain.loc[[EDITED, SOURCE], "accuracy"].mean())
        for role in (role for role in ROLES if role in set(part["model"]) and role != SOURCE):
            curve = part[part["model"] == role].sort_values("step", kind="stable")
            ends = {"": "accuracy", "_low": "ci_high", "_high": "ci_low"}
            firsts = {f"half_step{end}": _first(curve, column, half) for end, column in ends.items()}
            keys = {"variant": variant, "split": split, "model": role, "half": half}
            rows.append({**keys, **firsts, "steps": int(curve["step"].max())})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _first(curve: pd.DataFrame, column: str, level: float) -> float:
    reached = curve[curve[column] >= level]["step"]
    return float(reached.iloc[0]) if len(reached) else math.nan


def half_sentences(halves: pd.DataFrame) -> list[str]:
    """Return a sentence a split: when half was back, beside the models that never knew it."""
    found = []
    for (variant, split), part in halves.groupby(["variant", "split"], sort=False):
        said = {str(row["model"]): _said(row) for row in part.to_dict("records")}
        others = "".join(f"; the {role} {text}" for role, text in said.items() if role != EDITED)
        found.append(f"Half of the gap on {split} ({variant}): the edited model {said[EDITED]}{others}.")
    return found


def _said(row: dict) -> str:
    if math.isnan(row["half_step"]):
        return f"not within {row['steps']} steps"
    low, high = row["half_step_low"], row["half_step_high"]
    upper = f"{high:.0f}" if not math.isnan(high) else f"beyond {row['steps']}"
    return f"after {row['half_step']:.0f} steps [{low:.0f}, {upper}]"
