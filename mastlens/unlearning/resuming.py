"""A run that can be killed: its state on disk now and then, and interruptions that wait for the end of a step."""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mastlens.errors import BadFile, StageRefused
from mastlens.runs.files import write_tensors
from mastlens.runs.ranks import Ranks
from mastlens.runs.reading import parse_json
from mastlens.unlearning.loop import Unlearner
from mastlens.unlearning.probes import Prober

STEM = ".unlearn.partial"
FILE = f"{STEM}.safetensors"
SECONDS = 30.0
"""Between two times that the state is kept, at least."""
_SHARE = 20  # times as long as a write takes: a large state is written less often


class Partial:
    """The state of an unfinished run, beside its outputs.

    Over ranks each keeps its own part, and the part of before until all have written theirs: a kill at any moment
    leaves a step that all have.

    Args:
        out: The run's output folder; None keeps nothing.
        key: Hash of everything that decides the result: the state of another run is not taken up.
        overwrite: Drop the state of another run instead of refusing to.
        ranks: All of them; None for one process.
    """

    def __init__(
        self, out: str | os.PathLike[str] | None, key: str, *, overwrite: bool = False, ranks: Ranks | None = None
    ):
        self.folder = None if out is None else Path(out)
        self.key, self.overwrite, self.ranks = key, overwrite, ranks
        self._next = time.monotonic() + SECONDS

    @property
    def kept(self) -> bool:
        """Whether anything is kept."""
        return self.folder is not None

    def keep(self, run: Unlearner, prober: Prober | None, records: Sequence[Any], *, now: bool = False) -> None:
        """Write the state, if it is time; all at once or not at all."""
        begun = time.monotonic()
        due = now or begun >= self._next
        if self.folder is None or not (due if self.ranks is None else self.ranks.from_first(due)):
            return
        looks, tensors = ([], {}) if prober is None else prober.state()
        stopped = "" if prober is None else prober.stopped
        notes = {"key": self.key, "records": list(records), "looks": looks, "stopped": stopped}
        write_tensors(self._path(run.done), {**run.state(), **tensors}, notes)
        if self.ranks is not None:
            self.ranks.wait()
            for step, path in self._steps().items():
                if step != run.done:
                    path.unlink(missing_ok=True)
        ended = time.monotonic()
        self._next = ended + max(SECONDS, _SHARE * (ended - begun))

    def resume(self, run: Unlearner, prober: Prober | None) -> list[dict[str, Any]]:
        """Set the run to the state on disk, if there is one of the same run, and return its records.

        Raises:
            MastlensError: If there is the state of another run, unless it may be overwritten.
        """
        self._tidy()
        found = {step: read for step, path in self._steps().items() if (read := self._read(path)) is not None}
        steps = set(found) if self.ranks is None else set.intersection(*self.ranks.all_of(set(found)))
        if not steps:
            return []
        notes, tensors = found[max(steps)]
        run.load_state(tensors)
        if prober is not None:
            prober.load_state(notes["looks"], tensors)
            prober.stopped = notes["stopped"]
        return notes["records"]

    def _path(self, step: int) -> Path:
        assert self.folder is not None
        if self.ranks is None:
            return self.folder / FILE
        return self.folder / f"{STEM}.{step}.{self.ranks.rank}-of-{self.ranks.size}.safetensors"

    def _steps(self) -> dict[int, Path]:
        """Return step to state on disk; of one process there is one, whose step it says itself."""
        if self.folder is None:
            return {}
        if self.ranks is None:
            return {0: self._path(0)} if self._path(0).is_file() else {}
        pattern = re.compile(re.escape(self._path(0).name).replace("0", r"(\d+)", 1))
        matches = [(pattern.fullmatch(path.name), path) for path in self.folder.glob(f"{STEM}.*")]
        return {int(match[1]): path for match, path in matches if match is not None}

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return notes and tensors of a state; None of what cannot be read, or may be overwritten."""
        try:
            with safe_open(path, framework="pt", backend="pread") as stream:
                notes = parse_json((stream.metadata() or {})["mastlens"], str(path))
                if notes["key"] != self.key:
                    if self.overwrite:
                        return None
                    raise StageRefused(
                        f"{path.parent} holds the state of an unfinished run with other inputs or settings. "
                        "Nothing was changed. Finish that one, choose another --out, or pass --overwrite (in Python "
                        "overwrite=True) to drop it."
                    )
                return notes, {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, BadFile):
            return None  # not ours to read: the run starts at its beginning and loses nothing but time

    def remove(self) -> None:
        """Remove the state: the run is finished."""
        if self.folder is not None:
            for path in self.folder.glob(f"{STEM}.*safetensors"):
                path.unlink(missing_ok=True)
        self._tidy()

    def _tidy(self) -> None:
        """Remove what a run that was killed while it wrote left behind."""
        if self.folder is not None and (self.ranks is None or self.ranks.first):
            for folder in self.folder.glob(f".{STEM}.*"):
                shutil.rmtree(folder, ignore_errors=True)
        if self.ranks is not None:
            self.ranks.wait()


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Within, Ctrl-C sets what is yielded and nothing else, so that no step is torn; a second one interrupts at once.

    Outside the main thread, where no signals come, it does nothing.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
