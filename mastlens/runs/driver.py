"""The driver of a Ray cluster: hands parts of a work out to workers, in a process of its own.

Where the head of its cluster or the daemon of its node is gone, Ray ends the process that talks to them from C++, with
a status and words of its own. So no command talks to a cluster itself: ``executors.Ray`` starts this driver, which says
over its pipes what became of the parts, and whatever ends it is told by the command.
"""

import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastlens import __version__
from mastlens import errors as kinds
from mastlens.errors import BadSetting, MastlensError, NoReply, NotTogether
from mastlens.runs.cost import WORKER
from mastlens.runs.executors import processors, single_threaded
from mastlens.runs.files import cannot_write

START = 20.0
"""Seconds in which a cluster must answer."""
_LOOK = 10.0  # seconds after which it is asked whether it is still there: Ray itself takes 60 to end this process
_ENDING = 10.0  # seconds that a driver has to end what it began, once its command is gone

DONE, TOLD, FAILED = "done", "told", "failed"
"""What a driver says: a part and its result; a mistake of the user's; any other error."""


@dataclass(frozen=True)
class Driver:
    """See ``executors.Ray``, whose settings these are.

    Attributes:
        work: The pickled work: it is opened on the workers alone.
        parts: The names of its parts.
    """

    address: str
    workers: int | None
    gpus: bool
    retries: int
    work: bytes
    parts: Sequence[str]

    def run(self) -> Iterator[tuple[str, Any]]:
        """Yield each part and its result, as they are finished; see ``executors.Executor.run``."""
        import ray
        from ray.exceptions import NodeDiedError, RayError, RayTaskError, WorkerCrashedError

        with self._cluster() as room:
            task = ray.remote(
                num_cpus=1, num_gpus=1 if self.gpus else 0, max_retries=self.retries, scheduling_strategy="SPREAD"
            )(_do)
            shared = [ray.put(self.work)]  # in a list, a worker fetches it once and not with every part
            waiting, running = list(reversed(self.parts)), {}
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
        if error := _no_listener(self.address.removeprefix("ray://")):
            raise NoReply(
                f"There is no Ray at {self.address}: {error}. Check the address (ray start --head prints it), or take "
                "--executor local."
            ) from error


def _check_head(address: str) -> None:
    """Raise where the head of the cluster is gone: Ray would end this process, without a word of what to do."""
    if error := _no_listener(address):
        raise NoReply(
            f"The head of the Ray cluster, {address}, is gone: {error}. What is finished is kept: give the same "
            "command again."
        ) from error


def _no_listener(address: str) -> OSError | None:
    """Return why nobody answers at HOST:PORT; None where somebody does, and of what is no such address."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=START).close()
    except OSError as error:
        return error
    return None


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"mastlens": __version__, **{name: version(name) for name in ("torch", "numpy", "scipy", "safetensors")}}


_works: dict[str, Any] = {}
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
                work = pickle.loads(ray.get(shared[0]))
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


def main() -> None:
    """Run the driver that standard input holds; say on standard output what comes of it, until input is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is interrupted, and closes
    say = _speaker()
    driver = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_command, daemon=True).start()
    try:
        for part, result in driver.run():
            say(DONE, part, result)
    except MastlensError as error:
        say(TOLD, type(error).__name__, str(error))
    except Exception as error:
        error.add_note(traceback.format_exc())
        say(FAILED, error)


def _speaker() -> Callable[..., None]:
    """Return what writes to the command; what else is printed in this process goes to its errors."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(*words: Any) -> None:
        with suppress(BrokenPipeError):  # nobody listens any more, and this process is being ended
            pickle.dump(words, out)
            out.flush()

    return say


def _end_with_command() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ENDING)
    os._exit(1)
