"""A run's numbers sent to a tracker while it goes on: wandb, trackio or tensorboard, through accelerate's interface.

It changes nothing: what is tracked decides no number, and ``run.json`` holds none of it.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mastlens.errors import MissingPackage, unknown

TRACKERS = ("wandb", "trackio", "tensorboard")
PROJECT = "mastlens"
Log = Callable[[Mapping[str, Any], int], None]
"""Takes numbers by name, and the step that they belong to."""


def check_tracker(name: str | None) -> None:
    """Raise unless there is such a tracker and it is installed; None is none.

    Raises:
        MastlensError: If there is not, or it is not.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    for package in ("accelerate", name):
        if not _installed(package):
            raise MissingPackage(f"--track {name} needs {package}: pip install 'mastlens[track]' {name}")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@contextmanager
def tracking(name: str | None, settings: Mapping[str, Any], out: str | os.PathLike[str] | None) -> Iterator[Log]:
    """Within, what is yielded sends numbers to a tracker; None sends them nowhere.

    Args:
        name: One of ``TRACKERS``.
        settings: Of the run, shown beside its numbers: plain values only are sent.
        out: The run's output folder; tensorboard writes into it, to ``tracking``.

    Raises:
        MastlensError: As ``check_tracker``.
    """
    check_tracker(name)
    if name is None:
        yield lambda numbers, step: None
        return
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # its trackers ask which process is the first
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    more = {"logging_dir": str(Path(out or ".") / "tracking")} if kind.requires_logging_directory else {}
    tracker = kind(PROJECT, **more)
    tracker.store_init_configuration({k: v for k, v in settings.items() if isinstance(v, bool | int | float | str)})

    def log(numbers: Mapping[str, Any], step: int) -> None:
        known = {key: float(value) for key, value in numbers.items() if isinstance(value, int | float)}
        tracker.log({key: value for key, value in known.items() if math.isfinite(value)}, step=step)

    try:
        yield log
    finally:
        tracker.finish()
