"""Runs a command in a forked child, fails one change of the file system in it, and looks at what is left.

A full disk is an error that the change raises; a kill leaves what stands on the disk at that moment, which is copied.
What counts as a change is what Python's audit events tell: a file opened to be written, made, renamed or removed, a
folder made or removed; and two that they do not see: a line of a ledger, and tensors that safetensors writes by itself.
A failure leaves what a real one may leave: the file is there and empty, the line is torn, the tensors are half written.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CHANGES = {"os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2}
_CHANGES |= {"os.truncate": 1}
_SCRATCH = re.compile(r"(\.[^/]+\.)[a-z0-9_]{8}(?=/|$)")
_PARTIAL = re.compile(r"\.partial\.|\.under-way\.json$")
_LARGE = 2**18
_PROCESSOR = 600  # seconds that a command may compute
_LONGEST = 7200  # and that it may take, on a machine with too much else to do
_ROUNDED = "responses.parquet"
_OUT_OF_SIGHT = ("cost", "versions", "timing", "seconds", "peak_mb", _ROUNDED)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code.
        said: What it wrote to the standard error.
        changes: How many changes of the file system it made, or tried.
        what: The change that failed.
        seconds: How long it took.
    """

    code: int
    said: str
    changes: int
    what: str = ""
    seconds: float = 0.0


@dataclass
class Watcher:
    """Counts the changes below a folder; fails one of them, or keeps what a kill at each of them would leave.

    Attributes:
        root: The folder.
        at: Which change fails, from 0; none by default.
        kept: Where to keep, for every change, a copy of the folder as it was at that moment.
        count: Changes so far.
        what: The change that failed.
    """

    root: Path
    at: int = -1
    kept: Path | None = None
    count: int = 0
    what: str = ""
    _busy: int = 0
    _one: threading.RLock = field(default_factory=threading.RLock)

    def change(self, what: str, leave: Callable[[Path], Any], error: Callable[[str], Exception] | None = None) -> None:
        """Count a change; keep or fail it.

        Args:
            what: The change.
            leave: Makes, in a copy of the folder or in the folder itself, what a change that broke off leaves.
            error: What a full disk raises there, by its text.
        """
        with self._one:
            self._busy = threading.get_ident()
            try:
                self.count += 1
                fails = self.count - 1 == self.at
                if self.kept is not None:
                    copied(self.root, self.kept / str(self.count - 1))
                    leave(self.kept / str(self.count - 1))
                    (self.kept / f"{self.count - 1}.txt").write_text(what)
                elif fails:
                    self.what = what
                    leave(self.root)
            finally:
                self._busy = 0
        if fails:
            text = os.strerror(errno.ENOSPC)
            raise error(text) if error else OSError(errno.ENOSPC, text, what.partition(" ")[2])

    def hook(self, event: str, arguments: tuple) -> None:
        """Count what an audit event tells of."""
        if self._busy == threading.get_ident() or not (event == "open" or event in _CHANGES):
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)) and (flags or 0) & (os.O_WRONLY | os.O_RDWR):
                place = self.place(path)
                if place is not None:
                    self.change(f"open {shown(place)}", lambda root: os.close(os.open(root / place, flags, 0o644)))
            return
        folders = [part for part in arguments[_CHANGES[event] :] if isinstance(part, int)]
        place = self.place(arguments[0], folders[-1] if folders else -1)
        if place is not None:
            self.change(f"{event} {shown(place)}", lambda root: None)

    def place(self, path: Any, folder: int = -1) -> str | None:
        """Return where a path leads below the root; None where it leads elsewhere."""
        around = Path(f"/proc/self/fd/{folder}").readlink() if folder >= 0 else Path.cwd()
        place = Path(os.path.normpath(around / os.fsdecode(path)))  # not resolved: a link itself is what is changed
        return str(place.relative_to(self.root)) if self.root in place.parents else None


def shown(place: str) -> str:
    """Return a place without the names that are drawn at random."""
    return _SCRATCH.sub(r"\1*", place)


