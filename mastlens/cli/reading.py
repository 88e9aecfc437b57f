"""Declared settings as options of a parser, and what was typed as settings."""

import argparse
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from mastlens.errors import BadSetting
from mastlens.runs.settings import EVERY, Declared, Settings, bare, declared, flag_of, hints_of, is_required, options_of

S = TypeVar("S", bound=Settings)


def add_options(parser: argparse.ArgumentParser, settings: type[Settings]) -> None:
    """Add an option for each setting that can be typed."""
    headings: dict[str, Any] = {"": parser, EVERY: parser.add_argument_group(EVERY)}
    exclusive: dict[str, Any] = {}
    for item, said, kind in options_of(settings):
        if said.group not in headings:
            headings[said.group] = parser.add_argument_group(said.group)
        place = headings[said.group]
        if said.exclusive:
            if said.exclusive not in exclusive:
                exclusive[said.exclusive] = place.add_mutually_exclusive_group(required=True)
            place = exclusive[said.exclusive]
        if said.options is None:
            _add(place, item, said, kind)
            continue
        # An object of settings: its fields are options of their own.
        if said.switch:
            place.add_argument(flag_of(item), dest=item.name, action="store_true", help=_help(item, said))
        cls, hints = _object(kind), hints_of(_object(kind))
        for inner in fields(cls):
            if inner.name in said.options:
                dest = f"{item.name}.{inner.name}"
                _add(place, inner, declared(inner), bare(hints[inner.name]), said.options[inner.name], dest)
    every = headings[EVERY]
    every.add_argument("--json", action="store_true", help="a machine-readable summary, alone on stdout")
    every.add_argument("--quiet", action="store_true", help="no progress bars, and only what it comes to")
    every.add_argument(
        "--defaults",
        metavar="FILE",
        help="a TOML file with a table by the command's name: options that are not typed",
    )
    every.add_argument("--debug", action="store_true", help="show the traceback of an error")


def settings_from(settings: type[S], arguments: argparse.Namespace) -> S:
    """Return the settings that were typed.

    Raises:
        MastlensError: For a value that does not fit.
    """
    given = vars(arguments)
    values: dict[str, Any] = {}
    for item, said, kind in options_of(settings):
        if said.options is not None:
            if (value := _read_object(item, said, _object(kind), given)) is not None:
                values[item.name] = value
        elif item.name in given:
            values[item.name] = _read(given[item.name], flag_of(item), said, kind)
    return settings(**values, progress=not (given.get("json", False) or given.get("quiet", False)))


def _object(kind: Any) -> type[Any]:
    """Return the class of settings in a type such as ``TokenWeights | bool``."""
    return next(part for part in (typing.get_args(kind) or (kind,)) if part is not bool)


def _read_object(item: Field[Any], said: Declared, cls: type[Any], given: Mapping[str, Any]) -> Any:
    hints, values = hints_of(cls), {}
    for inner in fields(cls):
        dest = f"{item.name}.{inner.name}"
        if dest in given and said.options is not None:
            flag = said.options[inner.name]
            values[inner.name] = _read(given[dest], flag, declared(inner), bare(hints[inner.name]))
    if said.switch:
        if values and not given.get(item.name):
            own = list((said.options or {}).values())
            raise BadSetting(f"{', '.join(own[:-1])} and {own[-1]} go with {flag_of(item)}.")
        return cls(**values) if given.get(item.name) else None
    if not values:
        return None
    if missing := [inner.name for inner in fields(cls) if is_required(inner) and inner.name not in values]:
        options = said.options or {}
        given_too = " and ".join(options[name] for name in missing)
        raise BadSetting(f"{', '.join(options[name] for name in values)}: give {given_too}, too.")
    return cls(**values)


