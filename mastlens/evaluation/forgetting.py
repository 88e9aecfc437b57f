"""Any number of edits in one table: what each forgot, what it cost, and what an attack brought back."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.errors import BadSetting, unknown
from mastlens.evaluation.aftermath import attack_files, strongest_attack
from mastlens.evaluation.comparison import compare_tables, read_responses, warn_of_other_settings
from mastlens.evaluation.degeneration import response_faults
from mastlens.evaluation.lasting import COLUMNS, lasting
from mastlens.evaluation.responses import FILE as RESPONSES
from mastlens.evaluation.settings import CompareEditsSettings
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.reading import read_table
from mastlens.runs.settings import FilePath
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tables import Kept, remembered_tables
from mastlens.statistics import holm, ratio_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "edits.parquet"
CONTRASTS = "edit_contrasts.parquet"
ATTACKS = "edit_attacks.parquet"
_COLLATERAL, _COLLATERAL_ITEMS = "collateral.parquet", "collateral_items.parquet"

_PAIRED = {"ci_low": "low", "ci_high": "high"}
_FAULTS = {"repetition": "repetition", "no answer": "no_answer", "truncated": "truncated"}


@dataclass(frozen=True, repr=False)
class EditComparison(Carded):
    """Edits of one source against each other.

    Attributes:
        table: One row an edit: ``arm``; for ``forget`` and ``retain``, each all of its splits together, the columns
            of ``compare`` with that prefix (``forget_n``, ``forget_before``, ..., ``forget_difference``,
            ``forget_low``, ``forget_high``, ``forget_holm_p`` over the edits, ``forget_detectable``) and after -
            before of ``forget_repetition``, ``forget_no_answer``, ``forget_truncated``; and, missing where an edit's
            folder does not hold it, ``kl``, ``kl_low``, ``kl_high`` (nats a token on the retain splits),
            ``perplexity_ratio`` with its interval, and ``after_attack`` (of all attacks in the folder, the one that
            brought most back, beyond what it taught the control where there is one), ``after_attack_accuracy`` of
            the attacked edit and ``after_attack_control`` of the attacked control, ``after_attack_difference``,
            ``after_attack_low``, ``after_attack_high`` (attacked edit - source, on the same forget
            items); ``verdict``, one sentence on whether the forgetting stays.
        contrasts: Every edit but the first against the first, on the same items, one row an edit and ``side``; the
            columns of ``compare``, ``difference`` being the edit's accuracy - that of ``reference``; ``holm_p`` over
            all rows.
        attacks: One row an edit as it is, and one an edit and attack: what stays forgotten and what is kept, see
            ``lasting``.
        settings: What made it: the splits of either side among it.
    """

    table: pd.DataFrame
    contrasts: pd.DataFrame
    attacks: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import edits_card

        return edits_card(self.table, self.settings)

    def plot(self) -> "go.Figure":
        """Draw forgetting against every collateral that the table has."""
        from mastlens.plots.forgetting import plot_edits

        return plot_edits(self.table)

    def plot_lasting(self) -> "go.Figure":
        """Draw forgetting kept against retain kept, before and after each attack."""
        from mastlens.plots.lasting import plot_lasting

        return plot_lasting(self.attacks)


@takes(CompareEditsSettings)
def compare_edits(settings: CompareEditsSettings) -> EditComparison:
    """Put any number of edits of one source into one table, each against the source on the same items.

    What ``measure_collateral`` wrote into an edit's folder, and ``attack`` into it or into folders in it, is read too.
    With ``out`` the folder holds ``edits.parquet``, ``edit_contrasts.parquet`` and ``edit_attacks.parquet``.

    Raises:
        MastlensError: If a folder has no responses, the items differ, or a side has no split.
    """
    source, folders = settings.source, _labelled(list(settings.edits))
    original = read_responses(source)
    sides = _sides([str(split) for split in original["split"].unique()], settings.forget, settings.retain)
    recorded = {"splits": sides, "arms": list(folders)}
    for folder in folders.values():
        warn_of_other_settings(source, folder)

    def compute() -> EditComparison:
        before = _pooled(original, sides)
        tables = {arm: _pooled(read_responses(folder), sides) for arm, folder in folders.items()}
        rows = [
            {"arm": arm, **_against_source(before, tables[arm]), **_measured(folder, before, sides)}
            for arm, folder in folders.items()
        ]
        stays = {arm: lasting(arm, folder, before, tables[arm], sides) for arm, folder in folders.items()}
        table = pd.DataFrame(rows).assign(verdict=[one.verdict for one in stays.values()])
        for side in sides:
            table[f"{side}_holm_p"] = holm(table[f"{side}_mcnemar_p"])
        attacks = pd.DataFrame([row for one in stays.values() for row in one.rows], columns=list(COLUMNS))
        return EditComparison(table, _contrasts(tables), attacks, recorded)

    read = {f"{arm} {path.relative_to(folder)}": path for arm, folder in folders.items() for path in _files(folder)}
    return remembered_tables(
        "compare-edits",
        Kept(EditComparison, {"table": FILE, "contrasts": CONTRASTS, "attacks": ATTACKS}),
        settings,
        settings=recorded,
        inputs=hash_inputs({"source": Path(source) / RESPONSES, **read}),
        compute=compute,
    )


def _labelled(edits: Sequence[FilePath]) -> dict[str, Path]:
    """Return label to folder of each ``FOLDER`` or ``LABEL=FOLDER``; a folder may have ``=`` in its name.

    Without labels, where folders share a name, their parents' names tell them apart.
    """
    texts = [os.fspath(edit) for edit in edits]
    labels = {text: text.partition("=")[0] for text in texts if "=" in text and not Path(text).exists()}
    paths = [Path(text.removeprefix(f"{labels[text]}=") if text in labels else text) for text in texts]
    if labels:
        named = [(labels.get(text) or path.name, path) for text, path in zip(texts, paths, strict=True)]
    else:
        names = [path.resolve().name for path in paths]
        named = [
            (name if names.count(name) == 1 else f"{path.resolve().parent.name}/{name}", path)
            for name, path in zip(names, paths, strict=True)
        ]
    if not named:
        raise BadSetting("There is no edit to compare: name at least one evaluation folder beside the source's.")
    arms = [arm for arm, _ in named]
    if twice := [arm for arm in arms if arms.count(arm) > 1]:
        raise BadSetting(f"Two edits have the same label, {twice[0]!r}. Give each one of its own: LABEL=DIR.")
    return dict(named)


def _sides(splits: list[str], forget: Sequence[str] | None, retain: Sequence[str] | None) -> dict[str, list[str]]:
    for name in (*(forget or ()), *(retain or ())):
        if name not in splits:
            raise unknown("split", name, splits)
    forgotten = list(forget) if forget is not None else [s for s in splits if s.startswith("forget")]
    if forget is None and retain is not None:
        forgotten = [split for split in forgotten if split not in retain]
    kept = list(retain) if retain is not None else [split for split in splits if split not in forgotten]
    for side, chosen in (("forget", forgotten), ("retain", kept)):
        if not chosen:
            raise BadSetting(
                f"No split is on the {side} side: the evaluation has {', '.join(map(repr, splits))}. Say which with "
                f"--{side} NAME."
            )
    if both := sorted(set(forgotten) & set(kept)):
        raise BadSetting(f"The split {both[0]!r} cannot be on both sides.")
    return {"forget": forgotten, "retain": kept}


def _pooled(table: pd.DataFrame, sides: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the table with one split a side; an item is named for the split that it came from."""
    parts = []
    for side, splits in sides.items():
        part = table[table["split"].isin(splits)]
        names = part["split"].astype(str) + " " + part["item"].astype(str)
        parts.append(part.assign(split=side, item=names))
    return pd.concat(parts, ignore_index=True)


