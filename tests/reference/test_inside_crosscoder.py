"""Crosscoders: against numpy in float64 on states from plain hooks; planted features; what is none of these states."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mastlens
from mastlens.analysis.inside.crosscoders import read_crosscoder
from mastlens.errors import MastlensError
from tests.columns import check_table
from tests.conftest import run_command
from tests.lineages import write_crosscoder
from tests.reference.plain import encode_file, load_model

TEXTS, WIDTH, FEATURES = 4, 32, 40


def write(folder, *, threshold=None, config=None, **changes):
    """Write a random crosscoder, with tensors changed or added."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(2, FEATURES, WIDTH, generator=generator) / WIDTH**0.5
    weights = {
        "encoder.weight": decoder.transpose(1, 2).contiguous(),
        "encoder.bias": torch.full((FEATURES,), -0.05),
        "decoder.weight": decoder * torch.rand(2, FEATURES, 1, generator=generator),
        "decoder.bias": torch.randn(2, WIDTH, generator=generator) / 10,
        **({} if threshold is None else {"threshold": torch.tensor(threshold), "k": torch.tensor(8)}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**weights, **changes}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {}))
    return folder


@pytest.mark.parametrize("named", ["CROSSCODER", "SAE", "NONE"])
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_features_are_what_numpy_makes_of_the_states(tmp_path, named, threshold):
    own = read_crosscoder(write(tmp_path, threshold=threshold, config={"code_normalization": named}))
    weights = {name: value.double().numpy() for name, value in load_file(tmp_path / "model.safetensors").items()}
    states = np.random.default_rng(1).normal(size=(2, 9, WIDTH))
    found, made = own.read(torch.from_numpy(states).float())
    encoder, decoder = weights["encoder.weight"], weights["decoder.weight"]
    f = np.maximum(states[0] @ encoder[0] + states[1] @ encoder[1] + weights["encoder.bias"], 0)
    lengths = np.linalg.norm(decoder, axis=2)
    by = {"CROSSCODER": lengths.sum(0), "SAE": np.sqrt((lengths**2).sum(0)), "NONE": np.ones(FEATURES)}[named]
    kept = f if threshold is None else f * (f * by > threshold)
    assert threshold is None or 0 < (kept > 0).sum() < (f > 0).sum()
    np.testing.assert_allclose(found.numpy(), kept, rtol=1e-4, atol=1e-5)
    for model in (0, 1):
        np.testing.assert_allclose(
            made[model].numpy(), kept @ decoder[model] + weights["decoder.bias"][model], rtol=1e-4, atol=1e-4
        )


def ask(tiny, crosscoder, **changes):
    given = {"sft": tiny.sft, "rlvr": tiny.rlvr, "splits": {"f": tiny.forget}, "limit": TEXTS, "layer": 1,
             "dtype": "float32", "draws": 3, "crosscoder": crosscoder, "progress": False}  # fmt: skip
    return mastlens.inside_crosscoder(**given | changes)


@torch.no_grad()
def states_of(folder, tiny):
    kept, model = [], load_model(folder)
    for prompt, solution in encode_file(tiny.forget, tiny.rlvr)[:TEXTS]:
        at = slice(len(prompt) - 1, -1)
        handle = model.model.layers[1].register_forward_hook(lambda m, a, o, at=at: kept.append(o[0, at].double()))
        model(input_ids=torch.tensor([prompt + solution]), use_cache=False)
        handle.remove()
    return torch.cat(kept).numpy()


def test_a_crosscoder_of_either_entry_tells_both_models_states(tiny, tmp_path):
    """Features 0 to 63 are SFT's entries and their other sides, 64 to 127 RLVR's: nothing is left, nothing shared."""
    found = ask(tiny, write_crosscoder(tmp_path / "both", WIDTH), batch_size=3)
    table, before, after = found.table.set_index("feature"), states_of(tiny.sft, tiny), states_of(tiny.rlvr, tiny)
    expected = np.concatenate([np.maximum(sign * of, 0) for of in (before, after) for sign in (1, -1)], axis=1)
    np.testing.assert_allclose(table["active"], expected.mean(axis=0)[table.index], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table["firing"], (expected > 0).mean(axis=0)[table.index], atol=0.02)
    assert (table["active_low"] <= table["active"]).all() and (table["active"] <= table["active_high"]).all()
    first, second = table[table.index < 2 * WIDTH], table[table.index >= 2 * WIDTH]
    assert (first["share"] == 0).all() and (second["share"] == 1).all()
    # SFT's states are SFT's whatever RLVR is; RLVR's differ from those of random changes.
    np.testing.assert_allclose(first["active"], first["active_null"], rtol=1e-5)
    assert (np.abs(second["active"] - second["active_null"]) > 1e-5).any()
    assert (first["active_p"] > 0.2).all() and not first["active_distinguishable"].any()
    fit = found.fit.iloc[0]
    assert fit["fvu_before"] < 1e-9 > fit["fvu_after"]
    assert (fit["tokens"], fit["features"]) == (len(before), 4 * WIDTH)
    assert "alone" in found.card().verdict and "features" in found.plot().layout.title.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": -1.0}, "threshold was not set"),
        ({"threshold": [0.1, 0.2]}, "DECOUPLED"),
        ({"threshold": 0.1, "config": {"code_normalization": "MIXED"}}, "'MIXED'"),
        ({"activation_mean": torch.zeros(2)}, "activation_mean, of which nothing is known"),
        ({"encoder.bias": torch.zeros(3)}, "not those of one crosscoder"),
        ({"k": torch.tensor(8)}, "threshold was not set"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, changes, said):
    with pytest.raises(MastlensError, match=said):
        read_crosscoder(write(tmp_path, **changes))


def test_other_models_and_folders_are_refused(tiny, tmp_path):
    with pytest.raises(MastlensError, match="There is no folder"):
        ask(tiny, tmp_path / "nowhere")
    with pytest.raises(MastlensError, match="reads states of 48 entries"):
        ask(tiny, write_crosscoder(tmp_path / "wide", 48))
    bad = write(tmp_path / "bad", **{"decoder.bias": torch.full((2, WIDTH), 9.0)})
    with pytest.raises(MastlensError, match="no crosscoder of these states"):
        ask(tiny, bad, draws=0)
    three = {name: torch.zeros(3, *shape) for name, shape in (("encoder.weight", (WIDTH, FEATURES)),
             ("decoder.weight", (FEATURES, WIDTH)), ("decoder.bias", (WIDTH,)))}  # fmt: skip
    with pytest.raises(MastlensError, match="3 models or layers"):
        read_crosscoder(write(tmp_path / "three", **three))
    (tmp_path / "bad" / "model.safetensors").unlink()
    save_file({"W_enc": torch.zeros(2)}, tmp_path / "bad" / "model.safetensors")
    with pytest.raises(MastlensError, match=r"lacks encoder\.weight"):
        read_crosscoder(tmp_path / "bad")


def test_the_command_writes_what_is_declared(tiny, tmp_path):
    folder = write_crosscoder(tmp_path / "both", WIDTH)
    line = f"inside crosscoder --sft {tiny.sft} --rlvr {tiny.rlvr} --split f={tiny.forget} --limit 2 --draws 2".split()
    told = run_command(*line, "--crosscoder", folder, "--layer", 1, "--out", tmp_path / "run")
    check_table(tmp_path / "run" / "inside_crosscoder.parquet", "mastlens inside crosscoder")
    check_table(tmp_path / "run" / "inside_crosscoder_fit.parquet", "mastlens inside crosscoder")
    assert told.summary["fit"][0]["l0"] == pytest.approx(2 * WIDTH)
