"""Options that several commands share."""

import argparse
from collections.abc import Sequence

from mastlens.errors import BadSetting


def path_help(role: str) -> str:
    """Return the help text of a checkpoint argument."""
    return f"{role}: a folder, a hub id with an optional @revision, or organism:NAME/STAGE"


def add_out(parser: argparse.ArgumentParser, *, required: bool = True, default: str | None = None) -> None:
    """Add --out and --overwrite."""
    parser.add_argument("--out", required=required, default=default, metavar="DIR", help="the run's output folder")
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add --overwrite."""
    parser.add_argument("--overwrite", action="store_true", help="replace what was made from other inputs or settings")


def add_no_chat_template(parser: argparse.ArgumentParser) -> None:
    """Add --no-chat-template."""
    parser.add_argument(
        "--no-chat-template", action="store_true", help="prompt with the bare problem even if there is a template"
    )


def add_problems(parser: argparse.ArgumentParser) -> None:
    """Add --forget and --retain."""
    parser.add_argument("--forget", required=True, metavar="FILE", help="problems to forget, JSON lines")
    parser.add_argument("--retain", metavar="FILE", help="problems to keep, JSON lines")


def named_files(given: Sequence[str], option: str = "--split") -> dict[str, str]:
    """Return name to file of every ``NAME=FILE``.

    Args:
        given: What the option was given.
        option: Its name, for messages.

    Raises:
        MastlensError: If one is not of that form, or a name comes twice.
    """
    files: dict[str, str] = {}
    for text in given:
        name, mark, path = text.partition("=")
        if not (name and mark and path):
            raise BadSetting(f"{option} {text!r} is not NAME=FILE, e.g. forget=forget-eval.jsonl.")
        if name in files:
            raise BadSetting(f"{option} {name} is given twice.")
        files[name] = path
    return files
