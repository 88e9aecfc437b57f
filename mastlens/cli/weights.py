"""Commands that read weights and run no model: options and handlers."""

import argparse

from mastlens.cli.options import add_out, path_help
from mastlens.cli.outcome import Outcome, device_of, show


def add_weights(command) -> None:
    """Add inspect, geometry, mask-agreement and trajectory."""
    look = command("inspect", inspect, "what a checkpoint holds")
    look.add_argument("path", metavar="PATH", help=path_help("the checkpoint"))

    measure = command("geometry", geometry, "geometry of the increments, per attention projection")
    measure.add_argument("--base", required=True, metavar="PATH", help=path_help("before SFT"))
    measure.add_argument("--sft", metavar="PATH", help=path_help("what RLVR started from"))
    measure.add_argument("--rlvr", required=True, metavar="PATH", help=path_help("after RLVR"))
    measure.add_argument(
        "--rank",
        default="16",
        help="k of the principal subspaces: 16 (default), a fraction of the size (0.1), a share of the energy (90%%)",
    )
    measure.add_argument("--full", action="store_true", help="also whole spectra and subspaces before and after")
    measure.add_argument("--masks", action="store_true", help="also which entries changed: principal, low-magnitude")
    measure.add_argument("--spectra", action="store_true", help="also the increments' singular values and their ranks")
    measure.add_argument("--heads", action="store_true", help="also the readings head by head")
    measure.add_argument("--where", metavar="REGEX", help="other weight matrices, by name (attention by default)")
    measure.add_argument("--workers", type=int, metavar="N", help="tensors measured at a time (default: processors)")
    add_out(measure)

    agree = command("mask-agreement", mask_agreement, "do several runs from one checkpoint change the same entries?")
    agree.add_argument("reference", metavar="START", help=path_help("what the runs started from"))
    agree.add_argument("runs", nargs="+", metavar="RUN", help=path_help("a run's end"))
    agree.add_argument("--view", default="bf16", help="entries compared as bf16 (default) or native")
    add_out(agree)

    along = command("trajectory", trajectory, "a run by its saved steps: rank 1 in time, linearity, extrapolation")
    along.add_argument("paths", nargs="+", metavar="PATH", help=path_help("the start, then steps or a folder of them"))
    along.add_argument("--start", metavar="PATH", help=path_help("the start, where it is not the first path"))
    along.add_argument("--steps", metavar="N,N,...", help="step numbers, where the names do not tell")
    along.add_argument("--base", metavar="PATH", help=path_help("whose subspaces count as principal (the start)"))
    along.add_argument("--window", metavar="N", help="fit the first N checkpoints, or a fraction of them (0.3)")
    along.add_argument("--rank", type=int, default=16, help="k of the principal subspaces (default 16)")
    along.add_argument("--extrapolate", type=int, metavar="STEP", help="write the checkpoint that the fit gives there")
    along.add_argument("--reconstruct", type=int, metavar="STEP", help="write this step projected on its direction")
    along.add_argument("--matrix-rank-1", action="store_true", help="write the first singular triple of each update")
    add_out(along)


def inspect(arguments: argparse.Namespace) -> Outcome:
    """Look at a checkpoint."""
    from mastlens.checkpoints.inspection import inspect as run

    result = run(arguments.path)
    lines = [f"{key:>20}  {value}" for key, value in result.summary.items()]
    return Outcome(
        "\n".join(lines) + "\n\n" + show(result.table, rows=200),
        {**result.summary, "projections": result.table.to_dict("records")},
    )


def geometry(arguments: argparse.Namespace) -> Outcome:
    """Measure the increments."""
    from mastlens.analysis.increments.geometry import geometry as run

    result = run(
        base=arguments.base,
        sft=arguments.sft,
        rlvr=arguments.rlvr,
        rank=arguments.rank,
        full=arguments.full,
        masks=arguments.masks,
        spectra=arguments.spectra,
        heads=arguments.heads,
        where=arguments.where,
        seed=arguments.seed,
        workers=arguments.workers,
        device=device_of(arguments),
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    columns = ["increment", "layer", "projection", "delta_norm", "relative_norm", "note"]
    columns += ["off_principal", "off_principal_null", "off_principal_z", "spectral_shift", "spectral_shift_null"]
    columns += ["stable_rank", "stable_rank_null", "principal_lift", "principal_overlap_z"]
    groups = result.table.groupby("increment", sort=False)
    means = groups[["delta_norm", "off_principal", "off_principal_null", "off_principal_distinguishable"]].mean()
    return Outcome(
        show(result.table, columns, rows=80),
        {"rows": len(result.table), "mean": means.to_dict("index"), "out": arguments.out},
    )


def mask_agreement(arguments: argparse.Namespace) -> Outcome:
    """Compare the update masks of several runs."""
    from mastlens.analysis.increments.agreement import mask_agreement as run

    result = run(
        arguments.reference, arguments.runs, view=arguments.view, out=arguments.out, overwrite=arguments.overwrite
    )
    summary = result.summary()
    means = summary.select_dtypes("number").drop(columns="layer").mean().to_dict()
    return Outcome(show(summary, rows=200), {"rows": len(result.table), "mean": means, "out": arguments.out})


def trajectory(arguments: argparse.Namespace) -> Outcome:
    """Analyse a run by its saved steps."""
    from mastlens.analysis.trajectories.trajectory import trajectory as run
    from mastlens.errors import MastlensError

    try:
        steps = [int(part) for part in arguments.steps.split(",")] if arguments.steps else None
        window = arguments.window and (int(arguments.window) if arguments.window.isdigit() else float(arguments.window))
    except ValueError as error:
        raise MastlensError(f"--steps takes 10,20,30 and --window a number: {error}.") from error
    result = run(
        *arguments.paths,
        start=arguments.start,
        steps=steps,
        base=arguments.base,
        window=window,
        rank=arguments.rank,
        extrapolate=arguments.extrapolate,
        reconstruct=arguments.reconstruct,
        matrix_rank_1=arguments.matrix_rank_1,
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    attention = result.table[result.table["projection"] != ""]
    columns = ["layer", "projection", "delta_norm", "explained_variance", "explained_variance_walk", "linearity"]
    columns += ["linearity_walk", "last_error", "last_error_stay", "increment_cosine", "matrix_rank_1"]
    written = {kind: str(folder) for kind, folder in result.checkpoints.items()}
    text = show(attention, columns, rows=80) + "".join(f"\nWrote {folder}" for folder in written.values())
    means = attention[[c for c in columns[2:] if c in attention]].mean().to_dict()
    return Outcome(text, {"rows": len(result.table), "mean": means, "checkpoints": written, "out": arguments.out})
