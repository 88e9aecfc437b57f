"""Plug-ins by name: those in the package's own files, those of installed packages, and a user's own.

A plug-in (attack, organism, objective, grader ...) is one object in one file. Its kind has one registry, and that is
where help, validation, records and documentation look it up:

- every module of the kind's package is imported when the registry is first asked, and what it defines is in it;
- an installed package offers its own under an entry point of the registry's group;
- ``register`` adds one from a session or notebook;
- ``find("path/to/file.py:Name")`` takes one from a file. That runs the file, so it happens only for a name of this
  form, which nobody writes by accident and no record or checkpoint can ask for.
"""

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, util
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mastlens.errors import BadFile, BadSetting, MastlensWarning, NotFound, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

P = TypeVar("P")
T = TypeVar("T")
_OWN = "_plugin_"  # what the module of a file that somebody names is called
_IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")


def from_packages(group: str, kind: str, read: "Callable[[EntryPoint, Any], tuple[str, T]]") -> Iterator[tuple[str, T]]:
    """Yield name and plug-in of all that installed packages offer; what cannot be read is left out, with a warning.

    Args:
        group: Of the entry points.
        kind: What one is called in a message.
        read: From an entry point and what it holds to name and plug-in; whatever it raises, the plug-in is left out.
    """
    from importlib.metadata import entry_points

    for entry in entry_points(group=group):
        try:
            yield read(entry, entry.load())
        except Exception as error:  # another package's defect must not stop this one
            warnings.warn(
                f"The {kind} {entry.name!r} of an installed package ({entry.value}) is left out: "
                f"{type(error).__name__}: {error}",
                MastlensWarning,
                stacklevel=4,
            )


class Registry(Mapping[str, P], Generic[P]):
    """All plug-ins of one kind by name; as a mapping, whatever can be found without being given a file.

    Args:
        kind: What one is called in messages, e.g. ``"attack"``.
        accepts: Whether an object is a finished plug-in of this kind; it then has a ``name``.
        package: The package whose modules hold those that are shipped.
        group: The entry points of installed packages, e.g. ``"mastlens.attacks"``.
    """

    def __init__(self, kind: str, *, accepts: Callable[[Any], bool], package: str, group: str):
        self.kind, self.package, self.group = kind, package, group
        self._accepts = accepts
        self._registered: dict[str, P] = {}
        self._read: dict[str, dict[str, P]] = {}  # "shipped", "installed": read when first asked

    def register(self, plugin: P) -> P:
        """Add a plug-in of one's own, and return it: usable as a decorator of a class.

        Registering it again, as running a notebook's cell twice does, replaces the earlier one.

        Raises:
            MastlensError: If it is no plug-in of this kind, or its name is taken by one that was not registered.
        """
        name = self._named(plugin, repr(plugin))
        if name in self.shipped or name in self._installed:
            raise BadSetting(f"There is already {_a(self.kind)} called {name!r}. Give yours another name.")
        self._registered[name] = plugin
        return plugin

    def find(self, name: str) -> P:
        """Return a plug-in by its name, or from a file as ``path/to/file.py:Name``.

        Raises:
            MastlensError: If there is none of that name; the nearest ones are named.
        """
        in_file = _IN_FILE.fullmatch(name)
        if in_file is not None:
            return self._from_file(Path(in_file["file"]), in_file["name"])
        return self.named(name)

    def named(self, name: str) -> P:
        """Return a plug-in by its name alone: for names out of a file that somebody else wrote, which may run nothing.

        Raises:
            MastlensError: If there is none of that name; the nearest ones are named.
        """
        if name not in self:
            raise unknown(self.kind, name, self)
        return self[name]

    def __getitem__(self, name: str) -> P:
        if name in self.shipped:
            return self.shipped[name]
        # Entry points cost some milliseconds: they are read only where nothing else has the name.
        return self._registered[name] if name in self._registered else self._installed[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.shipped, **self._installed, **self._registered})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def shipped(self) -> dict[str, P]:
        """Those of the package's own files."""
        if "shipped" not in self._read:
            package = import_module(self.package)
            modules = sorted(module.name for module in iter_modules(package.__path__, f"{self.package}."))
            found = [one for module in modules for one in vars(import_module(module)).values() if self._accepts(one)]
            self._read["shipped"] = {one.name: one for one in found}
        return self._read["shipped"]

    @property
    def _installed(self) -> dict[str, P]:
        if "installed" not in self._read:
            found = dict(from_packages(self.group, self.kind, lambda entry, one: (self._named(one, entry.value), one)))
            self._read["installed"] = {name: one for name, one in found.items() if name not in self.shipped}
        return self._read["installed"]

    def _from_file(self, path: Path, name: str) -> P:
        module = run_file(path)
        there = {key: value for key, value in vars(module).items() if self._accepts(value)}
        if name not in there:
            if hasattr(module, name):
                raise BadSetting(f"{name} in {path} is not {_a(self.kind)}.")
            raise unknown(f"{self.kind} in {path}", name, there)
        return there[name]

    def _named(self, plugin: Any, shown: str) -> str:
        if not self._accepts(plugin):
            raise BadSetting(f"{shown} is not {_a(self.kind)}.")
        return plugin.name


def subclasses_of(base: type) -> Callable[[Any], bool]:
    """Return whether an object is a class of this kind that is finished: named, and nothing of it left open."""

    def accepts(value: Any) -> bool:
        finished = isinstance(value, type) and issubclass(value, base) and not inspect.isabstract(value)
        return finished and isinstance(getattr(value, "name", None), str)

    return accepts


def code_digest(plugin: type | Callable[..., Any]) -> str | None:
    """Return the SHA-256 of the file that a class or function is written in; None for one of this package.

    A number that somebody's own code made belongs to that code as it was, so its digest goes into the record.
    """
    if plugin.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return None
    try:
        file = inspect.getsourcefile(plugin)
        text = Path(file).read_bytes() if file and Path(file).is_file() else inspect.getsource(plugin).encode()
    except (OSError, TypeError):  # typed into a session that keeps no source
        return "unknown"
    return _sha256(text)


def run_file(path: str | Path) -> Any:
    """Return the module in a file, run anew.

    Raises:
        MastlensError: If there is no such file, or it cannot be run.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    name = f"{_OWN}{_sha256(str(path.resolve()).encode())[:16]}"
    spec = util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadFile(f"{path} is no Python file.")
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up by its name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadFile(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def place_in_own_file(error: BaseException) -> str | None:
    """Return where in a file that ``run_file`` ran an error came from; None where it came from no such file."""
    import traceback

    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(_OWN):
            place = f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
    return place


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _sha256(data: bytes) -> str:
    import hashlib  # 20 ms, which a start of the command line that looks nothing up does not pay

    return hashlib.sha256(data).hexdigest()
