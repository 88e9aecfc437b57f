"""Tensors drawn at random until they hold as many parameters as a given selection."""

from collections.abc import Mapping, Sequence

import numpy as np

from mastlens.errors import BadSetting


def random_matched(sizes: Mapping[str, int], selected: Sequence[str], *, seed: int) -> list[str]:
    """Draw tensors at random with the same number of parameters as ``selected``; see ``random_of_size``.

    Args:
        sizes: Name to number of parameters of every candidate.
        selected: The selection to match.
        seed: Of the draw.

    Returns:
        Names, in the order of ``sizes``.
    """
    if missing := [name for name in selected if name not in sizes]:
        raise BadSetting(f"{missing[0]} is selected but is not among the {len(sizes)} candidates.")
    return random_of_size(sizes, sum(sizes[name] for name in selected), seed=seed)


def random_of_size(sizes: Mapping[str, int], target: int, *, seed: int) -> list[str]:
    """Draw tensors at random with ``target`` parameters, or as close below it as was found.

    Of 256 random orders, each filled up from the front without passing the target, the first that meets it
    exactly is taken, else the one that comes closest; so that all candidates have a fair chance and sizes match.

    Args:
        sizes: Name to number of parameters of every candidate.
        target: Number of parameters.
        seed: Of the draw.

    Returns:
        Names, in the order of ``sizes``; none where the smallest candidate is above the target.
    """
    names = list(sizes)
    generator = np.random.default_rng(seed)
    best: set[str] = set()
    best_total = -1
    for _ in range(256):
        drawn, total = set(), 0
        for index in generator.permutation(len(names)):
            if total + sizes[names[index]] <= target:
                drawn.add(names[index])
                total += sizes[names[index]]
        if total > best_total:
            best, best_total = drawn, total
        if total == target:
            break
    return [name for name in names if name in best]
