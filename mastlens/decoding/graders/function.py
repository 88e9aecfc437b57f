"""Right is what a Python function says: for checks that no other grader makes.

The file runs with all the rights of the user. So it is run only where somebody writes its path; nothing that is read
from a folder, a study or a record asks for one.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from mastlens.decoding.graders.grader import Grade, Grader
from mastlens.errors import MastlensError, unknown
from mastlens.runs.files import sha256_file


@dataclass(frozen=True)
class Function(Grader):
    """A function ``(response, gold)`` in a Python file, given as ``path/to/file.py:function``.

    It returns a ``Grade``, or true or false. It gets what was said behind any thinking. In place of a function the
    file may hold a grader of its own, under its class's name or as an object.

    Attributes:
        path: The file.
        function: Its name there.
    """

    name: ClassVar[str] = "path/to/file.py:function"
    summary: ClassVar[str] = "a Python function of response and gold answer says so; the file runs with your rights"

    path: str
    function: str
    digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not Path(self.path).is_file():
            raise MastlensError(f"There is no file {self.path} to take the grader {self.function!r} from.")
        object.__setattr__(self, "digest", sha256_file(Path(self.path)))
        _ = self.called  # a mistake in the file is told now, not after hours of generation

    @property
    def spelled(self) -> str:
        """The text that ``find_grader`` makes this grader of."""
        return f"{self.path}:{self.function}"

    def record(self) -> dict[str, Any]:
        """Return what decides its grades: the file's content, wherever it lies."""
        return {"name": "function", "function": self.function, "sha256": self.digest}

    @cached_property
    def called(self) -> Callable[[str, str], "Grade | bool"]:
        """The function."""
        return load_function(self.path, self.function)

    def judge(self, said: str, gold: str) -> Grade:
        """Ask the function."""
        try:
            found = self.called(said, gold)
        except Exception as error:
            raise MastlensError(
                f"The grader {self.spelled} raised {type(error).__name__}: {error}, for the response {said[:80]!r} "
                f"and the answer {gold[:40]!r}. Mend it there: it must grade any text."
            ) from error
        if isinstance(found, Grade):
            return found
        if found is True or found is False:
            strict = said.split() == gold.split()
            return Grade(found, found and strict, None, f"{self.function} says so")
        raise MastlensError(
            f"The grader {self.spelled} returned {found!r}. It must return True or False, or a mastlens Grade."
        )


def load_function(path: str, name: str) -> Callable[[str, str], "Grade | bool"]:
    """Run a Python file and return a function, or a grader's judgement, out of it.

    Raises:
        MastlensError: If it cannot be run, or has no such name.
    """
    spec = importlib.util.spec_from_file_location(f"mastlens_grader_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MastlensError(f"{path} does not run: {type(error).__name__}: {error}.") from error
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, Grader):
        found = found.of(None)
    if isinstance(found, Grader):
        return found.judge
    if not callable(found):
        mine = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"function in {path}", name, mine)
    return cast("Callable[[str, str], Grade | bool]", found)
