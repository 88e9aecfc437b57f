"""What chance makes is not called beyond chance: the cases of a numerical audit, each a test of its own.

The long table of ``benchmarks/calibration.py`` is in docs/results; here are its quick cases, and the exactness of the
sign null against plain loops.
"""

import numpy as np
import pytest
import torch

from benchmarks.calibration import main, read
from benchmarks.calibration_draws import PLANTED, Cell, increment, weight
from benchmarks.calibration_measures import measure
from mastlens.analysis.increments.energy import head_readings, off_mask_energy, principal_products
from mastlens.analysis.increments.nulls import Null, judged
from mastlens.analysis.increments.placement import Rounding, placed_head_nulls, placed_null
from mastlens.analysis.increments.signs import sign_nulls
from mastlens.analysis.increments.singular_values import gram_spectrum
from mastlens.analysis.increments.spectra import (
    fixed_spectrum_distance,
    isotropic_ratio,
    participation_ratio,
    shift_null,
)
from mastlens.analysis.increments.subspaces import principal_angles, principal_subspaces
from mastlens.analysis.increments.weight_basis import weight_basis


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(seed, *shape):
    return torch.randn(*shape, generator=generator(seed))


def bases(seed, rows, cols, k):
    u, _, vh = torch.linalg.svd(normal(seed, rows, cols).double())
    return u[:, :k].contiguous(), vh[:k].T.contiguous()


@pytest.mark.parametrize("side", ["rows", "cols"])
def test_the_sign_null_is_what_all_sign_flips_give(side):
    """Small enough to go through every sign of rows and columns."""
    u, v = bases(0, 6, 4, 2)
    d = normal(1, 6, 4)
    every = []
    for code in range(1 << 10):
        signs = torch.tensor([1.0 if code >> bit & 1 else -1.0 for bit in range(10)])
        turned = signs[:6, None] * d * signs[6:]
        products = principal_products(turned, u, v)
        inside = [products.core.square().sum(), products.left.square().sum(), products.right.square().sum()]
        inside.append(products.core.diagonal().square().sum())
        heads = head_readings(turned, products, u, v, heads=2, side=side)
        shares = [1 - float(x) / products.energy for x in inside]
        every.append([*shares, *heads.off_principal.tolist(), *heads.off_principal_shared.tolist()])
    exact = np.array(every)
    found = sign_nulls(d, u, v, full=True, heads=2, side=side, draws=4000, name="x")
    laws = [found.whole[r] for r in ("joint", "left", "right", "diagonal")]
    laws += [*found.heads, *found.heads_shared]
    assert np.allclose([law.mean for law in laws], exact.mean(0), atol=1e-6)
    assert np.allclose([law.sd for law in laws], exact.std(0), rtol=0.12, atol=1e-6)
    assert {law.source for law in laws} == {"signs"}


def test_the_sign_null_is_deterministic_and_knows_when_nothing_can_turn():
    u, v = bases(0, 20, 12, 12)
    d = normal(1, 20, 12)
    one, two, other = (sign_nulls(d, u, v, full=True, name=name) for name in ("a", "a", "b"))
    assert one == two != other
    assert one.whole["right"].sd == 0 and not one.whole["right"].distinguishable(0.0)  # k is the whole side
    assert one.whole["left"].sd > 0
    assert sign_nulls(torch.zeros(20, 12), u, v).whole == {}


def test_a_reading_is_distinguishable_only_beyond_every_law():
    near, far = Null(0.5, 0.1, "normal", "rotated"), Null(0.1, 0.01, "normal", "signs")
    row = judged("x", 0.5, [near, far])
    assert (row["x_judged_by"], row["x_distinguishable"]) == ("rotated", False)
    assert row["x_null"] == 0.5 and row["x_null_stored"] == 0.1 and row["x_z_stored"] == pytest.approx(40)
    assert judged("x", 0.5, [far])["x_distinguishable"]
    assert not judged("x", 0.5, [far], told=False)["x_distinguishable"]
    assert judged("x", 1.5, [near, far])["x_distinguishable"]


def test_the_short_calibration(tmp_path):
    """Geometry, coupling, tables, agreement and paths: chance is not called a finding, and what is planted is found.

    Before: off_principal 6 to 100 %, the mask 46 to 100 %, heads 52 % of tensors, 95 % of tables of the coupling
    spectrum, and every path of AdamW on noise explained more by one direction than a walk.
    """
    main(["--out", str(tmp_path), "--short"])
    table = read(tmp_path)
    planted, below = table["increment"].isin(PLANTED), table["ratio"] < 1
    assert set(table["family"]) == {"geometry", "coupling", "table", "agreement", "path"}
    assert not table.loc[below, "hits"].any() and below.sum() >= 20
    chance = table[~planted & ~below & table["holds"]]
    assert len(set(chance["column"])) >= 29
    by_column = chance.groupby("column")[["hits", "n"]].sum()
    of_heads = by_column.index.str.startswith("head/")  # eight of one increment, which may be one number
    assert (by_column["hits"] <= np.where(of_heads, 8, 1)).all(), by_column
    assert by_column.loc[~of_heads, "hits"].sum() <= 3
    sought = ["off_principal", "coupling/cosine", "agreement/jaccard", "path/linearity", "path/increment_cosine"]
    found = table[planted & table["column"].isin(sought)]
    assert len(found) == 5 and (found["hits"] == found["n"]).all(), found


PLANTS = {
    "into": "off_principal",
    "out": "off_principal_left",
    "head": "head/energy_share",
    "mask": "principal_overlap",
}