def _watch(watcher: Watcher) -> None:
    """Let a watcher see every change that this process makes, from now on to its end."""
    import safetensors.torch
    from safetensors import SafetensorError

    from mastlens.runs.ledger import Ledger

    sys.addaudithook(watcher.hook)
    add, save = Ledger.add, safetensors.torch.save_file

    def torn(ledger: Ledger, name: str, value: Any) -> None:
        place = None if ledger.path is None else watcher.place(ledger.path)
        if place is not None:
            line = ledger._line(name, value)

            def half(root: Path) -> None:
                with (root / place).open("ab") as stream:
                    stream.write(line[: len(line) // 2])

            watcher.change(f"line {shown(place)}", half)
        add(ledger, name, value)

    def cut(tensors: Any, filename: Any, metadata: Any = None) -> None:
        place = watcher.place(filename)
        if place is not None:

            def half(root: Path) -> None:
                save(tensors, root / place, metadata)
                os.truncate(root / place, (root / place).stat().st_size // 2)

            told = f"(os error {errno.ENOSPC})"
            watcher.change(f"tensors {shown(place)}", half, lambda text: SafetensorError(f"{text} {told}"))
        save(tensors, filename, metadata)

    Ledger.add, safetensors.torch.save_file = torn, cut  # type: ignore[method-assign]


def copied(source: Path, target: Path) -> None:
    """Copy a folder; large files, which are never written in place, as links."""

    def copy(one: str, other: str) -> None:
        if Path(one).stat().st_size < _LARGE:
            shutil.copyfile(one, other)
        else:
            os.link(one, other)

    shutil.copytree(source, target, symlinks=True, copy_function=copy)


def run(
    action: Callable[[], int], root: Path, *, at: int = -1, kept: Path | None = None, killed: float | None = None
) -> Ended:
    """Run an action in a child.

    Args:
        action: What to run; it returns an exit code.
        root: Changes below it count.
        at: Which change fails, as on a full disk, from 0; none by default.
        kept: Where to keep what a kill at each change would leave.
        killed: Seconds after which the child is killed from outside; the code is -SIGKILL where it had not ended.
    """
    told = root.parent / f"{root.name}.told.json"
    told.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _child(action, Watcher(root, at, kept), told)
    begun = time.monotonic()
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        took = time.monotonic() - begun
        if took > (_LONGEST if killed is None else killed):
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.01 if killed is None else 0.001)
    code, took = os.waitstatus_to_exitcode(status), time.monotonic() - begun
    said = json.loads(told.read_text()) if told.is_file() else {"said": f"killed after {took:.1f} s", "changes": 0}
    return Ended(code, **said, seconds=took)


def _child(action: Callable[[], int], watcher: Watcher, told: Path) -> None:
    said, code = io.StringIO(), 1
    resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR, _PROCESSOR))
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            _watch(watcher)
            try:
                code = action()
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
        told.write_text(json.dumps({"said": said.getvalue(), "changes": watcher.count, "what": watcher.what}))
    finally:
        os._exit(code)


