"""Packages whose names are imported when they are first used, so that what is declared can be read without torch."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(
    package: str, table: Mapping[str, str], renamed: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: Its name.
        table: Name to the module, below the package, that has it.
        renamed: Former name, which still works with a warning, to its present one.
    """

    def get(name: str) -> Any:
        if renamed is not None and name in renamed:
            warnings.warn(f"{package}.{name} is now called {renamed[name]}.", DeprecationWarning, stacklevel=2)
            name = renamed[name]
        if name in table:
            return getattr(import_module(f"{package}.{table[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted(table)
