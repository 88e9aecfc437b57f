"""Rankings recomputed from the formula; ties; zero increments; random controls of the same size."""

import numpy as np
import pandas as pd
import pytest

import mastlens as m
from mastlens.selection import random_matched, select

from .plain import projection_names

COLUMNS = ["rank", "layer", "projection", "name", "score", "selected"]


def ranked(geometry, coupling, **asked):
    return select({"geometry": geometry, "coupling": coupling}, **asked)


def name_of(layer, projection):
    return f"model.layers.{layer}.self_attn.{projection}_proj.weight"


def tables(layers=12, *, off=0.9, norm=0.1, cosine=0.01):
    """Return geometry and coupling tables in which every projection is equal."""
    keys = [(layer, projection) for layer in range(layers) for projection in "qkvo"]
    geometry = pd.DataFrame(
        [
            {
                "increment": increment, "layer": layer, "projection": projection, "name": name_of(layer, projection),
                "rows": 8, "cols": 8, "delta_norm": norm, "delta_rms": norm / 8, "relative_norm": norm / 3,
                "rank": 2, "off_principal": off, "off_principal_null": 1 - 4 / 64,
            }
            for increment in ("sft", "rlvr")
            for layer, projection in keys
        ]
    )  # fmt: skip
    coupling = pd.DataFrame(
        [
            {
                "layer": layer, "projection": projection, "name": name_of(layer, projection),
                "forget_grad_norm": 1.0, "forget_inner": cosine * norm, "forget_cosine": cosine,
            }
            for layer, projection in keys
        ]
    )  # fmt: skip
    return geometry, coupling


@pytest.fixture(scope="module")
def measured(tiny):
    geometry = m.geometry(base=tiny.base, sft=tiny.sft, rlvr=tiny.rlvr, rank=4, progress=False).table
    coupling = m.couple(sft=tiny.sft, rlvr=tiny.rlvr, forget=tiny.forget, progress=False).table
    return geometry, coupling


def test_scores_follow_the_formula(measured):
    geometry, coupling = measured
    found = ranked(geometry, coupling, top=3).table
    rows = geometry[geometry["increment"] == "rlvr"].set_index("name")
    cosine = coupling.set_index("name")["forget_cosine"]
    expected = {
        name: rows.loc[name, "off_principal"] * np.log(1 + rows.loc[name, "delta_norm"] ** 2) * (1 + abs(cosine[name]))
        for name in rows.index
    }
    assert set(found.columns) >= set(COLUMNS)
    assert len(found) == 8
    for row in found.itertuples():
        assert row.score == pytest.approx(expected[row.name], rel=1e-9)
    assert list(found["name"]) == sorted(expected, key=expected.get, reverse=True)
    assert list(found["rank"]) == list(range(1, 9))
    assert list(found["selected"]) == [True] * 3 + [False] * 5
    sft = geometry[geometry["increment"] == "sft"].set_index("name")["delta_norm"]
    assert (sft > 2 * rows["delta_norm"]).all()  # the other increment would have given other scores


def test_rank_writes_the_same_table(tiny, measured, tmp_path):
    m.geometry(base=tiny.base, sft=tiny.sft, rlvr=tiny.rlvr, rank=4, out=tmp_path, progress=False)
    m.couple(sft=tiny.sft, rlvr=tiny.rlvr, forget=tiny.forget, out=tmp_path, progress=False)
    made = m.rank(tmp_path, top=5)
    pure = ranked(*measured, top=5)
    written = pd.read_parquet(tmp_path / "ranking.parquet")
    pd.testing.assert_frame_equal(written[COLUMNS], pure.table[COLUMNS])
    assert made.selected == pure.selected == list(written.loc[written["selected"], "name"])
    assert len(made.selected) == 5


def test_the_table_does_not_depend_on_the_order_of_its_inputs(measured):
    geometry, coupling = measured
    shuffled = ranked(geometry.sample(frac=1, random_state=0), coupling.sample(frac=1, random_state=1), top=3).table
    pd.testing.assert_frame_equal(
        shuffled[COLUMNS].reset_index(drop=True), ranked(geometry, coupling, top=3).table[COLUMNS]
    )


