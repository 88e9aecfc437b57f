"""Objectives and their coefficients as tables, read from the objectives themselves."""

from typing import TYPE_CHECKING, Any

from mastlens.unlearning.coefficient import Known, as_typed, coefficients_of
from mastlens.unlearning.objectives import OBJECTIVES, Objective, OutputObjective, SteeringObjective

if TYPE_CHECKING:
    import pandas as pd


def describe_objectives() -> "pd.DataFrame":
    """Return one row an objective.

    Columns: ``objective``, ``summary``, ``on`` (output or activations), ``coefficients`` (with their defaults),
    ``needs``, ``presets``, ``source``.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "objective": name,
            "summary": kind.summary,
            "on": "activations" if issubclass(kind, SteeringObjective) else "output",
            "coefficients": ", ".join(f"{key} {known.shown}".rstrip() for key, known in own_first(kind).items()),
            "needs": str(kind.needs),
            "presets": ", ".join(kind.presets),
            "source": kind.source,
        }
        for name, kind in OBJECTIVES.items()
    )


def describe_coefficients() -> "pd.DataFrame":
    """Return one row an objective and coefficient.

    Columns: ``objective``, ``coefficient``, ``default``, ``meaning``, ``unit``, ``source``, ``presets`` (what each
    preset that fixes it sets it to).
    """
    import pandas as pd

    rows = []
    for name, kind in OBJECTIVES.items():
        for key, known in own_first(kind).items():
            fixed = {preset: _fixed(values, key) for preset, values in kind.presets.items()}
            rows.append(
                {
                    "objective": name,
                    "coefficient": key,
                    "default": known.shown,
                    "meaning": known.said.help,
                    "unit": known.said.unit,
                    "source": known.said.source,
                    "presets": ", ".join(f"{preset} {as_typed(v)}" for preset, v in fixed.items() if v is not None),
                }
            )
    return pd.DataFrame(rows)


def _fixed(values: Any, key: str) -> Any:
    """Return what a preset sets a coefficient to, of the texts that an objective reads too; None for nothing."""
    return values[key] if key in values else getattr(values.get("texts"), key, None)


def own_first(kind: type[Objective]) -> dict[str, Known]:
    """Return an objective's coefficients, those that all of its family have last."""
    shared = coefficients_of(OutputObjective).keys()
    known = kind.coefficients()
    return {key: known[key] for key in sorted(known, key=lambda key: key in shared)}


def objective_lines(asked: str | None = None) -> list[str]:
    """Return a line an objective: what it does, and its coefficients beside those that all have.

    Args:
        asked: One of your own, ``path/to/file.py:Name``, that is shown too, with all its coefficients and meanings.
    """
    lines = []
    for name, kind in OBJECTIVES.items():
        shared = coefficients_of(OutputObjective)
        own = [f"{key} {known.shown}".rstrip() for key, known in own_first(kind).items() if key not in shared]
        lines.append(f"{name}: {kind.summary}" + (f"; {', '.join(own)}" if own else ""))
    if asked is not None and asked not in OBJECTIVES:
        kind = OBJECTIVES.find(asked)
        lines.append(f"{asked}: {kind.summary}; its coefficients, --coefficient NAME=NUMBER:")
        lines += [f"  {key} {known.shown}: {known.said.help}" for key, known in own_first(kind).items()]
    return lines
