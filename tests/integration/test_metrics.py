"""``evaluate --metrics`` and ``compare-metrics`` end to end: what is written, what is refused, and what is not lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mastlens as m
from benchmarks.layouts import write_muse
from mastlens.cli import main
from mastlens.evaluation.metrics.settings import MetricChoice
from mastlens.evaluation.metrics.tables import Measured
from tests.columns import check_table
from tests.docs.pages import run_page

DATA = Path(__file__).parents[1] / "data" / "metrics"
SPLITS = ("forget", "holdout", "retain")
NAMES = ("probability", "truth-ratio", "rouge", "min-k", "mia-loss")


def splits(folder: Path) -> list[str]:
    return ["--split", *(f"{split}={folder / split}.jsonl" for split in SPLITS)]


def evaluate(tiny, folder, out, *more, stage="rlvr", names=NAMES):
    words = ["evaluate", "--model", getattr(tiny, stage), *splits(folder), "--max-new-tokens", "2"]
    return main([*map(str, [*words, "--metrics", *names, *more, "--out", out])])


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Four items of each split: the tiny model's context is short."""
    folder = tmp_path_factory.mktemp("files")
    for number, split in enumerate(SPLITS):
        rows = [
            {
                "problem": f"What is {10 * number + n} + {n}?",
                "solution": f"It is {10 * number + 2 * n}.",
                "answer": str(10 * number + 2 * n),
                "paraphrased": f"{10 * number + 2 * n}, that is",
                "perturbed": [f"It is {10 * number + 2 * n + k}." for k in (1, 2)],
            }
            for n in range(4)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def before(tiny, files, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("metrics") / "before"
    assert evaluate(tiny, files, out, stage="sft") == 0
    return out


@pytest.fixture(scope="module")
def after(tiny, files, before, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("metrics") / "after"
    more = ("--metrics-reference", before)
    assert evaluate(tiny, files, out, *more, names=(*NAMES, "forget-quality", "mia-reference")) == 0
    return out


def test_tables_are_as_declared(before, after, tmp_path):
    for file in ("metrics.parquet", "metrics_summary.parquet", "metric_items.parquet"):
        check_table(after / file, "mastlens evaluate --metrics")
    assert Measured.read(after).model == {"type": "qwen2", "parameters": Measured.read(before).model["parameters"]}
    m.compare_metrics(before, after, reference=before, out=tmp_path / "changes")
    check_table(tmp_path / "changes" / "metric_changes.parquet", "mastlens compare-metrics")


def test_what_evaluate_writes_without_metrics_is_what_it_writes_beside_them(tiny, files, before, tmp_path):
    words = ["evaluate", "--model", tiny.sft, *splits(files), "--max-new-tokens", "2", "--out", tmp_path / "plain"]
    assert main([*map(str, words)]) == 0
    for file in ("responses.parquet", "accuracy.json"):
        assert (tmp_path / "plain" / file).read_bytes() == (before / file).read_bytes()
    assert not (tmp_path / "plain" / "metrics.parquet").exists()


def test_the_same_again_does_nothing_and_other_metrics_are_refused(tiny, files, before, capsys):
    stamp = (before / "metrics.parquet").stat().st_mtime_ns
    assert evaluate(tiny, files, before, stage="sft") == 0
    assert (before / "metrics.parquet").stat().st_mtime_ns == stamp
    assert evaluate(tiny, files, before, stage="sft", names=("probability",)) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_aggregates_are_those_of_the_items(after):
    values, table = (pd.read_parquet(after / file) for file in ("metrics.parquet", "metrics_summary.parquet"))
    for split in SPLITS:
        rows = values[(values["metric"] == "probability") & (values["split"] == split)]
        found = table[(table["metric"] == "probability") & (table["split"] == split)].iloc[0]
        assert found["value"] == pytest.approx(rows["value"].mean(), rel=1e-12)
        assert found["null"] == pytest.approx(1 / 384)  # the tiny model's vocabulary
        assert found["ci_low"] <= found["value"] <= found["ci_high"]
    ratio = values.query("metric == 'truth-ratio' and part == 'ratio' and split == 'forget'")["value"].to_numpy()
    closer = table.query("metric == 'truth-ratio' and aggregate == 'closer-to-1' and split == 'forget'")["value"].iloc[
        0
    ]
    assert closer == pytest.approx(np.minimum(ratio, 1 / ratio).mean(), rel=1e-6)


def test_a_model_beside_itself_has_not_changed(before):
    table = m.compare_metrics(before, before, reference=before).table
    assert (table["difference"] == 0).all()
    assert (table["p"] == 1).all()
    assert (table["to_reference"] == 0).all()


def test_a_model_beside_another_is_paired_by_item(before, after):
    table = m.compare_metrics(before, after).table.set_index(["metric", "split", "aggregate"])
    old, new = (pd.read_parquet(folder / "metrics.parquet") for folder in (before, after))
    values = [t.query("metric == 'probability' and split == 'retain'")["value"].to_numpy() for t in (old, new)]
    row = table.loc[("probability", "retain", "mean")]
    assert row["difference"] == pytest.approx((values[1] - values[0]).mean())
    assert row["ci_low"] < row["difference"] < row["ci_high"]
    assert row["p"] >= 2 / 2**4  # four items: no fewer than one exchange of labels in eight is as far out
    assert table["reference"].isna().all()
    assert "Metrics compared" in m.compare_metrics(before, after).card().text


def test_figures_and_cards_are_of_the_tables(after, before):
    from mastlens.evaluation.metrics.measuring import MetricScores
    from mastlens.plots.tables import figure_table

    files = ("metrics_summary.parquet", "metrics.parquet", "metric_items.parquet")
    scores = MetricScores(*(pd.read_parquet(after / file) for file in files))
    assert len(figure_table(scores.plot())) == len(scores.table)
    assert "aggregates that have a null are beyond it" in scores.card().verdict
    changes = m.compare_metrics(before, after, reference=before)
    assert len(figure_table(changes.plot())) == len(changes.table)


# --- mistakes: named with line or field, exit 2, nothing lost


def changed(files: Path, folder: Path, split: str, line: int, change) -> Path:
    shutil.copytree(files, folder, dirs_exist_ok=True)
    rows = [json.loads(text) for text in (folder / f"{split}.jsonl").read_text().splitlines()]
    change(rows[line - 1])
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_one_metrics_failure_does_not_lose_the_others(tiny, files, tmp_path, capsys):
    """A missing perturbed answer and a missing reference cost their own metrics; the exit status and stderr say it."""
    folder = changed(files, tmp_path / "files", "retain", 3, lambda row: row.pop("perturbed"))
    names = ("probability", "truth-ratio", "mia-loss", "forget-quality")
    assert evaluate(tiny, folder, tmp_path / "out", names=names) == 2
    told = capsys.readouterr()
    assert f"no truth-ratio: {folder / 'retain.jsonl'}, line 3: no 'perturbed' answers" in told.err
    assert "no forget-quality: The metric 'forget-quality' needs its truth ratios" in told.err
    assert "Traceback" not in told.err
    table = pd.read_parquet(tmp_path / "out" / "metrics_summary.parquet")
    assert set(table.loc[table["failed"] == "", "metric"]) == {"probability", "mia-loss"}
    assert set(json.loads((tmp_path / "out" / "metrics.json").read_text())["failed"]) == {
        "truth-ratio",
        "forget-quality",
    }
    assert evaluate(tiny, folder, tmp_path / "out", names=names) == 2  # read back, it says the same
    assert "no truth-ratio" in capsys.readouterr().err


def _nothing(row):
    pass


_REFERENCE = ("--metrics-reference", "BEFORE")
BAD = {
    "no perturbed answer": (
        lambda r: r.pop("perturbed"),
        "probability-with-options",
        (),
        "line 2: no 'perturbed' answers",
    ),
    "a blank one": (
        lambda r: r.update(perturbed=["a", ""]),
        "probability",
        (),
        "line 2: 'perturbed' must be a list of",
    ),
    "a paraphrase that is no text": (
        lambda r: r.update(paraphrased=7),
        "probability",
        (),
        "line 2: 'paraphrased' must be",
    ),
    "an item without what others have": (lambda r: r.pop("paraphrased"), "truth-ratio", (), "line 2: no 'paraphrased'"),
    "a metric that there is not": (_nothing, "probabilty", (), "Did you mean 'probability'"),
    "a setting that it has not": (_nothing, "min-k:q=2", (), "has no setting 'q=2': its settings are k"),
    "a setting that is no number": (_nothing, "min-k:k=two", (), "k='two' is no number"),
    "a setting out of range": (_nothing, "min-k:k=2", (), "takes a share k above 0 and up to 1"),
    "a setting of a metric without": (_nothing, "rouge:k=1", (), "it has no settings"),
    "a reference of other items": (
        lambda r: r.update(solution="It is other."),
        "forget-quality",
        _REFERENCE,
        "evaluated on other items: 1 of split 'forget' differ, the first on line 2",
    ),
    "a reference that read other tokens": (
        _nothing,
        "forget-quality",
        (*_REFERENCE, "--system-prompt", "Be brief."),
        "reads the items of split 'forget' as other tokens (4 of 4",
    ),
    "a reference without metrics": (_nothing, "probability", ("--metrics-reference", "FILES"), "parquet is missing"),
    "no reference": (
        _nothing,
        "mia-reference",
        (),
        "needs its losses on the forget split and the holdout of a reference",
    ),
}
"""What is wrong: how line 2 of the forget split is changed, the metric, further words, and what is said."""


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_by_line_or_field(tiny, files, before, tmp_path, capsys, case):
    change, name, more, said = BAD[case]
    folder = changed(files, tmp_path / "files", "forget", 2, change)
    places = {"BEFORE": before, "FILES": folder}
    assert evaluate(tiny, folder, tmp_path / "out", *(places.get(word, word) for word in more), names=(name,)) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (tmp_path / "out" / "metrics.parquet").exists()
    asked = case.startswith(("a metric", "a setting"))
    assert (tmp_path / "out" / "responses.parquet").exists() is not asked  # known before anything is generated


def test_a_membership_metric_needs_a_holdout_and_model_utility_something_to_keep(tiny, files, tmp_path):
    def failed(*names, **of):
        choice = MetricChoice(names=("probability", *names))
        made = {name: files / f"{file}.jsonl" for name, file in of.items()}
        return m.evaluate(model=tiny.rlvr, splits=made, max_new_tokens=1, metrics=choice, progress=False).metrics.failed

    assert "begins with 'holdout'" in failed("mia-loss", forget="forget", other="holdout")["mia-loss"]
    assert "begin with 'retain'" in failed("model-utility", forget="forget")["model-utility"]
    choice = MetricChoice(names=["min-k"])
    with pytest.raises(m.BadSetting, match="begins with 'holdout'"):  # nothing else was asked for: nothing is there
        m.evaluate(model=tiny.rlvr, splits={"a": files / "forget.jsonl"}, max_new_tokens=1, metrics=choice)


def test_evaluations_without_a_pair_or_a_metric_in_common_are_not_compared(tiny, files, before, tmp_path, capsys):
    folder = changed(files, tmp_path / "files", "forget", 4, lambda row: row.update(problem="What else?"))
    assert evaluate(tiny, folder, tmp_path / "unpaired", names=("probability",)) == 0
    assert main(["compare-metrics", str(before), str(tmp_path / "unpaired")]) == 2
    assert "1 of split 'forget' differ, the first on line 4" in capsys.readouterr().err
    assert evaluate(tiny, files, tmp_path / "other", names=("exact-memorisation",)) == 0
    assert main(["compare-metrics", str(before), str(tmp_path / "other")]) == 2
    assert "share no metric" in capsys.readouterr().err
    assert main(["compare-metrics", str(before), str(files)]) == 2


def test_metrics_need_problem_files(tiny, tmp_path):
    with pytest.raises(m.BadSetting, match="Metrics are of problem files"):
        m.evaluate(
            model=tiny.rlvr,
            harness=m.evaluation.settings.HarnessTasks(tasks=["a"]),
            metrics=MetricChoice(names=["rouge"]),
        )


@pytest.mark.slow
def test_the_page_on_metrics_runs(tmp_path, monkeypatch):
    for split in SPLITS:
        shutil.copyfile(DATA / f"{split}.jsonl", tmp_path / f"{split}.jsonl")
    write_muse(tmp_path / "MUSE-News", 3)
    run_page("metrics", tmp_path, monkeypatch)
    table = pd.read_parquet(tmp_path / "learnt" / "metrics_summary.parquet")
    assert (table["failed"] == "").all()
    assert {"forget-quality", "mia-reference", "privleak"} <= set(table["metric"])
    asked = {"knowledge": {"rouge"}, "verbatim": {"rouge", "extraction-strength"}, "privacy": {"privleak"}}
    for folder, metrics in asked.items():  # MUSE, worked through
        table = pd.read_parquet(tmp_path / folder / "metrics_summary.parquet")
        assert set(table.loc[table["failed"] == "", "metric"]) == metrics
        assert not table["note"].str.contains("no reference model").any()
    assert "Nobody" in pd.read_parquet(tmp_path / "knowledge" / "responses.parquet")["prompt"].iloc[0]


def test_the_page_on_own_metrics_runs(tmp_path, monkeypatch):
    made = run_page("extending/metric", tmp_path, monkeypatch)
    assert made["found"].table["metric"].tolist() == ["worst:floor=1e-12", "probability"]
