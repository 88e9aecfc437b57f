"""What ``estimate`` takes and tells."""

from dataclasses import replace
from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome
from mastlens.cli.tables import show
from mastlens.errors import BadSetting

if TYPE_CHECKING:
    from mastlens.estimating.needs import Estimate
    from mastlens.estimating.settings import EstimateSettings


def of_words(settings: "EstimateSettings") -> "EstimateSettings":
    """Return the settings with those of the command line in place of its words.

    Raises:
        MastlensError: If there are none, or a value does not fit.
    """
    from mastlens.cli.parser import build_parser
    from mastlens.cli.reading import settings_from
    from mastlens.cli.registry import COMMANDS

    words = list(settings.what)
    if not words:
        raise BadSetting("There is nothing to estimate: mastlens estimate evaluate --model ..., as the command itself.")
    arguments = build_parser(words[0]).parse_args(words)
    of = next(entry.settings for entry in COMMANDS if entry.settings.command == _command(words, arguments))
    return replace(settings, what=settings_from(of, arguments))


def _command(words: list[str], arguments) -> str:
    action = getattr(arguments, "action", None)
    return arguments.command if action is None else f"{words[0]} {action}"


def estimate(result: "Estimate", settings: "EstimateSettings") -> Outcome:
    """Tell what a command will need."""
    rows = result.table.to_dict("records")
    return Outcome(show(result.table), {"command": result.command, "estimate": rows, "probes": result.settings})
