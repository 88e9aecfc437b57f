"""Writes ``reference/`` from the code: nothing there is written by hand, and nothing there is kept in the repository.

python docs/generate.py [FOLDER]        # docs/reference by default; `make docs` does it by itself
"""

import argparse
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import mastlens
from mastlens.columns import Column, Table

ROOT = Path(__file__).resolve().parents[1]
OWNED = ("reference", "notebooks", "results/tables", "results/cards")
"""Folders that hold nothing but what is written here."""
NOTE = "<!-- Written by docs/generate.py: change what it reads, not this page. -->\n\n"

ROOMS = {
    "checkpoints": "Checkpoints and lineages",
    "architectures": "Architectures",
    "problems": "Problems",
    "models": "Hooked models",
    "decoding": "Decoding",
    "analysis": "Increments, coupling, causal maps, trajectories",
    "selection": "Rankings and selections",
    "edits": "Edits",
    "unlearning": "Unlearning",
    "evaluation": "Evaluation",
    "statistics": "Power, seeds and samples",
    "attacks": "Attacks",
    "organisms": "Organisms",
    "studies": "Studies",
    "estimating": "Estimates",
    "explorer": "Explorer",
    "reporting": "Reports and the demo",
    "columns": "Columns",
    "paper": "Figures of the paper",
    "errors": "Errors",
}
"""Room to the title of its page of the Python API, in the order of the method."""


def cell(text: object) -> str:
    """Return a text as it stands in one cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Render a Markdown table; cells are escaped by who makes them."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def architectures() -> str:
    """Return the page of tested architectures."""
    from mastlens.architectures.catalogue import architecture_table

    return (
        "# Architectures\n\nThose below are tested against the real model classes. Any other that transformers knows "
        "and that stores q, k, v and o apart works by its names and shapes. For the rest, "
        "{py:func}`mastlens.register_architecture` takes a mapping, and the error shows it "
        "([how](../extending/architecture.md)).\n\n" + architecture_table() + "\n"
    )


PARTS = {
    "increments": "Increments: geometry, agreement, trajectories",
    "mechanism": "Mechanism: coupling, causal maps, tokens",
    "unlearning": "Rankings and unlearning",
    "evaluation": "Evaluation",
    "depth": "Unlearning depth",
    "metrics": "Metrics of unlearning",
    "attacks": "Attacks",
    "studies": "Demo and studies",
}
"""Module of ``mastlens.columns`` to the title of its page."""


def columns() -> Iterator[tuple[str, str]]:
    """Yield file and text of the pages of columns, one a part of the method."""
    listed = []
    for part, title in PARTS.items():
        tables = import_module(f"mastlens.columns.{part}").TABLES
        listed.append(f"- [{title}]({part}.md): " + ", ".join(f"`{_shown(one)}`" for one in tables) + "\n")
        yield f"reference/columns/{part}.md", f"# {title}\n\n" + "\n".join(map(_columns_of, tables))
    yield (
        "reference/columns/index.md",
        "# Columns\n\nEvery table that a command writes, with the meaning, unit, null and source of its columns. "
        "{py:func}`mastlens.describe_columns` returns the same as a table. They are declared in `mastlens/columns`, "
        "and a test compares them with what the commands write.\n\n`weight` is the unit of the parameters themselves; "
        "logarithms are natural; shares and accuracies are fractions.\n\n"
        + "".join(listed)
        + "\n```{toctree}\n:hidden:\n\n"
        + "\n".join(PARTS)
        + "\n```\n",
    )


def _shown(one: Table) -> str:
    return one.file or "compare"


def _columns_of(one: Table) -> str:
    """Return a table's section. What stands beside a measure (null, interval, twin) is told in its row."""
    names = {column.name for column in one.columns}
    beside = {name for name in names if any(f"{other}{end}" == name for other in names for end in BESIDE)}
    twins = {name for name in names if name.startswith("retain_") and name.replace("retain_", "forget_") in names}
    rows = [_column_row(column, one) for column in one.columns if column.name not in beside | twins]
    written = ", ".join(_command_link(command) for command in one.command.split(", "))
    about = f"Written by {written}" + (f" ({_option(one.when)})" if one.when else "") + f"; a row is {one.rows}."
    about += " `retain_...`: the same of the retain side." if twins else ""
    return f"## `{_shown(one)}`\n\n{about}\n\n" + table(["column", "meaning"], rows)


BESIDE = ("_null", "_z", "_distinguishable", "_low", "_high")
"""Ends of the names of columns that belong to another one."""


