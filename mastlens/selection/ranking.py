"""From the tables of a run to a ranking and a selection."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.analysis.increments.precision import BELOW, ZERO, floor_sentence
from mastlens.errors import BadSetting, NotFound, NotTogether
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, read_record, remembered
from mastlens.selection.catalogue import RULES
from mastlens.selection.recommended import AUTO, recommended
from mastlens.selection.rule import Control
from mastlens.selection.scoring import controlled, scored, scoring_rule, settings_of
from mastlens.selection.settings import RankSettings
from mastlens.selection.tables import KEYS, SOURCES, source_of, tables_for

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.plots.cards.card import Card

FILE = "ranking.parquet"


@dataclass(frozen=True, repr=False)
class Ranking(Carded):
    """A ranking of tensors with its selection.

    Attributes:
        table: ``rank`` (1 = first), ``layer``, ``projection``, ``name``, ``score``, ``selected``, ``numel``, and
            what the score is made of; of a control that is matched to a rule's selection ``reference_parameters``, the
            number of parameters of that.
        settings: Rule and size of the selection.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import ranking_card

        return ranking_card(self.table, self.settings)

    @property
    def selected(self) -> list[str]:
        """Names of the selected tensors, best first."""
        return self.table.loc[self.table["selected"], "name"].tolist()

    @property
    def parameters(self) -> int:
        """Number of parameters of the selected tensors."""
        return int(self.table.loc[self.table["selected"], "numel"].sum())

    def plot(self) -> "go.Figure":
        """Draw the selection by layer and projection."""
        from mastlens.plots import plot_selection

        return plot_selection(self.table)

    def plot_decomposition(self) -> "go.Figure":
        """Draw which factor of the MAST score decided.

        Raises:
            MastlensError: If the ranking is by another rule.
        """
        from mastlens.plots import plot_score_decomposition

        return plot_score_decomposition(self.table)


@takes(RankSettings)
def rank(settings: RankSettings) -> Ranking:
    """Rank tensors from the tables in ``folder``, and select.

    The rule ``auto`` is the one that found planted truth best among those whose tables are there; the card says why.
    Ties are broken by layer, then q < k < v < o. A rule about the increment puts zero increments last.

    Raises:
        MastlensError: If a table or column is missing, the rule is unknown, or ``top`` does not fit.
    """
    folder = Path(settings.folder)
    best = recommended(folder) if settings.rule == AUTO else None
    if best is not None:
        settings = replace(settings, rule=best.rule)
    recorded = settings_of(
        settings.rule,
        settings.top,
        settings.match,
        settings.seed,
        settings.parameters,
        given=settings.candidates is not None,
    )
    if best is not None:
        recorded["recommended"] = best.why
    scoring = scoring_rule(settings.rule, settings.match)
    needs = [] if scoring is None else list(scoring.needs)
    places = {name: folder / source_of(name).file for name in (*SOURCES, *needs)}
    present = {name: path for name, path in places.items() if path.is_file()}
    needed = tables_for(needs, present)
    paths = {name: places[name] for name in needed}
    for name, path in paths.items():
        if name not in present:
            raise NotFound(f"{path} is missing. Write it first: {source_of(name).command} ... --out {folder}")
    stages = read_record(folder)["stages"]
    lineage: dict[str, str] = {}
    for name in paths:
        lineage |= stages.get(source_of(name).stage, {}).get("lineage", {})
    elsewhere = None if settings.candidates is None else _matrices_of(settings.candidates, lineage)
    tables = {name: read_table(path) for name, path in paths.items()}
    if scoring is not None and scoring.of_increment and not settings.anyway:
        _above_the_floor(tables, scoring.name)
    return remembered(
        folder if settings.out is None else settings.out,
        "rank",
        outputs=[FILE],
        lineage=lineage,
        inputs=hash_inputs(paths),
        settings=recorded,
        command=settings,
        overwrite=settings.overwrite,
        compute=lambda: replace(
            select(
                tables,
                top=settings.top,
                rule=settings.rule,
                match=settings.match,
                seed=settings.seed,
                parameters=settings.parameters,
                candidates=elsewhere,
            ),
            settings=recorded,
        ),
        write=lambda result, to: write_table(to / FILE, result.table),
        read=lambda to: Ranking(read_table(to / FILE), recorded),
    )


