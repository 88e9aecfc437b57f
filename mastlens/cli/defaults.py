"""Options that are not typed, out of a TOML file: ``mastlens unlearn --defaults long.toml --lr 1e-5``.

A table bears the command's name, ``[unlearn]`` or ``[edit.apply]``, and its keys are options without their dashes, or
settings as Python has them. What is typed wins over what the file says.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mastlens.cli.parser import Parser, parser_of
from mastlens.errors import BadFile, BadSetting, unknown
from mastlens.runs.reading import read_toml

OPTION = "--defaults"


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Return what was typed, with the options of a file of defaults for what was not.

    Raises:
        MastlensError: If the file cannot be read, or names an option that the command does not have.
    """
    file = _file(words)
    if file is None:
        return parser.parse_args(words)
    own = parser_of(parser, words)
    command = own.prog.removeprefix("mastlens ").split()
    required = [action for action in own._actions if action.option_strings and action.required]
    groups = [group for group in own._mutually_exclusive_groups if group.required]
    for each in (*required, *groups):
        each.required = False
    typed = parser.parse_args(words)
    for action in own._actions:  # what stands in a file are options alone
        action.required = False
    said, _ = own.parse_known_args(list(_words(own, _table(Path(file), command), file)))
    exclusive = [{action.dest for action in group._group_actions} for group in own._mutually_exclusive_groups]
    for dest, value in vars(said).items():
        others = next((dests for dests in exclusive if dest in dests), {dest})
        positional = any(action.dest == dest and not action.option_strings for action in own._actions)
        if not positional and dest != "handler" and _untouched(own, typed, others):
            setattr(typed, dest, value)
    missing = [action.option_strings[0] for action in required if not hasattr(typed, action.dest)]
    for group in groups:
        if not any(hasattr(typed, action.dest) for action in group._group_actions):
            missing.append(" or ".join(action.option_strings[0] for action in group._group_actions))
    if missing:
        raise BadSetting(f"Neither typed nor in {file}: {', '.join(missing)}.")
    return typed


def _untouched(own: argparse.ArgumentParser, typed: argparse.Namespace, dests: set[str]) -> bool:
    """Return whether nothing of these was typed; of switches that are there anyway, whether they are as they were."""
    return all(not hasattr(typed, dest) or getattr(typed, dest) == own.get_default(dest) for dest in dests)


def _file(words: Sequence[str]) -> str | None:
    for place, word in enumerate(words):
        if word.startswith(f"{OPTION}="):
            return word.partition("=")[2]
        if word == OPTION and place + 1 < len(words):
            return words[place + 1]
    return None


def _table(path: Path, command: Sequence[str]) -> Mapping[str, Any]:
    """Return the table of a command."""
    table: Any = read_toml(path)
    for name in command:
        if not isinstance(table, Mapping) or name not in table:
            raise BadFile(f"{path} says nothing of {' '.join(command)}: it has no table [{'.'.join(command)}].")
        table = table[name]
    if not isinstance(table, Mapping):
        raise BadFile(f"{path}: [{'.'.join(command)}] is no table.")
    return table


def _words(own: argparse.ArgumentParser, table: Mapping[str, Any], file: str) -> Iterator[str]:
    """Yield the options that a table stands for, as one types them."""
    known = {_plain(name): action for action in own._actions if action.option_strings for name in _names(action)}
    for key, value in table.items():
        if (action := known.get(_plain(key))) is None:
            raise BadFile(f"{file}: {unknown('option', key, sorted(known), of=own.prog)}")
        flag = action.option_strings[0]
        if isinstance(value, bool):
            negative = isinstance(action, argparse._StoreFalseAction) and _plain(key) != _plain(flag)
            if isinstance(action, argparse.BooleanOptionalAction):
                yield flag if value else action.option_strings[1]
            elif value is not negative:
                yield flag
        elif isinstance(value, Mapping):
            yield from (flag, *(f"{name}={part}" for name, part in value.items()))
        elif isinstance(value, list) and isinstance(action, argparse._AppendAction):
            yield from (word for part in value for word in (flag, str(part)))
        elif isinstance(value, list):
            yield from (flag, *map(str, value)) if action.nargs else (flag, ",".join(map(str, value)))
        else:
            yield f"{flag}={value}"


def _names(action: argparse.Action) -> list[str]:
    return [*action.option_strings, action.dest]


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")