@pytest.mark.parametrize(("effect", "column"), PLANTS.items())
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_planted_effects_are_found(storage, effect, column):
    if (storage, effect) == ("float32", "mask"):
        column = (
            "off_principal_mask"  # the masks compare both matrices in bfloat16, which does not see so small a change
        )
    found = [measure(Cell(storage, "isotropic", effect, 4.0), repeat, 256)[column][0] for repeat in range(3)]
    assert sum(found) == 3


def test_heads_of_random_rank_4_increments():
    """Before: 57 % of shares and 13 % of energies were called distinguishable."""
    told = np.zeros(4)
    for i in range(60):
        u, v = bases(i, 128, 128, 16)
        d = increment("rank-4", 128, 128, generator(1000 + i))
        found = head_readings(d, principal_products(d, u, v), u, v, heads=8, side="rows")
        signs, shares = sign_nulls(d, u, v, heads=8, name=str(i)), placed_head_nulls(d.square(), 8, "rows")
        for h in range(8):
            told[0] += shares[h].distinguishable(float(found.share[h]))
            told[1] += signs.heads[h].distinguishable(float(found.off_principal[h]))
            told[2] += signs.heads_shared[h].distinguishable(float(found.off_principal_shared[h]))
            told[3] += found.off_principal_shared_nulls[h].distinguishable(float(found.off_principal_shared[h]))
    assert told.max() / 480 <= 0.01


def test_angles_of_random_rank_4_increments():
    """Before: 19 to 90 % flagged."""
    from mastlens.analysis.increments.angles import angle_nulls

    told = np.zeros(4)
    for i in range(40):
        w = 0.02 * normal(i, 128, 128)
        d = increment("rank-4", 128, 128, generator(1000 + i))
        d *= 5e-3 * w.norm() / d.norm()
        old, new = (principal_subspaces(matrix, 16) for matrix in (w, w + d))
        nulls = angle_nulls(w, weight_basis(w), old, d, name=str(i))
        for at, side in ((0, "left"), (2, "right")):
            angles = torch.rad2deg(principal_angles(getattr(old, side), getattr(new, side)))
            told[at] += nulls[f"angle_{side}_max_deg"].distinguishable(float(angles.max()))
            told[at + 1] += nulls[f"angle_{side}_mean_deg"].distinguishable(float(angles.mean()))
    assert told.max() <= 1


@pytest.mark.parametrize("relative", [0.003, 0.01, 0.03, 0.1])
def test_isotropic_ratio_and_spectral_shift_beyond_first_order(relative):
    """Before: a random increment of relative norm 0.1 gave a ratio of 12 where 1 was said to be chance."""
    n = 192
    u, _, vh = torch.linalg.svd(normal(0, n, n).double())
    w = ((u * torch.arange(1, n + 1).double() ** -0.5) @ vh).float()
    before, basis = gram_spectrum(w).values, weight_basis(w)
    ratios, told = [], 0
    for i in range(8):
        d = normal(10 + i, n, n)
        d *= relative * w.norm() / d.norm()
        distance, norm = fixed_spectrum_distance(before, gram_spectrum(w + d).values), float(d.norm())
        null = shift_null(w, basis, before, d, participation_ratio(torch.linalg.svdvals(d)), name=str(i))
        ratios.append(isotropic_ratio(distance, norm, n, n) / (null.mean * n))
        told += null.distinguishable((distance / norm) ** 2)
    assert np.mean(ratios) == pytest.approx(1, abs=0.25)
    assert told <= 1


@pytest.mark.parametrize("kind", ["gaussian", "rank-1", "heavy", "sparse"])
def test_mask_energy_of_random_increments(kind):
    """Before: heavy tails 88 %, sparse 55 %."""
    told = 0
    for i in range(100):
        u, s, vh = torch.linalg.svd(normal(i, 64, 64))
        scores = ((u[:, :32] * s[:32]) @ vh[:32]).abs()
        mask = scores > scores.median()
        d = increment(kind, 64, 64, generator(1000 + i))
        told += placed_null(d.square(), mask, off=True).distinguishable(off_mask_energy(d, mask)[0])
    assert told <= 1


def test_the_placement_null_follows_what_rounding_lets_through():
    """Where small entries alone can change, an increment lies among them by storage, and among others by itself."""
    w = weight("rows", 128, 128, generator(0)).bfloat16()
    after = (w.float() + 3e-5 * normal(1, 128, 128)).bfloat16()
    d = (after.float() - w.float()).square()
    small = w.abs() < w.abs().median()
    share = float(d[small].sum() / d.sum())
    plain, stored = placed_null(d, small), placed_null(d, small, Rounding.of(w, torch.bfloat16))
    assert plain.distinguishable(share) and not stored.distinguishable(share)
    assert (plain.source, stored.source) == ("placed", "stored")
    assert stored.mean == pytest.approx(share, abs=0.03) and plain.mean == pytest.approx(0.5, abs=5e-3)


def test_an_overlap_of_few_entries_is_counted_and_not_interpolated():
    """Of one changed entry all lies inside or none does: neither is beyond chance, and of a thousand both are."""
    inside = torch.zeros(128, 128, dtype=torch.bool)
    inside[:, :64] = True
    for count, told in ((1, False), (3, False), (1000, True)):
        changed = torch.zeros(128 * 128, dtype=torch.bool)
        changed[torch.randperm(128 * 128, generator=generator(0))[:count]] = True
        null = placed_null(changed.reshape(128, 128), inside)
        assert [null.distinguishable(share) for share in (0.0, 1.0)] == [told, told]
        assert not null.distinguishable(0.5)
