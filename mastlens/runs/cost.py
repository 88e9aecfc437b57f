"""What a piece of work cost: seconds, and memory that is really its own."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
WORKER: ContextVar[str] = ContextVar("worker", default="")
"""Which worker of a cluster this is; empty where the command itself runs."""


@dataclass
class Cost:
    """Filled in when the block ends.

    Attributes:
        seconds: Wall-clock time.
        peak_mb: Most anonymous memory in the block beyond what the process held at its start, in MB of 10^6
            bytes; None where the system does not tell. File-backed pages, which a mapped checkpoint fills and
            the system can take back at any time, do not count.
    """

    seconds: float = 0.0
    peak_mb: float | None = None


def anonymous_mb() -> float | None:
    """Return the process' anonymous resident memory in MB, or None where the system does not tell."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024 / 1e6
    except (OSError, ValueError, IndexError):
        pass
    return None


def _give_back() -> None:
    """Return freed memory to the system, so that what is held at the start is held for a reason."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def measured(interval: float = 0.01) -> Iterator[Cost]:
    """Measure the block. Memory is sampled every ``interval`` seconds by a thread."""
    cost = Cost()
    _give_back()
    held = anonymous_mb()
    peak = held or 0.0
    stop = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not stop.wait(interval):
            peak = max(peak, anonymous_mb() or 0.0)

    sampler = threading.Thread(target=sample, daemon=True)
    if held is not None:
        sampler.start()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        if held is not None:
            stop.set()
            sampler.join()
            cost.peak_mb = max(peak, anonymous_mb() or 0.0) - held
