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
import torch

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
    table, kind = made["result"].table, made["Jitter"]
    assert list(table["variant"]) == ["still", "20%"] * 3
    assert list(table["baseline"]) == [True, False] * 3
    assert len(figure_table(made["result"].plot())) == len(table)
    # The same by the command line, and its record names the code.
    assert pd.read_parquet(tmp_path / "shaken" / "attack.parquet").equals(table)
    stage = json.loads((tmp_path / "shaken" / "run.json").read_text())["stages"]["attack"]
    digest = hashlib.sha256((tmp_path / "jittering.py").read_bytes()).hexdigest()
    assert stage["settings"]["attack"] == "jitter"
    assert (stage["settings"]["sizes"], stage["settings"]["code"]) == ([0.2], digest)
    # What it does: a fifth of the matrix' own size is added, and the matrix itself stays.
    weight = Checkpoint("organism:qwen2/rlvr").load_model().model.layers[0].mlp.up_proj.weight.detach()
    kept = weight.clone()
    drawn = torch.Generator().manual_seed(0)
    shaken = kind.run.__globals__["_with_noise"](weight, 0.2, drawn)
    assert weight.equal(kept)
    size = (shaken - weight).square().mean().sqrt() / weight.square().mean().sqrt()
    assert size.item() == pytest.approx(0.2, rel=0.02)
    for sizes in ((-1.0,), (0.0,)):
        with pytest.raises(MastlensError, match="above 0"):
            kind(sizes=sizes)
    # It is known by its name only where it is registered or installed.
    given = {"model": "organism:qwen2/rlvr", "splits": {"forget": "forget.jsonl"}, "limit": 1, "max_new_tokens": 1}
    with pytest.raises(MastlensError, match=r"There is no attack 'jitter'\."):
        mastlens.attack("jitter", **given)
    mastlens.register_attack(kind)
    with pytest.raises(MastlensError, match="Did you mean 'sizes'"):
        mastlens.attack("jitter", **given, own={"size": 0.1})
    monkeypatch.setattr(ATTACKS, "_registered", {})
    install(tmp_path, entry_points("extending/attack"))
    said = " ".join(command("attack", "--help", path=tmp_path).stdout.split())
    assert "jitter: add noise to every matrix" in said
    assert "jitter: sizes, sizes of the noise, in shares of each matrix' own (default 0.01,0.1)" in said
