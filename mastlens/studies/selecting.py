"""From a selection's name in the study file to the tensors that its arms edit, and what has to be measured for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastlens.analysis.causal.causal_map import causal_map
from mastlens.analysis.coupling.coupling import couple
from mastlens.analysis.increments.geometry import geometry
from mastlens.analysis.scores.scored import score
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import unknown
from mastlens.organisms.planted import planted_truth
from mastlens.runs.reading import read_table
from mastlens.selection import RULES, Control, Rule, select, weight_table
from mastlens.selection.tables import SCORED, SOURCES
from mastlens.selection.tensors import select_tensors
from mastlens.studies.settings import FORGET, RETAIN, SelectionSettings, StudySettings

EVERYTHING = "all-parameters"
"""The selection of every weight matrix; it needs no table of its own."""


@dataclass(frozen=True)
class Selected:
    """What one selection, or one random draw of it, edits.

    Attributes:
        label: The selection's name in the study file.
        rule: The rule or control behind it; empty where there is none.
        draw: Of a random selection, from 1; 0 otherwise.
        names: The matrices.
    """

    label: str
    rule: str
    draw: int
    names: tuple[str, ...]


def selection_settings(settings: StudySettings, label: str) -> SelectionSettings:
    """Return what a selection's name stands for: a table of the study file, a rule or control, or everything.

    Raises:
        MastlensError: If it is none of them.
    """
    if label in settings.selections:
        return settings.selections[label]
    if label == EVERYTHING:
        return SelectionSettings(all_parameters=True)
    if label in RULES:
        return SelectionSettings(rule=label)
    raise unknown("selection", label, [*settings.selections, EVERYTHING, *RULES])


def is_random(selection: SelectionSettings) -> bool:
    """Return whether a selection is drawn, so that one draw says little."""
    rule = RULES.get(selection.rule or "")
    return isinstance(rule, Control) and rule.seeded


def check_selections(settings: StudySettings) -> None:
    """Raise for a selection that no arm could be made of, before anything is measured.

    Raises:
        MastlensError: With the nearest valid names.
    """
    for label in _labels(settings):
        selection = selection_settings(settings, label)
        if selection.rule is not None and selection.rule not in RULES:
            raise unknown(f"rule (selection '{label}')", selection.rule, RULES)
        if selection.match not in RULES:  # by name: a study comes from anywhere, and no file that it names is run
            raise unknown(f"match (selection '{label}')", selection.match, RULES)


def measure_tables(settings: StudySettings, out: Path, *, device: str, overwrite: bool, progress: bool) -> None:
    """Run the analyses that the study's rules read, each a stage of ``out``.

    Gradients see the training files only: the causal map, too, reads these.
    """
    needs: dict[str, set[str]] = {}
    for label in _labels(settings):
        for table, columns in _needs(selection_settings(settings, label)).items():
            needs.setdefault(table, set()).update(columns)
    if not needs:
        return
    lineage = settings.lineage
    files = {"forget": settings.train[FORGET], "retain": settings.train[RETAIN]}
    common: dict[str, Any] = {"out": out, "overwrite": overwrite, "progress": progress, "where": settings.candidates}
    geometry(base=lineage.base, sft=lineage.sft, rlvr=lineage.rlvr, rank=settings.rank, **common)
    pair: dict[str, Any] = {"sft": lineage.sft, "rlvr": lineage.rlvr, **files, "device": device, "dtype": "float32"}
    pair["chat_template"] = settings.decoding.chat_template
    if "coupling" in needs:
        fisher = any(column.endswith("_fisher") for column in needs["coupling"])
        couple(fisher=fisher, spectrum=False, **pair, **common)
    if "causal" in needs:
        causal_map(both_directions=False, **pair, **common)
    for table in needs:
        if table.startswith(SCORED):
            score(table.removeprefix(SCORED), **pair, **common)


def resolve(
    settings: StudySettings, label: str, out: Path, checkpoint: Checkpoint, *, draws: int, seed: int
) -> list[Selected]:
    """Return the tensors of a selection, one entry a draw.

    Draw number d has the seed ``1000 * seed + d`` in every comparison: objectives and seeds meet the same draws.

    Args:
        settings: The study.
        label: The selection's name.
        out: Where the analyses' tables are.
        checkpoint: The checkpoint to edit.
        draws: How many, of a random selection.
        seed: Of the study.
    """
    selection = selection_settings(settings, label)
    if selection.planted:
        return [Selected(label, "", 0, tuple(planted_truth(checkpoint.folder.parent)))]
    if selection.rule is None:
        names = select_tensors(
            checkpoint, where=selection.where, all_parameters=selection.all_parameters, names=selection.names
        )
        return [Selected(label, "", 0, tuple(names))]
    tables = {name: read_table(out / s.file) for name, s in SOURCES.items() if (out / s.file).is_file()}
    if selection.among is not None:
        tables = {name: table[table["name"].str.contains(selection.among)] for name, table in tables.items()}
    rule = RULES[selection.rule]
    elsewhere = isinstance(rule, Control) and rule.elsewhere
    numbers = range(1, draws + 1) if is_random(selection) else [0]
    return [
        Selected(
            label,
            selection.rule,
            number,
            tuple(
                select(
                    tables,
                    top=settings.top if selection.top is None else selection.top,
                    rule=selection.rule,
                    match=selection.match,
                    seed=1000 * seed + number,
                    parameters=selection.parameters or None,
                    candidates=weight_table(checkpoint) if elsewhere else None,
                ).selected
            ),
        )
        for number in numbers
    ]


def _labels(settings: StudySettings) -> Iterable[str]:
    groups = [part.selections for part in (*settings.compare, *settings.negate)]
    return dict.fromkeys(label for group in groups for label in group)


def _needs(selection: SelectionSettings) -> Mapping[str, tuple[str, ...]]:
    """Return table to columns of what a selection reads; the geometry gives the shapes to draw from."""
    if selection.rule is None:
        return {}
    rule = RULES[selection.rule]
    if isinstance(rule, Control) and rule.matched:
        rule = RULES.get(selection.match, rule)
    return {"geometry": (), **(rule.needs if isinstance(rule, Rule) else {})}
