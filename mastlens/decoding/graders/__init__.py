"""Graders: one frozen dataclass in one file each, found here by name.

Every module of this folder that holds a grader is in the registry; there is no list to keep.
"""

import importlib
import pkgutil
from functools import cache

from mastlens.decoding.graders.function import Function
from mastlens.decoding.graders.grader import Grade, Grader, argument
from mastlens.decoding.graders.mathematics import Mathematics
from mastlens.errors import MastlensError, unknown

__all__ = ["DEFAULT", "Grade", "Grader", "argument", "find_grader", "graders"]

DEFAULT = Mathematics.name


@cache
def graders() -> dict[str, type[Grader]]:
    """Return name to grader, the default first; a function given by path has no name here."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    own = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    found = {kind.name: kind for kind in own if issubclass(kind, Grader) and kind not in (Grader, Function)}
    return dict(sorted(found.items(), key=lambda item: (item[0] != DEFAULT, item[0])))


def find_grader(text: "str | Grader" = DEFAULT, *, code: bool = True) -> Grader:
    """Return the grader that is asked for.

    Args:
        text: ``NAME``, ``NAME:ARGUMENT``, or ``path/to/file.py:function``; a grader is returned as it is.
        code: Whether a path may be given, whose file is then run. False where the text was not written by the user,
            e.g. stands in a study.

    Raises:
        MastlensError: If there is no such grader, or its argument makes no sense.
    """
    if isinstance(text, Grader):
        return text
    name, colon, rest = text.partition(":")
    if name in graders():
        return graders()[name].of(rest if colon else None)
    path, colon, function = text.rpartition(":")
    if colon and path.endswith(".py"):
        if not code:
            raise MastlensError(
                f"The grader {text!r} is a Python file, and is run only where you ask for it yourself: "
                f"--grader {text}. A name is accepted here: {', '.join(graders())}."
            )
        return Function(path, function)
    if text.endswith(".py"):
        raise MastlensError(f"Which function of {text} grades? Write --grader {text}:FUNCTION.")
    raise unknown("grader", name, [*graders(), "path/to/file.py:function"])
