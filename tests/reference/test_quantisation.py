"""Quantisers against values computed by hand and against numpy; which codes an edit changes; properties."""

import hashlib
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mastlens.attacks.codes import TOTAL, code_changes, linear_weights, predict_codes
from mastlens.attacks.formats import FORMATS, NF4, Format
from mastlens.attacks.quantising import quantise
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError

# QLoRA (arXiv:2305.14314), appendix E, as printed there.
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
SYMMETRIC = [name for name, format in FORMATS.items() if not format.asymmetric]

matrices = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 150)),
    elements=st.floats(-8, 8, width=32, allow_subnormal=False),
)


def test_nf4_is_the_published_table():
    assert list(NF4) == PUBLISHED
    assert sorted(NF4) == list(NF4)
    # Half of each side's levels are quantiles of the normal distribution, scaled to 1: appendix E's construction.
    from scipy.stats import norm

    offset = (1 - 1 / 32 + 1 - 1 / 30) / 2
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    built = np.sort(np.concatenate([positive, [0], negative]))
    assert np.allclose(built / built.max(), PUBLISHED, atol=2e-6)


def test_int8_by_hand():
    weight = torch.tensor([[127.0, -63.6, 0.4, 0.6], [-2.0, 1.0, 0.0, 0.5]])
    found = quantise(weight, FORMATS["int8"])
    assert (found.codes - 127).tolist() == [[127, -64, 0, 1], [-127, 63, 0, 32]]  # ties go down: 63.5 is 63
    assert found.weight[0].tolist() == [127.0, -64.0, 0.0, 1.0]
    assert found.weight[1].tolist() == pytest.approx([-2.0, 63 * 2 / 127, 0.0, 32 * 2 / 127])
    assert found.scales.scale.tolist() == pytest.approx([1.0, 2 / 127])


def test_nf4_by_hand():
    # Largest magnitude 4; in units of it 1, -0.5, 0.1, 0.3 are nearest to levels 15, 2, 8, 11.
    weight = torch.tensor([[4.0, -2.0, 0.4, 1.2]])
    found = quantise(weight, FORMATS["nf4"])
    assert found.codes.tolist() == [[15, 2, 8, 11]]
    assert found.weight[0].tolist() == pytest.approx([4 * PUBLISHED[i] for i in (15, 2, 8, 11)])
    middle = [(a + b) / 2 for a, b in pairwise(PUBLISHED)]
    expected = [4 * (1 - middle[14]), *(4 * (middle[i] - middle[i - 1]) for i in (2, 8, 11))]
    assert found.widths[0].tolist() == pytest.approx(expected)


def test_nf4_blocks_run_in_storage_order_and_the_last_may_be_short():
    weight = torch.linspace(-1, 1, 3 * 30).reshape(3, 30)
    found = quantise(weight, FORMATS["nf4"])
    flat = weight.flatten().numpy().astype(np.float64)
    for block in (slice(0, 64), slice(64, 90)):  # the first ends inside the third row
        scale = np.abs(flat[block]).max()
        nearest = np.abs(flat[block, None] / scale - np.array(PUBLISHED)).argmin(axis=1)
        assert found.codes.flatten()[block].tolist() == nearest.tolist()


def test_round_to_nearest_by_hand():
    weight = torch.zeros(2, 40)
    weight[0, :4] = torch.tensor([7.0, -3.4, 1.6, 0.2])
    weight[0, 32] = 0.7  # alone in the second group of its row
    weight[1, 0] = 14.0
    found = quantise(weight, FORMATS["rtn4-32"])
    assert found.scales.scale.tolist() == pytest.approx([1.0, 0.1, 2.0, 1.0])  # a group of zeros has any scale
    assert found.weight[0, :4].tolist() == [7.0, -3.0, 2.0, 0.0]
    assert found.weight[0, 32].item() == pytest.approx(0.7)
    assert found.weight[1].tolist() == [14.0] + [0.0] * 39


