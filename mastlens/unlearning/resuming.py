"""A run that can be killed: its state on disk now and then, and interruptions that wait for the end of a step."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors import SafetensorError, safe_open

from mastlens.files import write_tensors
from mastlens.unlearning.loop import Unlearner
from mastlens.unlearning.probes import Prober

FILE = ".unlearn.partial.safetensors"
SECONDS = 30.0
"""Between two times that the state is kept."""


class Partial:
    """The state of an unfinished run, beside its outputs.

    Args:
        out: The run's output folder; None keeps nothing.
        key: Hash of everything that decides the result: the state of another run is not taken up.
    """

    def __init__(self, out: str | os.PathLike[str] | None, key: str):
        self.path = None if out is None else Path(out) / FILE
        self.key = key
        self._kept = time.monotonic()

    def keep(self, run: Unlearner, prober: Prober | None, records: Sequence[Any], *, now: bool = False) -> None:
        """Write the state, if it is time; all at once or not at all."""
        if self.path is None or not (now or time.monotonic() - self._kept >= SECONDS):
            return
        looks, tensors = ([], {}) if prober is None else prober.state()
        notes = {"key": self.key, "records": list(records), "looks": looks}
        write_tensors(self.path, {**run.state(), **tensors}, notes)
        self._kept = time.monotonic()

    def resume(self, run: Unlearner, prober: Prober | None) -> list[dict[str, Any]]:
        """Set the run to the state on disk, if there is one of the same run, and return its records."""
        if self.path is None or not self.path.is_file():
            return []
        try:
            with safe_open(self.path, framework="pt") as stream:
                notes = json.loads((stream.metadata() or {})["mastlens"])
                if notes["key"] != self.key:
                    return []
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError):
            return []  # not ours to read: the run starts at its beginning and loses nothing but time
        run.load_state(tensors)
        if prober is not None:
            prober.load_state(notes["looks"], tensors)
        return notes["records"]

    def remove(self) -> None:
        """Remove the state: the run is finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


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
        signal.signal(signal.SIGINT, before)
