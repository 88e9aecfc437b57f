"""Commands that make and move edits without a gradient: options and handlers."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mastlens.cli.options import add_out, path_help
from mastlens.cli.outcome import Outcome, device_of, show

if TYPE_CHECKING:
    from mastlens.edits.edit import Edit
    from mastlens.edits.settings import (
        ApplyEditSettings,
        ComposeEditSettings,
        RevertEditSettings,
        ScaleEditSettings,
        ShowEditSettings,
    )


def add_edits(command) -> None:
    """Add negate."""
    negate = command("negate", negate_increment, "take the RLVR increment back, whole or in part, without gradients")
    negate.add_argument("--sft", required=True, metavar="PATH", help=path_help("what RLVR started from"))
    negate.add_argument("--rlvr", required=True, metavar="PATH", help=path_help("the checkpoint to edit"))
    negate.add_argument("--base", metavar="PATH", help=path_help("whose subspaces count as principal"))
    what = negate.add_mutually_exclusive_group(required=True)
    what.add_argument("--ranking", metavar="FILE", help="edit the tensors that a ranking.parquet selects")
    what.add_argument(
        "--where", metavar="REGEX", help="edit the matrices whose names match; with a #, heads too (#h3$)"
    )
    what.add_argument("--all-parameters", action="store_true", help="edit every weight matrix")
    what.add_argument("--everything", action="store_true", help="edit every tensor, norms and biases too")
    negate.add_argument("--scale", type=float, default=1.0, metavar="S", help="how much of it to take back (default 1)")
    negate.add_argument("--part", default="all", help="all (default), principal or off-principal")
    negate.add_argument("--rank", type=int, default=16, metavar="K", help="k of the principal subspaces (default 16)")
    add_out(negate)


def edit_show(result: "Edit", settings: "ShowEditSettings") -> Outcome:
    """Tell what an edit changes."""
    from mastlens.edits.model_card import shortened

    made = shortened(dict(result.settings))
    lines = ["", *(f"{key:>16}  {value}" for key, value in made.items())] if made else []
    return Outcome(
        _described(result) + "\n".join(lines) + "\n\n" + show(result.table, rows=200),
        {**_summary(result), "settings": dict(result.settings), "tensors": result.table.to_dict("records")},
    )


def edit_folder(result: Path, settings: "ApplyEditSettings | RevertEditSettings") -> Outcome:
    """Tell which folder was written."""
    return Outcome(f"Wrote {result}", {"out": str(result)})


def edit_file(result: "Edit", settings: "ScaleEditSettings | ComposeEditSettings") -> Outcome:
    """Tell what the new edit is."""
    out = str(settings.out)
    return Outcome(f"{_described(result)}\nWrote {out}", {**_summary(result), "out": out})


def negate_increment(arguments: argparse.Namespace) -> Outcome:
    """Take the increment back and write the edit."""
    from mastlens.edits.negation import negate_increment as run

    edit = run(
        sft=arguments.sft,
        rlvr=arguments.rlvr,
        base=arguments.base,
        ranking=arguments.ranking,
        where=arguments.where,
        all_parameters=arguments.all_parameters,
        everything=arguments.everything,
        scale=arguments.scale,
        part=arguments.part,
        rank=arguments.rank,
        seed=arguments.seed,
        device=device_of(arguments),
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    return Outcome(_described(edit), {**_summary(edit), "out": arguments.out})


def _described(edit: "Edit") -> str:
    return "\n".join(f"{key:>16}  {value}" for key, value in _summary(edit).items() if value != "")


def _summary(edit: "Edit") -> dict:
    from mastlens.edits.model_card import describe

    return describe(edit)
