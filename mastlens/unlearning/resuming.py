"""A run that can be killed: its state on disk now and then, and interruptions that wait for the end of a step."""

import os
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

from mastlens.errors import BadFile, StageRefused
from mastlens.runs.files import write_tensors
from mastlens.runs.reading import parse_json
from mastlens.unlearning.loop import Unlearner
from mastlens.unlearning.probes import Prober

FILE = ".unlearn.partial.safetensors"
SECONDS = 30.0
"""Between two times that the state is kept, at least."""
_SHARE = 20  # times as long as a write takes: a large state is written less often


class Partial:
    """The state of an unfinished run, beside its outputs.

    Args:
        out: The run's output folder; None keeps nothing.
        key: Hash of everything that decides the result: the state of another run is not taken up.
        overwrite: Drop the state of another run instead of refusing to.
    """

    def __init__(self, out: str | os.PathLike[str] | None, key: str, *, overwrite: bool = False):
        self.path = None if out is None else Path(out) / FILE
        self.key, self.overwrite = key, overwrite
        self._next = time.monotonic() + SECONDS

    def keep(self, run: Unlearner, prober: Prober | None, records: Sequence[Any], *, now: bool = False) -> None:
        """Write the state, if it is time; all at once or not at all."""
        begun = time.monotonic()
        if self.path is None or not (now or begun >= self._next):
            return
        looks, tensors = ([], {}) if prober is None else prober.state()
        stopped = "" if prober is None else prober.stopped
        notes = {"key": self.key, "records": list(records), "looks": looks, "stopped": stopped}
        write_tensors(self.path, {**run.state(), **tensors}, notes)
        ended = time.monotonic()
        self._next = ended + max(SECONDS, _SHARE * (ended - begun))

    def resume(self, run: Unlearner, prober: Prober | None) -> list[dict[str, Any]]:
        """Set the run to the state on disk, if there is one of the same run, and return its records.

        Raises:
            MastlensError: If there is the state of another run, unless it may be overwritten.
        """
        self._tidy()
        if self.path is None or not self.path.is_file():
            return []
        try:
            with safe_open(self.path, framework="pt", backend="pread") as stream:
                notes = parse_json((stream.metadata() or {})["mastlens"], str(self.path))
                if notes["key"] != self.key:
                    if self.overwrite:
                        return []
                    raise StageRefused(
                        f"{self.path.parent} holds the state of an unfinished run with other inputs or settings. "
                        "Nothing was changed. Finish that one, choose another --out, or pass --overwrite (in Python "
                        "overwrite=True) to drop it."
                    )
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, BadFile):
            return []  # not ours to read: the run starts at its beginning and loses nothing but time
        run.load_state(tensors)
        if prober is not None:
            prober.load_state(notes["looks"], tensors)
            prober.stopped = notes["stopped"]
        return notes["records"]

    def remove(self) -> None:
        """Remove the state: the run is finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self._tidy()

    def _tidy(self) -> None:
        """Remove what a run that was killed while it wrote left behind."""
        if self.path is not None:
            for folder in self.path.parent.glob(f".{FILE}.*"):
                shutil.rmtree(folder, ignore_errors=True)


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
