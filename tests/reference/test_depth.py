"""The unlearning depth score against plain transformers with hooks, its exact ends, and its formula by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import log_softmax

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.errors import MastlensError
from mastlens.evaluation.depth.patching import PatchedLogprobs
from mastlens.evaluation.depth.scoring import depth_items, depth_score, summarise_depth
from mastlens.models.weights import same_bits
from mastlens.plots.cards.depth import depth_card
from mastlens.plots.tables import figure_table

from ..conftest import write_lineage
from . import plain

NAME = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def edit(tiny, tmp_path_factory):
    checkpoint = Checkpoint(tiny.rlvr)
    before = checkpoint.tensor(NAME)
    after = before + 0.1 * torch.randn(before.shape, generator=torch.Generator().manual_seed(2))
    edit = Edit({NAME: before}, {NAME: after}, checkpoint.fingerprint, {})
    return edit.save(tmp_path_factory.mktemp("depth") / "edit.safetensors")


def score(tiny, **changes):
    given = {"model": tiny.rlvr, "reference": tiny.sft, "splits": {"forget": tiny.forget}, "limit": 4} | changes
    return depth_score(batch_size=3, progress=False, threshold=0.0, **given)


def by_hooks(source, donor, ids, layer):
    """Return the mean log-probability of a solution with one layer's states of the donor, one text, no padding."""
    prompt, solution = ids
    tokens, states = torch.tensor([prompt + solution]), []
    places = torch.arange(len(solution)) + len(prompt) - 1

    def output(given):
        return given[0] if isinstance(given, tuple) else given

    def keep(_, args, given):
        states.append(output(given)[0, places])

    def put(_, args, given):
        changed = output(given).clone()
        changed[0, places] = states[0]
        return (changed, *given[1:]) if isinstance(given, tuple) else changed

    with torch.no_grad():
        handle = donor.model.layers[layer].register_forward_hook(keep)
        donor(input_ids=tokens)
        handle.remove()
        handle = source.model.layers[layer].register_forward_hook(put)
        table = log_softmax(source(input_ids=tokens).logits[0].float(), dim=-1)
        handle.remove()
    return float(table[places, torch.tensor(solution)].mean())


def test_agrees_with_plain_hooks_one_text_at_a_time(tiny, edit):
    found = score(tiny, edit=edit).items.set_index(["layer", "item"])
    source, reference, edited = plain.load_model(tiny.rlvr), plain.load_model(tiny.sft), plain.load_model(tiny.rlvr)
    with torch.no_grad():
        edited.get_parameter(NAME).copy_(Edit.load(edit).after[NAME])
    for item, ids in enumerate(plain.encode_file(tiny.forget, tiny.rlvr)[:4]):
        base = float(plain.logprob(source, *ids).detach()) / len(ids[1])
        for layer in range(2):
            row = found.loc[(layer, item)]
            assert row["logprob"] == pytest.approx(base, rel=1e-5)
            assert row["tokens"] == len(ids[1])
            for column, donor in (("reference_drop", reference), ("edited_drop", edited)):
                assert row[column] == pytest.approx(base - by_hooks(source, donor, ids, layer), abs=2e-5)


def test_both_ends_are_exact(tiny):
    none = score(tiny, source=tiny.rlvr)
    whole = none.table.set_index("layer")
    assert (none.items["edited_drop"] == 0).all()
    assert whole.loc[-1, "erased"] == 0
    assert whole.loc[-1, "encoding"] > 0
    every = score(tiny, source=tiny.rlvr, model=tiny.sft).table.set_index("layer")
    assert every.loc[-1, "erased"] == 1
    assert every["edited_drop"].tolist() == every["reference_drop"].tolist()
    same = score(tiny, source=tiny.rlvr, reference=tiny.rlvr)
    assert same.table["encoding"].tolist() == [0, 0, 0]
    assert same.table["erased"].isna().all()
    assert "nothing can be erased" in same.card().verdict
    same.plot()


