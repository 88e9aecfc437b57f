"""Settings: declared once, and read by functions, command lines, records, help and documentation.

A command is a frozen dataclass, a subclass of ``Settings``. Each of its fields is declared with ``setting``: that line
is the only place where the setting's name, type, default, choices, unit and help are written. The Python function of
the command is decorated with ``calls.takes``: it is called with the object or with its fields.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class CountSettings(Settings):
    ...     command, group, summary = "count", LOOK, "how many tensors a checkpoint holds"
    ...     path: CheckpointPath = setting("the checkpoint", positional=True)
    ...     least: int = setting("leave out smaller ones", 1, unit="entries")
    >>> @takes(CountSettings)
    ... def count(settings: CountSettings) -> int: ...
    >>> count("organism:qwen2/base", least=10)
    >>> words.typed(CountSettings(path="organism:qwen2/base", least=10))
    'mastlens count organism:qwen2/base --least 10'
"""

import functools
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, TypeAlias, Union

from mastlens.errors import unknown

FilePath: TypeAlias = str | os.PathLike[str]
CheckpointPath: TypeAlias = str | os.PathLike[str] | Any
"""A path, or a ``mastlens.Checkpoint`` that is open already."""


def path_to(role: str) -> str:
    """Return the help of a setting that is a checkpoint."""
    return f"{role}: a folder, a hub id with an optional @revision, or organism:NAME/STAGE"


def executing(what: str) -> Any:
    """Declare where the parts of a command run; ``find_executor`` reads it."""
    return setting(
        f"where {what}: local, ray (started here), ray:ADDRESS of a cluster that sees the same folders; results do not "
        "depend on it",
        "local",
        metavar="local|ray[:ADDRESS]",
    )


def number(text: str) -> int | float | str:
    """Return what was typed as a whole number, a number, or as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


LOOK, RANK, EDIT, JUDGE, ATTACK, REPORT = "look", "rank", "edit", "judge", "attack", "report"
GROUPS = {
    LOOK: "look at weights and models, and change nothing",
    RANK: "rank tensors, and see what each does",
    EDIT: "unlearn, and handle edits",
    JUDGE: "judge what a model answers",
    ATTACK: "attack an edit",
    REPORT: "whole runs, lineages, reports, figures",
}
"""Groups of commands in the order of the help, with what they are for."""

EVERY = "every command"  # the heading of the options that all commands have


@dataclass(frozen=True)
class Declared:
    """What is said of a setting, beside its name, type and default.

    Attributes:
        help: What it decides.
        unit: Its unit, where it has one.
        kind: What its value is, for a message; empty for its name.
        choices: All values that it may have, or a function that gives them when they are asked for.
        flag: The option on the command line; empty for the name with dashes. Of a setting that is on by default, the
            option that switches it off; empty for ``--no-`` and the name.
        metavar: What stands for the value in the help.
        group: The heading under which the help shows it.
        positional: Whether its value stands on the command line without an option.
        rest: Of a positional one, whether it takes all words that follow, options too.
        placed: Whether Python takes its value without a name too, though it has an option on the command line.
        python_only: Whether only Python takes it: nothing that can be typed.
        typed_required: Whether it must be given on the command line, though not in Python.
        exclusive: A name that settings share of which exactly one is typed.
        separator: What stands between several values that are typed as one word, such as a comma.
        listing: A function that gives further lines of help, such as what there is to choose from; it is called only
            when somebody asks for help. If it takes an argument, that is what was typed before that, by name.
        repeated: Of several values, whether each has an option of its own (``--level 1 --level 2``).
        may_be_empty: Of several values, whether the option may stand alone, which means none.
        deprecated: Names that it had before, in Python and on the command line.
        switches: Switches that it took the place of, each with the value that it stood for.
        parse: Text to value, where the type alone does not tell; raises ValueError.
        shown_default: How the help shows the default, where its value does not say it.
        options: Of a setting that is an object of settings, its field to the option that sets it.
        switch: Of such a setting, whether it has an option of its own that switches it on.
    """

    help: str
    unit: str = ""
    kind: str = ""
    choices: Sequence[Any] | Callable[[], Sequence[Any]] | None = None
    flag: str = ""
    metavar: str = ""
    group: str = ""
    positional: bool = False
    rest: bool = False
    placed: bool = False
    python_only: bool = False
    typed_required: bool = False
    exclusive: str = ""
    separator: str = ""
    listing: Callable[..., Sequence[str]] | None = None
    repeated: bool = False
    may_be_empty: bool = False
    deprecated: tuple[str, ...] = ()
    switches: Mapping[str, Any] | None = None
    parse: Callable[[str], Any] | None = None
    shown_default: str | None = None
    options: Mapping[str, str] | None = None
    switch: bool = False

    def valid(self) -> Sequence[Any] | None:
        """Return all values that the setting may have; None where that is not a list."""
        return self.choices() if callable(self.choices) else self.choices


def setting(help: str, default: Any = MISSING, *, factory: Any = MISSING, **declared: Any) -> Any:
    """Declare a field of settings; without a default it must be given.

    Args:
        help: What it decides.
        default: Its default.
        factory: A function that makes the default.
        **declared: See ``Declared``.
    """
    metadata = {"declared": Declared(help, **declared)}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def declared(of: Field[Any]) -> Declared:
    """Return what is said of a field."""
    return of.metadata.get("declared", Declared("", python_only=True))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a command.

    Attributes:
        command: What is typed, e.g. ``edit apply``.
        group: Its group in the help, one of ``GROUPS``.
        summary: What it does, in a line.
        example: A command line that runs on a shipped organism, without ``mastlens``.
        function: ``module:function`` that takes these settings.
        then: The command to type next, without ``mastlens``; ``{name}`` stands for a setting. Empty where nothing
            follows.
        over_ranks: Whether torchrun may start it as several processes, which share one model.
    """

    command: ClassVar[str]
    group: ClassVar[str] = REPORT
    summary: ClassVar[str] = ""
    example: ClassVar[str] = ""
    function: ClassVar[str] = ""
    then: ClassVar[str] = ""
    over_ranks: ClassVar[bool] = False

    seed: int = setting("decides everything random", 0, group=EVERY)
    device: str = setting("cpu, cuda, cuda:N or mps; auto takes the best that there is", "auto", group=EVERY)
    progress: bool = setting("show progress bars", True, python_only=True)

    def __post_init__(self) -> None:
        for item in fields(self):
            valid = declared(item).valid()
            value = getattr(self, item.name)
            if valid is not None and value is not None and value not in valid:
                kind = declared(item).kind or item.name.replace("_", " ")
                raise unknown(kind, str(value), map(str, valid))


