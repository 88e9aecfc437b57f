"""What happened in training, by step: kept while it goes on, a table of the lineage at the end."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.errors import BadSetting, NotFound
from mastlens.plots.cards.carded import Carded
from mastlens.runs.files import write_text
from mastlens.runs.reading import read_object, read_parquet

if TYPE_CHECKING:
    import pandas as pd

    from mastlens.plots.cards.card import Card
    from mastlens.plots.figure import Figure

FILE = "training.parquet"
"""The table in a lineage's folder."""

COLUMNS = (
    "stage",
    "step",
    "responses",
    "reward",
    "accuracy",
    "accuracy_forget",
    "accuracy_retain",
    "calibration_accuracy",
    "no_signal",
    "response_tokens",
    "truncated",
    "entropy",
    "kl_sft",
    "clipped",
    "grad_norm",
)
"""Of every record, in this order; what a recipe notes besides follows."""


class Recorder:
    """The record of one stage: a row each round of responses, appended to a file as the round is done.

    Args:
        stage: The stage.
        path: The file of JSON lines; an earlier one of this stage is written over with the first row.
    """

    def __init__(self, stage: str, path: Path):
        self.stage, self.path = stage, path
        self.rows: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._begun = not path.is_file()
        if self._begun:
            path.write_text("", encoding="utf-8")

    def go_on(self, step: int) -> None:
        """Take the rows of before a step from an earlier run of this stage, and go on behind them."""
        self.rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # a row that was being written when the run was stopped
                break
            if row["step"] < step:
                self.rows.append(row)
        self._begun = True
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def begin(self, **values: Any) -> None:
        """Begin the row of a round with what is known before its update."""
        if not self._begun:
            self.path.write_text("", encoding="utf-8")
            self._begun = True
        self._open = {"stage": self.stage, **values}

    def end(self, **values: Any) -> None:
        """End the row with what is known after it, and keep it."""
        if self._open is None:
            return
        row = {key: value for key, value in {**self._open, **values}.items() if value is not None}
        self._open = None
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


def kept_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that a recorder has kept."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def as_table(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    """Return rows as a table: the columns of every record first, then what recipes noted, missing numbers as NaN."""
    import pandas as pd

    noted = sorted({key for row in rows for key in row} - set(COLUMNS))
    table = pd.DataFrame(rows, columns=[*COLUMNS, *noted])
    whole = {"step": "int64", "responses": "int64"}
    return table.astype({str(name): whole.get(str(name), "float64") for name in table if name != "stage"})


@dataclass(frozen=True, repr=False)
class Training(Carded):
    """How lineages were reinforced, step by step.

    Attributes:
        table: A row a lineage, stage and round (``training.parquet``, with ``lineage`` and ``recipe`` before it).
        settings: Lineage to what its card says of the recipe.
    """

    table: "pd.DataFrame"
    settings: Mapping[str, Mapping[str, Any]]

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.training import training_card

        return training_card(self.table, self.settings)

    def plot(self, stage: str = "rlvr") -> "Figure":
        """Draw accuracy, entropy, response length and KL to SFT over the steps, a line a lineage.

        Args:
            stage: Which of the stages.
        """
        from mastlens.plots.training import plot_training

        return plot_training(self.table[self.table["stage"] == stage])


def read_training(*lineages: str | os.PathLike[str]) -> Training:
    """Return the training record of lineages that were built by a recipe, one beside the other.

    Args:
        *lineages: Their folders; each is called by its own name.

    Raises:
        MastlensError: If a folder has no record, or two have one name.
    """
    import pandas as pd

    tables, settings = [], {}
    for lineage in map(Path, lineages):
        if not (lineage / FILE).is_file():
            raise NotFound(
                f"{lineage} has no {FILE}: only a lineage that a recipe built has a training record. Build one: "
                f"mastlens organism build qwen2 --recipe grpo --out DIR"
            )
        if lineage.name in settings:
            raise BadSetting(f"Two lineages are called {lineage.name}. Give each folder a name of its own.")
        told = read_object(lineage / "card.json", "a card").get("rlvr", {})
        settings[lineage.name] = told
        table = read_parquet(lineage / FILE, maker="mastlens organism build")
        tables.append(table.assign(lineage=lineage.name, recipe=told.get("recipe", {}).get("name", "")))
    if not tables:
        raise BadSetting("No lineage is named: give at least one folder.")
    table = pd.concat(tables, ignore_index=True)
    return Training(table[["lineage", "recipe", *table.columns.drop(["lineage", "recipe"])]], settings)
