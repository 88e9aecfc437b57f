"""Requests in sequence: forget sets edited out one after another, each measured again after every later one.

An edit is judged alone and lives in a row: a second request may bring back what the first took out, or cost more than
both at once. Orders differ, so they are compared.
"""

import itertools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.applying import apply_edit
from mastlens.edits.edit import FILE as EDIT_FILE
from mastlens.edits.edit import Edit
from mastlens.errors import BadSetting, NotTogether, unknown
from mastlens.evaluation.responses import evaluate
from mastlens.plots.cards.carded import Carded
from mastlens.problems.reading import read_problems
from mastlens.runs.files import remove_all_leftovers, write_table, write_text
from mastlens.statistics import paired_interval, wilson
from mastlens.unlearning.editing import unlearn

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "requests.parquet"
GIVEN, ALL = "given", "all"
AT_ONCE = "at once"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MOST = 4  # requests whose every order is run: 24


@dataclass(frozen=True, repr=False)
class Requests(Carded):
    """What requests in sequence forgot, kept, and brought back.

    Attributes:
        table: One row an order, stage and split; see ``unlearn_requests``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.requests import requests_card

        return requests_card(self.table)

    def plot(self) -> "go.Figure":
        """Draw accuracy by stage, a line a split and a panel an order."""
        from mastlens.plots.requests import plot_requests

        return plot_requests(self.table)


def unlearn_requests(
    rlvr: str | os.PathLike[str],
    requests: Mapping[str, str | os.PathLike[str]],
    splits: Mapping[str, str | os.PathLike[str]],
    *,
    orders: str = GIVEN,
    at_once: bool = True,
    out: str | os.PathLike[str] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    **unlearning: Any,
) -> Requests:
    """Unlearn several forget sets one after another, and measure all of them after each.

    Each request is an edit of what the ones before it left, with the same settings; the edits are composed, so that
    what is measured is one edit of the source. ``at_once`` edits all requests together, with as many steps as all of
    them have, for comparison. A run that was interrupted goes on in the same ``out``.

    Args:
        rlvr: The checkpoint to edit.
        requests: Name to file of problems to forget, at least two, in the order given; no problem stands in two.
        splits: Name to file of problems to test: for every request one of its name, the others are to be kept.
        orders: ``given``, or ``all`` of them.
        at_once: Whether all are edited together, too.
        out: Folder for ``requests.parquet`` and, for each order and stage, the edit, the evaluation, and the checkpoint
            that the next one edits; None for a folder that is removed.
        evaluation: Settings of ``evaluate``, such as ``max_new_tokens``.
        **unlearning: Settings of ``unlearn``: ``objective``, ``steps``, ``lr``, ``retain``, what to edit.

    Returns:
        The table: ``order``, the requests joined by " > ", or "at once"; ``stage``, how many were made; ``request``,
        the latest; ``split``; ``side``: ``forgotten`` (requested by now), ``waiting`` (requested later) or ``retain``;
        ``n``, ``accuracy`` with ``ci_low`` and ``ci_high`` (Wilson); ``change`` with ``change_low`` and
        ``change_high``, since the split was forgotten (of others, since the source), paired over the items. Of a set
        that was forgotten earlier, a change above 0 is what a later request brought back.

    Raises:
        MastlensError: If requests overlap, a split is missing, or a problem is both trained on and tested.
    """
    names = _checked(requests, splits, orders)
    for own in ("forget", "rlvr", "out"):
        if own in unlearning:
            raise BadSetting(f"{own} is given by the requests: leave it out of the settings of unlearn.")
    if "steps" not in unlearning:
        raise BadSetting("Say how many steps a request is unlearned in: steps=N, as unlearn takes it.")
    if out is None:
        with TemporaryDirectory(prefix="mastlens-requests-") as folder:
            return unlearn_requests(
                rlvr,
                requests,
                splits,
                orders=orders,
                at_once=at_once,
                out=folder,
                evaluation=evaluation,
                **unlearning,
            )
    folder, source = Path(out), Checkpoint(rlvr)
    quiet = {"progress": unlearning.get("progress", True)}
    judged = {"model": source, "splits": dict(splits), **quiet, **(evaluation or {})}
    start = evaluate(out=folder / "source", **judged).table
    tables = []
    for order in itertools.permutations(names) if orders == ALL else [tuple(names)]:
        stages = [start]
        whole: Edit | None = None
        at: str | os.PathLike[str] | Checkpoint = source
        for stage in range(1, len(order) + 1):
            place = folder / "+".join(order[:stage])  # orders that begin alike share their beginnings
            edit = unlearn(rlvr=at, forget=requests[order[stage - 1]], out=place, **unlearning).edit
            whole = edit if whole is None else whole.compose(edit)
            stages.append(evaluate(edit=whole, out=place / "evaluation", **judged).table)
            if stage < len(order):
                at = _applied(edit, at, place)
        tables.append(_rows(" > ".join(order), order, stages, splits))
    if at_once:
        place = folder / "at-once"
        together = _joined([requests[name] for name in names], place)
        longer = {"steps": unlearning["steps"] * len(names)}
        edit = unlearn(rlvr=source, forget=together, out=place, **{**unlearning, **longer}).edit
        last = evaluate(edit=edit, out=place / "evaluation", **judged).table
        tables.append(_rows(AT_ONCE, names, [start, last], splits, together=True))
    result = Requests(pd.concat(tables, ignore_index=True), {"requests": names, "orders": orders})
    write_table(folder / FILE, result.table)
    return result


def _checked(
    requests: Mapping[str, str | os.PathLike[str]], splits: Mapping[str, str | os.PathLike[str]], orders: str
) -> list[str]:
    names = list(requests)
    if len(names) < 2:
        raise BadSetting(f"A sequence has at least two requests, not {len(names)}: one is what mastlens unlearn does.")
    if orders not in (GIVEN, ALL):
        raise unknown("orders", orders, (GIVEN, ALL))
    if orders == ALL and len(names) > _MOST:
        raise BadSetting(
            f"{len(names)} requests have {math.factorial(len(names))} orders; all of them are run of {_MOST} at most."
        )
    for name in names:
        if name not in splits:
            raise BadSetting(f"The request {name!r} has no split to test it on: name one of the splits {name!r}.")
        if not _NAME.fullmatch(name):
            raise BadSetting(f"The request {name!r} names folders: letters, digits and _ . - only.")
    problems = {name: {problem.problem for problem in read_problems(path)} for name, path in requests.items()}
    tested = {name: {problem.problem for problem in read_problems(path)} for name, path in splits.items()}
    for one, other in itertools.combinations(names, 2):
        if shared := problems[one] & problems[other]:
            raise NotTogether(
                f"The requests {one!r} and {other!r} overlap: {len(shared)} problems stand in both, e.g. "
                f"{min(shared)[:80]!r}. What the second does to the first could not be told. Take them out of one."
            )
    for name, split in itertools.product(names, splits):
        if shared := problems[name] & tested[split]:
            raise NotTogether(
                f"{len(shared)} problems of the request {name!r} are also in the split {split!r}, e.g. "
                f"{min(shared)[:80]!r}: what was trained on proves nothing. Test on others."
            )
    return names


def _applied(edit: Edit, at: str | os.PathLike[str] | Checkpoint, place: Path) -> Path:
    """Return the checkpoint that an edit gives, written unless it is there."""
    written = place / "edited"
    if (written / "config.json").is_file():
        edit.check_edited(Checkpoint(written))
        return written
    return apply_edit(edit=place / EDIT_FILE, to=at, out=written)


def _joined(files: Sequence[str | os.PathLike[str]], place: Path) -> Path:
    """Return a file of all problems, in turn from each: batches are of all of them in any case."""
    problems = itertools.zip_longest(*(read_problems(path) for path in files))
    rows = [
        {"problem": one.problem, "solution": one.solution, "answer": one.answer, "subject": one.subject}
        for several in problems
        for one in several
        if one is not None
    ]
    place.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not (place / "forget.jsonl").is_file():
        write_text(place / "forget.jsonl", text)
    remove_all_leftovers(place)
    return place / "forget.jsonl"


def _rows(
    label: str,
    order: Sequence[str],
    stages: Sequence[pd.DataFrame],
    splits: Mapping[str, Any],
    *,
    together: bool = False,
) -> pd.DataFrame:
    right = [
        {str(split): part.groupby("item")["correct"].mean() for split, part in table.groupby("split", sort=False)}
        for table in stages
    ]
    rows = []
    for stage, now in enumerate(right):
        for split in splits:
            forgotten_at = 1 if together and split in order else order.index(split) + 1 if split in order else None
            side = "retain" if forgotten_at is None else "forgotten" if forgotten_at <= stage else "waiting"
            since = right[forgotten_at] if forgotten_at is not None and forgotten_at <= stage else right[0]
            items = now[split]
            share, counts = float(items.mean()), len(items)
            ends = wilson(float(items.sum()), counts)
            row = {"order": label, "stage": stage, "request": order[stage - 1] if stage and not together else ""}
            row |= {"split": split, "side": side, "n": counts, "accuracy": share}
            change = paired_interval(since[split].loc[items.index], items) if since is not now else None
            row |= {"ci_low": ends.low, "ci_high": ends.high, "change": share - float(since[split].mean())}
            row |= {"change_low": 0.0 if change is None else change.low}
            rows.append({**row, "change_high": 0.0 if change is None else change.high})
    return pd.DataFrame(rows)
