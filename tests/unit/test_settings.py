"""Settings: declared once; the command line, the function, the record and the documentation are read from them."""

import functools
import inspect
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

import mastlens
from mastlens.cli.parser import build_parser
from mastlens.cli.reading import settings_from
from mastlens.cli.registry import COMMANDS, named
from mastlens.cli.stubs import public_stub
from mastlens.errors import MastlensError
from mastlens.runs.calls import make, takes
from mastlens.runs.settings import GROUPS, Settings, Writing, bare, declared, hints_of, is_required, setting
from mastlens.runs.words import record, typed

ALL = [pytest.param(command.settings, id=command.settings.command) for command in COMMANDS]
DERIVED = {"progress"}  # follows from --json


def sample(said: Any, kind: Any, default: Any) -> Any:
    """Return a value of a setting that is not its default."""
    if said.options is not None:
        cls = next(part for part in (get_args(kind) or (kind,)) if part is not bool)
        hints = hints_of(cls)
        inner = {
            item.name: sample(declared(item), bare(hints[item.name]), None if item.default is MISSING else item.default)
            for item in fields(cls)
            if item.name in said.options
        }
        return cls(**inner)
    valid = said.valid()
    if valid is not None and get_origin(kind) not in (tuple, list, Sequence, Mapping):
        return next(value for value in valid if value != default)
    if get_origin(kind) is Mapping:
        convert = get_args(kind)[1]
        return {"one": convert(2) if convert in (int, float) else "a b.jsonl"}
    if get_origin(kind) in (tuple, list, Sequence):
        return tuple({int: (3, 5), float: (0.5, 2.0)}.get(get_args(kind)[0], ("one", "an other")))
    if kind is bool:
        return not default
    return {int: 7, float: 0.125}.get(kind, "some thing")


def filled(settings: type[Settings]) -> Settings:
    """Return settings none of which that can be typed is at its default; of exclusive ones only the first."""
    values, hints, exclusive = {}, hints_of(settings), set()
    for item in fields(settings):
        said = declared(item)
        if said.python_only or said.exclusive in exclusive - {""}:
            continue
        exclusive.add(said.exclusive)
        default = None if item.default is MISSING else item.default
        values[item.name] = sample(said, bare(hints[item.name]), default)
    return settings(**values)


def least(settings: type[Settings]) -> Settings:
    """Return settings with nothing but what must be typed."""
    values, exclusive = {}, set()
    for item in fields(filled(settings)):
        said = declared(item)
        first = said.exclusive and said.exclusive not in exclusive
        exclusive |= {said.exclusive}
        if is_required(item) or said.typed_required or first:
            values[item.name] = getattr(filled(settings), item.name)
    return settings(**values)


@functools.cache
def parser():
    return build_parser()  # of all commands; parsing leaves it as it is


def parsed(line: str, settings: type[Settings]) -> Settings:
    return settings_from(settings, parser().parse_args(shlex.split(line)[1:]))


@pytest.mark.parametrize("settings", ALL)
@pytest.mark.parametrize("of", [filled, least])
def test_settings_come_back_from_the_command_line_that_they_give(settings, of):
    given = of(settings)
    assert parsed(typed(given), settings) == given


@pytest.mark.parametrize("settings", ALL)
def test_each_option_changes_its_own_setting_and_no_other(settings):
    base, full = least(settings), filled(settings)
    for item in fields(settings):
        said = declared(item)
        if said.python_only or said.exclusive or getattr(base, item.name) == getattr(full, item.name):
            continue
        one = replace(base, **{item.name: getattr(full, item.name)})
        back = parsed(typed(one), settings)
        changed = {other.name for other in fields(settings) if getattr(back, other.name) != getattr(base, other.name)}
        assert changed == {item.name}


@pytest.mark.parametrize("settings", ALL)
def test_everything_is_said_of_a_command_and_of_its_settings(settings):
    assert settings.group in GROUPS
    assert settings.summary
    assert settings.summary[-1] != "."
    for item in fields(settings):
        assert declared(item).help, item.name
        assert declared(item).help[-1] != ".", item.name
    function = named(settings.function)
    assert function.settings is settings
    assert {*inspect.signature(function).parameters} == {item.name for item in fields(settings)}
    assert all(f"    {item.name}: " in function.__doc__ for item in fields(settings))


@pytest.mark.parametrize("settings", ALL)
def test_the_function_has_the_commands_name(settings):
    words = settings.command.replace("-", "_").split()
    own = {"_".join(words), "_".join(reversed(words)), "_".join(reversed(words)).removesuffix("s")}
    own |= {f"{name}s" for name in own}
    assert own & {*mastlens.__all__}, settings.command
    name = next(iter(own & {*mastlens.__all__}))
    assert getattr(mastlens, name) is named(settings.function)