def test_the_formula_by_hand():
    found = PatchedLogprobs(
        counts=np.array([2.0, 4.0, 1.0]),
        unpatched=np.array([-2.0, -4.0, -1.0]),
        patched={
            "reference": np.array([[-4.0, -8.0, -1.0], [-8.0, -4.08, -1.01]]),
            "edited": np.array([[-3.0, -12.0, -5.0], [-1.0, -4.0, -1.0]]),
        },
    )
    items = depth_items(found, 0.05).set_index(["item", "layer"])
    drops = {(0, 0): (1.0, 0.5), (0, 1): (3.0, -0.5), (1, 0): (1.0, 2.0), (1, 1): (0.02, 0.0), (2, 0): (0.0, 4.0)}
    for key, (reference, edited) in drops.items():
        assert items.loc[key, ["reference_drop", "edited_drop"]].tolist() == pytest.approx([reference, edited])
    assert items.loc[(0, 0), "erased"] == pytest.approx(0.5)
    assert items.loc[(0, 1), "erased"] == 0  # better than before is not negative erasure
    assert items.loc[(1, 0), "erased"] == 1  # nor is more than the reference more than all
    assert not items.loc[(1, 1), "encodes"]  # below the threshold
    assert items.loc[(0, -1), "erased"] == pytest.approx((1 * 0.5 + 3 * 0) / 4)
    assert items.loc[(1, -1), "erased"] == 1
    assert np.isnan(items.loc[(2, -1), "erased"])
    table = summarise_depth(items.reset_index().assign(split="forget")).set_index("layer")
    assert table.loc[-1, "erased"] == pytest.approx((0.125 + 1) / 2)
    assert table.loc[0, "erased"] == pytest.approx((1 * 0.5 + 1 * 1) / 2)
    assert table["encoding"].to_dict() == {0: 2, 1: 1, -1: 2}
    few = depth_card(table.reset_index(), {}).verdict
    assert few == "forget: only 2 of 3 items are encoded in any layer, too few to say how deep it goes."
    more = pd.concat([items.reset_index().assign(item=lambda t, n=n: t["item"] + 3 * n) for n in range(2)])
    wide = summarise_depth(more.assign(split="forget"))
    assert wide["erased_low"].min() >= 0 and wide["erased_high"].max() <= 1
    assert "depth 0.56 [" in depth_card(wide, {}).verdict


def test_nothing_depends_on_batches_and_nothing_is_left_behind(tiny, edit, tmp_path):
    one = score(tiny, edit=edit, out=tmp_path / "a")
    other = depth_score(
        model=tiny.rlvr, edit=edit, reference=tiny.sft, splits={"forget": tiny.forget}, limit=4, batch_size=1,
        progress=False, threshold=0.0,
    )  # fmt: skip
    for column in ("reference_drop", "edited_drop"):
        assert one.items[column].to_numpy() == pytest.approx(other.items[column].to_numpy(), abs=1e-5)
    kept = pd.read_parquet(tmp_path / "a" / "depth.parquet")
    assert kept.equals(score(tiny, edit=edit, out=tmp_path / "a").table)
    assert same_bits(Checkpoint(tiny.rlvr).tensor(NAME), Edit.load(edit).before[NAME])
    assert len(figure_table(one.plot())) == len(one.table)
    assert "depth 0." in one.card().verdict or "depth 1." in one.card().verdict
    answers = score(tiny, edit=edit, tokens="answer").items
    assert (answers["tokens"] < one.items["tokens"]).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "--edit"),
        ({"source": "DEEP"}, "layers"),
        ({"source": "RLVR", "reference": "WIDE"}, "numbers a state"),
        ({"edit": "EDIT", "threshold": -1.0}, "--threshold"),
        ({"edit": "EDIT", "splits": {}}, "--split"),
        ({"edit": "EDIT", "tokens": "words"}, "solution, answer"),
    ],
)
def test_a_users_mistake_is_said_before_anything_is_written(tiny, edit, tmp_path, changes, said):
    places = {"RLVR": tiny.rlvr, "EDIT": edit}
    if "DEEP" in changes.values():
        places["DEEP"] = write_lineage(tmp_path / "deep", num_hidden_layers=3).rlvr
    if "WIDE" in changes.values():
        places["WIDE"] = write_lineage(tmp_path / "wide", hidden_size=64).rlvr
    given = {key: places.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    settings = {"model": tiny.rlvr, "reference": tiny.sft, "splits": {"forget": tiny.forget}, "progress": False} | given
    with pytest.raises(MastlensError, match=said):
        depth_score(out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
