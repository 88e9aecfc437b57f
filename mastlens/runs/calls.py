"""Functions that take settings: called with the object, or with its fields."""

import functools
import inspect
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any, TypeVar

from mastlens.errors import BadSetting, unknown
from mastlens.runs.limits import pattern_refusal
from mastlens.runs.settings import Settings, declared, hints_of, is_required, ordered, takes_several

S = TypeVar("S", bound=Settings)
T = TypeVar("T")


def takes(settings: type[S]) -> Callable[[Callable[[S], T]], Callable[..., T]]:
    """Let a function of settings be called with the object, with its fields, or with both: then the fields win.

    Its signature and the ``Args`` of its documentation are those of the fields.

    Raises:
        MastlensError: When it is called with a name that is none of the fields', or without one that must be given, and
            where a tokenizer gives one of its patterns up.
    """

    def decorate(function: Callable[[S], T]) -> Callable[..., T]:
        @functools.wraps(function)
        def call(*values: Any, **given: Any) -> T:
            chosen = make(settings, values, given)
            try:
                return function(chosen)
            except BaseException as error:  # what the library of tokenizers raises is no Exception
                if (refused := pattern_refusal(error)) is None:
                    raise
                raise refused from error

        call.__doc__ = _documented(inspect.cleandoc(function.__doc__ or ""), settings)
        call.__signature__ = _signature(function, settings)  # type: ignore[attr-defined]
        call.settings = settings  # type: ignore[attr-defined]
        del call.__wrapped__  # type: ignore[attr-defined]  # else inspect would show what it wraps
        return call

    return decorate


def make(settings: type[S], values: Sequence[Any] = (), given: Mapping[str, Any] | None = None) -> S:
    """Return settings from the values and names that their function was called with."""
    given = dict(given or {})
    if values and isinstance(values[0], settings):
        return replace(values[0], **given)
    places = _places(settings)
    named = {item.name: item for item in fields(settings)}
    for item in fields(settings):
        for old in declared(item).deprecated:
            if old in given and old not in named:
                warnings.warn(f"{old}= is now called {item.name}=.", DeprecationWarning, stacklevel=3)
                given.setdefault(item.name, given.pop(old))
        for old, value in (declared(item).switches or {}).items():
            if old in given and old not in named:
                warnings.warn(f"{old}=True is now {item.name}={value!r}.", DeprecationWarning, stacklevel=3)
                if given.pop(old):
                    given.setdefault(item.name, value)
    name = settings.function.rpartition(":")[2] or settings.command
    if wrong := next((key for key in given if key not in named), None):
        raise unknown(f"setting of {name}", wrong, named)
    rest = list(values)
    for item in places:
        if not rest:
            break
        several = takes_several(settings, item) and not (isinstance(rest[0], list | tuple | Mapping) and len(rest) == 1)
        value = tuple(rest) if several else rest[0]
        rest = [] if several else rest[1:]
        if item.name in given:
            raise BadSetting(f"{name}: {item.name} is given twice.")
        given[item.name] = value
    if rest:
        raise BadSetting(f"{name} takes {len(places)} values without a name; {len(values)} were given.")
    if missing := [item.name for item in fields(settings) if is_required(item) and item.name not in given]:
        raise BadSetting(f"{name} needs {', '.join(missing)}.")
    return settings(**given)


def _places(settings: type[Settings]) -> list[Field[Any]]:
    """Return the fields that are given without a name, in their order: first those of the command line."""
    return sorted(
        (item for item in fields(settings) if declared(item).positional or declared(item).placed),
        key=lambda item: not declared(item).positional,
    )


def _signature(function: Callable[..., Any], settings: type[Settings]) -> inspect.Signature:
    hints, placed = hints_of(settings), _places(settings)
    rest = [item for item in ordered(settings) if item not in placed]
    parameters = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if item in placed else inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if is_required(item) else None if item.default is MISSING else item.default,
            annotation=hints[item.name],
        )
        for item in [*placed, *sorted(rest, key=lambda item: not is_required(item))]
    ]
    returned = inspect.signature(function).return_annotation
    return inspect.Signature(parameters, return_annotation=returned)


def _documented(text: str, settings: type[Settings]) -> str:
    """Return documentation with the fields as its ``Args``, before ``Raises``."""
    lines = ["Args:"]
    for item in ordered(settings):
        said = declared(item)
        unit = f" ({said.unit})" if said.unit else ""
        line = f"{item.name}: {said.help}{unit}."
        lines += textwrap.wrap(line, 116, initial_indent="    ", subsequent_indent="        ")
    head, mark, rest = text.partition("\nRaises:")
    return f"{head.rstrip()}\n\n" + "\n".join(lines) + (f"\n\nRaises:{rest}" if mark else "\n")
