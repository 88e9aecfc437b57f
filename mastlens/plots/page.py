"""The report: one HTML file that holds everything, to be opened, mailed or printed.

The page carries plotly.js once and the data of every figure. It asks nothing of the network, and the content
policy in its head keeps it so: only the page's own scripts run, known by their hash. Whatever comes from a
table or a model is escaped: a response that contains markup shows up as text. Equal input gives equal bytes:
no date, no random identifier.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mastlens.errors import CannotWrite
from mastlens.plots.cells import escaped, table_html
from mastlens.plots.files import CONFIG
from mastlens.plots.frame import without_captions
from mastlens.plots.packing import UNPACK, packed
from mastlens.plots.page_style import CSS, SCRIPT
from mastlens.plots.response_browser import Responses, browser_html
from mastlens.plots.response_script import LOOK as BROWSER_LOOK
from mastlens.plots.response_script import SCRIPT as BROWSER_SCRIPT
from mastlens.plots.still import still
from mastlens.plots.tables import layout_of
from mastlens.runs.files import atomic_path

__all__ = ["Pair", "Section", "table_html", "write_html", "write_page"]

_NOTHING = "'none'"
_CONTENTS_FROM = 5  # sections from which a table of contents is worth its space
_PLOTLY_HEIGHT = 450  # plotly's own default, for figures that set none


@dataclass(frozen=True)
class Pair:
    """Texts of one item that are to be read beside each other; on a narrow screen, below each other.

    Attributes:
        caption: Which item it is.
        text: What all of them answer; shown once above them.
        sides: A label and a text each, such as the response before and after.
    """

    caption: str
    text: str
    sides: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes:
        heading: Its heading.
        text: Plain text; an empty line starts a new paragraph.
        figures: Figures, captioned by their own title, subtitle and note.
        tables: Tables, each with its caption.
        texts: What a model wrote, each with its caption; shown as it is, markup and all.
        responses: Responses to look through; ``texts`` and ``pairs`` are then the examples of a page without scripts
            and of paper.
        pairs: What two models wrote on the same item, side by side; shown in the same way.
        fragments: HTML that is put in as it is, each with its caption: only what a function of ``mastlens.plots``
            made, which has escaped every text in it.
    """

    heading: str
    text: str = ""
    figures: tuple[go.Figure, ...] = ()
    tables: tuple[tuple[str, pd.DataFrame], ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    pairs: tuple[Pair, ...] = ()
    responses: tuple[Responses, ...] = ()
    fragments: tuple[tuple[str, str], ...] = ()


def write_page(
    path: Path, *, title: str, question: str, verdict: str, sections: list[Section], reproduce: Mapping[str, Any]
) -> Path:
    """Write the report as one self-contained page, whole or not at all.

    Args:
        path: The HTML file to write; its folder is made when it is missing.
        title: The report's title.
        question: The question it answers, plain text.
        verdict: The answer, plain text; it stands at the top. Its first paragraph is the answer in one sentence, the
            others are what else was found.
        sections: What the answer rests on.
        reproduce: How to get the same numbers again: commands, versions, seeds, hashes. Values are shown as
            code; mappings and lists one entry a line. Keep times and dates out of it.

    Returns:
        The path.

    Raises:
        MastlensError: When the file cannot be written.
    """
    path = Path(path)
    body = [f"<h1>{escaped(title)}</h1>", f'<div class="question">{_paragraphs(question)}</div>']
    body.append(f'<div class="verdict" role="note">{_paragraphs(verdict)}</div>')
    headings = [*(section.heading for section in sections), *(["Reproduce"] if reproduce else [])]
    if len(sections) >= _CONTENTS_FROM:
        links = (f'<li><a href="#section-{i}">{escaped(name)}</a></li>' for i, name in enumerate(headings, start=1))
        body.append(f'<nav aria-label="Contents"><ol>{"".join(links)}</ol></nav>')
    number = browsers = 1
    for i, section in enumerate(sections, start=1):
        body.append(f'<section id="section-{i}">\n<h2>{escaped(section.heading)}</h2>')
        body.append(_paragraphs(section.text))
        for fig in section.figures:
            body.append(_figure(fig, number))
            number += 1
        body.extend(table_html(table, caption=caption) for caption, table in section.tables)
        body.extend(_fragment(caption, fragment) for caption, fragment in section.fragments)
        for responses in section.responses:
            body.append(browser_html(responses, f"responses-{browsers}"))
            browsers += 1
        body.extend(_said(caption, text) for caption, text in section.texts)
        body.extend(map(_pair, section.pairs))
        body.append("</section>")
    if reproduce:
        body.append(f'<section id="section-{len(headings)}">\n<h2>Reproduce</h2>\n{_reproduce(reproduce)}</section>')
    scripts = [SCRIPT % {"config": json.dumps(CONFIG)}] if number > 1 else []
    style = ""
    if browsers > 1:
        scripts.append(BROWSER_SCRIPT)
        style = BROWSER_LOOK
    whole = "\n".join(part for part in body if part)
    return write_html(path, title=title, body=whole, scripts=scripts, style=style, plotly=number > 1)


def write_html(
    path: Path, *, title: str, body: str, scripts: Sequence[str] = (), style: str = "", plotly: bool = True
) -> Path:
    """Write a page that holds everything and asks nothing of the network, whole or not at all.

    Args:
        path: The HTML file to write; its folder is made when it is missing.
        title: Its title, plain text.
        body: HTML, every text in it escaped.
        scripts: The page's own scripts.
        style: CSS behind that of all pages.
        plotly: Whether plotly's script runs before them.

    Raises:
        MastlensError: When the file cannot be written.
    """
    # A page's parser turns line ends into \n before the hash is taken.
    running = [get_plotlyjs().replace("\r\n", "\n")] * plotly + [UNPACK, *scripts] if scripts else []
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
        f"script-src {' '.join(map(_source, running)) or _NOTHING}"
    )
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{CSS}{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        # After the text, so that it can be read while the browser works through plotly.js.
        + "".join(f"<script>{script}</script>\n" for script in running)
        + "</body>\n</html>\n"
    )
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(page.encode("utf-8"))
    except OSError as error:
        raise CannotWrite(
            f"Cannot write the report {path}: {error.strerror}. Give a folder that can be written to."
        ) from error
    return path


