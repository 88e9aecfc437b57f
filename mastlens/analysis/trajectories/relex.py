"""Temporal rank-1 analysis of a trajectory of one tensor (RELEX, arXiv:2605.21468), from inner products alone.

With M the T x d matrix of updates delta_t = theta_t - theta_0, everything here follows from the T x T Gram matrix
G = M M': the direction v = M' u / s of the first singular triple, the coefficients c_t = <delta_t, v>, their line,
and every prediction, which is a combination of the observed updates. M itself is never held.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True)
class Rank1:
    """The temporal rank-1 model of one tensor: delta(step) = (intercept + slope * step) * v.

    Attributes:
        weights: v as a combination of the updates that it was fitted on: v = sum of weights[t] * delta_t.
        coefficients: c_t of every observed update, also of those after the fit.
        singular_values: Of M over the fitted steps, descending.
        slope: Of the ordinary least squares line of c_t on the step number.
        intercept: Of the same line, at step 0.
        linearity: R^2 of that line; NaN where the coefficients do not vary.
    """

    weights: Float[ndarray, " fitted"]
    coefficients: Float[ndarray, " steps"]
    singular_values: Float[ndarray, " fitted"]
    slope: float
    intercept: float
    linearity: float

    @property
    def explained_variance(self) -> float:
        """The share s_1^2 / sum of s^2 of the updates' energy (uncentred) that lies along v; NaN without any."""
        energy = self.singular_values**2
        return float(energy[0] / energy.sum()) if energy.sum() > 0 else float("nan")

    def coefficient(self, step: int | float) -> float:
        """Return the line's coefficient at a step."""
        return self.intercept + self.slope * step

    def extrapolation(self, step: int | float) -> Float[ndarray, " fitted"]:
        """Return the predicted update at ``step`` as a combination of the fitted updates, by the line.

        At an observed step this is what RELEX calls ``fit_reconstruct``.
        """
        return self.coefficient(step) * self.weights

    def reconstruction(self, index: int) -> Float[ndarray, " fitted"]:
        """Return the observed update number ``index`` projected on v, as a combination of the fitted updates."""
        return float(self.coefficients[index]) * self.weights


def fit_rank1(gram: Float[ndarray, "steps steps"], steps: Sequence[int | float], fitted: int | None = None) -> Rank1:
    """Fit the temporal rank-1 model to the first ``fitted`` updates.

    The line is fitted on step numbers. Where these are evenly spaced it is RELEX's line on the row index; where they
    are not, a row index would bend a run that is straight. v's sign is arbitrary; it is chosen so that the last
    fitted coefficient is not negative.

    Args:
        gram: Inner products of all updates, float64.
        steps: Step number of each, ascending.
        fitted: How many of them may be looked at; by default all. At least two.
    """
    fitted = len(steps) if fitted is None else fitted
    values, vectors = np.linalg.eigh(gram[:fitted, :fitted])
    singular_values = np.sqrt(np.clip(values[::-1], 0.0, None))
    top = float(singular_values[0])
    u = vectors[:, -1] * (1.0 if vectors[-1, -1] >= 0 else -1.0)
    weights = u / top if top > 0 else np.zeros(fitted)
    coefficients = gram[:, :fitted] @ weights
    slope, intercept, linearity = fit_line(np.asarray(steps[:fitted], dtype=float), coefficients[:fitted])
    return Rank1(weights, coefficients, singular_values, slope, intercept, linearity)


def fit_line(x: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> tuple[float, float, float]:
    """Return slope, intercept and R^2 of the ordinary least squares line; R^2 is NaN where ``y`` does not vary."""
    centred_x, centred_y = x - x.mean(), y - y.mean()
    slope = float(centred_x @ centred_y / (centred_x @ centred_x))
    intercept = float(y.mean() - slope * x.mean())
    total, residual = float(centred_y @ centred_y), centred_y - slope * centred_x
    varies = total > 1e-24 * float(y @ y)  # below that it is rounding
    return slope, intercept, 1.0 - float(residual @ residual) / total if varies else float("nan")


def combination_error(gram: Float[ndarray, "steps steps"], combination: Float[ndarray, " fitted"], index: int) -> float:
    """Return |delta_index - sum of combination[t] * delta_t| / |delta_index|; NaN for a zero update."""
    weights = np.zeros(len(gram))
    weights[: len(combination)] = -combination
    weights[index] += 1.0
    actual = float(gram[index, index])
    return float(np.sqrt(max(weights @ gram @ weights, 0.0) / actual)) if actual > 0 else float("nan")


def increment_cosine(gram: Float[ndarray, "steps steps"]) -> float:
    """Return the mean cosine of successive increments (delta_1, delta_2 - delta_1, ...); a random walk has 0.

    NaN where no two successive increments are both non-zero.
    """
    # An increment that is rounding of the Gram matrix counts as zero.
    floor = 1e-14 * float(np.max(np.diagonal(gram), initial=0.0))
    difference = np.eye(len(gram)) - np.eye(len(gram), k=-1)
    between = difference @ gram @ difference.T
    squares = np.diagonal(between)
    pairs = [
        between[i, i + 1] / np.sqrt(squares[i] * squares[i + 1])
        for i in range(len(gram) - 1)
        if squares[i] > floor and squares[i + 1] > floor
    ]
    return float(np.mean(pairs)) if pairs else float("nan")


@dataclass(frozen=True)
class PathNull:
    """What paths without any direction give at the same steps: much, and nearly a straight line.

    Attributes:
        explained_variance: Of its temporal rank-1 model; of a random walk towards 8 / pi^2 = 0.81 as steps get many.
        linearity: R^2 of its first coefficient's line.
        prediction_error: Of its rank-1 line, fitted on the first steps, at the last one.
        increment_cosine: Mean cosine of successive increments; 0 for a random walk.
        coefficients: c_t relative to the last fitted one. After the fit a walk's stay where they are: what it does
            next is independent of where it came from.
    """

    explained_variance: float
    linearity: float
    prediction_error: float
    increment_cosine: float
    coefficients: Float[ndarray, " steps"]


def path_null(
    covariance: Float[ndarray, "steps steps"], steps: Sequence[int | float], fitted: int | None = None
) -> PathNull:
    """Return the rank-1 measures of paths of this covariance between steps.

    Exact in the limit of many entries, where the Gram matrix is proportional to its expectation.

    Args:
        covariance: Of an entry between the steps, in any unit.
        steps: Step numbers, ascending.
        fitted: How many steps the model is fitted on; by default all.
    """
    fitted = len(steps) if fitted is None else fitted
    model = fit_rank1(covariance, steps, fitted)
    error = combination_error(covariance, model.extrapolation(steps[-1]), len(steps) - 1)
    relative = model.coefficients / model.coefficients[fitted - 1]
    return PathNull(model.explained_variance, model.linearity, error, increment_cosine(covariance), relative)
