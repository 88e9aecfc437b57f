"""A coefficient: a field that is declared as settings are, and also knows its source and which values make sense."""

import functools
import math
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from mastlens.errors import BadSetting, unknown
from mastlens.runs.settings import Declared, bare, declared, hints_of

_CALLED = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}


@dataclass(frozen=True)
class Coefficient(Declared):
    """What is said of a coefficient, beside its name, type and default.

    Attributes:
        source: Where its default is from.
        above: Values must be above this.
        least: Values must be at least this.
    """

    source: str = ""
    above: int | float | None = None
    least: int | float | None = None

    def check(self, value: Any, what: str) -> None:
        """Raise for a value that makes no sense."""
        valid = self.valid()
        if valid is not None and value not in valid:
            raise unknown(self.kind or what, str(value), valid)
        if not isinstance(value, int | float):
            return
        if not math.isfinite(value):
            raise BadSetting(f"{what} must be a finite number, not {value}.")
        if self.above is not None and not value > self.above:
            raise BadSetting(f"{what} must be above {self.above:g}, it is {value}.")
        if self.least is not None and not value >= self.least:
            least = "cannot be negative" if self.least == 0 else f"must be at least {self.least:g}"
            raise BadSetting(f"{what} {least}, it is {value}.")


class Known(NamedTuple):
    """All that is known of a coefficient."""

    said: Coefficient
    type: Any
    default: Any

    @property
    def shown(self) -> str:
        """Its default as it is typed; empty where there is none."""
        if self.said.shown_default is not None:
            return self.said.shown_default
        return "" if self.default is None else as_typed(self.default)

    def read(self, value: Any, what: str) -> Any:
        """Return a value that was given, as its type has it.

        Raises:
            MastlensError: If it is of another type.
        """
        if self.type is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, self.type) or (self.type is not bool and isinstance(value, bool)):
            raise BadSetting(f"{what} is {_CALLED.get(self.type, self.type.__name__)}, not {value!r}.")
        return value


def as_typed(value: Any) -> str:
    """Return a coefficient's value as it is typed."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def coefficient(help: str, default: Any, **said: Any) -> Any:
    """Declare a field as a coefficient.

    Args:
        help: What it does, in a few words.
        default: Where neither a preset nor anybody says otherwise.
        **said: See ``Coefficient``.
    """
    return field(default=default, metadata={"declared": Coefficient(help, **said)})


@functools.cache
def coefficients_of(kind: type) -> dict[str, Known]:
    """Return name to what is known of each coefficient that a dataclass declares."""
    return {
        each.name: Known(said, bare(hints_of(kind)[each.name]), each.default)
        for each in fields(kind)
        if isinstance(said := declared(each), Coefficient)
    }


def check_coefficients(of: Any, name: str) -> None:
    """Raise if a coefficient of an object makes no sense.

    Args:
        of: The object.
        name: What it is called in a message.
    """
    for key, known in coefficients_of(type(of)).items():
        if (value := getattr(of, key)) is not None:
            known.said.check(value, f"{key} of {name}")
