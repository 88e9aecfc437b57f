"""Commands that make and move edits without a gradient: options and handlers."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mastlens.cli.options import add_out, add_overwrite, path_help
from mastlens.cli.outcome import Outcome, device_of, show
from mastlens.errors import MastlensError

if TYPE_CHECKING:
    from mastlens.edits.edit import Edit


def add_edits(command) -> None:
    """Add edit (show, apply, revert, scale, compose) and negate."""
    edit = command("edit", None, "show, apply, revert, scale or compose edits", parents=False)
    actions = edit.add_subparsers(dest="action", required=True, metavar="ACTION")
    shown = command("show", edit_show, "what an edit changes", under=actions)
    shown.add_argument("edit", metavar="EDIT", help="an edit.safetensors")

    apply = command("apply", edit_apply, "write the checkpoint with the edit in it, and a model card", under=actions)
    apply.add_argument("edit", metavar="EDIT", help="an edit.safetensors")
    apply.add_argument("--to", required=True, metavar="PATH", help=path_help("the checkpoint it was made for"))
    apply.add_argument("--out", required=True, metavar="NEW", help="folder for the complete checkpoint")
    add_overwrite(apply)

    revert = command("revert", edit_revert, "write the checkpoint with the edit taken out", under=actions)
    revert.add_argument("edit", metavar="EDIT", help="an edit.safetensors")
    revert.add_argument("--from", dest="source", required=True, metavar="PATH", help=path_help("the edited one"))
    revert.add_argument("--out", required=True, metavar="NEW", help="folder for the complete checkpoint")
    add_overwrite(revert)

    scale = command("scale", edit_scale, "an edit that goes S times as far", under=actions)
    scale.add_argument("edit", metavar="EDIT", help="an edit.safetensors")
    scale.add_argument("--by", type=float, required=True, metavar="S", help="before + S * (after - before)")
    scale.add_argument("--out", required=True, metavar="FILE", help="the new edit.safetensors")
    add_overwrite(scale)

    compose = command("compose", edit_compose, "one edit that does what two do", under=actions)
    compose.add_argument("first", metavar="EDIT", help="the edit that was made first")
    compose.add_argument(
        "following", metavar="NEXT", help="an edit of what it gives, or of other tensors of its source"
    )
    compose.add_argument("--out", required=True, metavar="FILE", help="the new edit.safetensors")
    add_overwrite(compose)

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


def edit_show(arguments: argparse.Namespace) -> Outcome:
    """Show an edit."""
    from mastlens.edits.edit import Edit
    from mastlens.edits.model_card import shortened

    edit = Edit.load(arguments.edit)
    settings = shortened(dict(edit.settings))
    lines = ["", *(f"{key:>16}  {value}" for key, value in settings.items())] if settings else []
    return Outcome(
        _described(edit) + "\n".join(lines) + "\n\n" + show(edit.table, rows=200),
        {**_summary(edit), "settings": dict(edit.settings), "tensors": edit.table.to_dict("records")},
    )


def edit_apply(arguments: argparse.Namespace) -> Outcome:
    """Write the edited checkpoint."""
    from mastlens.edits.edit import apply_edit

    out = apply_edit(arguments.edit, to=arguments.to, out=arguments.out, overwrite=arguments.overwrite)
    return Outcome(f"Wrote {out}", {"out": str(out)})


def edit_revert(arguments: argparse.Namespace) -> Outcome:
    """Write the checkpoint with the edit taken out."""
    from mastlens.edits.edit import revert_edit

    out = revert_edit(arguments.edit, source=arguments.source, out=arguments.out, overwrite=arguments.overwrite)
    return Outcome(f"Wrote {out}", {"out": str(out)})


def edit_scale(arguments: argparse.Namespace) -> Outcome:
    """Write an edit that goes further, or less far."""
    from mastlens.edits.edit import Edit

    return _saved(Edit.load(arguments.edit).scale(arguments.by), arguments)


def edit_compose(arguments: argparse.Namespace) -> Outcome:
    """Write one edit that does what two do."""
    from mastlens.edits.edit import Edit

    return _saved(Edit.load(arguments.first).compose(Edit.load(arguments.following)), arguments)


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


def _saved(edit: "Edit", arguments: argparse.Namespace) -> Outcome:
    out = Path(arguments.out)
    if out.is_dir():
        raise MastlensError(f"{out} is a folder; --out names the file to write, e.g. {out / 'edit.safetensors'}.")
    if out.exists() and not arguments.overwrite:
        raise MastlensError(f"{out} exists. Choose another --out, or pass --overwrite.")
    edit.save(out)
    return Outcome(f"{_described(edit)}\nWrote {out}", {**_summary(edit), "out": str(out)})


def _described(edit: "Edit") -> str:
    return "\n".join(f"{key:>16}  {value}" for key, value in _summary(edit).items() if value != "")


def _summary(edit: "Edit") -> dict:
    from mastlens.edits.model_card import describe

    return describe(edit)
