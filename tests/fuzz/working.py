"""A worker reads one input at a time, in a process with a limit on memory, a timer, and an eye on what it does."""

import contextlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

SECONDS = 10
MEMORY = 2**30
FIRST = ("record", "checkpoint", "tables", "edit")
"""Targets that between them use every library."""
RENEWED = 200  # inputs that a process reads, the memory of each beside what the libraries keep of those before
_GRACE = 50  # seconds of the clock until a worker that the timer did not stop is killed
_WRITES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.symlink", "os.link", "os.truncate")
_RUNS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pty.spawn")


@dataclass(frozen=True)
class Found:
    """What became of an input.

    Attributes:
        target: Whose input.
        seed: It makes the input again, as long as the mutations stay as they are.
        outcome: ``read``, ``refused`` (by a ``MastlensError``), or what is wrong.
        where: The last line of the package that was at work; empty where all is well.
        files: The input, where something is wrong: it goes into the corpus.
        memory: Bytes that the reading had at most beyond what the process held before it, as far as they were used.
    """

    target: str
    seed: int
    outcome: str
    where: str = ""
    files: Path | None = None
    memory: int = 0

    @property
    def good(self) -> bool:
        """Whether it was read or refused, and nothing else."""
        return self.outcome in ("read", "refused")


class TooLong(BaseException):
    """The timer; no ``Exception``, which a reader may catch."""


def _watch(root: Path, seen: list[str]) -> None:
    """Note what is written outside a folder, and what is run."""

    def hook(event: str, arguments: tuple) -> None:
        if event in _RUNS:
            seen.append(f"{event} {arguments[:2]!r}"[:200])
        path = arguments[0] if arguments and isinstance(arguments[0], (str, bytes, Path)) else None
        writes = event in _WRITES
        if event == "open" and path is not None:
            flags = arguments[2] or 0
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and path is not None and not _inside(os.fsdecode(path), root):
            seen.append(f"{event} {path!r}"[:200])

    sys.addaudithook(hook)


def _inside(path: str, root: Path) -> bool:
    return path == os.devnull or os.path.realpath(path).startswith(f"{root}{os.sep}") or not path.startswith(os.sep)


def _serve(pipe, root: Path) -> None:
    from mastlens import MastlensError

    from .targets import TARGETS

    sys.dont_write_bytecode = True
    os.environ |= {"TMPDIR": str(root), "XDG_CACHE_HOME": str(root / "cache")}
    tempfile.tempdir = str(root)
    os.chdir(root)
    seen: list[str] = []
    _watch(root, seen)
    # Libraries load, and map what they need, when they are first used: that is no input's doing.
    for name in FIRST:
        target = TARGETS[name]
        folder = root / f"{name}-first"
        shutil.rmtree(folder, ignore_errors=True)  # of a worker that was ended here
        folder.mkdir()
        target.write(folder, random.Random(name))
        with (
            contextlib.suppress(Exception),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            target.read(folder)
        shutil.rmtree(folder, ignore_errors=True)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))

    def stop(*_) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, stop)
    warnings.simplefilter("ignore")
    while (asked := pipe.recv()) is not None:
        name, seed, given, typed = asked
        read = TARGETS[name].type if typed else TARGETS[name].read
        folder = root / f"{name}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        outcome, where = "read", ""
        if given is None:
            folder.mkdir()
            TARGETS[name].write(folder, random.Random(f"{name}/{seed}"))
        else:
            shutil.copytree(given, folder)
        kept = root / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept)  # as it was before anything was written there
        held = _held(anew=True)
        seen.clear()
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                # Of the processor's time: on a busy machine a second of the clock says little. A reader that sleeps is
                # left to the pipe's own limit.
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                read(folder)
        except MastlensError as error:
            outcome = "refused" if str(error).strip() else "refused without a reason"
        except TooLong:
            outcome, where = f"hang of {SECONDS} s", _place(sys.exc_info()[2])
        except BaseException as error:
            outcome, where = f"{type(error).__name__}: {error}"[:200], _place(error.__traceback__)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        memory = _held() - held
        if seen:
            outcome = f"outside: {seen[0]}"
        shutil.rmtree(folder, ignore_errors=True)
        pipe.send((outcome, where, memory))


def _held(anew: bool = False) -> int:
    """Return the most memory in bytes that this process has held, or, counted anew, what it holds."""
    if anew:
        seen = os.open("/proc/self/clear_refs", os.O_WRONLY)
        os.write(seen, b"5")
        os.close(seen)
    told = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in told.splitlines() if line.startswith("VmHWM"))


def _place(trace) -> str:
    frames = [frame for frame in traceback.extract_tb(trace) if "mastlens" in frame.filename]
    frames = [frame for frame in frames if f"{os.sep}tests{os.sep}" not in frame.filename]
    return (
        f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "outside the package"
    )


class Worker:
    """A process that reads inputs; it is replaced when one stops it, and after ``RENEWED``: libraries keep memory."""

    def __init__(self):
        self._root = Path(os.path.realpath(tempfile.mkdtemp(prefix="fuzz-")))
        self._start()

    def _start(self) -> None:
        self._inputs = 0
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._root), daemon=True)
        self._process.start()
        theirs.close()

    def read(self, target: str, seed: int, given: Path | None = None, *, typed: bool = False) -> Found:
        """Return what becomes of an input.

        Args:
            target: Whose input.
            seed: It makes the input.
            given: A folder of the corpus that is read instead.
            typed: Whether the target's commands read it, and not its functions.
        """
        if self._inputs >= RENEWED:
            self._stop()
            self._start()
        self._inputs += 1
        self._pipe.send((target, seed, given, typed))
        lost, memory = True, 0
        try:
            if self._pipe.poll(SECONDS + _GRACE):
                outcome, where, memory = self._pipe.recv()
                lost = False
            else:
                outcome, where = "hang that no timer stops", ""
        except (EOFError, ConnectionError):
            outcome, where = "the process died", ""
        if lost:
            self._process.kill()
            self._process.join()
            self._start()
        found = Found(target, seed, outcome, where, memory=memory)
        return found if found.good else replace(found, files=self._root / "kept")

    def _stop(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(5)
        self._process.kill()

    def close(self) -> None:
        """Stop the process and remove its folder."""
        self._stop()
        shutil.rmtree(self._root, ignore_errors=True)
