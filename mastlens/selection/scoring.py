"""From rules to rankings: what is asked for is checked, tables are scored, controls are drawn."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd

from mastlens.errors import BadSetting, unknown
from mastlens.registry import code_digest
from mastlens.selection.catalogue import RULES
from mastlens.selection.rule import Control, Pool, Rule
from mastlens.selection.tables import KEYS, in_order, join


def settings_of(
    rule: str, top: int | None, match: str, seed: int, parameters: Mapping[str, float] | None, *, given: bool
) -> dict[str, Any]:
    """Return what decides the result and nothing else, or refuse what does not fit together."""
    chosen, scoring = RULES.find(rule), scoring_rule(rule, match)
    settings: dict[str, Any] = {"rule": rule, "top": top}
    if code := {one.name: digest for one in (chosen, scoring) if one and (digest := code_digest(_function(one)))}:
        settings["code"] = code
    if isinstance(chosen, Control):
        if chosen.matched:
            settings["match"] = match
        if chosen.seeded:
            settings["seed"] = seed
        if not chosen.counted:
            settings["top"] = None
    if seed < 0:
        raise BadSetting(f"A seed is 0 or more, not {seed}.")
    elsewhere = isinstance(chosen, Control) and chosen.elsewhere
    if elsewhere and not given:
        raise BadSetting(f"'{rule}' draws from matrices that are in no table. Say whose: --candidates PATH.")
    if given and not elsewhere:
        raise BadSetting(f"'{rule}' takes its tensors from the tables: leave --candidates out.")
    known = {} if scoring is None else scoring.parameters
    for name in parameters or {}:
        if name not in known:
            whose = f"rule '{rule if scoring is None else scoring.name}'"
            raise unknown("parameter", name, known or ["none"], of=whose)
    if known:
        settings["parameters"] = {**known, **(parameters or {})}
    counted = chosen.counted if isinstance(chosen, Control) else True
    if scoring is not None and scoring.passes is not None:
        counted = False
    if counted and settings["top"] is None:
        raise BadSetting(f"'{rule}' has no cut of its own. Say how many to select: --top N.")
    return settings


def scoring_rule(rule: str, match: str) -> Rule | None:
    """Return the rule that scores: the one named, the one a control is matched to, or none."""
    chosen = RULES.find(rule)
    if isinstance(chosen, Rule):
        return chosen
    if not chosen.matched:
        return None
    reference = RULES.find(match)
    if not isinstance(reference, Rule):
        raise unknown("rule to match", match, [name for name, one in RULES.items() if isinstance(one, Rule)])
    return reference


def _function(one: Rule | Control) -> Callable[..., Any]:
    """Return the function that decides a rule's ranking."""
    function = one.score if isinstance(one, Rule) else one.draw
    return function.func if isinstance(function, partial) else function


def scored(
    rule: Rule, tables: Mapping[str, pd.DataFrame], top: int | None, parameters: Mapping[str, float] | None
) -> pd.DataFrame:
    """Return a rule's ranking, its first ``top`` selected; without ``top`` what passes its own cut.

    Args:
        rule: The rule.
        tables: As for ``select``.
        top: How many to select; None for the rule's own cut.
        parameters: Those that are not to have their default.

    Raises:
        MastlensError: If the tables do not fit, or ``top`` does not, or nothing passes.
    """
    table = join(tables, rule.needs, rule=rule.name)
    if rule.of_increment and table["delta_norm"].max() == 0:
        raise BadSetting("Every increment is zero: SFT and RLVR have the same weights there.")
    settings = {**rule.parameters, **(parameters or {})}
    score = rule.score(table, **settings)
    if score.isna().any():
        name = table["name"][score.isna()].iloc[0]
        raise BadSetting(f"Rule '{rule.name}' gives no number for {name}: there is a NaN in its tables.")
    if rule.terms is not None:
        terms = rule.terms(table)
    else:
        terms = table[list(dict.fromkeys(column for columns in rule.needs.values() for column in columns))]
    ranked = table[[*KEYS, "numel"]].assign(score=score, **{str(c): terms[c] for c in terms})
    if rule.passes is not None:
        ranked["passes"] = rule.passes(table, **settings)
    ranked = _ranked(ranked.assign(selected=False), last=table["delta_norm"] == 0 if rule.of_increment else None)
    if top is None:
        ranked["selected"] = ranked["passes"]
        if not ranked["selected"].any():
            raise BadSetting(
                f"No tensor passes the thresholds of '{rule.name}' ({settings}); they do not carry over from one "
                "model to another. Set others with --parameter NAME=VALUE, or take the first N with --top N."
            )
        return ranked
    _check_top(top, len(ranked))
    return ranked.assign(selected=ranked["rank"] <= top)


def controlled(
    control: Control,
    tables: Mapping[str, pd.DataFrame],
    reference: pd.DataFrame | None,
    candidates: pd.DataFrame | None,
    top: int | None,
    seed: int,
) -> pd.DataFrame:
    """Return a control's candidates, those drawn first.

    Args:
        control: The control.
        tables: As for ``select``.
        reference: The ranking it is matched to; None for a control that is matched to none.
        candidates: What it draws from, where that is in no table.
        top: How many, of a control that is matched to none.
        seed: Of the draw.

    Raises:
        MastlensError: If the tables or ``top`` do not fit, or nothing can be drawn.
    """
    if candidates is not None:
        drawn = candidates.assign(numel=candidates["rows"] * candidates["cols"])
    elif reference is not None:
        drawn = reference
    else:
        drawn = join(tables, {}, rule=control.name)
        if control.counted:
            _check_top(top or 0, len(drawn))
    pool = Pool(in_order(drawn[[*KEYS, "numel"]]), pd.DataFrame() if reference is None else reference, top or 0, seed)
    table = _ranked(control.draw(pool))
    if reference is not None:
        table["reference_parameters"] = int(reference.loc[reference["selected"], "numel"].sum())
    return table


def _check_top(top: int, count: int) -> None:
    if not 1 <= top <= count:
        raise BadSetting(f"--top {top} does not fit: there are {count} tensors, choose 1 to that.")


def _ranked(table: pd.DataFrame, last: pd.Series | None = None) -> pd.DataFrame:
    """Return rows in order, the highest score first; rows that are equal in it stay in the order they have."""
    ordered = table.assign(last=False if last is None else last)
    ordered = ordered.sort_values(["last", "score"], ascending=[True, False], kind="stable", ignore_index=True)
    ordered["rank"] = range(1, len(ordered) + 1)
    first = ["rank", *KEYS, "score", "selected", "numel"]
    return ordered[[*first, *(c for c in table if c not in first)]]
