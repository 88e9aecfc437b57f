"""The analyses from the command line: what they write, what they print, how they refuse."""

import json

import pandas as pd
import pytest

from mastlens.cli import main


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def summary(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def ranked(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranked")
    assert main(["geometry", "--base", str(tiny.base), "--sft", str(tiny.sft), "--rlvr", str(tiny.rlvr), "--rank", "4",
                 "--full", "--masks", "--spectra", "--heads", "--workers", "1", "--out", str(folder)]) == 0  # fmt: skip
    assert main(["couple", "--sft", str(tiny.sft), "--rlvr", str(tiny.rlvr), "--forget", str(tiny.forget), "--retain",
                 str(tiny.retain), "--directions", "5", "--out", str(folder)]) == 0  # fmt: skip
    assert main(["rank", str(folder), "--top", "3"]) == 0
    return folder


def test_geometry_and_couple_write_every_table_that_was_asked_for(ranked):
    written = {path.name for path in ranked.glob("*.parquet")}
    assert written == {
        "geometry.parquet", "geometry_heads.parquet", "spectra.parquet", "coupling.parquet", "coupling_heads.parquet",
        "coupling_spectrum.parquet", "ranking.parquet",
    }  # fmt: skip
    assert {"principal_lift", "effective_rank", "spectral_shift_z"} <= set(pd.read_parquet(ranked / "geometry.parquet"))
    spectrum = pd.read_parquet(ranked / "coupling_spectrum.parquet")
    assert spectrum.groupby(["name"]).size().max() <= 6 * 2  # five directions and the rest, two sides


def test_causal_map_and_cumulative_curves(tiny, ranked, tmp_path, capsys):
    lineage = ["--sft", tiny.sft, "--rlvr", tiny.rlvr, "--forget", tiny.forget, "--retain", tiny.retain]
    found = summary(capsys, "causal-map", *lineage, "--heads", "--limit", "4", "--out", tmp_path)
    table = pd.read_parquet(tmp_path / "causal_map.parquet")
    assert {"layer", "projection", "name", "forget_effect", "retain_effect"} <= set(table)
    assert found["rows"] == len(table) == 2 * (8 + 2 * (4 + 2 + 2 + 4))
    assert {row["group"] for row in found["groups"]} >= {"projections", "mlp", "embeddings", "all"}
    one = summary(capsys, "causal-map", *lineage, "--one-direction", "--limit", "4", "--out", tmp_path / "one")
    assert one["rows"] == 8
    curves = summary(
        capsys, "cumulative-curves", *lineage, "--ranking", ranked / "ranking.parquet", "--draws", "3", "--points", "4",
        "--limit", "4", "--out", tmp_path,
    )  # fmt: skip
    assert len(curves["areas"]) == 2
    assert {path.name for path in tmp_path.glob("cumulative*.parquet")} == {
        "cumulative.parquet",
        "cumulative_areas.parquet",
    }
    code, _, err = run(
        capsys, "cumulative-curves", *lineage, "--ranking", tmp_path / "none.parquet", "--out", tmp_path / "x"
    )
    assert code == 2 and "none.parquet" in err and not (tmp_path / "x").exists()


def test_token_differences(tiny, tmp_path, capsys):
    splits = [f"forget={tiny.forget}", f"retain={tiny.retain}"]
    found = summary(
        capsys, "token-differences", "--base", tiny.base, "--sft", tiny.sft, "--rlvr", tiny.rlvr, "--split", *splits,
        "--out", tmp_path,
    )  # fmt: skip
    assert found["tokens"] == len(pd.read_parquet(tmp_path / "tokens.parquet"))
    assert {row["increment"] for row in found["summary"]} == {"sft", "rlvr"}
    code, _, err = run(capsys, "token-differences", "--rlvr", tiny.rlvr, "--split", "nothing", "--out", tmp_path / "x")
    assert code == 2 and "NAME=FILE" in err


def test_mask_agreement(tiny, tmp_path, capsys):
    found = summary(capsys, "mask-agreement", tiny.base, tiny.sft, tiny.rlvr, "--out", tmp_path)
    assert found["rows"] == 8
    assert 0 < found["mean"]["jaccard"] <= 1
    code, _, err = run(capsys, "mask-agreement", tiny.base, tiny.rlvr, "--out", tmp_path / "x")
    assert code == 2 and "two runs" in err


def test_trajectory_with_a_predicted_checkpoint(tiny, tmp_path, capsys):
    found = summary(
        capsys, "trajectory", tiny.base, tiny.sft, tiny.rlvr, "--steps", "10,20", "--rank", "4", "--extrapolate", "30",
        "--out", tmp_path,
    )  # fmt: skip
    assert (tmp_path / "trajectory.parquet").is_file()
    code, out, _ = run(capsys, "inspect", *found["checkpoints"].values())
    assert code == 0 and "qwen2" in out
    code, _, err = run(capsys, "trajectory", tiny.base, tiny.sft, tiny.rlvr, "--steps", "a,b", "--out", tmp_path / "x")
    assert code == 2 and "--steps" in err
    code, _, err = run(capsys, "trajectory", tiny.base, tiny.rlvr, "--out", tmp_path / "x")
    assert code == 2 and not (tmp_path / "x").exists()


@pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning"
)  # PEFT asks transformers by the old name
def test_an_adapter_is_a_checkpoint_on_the_command_line(tiny, tmp_path, capsys):
    import torch
    from peft import LoraConfig, get_peft_model

    from mastlens import Checkpoint

    torch.manual_seed(0)
    model = get_peft_model(
        Checkpoint(tiny.sft).load_model(),
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, base_model_name_or_path=str(tiny.sft)),
    )
    model.save_pretrained(tmp_path / "adapter")
    found = summary(
        capsys, "geometry", "--base", tiny.sft, "--rlvr", f"{tiny.sft}+{tmp_path / 'adapter'}", "--rank", "4", "--out",
        tmp_path / "run",
    )  # fmt: skip
    table = pd.read_parquet(tmp_path / "run" / "geometry.parquet").set_index("name")
    assert found["rows"] == 8
    changed = table["projection"] == "q"
    assert (table.loc[changed, "delta_norm"] > 0).all()
    assert (table.loc[~changed, "note"] == "zero increment").all()
