"""Right is what a Python function says: for checks that no other grader makes.

Its file runs with all the rights of the user. So it is run only where somebody writes its path; nothing that is read
from a folder, a study or a record asks for one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mastlens.decoding.graders.grader import Grade, Grader
from mastlens.errors import BadFile
from mastlens.runs.files import sha256_file


@dataclass(frozen=True)
class Function(Grader):
    """A function ``(response, gold)`` in a Python file, given as ``path/to/file.py:function``.

    Attributes:
        path: The file.
        function: The function's name there.
        called: The function: of what was said behind any thinking, and the gold answer. It returns true or false, or
            a ``Grade``.
        digest: SHA-256 of the file.
    """

    name: ClassVar[str] = "path/to/file.py:function"
    summary: ClassVar[str] = "a Python function of response and gold answer says so; its file runs with your rights"

    path: str
    function: str
    called: Callable[[str, str], object] = field(compare=False, repr=False)
    digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha256_file(Path(self.path)))

    @property
    def spelled(self) -> str:
        """The text that ``find_grader`` makes this grader of."""
        return f"{self.path}:{self.function}"

    def record(self) -> dict[str, Any]:
        """Return what decides its grades: the file's content, wherever it lies."""
        return {"name": "function", "function": self.function, "code": self.digest}

    def judge(self, said: str, gold: str) -> Grade:
        """Ask the function."""
        try:
            found = self.called(said, gold)
        except Exception as error:
            raise BadFile(
                f"The grader {self.spelled} raised {type(error).__name__}: {error}, for the response {said[:80]!r} "
                f"and the answer {gold[:40]!r}. Mend it there: it must grade any text."
            ) from error
        if isinstance(found, Grade):
            return found
        if isinstance(found, bool):
            return Grade(found, found and said.split() == gold.split(), None, f"{self.function} says so")
        raise BadFile(
            f"The grader {self.spelled} returned {found!r}. It must return True or False, or a mastlens Grade."
        )
