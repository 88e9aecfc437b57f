"""The geometry pipeline as a long computation: interrupted, resumed, parallel, and with odd input."""

import contextlib
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import mastlens as m
from mastlens.analysis.increments import geometry as increments
from mastlens.runs.ledger import Ledger
from tests.conftest import write_lineage

QUIET = {"rank": 4, "progress": False}


def lineage(tiny):
    return {"base": tiny.base, "sft": tiny.sft, "rlvr": tiny.rlvr}


def changed(folder, target, edit):
    """Copy a checkpoint with some of its tensors edited in the copy."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def interrupted(ledger, name, value):
    """Keep one item and stop."""
    with contextlib.suppress(KeyboardInterrupt), ledger:
        ledger.add(name, value)
        raise KeyboardInterrupt


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_an_interrupted_run_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch):
    options = {**QUIET, "full": True, "heads": True, "spectra": True, "masks": True, "workers": 1}
    m.geometry(**lineage(tiny), **options, out=tmp_path / "whole")
    real, seen = increments.measure_projection, []

    def fails_at_the_fourth(lineage, projection, options):
        seen.append(projection.name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(lineage, projection, options)

    monkeypatch.setattr(increments, "measure_projection", fails_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        m.geometry(**lineage(tiny), **options, out=tmp_path / "parts")
    kept = tmp_path / "parts" / increments._PARTIAL
    done = {json.loads(line)[0] for line in kept.read_bytes().splitlines()}
    assert set(seen[:3]) <= done  # the pool may have started another one before it heard of the interruption
    assert not list((tmp_path / "parts").glob("*.parquet"))
    with kept.open("ab") as stream:  # as a kill -9 in the middle of a line would leave it
        stream.write(b'["model.layers.0.self_attn.o_proj.weight", {"rows": [{"incre')
    seen.clear()
    monkeypatch.setattr(increments, "measure_projection", lambda a, p, b: seen.append(p.name) or real(a, p, b))
    m.geometry(**lineage(tiny), **options, out=tmp_path / "parts")
    assert not set(seen) & done
    assert len(seen) == 8 - len(done) > 0
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert not kept.exists()


def test_partial_results_of_other_settings_are_not_used(tiny, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    interrupted(
        Ledger(out / increments._PARTIAL, "another key"),
        "model.layers.0.self_attn.q_proj.weight",
        {"rows": [{"increment": "sft", "wrong": 1}]},
    )
    found = m.geometry(**lineage(tiny), **QUIET, out=out).table
    assert "wrong" not in found
    assert len(found) == 16


def test_a_ledger_gives_floats_back_bit_for_bit(tmp_path):
    values = [0.1, 1 / 3, 5e-324, float("nan"), float("inf"), -0.0]
    interrupted(Ledger(tmp_path / "l", "k"), "a", values)
    with Ledger(tmp_path / "l", "k") as ledger:
        assert "a" in ledger and "b" not in ledger
        assert np.array(ledger["a"]).tobytes() == np.array(values).tobytes()
    assert (tmp_path / "l").exists()  # until the stage that owns it has recorded its outputs


def test_neither_workers_nor_threads_change_a_bit(tiny, tmp_path):
    threads = torch.get_num_threads()
    options = {**QUIET, "full": True, "masks": True, "heads": True, "spectra": True}
    for name, workers in (("one", 1), ("three", 3)):
        m.geometry(**lineage(tiny), **options, workers=workers, out=tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "three")
    assert torch.get_num_threads() == threads
    with pytest.raises(m.MastlensError, match="workers"):
        m.geometry(**lineage(tiny), **QUIET, workers=-1)


@pytest.mark.parametrize(("rule", "expected"), [(3, 3), ("3", 3), (0.25, 8), ("0.25", 8)])
def test_rank_rules(tiny, rule, expected):
    table = m.geometry(**lineage(tiny), rank=rule, progress=False).table
    assert table.loc[table["projection"] == "q", "rank"].eq(expected).all()


def test_an_energy_threshold_gives_each_tensor_its_own_rank(tiny):
    table = m.geometry(**lineage(tiny), rank="90%", progress=False).table
    weights = load_file(tiny.base / "model.safetensors")
    for row in table.itertuples():
        energy = np.linalg.svd(weights[row.name].double().numpy(), compute_uv=False) ** 2
        assert row.rank == 1 + int(np.argmax(energy.cumsum() >= 0.9 * energy.sum()))


@pytest.mark.parametrize("rank", [17, 0, -3, "a lot", "120%", 1.5])
def test_a_rank_that_does_not_fit_is_named(tiny, rank):
    with pytest.raises(m.MastlensError, match=r"[rR]ank"):
        m.geometry(**lineage(tiny), rank=rank, progress=False)


def test_zero_increments_are_marked_and_kept(tiny, tmp_path):
    name = "model.layers.1.self_attn.v_proj.weight"
    sft = load_file(tiny.sft / "model.safetensors")
    rlvr = changed(tiny.rlvr, tmp_path / "rlvr", lambda t: t.update({name: sft[name]}))
    table = m.geometry(
        base=tiny.base, sft=tiny.sft, rlvr=rlvr, full=True, masks=True, spectra=True, heads=True, **QUIET
    ).table
    rows = table[table["increment"] == "rlvr"].set_index("name")
    assert rows.loc[name, "note"] == "zero increment"
    for column in ("delta_norm", "off_principal", "spectral_shift", "stable_rank", "changed_fraction_bf16"):
        assert rows.loc[name, column] == 0
    assert not rows.loc[name, [c for c in rows if c.endswith("_distinguishable")]].any()
    assert rows.drop(index=name)["note"].eq("").all()


def test_an_increment_below_the_precision_floor_is_marked_and_kept(tmp_path):
    """Stored in bfloat16, two roundings of nearly the same weights differ by noise of a known size."""
    folders = write_lineage(tmp_path / "l", dtype="float32")
    name = "model.layers.0.self_attn.q_proj.weight"
    base = load_file(folders.base / "model.safetensors")[name]
    noise = torch.rand(base.shape, generator=torch.Generator().manual_seed(0)) - 0.5

    def rounded(tensors, shift=0.0):
        for key in tensors:
            tensors[key] = tensors[key].bfloat16()
        tensors[name] = (base * (1 + shift * noise)).bfloat16()

    first = changed(folders.base, tmp_path / "a", rounded)
    second = changed(folders.rlvr, tmp_path / "b", lambda t: rounded(t, shift=2e-3))
    rows = m.geometry(base=first, rlvr=second, **QUIET).table.set_index("name")
    assert rows.loc[name, "note"] == "below the precision floor"
    assert 0 < rows.loc[name, "delta_norm"] <= rows.loc[name, "precision_floor"]
    assert rows.drop(index=name)["note"].eq("").all()  # steps of 2 % are far above it
    assert len(rows) == 8


def test_mixed_dtypes_are_compared_in_float32(tiny, tmp_path):
    def halved(tensors):
        for key in tensors:
            tensors[key] = tensors[key].bfloat16()

    coarse = changed(tiny.base, tmp_path / "base", halved)
    row = m.geometry(base=coarse, rlvr=tiny.rlvr, **QUIET).table.iloc[0]
    before = load_file(coarse / "model.safetensors")[row["name"]].double()
    after = load_file(tiny.rlvr / "model.safetensors")[row["name"]].double()
    assert row["delta_norm"] == pytest.approx(float((after - before).norm()), rel=1e-6)
    assert (
        row["precision_floor"] > 100 * m.geometry(base=tiny.base, rlvr=tiny.rlvr, **QUIET).table["precision_floor"][0]
    )


def test_other_weight_matrices_on_request(tiny):
    table = m.geometry(**lineage(tiny), where=r"mlp|embed", full=True, **QUIET).table
    assert set(table["projection"]) >= {"mlp_gate", "mlp_up", "mlp_down", "embed"}
    assert not table["name"].str.contains("self_attn").any()
    one = table[(table["increment"] == "rlvr") & table["name"].str.contains(r"0\.mlp\.down")].iloc[0]
    before, after = (load_file(f / "model.safetensors")[one["name"]].double().numpy() for f in (tiny.sft, tiny.rlvr))
    assert one["delta_norm"] == pytest.approx(np.linalg.norm(after - before), rel=1e-5)
    s0, s1 = (np.linalg.svd(w, compute_uv=False) for w in (before, after))
    assert one["spectral_shift"] == pytest.approx(np.linalg.norm(s1 - s0) / np.linalg.norm(s0), rel=1e-6)
    with pytest.raises(m.MastlensError, match="matches no"):
        m.geometry(**lineage(tiny), where="no such tensor", **QUIET)


def test_a_padded_vocabulary_is_compared_on_the_common_rows(tiny, tmp_path):
    name = "model.embed_tokens.weight"
    rlvr = changed(tiny.rlvr, tmp_path / "rlvr", lambda t: t.update({name: torch.cat([t[name], torch.zeros(8, 32)])}))
    config = json.loads((rlvr / "config.json").read_text())
    config["vocab_size"] += 8
    (rlvr / "config.json").write_text(json.dumps(config))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = m.geometry(base=tiny.base, sft=tiny.sft, rlvr=rlvr, where="embed", masks=True, **QUIET).table
    assert any("384" in str(w.message) and "392" in str(w.message) for w in caught)
    whole = m.geometry(**lineage(tiny), where="embed", masks=True, **QUIET).table
    pd.testing.assert_frame_equal(table, whole)


def test_heads_add_up(tiny):
    result = m.geometry(**lineage(tiny), heads=True, **QUIET)
    keys = ["increment", "name"]
    whole = result.table.set_index(keys)["delta_norm"] ** 2
    parts = result.heads.assign(energy=result.heads["delta_norm"] ** 2).groupby(keys)["energy"].sum()
    pd.testing.assert_series_equal(parts.sort_index(), whole.sort_index(), check_names=False)
    assert result.heads.groupby(keys).size().unstack(0).loc["model.layers.0.self_attn.k_proj.weight"].eq(2).all()
    assert result.heads.groupby(keys).size().unstack(0).loc["model.layers.0.self_attn.o_proj.weight"].eq(4).all()
    assert result.spectra is None
