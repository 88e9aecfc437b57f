"""Agreement between the update masks of runs against sets, counting and scipy, and over checkpoints on disk."""

import itertools
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats

from mastlens.analysis.increments.agreement import (
    consensus_counts,
    independent_consensus,
    mask_agreement,
    mask_jaccard,
    stripe_index,
    update_ratios,
)
from mastlens.analysis.increments.masks import update_mask, view_cells
from mastlens.analysis.increments.nulls import intersection_null
from mastlens.analysis.increments.placement import Rounding
from mastlens.errors import MastlensError

from .plain import projection_names


def random_mask(seed, p, *shape):
    return torch.tensor(np.random.default_rng(seed).random(shape) < p)


def test_jaccard_is_its_definition():
    a, b = random_mask(0, 0.3, 40, 30), random_mask(1, 0.5, 40, 30)
    found = mask_jaccard(a, b)
    one, other = ({tuple(x) for x in mask.nonzero().tolist()} for mask in (a, b))
    assert found.jaccard == len(one & other) / len(one | other)
    p, q = len(one) / 1200, len(other) / 1200
    assert (found.share_a, found.share_b, found.overlap) == (p, q, len(one & other) / len(one))
    assert math.isclose(found.independent, p * q / (p + q - p * q), rel_tol=1e-12)
    law = stats.hypergeom(1200, len(one), len(other))
    assert math.isclose(found.null.mean, law.mean() / len(one))
    assert law.std() / len(one) <= found.null.sd * (1 + 1e-9) < 1.2 * law.std() / len(one)  # rows in common widen it
    assert not found.null.distinguishable(found.overlap)
    assert mask_jaccard(b, a).jaccard == found.jaccard


def test_planted_masks():
    a = random_mask(2, 0.4, 50, 40)
    same, opposite = mask_jaccard(a, a), mask_jaccard(a, ~a)
    assert (same.jaccard, opposite.jaccard) == (1, 0)
    assert same.null.distinguishable(same.overlap)
    assert opposite.null.distinguishable(opposite.overlap)
    nothing = torch.zeros_like(a)
    assert math.isnan(mask_jaccard(nothing, nothing).jaccard)
    assert mask_jaccard(nothing, a).jaccard == 0


