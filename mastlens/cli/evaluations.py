"""Commands on finished evaluations: what an edit did beside its purpose, and many edits in one table."""

import argparse
from pathlib import Path

from mastlens.cli.options import add_no_chat_template, add_out, named_files, path_help
from mastlens.cli.outcome import Outcome, common, show
from mastlens.errors import BadSetting


def add_evaluations(command) -> None:
    """Add measure-collateral and compare-edits."""
    beside = command("measure-collateral", measure_collateral, "what an edit does to texts it was not meant to touch")
    beside.add_argument("--model", required=True, metavar="PATH", help=path_help("the checkpoint it was made for"))
    beside.add_argument("--edit", required=True, metavar="EDIT", help="an edit.safetensors")
    beside.add_argument(
        "--split", nargs="+", action="extend", required=True, metavar="NAME=FILE", help="e.g. retain problems"
    )
    beside.add_argument("--neutral", metavar="FILE", help="JSON lines with a 'text' each, for perplexity")
    beside.add_argument("--before", metavar="DIR", help="evaluation of the source, to compare its responses")
    beside.add_argument("--after", metavar="DIR", help="evaluation of the edited model")
    beside.add_argument("--batch-size", type=int, default=16, help="texts a forward pass (default 16)")
    add_no_chat_template(beside)
    add_out(beside)

    many = command("compare-edits", compare_edits, "forgetting against collateral, for any number of edits")
    many.add_argument("source", metavar="SOURCE_DIR", help="evaluation of the source")
    many.add_argument("edits", nargs="+", metavar="[LABEL=]EDIT_DIR", help="evaluations of its edits")
    many.add_argument("--forget", nargs="+", metavar="NAME", help="splits to forget (default: forget...)")
    many.add_argument("--retain", nargs="+", metavar="NAME", help="splits to keep (default: all others)")
    add_out(many, required=False)


def measure_collateral(arguments: argparse.Namespace) -> Outcome:
    """Measure what an edit did beside its purpose."""
    from mastlens.evaluation.collateral import measure_collateral as run

    result = run(
        model=arguments.model,
        edit=arguments.edit,
        splits=named_files(arguments.split),
        neutral=arguments.neutral,
        before=arguments.before,
        after=arguments.after,
        seed=arguments.seed,
        **common(arguments),
    )
    return Outcome(show(result.table, rows=80), {"collateral": result.table.to_dict("records"), "out": arguments.out})


def compare_edits(arguments: argparse.Namespace) -> Outcome:
    """Put edits into one table."""
    from mastlens.evaluation.forgetting import compare_edits as run

    result = run(
        arguments.source,
        _labels(arguments.edits),
        forget=arguments.forget,
        retain=arguments.retain,
        seed=arguments.seed,
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    parts = ("before", "after", "b", "c", "holm_p", "difference", "low", "high")
    columns = ["arm", *(f"{side}_{part}" for side in ("forget", "retain") for part in parts)]
    columns += ["kl", "perplexity_ratio", "after_attack", "after_attack_difference"]
    text = show(result.table, columns).rstrip()
    if len(result.contrasts):
        contrasts = ["arm", "reference", "side", "n", "b", "c", "holm_p", "difference", "low", "high"]
        text += f"\n\nagainst {result.contrasts['reference'].iloc[0]}:\n{show(result.contrasts, contrasts)}"
    tables = {"edits": result.table, "contrasts": result.contrasts}
    return Outcome(
        text,
        {
            **{name: table.to_dict("records") for name, table in tables.items()},
            **result.settings["splits"],
            "out": arguments.out,
        },
    )


def _labels(given: list[str]) -> dict[str, str] | list[str]:
    """Return label to folder, if any has a label, else the folders; a folder may have ``=`` in its name."""
    labels = {text: text.partition("=")[0] for text in given if "=" in text and not Path(text).exists()}
    if not labels:
        return given
    named = [(labels.get(text) or Path(text).name, text.removeprefix(f"{labels.get(text)}=")) for text in given]
    if len(dict(named)) < len(named):
        raise BadSetting("Two edits have the same label. Give each one of its own: LABEL=DIR.")
    return dict(named)
