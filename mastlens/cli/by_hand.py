"""Commands whose options are still written by hand: to be declared, and then to go."""

import argparse
from typing import Any

from mastlens.cli import commands
from mastlens.cli.edits import add_edits
from mastlens.cli.figures import add_figures
from mastlens.cli.options import add_out
from mastlens.cli.studies import add_studies
from mastlens.cli.traces import add_traces
from mastlens.cli.unlearning import add_unlearning


def add_by_hand(subparsers: Any) -> None:
    """Add them all."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="a machine-readable summary, alone on stdout")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--seed", type=int, default=0, help="decides everything random (default 0)")
    common.add_argument("--device", default="cpu", help="a torch device, e.g. cuda (default cpu)")

    def command(name: str, handler, summary: str, parents: bool = True, under=subparsers):
        added = under.add_parser(name, help=summary, description=summary, parents=[common] if parents else [])
        if handler is not None:
            added.set_defaults(handler=handler)
        return added

    _demo(command)
    add_traces(command)
    add_unlearning(command)
    add_edits(command)
    _report(command)
    add_studies(command)
    add_figures(command)
    _organism(command)


def _demo(command) -> None:
    demo = command("demo", commands.demo, "the whole method on the shipped organism, with a report")
    add_out(demo, required=False, default="demo")


def _report(command) -> None:
    report = command("report", commands.report, "write report.html from what DIR holds")
    report.add_argument("folder", metavar="DIR", help="a run's output folder")
    report.add_argument("--before", metavar="DIR", help="evaluation before the edit, where DIR holds the one after it")


def _organism(command) -> None:
    organism = command("organism", None, "the shipped, really trained lineages", parents=False)
    actions = organism.add_subparsers(dest="action", required=True, metavar="ACTION")
    command("list", commands.organism_list, "what is shipped, with accuracies", under=actions)
    steps = command("trajectory", commands.organism_trajectory, "run its RLVR again and keep the steps", under=actions)
    steps.add_argument("name", metavar="NAME", help="an organism, e.g. qwen2 (about eight minutes, once)")
    build = command("build", commands.organism_build, "train a lineage anew (about 20 minutes)", under=actions)
    build.add_argument("name", metavar="NAME", help="an organism, e.g. qwen2")
    build.add_argument("--trajectory", action="store_true", help="keep checkpoints along the RLVR run")
    build.add_argument("--out", required=True, metavar="DIR", help="folder for the lineage")
