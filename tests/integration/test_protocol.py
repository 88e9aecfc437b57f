"""Published protocols from end to end, on a tiny model and small benchmarks of the same layouts."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import mastlens as m
from benchmarks.layouts import WRITERS, write_mast, write_r2mu, write_tofu
from mastlens.cli import main
from mastlens.edits.edit import Edit
from mastlens.evaluation.metrics.catalogue import find_metric
from mastlens.evaluation.suites.catalogue import SUITES
from mastlens.selection import RULES
from mastlens.studies.protocol_items import ItemMeans, rows_of
from mastlens.studies.published import protocol_names, read_protocol
from mastlens.studies.reasoning_methods import METHODS
from mastlens.unlearning.objectives import OBJECTIVES, make_objective
from tests.columns import check_table


def test_every_benchmark_has_a_protocol_and_every_protocol_names_what_there_is():
    assert protocol_names() == sorted(SUITES) == sorted(WRITERS)
    for name in protocol_names():
        protocol = read_protocol(name)
        assert not protocol.part or protocol.part in SUITES[protocol.benchmark].parts
        for metric in (*protocol.metrics, *protocol.optional_metrics, *protocol.reference_metrics):
            assert find_metric(metric).spelled == metric
        for arm in protocol.arms:
            assert make_objective(arm.objective, preset=arm.preset)
            assert not arm.rule or arm.rule in RULES
        if protocol.reasoning is not None:
            trained = [METHODS[method].objective for method in protocol.reasoning.methods]
            assert all(protocol.reasoning.preset in OBJECTIVES[one].presets for one in trained if one)
        assert all(row["source"] and math.isfinite(row["value"]) for row in protocol.numbers)


def typed(tiny, name, source, out, *more):
    words = ["run", f"protocol:{name}", "--model", tiny.rlvr, "--source", source, "--steps", "1", "--out", out]
    # Two tokens a response: what a tiny model writes says nothing, and each costs a pass.
    return [*map(str, [*words, "--batch-size", "2", "--max-new-tokens", "2", *more])]


@pytest.mark.parametrize("name", ["tofu", pytest.param("wmdp", marks=pytest.mark.slow)])
def test_a_protocol_runs_end_to_end(tiny, tmp_path, name, monkeypatch, capsys):
    from mastlens.studies import protocol as module

    one = replace(read_protocol(name), arms=read_protocol(name).arms[:1])  # each costs an edit and an evaluation
    monkeypatch.setattr(module, "read_protocol", lambda _: one)
    source, out = WRITERS[name](tmp_path / "source", 3), tmp_path / "out"
    words = typed(tiny, name, source, out, "--reference", tiny.sft)
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "published, on other models" in told
    for file in ("protocol.parquet", "protocol_published.parquet"):
        check_table(out / file, "mastlens run protocol:NAME")
    table, published = (pd.read_parquet(out / f"{file}.parquet") for file in ("protocol", "protocol_published"))
    labels = [arm.label for arm in one.arms]
    assert table["arm"].unique().tolist() == ["reference", "before", *labels]
    assert not set(published["model"]) & set(table["arm"])  # never mixed
    arms = table[table["arm"].isin(labels)]
    assert arms["difference"].notna().all()
    before = table[table["arm"] == "before"].set_index(["metric", "split", "aggregate"])["value"]
    row = arms.iloc[0]
    assert row["difference"] == pytest.approx(row["value"] - before[row["metric"], row["split"], row["aggregate"]])
    stamp = (out / "before" / "metrics.parquet").stat().st_mtime_ns
    shared = {"model": tiny.rlvr, "source": source, "steps": 1, "batch_size": 2, "max_new_tokens": 2}
    again = m.run(f"protocol:{name}", out, reference=tiny.sft, progress=False, **shared)
    assert (out / "before" / "metrics.parquet").stat().st_mtime_ns == stamp  # what is there is not made again
    assert "Bonferroni" in again.card().verdict
    assert len(again.plot("before").data)


def test_mast_edits_what_its_rule_selects_and_grades_what_is_written(tiny, tmp_path, capsys):
    source, out = write_mast(tmp_path / "source", 2), tmp_path / "out"
    words = typed(tiny, "mast", source, out, "--limit", "3", "--sft", tiny.sft, "--base", tiny.base)
    assert main(words) == 0
    capsys.readouterr()
    check_table(out / "protocol.parquet", "mastlens run protocol:NAME")
    table = pd.read_parquet(out / "protocol.parquet")
    assert set(table["metric"]) == {"accuracy", "log p(solution)", "log p(answer)", "choices"}
    ranking = pd.read_parquet(out / "rankings" / "mast" / "ranking.parquet")
    selected = ranking.loc[ranking["selected"], "name"]
    assert len(selected) == round(len(ranking) * 96 / 112)
    assert set(Edit.load(out / "MAST GA" / "edit.safetensors").names) == set(selected)
    assert len(Edit.load(out / "full GA" / "edit.safetensors").names) > len(ranking)
    responses, after = (pd.read_parquet(out / arm / "responses.parquet") for arm in ("before", "full GA"))
    keys = ["arm", "metric", "split", "aggregate"]
    row = table.set_index(keys).loc[("full GA", "log p(solution)", "forget", "per-token")]
    each = [
        (t["logprob_solution"] / t["solution_tokens"])[t["split"] == "forget"].to_numpy() for t in (responses, after)
    ]
    assert row["difference"] == pytest.approx(np.mean(each[1]) - np.mean(each[0]))
    chance = table[table["metric"] == "choices"]["null"]
    assert (chance == 0.25).all()


@pytest.mark.slow
def test_r2mu_judges_traces_beside_options_and_mathematics(tmp_path, capsys):
    source, out = write_r2mu(tmp_path / "source", 3), tmp_path / "out"
    words = ["run", "protocol:r2mu", "--model", "organism:think/think", "--reference", "organism:think/reference"]
    words += ["--source", source, "--steps", "1", "--batch-size", "2", "--max-new-tokens", "32", "--out", out]
    words += ["--layer", "3", "--where", r"3\.mlp\.down_proj"]
    assert main([*map(str, words)]) == 0
    capsys.readouterr()
    check_table(out / "protocol.parquet", "mastlens run protocol:NAME")
    table = pd.read_parquet(out / "protocol.parquet").set_index(["arm", "metric", "split"])["value"]
    assert table.index.get_level_values("arm").unique().tolist() == [
        *("reference", "before", "RMU", "RMU + ZeroThink", "RMU + reflection penalty", "R2MU-v0", "R2MU"),
    ]
    for arm in ("reference", "before", "R2MU"):
        both = table[arm, "FA-UA", "forget"] + table[arm, "RT-UA", "forget"]
        assert table[arm, "Avg-UA", "forget"] == pytest.approx(both / 2)
    assert table["before", "RT-UA", "forget"] > table["reference", "RT-UA", "forget"]  # who learnt it shows it
    (source / "facts.json").unlink()
    assert main([*map(str, words)]) == 2
    assert "Traces need a judge" in capsys.readouterr().err


def test_yes_or_no_is_tested_by_mcnemar_as_the_paper_does():
    """MAST's own numbers: 45 of 150 right, 37 after, 8 lost and none gained."""
    before = ItemMeans("accuracy", "forget", "tolerant", np.repeat([1.0, 0.0], [45, 105]))
    after = ItemMeans("accuracy", "forget", "tolerant", np.repeat([1.0, 0.0], [37, 113]))
    row = rows_of("MAST", [after], [before]).iloc[0]
    assert row["p"] == pytest.approx(0.0078125)
    assert row["difference"] == pytest.approx(-8 / 150)
    assert row["note"] == "8 lost, 0 gained"
    assert row["difference_low"] < row["difference"] < row["difference_high"] < 0
    alone = rows_of("before", [before]).iloc[0]
    assert math.isnan(alone["p"])
    assert alone["ci_low"] < 0.3 < alone["ci_high"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("protocol:tofo",), "Did you mean 'tofu'"),
        (("protocol:tofu",), "give --model PATH and --source SOURCE"),
        (("protocol:mast", "--model", "x", "--source", "."), "give --sft and --base, the checkpoints before --model"),
        (("protocol:tofu", "--model", "x", "--source", ".", "--sft", "y"), "has no use for --sft"),
        (("protocol:wmdp", "--model", "x", "--source", ".", "--layer", "1"), "has no use for --layer"),
        (("protocol:mast", "--model", "x", "--source", "a/b", "--sft", "y", "--base", "z"), "one dataset of the hub"),
        (("organism:qwen2", "--model", "x"), "--model: of a protocol alone"),
    ],
)
def test_what_a_protocol_lacks_is_told(tmp_path, capsys, words, said):
    assert main(["run", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_benchmark_without_a_split_that_is_trained_on_is_refused(tiny, tmp_path, capsys):
    source = write_tofu(tmp_path / "source", 2)
    (source / "forget10.json").unlink()
    assert main(typed(tiny, "tofu", source, tmp_path / "out")) == 2
    assert "has no 'forget-train', which the protocol takes" in capsys.readouterr().err
