"""The command line: one command a stage, the same names as the Python functions."""

import json
import sys
import traceback
import warnings
from collections.abc import Sequence

from mastlens.errors import MastlensError, MastlensWarning


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0 on success, 2 on a user's mistake, 1 on a defect."""
    from mastlens.cli.defaults import parse
    from mastlens.cli.outcome import finite
    from mastlens.cli.parser import build_parser
    from mastlens.registry import place_in_own_file
    from mastlens.runs.files import cannot_write
    from mastlens.runs.ranks import is_first, may_tell

    words = sys.argv[1:] if argv is None else list(argv)
    whole = "--print-completion" in words  # else only the command that was typed needs its options
    first = next((word for word in words if not word.startswith("-")), "")
    debug = "--debug" in words
    try:
        arguments = parse(build_parser(None if whole else first), words)
        with warnings.catch_warnings():
            warnings.simplefilter("always", MastlensWarning)
            warnings.showwarning = _show_warning
            outcome = arguments.handler(arguments)
    except MastlensError as error:
        if debug:
            traceback.print_exc()
            _tell(f"See {error.page}")
        elif may_tell():
            _tell(f"mastlens: {error}")
        return 2
    except KeyboardInterrupt:
        _tell("mastlens: interrupted. Nothing half-written is left; the same command goes on with this stage.")
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        refused, own = cannot_write(error), place_in_own_file(error)
        if debug:
            traceback.print_exc()
        elif not may_tell():
            pass
        elif refused is not None:
            _tell(f"mastlens: {refused}")
        elif own is not None:
            _tell(f"mastlens: {own}: {type(error).__name__}: {error}. This is your own code; --debug shows the rest.")
        else:
            _tell(f"mastlens: a defect, {type(error).__name__}: {error}. Run again with --debug to see where.")
        return 1 if refused is None and own is None else 2
    if not is_first():
        return 0
    if arguments.json:
        summary = finite(outcome.machine)
        sys.stdout.write(json.dumps(summary, indent=2, ensure_ascii=False, default=str, allow_nan=False) + "\n")
    else:
        sys.stdout.write(outcome.told(quiet=arguments.quiet) + "\n")
    if outcome.failed:
        _tell(f"mastlens: {outcome.failed}")
    return 2 if outcome.failed else 0


def _tell(message: str) -> None:
    sys.stderr.write(message + "\n")


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    from mastlens.runs.ranks import is_first

    if issubclass(category, MastlensWarning) and is_first():
        _tell(f"mastlens: warning: {message}")
