"""What each command does: call the function of the same name, then say what came out."""

import argparse

from mastlens.cli.options import named_files
from mastlens.cli.outcome import Outcome, common, device_of, show


def demo(arguments: argparse.Namespace) -> Outcome:
    """Run the demo."""
    from mastlens.demonstration import demo as run

    result = run(arguments.out, seed=arguments.seed, device=device_of(arguments), overwrite=arguments.overwrite)
    return Outcome(result.text, result.summary)


def unlearn(arguments: argparse.Namespace) -> Outcome:
    """Unlearn and write the edit."""
    from mastlens.unlearning import unlearn as run

    result = run(
        rlvr=arguments.rlvr,
        forget=arguments.forget,
        retain=arguments.retain,
        objective=arguments.objective,
        steps=arguments.steps,
        lr=arguments.lr,
        ranking=arguments.ranking,
        where=arguments.where,
        all_parameters=arguments.all_parameters,
        retain_weight=arguments.retain_weight,
        preset=arguments.preset,
        beta=arguments.beta,
        delta=arguments.delta,
        gamma=arguments.gamma,
        seed=arguments.seed,
        **common(arguments),
    )
    last = result.table.iloc[-1].to_dict() if len(result.table) else {}
    parameters = sum(t.numel() for t in result.edit.after.values())
    text = (
        f"{show(result.table.iloc[[0, -1]].drop_duplicates()) if len(result.table) else 'no step was finite'}\n"
        f"{len(result.edit.names)} tensors changed, {parameters:,} parameters\n"
        f"{result.swallowed:.2%} of the changed entries were returned by rounding to the checkpoint's dtype"
    )
    return Outcome(
        text,
        {
            "tensors": len(result.edit.names),
            "parameters": parameters,
            "steps": len(result.table),
            "last": last,
            "swallowed": result.swallowed,
            "out": arguments.out,
        },
    )


def edit_show(arguments: argparse.Namespace) -> Outcome:
    """Show an edit."""
    from mastlens.edit import Edit

    edit = Edit.load(arguments.edit)
    settings = {k: v for k, v in edit.settings.items() if k not in ("selection", "inputs")}
    lines = [f"source {edit.source}", *(f"{key:>14}  {value}" for key, value in settings.items())]
    return Outcome(
        "\n".join(lines) + "\n\n" + show(edit.table, rows=200),
        {"source": edit.source, "settings": dict(edit.settings), "tensors": edit.table.to_dict("records")},
    )


def edit_apply(arguments: argparse.Namespace) -> Outcome:
    """Write the edited checkpoint."""
    from mastlens.edit import apply_edit

    out = apply_edit(arguments.edit, to=arguments.to, out=arguments.out, overwrite=arguments.overwrite)
    return Outcome(f"Wrote {out}", {"out": str(out)})


def edit_revert(arguments: argparse.Namespace) -> Outcome:
    """Write the checkpoint with the edit taken out."""
    from mastlens.edit import revert_edit

    out = revert_edit(arguments.edit, source=arguments.source, out=arguments.out, overwrite=arguments.overwrite)
    return Outcome(f"Wrote {out}", {"out": str(out)})


def evaluate(arguments: argparse.Namespace) -> Outcome:
    """Evaluate a model."""
    from mastlens.evaluation import evaluate as run

    result = run(
        model=arguments.model,
        edit=arguments.edit,
        splits=named_files(arguments.split),
        max_new_tokens=arguments.max_new_tokens,
        **common(arguments),
    )
    return Outcome(show(result.accuracy), {"splits": result.accuracy.to_dict("records"), "out": arguments.out})


def compare(arguments: argparse.Namespace) -> Outcome:
    """Compare two evaluations."""
    from mastlens.evaluation import compare as run

    result = run(arguments.before, arguments.after, seed=arguments.seed)
    return Outcome(show(result.table), {"splits": result.table.to_dict("records")})


def report(arguments: argparse.Namespace) -> Outcome:
    """Write the report of a folder."""
    from mastlens.reporting import report as run

    path = run(arguments.folder)
    return Outcome(f"Wrote {path}", {"report": str(path)})


def organism_list(arguments: argparse.Namespace) -> Outcome:
    """List the shipped lineages."""
    from mastlens.organism import list_organisms

    table = list_organisms()
    return Outcome(show(table), {"organisms": table.to_dict("records")})


def organism_trajectory(arguments: argparse.Namespace) -> Outcome:
    """Run a lineage's RLVR again, or find where it was kept."""
    from mastlens.organism.replay import organism_trajectory as run

    folder = run(arguments.name)
    return Outcome(f"Steps are in {folder}; organism:{arguments.name}/trajectory names them", {"folder": str(folder)})


def organism_build(arguments: argparse.Namespace) -> Outcome:
    """Train a lineage anew."""
    from pathlib import Path

    from mastlens.organism import build_organism

    out = build_organism(arguments.name, Path(arguments.out), seed=arguments.seed, trajectory=arguments.trajectory)
    return Outcome(f"Wrote {out}", {"out": str(out)})
