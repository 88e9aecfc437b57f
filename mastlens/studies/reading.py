"""From a parsed TOML table to a frozen dataclass: every key known, every value of its type."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mastlens.errors import BadSetting, MastlensError, unknown

T = TypeVar("T")


def from_table(cls: type[T], table: Any, where: str) -> T:
    """Return the dataclass that a table describes; lists become tuples, whole numbers do where fractions are wanted.

    Args:
        cls: A dataclass whose fields are str, bool, int, float, other dataclasses, tuples or mappings of these, or
            optional.
        table: What the file says.
        where: What to call the place in a message, e.g. ``study.toml, [grid]``.

    Raises:
        MastlensError: For an unknown or missing key, or a value of another type.
    """
    if not isinstance(table, Mapping):
        raise BadSetting(f"{where}: a table is expected, this is {_kind(table)}.")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    hints = get_type_hints(cls)
    for key in table:
        if key not in fields:
            raise located(unknown("key", str(key), fields), where)
    values = {key: as_type(value, hints[key], f"{where}, {key}") for key, value in table.items()}
    empty = dataclasses.MISSING
    missing = [n for n, f in fields.items() if n not in values and f.default is empty and f.default_factory is empty]
    if missing:
        raise BadSetting(f"{where}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.")
    try:
        return cls(**values)
    except MastlensError as error:
        raise located(error, where) from error


def located(error: MastlensError, where: str) -> MastlensError:
    """Return the error with its place in front."""
    return type(error)(f"{where}: {error}")


def as_type(value: Any, wanted: Any, where: str) -> Any:
    """Return a parsed value as the type that an annotation names."""
    origin, inside = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return as_type(value, next(part for part in inside if part is not type(None)), where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise BadSetting(f"{where}: a list is expected, e.g. [{_example(inside[0])}]; this is {_kind(value)}.")
        numbered = dataclasses.is_dataclass(inside[0])
        return tuple(
            as_type(part, inside[0], f"{where} {i}" if numbered else where) for i, part in enumerate(value, start=1)
        )
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise BadSetting(f"{where}: a table is expected, this is {_kind(value)}.")
        return {str(key): as_type(part, inside[1], f"{where}, {key}") for key, part in value.items()}
    if wanted is Any:
        return value
    if dataclasses.is_dataclass(wanted):
        return from_table(wanted, value, where)  # pyright: ignore[reportArgumentType] - a class, not an instance
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise BadSetting(f"{where}: {_NAMES.get(wanted, wanted)} is expected, this is {_kind(value)}.")
    return value


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    return f"{_NAMES.get(type(value), 'a list')} ({value!r})"


def _example(wanted: Any) -> str:
    return {float: "1e-4", int: "0", str: '"mast"'}.get(wanted, "...")