def _against_source(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    compared = compare_tables(before, after).table.drop(columns="holm_p").rename(columns=_PAIRED)
    faults = [response_faults(table).drop(columns="item").groupby("split").mean() for table in (before, after)]
    worse = faults[1] - faults[0]
    row: dict[str, Any] = {}
    for record in compared.to_dict("records"):
        side = str(record.pop("split"))
        row |= {f"{side}_{key}": value for key, value in record.items()}
        row |= {f"{side}_{name}": float(worse[fault].to_dict()[side]) for fault, name in _FAULTS.items()}
    return row


def _contrasts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    reference, *others = tables
    parts = [
        compare_tables(tables[reference], tables[arm])
        .table.rename(columns={**_PAIRED, "split": "side"})
        .assign(arm=arm, reference=reference)
        for arm in others
    ]
    if not parts:
        return pd.DataFrame(columns=["arm", "reference", "side"])
    table = pd.concat(parts, ignore_index=True)
    table["holm_p"] = holm(table["mcnemar_p"])
    return table[["arm", "reference", "side", *(c for c in table if c not in ("arm", "reference", "side"))]]


def _measured(folder: Path, source: pd.DataFrame, sides: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what else the edit's folder holds: divergence, perplexity, the strongest attack."""
    row: dict[str, Any] = {}
    if (folder / _COLLATERAL_ITEMS).is_file():
        items = read_table(folder / _COLLATERAL_ITEMS)
        items = items[items["split"].isin(sides["retain"])]
        if len(items):
            interval = ratio_interval(items["kl"], items["tokens"])
            row |= {"kl": items["kl"].sum() / items["tokens"].sum(), "kl_low": interval.low, "kl_high": interval.high}
    if (folder / _COLLATERAL).is_file():
        found = read_table(folder / _COLLATERAL)
        for record in found[found["measure"] == "perplexity"].to_dict("records"):
            row["perplexity_ratio"] = record["value"]
            row |= {f"perplexity_ratio_{end}": record[f"ci_{end}"] for end in ("low", "high")}
    return row | strongest_attack(folder, source[source["split"] == "forget"], sides["forget"])


def _files(folder: Path) -> list[Path]:
    """Return everything in an edit's folder that its row is made from."""
    alone = [folder / name for name in (RESPONSES, _COLLATERAL, _COLLATERAL_ITEMS)]
    return [path for path in alone if path.is_file()] + attack_files(folder)