def test_masks_that_share_the_magnitudes_alone_agree_by_the_plain_null_only():
    rng = np.random.default_rng(3)
    w = torch.tensor(rng.standard_normal((300, 200)) * 0.02).float()
    rounding = Rounding.of(w, torch.bfloat16)
    chance = (0.1 + 0.15 * (122 - rounding.strata.double() // 2)).clamp(0.02, 0.95)  # smaller entries change more often
    a, b = (torch.tensor(rng.random((300, 200))) < chance for _ in range(2))
    found = mask_jaccard(a, b, rounding)
    assert found.matched_null is not None
    assert found.null.distinguishable(found.overlap)
    assert not found.matched_null.distinguishable(found.overlap)
    assert found.independent < found.matched
    assert found.matched == pytest.approx(found.jaccard, rel=0.02)
    together = torch.where(random_mask(4, 0.3, 300, 200), a, b)
    beyond = mask_jaccard(a, together, rounding)
    assert beyond.matched_null is not None
    assert beyond.matched_null.distinguishable(beyond.overlap)


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_runs_of_random_increments_of_few_directions_do_not_agree(storage):
    """Hot rows of one run are not those of another, and what rounding lets through is not agreement."""
    dtype, told, naive = getattr(torch, storage), 0, 0
    for repeat in range(30):
        generator = torch.Generator().manual_seed(repeat)
        w = (
            0.02 * torch.randn(96, 96, generator=generator) * torch.exp(0.7 * torch.randn(96, 1, generator=generator))
        ).to(dtype)
        masks = []
        for _ in range(2):
            sides = (torch.randn(96, 1, generator=generator), torch.randn(1, 96, generator=generator))
            after = (w.float() + 3e-5 * sides[0] @ sides[1]).to(dtype)
            masks.append(update_mask(w, after))
        found = mask_jaccard(*masks, Rounding.of(w, dtype))
        assert found.matched_null is not None
        told += found.null.distinguishable(found.overlap) and found.matched_null.distinguishable(found.overlap)
        sizes = [int(mask.sum()) for mask in masks]
        both = found.overlap * sizes[0]
        naive += intersection_null([sizes[0]], [sizes[1]], [96 * 96]).distinguishable(both)
    assert told <= 1 and naive > 20


@pytest.mark.parametrize(("storage", "floors"), [("float32", 200), ("float16", 1.3), ("float16", 4), ("bfloat16", 4)])
def test_that_an_entry_lies_on_the_edge_of_what_the_view_sees_is_no_agreement(storage, floors):
    """Changes of one size everywhere: in a weight stored finer than the view those at an edge are seen in every run."""
    dtype, found = getattr(torch, storage), {"cells": 0, "spacing": 0, "shared": 0}
    for repeat in range(10):
        generator = torch.Generator().manual_seed(repeat)
        w = (0.02 * torch.randn(192, 192, generator=generator)).to(dtype)
        step = floors * 0.02 * torch.finfo(dtype).eps / 12**0.5
        runs = [(w.float() + step * torch.randn(w.shape, generator=generator)).to(dtype) for _ in range(2)]
        runs.append(torch.where(torch.rand(w.shape, generator=generator) < 0.7, runs[0], runs[1]))
        a, b, shared = (update_mask(w, after) for after in runs)
        spacing = Rounding.of(w, dtype)
        alike = replace(spacing, cells=view_cells(w))
        for name, other, rounding in (("cells", b, alike), ("spacing", b, spacing), ("shared", shared, alike)):
            one = mask_jaccard(a, other, rounding)
            assert one.matched_null is not None
            found[name] += one.matched_null.distinguishable(one.overlap)
    assert found["cells"] == 0 and found["shared"] == 10
    assert found["spacing"] > 1 or storage == "bfloat16"


@pytest.mark.parametrize("view", ["bf16", "native"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_alike_are_entries_that_are_seen_to_change_by_the_same(dtype, view):
    """Of one binade and one cell of a grid: whatever is added, away from zero or to it, all are seen or none."""
    w = torch.arange(1.0, 2.0, 2.0**-10).to(dtype).reshape(32, 32)
    cells = view_cells(w, view=view)
    places = 8 if view == "bf16" and dtype != torch.bfloat16 else 1  # stored between two numbers of the view
    assert len(cells.unique()) == places * (1 if view == "native" and dtype == torch.float32 else 2)  # and ties
    for change in (2.0**-11, -(2.0**-11), 2.0**-10, 3 * 2.0**-10, -5 * 2.0**-10, 2.0**-8, 2.0**-7):
        seen = update_mask(w, (w.double() + change).to(dtype), view=view)
        for cell in cells.unique():
            inner = (cells == cell) & (w > 1) & (w + change < 2) & (w + change > 1)
            assert len(seen[inner].unique()) <= 1


def test_consensus_against_counting_and_the_poisson_binomial_law():
    masks = [random_mask(i, p, 30, 20) for i, p in enumerate((0.2, 0.5, 0.9))]
    votes = sum(m.int() for m in masks)
    assert consensus_counts(masks).tolist() == [int((votes == r).sum()) for r in range(4)]
    shares = [0.2, 0.5, 0.9]
    expected = np.zeros(4)
    for outcome in itertools.product((0, 1), repeat=3):
        expected[sum(outcome)] += np.prod([p if x else 1 - p for p, x in zip(shares, outcome, strict=True)])
    assert np.allclose(independent_consensus(shares), expected)
    assert np.allclose(independent_consensus([0.3] * 5), stats.binom(5, 0.3).pmf(range(6)))
    assert consensus_counts([masks[0]] * 300)[300] == int(masks[0].sum())  # more runs than a byte can count


def test_stripes_stand_out_and_even_masks_do_not():
    even = random_mask(5, 0.3, 120, 90)
    rows, cols = update_ratios(even)
    assert np.allclose(rows, even.double().mean(1))
    assert np.allclose(cols, even.double().mean(0))
    striped = even.clone()
    striped[::6] = True
    for mask, expected in ((even, False), (striped, True)):
        value, null = stripe_index(update_ratios(mask)[0], 90)
        assert null.distinguishable(value) is expected
    assert not stripe_index(cols, 120)[1].distinguishable(stripe_index(cols, 120)[0])
    drawn = [stripe_index(update_ratios(random_mask(100 + i, 0.3, 60, 50))[0], 50) for i in range(300)]
    assert np.mean([x for x, _ in drawn]) == pytest.approx(1, abs=0.05)
    assert np.std([x for x, _ in drawn]) == pytest.approx(drawn[0][1].sd, rel=0.15)
    assert math.isnan(stripe_index(np.zeros(5), 4)[0])
    assert math.isnan(stripe_index(np.ones(5), 4)[0])


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Three more runs from the SFT checkpoint, each changing its own random tenth of every projection."""
    folder = tmp_path_factory.mktemp("runs")
    paths = []
    for run in range(3):
        target = folder / f"run{run}"
        shutil.copytree(tiny.sft, target)
        tensors = load_file(target / "model.safetensors")
        rng = np.random.default_rng(run)
        for name in projection_names():
            tensors[name] = (
                tensors[name] * torch.tensor(np.where(rng.random(tensors[name].shape) < 0.1, 1.5, 1.0)).float()
            )
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        paths.append(target)
    return paths


def test_the_table_holds_every_projection_and_pair(tiny, runs):
    result = mask_agreement(tiny.sft, {"a": runs[0], "b": runs[1], "c": runs[2]}, progress=False)
    table = result.table
    assert list(zip(table["run_a"], table["run_b"], strict=True))[:3] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(dict.fromkeys(table["name"])) == projection_names()
    assert len(table) == 3 * 8
    before = load_file(tiny.sft / "model.safetensors")
    after = [load_file(run / "model.safetensors") for run in runs]
    for row in table.itertuples():
        one, other = (
            (before[row.name].bfloat16() != after["abc".index(run)][row.name].bfloat16()).numpy()
            for run in (row.run_a, row.run_b)
        )
        assert row.jaccard == np.sum(one & other) / np.sum(one | other)
        assert row.share_a == one.mean()
        assert row.jaccard_null == pytest.approx(
            one.mean() * other.mean() / (one.mean() + other.mean() - one.mean() * other.mean())
        )
    assert not table["distinguishable"].any()
    assert not table["distinguishable_matched"].any()
    assert (table["note"] == "").all() and set(table["judged_by"]) <= {"placed", "stored"}
    assert table["z"].abs().max() < 4
    assert len(result.runs) == 3 * 8
    assert len(result.consensus) == 4 * 8
    sums = result.consensus.groupby("name")[["share", "share_null"]].sum()
    assert np.allclose(sums, 1)
    summary = result.summary()
    assert list(summary["name"]) == projection_names()
    first = table[table["name"] == summary["name"][0]]
    assert summary["jaccard"][0] == pytest.approx(first["jaccard"].mean())


def test_runs_that_agree_are_found(tiny, runs, tmp_path):
    target = tmp_path / "copy"
    shutil.copytree(runs[0], target)
    tensors = load_file(target / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1  # another checkpoint, the same projections
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    table = mask_agreement(tiny.sft, [runs[0], target, runs[1]], progress=False).table
    same = table["run_b"].eq(str(target))
    assert (table.loc[same, "jaccard"] == 1).all()
    assert table.loc[same, "distinguishable"].all()
    assert table.loc[same, "distinguishable_matched"].all()
    assert not table.loc[~same, "distinguishable"].any()


def test_other_matrices_are_compared_by_name(tiny, tmp_path):
    name = "model.layers.1.mlp.down_proj.weight"
    before, paths = load_file(tiny.sft / "model.safetensors"), []
    for run, rows in (("a", slice(0, 4)), ("b", slice(2, 6))):
        paths.append(shutil.copytree(tiny.sft, tmp_path / run))
        tensors = dict(before)
        tensors[name] = tensors[name].clone()
        tensors[name][rows] += 1
        save_file(tensors, paths[-1] / "model.safetensors", metadata={"format": "pt"})
    result = mask_agreement(tiny.sft, paths, where=r"mlp\.down_proj", out=tmp_path / "out", progress=False)
    assert result.table["name"].tolist() == [name.replace("1", "0"), name]
    assert math.isnan(result.table["jaccard"][0])  # neither run changed it
    assert result.table["jaccard"][1] == 2 / 6
    assert result.settings["where"] == r"mlp\.down_proj"
    with pytest.raises(MastlensError, match="where"):
        mask_agreement(tiny.sft, paths, out=tmp_path / "out", progress=False)


def test_the_stored_tables_are_read_back_and_equal(tiny, runs, tmp_path):
    first = mask_agreement(tiny.sft, runs, out=tmp_path / "one", progress=False)
    again = mask_agreement(tiny.sft, runs, out=tmp_path / "one", progress=False)
    mask_agreement(tiny.sft, runs, out=tmp_path / "two", progress=False)
    for part, file in (("table", "agreement"), ("runs", "agreement-runs"), ("consensus", "agreement-consensus")):
        pd.testing.assert_frame_equal(getattr(first, part), getattr(again, part))
        one, two = ((tmp_path / which / f"{file}.parquet").read_bytes() for which in ("one", "two"))
        assert one == two
    assert again.settings == first.settings == {"view": "bf16", "tolerance": 1e-3, "runs": [str(r) for r in runs]}
    with pytest.raises(MastlensError, match="view"):
        mask_agreement(tiny.sft, runs, view="native", out=tmp_path / "one", progress=False)


def test_a_projection_that_no_run_touched_is_kept(tiny, runs, tmp_path):
    name = projection_names()[3]
    paths = []
    for run in runs[:2]:
        target = tmp_path / run.name
        shutil.copytree(run, target)
        tensors = load_file(target / "model.safetensors")
        tensors[name] = load_file(tiny.sft / "model.safetensors")[name]
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        paths.append(target)
    table = mask_agreement(tiny.sft, paths, progress=False).table.set_index("name")
    assert math.isnan(table.loc[name, "jaccard"])
    assert not table.loc[name, "distinguishable"]
    assert table.loc[name, "note"] == "zero increment" and math.isnan(table.loc[name, "p"])
    assert table.drop(index=name)["jaccard"].notna().all()


def test_what_cannot_be_compared_is_named(tiny, runs):
    with pytest.raises(MastlensError, match="at least two runs"):
        mask_agreement(tiny.sft, [runs[0]], progress=False)
    with pytest.raises(MastlensError, match="named twice"):
        mask_agreement(tiny.sft, [runs[0], runs[0]], progress=False)
    with pytest.raises(MastlensError, match="bf16"):
        mask_agreement(tiny.sft, runs, view="bf17", progress=False)
    with pytest.raises(MastlensError, match="no increment"):
        mask_agreement(tiny.sft, [runs[0], tiny.sft], progress=False)
