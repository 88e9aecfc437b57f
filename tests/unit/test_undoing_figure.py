"""The figure of what an edit takes back: an answer far beyond the axis is said, and flattens nothing."""

import numpy as np
import pandas as pd

from mastlens.plots import plot_undoing


def _table(answer: float) -> pd.DataFrame:
    nothing = dict.fromkeys(("back", "back_low", "back_high", "back_null", "back_p"), np.nan)
    states = [
        {"layer": layer, "site": "resid_post", "back": -0.5, "back_low": -0.7, "back_high": -0.3, "back_null": 0.0,
         "back_p": 1e-6, "back_distinguishable": True, "said_back": np.nan}
        for layer in range(4)
    ]  # fmt: skip
    logits = {**nothing, "layer": -1, "site": "logits", "back_distinguishable": False, "said_back": answer}
    return pd.DataFrame([*states, logits]).assign(split="forget", head=-1)


def _said(figure) -> str:
    return " ".join(one.text for one in figure.layout.annotations)


def test_an_answer_within_reach_is_a_line_and_one_beyond_is_said():
    near, far = plot_undoing(_table(0.8)), plot_undoing(_table(33.0))
    assert [shape.y0 for shape in near.layout.shapes if shape.line.dash == "dash"] == [0.8]
    assert not [shape for shape in far.layout.shapes if shape.line.dash == "dash"]
    assert "beyond the axis: forget 33" in _said(far).replace("<br>", " ")
    assert "beyond the axis" not in _said(near)


def test_no_mark_stands_between_two_layers():
    assert plot_undoing(_table(0.8)).layout.xaxis.dtick == 1
