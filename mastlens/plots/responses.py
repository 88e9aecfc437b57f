"""Items lost and gained with both responses side by side, as text."""

from collections.abc import Sequence

import pandas as pd

from mastlens.plots.cells import escaped
from mastlens.plots.figure import TextFigure
from mastlens.plots.frame import count
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, records, take, where, words
from mastlens.plots.template import GREEN, INK, MUTED, PAPER, RULE, VERMILLION

_COLUMNS = ("split", "item", "before", "after", "prompt", "gold", "response_before", "response_after")
_CHANGES = {"lost": VERMILLION, "gained": GREEN, "kept": "#7FA8C2", "wrong": "#AEB6BF"}
_CELL = f"flex:1 1 16rem;min-width:0;padding:8px 10px;border-left:3px solid {{colour}};background:{PAPER}"
_TEXT = "margin:4px 0 0;white-space:pre-wrap;overflow-wrap:anywhere;font:.85rem/1.5 ui-monospace,Consolas,monospace"


@honest
def item_responses_html(
    items: pd.DataFrame,
    *,
    changes: Sequence[str] = ("lost", "gained"),
    splits: Sequence[str] | None = None,
    limit: int = 6,
) -> TextFigure:
    """Return problems with the responses before and after side by side; below each other where there is no room.

    Everything a model wrote is escaped. The fragment brings its styles with it and needs no script.

    Args:
        items: The items of a comparison (``mastlens compare``): ``split``, ``item``, ``before``, ``after`` (whether
            it was right, or the share of samples that was), ``prompt``, ``gold``, ``response_before`` and
            ``response_after``.
        changes: Which items: ``lost``, ``gained``, ``kept`` (right both times), ``wrong`` (both times).
        splits: Which splits; all by default.
        limit: How many of each change and split, the first ones; the heading says how many there are.
    """
    need(items, _COLUMNS, figure="item_responses_html", writer="mastlens compare")
    drawn = take(items, _COLUMNS)
    drawn["change"] = [
        _change(float(was), float(now)) for was, now in zip(drawn["before"], drawn["after"], strict=True)
    ]
    blocks, kept = [], []
    for split in splits or distinct(drawn, "split"):
        for change in changes:
            chosen = pd.Series(words(drawn, "split")).eq(split) & pd.Series(words(drawn, "change")).eq(change)
            part = where(drawn, chosen)
            shown = part.head(limit)
            kept.append(shown)
            heading = f"{escaped(split)}: {count(len(part), 'item')} {change}"
            heading += f", the first {len(shown)} of them" if len(shown) < len(part) else ""
            blocks.append(f'<h4 style="margin:20px 0 8px;font-size:1rem">{heading}</h4>\n')
            blocks += [_item(row, _CHANGES[change]) for row in records(shown)]
    said = "Responses before and after, side by side"
    html = (
        f'<figure class="responses" style="margin:0;color:{INK};background:{PAPER}">\n'
        f"<figcaption><strong>{said}</strong></figcaption>\n{''.join(blocks)}</figure>\n"
    )
    return TextFigure(html, pd.concat(kept, ignore_index=True) if kept else drawn.iloc[:0])


def _change(before: float, after: float) -> str:
    if after != before:
        return "lost" if after < before else "gained"
    return "kept" if after > 0 else "wrong"


def _item(row: dict[str, object], colour: str) -> str:
    cells = "".join(
        f'<div style="{_CELL.format(colour=line)}"><span style="color:{MUTED}">{when}: {_grade(row[when])}</span>'
        f'<div style="{_TEXT}">{escaped(str(row[f"response_{when}"]))}</div></div>'
        for when, line in (("before", "#AEB6BF"), ("after", colour))
    )
    prompt = f'<div style="{_TEXT}">{escaped(str(row["prompt"]).strip())}</div>'
    return (
        f'<div style="margin:0 0 14px;padding:10px 12px;border:1px solid {RULE};border-radius:4px">'
        f'<span style="color:{MUTED}">item {escaped(str(row["item"]))}, gold answer {escaped(str(row["gold"]))}</span>'
        f'{prompt}<div style="display:flex;flex-wrap:wrap;gap:8px;margin-top:8px">{cells}</div></div>\n'
    )


def _grade(right: object) -> str:
    share = float(right)  # pyright: ignore[reportArgumentType] - a truth value or a share
    return "right" if share == 1 else "wrong" if share == 0 else f"{share:.0%} of the samples right"
