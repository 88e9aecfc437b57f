"""From the tables of a run to a ranking and a selection."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.errors import MastlensError, unknown
from mastlens.files import write_table
from mastlens.projections import ORDER
from mastlens.runs import hash_inputs, read_record, remembered
from mastlens.selection.mast import mast_score, mast_terms

if TYPE_CHECKING:
    import plotly.graph_objects as go

FILE = "ranking.parquet"
RULES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {"mast": mast_score}
"""Rule to score: a function of the joined geometry and coupling tables; the highest score ranks first."""


@dataclass(frozen=True)
class Ranking:
    """A ranking of projections with its selection.

    Attributes:
        table: ``rank`` (1 = first), ``layer``, ``projection``, ``name``, ``score``, ``selected``, ``numel``, and
            the factors of the score.
        settings: Rule and size of the selection.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def selected(self) -> list[str]:
        """Names of the selected tensors, best first."""
        return self.table.loc[self.table["selected"], "name"].tolist()

    def plot(self) -> "go.Figure":
        """Draw the selection by layer and projection."""
        from mastlens.plots import plot_selection

        return plot_selection(self.table)

    def plot_decomposition(self) -> "go.Figure":
        """Draw which factor of the score decided."""
        from mastlens.plots import plot_score_decomposition

        return plot_score_decomposition(self.table)


def rank(folder: str | os.PathLike[str], *, top: int, rule: str = "mast", overwrite: bool = False) -> Ranking:
    """Rank the projections from ``geometry.parquet`` and ``coupling.parquet`` in ``folder``.

    Writes ``ranking.parquet`` beside them. Ties are broken by layer, then q < k < v < o.

    Args:
        folder: The run's output folder.
        top: How many projections to select.
        rule: Name of the rule; see ``RULES``.
        overwrite: Replace a ranking made with other settings.

    Raises:
        MastlensError: If a table is missing, the rule is unknown, or ``top`` does not fit.
    """
    folder = Path(folder)
    tables = {"geometry": folder / "geometry.parquet", "coupling": folder / "coupling.parquet"}
    commands = {"geometry": "mastlens geometry", "coupling": "mastlens couple"}
    for part, path in tables.items():
        if not path.is_file():
            raise MastlensError(f"{path} is missing. Write it first: {commands[part]} ... --out {folder}")
    stages = read_record(folder)["stages"]
    lineage: dict[str, str] = {}
    for name in ("geometry", "couple"):
        lineage |= stages.get(name, {}).get("lineage", {})
    settings = {"rule": rule, "top": top}
    return remembered(
        folder,
        "rank",
        outputs=[FILE],
        lineage=lineage,
        inputs=hash_inputs(tables),
        settings=settings,
        overwrite=overwrite,
        compute=lambda: rank_tables(
            pd.read_parquet(tables["geometry"]), pd.read_parquet(tables["coupling"]), top=top, rule=rule
        ),
        write=lambda result, out: write_table(out / FILE, result.table),
        read=lambda out: Ranking(pd.read_parquet(out / FILE), settings),
    )


def rank_tables(geometry: pd.DataFrame, coupling: pd.DataFrame, *, top: int, rule: str = "mast") -> Ranking:
    """Rank projections from the two tables; pure.

    Args:
        geometry: As ``geometry`` writes it; the ``rlvr`` increment is used.
        coupling: As ``couple`` writes it.
        top: How many projections to select.
        rule: Name of the rule.
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    increment = geometry[geometry["increment"] == "rlvr"]
    if set(increment["name"]) != set(coupling["name"]):
        alone = sorted(set(increment["name"]) ^ set(coupling["name"]))
        raise MastlensError(
            f"The geometry and coupling tables are about different tensors, e.g. {alone[0]}. Make both anew from "
            "one lineage."
        )
    table = increment.merge(
        coupling[[c for c in coupling if c == "name" or c not in increment]], on="name", validate="1:1"
    )
    if not 1 <= top <= len(table):
        raise MastlensError(f"--top {top} does not fit: there are {len(table)} projections, choose 1 to that.")
    if table["delta_norm"].max() == 0:
        raise MastlensError("Every increment is zero: SFT and RLVR have the same attention weights.")
    table = table.assign(
        score=RULES[rule](table),
        numel=table["rows"] * table["cols"],
        order=table["projection"].map({p: i for i, p in enumerate(ORDER)}),
        **{c: v for c, v in mast_terms(table).items() if c != "off_principal"},
    )
    table = table.sort_values(["score", "layer", "order"], ascending=[False, True, True], kind="stable")
    table = table.assign(rank=range(1, len(table) + 1))
    table["selected"] = table["rank"] <= top
    columns = ["rank", "layer", "projection", "name", "score", "selected", "numel"]
    columns += ["off_principal", "log1p_energy", "coupling_factor"]
    return Ranking(table[columns].reset_index(drop=True), {"rule": rule, "top": top})


def read_selection(path: str | os.PathLike[str], fingerprint: str | None = None) -> list[str]:
    """Return the selected names of a ranking file, best first.

    Args:
        path: A ``ranking.parquet``.
        fingerprint: The RLVR checkpoint that will be edited: if the run record beside the file names another,
            the selection is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise MastlensError(f"There is no ranking file {path}. Write it first: mastlens rank DIR --top N")
    try:
        table = pd.read_parquet(path)
        selected = table.loc[table["selected"].astype(bool)].sort_values("rank")["name"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise MastlensError(f"{path} is not a ranking ({error}). mastlens rank writes one.") from error
    if not selected:
        raise MastlensError(f"{path} selects nothing. Rank again with --top of 1 or more.")
    made_for = read_record(path.parent)["stages"].get("rank", {}).get("lineage", {}).get("rlvr")
    if fingerprint and made_for and made_for != fingerprint:
        raise MastlensError(
            f"{path} was made for another RLVR checkpoint ({made_for[:12]}; this one is {fingerprint[:12]})."
        )
    return selected
