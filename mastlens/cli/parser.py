"""The parser of the command line, made from what the commands declare."""

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from mastlens import __version__
from mastlens.cli.reading import add_options
from mastlens.cli.registry import COMMANDS, NOUNS, Command, handler
from mastlens.errors import unknown
from mastlens.runs.ranks import may_tell
from mastlens.runs.settings import GROUPS

QUESTION = "Where in the weights did RLVR put a behaviour, and can exactly that be taken out again?"


class ShowHelp(argparse.Action):
    """Shows the help, which may say more of what was typed before it."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Print the help and end."""
        if isinstance(parser, Parser):
            parser.given = vars(namespace)
        parser.print_help()
        parser.exit()


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest valid words, and prints one message for a mistake."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, add_help=False, **options)
        self.given: dict[str, Any] = {}
        self.add_argument("-h", "--help", action=ShowHelp, nargs=0, help="show this help message and exit")

    def _get_formatter(self) -> argparse.HelpFormatter:
        formatter = super()._get_formatter()
        if isinstance(formatter, Help):
            formatter.given = self.given
        return formatter

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, alone, and exit with 2."""
        if wrong := re.match(r"argument .*: invalid choice: '(.*?)' \(choose from (.*)\)", message):
            names = [name.strip("' ") for name in wrong[2].split(",")]
            message = str(unknown("command", wrong[1], names))
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n" if may_tell() else None)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse the whole command line; an option that does not exist is told with the nearest ones."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            parser = parser_of(self, list(sys.argv[1:] if args is None else args))
            options = [flag for action in parser._actions for flag in action.option_strings]
            wrong = rest[0].partition("=")[0]
            parser.error(str(unknown("option", wrong, options)) if wrong.startswith("-") else f"not expected: {wrong}")
        return found


def parser_of(parser: argparse.ArgumentParser, words: Iterable[str]) -> argparse.ArgumentParser:
    """Return the parser of the command that was typed."""
    for word in words:
        actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not actions:
            break
        parser = actions[0].choices.get(word, parser)
    return parser


class Help(argparse.RawDescriptionHelpFormatter):
    """Adds what there is to choose from, which is looked up only when somebody asks for help."""

    given: Mapping[str, Any] = MappingProxyType({})
    """What was typed before the help was asked for, by name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        listing = getattr(action, "listing", None)
        takes = bool(listing) and bool(inspect.signature(listing).parameters)
        more = [] if listing is None else listing(self.given) if takes else listing()
        lines = [str(action.help), *more]
        return "\n".join(line if number == 0 else line.replace("%", "%%") for number, line in enumerate(lines))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [line for part in text.splitlines() for line in super(Help, self)._split_lines(part, width)]


def build_parser(only: str | None = None) -> Parser:
    """Return the parser of the whole command line.

    Args:
        only: The first word that was typed: options are made for its commands alone, the others are only named. None
            for everything.
    """
    parser = Parser(
        prog="mastlens",
        usage="mastlens COMMAND [options]",
        description=QUESTION,
        formatter_class=Help,
        epilog=overview(),
    )
    parser.add_argument("--version", action="version", version=f"mastlens {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh", "fish"),
        metavar="SHELL",
        help="print the completion script of bash, zsh or fish",
    )
    subparsers = parser.add_subparsers(
        dest="command", prog="mastlens", required=True, metavar="COMMAND", help=argparse.SUPPRESS
    )

    nouns: dict[str, Any] = {}
    for entry in COMMANDS:
        noun, _, action = entry.settings.command.rpartition(" ")
        place = subparsers
        if noun:
            if noun not in nouns:
                added = subparsers.add_parser(noun, description=NOUNS[noun])
                nouns[noun] = added.add_subparsers(dest="action", required=True, metavar="ACTION")
            place = nouns[noun]
        _add_command(place, action, entry, only)
    return parser


class PrintCompletion(argparse.Action):
    """Prints a shell's completion script, made by shtab from the parser itself."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Print the script and end."""
        try:
            import shtab  # takes longer to import than the whole parser
        except ImportError:
            parser.error("completion needs shtab: pip install 'mastlens[completion]'")
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                action.help = "command"  # shtab leaves out what the help does not show
        sys.stdout.write(shtab.complete(parser, shell=values))
        parser.exit(0)


def _add_command(place: Any, name: str, entry: Command, only: str | None) -> None:
    settings = entry.settings
    example = f"example:\n  mastlens {settings.example}" if settings.example else None
    added = place.add_parser(
        name,
        help=settings.summary,
        description=f"{settings.summary[:1].upper()}{settings.summary[1:]}.",
        epilog=example,
        formatter_class=Help,
    )
    added.set_defaults(handler=handler(entry))
    if only is None or only == settings.command.split()[0]:
        add_options(added, settings)


def overview() -> str:
    """Return every command with its summary, group by group."""
    by_group: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
    for entry in COMMANDS:
        by_group[entry.settings.group].append((entry.settings.command, entry.settings.summary))
    lines = []
    for group, rows in by_group.items():
        if rows:
            lines += [f"{group}: {GROUPS[group]}", *(f"  {name:<22}{summary}" for name, summary in rows), ""]
    return "\n".join([*lines, "mastlens COMMAND --help shows the options of a command, with an example."])
