"""Two runs beside each other: what each finds of a projection, and the difference, map by map."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.errors import BadSetting, NotTogether, unknown
from mastlens.explorer.exploration import Exploration
from mastlens.explorer.figures import score_map
from mastlens.explorer.scores import Score, score_range, score_table
from mastlens.plots.cards.carded import Carded

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

_KEYS = ["layer", "projection", "name"]


@dataclass(frozen=True, repr=False)
class RunComparison(Carded):
    """Two runs over the same projections.

    A difference between runs has no null of its own here: what is said counts where each run by itself is beyond its
    null.

    Attributes:
        first: The run that is compared with.
        second: The other run; differences are second minus first.
        settings: Which folders.
    """

    first: Exploration
    second: Exploration
    settings: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def scores(self) -> dict[str, Score]:
        """Key to score of what both runs have."""
        return {key: score for key, score in self.first.scores.items() if key in self.second.scores}

    @property
    def called(self) -> tuple[str, str]:
        """What the runs are called: their folders' names, with the folder above where these are the same."""
        folders = [study.folder.resolve() for study in (self.first, self.second)]
        same = folders[0].name == folders[1].name
        one, other = (f"{folder.parent.name}/{folder.name}" if same else folder.name for folder in folders)
        return (one, other) if one != other else (f"{one} (first)", f"{other} (second)")

    @property
    def table(self) -> pd.DataFrame:
        """The first score's; see ``of``."""
        return self.of()

    def of(self, score: str | None = None) -> pd.DataFrame:
        """Return one row a projection that both runs have.

        Columns: ``layer``, ``projection``, ``name``, ``value_first``, ``value_second``, ``difference`` (second minus
        first; of a lift over chance, in doublings), ``beyond_first`` and ``beyond_second`` (whether each is beyond
        chance; missing where nothing says it), ``below_floor`` (in either run).

        Args:
            score: Its key; the first of them without it.

        Raises:
            MastlensError: If not both runs have that score.
        """
        found = self._score(score)
        one, other = (score_table(study.tables, found) for study in (self.first, self.second))
        both = one.merge(other, on=_KEYS, suffixes=("_first", "_second"))
        below = [both[c].fillna(False).astype(bool) for c in both.columns if c.startswith("below_floor")]
        return pd.DataFrame(
            {
                **{key: both[key] for key in _KEYS},
                "value_first": both["value_first"],
                "value_second": both["value_second"],
                "difference": both["value_second"] - both["value_first"],
                "beyond_first": both["beyond_chance_first"].astype("boolean"),
                "beyond_second": both["beyond_chance_second"].astype("boolean"),
                "below_floor": np.logical_or.reduce(below) if below else np.zeros(len(both), dtype=bool),
            }
        )

    def verdict(self, score: str | None = None) -> str:
        """Return in how many projections each run is beyond its null; the difference itself is not tested."""
        found, table = self._score(score), self.of(score)
        known = table[table["beyond_first"].notna() & table["beyond_second"].notna() & ~table["below_floor"]]
        label = f"{found.label[:1].upper()}{found.label[1:]}"
        if known.empty:
            return f"{label}: what chance gives is not known of both runs, {len(table)} projections"
        one, other = (known[column].astype(bool) for column in ("beyond_first", "beyond_second"))
        names = self.called
        parts = f"{(one & other).sum()} in both runs, {(one & ~other).sum()} in {names[0]} alone, "
        parts += f"{(other & ~one).sum()} in {names[1]} alone"
        return f"{label}: beyond chance of {len(known)} projections {parts}; the difference itself is not tested"

    def map(self, score: str | None = None) -> "go.Figure":
        """Draw the difference of a score, second minus first; a ring says that chance could have made both."""
        from mastlens.plots.projection_effect import plot_projection_map

        found, table = self._score(score), self.of(score)
        beyond = table["beyond_first"] | table["beyond_second"]
        drawn = table[_KEYS].assign(value=table["difference"], chance=np.nan, beyond_chance=beyond.astype("boolean"))
        drawn = drawn.assign(below_floor=table["below_floor"], floor=np.nan)
        one, other = self.called
        return plot_projection_map(
            drawn,
            label=f"{found.label}: {other} {'/' if found.doublings else '−'} {one}",
            signed=True,
            doublings=found.doublings,
            title=self.verdict(score),
            note="○: within chance in both runs.",
            subtitle=f"{self.first.subtitle}; {self.second.subtitle}",
        )

    def plot(self, score: str | None = None) -> "go.Figure":
        """Draw the difference; see ``map``."""
        return self.map(score)

    def maps(self, score: str | None = None) -> "tuple[go.Figure, go.Figure, go.Figure]":
        """Return the maps of both runs, in one range of colours, and that of the difference."""
        key = self._score(score).key
        over = np.concatenate(
            [
                np.asarray(score_range(study.tables, study.scores, study.scores[key]), dtype=float).ravel()
                for study in (self.first, self.second)
            ]
        )
        one, other = (score_map(study, key, over=over) for study in (self.first, self.second))
        return one, other, self.map(key)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.card import Card, CellMap

        table = self.of()
        beyond = (table["beyond_first"] | table["beyond_second"]).fillna(False).astype(bool)
        small = CellMap.of(
            table,
            table["difference"],
            "difference",
            beyond=beyond,
            floor=table["below_floor"],
            key="orange above, blue below, framed where a run rules chance out",
        )
        rows = table.assign(_size=table["difference"].abs().where(beyond)).sort_values("_size", ascending=False)
        shown = rows.drop(columns=["_size", "below_floor"])
        calls = ("result.map(SCORE)", "result.save('both.html')")
        return Card("Two runs", f"{self.verdict()}.", shown, map=small, next=calls)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML file that can be clicked: maps of both runs and of the difference, and behind each cell both.

        Args:
            path: A path that ends in ``.html``.

        Raises:
            MastlensError: If it does not, or cannot be written.
        """
        from mastlens.explorer.page import write_comparison

        if Path(path).suffix.lower() != ".html":
            raise BadSetting(f"Two runs are written as one page: give a path that ends in .html, not {path}.")
        return write_comparison(self, Path(path))

    def _score(self, key: str | None) -> Score:
        key = key or next(iter(self.scores))
        if key not in self.scores:
            raise unknown("score in both runs", key, self.scores)
        return self.scores[key]


def compare_explorations(first: Exploration, second: Exploration) -> RunComparison:
    """Return two runs beside each other.

    Raises:
        MastlensError: If they share no projection, or no score.
    """
    names = f"{first.folder} and {second.folder}"
    if not set(first.names) & set(second.names):
        raise NotTogether(
            f"{names} share no projection ({first.names[0]} ..., {second.names[0]} ...): compare runs of one "
            "architecture."
        )
    found = RunComparison(first, second, {"first": str(first.folder), "second": str(second.folder)})
    if not found.scores:
        raise NotTogether(f"{names} have no score in common: run the same stages in both.")
    return found
