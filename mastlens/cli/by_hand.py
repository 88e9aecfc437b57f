"""Commands whose options are still written by hand: to be declared, and then to go."""

import argparse
from typing import Any

from mastlens.cli.edits import add_edits
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

    add_traces(command)
    add_unlearning(command)
    add_edits(command)
