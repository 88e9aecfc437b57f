"""Reasoning traces as text, every sentence coloured by what it reveals."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mastlens.errors import BadSetting, UnknownName, unknown
from mastlens.plots.cells import escaped
from mastlens.plots.figure import TextFigure
from mastlens.plots.frame import count
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, numbers, records, rows_with, where
from mastlens.plots.template import INK, MUTED, PAPER
from mastlens.plots.trace_categories import CATEGORIES

_COLUMNS = ("split", "item", "category", "reason", "prompt", "sentences", "sentence_categories", "answer", "gold")


@honest
def trace_text_html(
    traces: pd.DataFrame, *, split: str | None = None, items: Sequence[int] = (0,), sample: int = 0
) -> TextFigure:
    """Return traces as an HTML fragment, every sentence coloured by its category.

    A judge that reads a trace as a whole gives all its sentences one category. All text is escaped. The fragment brings
    its styles with it and needs no script.

    Args:
        traces: ``trace_judgements.parquet``.
        split: Which split; by default the first.
        items: Which items of it, counted from 0.
        sample: Which response, where there are several an item.

    Raises:
        MastlensError: For a split or item that the table does not have.
    """
    need(traces, _COLUMNS, figure="trace_text_html", writer="mastlens evaluate-traces")
    splits = distinct(traces, "split")
    split = splits[0] if split is None else split
    if split not in splits:
        raise unknown("split", split, splits)
    chosen = rows_with(traces, "split", split)
    if "sample" in chosen:
        chosen = where(chosen, numbers(chosen, "sample") == sample)
    rows = {int(row["item"]): row for row in records(chosen)}
    if not items:
        raise BadSetting("trace_text_html was given no items to show.")
    if missing := [item for item in items if item not in rows]:
        raise UnknownName(
            f"Split {split} has no item {missing[0]} with a sample {sample}; its {count(len(rows), 'item')} begin at "
            f"{min(rows, default=0)}."
        )
    legend = "".join(
        f'<span style="{_style(category)};padding:0 6px">{category} {escaped(meaning)}</span>'
        for category, (meaning, _) in CATEGORIES.items()
    )
    body = "".join(_block(item, rows[item]) for item in items)
    page = (
        f'<figure class="traces" style="margin:0;color:{INK};background:{PAPER}">\n'
        f"<figcaption>{escaped(split)}: what each sentence reveals</figcaption>\n"
        f'<p style="display:flex;flex-wrap:wrap;gap:8px;margin:4px 0 16px">{legend}</p>\n{body}</figure>\n'
    )
    shown = [
        {"split": split, "item": item, "sentence": str(text), "category": str(category)}
        for item in items
        for text, category in zip(rows[item]["sentences"], rows[item]["sentence_categories"], strict=True)
    ]
    return TextFigure(page, pd.DataFrame(shown, columns=["split", "item", "sentence", "category"]))


def _block(item: int, row: dict[str, Any]) -> str:
    sentences = "".join(
        _sentence(str(text), str(category))
        for text, category in zip(row["sentences"], row["sentence_categories"], strict=True)
    )
    said = f"item {item}: {row['category']}"
    if str(row["reason"]):
        said += f", {row['reason']}"
    answer = str(row["answer"]).strip() or "no answer"
    mark = "right" if row.get("correct") else "wrong"
    return (
        f'<p style="margin:0 0 4px;color:{MUTED}">{escaped(said)}</p>\n'
        f'<details style="margin:0 0 6px;color:{MUTED}"><summary>the prompt</summary>'
        f'<pre style="white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0">{escaped(row["prompt"])}</pre>'
        "</details>\n"
        f'<p style="margin:0 0 4px;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7">'
        f"{sentences or 'no text'}</p>\n"
        f'<p style="margin:0 0 20px;overflow-wrap:anywhere">answer: <b>{escaped(answer)}</b> '
        f'<span style="color:{MUTED}">({mark}; gold {escaped(row["gold"])})</span></p>\n'
    )


def _sentence(text: str, category: str) -> str:
    body = text.rstrip()
    behind = text[len(body) :]  # white space between sentences stays white
    if category not in CATEGORIES:
        return f'<span title="{escaped(category)}">{escaped(body)}</span>{escaped(behind)}'
    said = f"{category}: {CATEGORIES[category][0]}"
    return f'<span style="{_style(category)}" title="{escaped(said)}">{escaped(body)}</span>{escaped(behind)}'


def _style(category: str) -> str:
    colour = CATEGORIES[category][1]
    if category == "C1":
        return f"color:{INK};border-bottom:2px solid {colour}"
    return f"background:{colour};color:{PAPER if category == 'C4' else INK};border-radius:2px"
