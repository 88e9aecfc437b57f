"""The guide's pages that can be run are run."""

import pandas as pd
import pytest

from tests.docs.pages import run_page


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
