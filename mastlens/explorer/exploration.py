"""A run to be explored: its tables, its projections, and what is measured of one when it is asked for."""

import difflib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.errors import BadSetting, NotFound, unknown
from mastlens.explorer.scores import COLUMNS, Score, available_scores, score_table
from mastlens.explorer.sources import RunSources, find_sources
from mastlens.runs.reading import read_table
from mastlens.runs.stages import read_record

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.edits.edit import Edit
    from mastlens.explorer.measuring import PatchBench

TABLES = (
    "geometry",
    "geometry_heads",
    "spectra",
    "coupling",
    "coupling_heads",
    "coupling_spectrum",
    "causal_map",
    "ranking",
)
"""The tables that are looked for, as file names without ending."""


class Exploration:
    """A run's tables beside the checkpoints and problems they were made from.

    Attributes:
        folder: The run's folder.
        tables: File name without ending to table, of those that are there.
        sources: Checkpoints, problem files and edit.
        limit: How many problems of each file are read when something is measured.
        device: Where to compute.
    """

    def __init__(
        self,
        folder: Path,
        tables: Mapping[str, pd.DataFrame],
        sources: RunSources,
        *,
        limit: int = 32,
        device: str = "cpu",
    ):
        self.folder, self.tables, self.sources, self.limit, self.device = folder, tables, sources, limit, device

    @cached_property
    def scores(self) -> dict[str, Score]:
        """Key to score of everything that a map can show."""
        return available_scores(self.tables)

    @cached_property
    def places(self) -> pd.DataFrame:
        """One row a projection, by layer, then q < k < v < o: ``layer``, ``projection``, ``name``."""
        every = [table[list(COLUMNS)] for table in self.tables.values()]
        found = pd.concat(every).drop_duplicates("name")
        order = {letter: i for i, letter in enumerate("qkvo")}
        place = found["projection"].map(lambda p: order.get(str(p), len(order)))
        return (
            found.assign(_place=place)
            .sort_values(["layer", "_place", "name"], ignore_index=True)
            .drop(columns="_place")
        )

    @property
    def names(self) -> list[str]:
        """The projections' names."""
        return [str(name) for name in self.places["name"]]

    @property
    def selected(self) -> list[str]:
        """The projections that the run selected, best first; none where nothing was ranked."""
        if "ranking" not in self.tables:
            return []
        ranking = self.tables["ranking"].sort_values("rank")
        return [str(name) for name in ranking.loc[ranking["selected"].astype(bool), "name"]]

    @cached_property
    def bench(self) -> "PatchBench":
        """What measures a projection: it loads the model when it is first asked, and keeps what it found."""
        from mastlens.explorer.measuring import PatchBench

        return PatchBench(self.sources, limit=self.limit, device=self.device, rank=self._rank)

    @property
    def _rank(self) -> str:
        made = read_record(self.folder)["stages"].get("geometry", {}).get("settings", {})
        return str(made.get("rank", "16"))

    @property
    def subtitle(self) -> str:
        """The line under every figure's title: the run and its checkpoints."""
        known = [f"{role} {fingerprint[:8]}" for role, fingerprint in self.sources.recorded.items()]
        return ", ".join([self.folder.name, *known])

    def resolve(self, name: str) -> str:
        """Return a projection's full name; ``3.q`` stands for q of layer 3.

        Raises:
            MastlensError: If there is no such projection, with the nearest names.
        """
        if name in self.names:
            return name
        short = {f"{row.layer}.{row.projection}": str(row.name_) for row in _named(self.places)}
        if name in short:
            return short[name]
        near = difflib.get_close_matches(name, self.names, n=2, cutoff=0.5)
        raise unknown("projection", name, [*near, *short])

    def place(self, name: str) -> str:
        """Return how a projection is called in a title: ``layer 3, q``."""
        row = self.places[self.places["name"] == name].iloc[0]
        return f"layer {row['layer']}, {row['projection']}"

    def rows(self, table: str, name: str) -> pd.DataFrame | None:
        """Return the rows of one projection, or None where the run has no such table or it no such row."""
        if table not in self.tables:
            return None
        found = self.tables[table]
        found = found[found["name"] == name].reset_index(drop=True)
        return None if found.empty else found

    def numbers(self, name: str) -> pd.DataFrame:
        """Return one row a score that this projection has.

        Columns: ``score``, ``label``, ``value``, ``chance``, ``beyond_chance``, ``place`` (1 for the largest
        magnitude), ``of`` (projections with this score), ``relative`` (to the largest magnitude of all).
        """
        rows = []
        for score in self.scores.values():
            table = score_table(self.tables, score)
            own = table[table["name"] == name]
            if own.empty:
                continue
            sizes = table["value"].abs()
            value = float(own["value"].iloc[0])
            largest = float(sizes.max())
            rows.append(
                {
                    "score": score.key,
                    "label": f"{score.label}{', in doublings' * score.doublings}",
                    "value": value,
                    "chance": float(own["chance"].iloc[0]),
                    "beyond_chance": own["beyond_chance"].iloc[0],
                    "place": 1 + int((sizes > abs(value)).sum()),
                    "of": len(table),
                    "relative": value / largest if largest else 0.0,
                }
            )
        table = pd.DataFrame(rows)
        table["beyond_chance"] = table["beyond_chance"].astype("boolean")
        return table


def open_exploration(
    study: "str | os.PathLike[str] | Exploration",
    *,
    base: "str | os.PathLike[str] | Checkpoint | None" = None,
    sft: "str | os.PathLike[str] | Checkpoint | None" = None,
    rlvr: "str | os.PathLike[str] | Checkpoint | None" = None,
    edit: "str | os.PathLike[str] | Edit | None" = None,
    forget: str | os.PathLike[str] | None = None,
    retain: str | os.PathLike[str] | None = None,
    limit: int = 32,
    device: str = "cpu",
) -> Exploration:
    """Read the tables of a run's folder; arguments and errors as of ``explore``."""
    if isinstance(study, Exploration):
        return study
    folder = Path(study)
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}. Run mastlens demo --out {folder}, or a stage with that --out.")
    if limit < 1:
        raise BadSetting(f"A limit of {limit} problems leaves nothing to measure on; it is at least 1.")
    tables = {name: read_table(folder / f"{name}.parquet") for name in TABLES if (folder / f"{name}.parquet").is_file()}
    if not available_scores(tables):
        wanted = ", ".join(f"{name}.parquet" for name in ("geometry", "coupling", "ranking", "causal_map"))
        raise NotFound(
            f"{folder} holds none of {wanted}, so there is nothing to explore. mastlens geometry, couple, rank and "
            f"causal-map write them with --out {folder}."
        )
    sources = find_sources(
        folder,
        read_record(folder),
        checkpoints={"base": base, "sft": sft, "rlvr": rlvr},
        problems={"forget": forget, "retain": retain},
        edit=edit,
    )
    return Exploration(folder, tables, sources, limit=limit, device=device)


def _named(places: pd.DataFrame) -> Any:
    return places.rename(columns={"name": "name_"}).itertuples(index=False)