def _column_row(column: Column, one: Table) -> list[str]:
    others = {other.name: other for other in one.columns}
    name, meaning, null = f"`{column.name}`", cell(column.meaning), column.null
    for end in BESIDE:
        if f"{column.name}{end}" in others:
            name += f"<br>`{end}`"
    if f"{column.name}_null" in others:
        null = others[f"{column.name}_null"].meaning.removeprefix("what chance gives: ")
    if f"{column.name}_low" in others:
        meaning += cell(others[f"{column.name}_low"].meaning.partition("`,")[2].join(["; 95 % interval:", ""]))
    if column.when:
        meaning += f" ({_option(column.when)})"
    told = {"Unit": column.unit, "Null": null, "Source": column.source}
    said = " · ".join(f"{key}: {cell(text)}" for key, text in told.items() if text)
    return [name, meaning + (f"<br><small>{said}</small>" if said else "")]


def _command_link(command: str) -> str:
    """Return a command with a link to its options; what stands behind its name is not part of its heading."""
    if command.startswith("mastlens."):  # a function that no command stands for
        return f"{{py:func}}`{command}`"
    name = " ".join(command.split(" --")[0].split()[:2])
    return f"[`{command}`](../command-line.md#{name.replace(' ', '-')})"


def _tables_of(function: str) -> str:
    """Return links to the tables that the command of a function's name writes; nothing for other functions."""
    command = f"mastlens {function.replace('_', '-')}"
    found = [
        f"[`{_shown(one)}`](../columns/{part}.md#{_shown(one).replace('.', '').lower()})"
        for part in PARTS
        for one in import_module(f"mastlens.columns.{part}").TABLES
        if command in one.command.split(", ")
    ]
    return f"\nIts tables, column by column: {', '.join(found)}.\n" if found else ""


def _option(text: str) -> str:
    return f"with `{text}`" if text.startswith("--") else text


def rules() -> str:
    """Return the page of rules and controls."""
    from mastlens.selection import describe_rules

    parts = [
        "# Rules and controls\n\nA rule scores tensors from the tables of a run; a control is a selection that no "
        "score decides, to hold a rule's against. `mastlens rank DIR --rule NAME`; {py:func}`mastlens.describe_rules` "
        "returns these tables. [How to add one](../extending/rule.md).\n"
    ]
    described = describe_rules()
    for kind, title in (("rule", "Rules"), ("control", "Controls")):
        rows = described[described["kind"] == kind]
        header = ["`--rule`", "what ranks first" if kind == "rule" else "what it selects", "needs", "source"]
        said = [
            [
                f"`{row.rule}`",
                cell(row.summary) + (f" (`{row.parameters}`)" if row.parameters else ""),
                row.needs,
                row.source,
            ]
            for row in rows.itertuples(index=False)
        ]
        parts.append(f"\n## {title}\n\n" + table(header, said))
    return "".join(parts)


def recipes() -> str:
    """Return the page of RLVR recipes."""
    from mastlens.organisms.rlvr import describe_recipes
    from mastlens.organisms.rlvr.recipe import ADVANTAGES, LOSSES

    described = describe_recipes()
    words = [[f"`{word}`", cell(meaning)] for word, meaning in {**ADVANTAGES, **LOSSES}.items()]
    rows = [[f"`{row.recipe}`", cell(row.summary), *map(str, row[3:8])] for row in described.itertuples(index=False)]
    return (
        "# Recipes\n\nHow RLVR is done: `mastlens organism build NAME --recipe R` "
        "([what that means](../recipes.md)); {py:func}`mastlens.describe_recipes` returns this table. "
        "[How to add one](../extending/recipe.md).\n\n"
        + table(["`--recipe`", "what it does", "advantage", "loss", "clip", "beta", "updates", "source"], rows)
        + "\nWords of `advantage` and `loss`:\n\n"
        + table(["word", "meaning"], words)
    )


def objectives() -> str:
    """Return the page of unlearning objectives, and each one's coefficients."""
    from mastlens.unlearning.objectives.describing import describe_coefficients, describe_objectives

    described, coefficients = describe_objectives(), describe_coefficients()
    shown = ("summary", "needs", "presets", "source")
    parts = [
        "# Objectives\n\n`mastlens unlearn --objective NAME`. The total loss is gamma × forget + retain_weight × "
        "retain; objectives on activations have more terms. {py:func}`mastlens.describe_objectives` returns this "
        "table. [How to add one](../extending/objective.md).\n\n",
        table(
            ["`--objective`", "what it does", "needs", "presets", "source"],
            [
                [f"[`{row['objective']}`](#{row['objective']})", *(cell(row[key]) for key in shown)]
                for row in described.to_dict("records")
            ],
        ),
        "\n`mast`, `open-unlearning`, `paper` and `release` are presets (`--preset`): a source's coefficients. Needs: "
        "reference (log-probabilities before unlearning), before (whole distributions or activations), retain "
        "(problems to keep), alternatives (refusals), traces (`mastlens traces`), cot (chains of thought to keep).\n",
    ]
    header = ["coefficient", "default", "meaning", "unit", "source", "presets"]
    for name, rows in coefficients.groupby("objective", sort=False):
        cells = [[f"`{row.coefficient}`", *map(cell, row[2:])] for row in rows.itertuples(index=False)]
        parts.append(f"\n## {name}\n\n" + table(header, cells))
    return "".join(parts)