def _add(
    place: Any, item: Field[Any], said: Declared, kind: Any, flag: str | None = None, dest: str | None = None
) -> None:
    several = typing.get_origin(kind) in (tuple, list, Sequence)
    mapping = typing.get_origin(kind) is Mapping
    options: dict[str, Any] = {"help": _help(item, said), "default": argparse.SUPPRESS}
    if said.positional:
        del options["default"]
        options |= {"metavar": said.metavar or item.name.upper()} | ({"nargs": "+"} if several else {})
        if not is_required(item):
            options |= {"nargs": "*" if several else "?", "default": argparse.SUPPRESS}
        if said.rest:
            options["nargs"] = argparse.REMAINDER
        place.add_argument(item.name, **options).listing = said.listing
        return
    options["dest"] = dest or item.name
    if kind is bool:
        if item.default is None:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["action"] = "store_false" if item.default is True else "store_true"
        place.add_argument(flag or flag_of(item), **options)
        return
    if not said.exclusive:
        # What an object cannot be without is asked for once something of it is typed.
        options["required"] = dest is None and (is_required(item) or said.typed_required)
    options["metavar"] = said.metavar or _metavar(said, kind)
    if mapping or several:
        options["action"] = "append" if said.repeated else "extend"
        if not said.repeated and not said.separator:
            options["nargs"] = "*" if said.may_be_empty else "+"
        elif said.separator:
            options["action"] = "store"
    if several and not said.separator:
        options["type"] = _converter(said, typing.get_args(kind)[0])
    elif not mapping and not said.separator:
        options["type"] = _converter(said, kind)
    place.add_argument(flag or flag_of(item), *_former(said), **options).listing = said.listing
    for name, value in (said.switches or {}).items():
        former = {"dest": options["dest"], "const": value, "default": argparse.SUPPRESS}
        text = f"now {flag or flag_of(item)} {value}"
        place.add_argument(f"--{name.replace('_', '-')}", action="store_const", help=text, **former)


def _former(said: Declared) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in said.deprecated]


def _converter(said: Declared, kind: Any) -> Callable[[str], Any]:
    if said.parse is not None:
        return said.parse
    return kind if kind in (int, float) else str


def _metavar(said: Declared, kind: Any) -> str:
    if typing.get_origin(kind) is Mapping:
        return "NAME=FILE"
    return {int: "N", float: "X"}.get(kind, "TEXT")


def _help(item: Field[Any], said: Declared) -> str:
    text = said.help + (f", in {said.unit}" if said.unit else "")
    default = item.default if said.shown_default is None else said.shown_default
    if default is not MISSING and not isinstance(default, bool) and default not in (None, "", ()):
        text += f" (default {default})"
    return text.replace("%", "%%")


def _read(value: Any, flag: str, said: Declared, kind: Any) -> Any:
    """Return what was typed as the setting has it."""
    if typing.get_origin(kind) is Mapping:
        return _named(value, flag, said, typing.get_args(kind)[1])
    if said.separator:
        convert = _converter(said, typing.get_args(kind)[0])
        try:
            return tuple(convert(part) for part in value.split(said.separator))
        except ValueError as error:
            raise BadSetting(f"{flag} takes {said.metavar}: {error}.") from error
    return tuple(value) if isinstance(value, list) else value


def _named(given: Sequence[str], flag: str, said: Declared, kind: Any) -> dict[str, Any]:
    """Return name to value of every NAME=VALUE."""
    metavar = said.metavar or "NAME=FILE"
    values: dict[str, Any] = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not (name and mark and value):
            raise BadSetting(f"{flag} {text!r} is not {metavar}, e.g. {_EXAMPLES.get(metavar, metavar)}.")
        if name in values:
            raise BadSetting(f"{flag} {name} is given twice.")
        try:
            values[name] = _converter(said, kind)(value)
        except ValueError as error:
            why = f"{value!r} is no number" if metavar == "NAME=NUMBER" else str(error)
            raise BadSetting(f"{flag} takes {metavar}, and {name} is not: {why}.") from error
    return values


_EXAMPLES = {"NAME=FILE": "forget=forget-eval.jsonl", "NAME=NUMBER": "cosine=0.5"}
