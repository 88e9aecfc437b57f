"""What benchmarks share: arms that take turns, ratios with intervals, memory of fresh processes, pages of tables."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mastlens.runs.files import write_json, write_text
from mastlens.runs.stages import versions

STATISTICS: dict[str, Callable[..., np.ndarray]] = {"median": np.median, "sum": np.sum}
"""What a ratio may be one of, by name."""


def order_of(names: Sequence[str], turn: int) -> list[str]:
    """Return the names as they take their turns: each round starts with another."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def interleaved(arms: Mapping[str, Callable[[], object]], rounds: int, *, uncounted: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each arm, round by round; the arms take turns, so that what ails the machine ails all.

    Args:
        arms: Name to what is timed.
        rounds: Calls of each that count.
        uncounted: Calls of each before those.
    """
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(-uncounted, rounds):
        for arm in order_of(list(arms), turn):
            start = time.perf_counter()
            arms[arm]()
            if turn >= 0:
                seconds[arm].append(time.perf_counter() - start)
    return seconds


def ratio(
    arm: Sequence[float], reference: Sequence[float], *, statistic: str = "median", resamples: int = 10_000
) -> dict[str, float]:
    """Return the ratio of a statistic of two arms, with a 95% percentile interval, rounds resampled as pairs.

    Args:
        arm: One number a round.
        reference: One number a round, of the same rounds.
        statistic: ``median`` or ``sum``. One stall of the machine, which a shared one has, decides a sum.
        resamples: Bootstrap samples.
    """
    pairs = np.array([arm, reference], dtype=float)
    chosen = np.random.default_rng(0).integers(0, pairs.shape[1], (resamples, pairs.shape[1]))
    of_samples = STATISTICS[statistic](pairs[:, chosen], axis=-1)
    low, high = np.percentile(of_samples[0] / of_samples[1], [2.5, 97.5])
    centre = STATISTICS[statistic](pairs, axis=-1)
    return {"ratio": float(centre[0] / centre[1]), "ci_low": float(low), "ci_high": float(high)}


def shown(found: Mapping[str, float], digits: int = 3) -> str:
    """Return a ratio and its interval as text."""
    return f"{found['ratio']:.{digits}f} [{found['ci_low']:.{digits}f}, {found['ci_high']:.{digits}f}]"


def from_fresh_process(module: str, *arguments: str) -> float:
    """Return the number that ``python -m module`` prints last.

    Raises:
        SystemExit: With what the process wrote, if it failed.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"python -m {module} {' '.join(arguments)} failed:\n{done.stderr}")
    return float(done.stdout.strip().splitlines()[-1])


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a markdown table, an empty line before it."""
    lines = ["", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]


def surroundings() -> dict[str, Any]:
    """Return what a result depends on beside the code: threads, processor, versions."""
    return {
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "versions": versions(),
    }


def version_line(result: Mapping[str, Any]) -> str:
    """Return the last line of a page."""
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + "."


def write_results(folder: Path, name: str, result: Mapping[str, Any], page: Sequence[str]) -> None:
    """Write ``name.json`` and ``name.md``."""
    write_json(folder / f"{name}.json", dict(result))
    write_text(folder / f"{name}.md", "\n".join(page) + "\n")
