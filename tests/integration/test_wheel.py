"""The wheel has everything that runs and nothing that tests, and works without the sources."""

import email
import json
import re
import subprocess
import zipfile

import pytest

pytest.importorskip("hatchling", reason="the extra 'dev' is not installed")

import mastlens
from benchmarks.wheel import ROOT, build_wheel, environment, install
from mastlens.organisms import ORGANISMS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_what_runs_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.message_from_bytes(archive.read(f"mastlens-{mastlens.__version__}.dist-info/METADATA"))
        stored = {name: archive.read(name) for name in names if name.startswith("mastlens/organisms/lineages/")}
    assert metadata["Version"] == mastlens.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == set(metadata.get_all("Provides-Extra") or ())
    tracked = subprocess.run(["git", "ls-files", "mastlens"], cwd=ROOT, capture_output=True, text=True, check=True)
    sources = set(tracked.stdout.split()) or {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "mastlens").rglob("*.py")
    }
    assert {name for name in names if ".dist-info/" not in name} >= sources
    assert "mastlens/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"mastlens", f"mastlens-{mastlens.__version__}.dist-info"}
    assert not any("test" in name.split("/")[1] or name.endswith((".pyc", ".ipynb")) for name in names)
    for organism in ORGANISMS.shipped.values():
        if organism.cached:  # fetched or built on this machine, and in no wheel
            continue
        for file in organism.folder.rglob("*"):
            if file.is_file():
                assert stored[file.relative_to(ROOT).as_posix()] == file.read_bytes()
        if organism.study is not None:
            assert organism.study.relative_to(ROOT).as_posix() in names


@pytest.mark.slow
def test_it_works_in_an_environment_of_its_own(wheel, tmp_path):
    scripts = install(wheel, tmp_path / "env")

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python = str(scripts / "python")
    where = run(python, "-c", "import mastlens; print(mastlens.__file__)").strip()
    assert where.startswith(str(tmp_path / "env"))  # and not the sources that this test is in
    assert run(str(scripts / "mastlens"), "--version") == f"mastlens {mastlens.__version__}\n"
    assert run(python, "-m", "mastlens", "--version") == f"mastlens {mastlens.__version__}\n"
    told = json.loads(run(str(scripts / "mastlens"), "inspect", "organism:qwen2/rlvr", "--json"))
    assert told["fingerprint"] == mastlens.inspect("organism:qwen2/rlvr").summary["fingerprint"]