def attacks() -> str:
    """Return the page of attacks."""
    from mastlens.attacks import FORMATS, describe_attacks

    rows = [
        [f"`{row.attack}`", cell(row.summary), cell(row.uses), cell(row.settings), cell(row.source)]
        for row in describe_attacks().itertuples(index=False)
    ]
    names = table(["attack", "what it does", "what the attacker has", "settings", "source"], rows)
    formats = ", ".join(f"`{name}`" for name in FORMATS) + "\n"
    return (
        "# Attacks\n\n`mastlens attack NAME`: the edited model, its source and a control go through the same attack "
        f"([what they showed](../attacks.md)).\n\n{names}\n\n## Formats of `quantise`\n\n{formats}"
    )


def metrics() -> str:
    """Return the page of metrics: a table of all, and each one's definition and traps."""
    from mastlens.evaluation.metrics import describe_metrics

    rows = describe_metrics().to_dict("records")
    anchors: list[str] = []
    for row in rows:  # as headings get them: marks left out, a second one of a name numbered
        anchor = re.sub(r"[^\w-]", "", row["metric"])
        anchors.append(f"{anchor}-{anchors.count(anchor)}" if anchor in anchors else anchor)
    parts = [
        "# Metrics\n\n`mastlens evaluate --metrics NAME ...` measures what the field's papers and benchmarks report: "
        "item by item first, then aggregated, beside what chance and a reference model give ([how](../metrics.md)). "
        "{py:func}`mastlens.describe_metrics` returns these texts.\n\nThey are open-unlearning's to 1e-5 on the same "
        "items and tokens, at the commit that a test names; where a definition differs, its entry says so.\n\n",
        table(
            ["`--metrics`", "what it says", "which way is forgetting", "range"],
            [
                [
                    f"[`{row['metric']}`](#{anchor})",
                    *(cell(row[k]) for k in ("summary", "direction", "range")),
                ]
                for row, anchor in zip(rows, anchors, strict=True)
            ],
        ),
    ]
    titles = {
        "formula": "Formula",
        "null": "Null",
        "needs": "Needs",
        "settings": "Settings",
        "differs": "Differs",
        "source": "Source",
    }
    for row in rows:
        said = [f"- {title}: {cell(row[key])}\n" for key, title in titles.items() if row[key]]
        parts.append(f"\n## {row['metric']}\n\n{_sentence(row['summary'])}\n\n{''.join(said)}")
        parts.append(f"- Traps: {cell(row['traps'])}\n" if row["traps"] else "")
    return "".join(parts)


def benchmarks() -> str:
    """Return the page of benchmarks of unlearning that can be read."""
    from mastlens.evaluation.suites.catalogue import SUITES

    parts = [
        "# Benchmarks of unlearning\n\n`mastlens benchmarks convert NAME SOURCE --out DIR` writes them as problem "
        "files, from a folder laid out as the dataset on the hub is, or from there with a revision; "
        "`mastlens benchmarks list` says the following. Nothing of them comes with mastlens.\n"
    ]
    for name, one in SUITES.items():
        told = {
            "On the hub": ", ".join(f"`{hub}`" for hub in one.hub),
            "Licence": one.licence,
            "Size": one.size,
            "Parts": ", ".join(f"`{part}`" for part in one.parts),
            "Asks for": one.asks,
            "Note": one.note,
            "Source": one.source,
        }
        lines = "".join(f"- {title}: {text}\n" for title, text in told.items() if text)
        parts.append(f"\n## {name}\n\n{_sentence(one.summary)}\n\n{lines}")
    return "".join(parts)