def _above_the_floor(tables: Mapping[str, pd.DataFrame], rule: str) -> None:
    """Refuse to rank rounding: increments of which every one lies below the precision floor."""
    for name, table in tables.items():
        part = source_of(name).rows(table)
        if "note" in part and len(part) and part["note"].isin([BELOW, ZERO]).all() and (part["note"] == BELOW).any():
            raise BadSetting(
                f"{floor_sentence(part)} '{rule}' would put rounding in order. To see that order: --anyway."
            )


def select(
    tables: Mapping[str, pd.DataFrame],
    *,
    top: int | None = None,
    rule: str = "mast",
    match: str = "mast",
    seed: int = 0,
    parameters: Mapping[str, float] | None = None,
    candidates: pd.DataFrame | None = None,
) -> Ranking:
    """Rank tensors from tables in memory, and select; pure.

    Args:
        tables: ``geometry``, ``coupling`` and ``causal``, as the commands write them; those that the rule needs.
        top: How many to select; see ``rank``.
        rule: Name of the rule or control.
        match: Of a matched control: the rule whose ``top`` it is matched to.
        seed: Of random controls.
        parameters: Parameters of the rule, or of ``match``, that are not to have their default.
        candidates: Of ``mlp-matched``: the matrices it draws from, as ``weight_table`` gives them.

    Raises:
        MastlensError: If a table or column is missing, the rule is unknown, or ``top`` does not fit.
    """
    settings = settings_of(rule, top, match, seed, parameters, given=candidates is not None)
    chosen, scoring = RULES.find(rule), scoring_rule(rule, match)
    table = None if scoring is None else scored(scoring, tables, top, parameters)
    if isinstance(chosen, Control):
        table = controlled(chosen, tables, table, candidates, top, seed)
    assert table is not None  # a rule is its own scoring rule
    return Ranking(table, settings)


def weight_table(checkpoint: "str | os.PathLike[str] | Checkpoint") -> pd.DataFrame:
    """Return every weight matrix of a checkpoint, attention or not, for ``select`` to draw from.

    Columns: ``layer``, ``projection``, ``name``, ``rows``, ``cols``.

    Args:
        checkpoint: A folder, a hub id, ``organism:NAME/STAGE``, or an open checkpoint.
    """
    from mastlens.checkpoints.checkpoint import Checkpoint

    matrices = Checkpoint(checkpoint).matrices()
    return pd.DataFrame([{c: getattr(matrix, c) for c in (*KEYS, "rows", "cols")} for matrix in matrices])


def _matrices_of(checkpoint: "str | os.PathLike[str] | Checkpoint", lineage: Mapping[str, str]) -> pd.DataFrame:
    from mastlens.checkpoints.checkpoint import Checkpoint

    opened = Checkpoint(checkpoint)
    if lineage and opened.fingerprint not in lineage.values():
        raise NotTogether(
            f"{opened.spec} is none of the checkpoints that the tables were made from ({', '.join(lineage)}). "
            "--candidates takes one of these."
        )
    return weight_table(opened)


def read_selection(path: str | os.PathLike[str], fingerprint: str | None = None) -> list[str]:
    """Return the selected names of a ranking file, best first.

    Args:
        path: A ``ranking.parquet``.
        fingerprint: The RLVR checkpoint that will be edited: if the run record beside the file names another,
            the selection is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no ranking file {path}. Write it first: mastlens rank DIR --top N")
    table = read_table(path, ("name", "rank", "selected"), maker="mastlens rank")
    selected = table.loc[table["selected"].astype(bool)].sort_values("rank")["name"].tolist()
    if not selected:
        raise BadSetting(f"{path} selects nothing. Rank again with --top of 1 or more.")
    made_for = read_record(path.parent)["stages"].get("rank", {}).get("lineage", {}).get("rlvr")
    if fingerprint and made_for and made_for != fingerprint:
        raise NotTogether(
            f"{path} was made for another RLVR checkpoint ({made_for[:12]}; this one is {fingerprint[:12]})."
        )
    return selected
