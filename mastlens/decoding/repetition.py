"""Text that goes round in circles."""

from collections.abc import Sequence


def repeated_share(tokens: Sequence[int], n: int = 4) -> float:
    """Return the share of n-grams that occurred before in the same text: 1 - distinct / all.

    The "seq-rep-n" of Welleck et al. 2020 (arXiv:1908.04319). 0 for a text of fewer than n tokens.

    Args:
        tokens: Token ids of one response.
        n: Length of the n-grams.
    """
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
