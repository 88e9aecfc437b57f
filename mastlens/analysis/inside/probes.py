"""Linear probes: a direction from half of the texts, how well it tells the other half, and the same of shuffled labels.

By the difference of the classes' means, or by logistic regression (scikit-learn). Texts of one prompt are never on both
sides, go together when labels are shuffled, and count as one in an interval. Everything in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mastlens.errors import BadSetting, MissingPackage
from mastlens.statistics import Functional, auc_functional
from mastlens.statistics.units import FEWEST

_ITERATIONS, _TOLERANCE = 200, 1e-8


@dataclass(frozen=True)
class Halves:
    """Texts that directions are found on, and texts that they are held against.

    Attributes:
        labels: Of each text.
        held: True for the texts that are held out.
        shuffled: The labels shuffled, a row a time: within each half, so that both keep their classes' sizes.
        groups: Of each text: texts of one are of one prompt.
    """

    labels: Bool[np.ndarray, " texts"]
    held: Bool[np.ndarray, " texts"]
    shuffled: Bool[np.ndarray, "shuffles texts"]
    groups: Int[np.ndarray, " texts"]


@dataclass(frozen=True)
class Probe:
    """A direction, and what it tells.

    Attributes:
        direction: In the units of the states, of no particular length; zero where all states are one.
        area: Area under the curve of the texts that were held out, with prompts for units.
        shuffled: The same of directions that were found from shuffled labels, held against these.
        turned: Those directions.
    """

    direction: Float[np.ndarray, " width"]
    area: Functional
    shuffled: list[float]
    turned: list[Float[np.ndarray, " width"]]


def halve(
    labels: Bool[np.ndarray, " texts"], groups: Int[np.ndarray, " texts"], *, shuffles: int, seed: int, label: str
) -> Halves:
    """Return halves with as much of each class as can be, decided by the seed.

    Args:
        labels: Of each text.
        groups: Texts of one group stay together.
        shuffles: How often labels are shuffled.
        seed: Decides it.
        label: What the label is called in a message.

    Raises:
        MastlensError: If there is one class only, or too few texts of one in either half.
    """
    counts = int(labels.sum()), int((~labels).sum())
    if not min(counts):
        raise BadSetting(
            f"All {len(labels)} texts are of one class: {label} is {'true' if counts[0] else 'false'} of every one. A "
            "probe needs texts of both."
        )
    generator = np.random.default_rng([seed, len(labels)])
    places = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    strata: dict[tuple[bool, bool], list[np.ndarray]] = {}
    for number in generator.permutation(len(places)):
        own = labels[places[number]]
        strata.setdefault((bool(own.any()), bool(own.all())), []).append(places[number])
    held = np.zeros(len(labels), dtype=bool)
    for of_kind in strata.values():
        for own in of_kind[1::2]:
            held[own] = True
    sides = [(side, kind) for side in (held, ~held) for kind in (True, False)]
    least = min(len(np.unique(groups[side & (labels == kind)])) for side, kind in sides)
    if least < FEWEST:
        raise BadSetting(
            f"Too few texts for a probe: {label} is true of {counts[0]} and false of {counts[1]}, which leaves {least} "
            f"of one class in one half, those of one prompt counted as one. At least {FEWEST} of each are needed in "
            "both, of different prompts."
        )
    draws = [_shuffled(labels, places, held, generator) for _ in range(shuffles)]
    return Halves(labels, held, np.array(draws), groups)


def _shuffled(
    labels: np.ndarray, places: Sequence[np.ndarray], held: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return the labels with those of groups exchanged that are of one half and of one size."""
    alike: dict[tuple[bool, int], list[np.ndarray]] = {}
    for own in places:
        alike.setdefault((bool(held[own[0]]), len(own)), []).append(own)
    found = labels.copy()
    for those in alike.values():
        for to, source in zip(those, generator.permutation(len(those)), strict=True):
            found[to] = labels[those[source]]
    return found


def mean_directions(
    states: Float[np.ndarray, "texts width"], labels: Sequence[Bool[np.ndarray, " texts"]]
) -> list[Float[np.ndarray, " width"]]:
    """Return for each labelling the difference of the classes' means: those with the label minus those without."""
    return [states[one].mean(axis=0) - states[~one].mean(axis=0) for one in labels]


def logistic_directions(
    states: Float[np.ndarray, "texts width"], labels: Sequence[Bool[np.ndarray, " texts"]], penalty: float
) -> list[Float[np.ndarray, " width"]]:
    """Return for each labelling the coefficients of a logistic regression on the states.

    With a penalty on their length, coefficients lie where the states do: of fewer texts than entries, the regression
    has as many unknowns as texts, and the same solution.

    Args:
        states: The states.
        labels: Of each, one labelling after another.
        penalty: L2, on states in units of their spread.

    Raises:
        MastlensError: If scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingPackage(
            "Logistic probes need scikit-learn: pip install 'mastlens[probes]', or take --probes mean."
        ) from error
    spread = states.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    scaled = (states - states.mean(axis=0)) / scale
    texts, width = scaled.shape
    basis = np.linalg.svd(scaled, full_matrices=False)[2].T if width > texts else np.eye(width)
    model = LogisticRegression(C=1 / penalty, solver="newton-cholesky", max_iter=_ITERATIONS, tol=_TOLERANCE)
    return [basis @ model.fit(scaled @ basis, one).coef_[0] / scale for one in labels]


def probe(kind: str, states: Float[np.ndarray, "texts width"], halves: Halves, penalty: float) -> Probe:
    """Return a direction of these states, and what it tells.

    Args:
        kind: ``mean`` or ``logistic``.
        states: Of all texts.
        halves: Which of them a direction is found on.
        penalty: See ``logistic_directions``.
    """
    # From the first text on: where all states are one, that is exactly nothing, and no rounding that a probe can learn.
    wide = states.astype(np.float64)
    wide = wide - wide[0]
    labellings = [halves.labels, *halves.shuffled]
    trained = [one[~halves.held] for one in labellings]
    own = wide[~halves.held]
    found = mean_directions(own, trained) if kind == "mean" else logistic_directions(own, trained, penalty)
    areas = []
    for direction, labels in zip(found, labellings, strict=True):
        scores, tested = wide[halves.held] @ direction, labels[halves.held]
        areas.append(auc_functional(scores[~tested], scores[tested]))
    own, of = halves.labels[halves.held], halves.groups[halves.held]
    area = areas[0].clustered({"low": of[~own], "high": of[own]})
    return Probe(found[0], area, [one.value for one in areas[1:]], found[1:])


def cosine(one: Float[np.ndarray, " width"], other: Float[np.ndarray, " width"]) -> float:
    """Return the cosine of two directions; NaN where one of them is zero."""
    sizes = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / sizes if sizes > 0 else float("nan")