def contents(folder: Path) -> dict[str, str]:
    """Return the files of a folder with a hash of each: names drawn at random, times and costs left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = _SCRATCH.sub(r"\1*", path.relative_to(folder).as_posix())
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[f"{name}/"] = ""
        else:
            found[name] = hashlib.sha256(_settled(path)).hexdigest()
    return found


def _settled(path: Path) -> bytes:
    """Return what a file says, but for what differs from one run to the next by design."""
    data = path.read_bytes()
    if path.name == _ROUNDED:
        return _to_rounding(path, data)
    if path.suffix != ".json":
        return data
    try:
        return json.dumps(_without_times(json.loads(data)), sort_keys=True).encode()
    except ValueError:
        return data


def _to_rounding(path: Path, data: bytes) -> bytes:
    """Return responses with log-probabilities to a hundredth: an evaluation that goes on reads in other batches."""
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError):
        return data
    read = [column for column in table if str(column).startswith("logprob")]
    return table.assign(**{str(column): table[column].round(2) for column in read}).to_csv().encode()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in _OUT_OF_SIGHT}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


@dataclass
class Case:
    """A command, what it starts from, and where it writes.

    Attributes:
        name: The command.
        action: What runs it.
        start: A folder that is copied to ``out`` first; None for a command that makes its folder.
        inputs: What it reads, and must not change.
        work: The folder that holds everything it writes: it is made anew for each attempt.
        seconds: How long it takes where nothing fails.
    """

    name: str
    action: Callable[[], int]
    start: Path | None
    inputs: Path
    work: Path
    seconds: float = 0.0
    _again: dict[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the folder as it was before the command."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        if self.start is not None:
            shutil.copytree(self.start, self.work / "out", symlinks=True)
        self._before = self.state()

    def state(self) -> dict[str, str]:
        """Return what stands in the folder; what is kept in the cache is no result."""
        return {name: told for name, told in contents(self.work).items() if not name.startswith("cache")}

    def whole(self, kept: Path) -> int:
        """Run the command where nothing fails, keep what a kill at each change leaves; return the number of changes.

        Raises:
            AssertionError: If it fails, or two runs differ.
        """
        kept.mkdir()
        self._kept, states = kept, []
        self._given = contents(self.inputs)
        for folder in (None, kept):
            self.prepare()
            ended = run(self.action, self.work, kept=folder)
            assert ended.code == 0, f"{self.name} exits with {ended.code}: {ended.said[-2000:]}"
            states.append(self.state())
            self.seconds = self.seconds or ended.seconds  # of the run in which nothing is copied
        assert states[0] == states[1], f"{self.name}: two runs differ in {_differing(*states)}"
        self._whole = states[0]
        return ended.changes

    def killed(self, at: int) -> str:
        """Go on from what a kill at one change left; return what is wrong, or nothing."""
        shutil.rmtree(self.work, ignore_errors=True)
        left = self._kept / str(at)
        copied(left, self.work)
        what = left.with_suffix(".txt").read_text()
        told = self._lost() or self._goes_on()
        return told and f"{what}: {told}"

    def full(self, at: int) -> str:
        """Let the disk be full at one change; return what is wrong with what is left, or nothing."""
        self.prepare()
        ended = run(self.action, self.work, at=at)
        told = "; ".join(filter(None, (self._wrong_exit(ended), self._lost() or self._goes_on())))
        return told and f"{ended.what}: {told}"

    def killed_after(self, seconds: float) -> str:
        """Kill the command from outside at a moment; return what is wrong with what is left, or nothing."""
        self.prepare()
        ended = run(self.action, self.work, killed=seconds)
        lost = "" if ended.code in (0, -signal.SIGKILL) else f"exits with {ended.code}: {ended.said[-800:]}"
        told = lost or self._lost() or self._goes_on()
        return told and f"after {seconds:.2f} s: {told}"

    def _wrong_exit(self, ended: Ended) -> str:
        if ended.code not in (0, 2) or "Traceback" in ended.said or (ended.code == 2 and not ended.said.strip()):
            return f"exits with {ended.code}: {ended.said[-800:]}"
        finished = all(self.state().get(name) == told for name, told in self._whole.items())
        return "exits with 0, and not all is there" if ended.code == 0 and not finished else ""

    def _lost(self) -> str:
        if (now := contents(self.inputs)) != self._given:
            return f"an input was changed: {_differing(self._given, now)}"
        now = self.state()
        for name, told in self._before.items():
            replaced = any("/replaced/" in one and one.endswith(name.partition("/")[2]) for one in now)
            if self._whole.get(name) == told and now.get(name) != told and not replaced:
                return f"{name} was there before, and is lost or changed"
        for name, told in now.items():
            done = told in (self._whole.get(name), self._before.get(name))
            if not (done or "*" in name or name.endswith(("/", "run.json")) or _PARTIAL.search(name)):
                return f"{name} is half written"
        return ""

    def _goes_on(self) -> str:
        """Give the same command again; what was seen of an equal state holds for this one too."""
        if self.state() == self._whole:
            return ""
        # What a killed writer left in its scratch folder is removed unread, but for what it was about to replace.
        left = {name: told for name, told in self.state().items() if "*/" not in name[:-1] or "/replaced/" in name}
        key = json.dumps(left, sort_keys=True)
        if key not in self._again:
            ended = run(self.action, self.work)
            now = self.state()
            if now == self._whole:
                self._again[key] = ""  # also where it is refused because all is there already
            else:
                said = f"; it says: {ended.said[-600:]}" if ended.code else ""
                differing = _differing(now, self._whole)
                self._again[key] = f"the same command exits with {ended.code} and differs in {differing}{said}"
        return self._again[key]


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))[:8]