def test_asymmetric_by_hand():
    weight = torch.tensor([[-3.0, 12.0, 0.4, 5.6]])  # from -3 to 12 in 15 bins of 1
    found = quantise(weight, FORMATS["rtn4-128-asymmetric"])
    assert found.codes.tolist() == [[0, 15, 3, 9]]
    assert found.weight.tolist() == [[-3.0, 12.0, 0.0, 6.0]]
    above = quantise(weight + 10, FORMATS["rtn4-128-asymmetric"])  # zero stays inside the range
    assert above.scales.scale.item() == pytest.approx(22 / 15)
    assert above.scales.offset.item() == 0


@settings(max_examples=60, deadline=None)
@given(values=matrices, name=st.sampled_from(list(FORMATS)))
def test_error_is_at_most_half_a_bin(values, name):
    weight = torch.tensor(values)
    found = quantise(weight, FORMATS[name])
    format = FORMATS[name]
    assert found.weight.shape == found.codes.shape == found.widths.shape == weight.shape
    # Half the widest gap between two levels; in float32, with some room for its rounding.
    gap = max(b - a for a, b in pairwise(format.levels))
    bound = gap / 2 * float(found.scales.scale.max()) + 1e-5 * float(weight.abs().max())
    assert float((found.weight - weight).abs().max()) <= bound
    if name != "nf4":  # levels of equal distance: also entry by entry
        assert bool(((found.weight - weight).abs() <= found.widths.clamp_min(1e-12) * (1 + 1e-4) + 1e-5).all())


@settings(max_examples=60, deadline=None)
@given(values=matrices, name=st.sampled_from(SYMMETRIC))
def test_quantising_twice_is_quantising_once(values, name):
    once = quantise(torch.tensor(values), FORMATS[name])
    twice = quantise(once.weight, FORMATS[name])
    assert torch.equal(once.codes, twice.codes)
    assert torch.allclose(once.weight, twice.weight, rtol=1e-6, atol=0)


@settings(max_examples=40, deadline=None)
@given(values=matrices, name=st.sampled_from(list(FORMATS)), seed=st.integers(0, 99))
def test_unchanged_entries_keep_their_code_with_the_sources_scales(values, name, seed):
    weight = torch.tensor(values)
    touched = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    edited = torch.where(touched, weight * 1.7 + 0.5, weight)
    source = quantise(weight, FORMATS[name])
    found = quantise(edited, FORMATS[name], scales=source.scales)
    assert torch.equal(found.codes[~touched], source.codes[~touched])
    assert torch.equal(found.weight[~touched], source.weight[~touched])


@pytest.mark.parametrize("name", list(FORMATS))
def test_against_numpy_in_float64(name):
    weight = torch.randn(48, 200, generator=torch.Generator().manual_seed(1))
    found = quantise(weight, FORMATS[name])
    format = FORMATS[name]
    rows = weight.double().numpy() if format.by_row else weight.double().numpy().reshape(1, -1)
    codes, step = np.empty(rows.shape, dtype=int), format.block or rows.shape[1]
    for row in range(rows.shape[0]):
        for start in range(0, rows.shape[1], step):
            block = rows[row, start : start + step]
            if format.asymmetric:
                scale = (block.max() - block.min()) / 15
                units = block / scale - np.round(block.min() / scale)
            else:
                units = block / (np.abs(block).max() / format.levels[-1])
            codes[row, start : start + step] = np.abs(units[:, None] - np.array(format.levels)).argmin(axis=1)
    agreeing = (found.codes.numpy().reshape(rows.shape) == codes).mean()
    assert agreeing > 0.9998  # entries within rounding of a boundary may fall on either side
    assert name == "int8" or agreeing == 1.0


def edit_of(scale: float, share: float = 1.0, shape=(64, 256)):
    generator = torch.Generator().manual_seed(3)
    before = torch.randn(shape, generator=generator) * 0.02
    step = torch.randn(shape, generator=generator) * scale
    return before, before + step * (torch.rand(shape, generator=generator) < share)


