"""Plug-ins are found wherever they may stand: shipped, registered, installed by another package, in a file named."""

import sys
import textwrap
from dataclasses import dataclass
from typing import ClassVar

import pytest

from mastlens.errors import MastlensError, MastlensWarning
from mastlens.registry import Registry, code_digest, subclasses_of


@dataclass(frozen=True)
class Tool:
    """What the registry of these tests holds."""

    name: ClassVar[str]


def registry(package: str = "toolbox") -> Registry[type[Tool]]:
    return Registry("tool", accepts=subclasses_of(Tool), package=package, group="toolbox.tools")


def tool(name: str, call: str = "Saw") -> str:
    return textwrap.dedent(
        f"""
        from dataclasses import dataclass
        from typing import ClassVar
        from tests.unit.test_registry import Tool

        @dataclass(frozen=True)
        class {call}(Tool):
            name: ClassVar[str] = "{name}"
            teeth: int = 12
        """
    )


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package of two tools, on the path, and beside it an empty folder for another package."""
    package = tmp_path / "toolbox"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "saw.py").write_text(tool("saw"))
    (package / "hammer.py").write_text(tool("hammer", "Hammer"))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("toolbox", "other_tools")]:
        del sys.modules[name]


def install(folder, entries: str) -> None:
    """Write what an installed package leaves behind."""
    info = folder / "other_tools-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-tools\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[toolbox.tools]\n{entries}\n")


def test_one_file_in_the_package_is_enough(shipped):
    assert list(registry()) == ["hammer", "saw"]
    (shipped / "toolbox" / "chisel.py").write_text(tool("chisel", "Chisel"))
    tools = registry()
    assert list(tools) == ["chisel", "hammer", "saw"]
    assert tools.find("chisel").__module__ == "toolbox.chisel"


def test_a_name_that_is_not_there_is_answered_with_the_nearest(shipped):
    with pytest.raises(MastlensError, match=r"There is no tool 'hamer'\. Did you mean 'hammer'"):
        registry().find("hamer")


def test_one_of_ones_own(shipped):
    @dataclass(frozen=True)
    class Plane(Tool):
        name: ClassVar[str] = "plane"

    tools = registry()
    assert tools.register(Plane) is Plane
    assert tools.register(Plane) is tools.find("plane")  # a cell that is run twice
    assert "plane" not in registry()

    @dataclass(frozen=True)
    class Other(Tool):
        name: ClassVar[str] = "saw"

    for wrong, said in ((Other, "already a tool called 'saw'"), (int, "is not a tool"), (Tool, "is not a tool")):
        with pytest.raises(MastlensError, match=said):
            tools.register(wrong)
    assert list(tools) == ["hammer", "saw", "plane"]


def test_an_installed_package_brings_its_own(shipped):
    (shipped / "other_tools.py").write_text(tool("file", "File") + tool("saw", "Saw"))
    install(shipped, "file = other_tools:File\nsaw = other_tools:Saw")
    tools = registry()
    assert tools.find("file").__module__ == "other_tools"
    assert tools.find("saw").__module__ == "toolbox.saw"  # what is shipped is not replaced behind one's back
    assert list(tools) == ["hammer", "saw", "file"]


def test_an_installed_package_that_is_broken_stops_nothing(shipped):
    install(shipped, "file = other_tools:File")
    tools = registry()
    assert tools.find("saw").name == "saw"
    with pytest.warns(MastlensWarning, match="'file' of an installed package"):
        assert "file" not in tools


def test_from_a_file_when_it_is_named(shipped, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(tool("rasp", "Rasp"))
    tools = registry()
    found = tools.find(f"{path}:Rasp")
    assert (found.name, found().teeth) == ("rasp", 12)
    assert "rasp" not in tools  # looked at, not added
    path.write_text(tool("rasp", "Rasp").replace("12", "30"))
    assert tools.find(f"{path}:Rasp")().teeth == 30
    for given, said in (
        (f"{path}:Rsap", "Did you mean 'Rasp'"),
        (f"{path}:dataclass", "is not a tool"),
        (f"{tmp_path / 'none.py'}:Rasp", "There is no file"),
    ):
        with pytest.raises(MastlensError, match=said):
            tools.find(given)
    path.write_text("raise ValueError('no')")
    with pytest.raises(MastlensError, match="cannot be run: ValueError: no"):
        tools.find(f"{path}:Rasp")


def test_no_other_name_runs_a_file(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit")
    for name in ("mine", "mine.py", "mine:Rasp"):
        with pytest.raises(MastlensError, match="There is no tool"):
            registry().find(name)


def test_the_digest_is_of_code_from_outside_alone(shipped, tmp_path):
    from mastlens.errors import MastlensError as ours

    path = tmp_path / "mine.py"
    path.write_text(tool("rasp", "Rasp"))
    first = code_digest(registry().find(f"{path}:Rasp"))
    assert first == code_digest(registry().find(f"{path}:Rasp"))
    path.write_text(tool("rasp", "Rasp") + "\n# another\n")
    assert code_digest(registry().find(f"{path}:Rasp")) != first
    assert code_digest(ours) is None
