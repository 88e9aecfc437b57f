"""Benchmarks as problem files: what is read, what is drawn, what is asked; and options scored by likelihood."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mastlens as m
from mastlens.evaluation.benchmarks import draw_problems, prompted, read_benchmark, write_problems
from mastlens.evaluation.multiple_choice import read_choices, score_choices
from mastlens.evaluation.protocol import FORGET_SUBJECTS, MATH_SUBJECTS, mast_benchmarks
from mastlens.problems.reading import read_problems
from tests.conftest import run_command
from tests.reference.plain import load_model, load_tokenizer, logprob

DATA = Path(__file__).parents[1] / "data"


def math_record(number, *, level="Level 3"):
    subject = MATH_SUBJECTS[number % 7]
    return {
        "problem": f"What is {number} + 1?",
        "level": level,
        "type": subject,
        "solution": rf"It is $\boxed{{{number + 1}}}$.",
    }


def gsm_record(number):
    total = number + 2
    return {
        "question": f"Had {number}, got 2?",
        "answer": f"{number} + 2 = <<{number}+2={total}>>{total}\n#### {total}",
    }


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def sources(tmp_path):
    return {
        "math": write_lines(tmp_path / "math.jsonl", [math_record(n) for n in range(70)]),
        "gsm8k": write_lines(tmp_path / "gsm.jsonl", [gsm_record(n) for n in range(30)]),
        # the last ten stand in the test set too
        "math_train": write_lines(tmp_path / "math-train.jsonl", [math_record(n) for n in range(170, 59, -1)]),
        "gsm8k_train": write_lines(tmp_path / "gsm-train.jsonl", [gsm_record(n) for n in range(100, 140)]),
    }


def test_jsonl_parquet_and_one_file_a_problem_read_alike(tmp_path):
    records = [math_record(n, level=f"Level {n % 5 + 1}") for n in range(14)]
    lines = read_benchmark(write_lines(tmp_path / "math.jsonl", records))
    pd.DataFrame(records).to_parquet(tmp_path / "math.parquet")
    folder = tmp_path / "MATH"
    for number, record in enumerate(records):
        file = folder / "all" / f"{number:02}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record))
    for source in (tmp_path / "math.parquet", folder):
        found = read_benchmark(source)
        assert [(p.problem, p.solution, p.answer, p.subject, p.level) for p in found] == [
            (p.problem, p.solution, p.answer, p.subject, p.level) for p in lines
        ]
    assert [p.answer for p in lines] == [str(n + 1) for n in range(14)]  # from the box
    assert [p.level for p in lines[:5]] == [1, 2, 3, 4, 5]
    chosen = read_benchmark(tmp_path / "math.jsonl", subjects=["Geometry"], levels=[3, 5])
    assert [p.answer for p in chosen] == ["3", "10"]
    with pytest.raises(m.MastlensError, match="Geometry"):
        read_benchmark(tmp_path / "math.jsonl", subjects=["Geometri"])
    with pytest.raises(m.MastlensError, match="level"):
        read_benchmark(tmp_path / "math.jsonl", levels=[7])
    with pytest.raises(m.MastlensError, match="no file"):
        read_benchmark(tmp_path / "nothing.jsonl")
    (tmp_path / "MATH" / "all" / "03.json").write_text("{")
    with pytest.raises(m.MastlensError, match=r"03\.json"):
        read_benchmark(folder)


def test_a_dataset_goes_through_the_datasets_package(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    write_lines(tmp_path / "owner.jsonl", [gsm_record(n) for n in range(4)])
    asked = []

    def offline(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        if name == "owner/other":
            raise FileNotFoundError("no such dataset")
        files = {"test": str(tmp_path / "owner.jsonl")}
        return plain("json", data_files=files, split=split, cache_dir=str(tmp_path / "cache"))

    plain = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", offline)
    found = read_benchmark("owner/gsm8k:main@abc")
    assert asked == [("owner/gsm8k", "main", "test", "abc")]
    assert [p.answer for p in found] == ["2", "3", "4", "5"]
    with pytest.raises(m.MastlensError, match="no such dataset"):
        read_benchmark("owner/other")


def test_a_draw_is_seeded_and_a_smaller_one_is_part_of_it(sources):
    problems = read_benchmark(sources["math"])
    drawn = draw_problems(problems, 20, seed=1, name="a")
    assert drawn == draw_problems(problems, 20, seed=1, name="a")
    assert [p.line for p in drawn] == sorted({p.line for p in drawn})
    assert set(draw_problems(problems, 7, seed=1, name="a")) < set(drawn)
    assert drawn != draw_problems(problems, 20, seed=2, name="a")
    assert drawn != draw_problems(problems, 20, seed=1, name="b")
    with pytest.raises(m.MastlensError, match="70"):
        draw_problems(problems, 71, seed=1, name="a")


def test_the_sets_of_mast(sources, tmp_path):
    sizes = {"forget": 12, "retain_math": 20, "retain_gsm": 15, "calibration": 10}
    made = mast_benchmarks(**sources, out=tmp_path / "out", seed=3, **sizes)
    read = {name: read_problems(path) for name, path in made.files.items()}
    assert {name: len(ps) for name, ps in read.items() if not name.endswith("train")} == {
        "forget-eval": 12, "retain-math-eval": 20, "retain-gsm-eval": 15,
        "forget-calibration": 10, "retain-math-calibration": 10, "retain-gsm-calibration": 10,
    }  # fmt: skip
    for name, problems in read.items():
        if name.startswith("forget"):
            assert {p.subject for p in problems} == set(FORGET_SUBJECTS)
        elif "math" in name:
            assert not {p.subject for p in problems} & set(FORGET_SUBJECTS)
    texts = [p.problem for problems in read.values() for p in problems]
    assert len(texts) == len(set(texts))  # no problem in two files
    in_test = {json.loads(line)["problem"] for line in sources["math"].read_text().splitlines()}
    trained = {p.problem.split("\n")[0] for name, ps in read.items() if not name.endswith("eval") for p in ps}
    assert not in_test & trained
    assert len(read["forget-train"]) + len(read["retain-math-train"]) == 101 - 20  # of 111, ten stand in the test set
    (gsm,) = [p for p in read["retain-gsm-eval"] if p.line == 1]
    assert gsm.problem.endswith("\n\nPut your final answer within \\boxed{}.")
    assert gsm.solution.endswith(f"The answer is \\boxed{{{gsm.answer}}}.")
    assert "####" not in gsm.solution
    before = {path: path.read_bytes() for path in made.files.values()}
    again = mast_benchmarks(**sources, out=tmp_path / "other", seed=3, **sizes)
    assert [p.read_bytes() for p in again.files.values()] == list(before.values())
    with pytest.raises(m.MastlensError, match="--overwrite"):
        mast_benchmarks(**sources, out=tmp_path / "out", seed=4, **sizes)
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(m.MastlensError, match=r"150 problems .* only 30 are"):
        mast_benchmarks(math=sources["math"], gsm8k=sources["gsm8k"], out=tmp_path / "third")
    with pytest.raises(m.MastlensError, match="subject"):
        mast_benchmarks(math=sources["gsm8k"], gsm8k=sources["gsm8k"], out=tmp_path / "third", **sizes)
    assert not (tmp_path / "third").exists()


def test_worked_examples_stand_before_the_problem(sources):
    examples = read_benchmark(sources["math_train"])
    problems = examples[:3]
    asked = prompted(problems, style="plain", shots=2, examples=examples, seed=0)
    for problem, styled in zip(problems, asked, strict=True):
        assert styled.problem.count("Problem:\n") == 3
        assert styled.problem.endswith(f"Problem:\n{problem.problem}\n\nSolution:")
        assert styled.problem.count(f"{problem.problem}\n") == 1  # a problem is never its own example
        assert styled.solution == problem.solution
    assert asked != prompted(problems, style="plain", shots=2, examples=examples, seed=1)
    assert prompted(problems, style="plain") == problems
    with pytest.raises(m.MastlensError, match="boxed"):
        prompted(problems, style="box")


@pytest.mark.parametrize("name", ["gsm8k", "math500"])
def test_what_is_written_reads_back(name, tmp_path):
    found = read_benchmark(DATA / name / "sample.jsonl")
    again = read_problems(write_problems(tmp_path / "out.jsonl", found))
    assert again == found
    if name == "math500":
        assert {p.level for p in found} <= {1, 2, 3, 4, 5}


QUESTIONS = [
    {"question": "3 + 4?", "choices": ["7", "8 and more"], "answer": 0, "subject": "sums"},
    {"problem": "2 of 5?", "choices": ["six", "10", "one"], "answer": "B"},
]


@pytest.mark.parametrize("ask", ["text", "letter"])
def test_options_are_scored_by_their_likelihood(tiny, tmp_path, ask):
    questions = read_choices(write_lines(tmp_path / "q.jsonl", QUESTIONS))
    assert [q.answer for q in questions] == [0, 1]
    model, tokenizer = load_model(tiny.rlvr), load_tokenizer(tiny.rlvr)
    table = score_choices(model, tokenizer, questions, ask=ask, batch_size=2, progress=False)
    for question, row in zip(questions, table.itertuples(), strict=True):
        texts = list("ABC"[: len(question.options)]) if ask == "letter" else list(question.options)
        listed = "".join(f"\n{letter}. {o}" for letter, o in zip("ABC", question.options, strict=False))
        prompt = question.problem + (f"{listed}\nAnswer:" if ask == "letter" else "") + "\n"
        expected = np.array(
            [logprob(model, tokenizer(prompt)["input_ids"], tokenizer(t)["input_ids"]).item() for t in texts]
        )
        np.testing.assert_allclose(row.logprobs, expected, rtol=1e-5)
        assert row.chosen == max(range(len(texts)), key=lambda i: expected[i])
        assert row.chosen_per_byte == max(range(len(texts)), key=lambda i: expected[i] / len(texts[i].encode()))
        assert row.correct == (row.chosen == question.answer)
        shares = [math.exp(value) for value in expected]
        assert math.isclose(row.probability_answer, shares[question.answer] / sum(shares), rel_tol=1e-4)


@pytest.mark.parametrize(
    "change", [{"answer": 2}, {"answer": "C"}, {"choices": ["7"]}, {"answer": None}, {"question": 3}]
)
def test_malformed_questions_are_named_by_line(tmp_path, change):
    write_lines(tmp_path / "q.jsonl", [QUESTIONS[0], QUESTIONS[0] | change])
    with pytest.raises(m.MastlensError, match="line 2"):
        read_choices(tmp_path / "q.jsonl")


def test_the_command_line_writes_the_same_files(sources, tmp_path):
    out, sizes = tmp_path / "out", {"forget": 12, "retain-math": 20, "retain-gsm": 15, "calibration": 10}
    named = {"math": sources["math"], "gsm8k": sources["gsm8k"], "math-train": sources["math_train"]}
    options = [word for name, value in (named | sizes).items() for word in (f"--{name}", value)]
    outcome = run_command("benchmarks", "mast", *options, "--out", out, "--seed", 3)
    made = mast_benchmarks(**{k.replace("-", "_"): v for k, v in (named | sizes).items()}, out=tmp_path / "api", seed=3)
    assert set(outcome.summary["files"]) == set(made.files)
    for name, path in made.files.items():
        assert (out / f"{name}.jsonl").read_bytes() == path.read_bytes()
    file = tmp_path / "some.jsonl"
    chosen = ["--subject", "Geometry", "--count", 4, "--style", "plain"]
    run_command("benchmarks", "take", sources["math"], *chosen, "--out", file)
    assert {p.subject for p in read_problems(file)} == {"Geometry"}
    assert len(read_problems(file)) == 4


def test_the_command_line_evaluates(tiny, tmp_path):
    words = ["evaluate", "--model", tiny.rlvr, "--split", f"forget={tiny.forget}", "--max-new-tokens", 4]
    outcome = run_command(*words, "--samples", 2, "--temperature", 0.8, "--seed", 5, "--out", tmp_path / "out")
    expected = m.evaluate(
        model=tiny.rlvr, splits={"forget": tiny.forget}, max_new_tokens=4, samples=2, temperature=0.8, seed=5,
        progress=False,
    )  # fmt: skip
    assert pd.read_parquet(tmp_path / "out" / "responses.parquet").equals(expected.table)
    assert outcome.summary["splits"][0]["n"] == 24
    with pytest.raises(m.MastlensError, match="--harness"):
        run_command("evaluate", "--model", tiny.rlvr, "--out", tmp_path / "none")


def test_without_lm_eval_the_message_says_so(tiny, monkeypatch):
    from mastlens.evaluation.harness import harness_scores

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(m.MastlensError, match="pip install"):
        harness_scores(model=tiny.rlvr, tasks=["gsm8k"])