@pytest.mark.parametrize("settings", ALL)
def test_the_example_is_a_command_line_of_this_command(settings):
    assert settings.example.startswith(settings.command + " ") or settings.example == settings.command
    parsed(f"mastlens {settings.example}", settings)


def test_no_public_function_has_more_than_twelve_parameters_of_its_own():
    for name in mastlens.__all__:
        function = getattr(mastlens, name)
        if inspect.isfunction(function) and not hasattr(function, "settings"):
            assert len(inspect.signature(function).parameters) <= 12, name


def test_the_stub_is_the_one_that_the_declarations_give():
    stub = Path(mastlens.__file__).with_suffix(".pyi")
    assert stub.read_text(encoding="utf-8") == public_stub(), "write it again: python -m mastlens.cli.stubs"


# --- the declaring itself, on a command of its own -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Nested:
    every: int = setting("how often", 10)


@dataclass(frozen=True, kw_only=True)
class CountSettings(Writing):
    command, summary, function = "count", "how many", "tests.unit.test_settings:count"

    path: str = setting("the checkpoint", positional=True)
    least: int = setting("leave out smaller ones", 1, unit="entries", deprecated=("minimum",))
    kind: str = setting("of which kind", "all", choices=("all", "some"))
    nested: Nested | None = setting("how to look", None, options={"every": "--look-every"})
    names: Sequence[str] | None = setting("only these", None, python_only=True)


@takes(CountSettings)
def count(settings: CountSettings) -> CountSettings:
    """Count.

    Raises:
        MastlensError: Never.
    """
    return settings


def test_a_function_takes_the_object_its_fields_or_both():
    asked = CountSettings(path="x", least=3)
    assert count(asked) is not None
    assert count("x", least=3) == count(path="x", least=3) == count(asked) == asked
    assert count(asked, least=4) == replace(asked, least=4)
    assert asked.least == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "count needs path"),
        ({"path": "x", "leats": 3}, "Did you mean 'least'"),
        ({"path": "x", "kind": "sume"}, "There is no kind 'sume'. Did you mean 'some'"),
    ],
)
def test_what_does_not_fit_is_told(given, said):
    with pytest.raises(MastlensError, match=said):
        count(**given)


def test_a_former_name_still_works_and_says_so():
    with pytest.warns(DeprecationWarning, match="minimum= is now called least="):
        assert count("x", minimum=5).least == 5


@pytest.mark.parametrize(("old", "new"), mastlens._FORMER.items())
def test_a_former_name_of_a_function_still_works_and_says_so(old, new):
    with pytest.warns(DeprecationWarning, match=f"mastlens.{old} is now called {new}"):
        assert getattr(mastlens, old) is getattr(mastlens, new)
    assert old not in mastlens.__all__
    assert new in mastlens.__all__


def test_a_value_too_many_and_one_given_twice_are_told():
    with pytest.raises(MastlensError, match="takes 1 values without a name; 2 were given"):
        count("x", "y")
    with pytest.raises(MastlensError, match="path is given twice"):
        count("x", path="y")


def test_the_record_holds_what_was_given_and_not_where_it_went():
    asked = CountSettings(path="x", out="here", overwrite=True, nested=Nested(every=3))
    assert record(asked) == {
        "name": "count",
        "settings": {"path": "x", "nested": {"every": 3}},
        "line": "mastlens count x --look-every 3",
        "out": True,
    }
    assert record(CountSettings(path="x", names=("a",)))["line"] is None


def test_what_only_python_takes_cannot_be_typed():
    assert typed(CountSettings(path="a b", least=2)) == "mastlens count 'a b' --least 2"
    with pytest.raises(MastlensError, match="names cannot be typed"):
        typed(CountSettings(path="x", names=("a",)))


def test_documentation_and_signature_are_those_of_the_fields():
    assert "    least: leave out smaller ones (entries).\n" in count.__doc__
    assert count.__doc__.index("Args:") < count.__doc__.index("Raises:")
    assert inspect.signature(count).parameters["least"].default == 1
    assert make(CountSettings, ("x",)).path == "x"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_can_complete_commands_and_options(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--print-completion", shell])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    assert "mask-agreement" in script
    assert "--extrapolate" in script


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("geomtry", "There is no command 'geomtry'. Did you mean 'geometry'"),
        ("geometry --rnak 8 --base b --rlvr r --out o", "There is no option '--rnak'. Did you mean '--rank'"),
        ("edit aply e", "Did you mean 'apply'"),
    ],
)
def test_words_that_are_not_known_get_the_nearest_ones(line, said, capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(line.split())
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert said in captured.err
    assert captured.out == ""


def test_the_declarations_can_be_read_without_anything_heavy():
    program = (
        "import sys; from mastlens.cli.parser import build_parser; build_parser().format_help(); "
        "print(sorted({'torch', 'pandas', 'numpy', 'scipy', 'transformers', 'plotly', 'shtab'} & {*sys.modules}))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
