"""Dictionaries: formulas against plain float64, SAELens where it is, planted features found, others refused."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import mastlens
from mastlens.analysis.inside.dictionaries import read_dictionary
from mastlens.analysis.inside.featuring import exchanged_p
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.statistics import sign_flip_p
from tests.columns import check_table
from tests.conftest import run_command
from tests.reference.plain import encode_file, load_model

WIDTH, FEATURES, HOOK = 32, 48, "blocks.1.hook_resid_post"
ARCHITECTURES = ("standard", "jumprelu", "topk", "gated")
SAELENS = os.environ.get("MASTLENS_SAELENS_PYTHON", "")


def write_dictionary(folder, architecture="standard", *, tensors=None, metadata=None, **config):
    """Write random weights in SAELens' format (6.x), or those given."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    weights = {"W_enc": draw(WIDTH, FEATURES), "W_dec": draw(FEATURES, WIDTH) / 8, "b_dec": draw(WIDTH) / 4}
    names = {"gated": ("b_gate", "b_mag", "r_mag")}.get(architecture, ("b_enc",))
    weights |= {name: draw(FEATURES) / 4 for name in names}
    if architecture == "jumprelu":
        weights["threshold"] = draw(FEATURES).abs()
    said = {"model_name": "tiny", "hook_name": HOOK, "sae_lens_version": "6.12.0"} | (metadata or {})
    settings = {"architecture": architecture, "d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu"}
    settings |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    if architecture == "topk":
        settings |= {"k": 5, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({**settings, "metadata": said, **config}))
    save_file(weights | (tensors or {}), folder / "sae_weights.safetensors")
    return folder


def by_hand(weights, config, states):
    """What SAELens' documentation says a dictionary does, token by token, in float64."""
    w = {name: value.double().numpy() for name, value in weights.items()}
    found, made = [], []
    for x in states.astype(np.float64):
        back = lambda y: y  # noqa: E731
        if config.get("normalize_activations") == "constant_norm_rescale":
            factor = np.sqrt(len(x)) / np.linalg.norm(x)
            x, back = x * factor, lambda y, factor=factor: y / factor
        elif config.get("normalize_activations") == "layer_norm":
            mean, spread = x.mean(), x.std(ddof=1)
            x, back = (x - mean) / (spread + 1e-5), lambda y, m=mean, s=spread: y * s + m
        read = x - w["b_dec"] if config.get("apply_b_dec_to_input", True) else x
        norms = np.linalg.norm(w["W_dec"], axis=1) if config.get("rescale_acts_by_decoder_norm") else 1.0
        if "b_gate" in w:
            f = np.where(read @ w["W_enc"] + w["b_gate"] > 0, np.maximum(
                read @ (w["W_enc"] * np.exp(w["r_mag"])) + w["b_mag"], 0), 0)  # fmt: skip
        else:
            p = (read @ w["W_enc"] + w["b_enc"]) * norms
            f = np.maximum(p, 0)
            if "threshold" in w:
                f = np.where(p > w["threshold"], f, 0)
            if "k" in config:
                f = np.where(p >= np.sort(p)[-config["k"]], f, 0)
        found.append(f)
        made.append(back(f / norms @ w["W_dec"] + w["b_dec"]))
    return np.array(found), np.array(made)


CASES = [
    *((architecture, {}) for architecture in ARCHITECTURES),
    ("standard", {"apply_b_dec_to_input": False}),
    ("standard", {"normalize_activations": "constant_norm_rescale"}),
    ("jumprelu", {"normalize_activations": "layer_norm"}),
    ("topk", {"k": 3, "rescale_acts_by_decoder_norm": True}),
]


