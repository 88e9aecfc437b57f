"""What somebody who writes a rule or an objective of their own is told where it does not fit."""

import pandas as pd
import pytest

import mastlens as m
from mastlens.cli import main
from mastlens.columns import TABLES
from mastlens.selection.rule import Rule
from mastlens.selection.tables import join
from mastlens.unlearning.objectives import make_objective


def test_a_rule_of_the_increment_names_what_zero_increments_are_known_by():
    needs = {"geometry": ("relative_norm",)}
    with pytest.raises(m.BadSetting, match="needs do not name delta_norm"):
        Rule("own", "", "", needs, lambda table: table["relative_norm"], of_increment=True)
    Rule("own", "", "", {"geometry": ("relative_norm", "delta_norm")}, lambda t: t["relative_norm"], of_increment=True)
    Rule("own", "", "", needs, lambda table: table["relative_norm"])


def test_a_misspelt_column_is_named_with_the_nearest_ones_and_a_missing_one_with_its_command():
    table = pd.DataFrame({"layer": [0], "projection": ["q"], "name": ["a"], "rows": [2], "cols": [2]})
    with pytest.raises(m.UnknownName, match=r"no column 'forget_cos' of the coupling table.*'forget_cosine'"):
        join({"coupling": table}, {"coupling": ("forget_cos",)}, rule="own")
    with pytest.raises(m.BadSetting, match="Write it anew: mastlens couple"):
        join({"coupling": table}, {"coupling": ("forget_cosine",)}, rule="own")


OWN = """
from mastlens.unlearning.objectives import OutputObjective


class Own(OutputObjective):
    name = "own"
    presets = {"soft": {"gamma": 0.5}}

    def forget_loss(self, batch, weights=None):
        raise NotImplementedError
"""


def test_presets_of_an_own_objective_are_listed(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own = f"{tmp_path / 'own.py'}:Own"
    with pytest.raises(m.UnknownName, match="Valid: soft"):
        make_objective(own, preset="none")
    with pytest.raises(m.BadSetting, match="Presets of own: soft"):
        make_objective(own, preset="paper")
    assert make_objective(own, preset="soft").gamma == 0.5


FAILING = """
from mastlens.selection import Rule

def worth(table):
    return table["forget_cosine"] + table["no such thing"]

MINE = Rule("mine", "", "", {"coupling": ("forget_cosine",)}, worth)
"""


def test_what_fails_in_ones_own_file_is_told_by_its_line_and_is_no_defect(tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(FAILING)
    kinds = {"text": "q", "whole": 2, "number": 0.5, "truth": True, "": 0.5}
    (declared,) = (table for table in TABLES if table.file == "coupling.parquet")
    pd.DataFrame({column.name: [kinds[column.kind]] for column in declared.columns}).to_parquet(
        tmp_path / "coupling.parquet"
    )
    words = ["rank", str(tmp_path), "--rule", f"{file}:MINE", "--top", "1"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mastlens: {file}, line 5, in worth: KeyError: 'no such thing'. This is your own code")
    assert main([*words, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err

    def broken(*given, **asked):
        raise KeyError("ours")

    file.write_text(FAILING.replace(' + table["no such thing"]', ""))
    monkeypatch.setattr("mastlens.selection.ranking.select", broken)
    assert main(words) == 1  # the same command, failing in this package's code
    assert "a defect" in capsys.readouterr().err
