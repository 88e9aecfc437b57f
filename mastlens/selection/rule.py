"""What a rule is: a score out of tables. What a control is: a selection to hold a rule's against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from mastlens.errors import BadSetting


@dataclass(frozen=True)
class Rule:
    """A way to order tensors.

    Attributes:
        name: As ``--rule`` takes it.
        summary: What it is, in one line; the highest score ranks first.
        source: Where it is from.
        needs: Table (``geometry``, ``coupling``, ``causal``) to the columns of it that the score is made of.
        score: A pure function of the joined tables, and of ``parameters`` by keyword.
        terms: What to show beside the score, a function of the joined tables; by default the columns in ``needs``.
        of_increment: Whether it says something of the increment: then zero increments come last, whatever their
            score, and ``needs`` has ``delta_norm``.
        parameters: Name to default.
        passes: Which tensors it selects where nobody says how many, a function like ``score``; None where it has no
            cut of its own.
    """

    name: str
    summary: str
    source: str
    needs: Mapping[str, tuple[str, ...]]
    score: Callable[..., pd.Series]
    terms: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    of_increment: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)
    passes: Callable[..., pd.Series] | None = None

    def __post_init__(self) -> None:
        if self.of_increment and not any("delta_norm" in columns for columns in self.needs.values()):
            raise BadSetting(
                f"Rule '{self.name}' says something of the increment (of_increment), and its needs do not name "
                "delta_norm, by which zero increments are known. Add it to the columns of a table in needs."
            )


@dataclass(frozen=True)
class Pool:
    """What a control draws from.

    Attributes:
        candidates: ``layer``, ``projection``, ``name``, ``numel`` of every tensor that can be drawn, by layer, then
            q < k < v < o.
        reference: The ranking of the rule that it is matched to; without rows where it is matched to none.
        top: How many to draw where it is matched to none.
        seed: Of the draw.
    """

    candidates: pd.DataFrame
    reference: pd.DataFrame
    top: int
    seed: int


@dataclass(frozen=True)
class Control:
    """A selection that no score decides.

    Attributes:
        name: As ``--rule`` takes it.
        summary: What it is, in one line.
        source: Where it is from.
        draw: Returns the candidates with ``score`` and ``selected``. The score is a number in [0, 1) that gives the
            order, plus 1 where selected.
        matched: Whether it is matched to a rule's selection.
        seeded: Whether it is random.
        counted: Whether somebody has to say how many.
        elsewhere: Whether it draws from matrices that are in no table.
    """

    name: str
    summary: str
    source: str
    draw: Callable[[Pool], pd.DataFrame]
    matched: bool = False
    seeded: bool = False
    counted: bool = True
    elsewhere: bool = False
