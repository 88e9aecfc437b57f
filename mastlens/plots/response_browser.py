"""Responses to look through in a page: lost, gained or same, by split and subject, searched, with their differences.

The page gets the shell and the texts, packed, so that thousands of responses take little room; the script puts texts in
as text. Without a script the page shows the examples that stand below.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mastlens.plots.cells import escaped, visible
from mastlens.plots.packing import packed
from mastlens.plots.tables import need, words

_ASKED = ("split", "item", "prompt", "gold")
_TWO = (*_ASKED, "before", "after", "response_before", "response_after")
_ONE = (*_ASKED, "correct", "response")


@dataclass(frozen=True)
class Responses:
    """Responses that are to be looked through.

    Attributes:
        caption: What they are.
        table: One row an item. Of two evaluations the items of a comparison: ``split``, ``item``, ``prompt``, ``gold``,
            ``before``, ``after`` (whether it was right, or the share of samples that was), ``response_before`` and
            ``response_after``; of one, ``correct`` and ``response`` in place of these four. ``subject`` is optional.
    """

    caption: str
    table: pd.DataFrame


def browser_html(responses: Responses, name: str) -> str:
    """Return the shell of a browser with its data; ``SCRIPT`` brings it to life.

    Args:
        responses: What to look through.
        name: An identifier, unique in the page.

    Raises:
        MastlensError: If a column is missing.
    """
    return (
        f'<div class="browser" data-responses="{name}" role="group" aria-label="{escaped(responses.caption)}" hidden>'
        f'<p class="browser-caption">{escaped(responses.caption)}</p></div>\n'
        f"{packed(name, _data(responses.table))}"
    )


def _data(table: pd.DataFrame) -> dict[str, Any]:
    """Return what the script reads; a response after that is the one before is not written twice."""
    two = "response_before" in table
    need(table, _TWO if two else _ONE, figure="The browser of responses", writer="mastlens evaluate and compare")
    old = _texts(table, "response_before" if two else "response")
    new = _texts(table, "response_after") if two else old
    grades = [[float(right) for right in table[column]] for column in (("before", "after") if two else ("correct",))]
    samples = words(table, "sample") if "sample" in table and table["sample"].nunique() > 1 else [""] * len(table)
    items = [
        f"{item}, sample {sample}" if sample else item
        for item, sample in zip(words(table, "item"), samples, strict=True)
    ]
    return {
        "sides": ["before", "after"] if two else [""],
        "split": words(table, "split"),
        "item": [visible(item) for item in items],
        "subject": _texts(table, "subject") if "subject" in table else [""] * len(table),
        "gold": _texts(table, "gold"),
        "prompt": [text.strip() for text in _texts(table, "prompt")],
        "grades": grades,
        "responses": [old, *([[None if a == b else b for a, b in zip(old, new, strict=True)]] if two else [])],
    }


def _texts(table: pd.DataFrame, column: str) -> list[str]:
    return ["" if value is None or value is pd.NA or value != value else visible(value) for value in table[column]]
