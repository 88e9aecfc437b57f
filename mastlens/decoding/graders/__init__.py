"""Graders: one frozen dataclass in one file each, found by name. A new one is one file here, or one that is named."""

import inspect
import re
from typing import Any

from mastlens.decoding.graders.function import Function
from mastlens.decoding.graders.grader import Grade, Grader, argument
from mastlens.decoding.graders.mathematics import Mathematics
from mastlens.errors import BadSetting, unknown
from mastlens.registry import Registry, run_file, subclasses_of

__all__ = ["DEFAULT", "GRADERS", "Function", "Grade", "Grader", "Mathematics", "argument", "find_grader", "recorded"]

DEFAULT = Mathematics.name
_FINISHED = subclasses_of(Grader)
_IN_FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<name>\w+)(?::(?P<argument>.*))?)?", re.DOTALL)


def _named(value: Any) -> bool:
    return _FINISHED(value) and value is not Function


GRADERS: Registry[type[Grader]] = Registry("grader", accepts=_named, package=__name__, group="mastlens.graders")
"""Name to grader. A function has no name here: it is given by its path."""


def find_grader(text: "str | Grader" = DEFAULT, *, code: bool = True) -> Grader:
    """Return the grader that is asked for.

    Args:
        text: ``NAME`` or ``NAME:ARGUMENT``; ``path/to/file.py:NAME``, with ``:ARGUMENT`` where NAME is a grader that
            takes one; a grader is returned as it is.
        code: Whether a path may be given, whose file is then run. False where the text was not written by the user,
            e.g. stands in a study that somebody else made.

    Raises:
        MastlensError: If there is no such grader, or its argument makes no sense.
    """
    if isinstance(text, Grader):
        return text
    name, colon, rest = text.partition(":")
    if name in GRADERS:
        return GRADERS[name].of(rest if colon else None)
    found = _IN_FILE.fullmatch(text)
    if found is None:
        raise unknown("grader", name, [*GRADERS, Function.name])
    if not code:
        raise BadSetting(
            f"The grader {text!r} is a Python file, and is run only where you ask for it yourself: "
            f"--grader {text}. A name is accepted here: {', '.join(GRADERS)}."
        )
    return _from_file(found["file"], found["name"], found["argument"])


def recorded(grader: Grader) -> dict[str, Any]:
    """Return what a run records of its grader: nothing of the default, as in records from before there were others."""
    return {} if grader == Mathematics() else {"grader": grader.record()}


def _from_file(path: str, name: str | None, given: str | None) -> Grader:
    there = vars(run_file(path))
    fitting = [key for key, value in there.items() if _named(value) or inspect.isfunction(value)]
    if name is None:
        raise BadSetting(f"What in {path} grades? Write --grader {path}:NAME; it has {', '.join(fitting)}.")
    value = there.get(name)
    if isinstance(value, type) and _named(value):
        return value.of(given)
    if isinstance(value, Grader):
        return value
    if not callable(value) or isinstance(value, type):
        raise unknown(f"grader in {path}", name, fitting)
    if given is not None:
        raise BadSetting(f"{name} in {path} is a function, and a function takes no argument: {given!r}.")
    return Function(path, name, value)