def test_share_of_changed_codes_is_what_the_size_of_the_change_predicts():
    chosen = [FORMATS[name] for name in ("int8", "nf4", "rtn4-32")]
    for scale in (2e-5, 2e-4, 2e-3):
        before, after = edit_of(scale)
        table = code_changes({"w": before}, {"w": after}, chosen)
        assert len(table) == 6
        for row in table.to_dict("records"):
            assert row["code_changed_source_scales"] == pytest.approx(row["code_changed_expected"], rel=0.1, abs=2e-3)
            assert row["entries"] == before.numel()


def test_code_changes_counts_by_hand():
    format = Format("whole", tuple(float(i) for i in range(-4, 5)))  # a bin of 1 where a row's largest is 4
    before = torch.tensor([[4.0, 0.0, 0.0, 0.0], [4.0, 1.0, 2.0, 3.0]])
    after = torch.tensor([[4.0, 0.3, 0.8, 0.0], [4.0, 1.0, 2.0, 2.9]])
    row = code_changes({"w": before}, {"w": after}, [format]).to_dict("records")[0]
    assert row["edited"] == 3  # 0.3 stays in its bin, 0.8 leaves it, 2.9 stays
    assert row["code_changed"] == row["code_changed_source_scales"] == pytest.approx(1 / 3)
    assert row["code_changed_expected"] == pytest.approx((0.3 + 0.8 + 0.1) / 3)
    assert row["change_per_bin"] == pytest.approx(0.3)
    size = 0.3**2 + 0.8**2 + 0.1**2
    assert row["kept_along_edit"] == pytest.approx(0.8 / size)
    assert row["noise"] == pytest.approx(((0.3**2 + 0.2**2 + 0.1**2) / size) ** 0.5)


def test_an_edit_of_one_entry_and_an_edit_of_none():
    before, _ = edit_of(1e-3)
    after = before.clone()
    after[3, 5] += 0.01
    table = code_changes({"a": before, "b": before}, {"a": after, "b": before.clone()}, [FORMATS["nf4"]])
    rows = table.set_index("name")
    assert rows.loc["a", "edited"] == rows.loc[TOTAL, "edited"] == 1
    assert rows.loc["b", "edited"] == 0
    assert np.isnan(rows.loc["b", "code_changed"])
    assert rows.loc[TOTAL, "entries"] == 2 * before.numel()


def test_small_changes_survive_in_direction_though_few_codes_change():
    before, after = edit_of(2e-4, shape=(256, 512))
    row = code_changes({"w": before}, {"w": after}, [FORMATS["nf4"]]).to_dict("records")[0]
    assert row["code_changed"] < 0.05  # a naive reading: 95% of the edit is gone
    assert row["kept_along_edit"] == pytest.approx(1, abs=0.15)  # but those that change move by a whole bin
    assert row["noise"] > 5


def test_what_is_quantised(tiny):
    checkpoint = Checkpoint(tiny.rlvr)
    linear = linear_weights(checkpoint)
    assert len(linear) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert not any("embed" in name or "norm" in name or "bias" in name for name in linear)
    assert set(linear_weights(checkpoint, embeddings=True)) - set(linear) == {"model.embed_tokens.weight"}


def test_prediction_reads_the_checkpoint_and_leaves_it(tiny):
    file = tiny.rlvr / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    checkpoint = Checkpoint(tiny.rlvr)
    name = "model.layers.1.self_attn.o_proj.weight"
    after = {name: checkpoint.tensor(name) + 0.01, "model.layers.1.self_attn.q_proj.bias": torch.zeros(32)}
    table = predict_codes(checkpoint, after, [FORMATS["nf4"], FORMATS["int8"]])
    assert table["name"].tolist() == [name, TOTAL] * 2  # a bias is not quantised
    assert (table.loc[table["name"] == name, ["layer", "projection"]] == [1, "o"]).all(axis=None)
    by_format = table[table["name"] == TOTAL].set_index("format")["code_changed"]
    assert by_format["int8"] > by_format["nf4"] > 0
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(MastlensError, match="shape"):
        quantise(torch.ones(4), FORMATS["int8"])
    with pytest.raises(MastlensError, match="NaN"):
        quantise(torch.tensor([[float("nan")]]), FORMATS["int8"])
    assert isinstance(code_changes({}, {}, [FORMATS["int8"]]), pd.DataFrame)
