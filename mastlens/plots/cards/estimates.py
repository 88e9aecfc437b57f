"""The card of an estimate: how long a command will take, and whether it fits."""

import pandas as pd

from mastlens.plots.cards.card import Card


def estimate_card(table: pd.DataFrame, command: str) -> Card:
    """Return the card of what a command will need."""
    rows = {str(row["quantity"]): row for row in table.to_dict("records")}
    if "memory a rank" in rows:
        verdict = (
            f"Each rank takes {rows['memory a rank']['value'] / 1e3:.2f} GB, and what its texts take. Nothing was run: "
            "this follows from shapes."
        )
        return Card("Estimate", verdict, table, next=(command,) if command else ())
    memory = rows.get("GPU memory", rows.get("memory"))
    verdict = f"It takes about {spoken(float(rows['time']['value']))}"
    if memory is not None:
        verdict += f" and {memory['value'] / 1e3:.1f} GB of {'the GPU' if 'GPU memory' in rows else 'memory'}"
    verdict += ". Nothing was written; times on a machine that others use, too, differ from run to run."
    return Card("Estimate", verdict, table, next=(command,) if command else ())


def spoken(seconds: float) -> str:
    """Return a time as one says it: 12 s, 4 minutes, 2.5 hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