def protocols() -> str:
    """Return the page of published protocols: what each does, and the numbers that stand beside it."""
    from mastlens.studies.published import protocol_names, read_protocol

    parts = [
        "# Protocols\n\n`mastlens run protocol:NAME` does on a model of yours what the papers do "
        "([how](../metrics.md#a-protocol-in-one-file)). The numbers of others are of other models: they stand beside "
        "what is measured, in a table of their own, and never in it.\n"
    ]
    for name in protocol_names():
        one = read_protocol(name)
        way = one.reasoning
        told = {
            "Benchmark": f"[{one.benchmark}](benchmarks.md#{one.benchmark})" + (f", {one.part}" if one.part else ""),
            "Measured": ", ".join(f"`{split}`" for split in (*one.splits, *one.optional, *one.choices, *one.texts)),
            "Metrics": ", ".join(f"`{metric}`" for metric in (*one.metrics, *one.reference_metrics)),
            "Unlearned by": ", ".join(arm.label for arm in one.arms) if way is None else ", ".join(way.methods),
            "Settings": f"{one.steps} steps of {one.batch_size}, rate {one.lr:g}; {one.max_new_tokens} new tokens",
            "To be known": cell(one.note),
        }
        parts.append(f"\n## {name}\n\n" + "".join(f"- {title}: {text}\n" for title, text in told.items() if text))
        rows = [[cell(value) for value in row.values()] for row in one.numbers]
        parts.append("\n" + table(["model", "method", "metric", "value", "source"], rows) if rows else "")
    return "".join(parts)


def plugins() -> str:
    """Return the page of graders, engines and organisms."""
    from mastlens.decoding.engines import ENGINES
    from mastlens.decoding.graders import GRADERS
    from mastlens.organisms import ORGANISMS

    def said(one: object) -> str:
        return cell(getattr(one, "summary", "") or (inspect.getdoc(one) or "").partition("\n")[0].replace("``", "`"))

    lineages = [
        [f"`organism:{name}/STAGE`", said(one), ", ".join(f"`{stage}`" for stage in one.stages)]
        for name, one in ORGANISMS.items()
    ]
    return (
        "# Graders, engines, organisms\n\nA grader says whether a response is right; an engine writes the responses; "
        "an organism is a lineage that was really trained here. Each is one object in one file "
        "([how to add one](../extending/index.md)).\n\n## Graders\n\n"
        + table(["`--grader`", "what is right"], [[f"`{name}`", said(one)] for name, one in GRADERS.items()])
        + "\n## Engines\n\n"
        + table(["`--engine`", "what it is"], [[f"`{name}`", said(one)] for name, one in ENGINES.items()])
        + "\n## Organisms\n\n"
        + table(["organism", "what it is", "stages"], lineages)
    )


def _commands(
    parser: argparse.ArgumentParser, path: str = "mastlens"
) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Yield each command that can be run."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, inner in action.choices.items():
                nested = [a for a in inner._actions if isinstance(a, argparse._SubParsersAction)]
                if nested:
                    yield from _commands(inner, f"{path} {name}")
                else:
                    yield f"{path} {name}", summaries.get(name, inner.description or ""), inner


def command_line() -> str:
    """Return the page of commands, read from the parser."""
    from mastlens.cli.parser import build_parser

    parts = [
        "# Command line\n\nEvery command takes `--help`, `--json`, `--quiet`, `--defaults FILE`, `--seed`, `--device` "
        "and `--debug`; it exits with 0 on success, 2 on a user's mistake and 1 on a defect.\n"
    ]
    for name, summary, parser in _commands(build_parser()):
        parts.append(f"\n## `{name}`\n\n{_sentence(summary)}\n")
        if parser.epilog and parser.epilog.startswith("example:"):
            parts.append("\n```sh\n" + "\n".join(map(str.strip, parser.epilog.splitlines()[1:])) + "\n```\n")
        for group in parser._action_groups:
            options = [
                a for a in group._group_actions if a.help != argparse.SUPPRESS and "--help" not in a.option_strings
            ]
            if not options or group.title == "every command":
                continue
            usual = group.title in ("options", "positional arguments")
            parts.append("\n" if usual else f"\n{_sentence(group.title or '')}\n\n")
            if group.description:
                parts.append(f"{_sentence(group.description)}\n\n")
            parts.append(
                table(["option", "meaning"], [[_spelling(a), cell((a.help or "").replace("%%", "%"))] for a in options])
            )
    return "".join(parts)


def _sentence(text: str) -> str:
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('?') else '.'}" if text else ""


def _spelling(action: argparse.Action) -> str:
    value = action.metavar or ("" if action.nargs == 0 else (action.dest or "").upper())
    shown = " ".join(value) if isinstance(value, tuple) else str(value)
    if action.choices and not action.metavar:
        shown = "{" + ",".join(map(str, action.choices)) + "}"
    many = " ..." if action.nargs in ("+", "*") else ""
    name = ", ".join(action.option_strings)
    said = f"`{' '.join(part for part in (name, shown + many) if part)}`"
    return said + (" (required)" if action.required and action.option_strings else "")


