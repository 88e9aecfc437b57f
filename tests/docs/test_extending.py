"""Each page on extending does what it says: it is run from top to bottom, and what it made is looked at."""

import json

import pandas as pd
import pytest

from mastlens.errors import MastlensError
from tests.docs.pages import run_page


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
