"""Where the parts of a long computation run: in threads or processes here, or on the workers of a Ray cluster.

A ``Work`` says what a part is; an executor yields the parts' results as they are finished. Only the work itself (paths
and settings), the parts' names and their results travel; results must not depend on where a part runs.
"""

import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens import __version__
from mastlens import errors as kinds
from mastlens.errors import BadSetting, MastlensError, MissingPackage, NoReply, NotTogether, unknown
from mastlens.runs.cost import WORKER
from mastlens.runs.files import cannot_write

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCAL, RAY = "local", "ray"
EXECUTORS = (LOCAL, RAY)
RETRIES = 4
"""How often a part that was lost with its worker is begun again."""
_START = 20.0  # seconds in which a cluster must answer
_LOOK = 10.0  # seconds after which it is asked whether it is still there: Ray ends a command whose head is gone in 60


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
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise MissingPackage(
                "--executor ray needs Ray. Install the extra: pip install 'mastlens[ray]', or take --executor local."
            ) from error
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
        address: Of the cluster; empty to start one on this machine, which ends with the run.
        workers: Parts at a time; None for as many as the cluster has room for.
        gpus: Whether a part takes a GPU.
        retries: How often a part that was lost with its worker is begun again.
    """

    address: str
    workers: int | None
    gpus: bool
    retries: int = RETRIES

    def run(self, work: Work, parts: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """See ``Executor.run``."""
        import ray
        from ray.exceptions import NodeDiedError, RayError, RayTaskError, WorkerCrashedError

        with self._cluster() as room:
            task = ray.remote(
                num_cpus=1, num_gpus=1 if self.gpus else 0, max_retries=self.retries, scheduling_strategy="SPREAD"
            )(_do)
            shared = [ray.put(work)]  # in a list, a worker fetches it once and not with every part
            waiting, running = list(reversed(parts)), {}
            try:
                while waiting or running:
                    while waiting and len(running) < room:
                        part = waiting.pop()
                        running[task.remote(shared, part, str(Path.cwd()), _versions())] = part
                    ready, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK)
                    if not ready:
                        _check_head(ray.get_runtime_context().gcs_address)
                    for done in ready:
                        part = running.pop(done)
                        yield part, _result(part, ray.get(done))
            except (WorkerCrashedError, NodeDiedError) as error:
                raise NoReply(
                    f"A part was lost with its worker {self.retries + 1} times: out of memory there, or killed. What "
                    "is finished is kept: give the same command again, with fewer --workers where memory is the reason."
                ) from error
            except RayTaskError as error:  # a defect of ours, as it would be here
                raise error.cause from error
            except RayError as error:
                raise NoReply(
                    f"The Ray cluster gave up: {_first_line(error)} What is finished is kept: give the same command "
                    "again."
                ) from error
            finally:
                with suppress(Exception):  # a cluster that is gone has nothing left to end
                    for task_of_part in running:
                        ray.cancel(task_of_part, force=True)

    @contextmanager
    def _cluster(self) -> Iterator[int]:
        """Connect, and yield how many parts run at a time."""
        import logging

        import ray

        mine = not ray.is_initialized()
        if mine:
            self._check_reachable()
            where: Mapping[str, Any] = (
                {"address": self.address} if self.address else {"num_cpus": self.workers or processors()}
            )
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future default, without the warning
            try:
                ray.init(
                    **where,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    include_dashboard=None if self.address else False,
                )
            except Exception as error:  # Ray raises a dozen classes for a cluster that is not there
                at = f"at {self.address}" if self.address else "on this machine"
                raise NoReply(
                    f"There is no Ray {at}: {_first_line(error)} Check the address (ray start --head prints it), or "
                    "take --executor local."
                ) from error
        try:
            found = ray.cluster_resources()
            room = int(found.get("GPU" if self.gpus else "CPU", 0))
            if not room:
                raise BadSetting(
                    f"The Ray cluster has no {'GPU' if self.gpus else 'CPU'} to give: it would wait for ever. Give "
                    "another --device, or start workers that have one."
                )
            yield min(room, self.workers or room)
        finally:
            if mine:
                ray.shutdown()

    def _check_reachable(self) -> None:
        """Raise where nobody listens at the address: Ray itself would try for minutes."""
        host, colon, port = self.address.removeprefix("ray://").rpartition(":")
        if not (colon and port.isdecimal()):
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_START).close()
        except OSError as error:
            raise NoReply(
                f"There is no Ray at {self.address}: {error}. Check the address (ray start --head prints it), or take "
                "--executor local."
            ) from error


def _check_head(address: str) -> None:
    """Raise where the head of the cluster is gone: Ray would end this very process, without a word of what to do."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_START).close()
    except OSError as error:
        raise NoReply(
            f"The head of the Ray cluster, {address}, is gone: {error}. What is finished is kept: give the same "
            "command again."
        ) from error


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"mastlens": __version__, **{name: version(name) for name in ("torch", "numpy", "scipy", "safetensors")}}


_works: dict[str, Work] = {}
"""On a worker: the works that it has fetched, by their reference."""


def _do(shared: list[Any], part: str, folder: str, versions: dict[str, str]) -> dict[str, Any]:
    """Do a part on a worker, in the folder of the command: return its ``result``, or the user's mistake met there."""
    import ray

    try:
        if Path(folder).is_dir():  # paths are as they were typed; where there is none, those that are missing are told
            os.chdir(folder)
        WORKER.set(f"{socket.gethostname()}, ray worker {ray.get_runtime_context().get_worker_id()[:8]}")
        if versions != (here := _versions()):
            other = ", ".join(
                f"{name} {here[name]} and not {wanted}" for name, wanted in versions.items() if here[name] != wanted
            )
            raise NotTogether(
                f"it has {other}. Results would depend on where they are computed: install the same there."
            )
        with single_threaded():
            key = shared[0].hex()
            if key not in _works:
                work: Any = ray.get(shared[0])
                work.check_here()
                _works.clear()
                _works[key] = work
            return {"result": _works[key].do(part)}
    except Exception as error:
        told = error if isinstance(error, MastlensError) else cannot_write(error)  # of this node's disk
        if told is None:
            raise
        return {"kind": type(told).__name__, "said": str(told), "node": socket.gethostname()}


def _result(part: str, told: dict[str, Any]) -> Any:
    if "result" in told:
        return told["result"]
    kind = getattr(kinds, told["kind"], MastlensError)
    raise kind(f"{part}, on the worker at {told['node']}: {told['said']}")


def _first_line(error: BaseException) -> str:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return said[0] if said[0].endswith((".", "!", "?")) else f"{said[0]}."
