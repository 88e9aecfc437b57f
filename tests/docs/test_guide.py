"""The guide's pages that can be run are run."""

import pandas as pd
import pytest

import mastlens
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.organisms import stage_folder
from tests.docs.pages import run_page


@pytest.mark.slow
def test_real_size(tmp_path, monkeypatch, yardstick_lineage):
    run_page("real-size", tmp_path, monkeypatch, changed={"LIMIT = 8": "LIMIT = 2"})
    ranking = pd.read_parquet(tmp_path / "run" / "ranking.parquet")
    selected = set(ranking.loc[ranking["selected"], "name"])
    assert len(ranking) == 120
    assert len(selected) == 12
    edit = mastlens.Edit.load(tmp_path / "run" / "edit.safetensors")
    assert set(edit.after) <= selected
    causal = pd.read_parquet(tmp_path / "run" / "causal_map.parquet")
    assert selected <= set(causal["name"])
    for folder in ("before", "after"):
        responses = pd.read_parquet(tmp_path / folder / "responses.parquet")
        assert len(responses) == 4
        assert (responses["logprob_solution"] < 0).all()
    assert Checkpoint(tmp_path / "edited-model").config["model_type"] == "llama"
    assert yardstick_lineage == stage_folder("smollm2-short/rlvr").parent


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch):
    made = run_page("quickstart", tmp_path, monkeypatch)
    ranking = pd.read_parquet(tmp_path / "run" / "ranking.parquet")
    selected = set(ranking.loc[ranking["selected"], "name"])
    assert len(selected) == 12
    assert set(made["edit"].after) == selected
    for name in ("run/report.html", "after/responses.parquet", "edited-model/model.safetensors"):
        assert (tmp_path / name).is_file()


def test_items_and_seeds(tmp_path, monkeypatch):
    made = run_page("items-and-seeds", tmp_path, monkeypatch)
    assert len(made["drops"]) == 5
