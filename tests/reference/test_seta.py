"""SETA's blocks against numpy, block by block, on gradients of plain Hugging Face."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mastlens
from mastlens.analysis.scores.scorers.seta import block_means, standardised
from mastlens.errors import MastlensError
from tests.conftest import write_problems
from tests.reference import plain

SIZE, KEEP = 10, 0.2


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_means_of_blocks(rows, cols, size, seed):
    matrix = np.random.default_rng(seed).normal(size=(rows, cols))
    expected = [
        np.abs(matrix[i : i + size, j : j + size]).mean() for i in range(0, rows, size) for j in range(0, cols, size)
    ]
    np.testing.assert_allclose(block_means(torch.tensor(matrix), size).numpy(), expected, rtol=1e-12)


def test_blocks_are_compared_within_their_layer():
    means = [torch.tensor([1.0, 3.0]).double(), torch.tensor([5.0]).double(), torch.tensor([2.0, 2.0]).double()]
    first, second, alike = standardised(means, [0, 0, 1])
    deviation = math.sqrt(8 / 3)  # of 1, 3 and 5
    assert first.tolist() == pytest.approx([-2 / deviation, 0])
    assert second.tolist() == pytest.approx([2 / deviation])
    assert alike.tolist() == [0, 0]


@pytest.mark.parametrize("sides", [("forget",), ("forget", "retain")])
def test_the_score_is_the_share_of_blocks_kept(tiny, tmp_path, sides):
    files = {
        side: write_problems(tmp_path / f"{side}.jsonl", first=1 if side == "forget" else 40, count=4) for side in sides
    }
    asked = {
        "sft": tiny.sft,
        "rlvr": tiny.rlvr,
        "progress": False,
        "parameters": {"block": float(SIZE), "keep": KEEP},
        **files,
    }
    table = mastlens.score("seta", **asked, out=tmp_path / "run").table
    model = plain.load_model(tiny.rlvr)
    standard = []
    for side in sides:
        model.zero_grad()
        plain.token_mean_nll(model, plain.encode_file(files[side], tiny.rlvr)).backward()
        means = {}
        for row in table.itertuples():
            gradient = np.abs(model.get_parameter(row.name).grad.double().numpy())
            means[row.name] = [
                gradient[i : i + SIZE, j : j + SIZE].mean()
                for i in range(0, gradient.shape[0], SIZE)
                for j in range(0, gradient.shape[1], SIZE)
            ]
        found = {}
        for _, rows in table.groupby("layer"):
            pooled = np.concatenate([means[name] for name in rows["name"]])
            found |= {name: (np.asarray(means[name]) - pooled.mean()) / pooled.std() for name in rows["name"]}
        standard.append(found)
    alpha = 1 / (1 + math.log(2))
    last = {
        name: one if len(sides) == 1 else alpha * one + (1 - alpha) * np.abs(one - standard[1][name])
        for name, one in standard[0].items()
    }
    pooled = np.concatenate([last[name] for name in table["name"]])
    least = np.sort(pooled)[::-1][math.ceil(round(KEEP * len(pooled), 9)) - 1]
    expected = [float((last[name] >= least).mean()) for name in table["name"]]
    assert table["score"].tolist() == pytest.approx(expected)
    assert table["blocks"].sum() == len(pooled)
    assert table["score"].max() > 0 and table["score"].min() < KEEP
    ranking = mastlens.rank(tmp_path / "run", rule="seta", top=2).table
    assert ranking["name"].iloc[0] == table.sort_values("score", ascending=False, kind="stable")["name"].iloc[0]
    assert isinstance(ranking, pd.DataFrame)


def test_what_makes_no_blocks_is_refused(tiny, tmp_path):
    forget = write_problems(tmp_path / "forget.jsonl", first=1, count=2)
    for parameters in ({"block": 0.0}, {"keep": 0.0}, {"keep": 1.5}):
        with pytest.raises(MastlensError, match="a share of them is kept"):
            mastlens.score("seta", sft=tiny.sft, rlvr=tiny.rlvr, forget=forget, progress=False, parameters=parameters)
