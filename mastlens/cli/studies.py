"""The command that runs a whole study."""

import argparse

from mastlens.cli.options import add_out
from mastlens.cli.outcome import Outcome, device_of, show


def add_studies(command) -> None:
    """Add run."""
    whole = command("run", run, "a whole study from one file; run again, it continues where it stopped")
    whole.add_argument("study", metavar="STUDY", help="a TOML file, or organism:NAME for a shipped study")
    whole.add_argument("--workers", type=int, default=1, metavar="N", help="processes that make arms (default 1)")
    add_out(whole, required=False)


def run(arguments: argparse.Namespace) -> Outcome:
    """Run a study."""
    from mastlens.studies.runner import run_study

    result = run_study(
        arguments.study,
        arguments.out,
        workers=arguments.workers,
        seed=arguments.seed,
        device=device_of(arguments),
        overwrite=arguments.overwrite,
        progress=not arguments.json,
    )
    retain = result.summary[result.summary["measure"] == "retain_accuracy"]
    columns = [
        "objective",
        "selection",
        "arms",
        "reached",
        "mean",
        "ci_low",
        "ci_high",
        "draws",
        "draw_min",
        "draw_max",
    ]
    contrasts = result.contrasts[result.contrasts["measure"] == "retain_accuracy"]
    text = f"retain accuracy at matched forgetting\n{show(retain, columns, rows=200)}"
    if len(contrasts):
        text += f"\n\nselections minus random draws\n{show(contrasts, rows=200)}"
    return Outcome(
        f"{text}\n\nThe tables are in {result.out}",
        {
            "arms": len(result.table),
            "reached": int(result.table["reached"].sum()),
            "summary": result.summary.to_dict("records"),
            "contrasts": result.contrasts.to_dict("records"),
            "out": str(result.out),
        },
    )
