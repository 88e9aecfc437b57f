"""The card of how lineages were reinforced."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mastlens.plots.cards.card import Card

_SHOWN = ("lineage", "recipe", "stage", "step", "accuracy", "entropy", "response_tokens", "kl_sft", "no_signal")


def training_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of training records: how accuracy and entropy went, and where each stage stood at its end.

    A round's accuracy is of sampled responses to prompts of its own: what is said is the mean over a tenth of the
    rounds at each end.

    Args:
        table: The record.
        settings: Lineage to what its card says of the recipe.
    """
    said, last = [], []
    for (lineage, stage), rows in table.groupby(["lineage", "stage"], sort=False):
        rows = rows.sort_values("step")
        some = max(1, len(rows) // 10)
        first, end = rows.head(some).mean(numeric_only=True), rows.tail(some).mean(numeric_only=True)
        last.append(rows.tail(1))
        if stage == "rlvr":
            said.append(
                f"{lineage}: {100 * first['accuracy']:.0f} % to {100 * end['accuracy']:.0f} % of sampled responses "
                f"right, entropy {first['entropy']:.2f} to {end['entropy']:.2f} nats"
            )
    shown = pd.concat(last)
    verdict = "; ".join(said) + "." if said else "There is no record of rlvr."
    columns = [column for column in _SHOWN if column in shown]
    return Card("How RLVR went", verdict, shown[columns], len(table), None, ("result.plot()", "result.table"))
