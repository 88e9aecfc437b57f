"""What each command does: call the function of the same name, then say what came out."""

import argparse

from mastlens.cli.outcome import Outcome, device_of, show


def demo(arguments: argparse.Namespace) -> Outcome:
    """Run the demo."""
    from mastlens.reporting.demonstration import demo as run

    result = run(arguments.out, seed=arguments.seed, device=device_of(arguments), overwrite=arguments.overwrite)
    return Outcome(result.text, result.summary)


def report(arguments: argparse.Namespace) -> Outcome:
    """Write the report of a folder."""
    from mastlens.reporting import report as run

    path = run(arguments.folder, before=arguments.before)
    return Outcome(f"Wrote {path}", {"report": str(path)})


def organism_list(arguments: argparse.Namespace) -> Outcome:
    """List the shipped lineages."""
    from mastlens.organisms import list_organisms

    table = list_organisms()
    return Outcome(show(table), {"organisms": table.to_dict("records")})


def organism_trajectory(arguments: argparse.Namespace) -> Outcome:
    """Run a lineage's RLVR again, or find where it was kept."""
    from mastlens.organisms.replay import organism_trajectory as run

    folder = run(arguments.name)
    return Outcome(f"Steps are in {folder}; organism:{arguments.name}/trajectory names them", {"folder": str(folder)})


def organism_build(arguments: argparse.Namespace) -> Outcome:
    """Train a lineage anew."""
    from pathlib import Path

    from mastlens.organisms import build_organism

    out = build_organism(arguments.name, Path(arguments.out), seed=arguments.seed, trajectory=arguments.trajectory)
    return Outcome(f"Wrote {out}", {"out": str(out)})
