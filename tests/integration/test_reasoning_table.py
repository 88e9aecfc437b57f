"""R2MU's table on the shipped reasoning organism, with few steps and few questions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mastlens.edits.edit import Edit
from mastlens.errors import MastlensError
from mastlens.organisms import lineage_folder
from mastlens.statistics import seed_interval
from mastlens.studies.reasoning import MEASURES, reasoning_table
from mastlens.studies.reasoning_methods import METHODS, organism_study, with_settings
from tests.columns import check_table


def _short(source: Path, target: Path, lines: int) -> str:
    target.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]), encoding="utf-8")
    return str(target)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    files, folder = tmp_path_factory.mktemp("files"), lineage_folder("think")
    names = {
        "forget": ("forget-text", 4),
        "retain": ("retain-text", 8),
        "cot": ("maths-cot", 6),
        "questions": ("forget-choices-calibration", 8),
        "utility": ("retain-choices-calibration", 8),
        "maths": ("maths-calibration", 8),
    }
    short = {key: _short(folder / f"{name}.jsonl", files / f"{name}.jsonl", n) for key, (name, n) in names.items()}
    return with_settings(organism_study(), **short, steps=3, segments=1, batch_size=2, lr=3e-3)


@pytest.mark.slow
def test_the_table_has_every_method_and_a_second_run_changes_nothing(study, tmp_path):
    found = reasoning_table(study, out=tmp_path, seeds=(0, 1), progress=False)
    for path in (*tmp_path.glob("r2mu*.parquet"), tmp_path / "exams" / "r2mu-0" / "solved.parquet"):
        check_table(path, "mastlens reasoning-table")
    assert list(found.table["method"]) == list(METHODS)
    trained = [name for name, method in METHODS.items() if method.objective]
    assert set(found.table.set_index("method").loc[trained, "seeds"]) == {2}
    original = found.table.set_index("method").loc["original"]
    assert original["forget_accuracy"] >= 0.75
    assert original["maths"] >= 0.75
    assert original["rt_ua"] >= 0.75  # it knows the facts, and its traces say so
    assert found.table.set_index("method").loc["reference", "rt_ua"] < original["rt_ua"]
    for method in trained:
        part = found.arms[found.arms["method"] == method]
        row = found.table.set_index("method").loc[method]
        for measure in MEASURES:
            assert row[measure] == pytest.approx(part[measure].mean())
            assert row[f"{measure}_low"] == pytest.approx(max(seed_interval(part[measure]).low, 0), abs=1e-12)
    assert np.allclose(found.arms["avg_ua"], (found.arms["fa_ua"] + found.arms["rt_ua"]) / 2)
    shares = found.categories.groupby(["method", "seed"])["share"].sum()
    assert np.allclose(shares, 1)
    # ZeroThink and the penalty in decoding ask RMU's own edit in another way; nobody else shares one.
    edits = sorted(path.name for path in (tmp_path / "edits").iterdir())
    assert len(edits) == 2 * (len(trained) - 2)
    edit = Edit.load(tmp_path / "edits" / "r2mu-0" / "edit.safetensors")
    assert set(edit.names) == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (1, 2, 3)}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = reasoning_table(study, out=tmp_path, seeds=(0, 1), progress=False)
    pd.testing.assert_frame_equal(again.table, found.table)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    assert len(found.measures) == 4 * len(METHODS) == len(pd.read_csv(tmp_path / "r2mu.csv"))
    assert {found.plot().layout.xaxis.anchor, found.plot_categories().layout.xaxis.anchor} == {"y"}


def test_what_does_not_exist_is_named(study, tmp_path):
    with pytest.raises(MastlensError, match="r2mu-v0"):
        reasoning_table(study, out=tmp_path, methods=["r2mu-v1"])
    with pytest.raises(MastlensError, match="facts"):
        reasoning_table(replace(study, facts=None), out=tmp_path)
