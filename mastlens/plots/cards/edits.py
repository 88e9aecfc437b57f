"""Cards of edits, unlearning runs, drift and studies."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mastlens.plots.cards.card import Card
from mastlens.plots.cards.wording import counted


def edit_card(table: pd.DataFrame, source: str, settings: Mapping[str, Any]) -> Card:
    """Return the card of an edit: how much it changes, and what it belongs to."""
    objective = settings.get("objective")
    how = objective.get("name") if isinstance(objective, Mapping) else objective
    made = f", made by {how}" if how else ""
    verdict = (
        f"{counted(len(table), 'tensor')} changed{made}; the largest change is "
        f"{table['relative_norm'].max():.3g} of its tensor's "
        f"norm. It belongs to the checkpoint {source[:12]} and to no other."
    )
    columns = ["name", "shape", "dtype", "relative_norm", "changed_fraction"]
    rows = table.sort_values("relative_norm", ascending=False)[columns]
    return Card(
        "Edit", verdict, rows, next=("mastlens.apply_edit(edit, to=..., out=...)", "mastlens.evaluate(edit=...)")
    )


def lora_card(table: pd.DataFrame, folder: str, settings: Mapping[str, Any]) -> Card:
    """Return the card of an edit as LoRA: how far the adapter is from it, and how much smaller."""
    worst = table.sort_values("error", ascending=False).iloc[0]
    whole = int((table["rows"] * table["cols"]).sum())
    verdict = (
        f"{counted(len(table), 'tensor')} as LoRA of rank up to {int(table['rank'].max())}: "
        f"{table['entries'].sum() / whole:.1%} of the entries. The adapter leaves out up to {worst['error']:.2%} of a "
        f"tensor's change ({worst['name']}); evaluate it as the checkpoint that it is."
    )
    rows = table.sort_values("error", ascending=False)
    return Card("Edit as LoRA", verdict, rows, next=(f"mastlens.Checkpoint('{settings.get('to', '')}+{folder}')",))


def unlearning_card(table: pd.DataFrame, names: list[str], chosen: int, swallowed: float) -> Card:
    """Return the card of an unlearning run: what its losses did. Whether it forgot, evaluation says."""
    if not len(table):
        return Card("Unlearning", "No step was taken.")
    first, last = table.iloc[0], table.iloc[-1]
    verdict = (
        f"{counted(len(table), 'step')} on {counted(len(names), 'tensor')}, the edit holds step {chosen}; forget loss "
        f"{first['forget_loss']:.3g} to {last['forget_loss']:.3g}. Losses do not say what was forgotten: evaluate. "
        f"Rounding returned {swallowed:.2%} of the changed entries."
    )
    rows = table.iloc[sorted({round(i * (len(table) - 1) / 9) for i in range(10)})]
    return Card(
        "Unlearning", verdict, rows, len(table), next=("result.plot()", "mastlens.evaluate(model=..., edit=...)")
    )


def drift_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of how far hidden states moved."""
    numbers = table.select_dtypes("number")
    verdict = f"{len(table)} readings of hidden states against the source's, by layer and kind of text."
    return Card("Drift", verdict, table, next=("result.plot()",)) if len(numbers) else Card("Drift", verdict)


def study_card(table: pd.DataFrame, contrasts: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of a study: which arms arrived, and where a selection beats its random draws."""
    reached = int(table["reached"].fillna(False).astype(bool).sum()) if "reached" in table else len(table)
    tested = contrasts[contrasts["permutation_p"].notna()] if "permutation_p" in contrasts else contrasts.iloc[:0]
    better = int((tested["permutation_p"] < 0.05).sum()) if len(tested) else 0
    said = f"{reached} of {len(table)} arms reached the target."
    if len(tested):
        said += (
            f" {better} of {len(tested)} contrasts of a selection with its random draws have p < 0.05; about "
            f"{0.05 * len(tested):.1f} would by chance alone."
        )
    columns = ["objective", "selection", "control", "measure", "mean", "ci_low", "ci_high", "draws", "permutation_p"]
    rows = tested.sort_values("permutation_p")[[c for c in columns if c in tested]] if len(tested) else table
    return Card("Study", said, rows, next=("result.plot()", "result.table"))


def reasoning_card(table: pd.DataFrame) -> Card:
    """Return the card of R2MU's table."""
    verdict = f"{len(table)} methods; each measure is a mean over seeds with Student's interval."
    columns = ["label", "seeds", "fa_ua", "rt_ua", "avg_ua", "forget_accuracy", "utility"]
    return Card("Reasoning study", verdict, table[[c for c in columns if c in table]], next=("result.plot()",))
