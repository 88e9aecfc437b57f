"""Where the parts of a long computation run: in threads or processes here, or on the workers of a Ray cluster.

A ``Work`` says what a part is; an executor yields the parts' results as they are finished. Only the work itself (paths
and settings), the parts' names and their results travel; results must not depend on where a part runs.
"""

import os
import pickle
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import connection, get_context, parent_process
from subprocess import PIPE, Popen, TimeoutExpired
from tempfile import TemporaryFile
from typing import IO, Any

from mastlens import errors as kinds
from mastlens.errors import BadSetting, MastlensError, MissingPackage, NoReply, unknown

LOCAL, RAY = "local", "ray"
EXECUTORS = (LOCAL, RAY)
RETRIES = 4
"""How often a part that was lost with its worker is begun again."""
_ENDING = 20.0  # seconds that a driver has to end the cluster that it started
_DRIVER = [
    sys.executable,
    "-c",
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from mastlens.runs.driver import main; main()",
]
_LAST = 500  # characters of what a lost driver said last


class Work(ABC):
    """A computation in parts. A frozen dataclass that can be pickled, where parts are to run elsewhere."""

    @abstractmethod
    def do(self, part: str) -> Any:
        """Return the result of a part: anything JSON can hold."""

    def check_here(self) -> None:  # noqa: B027 - most have nothing to check
        """Raise unless what the parts need is there, and the same as where they were handed out."""


class Executor(ABC):
    """Runs the parts of a work."""

    @abstractmethod
    def run(self, work: Work, parts: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Yield each part and its result, as they are finished.

        Raises:
            MastlensError: What a part raises; or that workers were lost again and again.
        """


def find_executor(
    text: str, *, workers: int | None = None, gpus: bool = False, local: "type[Threads | Processes] | None" = None
) -> Executor:
    """Return the executor that is asked for.

    Args:
        text: ``local``; ``ray``, which starts Ray on this machine; or ``ray:ADDRESS`` of a cluster (``ray:auto`` for
            the one that this machine belongs to).
        workers: Parts at a time; all processors by default, of a cluster all that it has.
        gpus: Whether a part needs a GPU.
        local: What ``local`` means: threads by default.

    Raises:
        MastlensError: If there is no such executor, or its package is not installed.
    """
    if workers is not None and workers < 1:
        raise BadSetting(f"--workers is at least 1, not {workers}.")
    name, colon, address = text.partition(":")
    if name == LOCAL and not colon:
        return (local or Threads)(workers or processors())
    if name == RAY and (address or not colon):
        if find_spec("ray") is None:
            raise MissingPackage(
                "--executor ray needs Ray. Install the extra: pip install 'mastlens[ray]', or take --executor local."
            )
        return Ray(address, workers, gpus)
    raise unknown("executor", text, (LOCAL, RAY, "ray:ADDRESS"))


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let every linear-algebra library use one thread: workers share the processors, and bits do not depend on them."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Threads(Executor):
    """Threads of this process that use one processor each."""

    workers: int

    def run(self, work: Work, parts: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """See ``Executor.run``."""
        import torch

        with (
            single_threaded(),
            ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            futures = {pool.submit(work.do, part): part for part in parts}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                for future in futures:  # after an error or an interruption nothing new starts
                    future.cancel()


@dataclass(frozen=True)
class Processes(Executor):
    """Processes with one thread each: for parts that hold Python up. One alone is this process itself."""

    workers: int

    def run(self, work: Work, parts: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """See ``Executor.run``. Interrupted or not, a part that is under way is finished."""
        if self.workers == 1:
            with single_threaded():
                for part in parts:
                    yield part, work.do(part)
            return
        pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _begin, (work,))
        try:
            futures = {pool.submit(_do_here, part): part for part in parts}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_mine: Work | None = None


def _begin(work: Work) -> None:
    """Set a process up: one thread, ended with its parent, deaf to Ctrl-C, at which the parent hands out no more."""
    import signal

    import torch

    global _mine
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _mine = work


def _do_here(part: str) -> Any:
    assert _mine is not None
    return _mine.do(part)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@dataclass(frozen=True)
class Ray(Executor):
    """Workers of a Ray cluster, one processor each, and a GPU each where that is asked for.

    Attributes:
        address: Of the cluster; empty for the one that this process belongs to, or else to start one on this machine,
            which ends with the run.
        workers: Parts at a time; None for as many as the cluster has room for.
        gpus: Whether a part takes a GPU.
        retries: How often a part that was lost with its worker is begun again.
    """

    address: str
    workers: int | None
    gpus: bool
    retries: int = RETRIES

    def run(self, work: Work, parts: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """See ``Executor.run``. Only a driver, in a process of its own, talks to the cluster: see ``driver``."""
        from mastlens.runs.driver import DONE, TOLD, Driver

        asked = Driver(self._address(), self.workers, self.gpus, self.retries, pickle.dumps(work), parts)
        with TemporaryFile() as errors, Popen(_DRIVER, stdin=PIPE, stdout=PIPE, stderr=errors) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                with suppress(BrokenPipeError):  # it is gone already, which is told below
                    pickle.dump(sys.path, process.stdin)
                    pickle.dump(asked, process.stdin)
                    process.stdin.flush()
                for _ in parts:
                    try:
                        kind, *told = pickle.load(process.stdout)
                    except (EOFError, pickle.UnpicklingError):
                        raise _driver_is_gone(process.wait(), errors) from None
                    if kind == TOLD:
                        raise getattr(kinds, told[0], MastlensError)(told[1])
                    if kind != DONE:
                        raise told[0]
                    yield told[0], told[1]
                with suppress(TimeoutExpired):
                    process.wait(_ENDING)
            finally:
                _let_end(process)

    def _address(self) -> str:
        """Return the address that is asked for, or that of the cluster which this process already belongs to."""
        ray = sys.modules.get("ray")
        if self.address or ray is None or not ray.is_initialized():
            return self.address
        return ray.get_runtime_context().gcs_address


def _driver_is_gone(status: int, errors: IO[bytes]) -> NoReply:
    errors.seek(0)
    said = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    last = f" It said last: {said[-1][:_LAST]}" if said else ""
    return NoReply(
        f"The Ray cluster was lost: the process that talks to it ended with {status}, as Ray does where the head or a "
        f"node's daemon is gone.{last} What is finished is kept: give the same command again."
    )


def _let_end(process: "Popen[bytes]") -> None:
    """End a driver: it sees that nobody listens any more, and ends the cluster that it started."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_ENDING)
    except TimeoutExpired:
        process.kill()