@pytest.mark.parametrize(("architecture", "config"), CASES)
def test_features_are_those_of_the_formulas(tmp_path, architecture, config):
    folder = write_dictionary(tmp_path / "sae", architecture, **config)
    dictionary = read_dictionary(folder)
    assert (dictionary.site, dictionary.layer, dictionary.model) == ("resid_post", 1, "tiny")
    assert (dictionary.width, dictionary.features) == (WIDTH, FEATURES)
    states = np.random.default_rng(0).normal(size=(20, WIDTH)).astype(np.float32) * 2
    settings = {**({"k": 5} if architecture == "topk" else {}), **config}
    found, made = by_hand(dictionary.tensors, settings, states)
    features, back = dictionary.read(torch.from_numpy(states))
    np.testing.assert_allclose(features.numpy(), found, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(back.numpy(), made, rtol=1e-4, atol=1e-4)
    assert ((features > 0).numpy() == (found > 0)).all()
    if architecture == "topk":
        assert ((features > 0).sum(dim=1) <= dictionary.k).all()


_THEIRS = """
import sys, torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
for folder in sys.argv[1:]:
    sae = SAE.load_from_disk(folder)
    states = load_file(folder + "/states.safetensors")["states"]
    with torch.no_grad():
        features = sae.encode(states)
        found = {"features": features.contiguous(), "made": sae.decode(features).contiguous()}
    save_file(found, folder + "/theirs.safetensors")
"""


@pytest.mark.skipif(not SAELENS, reason="MASTLENS_SAELENS_PYTHON names no Python of an environment with sae-lens")
def test_features_are_those_of_saelens(tmp_path):
    states, folders = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1)) * 2, []
    for number, (architecture, config) in enumerate(CASES):
        folders.append(write_dictionary(tmp_path / str(number), architecture, **config))
        save_file({"states": states}, folders[-1] / "states.safetensors")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([SAELENS, "-c", _THEIRS, *map(str, folders)], check=True, env=environment, timeout=300)
    from safetensors.torch import load_file

    for folder in folders:
        features, made = read_dictionary(folder).read(states)
        theirs = load_file(folder / "theirs.safetensors")
        torch.testing.assert_close(features, theirs["features"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made, theirs["made"], rtol=1e-4, atol=1e-5)


def test_configurations_of_older_versions_and_other_names(tmp_path):
    old = {"hook_point": "blocks.0.attn.hook_z", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    folder = write_dictionary(tmp_path / "old", "topk", **old)
    config = json.loads((folder / "cfg.json").read_text())
    for key in ("architecture", "k", "metadata", "rescale_acts_by_decoder_norm"):
        del config[key]
    (folder / "cfg.json").write_text(json.dumps(config))
    found = read_dictionary(folder)
    assert (found.architecture, found.k, found.site, found.layer, found.model) == ("topk", 4, "z", 0, "")
    for hook, place in (
        ("blocks.3.hook_mlp_out", ("mlp_out", 3)),
        ("blocks.0.hook_attn_out", ("out", 0)),
        ("model.layers.7", ("resid_post", 7)),
        ("blocks.2.mlp.hook_post", ("mlp_hidden", 2)),
    ):
        found = read_dictionary(write_dictionary(tmp_path / "hooks", metadata={"hook_name": hook}))
        assert (found.site, found.layer) == place
    unnamed = write_dictionary(tmp_path / "unnamed", metadata={"hook_name": None})
    assert read_dictionary(unnamed, site="mlp_in", layer=1).site == "mlp_in"
    log = {"log_threshold": torch.full((FEATURES,), -1.0)}
    folder = write_dictionary(tmp_path / "log", "jumprelu", tensors=log)
    assert torch.allclose(read_dictionary(folder).tensors["threshold"], torch.tensor(np.exp(-1.0)).float())


@pytest.mark.parametrize(
    ("change", "asked", "said"),
    [
        ({"architecture": "batchtopk"}, {}, "read are standard, jumprelu, topk, gated"),
        ({"normalize_activations": "expected_average_only_in"}, {}, "fold the factor"),
        ({"activation_fn": "tanh-relu"}, {}, "other activation functions"),
        ({"metadata": {"hook_name": "blocks.1.ln1.hook_scale"}}, {}, "--site resid_post"),
        ({}, {"layer": 0}, "of resid_post in layer 1 .* not of resid_post in layer 0"),
        ({"tensors": {"b_enc": torch.zeros(3)}}, {}, "not those of one dictionary"),
        ({"architecture": "topk", "k": 0}, {}, "whole number from 1 on"),
        ({"architecture": "topk", "k": 99}, {}, "no more than there are features"),
    ],
)
def test_what_is_no_dictionary_that_is_read_here_is_refused(tmp_path, change, asked, said):
    named = {"architecture": change.get("architecture", "standard")} if change.get("k") is not None else {}
    rest = {key: value for key, value in change.items() if key not in named}
    folder = write_dictionary(tmp_path / "sae", **named, **rest)
    with pytest.raises(MastlensError, match=said):
        read_dictionary(folder, **asked)


@pytest.fixture(scope="module")
def fitting(tiny, tmp_path_factory):
    """A dictionary that fits the tiny model: features along the directions of its states, both ways, and a mean."""
    model, kept = load_model(tiny.sft), []
    handle = model.model.layers[1].register_forward_hook(lambda m, a, o: kept.append(o[0].detach()))
    encoded = encode_file(tiny.forget, tiny.sft)
    with torch.no_grad():
        for prompt, solution in encoded:
            model(input_ids=torch.tensor([prompt + solution]), use_cache=False)
    handle.remove()
    states = torch.cat([one[len(p) - 1 : len(p) + len(s) - 1] for one, (p, s) in zip(kept, encoded, strict=True)])
    basis = torch.linalg.svd(states - states.mean(0), full_matrices=False)[2][:24]
    both = torch.cat([basis, -basis])
    tensors = {"W_enc": both.T.contiguous(), "W_dec": both, "b_dec": states.mean(0), "b_enc": torch.zeros(FEATURES)}
    folder = write_dictionary(tmp_path_factory.mktemp("fit") / "sae", tensors=tensors)
    return folder, both, states


def features_of(pair, folder, **changes):
    given = {"dictionary": folder, "splits": {"f": pair.forget}, "draws": 6, "dtype": "float32", "progress": False}
    return mastlens.inside_dictionary(sft=pair.sft, rlvr=pair.rlvr, **given | changes)


@pytest.fixture(scope="module")
def random_change(tiny, fitting):
    return features_of(tiny, fitting[0])


def test_sums_are_those_of_plain_hooks(random_change, tiny, fitting):
    folder, _, states = fitting
    weights = read_dictionary(folder).tensors
    found, made = by_hand(weights, {}, states.numpy())
    rows = random_change.table.set_index("feature")
    np.testing.assert_allclose(rows["before"], found.mean(0)[rows.index], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(rows["firing_before"], (found > 0).mean(0)[rows.index], atol=0.02)
    fit = random_change.fit.iloc[0]
    spread = np.square(states.numpy() - states.numpy().mean(0)).sum()
    assert fit["fvu_before"] == pytest.approx(np.square(made - states.numpy()).sum() / spread, rel=1e-3)
    assert 0 < fit["fvu_before"] < 0.2
    assert fit["l0_before"] == pytest.approx((found > 0).sum(1).mean(), rel=1e-2)
    assert (fit["tokens"], fit["alive"]) == (len(states), len(rows))
    assert np.allclose(rows["after"] - rows["before"], rows["change"])


def test_a_random_change_changes_no_feature(random_change):
    """RLVR of the tiny lineage is one: exchanged texts alone would call many features changed."""
    assert not random_change.table[["change_distinguishable", "firing_change_distinguishable"]].to_numpy().any()
    assert "0 raised and 0 lowered" in random_change.card().verdict
    assert "none of 48 features is beyond chance" in random_change.plot().layout.title.text.replace("<br>", " ")
    with pytest.raises(MastlensError, match="split"):
        random_change.plot("nowhere")


@torch.no_grad()
def test_a_planted_feature_is_found_and_its_neighbours_are_not(tiny, fitting, tmp_path):
    folder, both, _ = fitting
    model, inner = load_model(tiny.sft), []
    model.save_pretrained(tmp_path / "sft")
    down = model.model.layers[1].mlp.down_proj
    handle = down.register_forward_pre_hook(lambda m, args: inner.append(args[0][0]))
    for prompt, solution in encode_file(tiny.forget, tiny.sft):
        model(input_ids=torch.tensor([prompt + solution]), use_cache=False)
    handle.remove()
    mean = torch.cat(inner).mean(0)
    down.weight += 4 * both[3][:, None] * mean / (mean @ mean)
    model.save_pretrained(tmp_path / "rlvr")
    for step in ("sft", "rlvr"):
        Checkpoint(str(tiny.sft)).load_tokenizer().save_pretrained(tmp_path / step)
    pair = replace(tiny, sft=tmp_path / "sft", rlvr=tmp_path / "rlvr")
    table = features_of(pair, folder, draws=16).table.set_index("feature")
    found = set(table.index[table["change_distinguishable"]])
    assert {3} <= found <= {3, 27}  # the feature; and what points the other way, which is hardly ever on
    assert table.loc[3, "change"] > 0 > table.loc[27, "change"]
    assert table.loc[3, "change_low"] < table.loc[3, "change"] < table.loc[3, "change_high"]


def test_exchanged_texts_against_all_signs():
    differences = np.random.default_rng(0).normal(size=(12, 5)) + np.array([0, 0.3, 0.8, 2, 0])
    differences[2:, 4] = 0
    found = exchanged_p(differences)
    exact = [sign_flip_p(column) for column in differences.T]
    np.testing.assert_allclose(found[:4], exact[:4], atol=0.02)
    assert found[4] >= exact[4] >= 0.5  # two texts can show nothing
    assert exchanged_p(np.zeros((5, 2))).tolist() == [1.0, 1.0]
    assert exchanged_p(np.ones((20, 1)))[0] == pytest.approx(2.0**-19)


def test_dictionaries_of_another_model_width_or_layer_are_refused(tiny, tmp_path, fitting):
    with pytest.raises(MastlensError, match="worse than their mean"):
        features_of(tiny, write_dictionary(tmp_path / "other"), draws=0)
    narrow = {
        "W_enc": torch.zeros(16, 4),
        "W_dec": torch.zeros(4, 16),
        "b_dec": torch.zeros(16),
        "b_enc": torch.zeros(4),
    }
    with pytest.raises(MastlensError, match=r"reads states of 16 entries, and resid_post of .* has 32"):
        features_of(tiny, write_dictionary(tmp_path / "narrow", tensors=narrow), draws=0)
    deep = write_dictionary(tmp_path / "deep", metadata={"hook_name": "blocks.9.hook_resid_post"})
    with pytest.raises(MastlensError, match="no layer 9"):
        features_of(tiny, deep, draws=0)
    with pytest.raises(MastlensError, match="There is no folder"):
        features_of(tiny, tmp_path / "nowhere")
    (tmp_path / "other" / "sae_weights.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(MastlensError, match="cannot be read"):
        read_dictionary(tmp_path / "other")


def test_the_command_writes_what_is_declared(tmp_path, tiny, fitting):
    line = f"inside dictionary --sft {tiny.sft} --rlvr {tiny.rlvr} --dictionary {fitting[0]} --split f={tiny.forget}"
    told = run_command(*line.split(), "--limit", 4, "--draws", 2, "--batch-size", 1, "--out", tmp_path / "run")
    for file in ("inside_dictionary.parquet", "inside_dictionary_fit.parquet"):
        check_table(tmp_path / "run" / file, "mastlens inside dictionary")
    assert told.summary["raised"] == told.summary["lowered"] == 0
    whole = features_of(tiny, fitting[0], limit=4, draws=2)
    table = pd.read_parquet(tmp_path / "run" / "inside_dictionary.parquet")
    np.testing.assert_allclose(table["before"], whole.table["before"], rtol=1e-3, atol=1e-5)
    assert "has a verdict" in features_of(tiny, fitting[0], limit=4, draws=0).card().verdict
    assert Path(told.summary["out"]) == tmp_path / "run"
