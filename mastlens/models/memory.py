"""How much fits: tokens a batch and rows at a time, from free memory; and what is done where it was too much.

What fits is a power of two and has an upper end, beyond which a larger batch is not faster. So on one machine, unless
its memory is short, the same problems make the same batches, and equal runs end in the same bits.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from mastlens.errors import NotSupported
from mastlens.runs.cost import Cost, measured

SHARE = 0.5
"""Of the memory that is free, what a batch may take: its size is judged by another batch's."""

_FIRST = 512  # tokens of the first batch, by which the others are sized, unless its one text is longer
# Tokens a batch, forward alone and with a way back. A CPU is busy with a few hundred already.
_MOST = {"cpu": (2048, 512)}
_MOST_ELSEWHERE = (16384, 16384)
_ROWS = {"cpu": 64}
_ROWS_ELSEWHERE = 256
_SAID = ("can't allocate memory", "not enough memory", "out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out: of a GPU, or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def does_not_fit(what: str, *, smaller: bool = False) -> NotSupported:
    """Return the error where a piece of work does not fit: the smallest, or one that has to be made ``smaller``."""
    ways = "a smaller --batch-size, more ranks, or --dtype bfloat16" if smaller else "--dtype bfloat16"
    return NotSupported(
        f"{what} does not fit into the memory that is free. Use {ways}, which takes half, a device with more memory, "
        "or shorter texts."
    )


def float64_device(device: torch.device) -> torch.device:
    """Return where float64 is computed: on the device itself, or on the CPU where it has none."""
    return torch.device("cpu") if device.type == "mps" else device


def let_go() -> None:
    """Let go of what a failed piece of work held, and of what the device keeps for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> float | None:
    """Return the bytes that are free on a device; None where that cannot be told."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    if device.type == "cpu":
        return _free_here()
    return None


def _free_here(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the bytes that this machine has free, or that a container may still take."""
    try:
        told = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = float(told["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
    try:
        most, taken = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if most == "max" else min(free, float(most) - float(taken))
    except (OSError, ValueError):
        return free


@contextmanager
def peak(device: torch.device) -> Iterator[Cost]:
    """Measure the most memory that the block takes beyond what was held at its start; None where that is not told."""
    if device.type != "cuda":
        with measured() if device.type == "cpu" else nullcontext(Cost()) as cost:
            yield cost
        return
    cost = Cost()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        yield cost
    finally:
        cost.peak_mb = (torch.cuda.max_memory_allocated(device) - before) / 1e6


def first_tokens() -> int:
    """Return how many tokens the batch has by which the others are sized."""
    return _FIRST


def tokens_that_fit(device: torch.device, *, backward: bool, each: float | None) -> int:
    """Return how many tokens a batch may have, padding included.

    Args:
        device: Where it is computed.
        backward: Whether there is a way back.
        each: Bytes that a token took in a batch before; None where that is not known.
    """
    return _halved(_MOST.get(device.type, _MOST_ELSEWHERE)[backward], each, free_bytes(device))


def rows_that_fit(device: torch.device, each: float) -> int:
    """Return how many rows are decoded at a time.

    Args:
        device: Where.
        each: Bytes that the keys and values of a row take at its full length.
    """
    return _halved(_ROWS.get(device.type, _ROWS_ELSEWHERE), each, free_bytes(device))


def _halved(most: int, each: float | None, free: float | None) -> int:
    """Return ``most``, halved until that many times ``each`` bytes fit."""
    if each is not None and free is not None:
        while most > 1 and most * each > SHARE * free:
            most //= 2
    return most