def _source(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _paragraphs(text: str) -> str:
    parts = (part.strip("\n") for part in text.replace("\r\n", "\n").split("\n\n"))
    return "\n".join(f"<p>{escaped(part)}</p>" for part in parts if part.strip())


def _figure(fig: go.Figure, number: int) -> str:
    meta = layout_of(fig).meta
    ours = meta if isinstance(meta, dict) and "table" in meta else {}
    bare = without_captions(fig)
    height = int(layout_of(bare).height or _PLOTLY_HEIGHT)
    name = f"figure-{number}"
    label = f"Figure {number}. {ours.get('title', '')}".strip()
    caption = f"<strong>Figure {number}.</strong> {escaped(ours.get('title', ''))}"
    if ours.get("subtitle"):
        caption += f'<span class="sub">{escaped(ours["subtitle"])}</span>'
    note = f'<p class="note">{escaped(ours["note"])}</p>\n' if ours.get("note") else ""
    button = f'<button type="button" data-table="{name}" hidden>Data of this figure (CSV)</button>'
    tools = f'<div class="tools">{button}</div>\n' if ours else ""
    # Stands there before plotly's script has run, at the places where the live figure will be.
    waiting = still(bare, name, label) or "This figure needs JavaScript."
    return (
        f'<figure class="figure">\n<figcaption>{caption}</figcaption>\n<div class="scroll">'
        f'<div id="{name}-plot" data-figure="{name}" role="group" aria-label="{escaped(label)}" '
        f'style="height:{height}px;'
        f'min-width:{int(ours.get("min_width", 320))}px">{waiting}</div></div>\n'
        f"{note}{tools}"
        f"{packed(name, json.loads(str(bare.to_json())))}\n</figure>"
    )


def _said(caption: str, text: str) -> str:
    return f'<figure class="said">\n<figcaption>{escaped(caption)}</figcaption>\n{_verbatim(text)}\n</figure>'


def _pair(pair: Pair) -> str:
    sides = "\n".join(
        f'<div><div class="side">{escaped(label)}</div>\n{_verbatim(text)}</div>' for label, text in pair.sides
    )
    question = f"{_verbatim(pair.text)}\n" if pair.text else ""
    return (
        f'<figure class="said">\n<figcaption>{escaped(pair.caption)}</figcaption>\n{question}'
        f'<div class="pair">\n{sides}\n</div>\n</figure>'
    )


def _verbatim(text: str) -> str:
    shown = text.replace("\r\n", "\n")
    # The parser drops a line end right after <pre>; one more keeps the text's own.
    return f'<pre dir="auto" tabindex="0">\n{escaped(shown)}</pre>'


def _fragment(caption: str, fragment: str) -> str:
    return (
        f'<figure class="fragment">\n<figcaption>{escaped(caption)}</figcaption>\n'
        f'<div class="scroll" tabindex="0">\n{fragment}\n</div>\n</figure>'
    )


def _reproduce(entries: Mapping[str, Any]) -> str:
    return (
        "<dl>\n" + "".join(f"<dt>{escaped(key)}</dt>\n{_entry(value)}\n" for key, value in entries.items()) + "</dl>\n"
    )


def _entry(value: Any) -> str:
    if isinstance(value, Mapping):
        lines = [f"{key}: {_line(item)}" for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        lines = [_line(item) for item in value]
    else:
        lines = [_line(value)]
    text = escaped("\n".join(lines))
    return f"<dd><pre>\n{text}</pre></dd>"


def _line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
