"""The pages on plug-ins do what they say: in this session, and from packages that are installed."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mastlens
from mastlens.errors import MastlensError
from tests.docs.pages import DOCS, read_blocks, run_page


def entry_points(page: str) -> dict[str, dict[str, str]]:
    """Return group to entry points as a page declares them."""
    (declared,) = [b.code for b in read_blocks(DOCS / f"{page}.md") if "entry-points" in b.code]
    return tomllib.loads(declared)["project"]["entry-points"]


def install(folder: Path, groups: dict[str, dict[str, str]]) -> None:
    """Write what installing a package with these entry points leaves behind."""
    info = folder / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    sections = (f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in made.items()) for g, made in groups.items())
    (info / "entry_points.txt").write_text("\n".join(sections))


def command(*words: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of ours in a process of its own that also finds the packages in ``path``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(DOCS.parent), str(path)])}
    run = [sys.executable, "-m", "mastlens", *words]
    return subprocess.run(run, env=environment, capture_output=True, text=True, check=True)


def test_an_organism(tmp_path, monkeypatch):
    from mastlens.organisms import ORGANISMS

    monkeypatch.setattr(ORGANISMS, "_registered", {})
    made = run_page("extending/organism", tmp_path, monkeypatch)
    assert made["seen"].summary["fingerprint"] == mastlens.inspect("organism:qwen2/rlvr").summary["fingerprint"]
    assert made["study"].lineage.rlvr == "organism:mine/rlvr"
    assert set(made["study"].eval) == set(made["MINE"].splits)
    assert made["study"].decoding.max_new_tokens == 56
    with pytest.raises(MastlensError, match="Did you mean 'rlvr'"):
        mastlens.inspect("organism:mine/rlrv")
    monkeypatch.setattr(ORGANISMS, "_registered", {})
    with pytest.raises(MastlensError, match="There is no organism 'mine'"):
        mastlens.inspect("organism:mine/rlvr")
    install(tmp_path, entry_points("extending/organism"))
    done = command("inspect", "organism:mine/rlvr", "--json", path=tmp_path)
    assert json.loads(done.stdout)["fingerprint"] == made["seen"].summary["fingerprint"]