@dataclass(frozen=True, kw_only=True)
class Writing(Settings):
    """Settings of a command whose result goes into an output folder."""

    out: FilePath | None = setting("the run's output folder", None, metavar="DIR", typed_required=True)
    overwrite: bool = setting("replace what was made from other inputs or settings", False)


def options_of(settings: type[Any]) -> Iterator[tuple[Field[Any], Declared, Any]]:
    """Yield each field that can be typed, what is said of it, and the type that is typed."""
    for item in ordered(settings):
        if not declared(item).python_only:
            yield item, declared(item), bare(hints_of(settings)[item.name])


def ordered(settings: type[Any]) -> list[Field[Any]]:
    """Return the fields, those that all commands have last."""
    shared = {item.name for item in fields(Writing)}
    return sorted(fields(settings), key=lambda item: item.name in shared)


@functools.cache
def hints_of(settings: type[Any]) -> dict[str, Any]:
    """Return the types of the fields."""
    return typing.get_type_hints(settings)


def bare(hint: Any) -> Any:
    """Return a type without None; of several, the first: that is the one that is typed."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def flag_of(item: Field[Any]) -> str:
    """Return the option of a field."""
    said = declared(item)
    if said.flag:
        return said.flag
    return ("--no-" if item.default is True else "--") + item.name.replace("_", "-")


def takes_several(settings: type[Any], item: Field[Any]) -> bool:
    """Return whether a field holds several values."""
    return typing.get_origin(bare(hints_of(settings)[item.name])) in (tuple, list, Sequence)


def is_required(item: Field[Any]) -> bool:
    """Return whether a field must be given."""
    return item.default is MISSING and item.default_factory is MISSING


def at_default(settings: Any, item: Field[Any]) -> bool:
    """Return whether a field holds its default."""
    if is_required(item):
        return False
    value = getattr(settings, item.name)
    default = item.default_factory() if item.default_factory is not MISSING else item.default
    return value is default or (type(value) is type(default) and value == default)
