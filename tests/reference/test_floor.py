"""Below the precision floor nothing is distinguishable: in the table, the figures, the report, the ranking."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import mastlens as m
from mastlens import plots
from mastlens.analysis.increments.precision import BELOW, floor_sentence
from mastlens.reporting.wording import beside_null

from ..conftest import write_lineage

ALL = {"full": True, "masks": True, "spectra": True, "heads": True, "progress": False}


def stored(folder, out, tensors):
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    """A bfloat16 base, and two copies moved along the weight's first singular direction: by a hair, and by much."""
    root = tmp_path_factory.mktemp("floor")
    folders = write_lineage(root / "l", dtype="float32")
    base = load_file(folders.base / "model.safetensors")

    def moved(share):
        found = {}
        for name, tensor in base.items():
            after = tensor.clone()
            if "self_attn" in name and tensor.dim() == 2:
                u, s, v = torch.linalg.svd(tensor)
                after += share * s[0] * torch.outer(u[:, 0], v[0])
            found[name] = after.bfloat16()
        return found

    return {
        "base": stored(folders.base, root / "base", {n: t.bfloat16() for n, t in base.items()}),
        "hair": stored(folders.base, root / "hair", moved(2e-3)),
        "much": stored(folders.base, root / "much", moved(0.2)),
    }


@pytest.fixture(scope="module")
def measured(lineage):
    return {how: m.geometry(base=lineage["base"], rlvr=lineage[how], rank=4, **ALL) for how in ("hair", "much")}


def test_below_the_floor_no_column_of_any_table_tells_anything(measured):
    below, above = measured["hair"], measured["much"]
    assert below.table["note"].eq(BELOW).all() and (below.table["delta_norm"] > 0).any()
    assert above.table["note"].eq("").all()
    for table in (below.table, below.heads):
        told = table[[c for c in table if c.endswith("_distinguishable")]]
        assert len(told.columns) >= 3 and not told.any().any()
    # The same direction, far above the floor, is told: the flags are not simply gone.
    assert above.table["off_principal_distinguishable"].any()
    assert not beside_null(below.table, [("off_principal", "x")])[["above chance", "below chance"]].any().any()


def test_figure_and_sentence_lead_with_the_floor(measured):
    below, above = measured["hair"].table, measured["much"].table
    title = plots.plot_off_principal(below).layout.title.text
    assert "no projection can be told from rounding" in title.replace("<br>", " ")
    assert "can be told from rounding" not in plots.plot_off_principal(above).layout.title.text.replace("<br>", " ")
    assert floor_sentence(below).startswith(f"{len(below)} of {len(below)} increments lie below")
    assert floor_sentence(above) == ""
    mixed = pd.concat([below, above])
    assert floor_sentence(mixed).startswith(f"{len(below)} of {len(mixed)} increments")


def test_rank_refuses_to_put_rounding_in_order_unless_asked(lineage, tmp_path):
    for how in ("hair", "much"):
        m.geometry(base=lineage["base"], rlvr=lineage[how], rank=4, progress=False, out=tmp_path / how)
    m.rank(tmp_path / "much", rule="magnitude", top=2)
    with pytest.raises(m.MastlensError, match="--anyway"):
        m.rank(tmp_path / "hair", rule="magnitude", top=2)
    assert not (tmp_path / "hair" / "ranking.parquet").exists()
    assert len(m.rank(tmp_path / "hair", rule="magnitude", top=2, anyway=True).selected) == 2
