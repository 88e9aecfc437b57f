"""What a metric is: one frozen dataclass in one file, whose fields are its settings. No torch, no pandas here.

A metric gives numbers item by item first, out of what was read of a split once for all metrics (``SplitReading``), and
aggregates of them after; a derived one gives aggregates of other metrics' items. Aggregates are made of the table of
items alone, so that those of two models can be set side by side later, item by item.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from mastlens.errors import BadSetting
from mastlens.registry import code_digest

if TYPE_CHECKING:
    import numpy as np

    from mastlens.evaluation.metrics.items import ItemSet
    from mastlens.evaluation.metrics.reading import SplitReading
    from mastlens.statistics import Functional, Interval

ANSWERS, OPTIONS, RESPONSES, GRADIENTS = "answers", "perturbed answers", "responses", "gradients"
"""What a metric needs to be read of a split: the answer's tokens, those of the other answers too, what the model wrote,
the loss's gradient."""
NEEDS = (ANSWERS, OPTIONS, RESPONSES, GRADIENTS)

FORGET, HOLDOUT, RETAIN, REAL, WORLD = "forget", "holdout", "retain", "real", "world"
SIDES = (FORGET, HOLDOUT, RETAIN, REAL, WORLD)
"""What a split is for, by how its name begins."""
TINY = 1e-10
"""What open-unlearning adds to denominators."""


def side_of(split: str) -> str:
    """Return what a split is for, as its name begins (see ``SIDES``); empty for any other name."""
    return next((side for side in SIDES if split.lower().startswith(side)), "")


def membership_pairs(splits: Sequence[str]) -> list[tuple[str, str]]:
    """Return every forget split with its holdout: the one whose name goes on in the same way, or the only one."""
    forget, holdout = ([split for split in splits if side_of(split) == side] for side in (FORGET, HOLDOUT))
    if len(forget) == len(holdout) == 1:
        return [(forget[0], holdout[0])]
    ends = {split[len(HOLDOUT) :].lower(): split for split in holdout}
    return [(one, ends[end]) for one in forget if (end := one[len(FORGET) :].lower()) in ends]


@dataclass(frozen=True)
class Part:
    """One number an item.

    Attributes:
        values: The numbers, one an item; NaN where an item has none.
        null: What chance gives, one an item or one for all; NaN where nothing is known.
    """

    values: "np.ndarray"
    null: "np.ndarray | float" = float("nan")


@dataclass(frozen=True)
class Aggregate:
    """One number of a split, or of two.

    Attributes:
        split: The split, or ``ONE / OTHER``.
        aggregate: Which one; ``mean`` where there is nothing to tell apart.
        number: The number and what each item has to say in it.
        n: Items behind it.
        null: What chance gives.
        items: Numbers whose mean it is, where it is a mean; they decide its interval and the paired test.
        nulls: What chance gives for each of them.
        interval: Its interval, where items and influences do not say it.
        note: What is to be known of it.
        repeated: Whether another metric of that name says it, too: then it is not counted twice.
    """

    split: str
    aggregate: str
    number: "Functional"
    n: int
    null: float = float("nan")
    items: "np.ndarray | None" = field(default=None, repr=False)
    nulls: "np.ndarray | None" = field(default=None, repr=False)
    interval: "Interval | None" = None
    note: str = ""
    repeated: bool = False


