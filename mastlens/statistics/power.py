"""What an exact McNemar test can see: its power, the items that it needs, the smallest drop that it finds.

Of n items, each is lost with probability ``lost`` and gained with probability ``gained``. The number of items
that change is binomial; given it, so is the number lost; the test rejects in both tails. Everything here sums
over all of these cases (Duffy 1984), so that nothing hangs on a normal approximation.
"""

from functools import lru_cache
from math import nan

import numpy as np
from scipy import optimize, stats

from mastlens.errors import BadSetting

_NEGLIGIBLE = 1e-17  # mass dropped at either end of a distribution, at each step


def mcnemar_power(n: int, lost: float, gained: float = 0.0, *, alpha: float = 0.05) -> float:
    """Return the probability that the exact test on ``n`` items says p <= ``alpha``.

    Args:
        n: Number of items.
        lost: Probability that an item is right before and wrong after.
        gained: Probability of the other way.
        alpha: Level of the two-sided test.
    """
    _check(lost, gained, alpha)
    changed = lost + gained
    if changed == 0:
        return 0.0
    counts = np.arange(n + 1)
    weights = stats.binom.pmf(counts, n, min(changed, 1.0))
    return float(weights @ _given_changed(counts, lost / changed, alpha))


def items_needed(
    lost: float, gained: float = 0.0, *, power: float = 0.8, alpha: float = 0.05, limit: int = 100_000
) -> int | None:
    """Return the smallest number of items on which the exact test has at least this power.

    Power of an exact test is a saw: a few items more can have a little less of it.

    Args:
        lost: Probability that an item is right before and wrong after.
        gained: Probability of the other way.
        power: The power asked for.
        alpha: Level of the two-sided test.
        limit: Most items to look at; None comes back where they do not suffice.
    """
    _check(lost, gained, alpha)
    if not 0 < power < 1:
        raise BadSetting(f"Power lies between 0 and 1; {power} was asked for.")
    changed = lost + gained
    if lost == gained:
        return None
    # The distribution of the number changed, one item more at each step, without its empty ends.
    first, weights = 0, np.ones(1)
    known = np.zeros(0)
    for n in range(1, limit + 1):
        weights = np.append((1 - changed) * weights, 0.0) + changed * np.insert(weights, 0, 0.0)
        kept = np.flatnonzero(weights > _NEGLIGIBLE)
        first, weights = first + int(kept[0]), weights[kept[0] : kept[-1] + 1]
        last = first + len(weights)
        if last > len(known):
            more = np.arange(len(known), 2 * last)
            known = np.append(known, _given_changed(more, lost / changed, alpha))
        if weights @ known[first:last] >= power:
            return n
    return None


@lru_cache(maxsize=1024)
def smallest_drop(n: int, gained: float = 0.0, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the smallest drop, lost - gained, as a fraction, that the exact test on ``n`` items finds.

    Args:
        n: Number of items.
        gained: Probability that an item changes against the drop; the more do, the harder it is to see.
        power: The probability with which to find it.
        alpha: Level of the two-sided test.

    Returns:
        The drop; NaN where not even the largest possible one is found.
    """
    _check(0.0, gained, alpha)
    top = 1 - gained

    def short(lost: float) -> float:
        return mcnemar_power(n, lost, gained, alpha=alpha) - power

    if top <= gained or short(top) < 0:
        return nan
    return float(optimize.root_scalar(short, bracket=(gained, top), method="brentq", xtol=1e-7).root) - gained


def _given_changed(counts: np.ndarray, share: float, alpha: float) -> np.ndarray:
    """Return the power given the number of items changed, of which ``share`` are lost on average."""
    edge = stats.binom.ppf(alpha / 2, counts, 0.5)  # the least value with at least alpha / 2 below or at it
    edge = np.where(counts > 0, np.nan_to_num(edge), 0)
    edge = edge - (2 * stats.binom.cdf(edge, counts, 0.5) > alpha)  # the largest that is significant, or -1
    both = stats.binom.cdf(edge, counts, share) + stats.binom.sf(counts - edge - 1, counts, share)
    return np.where(edge >= 0, both, 0.0)


def _check(lost: float, gained: float, alpha: float) -> None:
    if min(lost, gained) < 0 or lost + gained > 1 + 1e-12:
        raise BadSetting(
            f"The shares of items lost ({lost}) and gained ({gained}) are at least 0 and together at most 1."
        )
    if not 0 < alpha < 1:
        raise BadSetting(f"The level of a test lies between 0 and 1; {alpha} was given.")
