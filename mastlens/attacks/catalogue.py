"""All attacks by name."""

import textwrap
from dataclasses import fields
from typing import TYPE_CHECKING

from mastlens.attacks.method import AttackMethod
from mastlens.registry import Registry, subclasses_of
from mastlens.runs.settings import declared

if TYPE_CHECKING:
    import pandas as pd

ATTACKS: Registry[type[AttackMethod]] = Registry(
    "attack", accepts=subclasses_of(AttackMethod), package="mastlens.attacks.methods", group="mastlens.attacks"
)
"""Name to attack."""

register_attack = ATTACKS.register
"""Adds an attack of one's own; usable as a decorator of its class."""


def describe_attacks() -> "pd.DataFrame":
    """Return every attack: ``attack``, ``summary``, ``uses``, ``needs``, ``settings`` with defaults, ``source``."""
    import pandas as pd

    return pd.DataFrame(
        {
            "attack": name,
            "summary": method.summary,
            "uses": "; ".join(f"--{key}: {what}" for key, what in method.uses.items()),
            "needs": ", ".join(f"--{key}" for key in method.needs),
            "settings": ", ".join(f"{item.name}={shown(item.default)}" for item in fields(method)),
            "source": method.source,
        }
        for name, method in ATTACKS.items()
    )


def is_curve(name: str, table: "pd.DataFrame") -> bool:
    """Return whether an attack is drawn over its steps; of one that is not known here, whether it has several."""
    return ATTACKS[name].curve if name in ATTACKS else bool((table["step"] > 0).any())


def attack_lines() -> list[str]:
    """Return every attack with its summary, for the help."""
    lines: list[str] = []
    for name, method in ATTACKS.items():
        lines += textwrap.wrap(f"{name}: {method.summary}", 88, subsequent_indent="    ")
    return [*lines, "path/to/file.py:Name for one of your own, whose settings are given by --set"]


def foreign_lines() -> list[str]:
    """Return the settings of attacks that installed packages bring, for the help: they have no options of their own."""
    lines: list[str] = []
    for name, method in ATTACKS.items():
        if not method.__module__.startswith(f"{ATTACKS.package}."):
            for item in fields(method):
                lines.append(f"{name}: {item.name}, {declared(item).help} (default {shown(item.default)})")
    return lines


def shown(value: object) -> str:
    """Return a default as text."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
