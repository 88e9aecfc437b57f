"""The pages on plug-ins do what they say: in this session, and from packages that are installed."""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
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


def test_an_attack(tmp_path, monkeypatch, capsys):
    from mastlens.attacks import ATTACKS
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.plots.tables import figure_table

    monkeypatch.setattr(ATTACKS, "_registered", {})
    made = run_page("extending/attack", tmp_path, monkeypatch)
    table, kind = made["result"].table, made["Prune"]
    assert list(table["variant"]) == ["unpruned", "20%"] * 3
    assert list(table["baseline"]) == [True, False] * 3
    assert len(figure_table(made["result"].plot())) == len(table)
    # The same by the command line, and its record names the code.
    assert pd.read_parquet(tmp_path / "pruned" / "attack.parquet").equals(table)
    stage = json.loads((tmp_path / "pruned" / "run.json").read_text())["stages"]["attack"]
    digest = hashlib.sha256((tmp_path / "pruning.py").read_bytes()).hexdigest()
    assert stage["settings"]["attack"] == "prune"
    assert (stage["settings"]["shares"], stage["settings"]["code"]) == ([0.2], digest)
    # What it does: a fifth of each matrix, the smallest first, and nothing else.
    weight = Checkpoint("organism:qwen2/rlvr").load_model().model.layers[0].mlp.up_proj.weight.detach()
    pruned = made["Prune"].run.__globals__["_without_the_smallest"](weight, 0.2)
    gone = pruned == 0
    assert gone.float().mean().item() == pytest.approx(0.2, abs=1e-4)
    assert weight[gone].abs().max() < weight[~gone].abs().min()
    assert pruned[~gone].equal(weight[~gone])
    for shares, said in (((1.5,), "between 0 and 1"), ((0.0,), "between 0 and 1")):
        with pytest.raises(MastlensError, match=said):
            kind(shares=shares)
    # It is known by its name only where it is registered or installed.
    given = {"model": "organism:qwen2/rlvr", "splits": {"forget": "forget.jsonl"}, "limit": 1, "max_new_tokens": 1}
    with pytest.raises(MastlensError, match=r"There is no attack 'prune'\."):
        mastlens.attack("prune", **given)
    mastlens.register_attack(kind)
    with pytest.raises(MastlensError, match="Did you mean 'shares'"):
        mastlens.attack("prune", **given, own={"share": 0.1})
    monkeypatch.setattr(ATTACKS, "_registered", {})
    install(tmp_path, entry_points("extending/attack"))
    said = " ".join(command("attack", "--help", path=tmp_path).stdout.split())
    assert "prune: set the smallest weights to zero" in said
    assert "prune: shares, shares of each matrix that become zero (default 0.1,0.3)" in said
