"""What each command does: call the function of the same name, then say what came out."""

import argparse
from dataclasses import dataclass
from typing import Any

from mastlens.errors import MastlensError


@dataclass(frozen=True)
class Outcome:
    """What a command tells: ``text`` to people, ``summary`` to machines."""

    text: str
    summary: dict[str, Any]


def _device(arguments: argparse.Namespace) -> str:
    import torch

    try:
        device = torch.device(arguments.device)
    except RuntimeError as error:
        raise MastlensError(f"{arguments.device!r} is not a torch device. Use cpu, cuda or cuda:0.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MastlensError("--device cuda: torch sees no CUDA device here. Use --device cpu.")
    return arguments.device


def _show(table, columns: list[str] | None = None, rows: int = 40) -> str:
    shown = table if columns is None else table[[c for c in columns if c in table]]
    text = shown.head(rows).to_string(index=False, float_format=lambda x: f"{x:.6g}")
    return text + (f"\n... {len(shown) - rows} more rows" if len(shown) > rows else "")


def demo(arguments: argparse.Namespace) -> Outcome:
    """Run the demo."""
    from mastlens.demonstration import demo as run

    result = run(arguments.out, seed=arguments.seed, device=_device(arguments), overwrite=arguments.overwrite)
    return Outcome(result.text, result.summary)


def inspect(arguments: argparse.Namespace) -> Outcome:
    """Look at a checkpoint."""
    from mastlens.inspection import inspect as run

    result = run(arguments.path)
    lines = [f"{key:>20}  {value}" for key, value in result.summary.items()]
    return Outcome(
        "\n".join(lines) + "\n\n" + _show(result.table, rows=200),
        {**result.summary, "projections": result.table.to_dict("records")},
    )


def geometry(arguments: argparse.Namespace) -> Outcome:
    """Measure the increments."""
    from mastlens.analysis.increments import geometry as run

    result = run(
        base=arguments.base,
        sft=arguments.sft,
        rlvr=arguments.rlvr,
        rank=arguments.rank,
        full=arguments.full,
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    columns = ["increment", "layer", "projection", "delta_norm", "relative_norm"]
    columns += ["off_principal", "off_principal_null", "spectral_shift", "stable_rank"]
    means = result.table.groupby("increment", sort=False)[["delta_norm", "off_principal", "off_principal_null"]]
    return Outcome(
        _show(result.table, columns, rows=80),
        {"rows": len(result.table), "mean": means.mean().to_dict("index"), "out": arguments.out},
    )


def couple(arguments: argparse.Namespace) -> Outcome:
    """Measure the coupling."""
    from mastlens.analysis.coupling import couple as run

    result = run(
        sft=arguments.sft,
        rlvr=arguments.rlvr,
        forget=arguments.forget,
        retain=arguments.retain,
        batch_size=arguments.batch_size,
        chat_template=not arguments.no_chat_template,
        device=_device(arguments),
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    cosines = [c for c in map(str, result.table.columns) if c.endswith("_cosine")]
    columns = ["layer", "projection", "forget_grad_norm", "forget_inner", *cosines]
    return Outcome(
        _show(result.table, columns, rows=80),
        {
            "rows": len(result.table),
            "mean_absolute": result.table[cosines].abs().mean().to_dict(),
            "out": arguments.out,
        },
    )


def rank(arguments: argparse.Namespace) -> Outcome:
    """Rank and select."""
    from mastlens.selection import rank as run

    result = run(arguments.folder, top=arguments.top, rule=arguments.rule, overwrite=arguments.overwrite)
    parameters = int(result.table.loc[result.table["selected"], "numel"].sum())
    return Outcome(
        _show(result.table, rows=60) + f"\n{len(result.selected)} selected, {parameters:,} parameters",
        {"selected": result.selected, "parameters": parameters, **result.settings},
    )


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
        batch_size=arguments.batch_size,
        retain_weight=arguments.retain_weight,
        preset=arguments.preset,
        beta=arguments.beta,
        delta=arguments.delta,
        gamma=arguments.gamma,
        chat_template=not arguments.no_chat_template,
        seed=arguments.seed,
        device=_device(arguments),
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    last = result.table.iloc[-1].to_dict() if len(result.table) else {}
    parameters = sum(t.numel() for t in result.edit.after.values())
    text = (
        f"{_show(result.table.iloc[[0, -1]].drop_duplicates()) if len(result.table) else 'no step was finite'}\n"
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
        "\n".join(lines) + "\n\n" + _show(edit.table, rows=200),
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

    splits: dict[str, str] = {}
    for given in arguments.split:
        name, mark, path = given.partition("=")
        if not (name and mark and path):
            raise MastlensError(f"--split {given!r} is not NAME=FILE, e.g. forget=forget-eval.jsonl.")
        if name in splits:
            raise MastlensError(f"--split {name} is given twice.")
        splits[name] = path
    result = run(
        model=arguments.model,
        edit=arguments.edit,
        splits=splits,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
        chat_template=not arguments.no_chat_template,
        device=_device(arguments),
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    return Outcome(_show(result.accuracy), {"splits": result.accuracy.to_dict("records"), "out": arguments.out})


def compare(arguments: argparse.Namespace) -> Outcome:
    """Compare two evaluations."""
    from mastlens.evaluation import compare as run

    result = run(arguments.before, arguments.after, seed=arguments.seed)
    return Outcome(_show(result.table), {"splits": result.table.to_dict("records")})


def report(arguments: argparse.Namespace) -> Outcome:
    """Write the report of a folder."""
    from mastlens.reporting import report as run

    path = run(arguments.folder)
    return Outcome(f"Wrote {path}", {"report": str(path)})


def organism_list(arguments: argparse.Namespace) -> Outcome:
    """List the shipped lineages."""
    from mastlens.organism import list_organisms

    table = list_organisms()
    return Outcome(_show(table), {"organisms": table.to_dict("records")})


def organism_build(arguments: argparse.Namespace) -> Outcome:
    """Train a lineage anew."""
    from pathlib import Path

    from mastlens.organism import build_organism

    out = build_organism(arguments.name, Path(arguments.out), seed=arguments.seed, trajectory=arguments.trajectory)
    return Outcome(f"Wrote {out}", {"out": str(out)})
