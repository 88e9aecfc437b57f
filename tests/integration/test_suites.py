"""Benchmarks of unlearning in their own layouts, with invented content: converted, and measured end to end."""

import json
import shutil
import sys
import types

import pandas as pd
import pytest

import mastlens as m
from benchmarks.layouts import WRITERS, write_lines, write_mast, write_wmdp
from mastlens.cli import main
from mastlens.evaluation.metrics.settings import MetricChoice
from mastlens.evaluation.multiple_choice import read_choices
from mastlens.evaluation.suites.catalogue import SUITES


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name to what was converted."""
    root = tmp_path_factory.mktemp("suites")
    return {
        name: m.convert_benchmark(name, write(root / name), out=root / f"{name}-files")
        for name, write in WRITERS.items()
    }


def lines(files, name):
    return [json.loads(line) for line in files.files[name].read_text().splitlines()]


def test_every_benchmark_has_a_writer_here_and_says_what_it_is():
    assert set(SUITES) == set(WRITERS)
    table = m.list_benchmarks()
    assert table["benchmark"].tolist() == sorted(WRITERS)
    assert (table[["summary", "hub", "licence", "size", "asks", "source"]] != "").all(axis=None)


def test_tofu(made):
    files = made["tofu"]
    assert list(files.files) == [
        *("forget", "retain", "real-authors", "world-facts", "holdout", "forget-train", "retain-train")
    ]
    first = lines(files, "forget")[0]
    assert first == {
        "problem": "What did author 00 write?",
        "solution": "It is Book 00.",
        "answer": "It is Book 00.",
        "paraphrased": "Book 00, that is.",
        "perturbed": ["It is Book 01.", "It is Book 02."],
    }
    assert "paraphrased" not in lines(files, "real-authors")[0]
    assert files.table.set_index("split").loc["retain-train", "option"] == "unlearn --retain"
    assert m.read_items("forget", files.files["forget"]).items[3].perturbed == ("It is Book 04.", "It is Book 05.")


def test_muse(made):
    files = made["muse"]
    assert lines(files, "forget-verbatim")[1]["solution"] == "and ended at 1."
    assert lines(files, "holdout-text")[2] == {"text": "On day 2 of the holdout race it rained."}
    options = files.table.set_index("split")["option"]
    assert (options["forget-text"], options["knowledge-examples"]) == ("--metrics-texts", "--few-shot")


def test_rwku(made):
    first = lines(made["rwku"], "forget-adversarial")[0]
    assert (first["person"], first["subject"], first["answer"]) == ("Mira Tell", "t", "Orsk 0")
    assert {"retain-fill", "retain-qa", "forget-text", "holdout-text"} <= set(made["rwku"].files)


def test_wmdp(made):
    files = made["wmdp"]
    assert set(files.files) == {"forget-bio", "forget-bio-choices", "forget-cyber", "forget-cyber-choices"}
    assert lines(files, "forget-bio")[1]["perturbed"] == ["red", "green", "grey"]
    question = read_choices(files.files["forget-bio-choices"])[1]
    assert (question.options[question.answer], question.subject) == ("blue", "bio")


def test_mast(made, tmp_path):
    files = made["mast"]
    assert list(files.files) == ["forget", "retain-math", "retain-gsm", "forget-train", "mmlu-choices"]
    assert {one["subject"] for one in lines(files, "forget")} == {"Counting & Probability"}
    assert {one["subject"] for one in lines(files, "retain-math")} == {"Algebra"}
    assert lines(files, "retain-gsm")[1]["solution"].endswith("\\boxed{4}.")
    assert not {one["problem"] for one in lines(files, "forget-train")} & {
        one["problem"] for one in lines(files, "forget")
    }
    source = write_mast(tmp_path / "mast", 200)
    shutil.rmtree(source / "mmlu")
    (source / "math" / "train.jsonl").unlink()
    found = m.convert_benchmark("mast", source, out=tmp_path / "out")
    assert found.table.groupby("split", sort=False)["n"].first().tolist() == [150, 200, 200, 150]
    assert lines(found, "forget-train") == lines(found, "forget")  # without a training set
    drawn = m.mast_benchmarks(
        math=source / "math" / "test.jsonl", gsm8k=source / "gsm8k" / "test.jsonl", retain_gsm=200, out=tmp_path / "b"
    )
    for name in ("forget", "retain-math", "retain-gsm"):  # the same draw as that of ``benchmarks mast``
        assert drawn.files[f"{name}-eval"].read_bytes() == found.files[name].read_bytes()


def test_r2mu(made):
    files = made["r2mu"]
    assert set(lines(files, "forget-text")[0]) == {"text"}
    assert lines(files, "cot")[0]["solution"].startswith("<think>")
    assert read_choices(files.files["forget-choices"])[0].person
    assert files.table.set_index("split")["option"].to_dict()["cot"] == "unlearn --cot"


def test_a_part_and_a_limit_are_taken(tmp_path):
    source = write_wmdp(tmp_path / "wmdp")
    files = m.convert_benchmark("wmdp", source, part="cyber", limit=2, out=tmp_path / "out")
    assert files.table["n"].tolist() == [2, 2]
    assert set(files.files) == {"forget-cyber", "forget-cyber-choices"}


def test_the_hub_is_asked_for_configuration_split_and_revision(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        return [{"question": "Which?", "choices": ["a", "b"], "answer": 1}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    m.convert_benchmark("wmdp", "cais/wmdp@abc", part="bio", out=tmp_path / "out")
    assert asked == [("cais/wmdp", "wmdp-bio", "test", "abc")]


def test_the_same_again_does_nothing_and_other_content_is_refused(tmp_path, capsys):
    source = write_wmdp(tmp_path / "wmdp")
    words = ["benchmarks", "convert", "wmdp", str(source), "--part", "bio", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "--questions" in capsys.readouterr().out
    stamp = (tmp_path / "out" / "forget-bio.jsonl").stat().st_mtime_ns
    assert main(words) == 0
    assert (tmp_path / "out" / "forget-bio.jsonl").stat().st_mtime_ns == stamp
    assert main([*words, "--limit", "1"]) == 2


@pytest.mark.parametrize(
    ("name", "file", "row", "said"),
    [
        (
            "tofu",
            "forget10_perturbed.json",
            {"question": "q", "answer": "a"},
            "line 1: no text under 'paraphrased_answer'",
        ),
        (
            "tofu",
            "forget10_perturbed.json",
            {"question": "q", "answer": "a", "paraphrased_answer": "b", "perturbed_answer": []},
            "line 1: 'perturbed_answer' must be a list of 1 or more texts",
        ),
        (
            "wmdp",
            "wmdp-bio/test.jsonl",
            {"question": "q", "choices": ["a", "b"], "answer": 2},
            "line 1: 'answer' must be",
        ),
        (
            "wmdp",
            "wmdp-bio/test.jsonl",
            {"question": "q", "choices": ["a"], "answer": 0},
            "'choices' must be a list of 2",
        ),
        ("rwku", "All/forget_level1.json", {"query": "q", "answer": "a"}, "no text under 'subject'"),
        ("muse", "knowmem/forget_qa.json", {"question": " ", "answer": "a"}, "no text under 'question'"),
    ],
)
def test_a_malformed_row_is_named_by_line_and_field(tmp_path, capsys, name, file, row, said):
    folder = WRITERS[name](tmp_path / "source")
    for old in folder.glob(f"{file.rpartition('.')[0]}*"):
        old.unlink()
    write_lines(folder / file, [row])
    assert main(["benchmarks", "convert", name, str(folder), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert file in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tofo", "."), "Did you mean 'tofu'"),
        (("tofu", ".", "--part", "forget20"), "There is no part of tofu 'forget20'"),
        (("tofu", "/nowhere/at/all"), "There is no folder /nowhere/at/all"),
    ],
)
def test_what_is_asked_for_and_not_there_is_told(tmp_path, capsys, words, said):
    assert main(["benchmarks", "convert", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_layout_says_what_was_looked_for_and_what_is_there(tmp_path, capsys):
    write_lines(tmp_path / "other" / "data.jsonl", [{"a": 1}])
    assert main(["benchmarks", "convert", "tofu", str(tmp_path / "other"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "looked for forget10_perturbed.json" in told
    assert "It has data.jsonl" in told


def test_metrics_of_benchmarks_end_to_end(tiny, made, tmp_path):
    """Questions and bare texts of four benchmarks, by a tiny model: every metric that their papers ask for."""
    asked = {
        "tofu": (("forget", "retain", "real-authors", "world-facts"), (), "rouge truth-ratio model-utility"),
        "muse": (("forget-knowledge", "forget-verbatim"), ("forget-text", "holdout-text"), "rouge privleak"),
        "rwku": (("forget-qa", "retain-qa"), ("forget-text", "holdout-text"), "rouge mia-zlib min-k++"),
        "wmdp": (("forget-bio",), (), "probability-with-options rouge"),
    }
    for name, (splits, texts, metrics) in asked.items():
        files = made[name].files
        choice = MetricChoice(names=metrics.split(), texts={one: files[one] for one in texts} or None)
        found = m.evaluate(
            model=tiny.rlvr,
            splits={one: files[one] for one in splits},
            max_new_tokens=2,
            metrics=choice,
            out=tmp_path / name,
            progress=False,
        ).metrics
        assert found.failed == {}
        assert set(found.table["metric"]) == set(metrics.split())
        areas = found.table[found.table["aggregate"] == "auc"]
        assert (areas["split"] == "forget-text / holdout-text").all()
        assert set(pd.read_parquet(tmp_path / name / "metric_items.parquet")["split"]) == {*splits, *texts}


def test_texts_alone_are_measured_over_all_tokens_but_the_first(tiny, made):
    import torch

    from tests.reference.plain import load_model, load_tokenizer

    files = {one: made["muse"].files[one] for one in ("forget-text", "holdout-text")}
    found = m.evaluate(model=tiny.rlvr, metrics=MetricChoice(names=["mia-loss"], texts=files), progress=False).metrics
    ids = torch.tensor([load_tokenizer(tiny.rlvr)(lines(made["muse"], "forget-text")[0]["text"])["input_ids"]])
    with torch.no_grad():
        expected = float(load_model(tiny.rlvr)(ids, labels=ids).loss)
    assert found.items["loss"].iloc[0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(m.BadSetting, match="there are texts alone"):
        m.evaluate(model=tiny.rlvr, metrics=MetricChoice(names=["rouge"], texts=files))
    with pytest.raises(m.BadSetting, match="forget-text: a split is problems or texts"):
        m.evaluate(
            model=tiny.rlvr,
            splits={"forget-text": tiny.forget},
            metrics=MetricChoice(names=["probability"], texts=files),
        )
