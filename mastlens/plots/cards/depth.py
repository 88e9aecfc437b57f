"""The card of the unlearning depth score."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mastlens.plots.cards.card import Card


def depth_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of a depth score: of each split how much is erased, between its exact ends 0 and 1."""
    parts = []
    for row in table[table["layer"] == -1].to_dict("records"):
        if not row["encoding"]:
            parts.append(
                f"{row['split']}: no layer encodes anything that the reference lacks, so nothing can be erased"
            )
            continue
        if row["encoding"] < 3:
            few = f"only {row['encoding']} of {row['items']} items are encoded in any layer"
            parts.append(f"{row['split']}: {few}, too few to say how deep it goes")
            continue
        ends = f" [{row['erased_low']:.2f}, {row['erased_high']:.2f}]" if row["erased_low"] == row["erased_low"] else ""
        parts.append(
            f"{row['split']}: depth {row['erased']:.2f}{ends} over {row['encoding']} of {row['items']} items (0: the "
            "source's own states, 1: the reference's)"
        )
    columns = ["split", "layer", "items", "encoding", "reference_drop", "edited_drop"]
    columns += ["erased", "erased_low", "erased_high"]
    rows = pd.concat([table[table["layer"] == -1], table[table["layer"] != -1]])
    return Card("Unlearning depth", "; ".join(parts) + ".", rows[columns], next=("result.plot()",))
