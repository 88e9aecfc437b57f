"""Settings as a command line, and as a record: what to type to get them again."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any

from mastlens.errors import MastlensError, NotSupported
from mastlens.runs.settings import Declared, Settings, at_default, declared, flag_of

_PLACE = ("out", "overwrite", "progress")  # where a result went, and how: a folder may be moved


def record(settings: Settings) -> dict[str, Any]:
    """Return what ``run.json`` keeps of a command.

    Returns:
        ``name``; ``settings``: what was given and is not at its default, paths as they were given; ``line``: what to
        type, without the output folder; None where Python alone can give what was given; ``out``: whether the line
        wants an output folder.
    """
    given = {
        item.name: _plain(getattr(settings, item.name))
        for item in fields(settings)
        if item.name not in _PLACE and not at_default(settings, item)
    }
    writes = getattr(settings, "out", None) is not None
    bare = replace(settings, out=None) if writes else settings
    try:
        line = typed(replace(bare, overwrite=False) if hasattr(bare, "overwrite") else bare)
    except MastlensError:
        line = None
    return {"name": settings.command, "settings": given, "line": line, "out": writes}


def typed(settings: Settings, *, out: str | None = None) -> str:
    """Return the command line that gives these settings: what is not at its default.

    Args:
        settings: The settings.
        out: Where it should write instead.
    """
    return shlex.join(["mastlens", *settings.command.split(), *words(settings, out=out)])


def following(settings: Settings) -> str:
    """Return the command line to type next, with these settings' paths in it; empty where nothing follows.

    What was not given stands in capitals, as in the help.
    """
    if not settings.then:
        return ""

    def said(name: str) -> str:
        value = getattr(settings, name)
        path = isinstance(value, str | os.PathLike) or hasattr(value, "fingerprint")
        return shlex.quote(_shown(value)) if path else name.upper()

    shown = {item.name: said(item.name) for item in fields(settings)}
    return f"mastlens {settings.then.format_map(shown)}"


def words(settings: Settings, *, out: str | None = None) -> list[str]:
    """Return the words behind the command's name.

    Raises:
        MastlensError: If something was given that only Python takes.
    """
    if out is not None:
        settings = replace(settings, out=out)
    first: list[str] = []
    last: list[str] = []
    rest: list[str] = []
    for item in fields(settings):
        said, value = declared(item), getattr(settings, item.name)
        if at_default(settings, item) or item.name == "progress":
            continue
        if said.python_only:
            raise NotSupported(f"{item.name} cannot be typed: {settings.command} was called from Python with it.")
        if said.rest:
            rest += [str(part) for part in value]
        elif said.positional:
            last += [str(part) for part in (value if isinstance(value, list | tuple) else [value])]
        else:
            first += _option_words(item, said, value)
    # Values without an option come first: behind an option that takes several they would be taken for its own.
    return [*last, *first, *rest]


def _option_words(item: Field[Any], said: Declared, value: Any) -> list[str]:
    flag = flag_of(item)
    if said.options is not None:
        found = [flag] if said.switch else []
        if value is True:
            return found
        for inner in fields(value):
            if inner.name in said.options and not at_default(value, inner):
                found += _value_words(said.options[inner.name], getattr(value, inner.name), declared(inner))
        return found
    return _value_words(flag, value, said)


def _value_words(flag: str, value: Any, said: Declared) -> list[str]:
    if value is True or (value is False and flag.startswith("--no-")):
        return [flag]
    if value is False:
        return [flag] if said.flag else [flag.replace("--", "--no-", 1)]
    if isinstance(value, Mapping):
        return [flag, *(f"{key}={_shown(part)}" for key, part in value.items())]
    if isinstance(value, list | tuple):
        if said.repeated:
            return [word for part in value for word in (flag, _shown(part))]
        if said.separator:
            return _one_word(flag, said.separator.join(map(_shown, value)))
        return [flag, *map(_shown, value)]
    return _one_word(flag, _shown(value))


def _one_word(flag: str, text: str) -> list[str]:
    """Return an option with its value; one that begins with a dash is taken for an option where it stands alone."""
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _shown(value: Any) -> str:
    if hasattr(value, "fingerprint"):  # an open checkpoint
        return str(value.spec)
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if hasattr(value, "fingerprint"):  # an open checkpoint
        return str(value.spec)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