def test_ties_go_by_layer_then_q_k_v_o():
    geometry, coupling = tables()
    geometry = geometry.sample(frac=1, random_state=3).reset_index(drop=True)
    coupling = coupling.sample(frac=1, random_state=4).reset_index(drop=True)
    found = ranked(geometry, coupling, top=6).table
    assert found["score"].nunique() == 1
    expected = [(layer, projection) for layer in range(12) for projection in "qkvo"]  # 10 after 9, not after 1
    assert list(zip(found["layer"], found["projection"], strict=True)) == expected


def test_ties_between_equal_scores_of_different_factors_only():
    geometry, coupling = tables(layers=2)
    geometry.loc[(geometry["layer"] == 1) & (geometry["projection"] == "o"), "delta_norm"] = 0.5
    found = ranked(geometry, coupling, top=1)
    assert found.selected == [name_of(1, "o")]  # a better score goes before any tie
    assert list(found.table["name"])[1:] == [n for n in projection_names() if n != name_of(1, "o")]


def test_a_zero_increment_comes_last():
    geometry, coupling = tables(layers=2, norm=1e-9, off=0.5)
    zero = name_of(0, "q")  # first in every tie
    geometry.loc[geometry["name"] == zero, ["delta_norm", "delta_rms", "relative_norm", "off_principal"]] = 0.0
    coupling.loc[coupling["name"] == zero, ["forget_inner", "forget_cosine"]] = 0.0
    found = ranked(geometry, coupling, top=7)
    assert found.table["name"].iloc[-1] == zero
    assert found.table["score"].iloc[-1] == 0
    assert zero not in found.selected
    # log(1 + 1e-18) is 1e-18 and not 0: the smallest increment still goes before none at all.
    assert (found.table["score"].iloc[:-1] > 0).all()


def test_the_sign_of_the_coupling_does_not_matter_but_its_size_does():
    geometry, coupling = tables(layers=1)
    coupling["forget_cosine"] = [0.1, -0.3, 0.2, -0.05]
    found = ranked(geometry, coupling, top=2).table
    assert list(found["projection"]) == ["k", "v", "q", "o"]
    flipped = ranked(geometry, coupling.assign(forget_cosine=-coupling["forget_cosine"]), top=2).table
    assert list(flipped["score"]) == list(found["score"])


def test_top_of_all_selects_all(measured):
    assert ranked(*measured, top=8).table["selected"].all()
    for top in (0, -1, 9):
        with pytest.raises(m.MastlensError, match=str(top)):
            ranked(*measured, top=top)


SIZES = {name_of(layer, p): 1024 if p in "qo" else 256 for layer in range(6) for p in "qkvo"}


@pytest.mark.parametrize("selected", [
    [name_of(0, "q"), name_of(1, "k"), name_of(2, "v")],
    [name_of(layer, "q") for layer in range(6)],
    [name_of(layer, p) for layer in range(6) for p in "kv"],
    list(SIZES)[:1],
    list(SIZES),
])  # fmt: skip
def test_random_selections_have_as_many_parameters(selected):
    target = sum(SIZES[name] for name in selected)
    draws = [random_matched(SIZES, selected, seed=seed) for seed in range(8)]
    for draw in draws:
        assert sum(SIZES[name] for name in draw) == target
        assert len(set(draw)) == len(draw)
        assert draw == [name for name in SIZES if name in set(draw)]
    assert draws[0] == random_matched(SIZES, selected, seed=0)
    if len(selected) < len(SIZES):
        assert len({tuple(draw) for draw in draws}) > 2


def test_random_selections_reach_every_candidate():
    selected = [name_of(0, "q"), name_of(0, "k")]
    seen = {name for seed in range(150) for name in random_matched(SIZES, selected, seed=seed)}
    assert seen == set(SIZES)


def test_random_selections_come_close_where_equal_is_impossible():
    sizes = {"a": 100, "b": 70, "c": 70, "d": 70}
    draw = random_matched(sizes, ["a"], seed=0)
    assert draw == ["a"] or sum(sizes[n] for n in draw) == 70
