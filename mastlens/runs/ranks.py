"""The ranks of a command under torchrun: processes that hold a part of one model each and take every step together.

    torchrun --nproc-per-node 8 -m mastlens couple --sft SFT --rlvr RLVR --forget forget.jsonl --out run

Only rank 0 writes and speaks. A rank that ends early ends the others too: whoever waits for it finds the connection
closed, and torchrun ends who does not. Which of them tells why is decided by the store that all of them share.
"""

import atexit
import ctypes
import functools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mastlens.errors import BadSetting, NoReply, NotSupported, NotTogether
from mastlens.runs import stages
from mastlens.runs.cost import WORKER
from mastlens.runs.devices import AUTO

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for another one: reading and hashing a large checkpoint may take that long, no step does."""

_SHORT = timedelta(seconds=20)
_MMAP_THRESHOLD, _LARGE = -3, 1 << 20  # malloc.h: pieces of so many bytes are mapped, and unmapped when they are freed
_TOLD = "mastlens-told"  # in the store: how many ranks had something to say


def over_ranks() -> bool:
    """Return whether this process is one of several that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Return whether this process is the one that writes and speaks: rank 0, or the only one."""
    return not over_ranks() or os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Ranks:
    """This process among all of them.

    Attributes:
        rank: From 0.
        size: How many there are.
        local: Its number on its machine.
        device: ``cpu`` or ``cuda``: each rank has a GPU of its own as its current one.
    """

    rank: int
    size: int
    local: int
    device: str

    @property
    def first(self) -> bool:
        """Whether this rank writes and speaks."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sum over all ranks of each value, in float64."""
        import torch
        import torch.distributed as dist

        summed = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(summed)
        return summed.tolist()

    def summed(self, values: "np.ndarray") -> "np.ndarray":
        """Return the sum over all ranks of an array, in float64."""
        import numpy as np

        return np.array(self.sums(values.ravel().tolist())).reshape(values.shape)

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.sums([0.0])

    def any(self, told: bool) -> bool:
        """Return whether it is so on some rank."""
        return self.sums([float(told)])[0] > 0

    def every(self, told: bool) -> bool:
        """Return whether it is so on every rank."""
        return self.sums([float(told)])[0] == self.size

    def all_of(self, value: T) -> list[T]:
        """Return every rank's value, by rank: anything that can be pickled, and small."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def from_first(self, value: T) -> T:
        """Return rank 0's value."""
        import torch.distributed as dist

        told = [value]
        dist.broadcast_object_list(told, device=_cpu())
        return told[0]

    def gather_rows(self, rows: "Tensor", total: int, owner: int) -> "Tensor | None":
        """Return on one rank, the owner, all rows of a tensor that is split evenly by rows; None on the others.

        Args:
            rows: This rank's, ``ceil(total / size)`` at the most; none beyond the end.
            total: How many rows there are in all.
            owner: The rank that wants them.
        """
        import torch
        import torch.distributed as dist

        each = -(-total // self.size)
        padded = rows if len(rows) == each else torch.cat([rows, rows.new_zeros(each - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.rank == owner else None
        dist.gather(padded.contiguous(), parts, dst=owner)
        return None if parts is None else torch.cat(parts)[:total]

    def sent(self, rows: "Tensor", shape: Sequence[int], holder: int, owner: int) -> "Tensor | None":
        """Return on the owner what the holder has; None on the others. All call it together.

        Args:
            rows: The holder's tensor; on others anything of its type and device.
            shape: The tensor's shape.
            holder: The rank that has it.
            owner: The rank that wants it.
        """
        import torch.distributed as dist

        if holder == owner:
            return rows if self.rank == owner else None
        if self.rank == holder:
            dist.send(rows.contiguous(), owner)
        if self.rank != owner:
            return None
        found = rows.new_empty(tuple(shape))
        dist.recv(found, holder)
        return found

    @contextmanager
    def node_first(self) -> Iterator[None]:
        """Within, one rank of each machine is ahead of the others, which then find what it left in the cache."""
        with _watching():
            if self.local:
                self.wait()
            yield
            if not self.local:
                self.wait()

    def check_same(self, parts: Mapping[str, Any]) -> None:
        """Raise unless every rank has the same files, settings and versions.

        Raises:
            MastlensError: That names the rank, its machine and what differs from rank 0's.
        """
        told = self.all_of((dict(parts), socket.gethostname()))
        (wanted, _), others = told[0], enumerate(told[1:], 1)
        for rank, (here, node) in others:
            if differing := [key for key in wanted if wanted[key] != here.get(key)]:
                raise NotTogether(
                    f"Rank {rank} on {node} does not have what rank 0 has: another {', another '.join(differing)}. All "
                    "ranks read the same files, by the same paths, with the same versions installed."
                )


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


@functools.cache
def begin(device: str) -> Ranks:
    """Return this process among the ranks, connected to the others.

    Args:
        device: ``cpu``, ``cuda`` or ``auto``, as it was asked for.

    Raises:
        MastlensError: If the others do not answer, or there are fewer GPUs than ranks on this machine.
    """
    import torch
    import torch.distributed as dist

    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == AUTO else torch.device(device).type
    if kind not in ("cpu", "cuda") or ":" in device:
        raise NotSupported(f"--device {device}: over ranks each has a GPU of its own, or all have the CPU: cuda, cpu.")
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise NotSupported(
                f"{socket.gethostname()} has {torch.cuda.device_count()} GPUs and more ranks: give torchrun "
                f"--nproc-per-node {torch.cuda.device_count()} at the most."
            )
        torch.cuda.set_device(local)
    else:
        _give_large_pieces_back()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise NoReply(f"Rank {rank} cannot reach the others: {str(error).splitlines()[0]}") from error
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _ended)
    return Ranks(rank, size, local, kind)


def _give_large_pieces_back() -> None:
    """Let freed memory of a megabyte or more go back to the system at once, where the C library is glibc.

    Left alone it keeps what blocks were gathered in, in pieces that the next block does not fit into.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_MMAP_THRESHOLD, _LARGE)


def ranks_for(device: str) -> Ranks | None:
    """Return this process among the ranks where torchrun started several, else None."""
    return begin(device) if over_ranks() else None


def may_tell() -> bool:
    """Return whether this process may say why the run ends: the first rank that asks, or the only process."""
    if not over_ranks():
        return True
    from torch.distributed import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=_SHORT))
        return store.add(_TOLD, 1) == 1
    except RuntimeError:  # the launcher is gone, and with it who could be asked
        return is_first()


def ahead(ranks: Ranks | None) -> AbstractContextManager[None]:
    """Return ``Ranks.node_first``, or nothing where there is one process."""
    return nullcontext() if ranks is None else ranks.node_first()


def _ended(number: int, frame: Any) -> None:
    raise _lost()


def _lost() -> NoReply:
    return NoReply(
        "Another rank ended, or was ended. Nothing half-written is left: give the same command again, and it goes on "
        "with what was kept."
    )


@contextmanager
def _watching() -> Iterator[None]:
    """Within, what the connections say when a rank is gone becomes a message."""
    try:
        yield
    except RuntimeError as error:
        if not _is_of_connection(error):
            raise
        raise _lost() from error


def _is_of_connection(error: BaseException) -> bool:
    from torch.distributed import DistError

    said = str(error)
    return isinstance(error, DistError) or any(word in said for word in ("gloo", "Connection closed", "NCCL"))


def remembered(
    ranks: Ranks | None,
    out: str | os.PathLike[str] | None,
    name: str,
    *,
    compute: Callable[[], T],
    write: Callable[[T, Path], None],
    read: Callable[[Path], T],
    **asked: Any,
) -> T:
    """Compute a result with all ranks, or read it back where ``out`` holds it: ``stages.remembered`` over ranks.

    Every rank computes; rank 0's result is written, and the others read it.

    Raises:
        MastlensError: If ranks see different files, or one of them is lost.
    """
    if ranks is None:
        return stages.remembered(out, name, compute=compute, write=write, read=read, **asked)
    if out is None:
        raise BadSetting("Over ranks the result goes into a folder, from which every rank reads it: give out (--out).")
    with _watching():
        deciding = {part: asked.get(part) for part in ("lineage", "behaviour", "inputs", "settings")}
        ranks.check_same({"version of a package": stages.versions(), **deciding})
        if not ranks.first:
            if not ranks.from_first(False):
                compute()
            ranks.from_first(None)  # until all is written
            return read(Path(out))
        place = WORKER.set(f"rank 0 of {ranks.size}")
        try:
            with stages.stage(out, name, **asked) as current:
                ranks.from_first(current.done)
                result = read(current.folder) if current.done else compute()
                if not current.done:
                    write(result, current.folder)
        finally:
            WORKER.reset(place)
        ranks.from_first(None)
        return result