class Scores(ABC):
    """Numbers by item of one model: what aggregates are made of."""

    @abstractmethod
    def splits(self, metric: "Metric") -> list[str]:
        """Return the splits that there are numbers of this metric for."""

    @abstractmethod
    def of(self, metric: "Metric", split: str, part: str = "") -> Part:
        """Return the numbers of a split; raises ``MastlensError`` where there are none."""


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """A metric with its settings.

    Attributes:
        name: As ``--metrics`` takes it.
        summary: What it says, in one line.
        formula: How it is made, item by item and then.
        range: Where its numbers lie.
        bounds: The same of its aggregates, as two numbers.
        direction: Which way is forgetting.
        null: What chance gives.
        source: Where it is from.
        traps: What is known to mislead.
        differs: In what it differs from open-unlearning's of the same name; empty where in nothing.
        needs: What is read for it, of ``NEEDS``.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    range: ClassVar[str]
    direction: ClassVar[str]
    null: ClassVar[str]
    source: ClassVar[str]
    traps: ClassVar[tuple[str, ...]] = ()
    differs: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = (ANSWERS,)
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @property
    def takes(self) -> "tuple[Metric, ...]":
        """The metrics whose items it is made of; none where it has items of its own."""
        return ()

    @property
    def of_reference(self) -> str:
        """What it takes of the reference model, in words; empty where it needs none."""
        return ""

    def applies(self, splits: Sequence[str]) -> list[str]:
        """Return the splits that it is measured on: all of them.

        Raises:
            MastlensError: If these splits cannot give it.
        """
        return list(splits)

    def check(self, items: "ItemSet") -> None:
        """Raise ``MastlensError``, with file and line, unless a split can give it."""
        if OPTIONS in self.needs:
            items.check_perturbed(self.name)

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return its numbers of one split, part by part; ``""`` is the name of an only part.

        Args:
            read: What was read of it.
        """
        raise NotImplementedError(self.name)

    def note(self, read: "SplitReading") -> str:
        """Return what is to be known of its numbers of this split; empty where nothing is."""
        return ""

    @abstractmethod
    def aggregates(self, scores: Scores, reference: Scores | None) -> Iterator[Aggregate]:
        """Yield its aggregates.

        Args:
            scores: Numbers by item of the model.
            reference: Those of the reference model, where there is one.
        """

    @property
    def spelled(self) -> str:
        """The text that ``find_metric`` makes this metric of: what is not as by default stands behind the name."""
        own = [item for item in fields(self) if getattr(self, item.name) != item.default]
        return ":".join([self.name, *(f"{item.name}={getattr(self, item.name):g}" for item in own)])

    def record(self) -> dict[str, Any]:
        """Return what decides its numbers, for the run record."""
        values = {"name": self.name} | {item.name: getattr(self, item.name) for item in fields(self)}
        code = code_digest(type(self))
        return values if code is None else values | {"code": code}

    @classmethod
    def of_text(cls, settings: Sequence[str]) -> "Metric":
        """Return the metric with settings ``key=number``.

        Raises:
            MastlensError: For one that it does not have, or that is no number.
        """
        names = [item.name for item in fields(cls)]
        given: dict[str, float] = {}
        for text in settings:
            key, equals, value = text.partition("=")
            if not equals or key not in names:
                has = f"its settings are {', '.join(names)}" if names else "it has no settings"
                raise BadSetting(f"The metric {cls.name!r} has no setting {text!r}: {has}, written {cls.name}:KEY=N.")
            try:
                given[key] = float(value)
            except ValueError as error:
                raise BadSetting(f"The metric {cls.name!r}: {key}={value!r} is no number.") from error
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class MeanMetric(Metric):
    """A metric whose aggregates are means over items."""

    def taken(self, part: str, aggregate: str, values: "np.ndarray") -> "np.ndarray":
        """Return what is averaged: the numbers themselves."""
        return values

    def means(self, split: str) -> Mapping[str, str]:
        """Return aggregate to the part that it is the mean of, those that this split is for first."""
        return {"mean": ""}

    def aggregates(self, scores: Scores, reference: Scores | None) -> Iterator[Aggregate]:
        """Yield the means of every split."""
        import numpy as np

        from mastlens.statistics import mean_functional

        for split in scores.splits(self):
            for aggregate, part in self.means(split).items():
                found = scores.of(self, split, part)
                values = self.taken(part, aggregate, found.values)
                null = self.taken(part, aggregate, np.broadcast_to(found.null, values.shape).astype(float))
                known, chance = int((~np.isnan(values)).sum()), null[~np.isnan(null)]
                yield Aggregate(
                    split,
                    aggregate,
                    mean_functional(values, split),
                    known,
                    float(chance.mean()) if chance.size else float("nan"),
                    values,
                    null,
                )


@dataclass(frozen=True, kw_only=True)
class MembershipMetric(Metric):
    """A membership inference attack: a score an item, low where it was likely seen, and the area under its curve.

    The area is the probability that an item of the holdout scores above one of the forget split: 1 where forget items
    look seen, 0.5 where nothing tells them from items that never were.
    """

    range: ClassVar[str] = "0 to 1"
    direction: ClassVar[str] = (
        "towards 0.5, or what a model has that never saw them; far below 0.5 is itself a sign that they were treated"
    )
    null: ClassVar[str] = "0.5"
    traps: ClassVar[tuple[str, ...]] = (
        "Only a holdout drawn from the same distribution makes 0.5 mean anything: other topics, dates or lengths are "
        "told apart by any model (Duan et al. 2024, arXiv:2402.07841; Maini et al. 2024, arXiv:2406.06443).",
    )

    def applies(self, splits: Sequence[str]) -> list[str]:
        """Return the forget splits that have a holdout, and these."""
        pairs = membership_pairs(splits)
        if not pairs:
            raise BadSetting(
                f"The metric {self.name!r} compares what was to be forgotten with items of the same kind that were "
                "never seen: give a split whose name begins with 'holdout' and goes on as that of 'forget' does "
                f"(--split holdout=FILE beside forget, holdout-text beside forget-text). Given are {', '.join(splits)}."
            )
        return [split for split in splits if any(split in pair for pair in pairs)]

    def aggregates(self, scores: Scores, reference: Scores | None) -> Iterator[Aggregate]:
        """Yield the area of every forget split against the holdout."""
        from mastlens.statistics import auc_interval

        for split, holdout in self.pairs(scores):
            area, n = self.area(scores, split, holdout), len(scores.of(self, split).values)
            yield Aggregate(f"{split} / {holdout}", "auc", area, n, 0.5, interval=auc_interval(area))

    def pairs(self, scores: Scores) -> list[tuple[str, str]]:
        """Return every forget split with its holdout."""
        return membership_pairs(scores.splits(self))

    def area(self, scores: Scores, split: str, holdout: str) -> "Functional":
        """Return the area under the curve."""
        from mastlens.statistics import auc_functional

        sides = (scores.of(self, name).values for name in (split, holdout))
        return auc_functional(*sides, names=(split, holdout))