def python_api() -> Iterator[tuple[str, str]]:
    """Yield file and text of each page of the Python API: the public names of one room."""
    rooms = defaultdict(list)
    for name, module in mastlens._PUBLIC.items():
        rooms[module.split(".")[0]].append(name)
    missing = set(rooms) - set(ROOMS)
    assert not missing, f"docs/generate.py has no title for the rooms {sorted(missing)}"
    pages = [room for room in ROOMS if room in rooms]
    entries = [f"{ROOMS[room]} <{room}>" for room in pages]
    lines = "".join(
        f"- [{ROOMS[room]}]({room}.md): {', '.join(_link(name) for name in rooms[room])}\n" for room in pages
    )
    yield (
        "reference/api/index.md",
        "# Python API\n\nEverything public is a name of `mastlens` itself and is imported when it is first used.\n\n"
        f"{lines}\n```{{toctree}}\n:hidden:\n\n" + "\n".join(entries) + "\n```\n",
    )
    for room in pages:
        body = [f"# {ROOMS[room]}\n"]
        for name in sorted(rooms[room], key=lambda name: (name[0].isupper(), name.lower())):
            kind = "class" if inspect.isclass(getattr(mastlens, name)) else "function"
            members = "   :members:\n" if kind == "class" else ""
            shown = "   :show-inheritance:\n" if room == "errors" else ""
            body.append(f"```{{eval-rst}}\n.. auto{kind}:: mastlens.{name}\n{members}{shown}```\n{_tables_of(name)}")
        yield f"reference/api/{room}.md", "\n".join(body)


def _link(name: str) -> str:
    return f"{{py:obj}}`mastlens.{name}`"


def index() -> str:
    """Return the reference's first page."""
    return (
        "# Reference\n\nThese pages are written from the code whenever the site is built.\n\n"
        "```{toctree}\n:maxdepth: 1\n\ncommand-line\ncolumns/index\narchitectures\nrules\nobjectives\nrecipes\n"
        "attacks\nmetrics\nbenchmarks\nprotocols\nplugins\napi/index\n```\n"
    )


def notebook(text: str) -> str:
    """Return a notebook's plain-text twin (jupytext's percent format) as a page, without outputs."""
    parts = []
    for piece in re.split(r"(?m)^# %%", text)[1:]:
        kind, _, body = piece.partition("\n")
        if "[markdown]" in kind:
            parts.append(re.sub(r"(?m)^# ?", "", body).strip())
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return re.sub(r"\((\w+)\.ipynb\)", r"(\1.md)", "\n\n".join(parts)) + "\n"


def figures(captions: str) -> str:
    """Return the captions of ``figures/`` with each figure under its heading."""
    shown = re.sub(r"(?m)^## (.+)$", r"## \1\n\n![\1](../../figures/\1.svg)", captions)
    return re.sub(r"\(([\w-]+\.csv)\)", r"(../../figures/\1)", shown).replace("# Captions", "# Figures", 1)


def collected() -> Iterator[tuple[str, str]]:
    """Yield file and text of each page that stands elsewhere in the repository."""
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.py")):
        yield f"notebooks/{path.stem}.md", notebook(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        yield f"results/tables/{path.name}", path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "mastlens" / "organisms" / "lineages").glob("*/README.md")):
        yield f"results/cards/{path.parent.name}.md", path.read_text(encoding="utf-8")
    yield "results/figures.md", figures((ROOT / "figures" / "captions.md").read_text(encoding="utf-8"))


def pages() -> dict[str, str]:
    """Return file to text of every page that nobody writes by hand."""
    written = {
        "reference/index.md": index(),
        "reference/command-line.md": command_line(),
        "reference/architectures.md": architectures(),
        "reference/rules.md": rules(),
        "reference/objectives.md": objectives(),
        "reference/recipes.md": recipes(),
        "reference/attacks.md": attacks(),
        "reference/metrics.md": metrics(),
        "reference/benchmarks.md": benchmarks(),
        "reference/protocols.md": protocols(),
        "reference/plugins.md": plugins(),
        **dict(columns()),
        **dict(python_api()),
        **dict(collected()),
    }
    return {name: NOTE + text for name, text in written.items()}


def write_pages(folder: Path) -> None:
    """Write the pages; one that has not changed is not touched, one that is no longer made goes."""
    written = {folder / name: text for name, text in pages().items()}
    for place in OWNED:
        for path in (folder / place).rglob("*.md"):
            if path not in written:
                path.unlink()
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
