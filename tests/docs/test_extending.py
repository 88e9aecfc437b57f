"""Each page on extending does what it says: it is run from top to bottom, and what it made is looked at."""

import json

import pandas as pd
import pytest

from mastlens.architectures import catalogue
from mastlens.errors import MastlensError
from tests.docs.pages import DOCS, read_blocks, run_page


def test_a_figure(tmp_path, monkeypatch):
    made = run_page("extending/figure", tmp_path, monkeypatch)
    geometry = pd.read_parquet(tmp_path / "run" / "geometry.parquet")
    rlvr = geometry[(geometry["increment"] == "rlvr") & (geometry["projection"] == "q")]
    drawn = json.loads(made["fig"].to_json())["data"][0]
    assert drawn["name"] == "q"
    assert list(made["fig"].data[0].y) == pytest.approx(list(rlvr["delta_norm"] / rlvr["precision_floor"]))
    assert {path.name for path in tmp_path.glob("above-rounding.*")} == {
        f"above-rounding.{e}" for e in ("html", "json", "csv")
    }
    with pytest.raises(
        MastlensError, match=r"needs the column 'precision_floor'.*mastlens geometry writes such a table"
    ):
        made["plot_above_rounding"](geometry.drop(columns="precision_floor"))


def test_an_architecture(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_registered", {})
    made = run_page("extending/architecture", tmp_path, monkeypatch)
    assert "bloom" not in catalogue.ARCHITECTURES
    check = read_blocks(DOCS / "extending" / "architecture.md")[-1].code
    confused = check.replace("matrix[projection]", "matrix[dict(q='k', k='q', v='v')[projection]]")
    exec(check, dict(made))
    with pytest.raises(AssertionError):  # q and k have one shape: nothing but this check tells them apart
        exec(confused, dict(made))
