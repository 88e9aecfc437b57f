"""Published protocols from end to end, on a tiny model and small benchmarks of the same layouts."""

import math
from dataclasses import replace

import pandas as pd
import pytest

import mastlens as m
from mastlens.cli import main
from mastlens.evaluation.metrics.catalogue import find_metric
from mastlens.evaluation.suites.catalogue import SUITES
from mastlens.studies.protocol import protocol_names, read_protocol
from mastlens.unlearning.objectives import make_objective
from tests.columns import check_table
from tests.suites import write_muse, write_rwku, write_tofu, write_wmdp

WRITERS = {"tofu": write_tofu, "muse": write_muse, "rwku": write_rwku, "wmdp": write_wmdp}


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_names_what_there_is(name):
    protocol = read_protocol(name)
    assert protocol.benchmark in SUITES
    assert not protocol.part or protocol.part in SUITES[protocol.benchmark].parts
    for metric in (*protocol.metrics, *protocol.optional_metrics, *protocol.reference_metrics):
        assert find_metric(metric).spelled == metric
    for arm in protocol.arms:
        assert make_objective(arm.objective, preset=arm.preset)
    assert all(one.source and math.isfinite(one.value) for one in protocol.published)


@pytest.mark.parametrize("name", ["tofu", pytest.param("wmdp", marks=pytest.mark.slow)])
def test_a_protocol_runs_end_to_end(tiny, tmp_path, name, monkeypatch, capsys):
    from mastlens.studies import protocol as module

    # Two tokens a response: what a tiny model writes says nothing, and each costs a pass.
    settings = replace(read_protocol(name), max_new_tokens=2, batch_size=2)
    monkeypatch.setattr(module, "read_protocol", lambda _: settings)
    source, out = WRITERS[name](tmp_path / "source", 3), tmp_path / "out"
    words = ["run", f"protocol:{name}", "--model", tiny.rlvr, "--source", source, "--steps", "1", "--out", out]
    words += ["--reference", tiny.sft]
    assert main([*map(str, words)]) == 0
    told = capsys.readouterr().out
    assert "published, on other models" in told
    for file in ("protocol.parquet", "protocol_published.parquet"):
        check_table(out / file, "mastlens run protocol:NAME")
    table, published = (pd.read_parquet(out / f"{file}.parquet") for file in ("protocol", "protocol_published"))
    labels = [arm.label for arm in settings.arms]
    assert table["arm"].unique().tolist() == ["reference", "before", *labels]
    assert not set(published["model"]) & set(table["arm"])  # never mixed
    arms = table[table["arm"].isin(labels)]
    assert arms["difference"].notna().all()
    before = table[table["arm"] == "before"].set_index(["metric", "split", "aggregate"])["value"]
    row = arms.iloc[0]
    assert row["difference"] == pytest.approx(row["value"] - before[row["metric"], row["split"], row["aggregate"]])
    stamp = (out / "before" / "metrics.parquet").stat().st_mtime_ns
    assert main([*map(str, words)]) == 0  # what is there is not made again
    assert (out / "before" / "metrics.parquet").stat().st_mtime_ns == stamp
    again = m.run(f"protocol:{name}", out, model=tiny.rlvr, source=source, steps=1, reference=tiny.sft, progress=False)
    assert "Bonferroni" in again.card().verdict
    assert len(again.plot("before").data)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("protocol:tofo",), "Did you mean 'tofu'"),
        (("protocol:tofu",), "give --model PATH and --source SOURCE"),
        (("organism:qwen2", "--model", "x"), "--model: of a protocol alone"),
    ],
)
def test_what_a_protocol_lacks_is_told(tmp_path, capsys, words, said):
    assert main(["run", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_a_benchmark_without_a_split_that_is_trained_on_is_refused(tiny, tmp_path, capsys):
    source = write_tofu(tmp_path / "source", 2)
    (source / "forget10.json").unlink()
    words = ["run", "protocol:tofu", "--model", tiny.rlvr, "--source", source, "--out", tmp_path / "out"]
    assert main([*map(str, words)]) == 2
    assert "has no 'forget-train', which the protocol takes" in capsys.readouterr().err
