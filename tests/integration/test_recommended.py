"""``rank --rule auto``: the rule that the evidence recommends, of those whose tables are there."""

import json
import shutil

import pandas as pd
import pytest

import mastlens
from mastlens.errors import MastlensError
from mastlens.selection.catalogue import RULES
from mastlens.selection.recommended import RECOMMENDED, recommended
from mastlens.selection.rule import Rule


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("recommended")
    stages = {"sft": tiny.sft, "rlvr": tiny.rlvr}
    mastlens.geometry(base=tiny.base, **stages, rank=2, where=".", out=out, progress=False)
    return out


def test_auto_is_the_recommended_rule_and_says_why(run, tmp_path):
    folders = [tmp_path / name for name in ("auto", "named")]
    for folder in folders:
        shutil.copytree(run, folder)
    found = mastlens.rank(folders[0], rule="auto", top=3)
    best = recommended(run)
    named = mastlens.rank(folders[1], rule=best.rule, top=3)
    pd.testing.assert_frame_equal(found.table, named.table)
    assert found.settings == {**named.settings, "recommended": best.why}
    assert f"auto is {best.rule}" in found.card().verdict
    assert "auto" not in named.card().verdict
    again = mastlens.rank(folders[0], rule="auto", top=3)
    pd.testing.assert_frame_equal(again.table, found.table)
    record = json.loads((folders[0] / "run.json").read_text())["stages"]["rank"]
    assert record["settings"]["rule"] == best.rule


def test_what_is_recommended_are_rules_with_reasons():
    assert RECOMMENDED
    for one in RECOMMENDED:
        assert isinstance(RULES.find(one.rule), Rule)
        assert "AUC" in one.why


def test_without_a_table_it_says_which_command_writes_one(tmp_path):
    with pytest.raises(MastlensError, match=r"(?s)no rule that is recommended.*mastlens geometry"):
        mastlens.rank(tmp_path, rule="auto", top=3)
