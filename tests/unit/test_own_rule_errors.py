"""What somebody who writes a rule or an objective of their own is told where it does not fit."""

import pandas as pd
import pytest

import mastlens as m
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
