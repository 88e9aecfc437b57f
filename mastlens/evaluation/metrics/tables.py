"""Metrics' numbers by item as a tidy table, and those of one folder held against another's."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mastlens.errors import BadFile, NotFound, NotTogether
from mastlens.evaluation.metrics.metric import Metric, Part, Scores
from mastlens.runs.reading import read_object, read_table
from mastlens.runs.stages import read_record

TABLE, VALUES, ITEMS = "metrics_summary.parquet", "metrics.parquet", "metric_items.parquet"
SUMMARY = "metrics.json"
STAGE = "metrics"


@dataclass(frozen=True)
class TableScores(Scores):
    """Numbers by item in a table.

    Attributes:
        table: One row a metric, part, split and item: ``metric``, ``part``, ``split``, ``item``, ``value``, ``null``.
        where: What to call it in a message.
    """

    table: pd.DataFrame
    where: str = "the table"

    @cached_property
    def _groups(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        keys = ["metric", "part", "split"]
        groups = self.table.groupby(keys, sort=False)
        return {tuple(map(str, key)): rows.sort_values("item", kind="stable") for key, rows in groups}  # type: ignore[union-attr]

    def splits(self, metric: Metric) -> list[str]:
        """Return the splits that there are numbers of this metric for, in the order in which they were measured."""
        return list(dict.fromkeys(split for name, _, split in self._groups if name == metric.spelled))

    def of(self, metric: Metric, split: str, part: str = "") -> Part:
        """Return the numbers of a split, by item.

        Raises:
            MastlensError: If there are none.
        """
        rows = self._groups.get((metric.spelled, part, split))
        if rows is None:
            raise BadFile(f"{self.where} has no {metric.spelled!r} of the split {split!r}.")
        return Part(rows["value"].to_numpy(dtype=float), rows["null"].to_numpy(dtype=float))


@dataclass(frozen=True)
class Measured:
    """A folder with metrics.

    Attributes:
        folder: The folder.
        table: Its aggregates.
        values: Its numbers by item.
        items: Its items: ``split``, ``item``, ``line``, ``text_digest``, ``token_digest``, ``tokens``, ``loss``.
        model: What the model is, ``type`` and ``parameters``; empty where the folder does not say.
    """

    folder: Path
    table: pd.DataFrame
    values: pd.DataFrame
    items: pd.DataFrame
    model: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Measured":
        """Return what a folder holds.

        Raises:
            MastlensError: If it holds no metrics.
        """
        place = Path(folder)
        missing = [file for file in (TABLE, VALUES, ITEMS) if not (place / file).is_file()]
        if missing:
            raise NotFound(
                f"{place / missing[0]} is missing. Write it first: mastlens evaluate ... --metrics NAME --out {folder}"
            )
        summary = read_object(place / SUMMARY) if (place / SUMMARY).is_file() else {}
        table, values, items = (read_table(place / file) for file in (TABLE, VALUES, ITEMS))
        return cls(place, table, values, items, summary.get("model", {}))

    @property
    def scores(self) -> TableScores:
        """Its numbers by item."""
        return TableScores(self.values, str(self.folder))

    @property
    def recorded(self) -> list[str]:
        """The metrics that it was asked for, as they are spelled."""
        return list(read_record(self.folder)["stages"].get(STAGE, {}).get("settings", {}).get("metrics", ()))

    def check_items(self, others: pd.DataFrame, splits: Sequence[str], who: str) -> None:
        """Raise unless the splits have the same items here as in another table, read by the same tokenizer.

        Args:
            others: Items of the other model, as ``items``.
            splits: The splits that are compared.
            who: What this folder is called, e.g. ``the reference``.
        """
        for split in splits:
            theirs, ours = (table[table["split"] == split] for table in (self.items, others))
            if not len(theirs):
                raise NotTogether(
                    f"{who} ({self.folder}) has no split {split!r}; it has {', '.join(self.items['split'].unique())}. "
                    "Evaluate it on the same files under the same names."
                )
            joined = ours.merge(theirs, on="item", how="outer", suffixes=("", "_theirs"), indicator=True)
            other = joined[(joined["_merge"] != "both") | (joined["text_digest"] != joined["text_digest_theirs"])]
            if len(other):
                first = other.iloc[0]
                line = first["line"] if not np.isnan(first["line"]) else first["line_theirs"]
                raise NotTogether(
                    f"{who} ({self.folder}) was evaluated on other items: {len(other)} of split {split!r} differ, the "
                    f"first on line {int(line)} of its file. Evaluate both on the same file."
                )
            other = joined[joined["token_digest"] != joined["token_digest_theirs"]]
            if len(other):
                raise NotTogether(
                    f"{who} ({self.folder}) reads the items of split {split!r} as other tokens ({len(other)} of "
                    f"{len(joined)}, the first on line {int(other.iloc[0]['line'])}): another tokenizer, chat "
                    "template, system prompt or think mode. Losses a token are not comparable between tokenizers."
                )

    def losses_of(self, items: pd.DataFrame) -> dict[str, list[float]]:
        """Return split to this model's loss of each item, for the splits that both have.

        Args:
            items: Items of the other model, as ``items``.

        Raises:
            MastlensError: If it has other items or tokens, or none of the splits.
        """
        there = set(self.items["split"])
        splits = [str(split) for split in items["split"].unique()]
        shared = [split for split in splits if split in there]
        self.check_items(items, shared or splits, "The reference")
        rows = self.items.sort_values(["split", "item"], kind="stable")
        return {split: rows.loc[rows["split"] == split, "loss"].tolist() for split in shared}
