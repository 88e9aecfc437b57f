"""The card of requests in sequence."""

import pandas as pd

from mastlens.plots.cards.card import Card


def requests_card(table: pd.DataFrame) -> Card:
    """Return the card of requests in sequence: what later ones brought back of earlier ones, beyond its interval."""
    last = table[table["stage"] == table.groupby("order")["stage"].transform("max")]
    sequences = last[last["order"] != "at once"]
    earlier = table[
        (table["side"] == "forgotten") & (table["order"] != "at once") & (table["request"] != table["split"])
    ]
    back = earlier[earlier["change_low"] > 0]
    parts = [
        f"{row['split']}, after {row['request']} ({row['order']}): {100 * row['change']:+.0f} points "
        f"[{100 * row['change_low']:+.0f}, {100 * row['change_high']:+.0f}]"
        for row in back.to_dict("records")
    ]
    if parts:
        verdict = "Came back by a later request: " + "; ".join(parts[:4]) + "."
    else:
        verdict = f"No later request brought back what an earlier one took out, in {len(earlier)} readings."
    retain = last[last["side"] == "retain"]
    orders = sequences["order"].nunique()
    lost = retain.groupby("order")["change"].mean()
    told = ", ".join(f"{order}: {100 * change:+.0f}" for order, change in lost.items())
    verdict += f" Retain at the end, in points ({orders} order{'s' * (orders != 1)}): {told}." if len(retain) else ""
    columns = ["order", "stage", "request", "split", "side", "n", "accuracy", "change", "change_low", "change_high"]
    rows = pd.concat([last, table.drop(last.index)])[columns]
    return Card("Requests in sequence", verdict, rows, next=("result.plot()",))
