"""The pure helpers of the benchmarks, against values computed by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import geometry, planted, real
from benchmarks.common import from_fresh_process, interleaved, order_of, ratio, shown, table
from benchmarks.open_unlearning import Noting, coefficients, import_trainer, inputs_of
from benchmarks.unlearning import (
    BATCH,
    PROBLEMS,
    batches_of,
    largest_relative,
    learned_difference,
    make_problems,
    objective_of,
    projections,
)
from mastlens.problems.encoding import EncodedProblem, collate


def test_each_round_starts_with_another_and_has_all():
    assert [order_of("abc", turn) for turn in range(-1, 3)] == [list(o) for o in ("cab", "abc", "bca", "cab")]


def test_interleaved_arms_take_turns_and_the_first_round_does_not_count():
    called = []
    seconds = interleaved({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 2)
    assert called == ["b", "a", "a", "b", "b", "a"]
    assert {arm: len(found) for arm, found in seconds.items()} == {"a": 2, "b": 2}
    assert all(s >= 0 for found in seconds.values() for s in found)


@pytest.mark.parametrize(("statistic", "expected"), [("median", 2 / 3), ("sum", 9 / 106)])
def test_ratio_is_that_of_the_statistic(statistic, expected):
    found = ratio([6.0, 2.0, 1.0], [3.0, 100.0, 3.0], statistic=statistic)
    assert found["ratio"] == pytest.approx(expected)
    assert found["ci_low"] <= found["ratio"] <= found["ci_high"]


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8), st.floats(0.1, 10))
def test_rounds_are_resampled_as_pairs(seconds, factor):
    found = ratio([factor * s for s in seconds], seconds, resamples=50)  # pairs: the same in every resample
    assert list(found.values()) == pytest.approx([factor] * 3)


def test_rounds_that_vary_have_an_interval():
    found = ratio([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0])
    assert found["ci_low"] < found["ratio"] == 2.5 < found["ci_high"]


def test_text():
    assert shown({"ratio": 1.0, "ci_low": 0.98765, "ci_high": 1.2}, 2) == "1.00 [0.99, 1.20]"
    assert table(("a", "b"), [(1, "x")]) == ["", "| a | b |", "|---|---|", "| 1 | x |"]


def test_the_last_line_of_a_fresh_process_is_its_number(tmp_path, monkeypatch):
    (tmp_path / "arm.py").write_text("import sys\nprint('text')\nprint(len(sys.argv) + 0.5)\n")
    monkeypatch.chdir(tmp_path)
    assert from_fresh_process("arm", "--arm", "this one") == 3.5
    with pytest.raises(SystemExit, match="no_such_benchmark"):
        from_fresh_process("no_such_benchmark")


def test_projections_are_spread_and_start_at_the_lowest_layer():
    chosen = projections(16)
    layers = [int(name.split(".")[2]) for name in chosen]
    assert len(set(chosen)) == 16
    assert layers[0] == 0
    assert np.diff(layers).min() >= 1 and max(np.diff(layers)) <= 2  # 7 projections of 4 a layer apart
    assert sorted({name.split(".")[4][0] for name in chosen}) == ["k", "o", "q", "v"]
    assert len(set(projections(112))) == 112
    upper = [int(name.split(".")[2]) for name in projections(16, lowest=14)]
    assert min(upper) == 14 and max(upper) == 27


def test_largest_relative_difference():
    assert largest_relative(np.array([1.0, 2.2]), np.array([1.0, 2.0])) == pytest.approx(0.1)
    assert np.isnan(largest_relative(np.array([np.nan, 1.0]), np.array([1.0, 1.0])))


def test_learned_difference_is_relative_to_what_was_learned():
    start, expected, found = (torch.nn.Linear(1, 2) for _ in range(3))
    for model, values in ((start, [5.0, 5.0]), (expected, [8.0, 9.0]), (found, [8.0, 9.5])):
        torch.nn.init.zeros_(model.bias)
        model.weight.data = torch.tensor(values)[:, None]
    assert learned_difference(found, expected, start) == pytest.approx(0.1)
    assert learned_difference(expected, expected, start) == 0


def test_labels_are_the_solution_and_nothing_else():
    given_batch = inputs_of(collate([EncodedProblem((5, 6), (7,)), EncodedProblem((8,), (9, 3, 4))]))
    assert given_batch["labels"].tolist() == [[-100, -100, 7, -100], [-100, 9, 3, 4]]
    assert given_batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 9, 3, 4]]
    assert given_batch["attention_mask"].tolist() == [[True, True, True, False], [True] * 4]


def test_halves_of_batches_hold_the_same_problems():
    whole, halves = batches_of("npo", 4), batches_of("npo", 4, BATCH // 2)
    assert (len(whole), len(halves)) == (4, 8)
    for side, seed in (("forget", 0), ("retain", 1)):
        problems = sorted(p.prompt + p.solution for p in make_problems(seed))
        for given_batches in (whole, halves):  # 4 steps of 4: each of the 16 problems once
            rows = [
                tuple(ids[mask].tolist())
                for sides in given_batches
                for ids, mask in zip(sides[side].input_ids, sides[side].attention_mask, strict=True)
            ]
            assert len(rows) == PROBLEMS and sorted(rows) == problems
    assert [set(sides) for sides in batches_of("ga", 1)] == [{"forget"}]


def test_coefficients_are_those_of_the_trainer():
    assert coefficients(objective_of("ga")) == {}
    assert coefficients(objective_of("graddiff")) == {"gamma": 1.0, "alpha": 1.0}
    assert coefficients(objective_of("npo")) == {"beta": 0.1, "gamma": 1.0, "alpha": 1.0}
    margin = 14 * np.log(2)  # of a vocabulary of 2^14: the loss of a random model lies there, and so the margin
    expected = {"beta": 4.5, "delta": pytest.approx(margin), "gamma": 0.125, "alpha": 1.0}
    assert coefficients(objective_of("simnpo")) == expected


def test_a_coefficient_notes_what_it_multiplies_and_changes_nothing():
    noted = []
    loss = torch.tensor(3.0, requires_grad=True)
    total = Noting(0.125, noted) * loss + 2.0
    total.backward()
    assert (float(total.detach()), noted) == (2.375, [3.0])
    assert float(loss.grad) == 0.125


def test_no_checkout_is_said(tmp_path):
    with pytest.raises(SystemExit, match="no checkout of open-unlearning"):
        import_trainer(tmp_path, "npo")


def test_the_page_of_geometry_has_the_parts_that_were_measured():
    timed = {"seconds": {"script": [4.0, 6.0], "mastlens": [1.0, 1.0]}, "ratio": {"default": [4.0, 6.0]}, "layers": 2}
    page = geometry.render({"default": timed, "where": "here"})
    assert "| script | 5.00 | 4.00 to 6.00 |" in page
    assert "| default | 5.0 | 4.0 to 6.0 |" in page
    assert "float64" not in page
    both = geometry.render({"time": timed, "default": timed, "small_angles": [{"true, rad": 0.5}], "where": "here"})
    assert both.count("## Time, 2 layers") == 2
    assert "| 0.5 |" in both


def test_the_page_of_real_has_medians_and_ratios_beside_their_goals():
    plain, ours = "one text at a time, all gradients", "mastlens couple"
    records = [
        {"part": "couple", "arm": arm, "limit": 2, "seconds": seconds, "cpu": 2 * seconds, "peak_mb": peak}
        for arm, seconds, peak in ((plain, 4.0, 100.0), (plain, 6.0, 300.0), (ours, 2.0, 50.0))
    ]
    page = "\n".join(real.as_page(records, "a command"))
    assert f"| {plain} | 2 | 5.0 | 10.0 | 200.0 |" in page
    assert f"| {ours} | {plain} | 0.40 | 0.40 | 0.8 | 0.25 | 1.2 |" in page
    assert "## couple, `--limit 2`" in page
    assert "## unlearn" not in page
    assert set(real.GOALS) == set(real.PARTS)
    for part, goals in real.GOALS.items():
        assert {name for goal in goals for name in (goal.arm, goal.reference)} <= set(real.PARTS[part](1))


def test_an_arm_that_is_measured_is_not_measured_again(tmp_path, monkeypatch, capsys):
    line = {"part": "geometry", "limit": 1, "seconds": 1.0, "cpu": 1.0, "peak_mb": 1.0}
    arms = list(real.PARTS["geometry"](1))
    (tmp_path / "real.jsonl").write_text("".join(json.dumps(line | {"arm": arm}) + "\n" for arm in arms))
    monkeypatch.setattr("sys.argv", ["real", "--parts", "geometry", "--limit", "1", "--rounds", "1",
                                     "--out", str(tmp_path / "real")])  # fmt: skip
    monkeypatch.setattr(real.subprocess, "run", None)  # nothing is started
    real.main()
    assert "| mastlens geometry | reading and hashing | 1.00 | 1.00 | 2 | 1.00 | – |" in capsys.readouterr().out
    assert (tmp_path / "real.md").is_file()


def test_how_well_an_order_finds_what_was_planted():
    # Of the pairs of a planted one and another, three of four stand in the right order.
    assert planted.found(["a", "b", "c", "d"], ["c", "a"]) == {
        "auc": 0.75,
        "average_precision": pytest.approx((1 + 2 / 3) / 2),
        "precision": 0.5,
    }
    assert planted.found(["a", "c", "b"], ["c", "a"])["auc"] == 1
    low, high = planted.chance(57, 6)
    assert 0.2 < low < 0.5 < high < 0.8
    assert low + high == pytest.approx(1, abs=0.03)
    assert planted.chance(57, 6) == (low, high)


def test_the_page_of_plants_leaves_out_those_that_did_not_take():
    rows = [
        {"rule": rule, "candidates": 57, "planted": 6, "auc": auc, "kind": kind, "seed": seed, "gain": 0.2,
         "mcnemar_p": 1e-9, "taken": seed < 2, "texts": "own"}
        for rule, auc in (("good", 0.9), ("bad", 0.4)) for kind in ("mlp", "vo") for seed in (0, 1, 2)
    ]  # fmt: skip
    text = planted.page(pd.DataFrame(rows), "command")
    assert text.index("| `good` | 0.900 [") < text.index("| `bad` | 0.400 [")
    assert text.count("| no |") == 2
    assert "random orders" in text
