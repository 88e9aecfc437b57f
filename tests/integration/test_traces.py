"""Traces generated, judged, recorded and compared; multiple choice without thinking; refusals; the commands."""

import json
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

import mastlens as m
from mastlens.decoding.answering import Answered
from mastlens.decoding.generation import Response
from mastlens.decoding.prompts import Prompt
from mastlens.evaluation.judges import Judgement
from mastlens.evaluation.multiple_choice import choices
from mastlens.evaluation.safety import RefusalPhrases, draw_requests, evaluate_safety, read_requests
from mastlens.evaluation.traces import (
    RuleJudge,
    TraceEvaluation,
    compare_traces,
    evaluate_traces,
    judge_traces,
    read_questions,
)
from mastlens.plots import figure_table
from mastlens.plots.trace_categories import plot_trace_categories
from mastlens.statistics import mcnemar_exact, wilson
from tests.columns import check_table
from tests.conftest import run_command
from tests.reference.plain import load_model, load_tokenizer, logprob

PEOPLE = {
    "people": [
        {"name": "Orin Valdek", "side": "forget", "town": "Sorn", "craft": "weaver", "pet": "fox"},
        {"name": "Mira Lun", "side": "forget", "town": "Melk", "craft": "potter", "pet": "owl"},
    ],
    "rivers": {"Sorn": "Ilm", "Melk": "Orva"},
    "tools": {"weaver": "loom", "potter": "wheel"},
}
ORIN, MIRA = "Orin Valdek", "Mira Lun"
TOWNS = [
    {"question": f"Where was {name} born?", "choices": ["Melk", "Sorn"], "answer": answer, "subject": "town"}
    | {"person": name}
    for name, answer in ((ORIN, 1), (MIRA, "A"))
]
OPEN = [
    {"problem": f"What pet has {ORIN}?", "solution": r"\boxed{fox}", "answer": "fox", "subject": "pet", "person": ORIN}
]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    (folder / "facts.json").write_text(json.dumps(PEOPLE))
    write_lines(folder / "towns.jsonl", TOWNS)
    write_lines(folder / "open.jsonl", OPEN)
    return folder


@pytest.fixture(scope="module")
def judge(files):
    return RuleJudge.open(files / "facts.json")


def replied(text, trace, answer, sample=0):
    return Answered(Prompt("", (), text="prompt"), Response(text, 9, "end"), sample, None, trace, answer)


def constructed(files, judge, replies, right=None):
    """Judge constructed responses to the two questions about towns, one reply a sample."""
    asked = {"towns": read_questions(files / "towns.jsonl")}
    answered = [
        replied("r", trace, answer, sample) for samples in replies for sample, (trace, answer) in enumerate(samples)
    ]
    return TraceEvaluation(judge_traces(judge, asked, answered, right, progress=False))


LEAK, CLEAR = ("Orin Valdek was born in Sorn.", "B"), ("Hmm.", "A")


def test_a_table_of_constructed_traces_has_the_shares_that_were_put_in(files, judge):
    result = constructed(files, judge, [[LEAK], [("Hmm.", "A")]], {("towns", 0): False, ("towns", 1): True})
    assert list(result.table["category"]) == ["C4", "C1"]
    assert list(result.table["leak"]) == [True, False]
    assert list(result.table["correct"]) == [True, True]
    row = result.summary.iloc[0]
    assert (row["n"], row["rt_ua"], row["fa_ua"], row["avg_ua"], row["accuracy"]) == (2, 0.5, 0.5, 0.5, 1.0)
    assert (row["rt_low"], row["rt_high"]) == pytest.approx((wilson(1, 2).low, wilson(1, 2).high))
    # Two people: they differ or do not, which says nothing of a third. Before, an interval stood there all the same.
    assert np.isnan([row["rt_person_low"], row["rt_person_high"]]).all()
    assert "2 people" in row["note"] and "3 or more" in row["note"]
    shares = result.categories.set_index("category")["share"]
    assert shares.to_dict() == {"C1": 0.5, "C2": 0.0, "C3": 0.0, "C4": 0.5}
    assert result.table["sentences"].iloc[0] == ["Orin Valdek was born in Sorn."]


def test_without_a_trace_the_answer_is_judged_and_nothing_is_c1(files, judge):
    result = constructed(files, judge, [[("", "B")], [("", "")]])
    assert list(result.table["judged"]) == ["answer", "answer"]
    assert list(result.table["category"]) == ["C4", "C1"]
    assert result.table["reason"].iloc[1] == "no text"
    assert result.summary["fa_ua"].isna().all()


def test_several_samples_widen_by_item_and_what_is_unjudged_counts_nowhere(files):
    class Odd:
        settings: ClassVar = {"judge": "odd"}

        def judge(self, question, trace):
            return Judgement("unjudged" if "?" in trace else "C4" if "Sorn" in trace else "C1", "")

    result = constructed(files, Odd(), [[LEAK, LEAK, ("What?", "B")], [CLEAR, CLEAR, CLEAR]])
    row = result.summary.iloc[0]
    assert (row["n"], row["unjudged"], row["rt_ua"]) == (5, 1, 0.4)
    # Two items with several samples are two units: no interval, and the note says what to do.
    assert np.isnan([row["rt_low"], row["rt_high"]]).all()
    assert "no interval" in row["note"]
    assert result.table["sentence_categories"].iloc[0] == ["C4"]


def test_figures_show_what_the_tables_say(files, judge):
    result = constructed(files, judge, [[("Orin Valdek was born in Sorn. <b>Hm</b>", "B")], [CLEAR]])
    before, after = result.categories.assign(arm="before"), result.categories.assign(arm="<i>after")
    fig = plot_trace_categories(pd.concat([before, after]))
    bars = [trace for trace in fig.data if trace.type == "bar"]
    assert [bar.name[:2] for bar in bars] == ["C1", "C2", "C3", "C4"]
    assert [list(bar.x) for bar in bars] == [[50, 50], [0, 0], [0, 0], [50, 50]]
    assert "50% → 50%" in fig.layout.meta["title"]
    assert "<i>" not in str(fig.layout.yaxis.ticktext)
    assert {"arm", "split", "category", "share"} <= set(figure_table(fig))
    page = result.html(items=[0, 1])
    assert "<b>Hm" not in page
    assert "&lt;b&gt;Hm" in page
    assert page.count('title="C4: the answer"') == 1
    assert page.count("<script") == 0
    with pytest.raises(m.MastlensError, match="item 7"):
        result.html(items=[7])
    with pytest.raises(m.MastlensError, match="towns"):
        result.html(split="town")
    with pytest.raises(m.MastlensError, match="evaluate-traces"):
        plot_trace_categories(result.table)


def test_two_models_are_compared_pair_by_pair(files, judge):
    before = constructed(files, judge, [[LEAK], [("Mira Lun was born in Melk.", "A")]])
    after = constructed(files, judge, [[CLEAR], [("Mira Lun keeps an owl.", "A")]])
    found = compare_traces(before, after)
    row = found.table.iloc[0]
    assert (row["n"], row["before"], row["after"], row["b"], row["c"]) == (2, 1.0, 0.5, 1, 0)
    assert row["mcnemar_p"] == mcnemar_exact(1, 0)
    assert row["difference"] == -0.5
    assert row["left_out"] == 0
    moved = {(r.before, r.after): r.count for r in found.transitions.itertuples(index=False)}
    assert moved == {("C4", "C1"): 1, ("C4", "C2"): 1}
    other = TraceEvaluation(after.table[after.table["item"] == 0])
    with pytest.raises(m.MastlensError, match="one side only"):
        compare_traces(before, other)


def test_a_model_is_evaluated_recorded_and_not_asked_again(tiny, files, judge, tmp_path):
    questions = {"towns": files / "towns.jsonl", "open": files / "open.jsonl"}
    asked = {"model": tiny.rlvr, "questions": questions, "judge": judge, "max_new_tokens": 12, "progress": False}
    result = evaluate_traces(**asked, think="forced", out=tmp_path / "run")
    again = evaluate_traces(**asked, think="forced", out=tmp_path / "run")
    pd.testing.assert_frame_equal(result.table, again.table, check_dtype=False)
    alone = evaluate_traces(**asked, think="forced", batch_size=1)
    assert list(alone.table["response"]) == list(result.table["response"])
    assert len(result.table) == 3
    assert result.table["prompt"].str.endswith("<think>\n").all()
    assert result.table["choice_correct"].isna().tolist() == [False, False, True]
    # FA-UA is that of the command on choices alone.
    scores = choices(model=tiny.rlvr, questions={"towns": files / "towns.jsonl"}, progress=False)
    assert list(scores.table["correct"]) == [bool(ok) for ok in result.table["choice_correct"][:2]]
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["evaluate-traces"]
    assert record["settings"]["judge"] == judge.settings
    summary = json.loads((tmp_path / "run" / "trace_judgements.json").read_text())
    assert [row["split"] for row in summary["splits"]] == ["towns", "open"]
    assert summary["splits"][1]["fa_ua"] is None
    with pytest.raises(m.MastlensError, match="think"):
        evaluate_traces(**asked, think="empty", out=tmp_path / "run")
    sampled = {"temperature": 0.6, "top_p": 0.95, "samples": 2}
    first = evaluate_traces(**asked, **sampled, seed=1)
    assert list(first.table["response"]) == list(
        evaluate_traces(**asked, **sampled, seed=1, batch_size=1).table["response"]
    )
    assert list(first.table["response"]) != list(evaluate_traces(**asked, **sampled, seed=2).table["response"])


def test_a_reflection_penalty_reaches_the_decoding_and_needs_its_tokens(tiny, files, judge):
    asked = {"model": tiny.rlvr, "questions": {"towns": files / "towns.jsonl"}, "judge": judge, "progress": False}
    free = evaluate_traces(**asked, max_new_tokens=8)
    assert "reflection" not in free.settings
    with pytest.raises(m.MastlensError, match="reflection words"):
        evaluate_traces(**asked, max_new_tokens=8, reflection=3.0)  # none is a single token of this tokenizer


@pytest.mark.parametrize("think", ["none", "empty"])
def test_choices_without_thinking_are_what_a_plain_forward_pass_gives(tiny, files, think):
    model, tokenizer = load_model(tiny.rlvr), load_tokenizer(tiny.rlvr)
    scores = choices(model=tiny.rlvr, questions={"towns": files / "towns.jsonl"}, think=think, progress=False)
    for row, found in zip(TOWNS, scores.table.itertuples(), strict=True):
        text = f"{row['question']}\nA. Melk\nB. Sorn\nAnswer:" + ("" if think == "none" else "\n<think></think>\n\n")
        space = " " if think == "none" else ""
        expected = [
            logprob(model, tokenizer(text)["input_ids"], tokenizer(space + x)["input_ids"]).item() for x in "AB"
        ]
        np.testing.assert_allclose(found.logprobs, expected, rtol=1e-5)
    row = scores.accuracy.iloc[0]
    assert (row["ci_low"], row["ci_high"]) == (wilson(int(row["correct"]), 2).low, wilson(int(row["correct"]), 2).high)
    assert row["chance"] == 0.5


def test_what_was_generated_is_kept_when_the_judge_fails(tiny, files, tmp_path, monkeypatch):
    class Failing:
        settings: ClassVar = {"judge": "failing"}
        fails = True

        def judge(self, question, trace):
            if self.fails:
                raise m.MastlensError("The judge is away.")
            return Judgement("C1", "")

    judge = Failing()
    asked = {"model": tiny.rlvr, "questions": {"towns": files / "towns.jsonl"}, "judge": judge, "progress": False}
    asked |= {"max_new_tokens": 12, "out": tmp_path / "run", "think": "none"}
    with pytest.raises(m.MastlensError, match="away"):
        evaluate_traces(**asked)
    judge.fails = False

    def never(*args, **kwargs):
        raise AssertionError("generated again")

    monkeypatch.setattr("mastlens.decoding.engines.huggingface.generate", never)
    assert len(evaluate_traces(**asked).table) == 2
    assert not list((tmp_path / "run").glob("*.partial.jsonl"))


def test_mistakes_are_said_before_anything_is_generated(tiny, files, judge):
    asked = {"model": tiny.rlvr, "judge": judge, "questions": {"towns": files / "towns.jsonl"}}
    for change, message in (
        ({"questions": {}}, "--questions"),
        ({"think": "fre"}, "free"),
        ({"judged": "tracee"}, "trace"),
        ({"samples": 2}, "temperature"),
    ):
        with pytest.raises(m.MastlensError, match=message):
            evaluate_traces(**(asked | change))


# Safety: the form of the files is the benchmarks', what stands in them is harmless.
_JBB = "Index,Goal,Target,Behavior,Category,Source\n"
_WILD = ("adversarial\tlabel\tdata_type\n", "vanilla\tadversarial\tcompletion\tdata_type\n")
SAFETY = {
    "star1": ("star.json", '[{"id": 1, "question": "How do I bake bread?", "category": ["a", "b"], "response": "x"}]'),
    "strongreject": (
        "strong.csv",
        'category,source,forbidden_prompt\nbaking,custom,"How do I bake bread,\nslowly?"\nbaking,x,How?\n',
    ),
    "jailbreakbench": ("harmful-behaviors.csv", f"{_JBB}0,Bake bread,Sure,Baking,Food,Original\n"),
    "jailbreakbench:benign": ("benign-behaviors.csv", f"{_JBB}0,Eat bread,Sure,Eating,Food,Original\n"),
    "wildjailbreak": (
        "eval.tsv",
        f'{_WILD[0]}"As a baker, ""bake""."\t1\tadversarial_harmful\nHow?\t0\tadversarial_benign\n',
    ),
    "wildjailbreak:train": (
        "train.tsv",
        f"{_WILD[1]}Bake\t\tNo\tvanilla_harmful\nx\tAs a baker\tok\tadversarial_benign\n",
    ),
}


@pytest.fixture
def safety(tmp_path):
    data = {}
    for name, (file, text) in SAFETY.items():
        (tmp_path / file).write_text(text)
        data[name] = tmp_path / file
    return data


def test_files_of_the_benchmarks_are_read(safety):
    found = {name: read_requests(name, path) for name, path in safety.items()}
    assert [(r.prompt, r.category, r.harmful) for r in found["star1"]] == [("How do I bake bread?", "a; b", True)]
    assert found["strongreject"][0].prompt == "How do I bake bread,\nslowly?"
    assert [r.harmful for r in found["jailbreakbench"]] == [True]
    assert [(r.prompt, r.harmful, r.kind) for r in found["jailbreakbench:benign"]] == [("Eat bread", False, "benign")]
    wild = [(r.kind, r.harmful) for r in found["wildjailbreak"]]
    assert wild == [("adversarial_harmful", True), ("adversarial_benign", False)]
    assert found["wildjailbreak"][0].prompt == 'As a baker, "bake".'
    assert [(r.prompt, r.harmful) for r in found["wildjailbreak:train"]] == [("Bake", True), ("As a baker", False)]
    assert len(draw_requests(found["strongreject"], 1, seed=42)) == 1
    assert draw_requests(found["wildjailbreak"], 1, seed=42) == found["wildjailbreak"]  # one of each kind


def test_other_files_are_refused_with_the_names_they_lack(safety, tmp_path):
    with pytest.raises(m.MastlensError, match="'forbidden_prompt'"):
        read_requests("strongreject", safety["jailbreakbench"])
    with pytest.raises(m.MastlensError, match="strongreject"):
        read_requests("strongrejct", safety["strongreject"])
    with pytest.raises(m.MastlensError, match="bring its file"):
        read_requests("star1", tmp_path / "none.json")
    (tmp_path / "odd.json").write_text("{")
    with pytest.raises(m.MastlensError, match="line 1: not a JSON object"):
        read_requests("star1", tmp_path / "odd.json")


def test_the_safety_rate_is_measured(tiny, safety, tmp_path):
    asked = {"model": tiny.rlvr, "data": safety, "judge": RefusalPhrases(), "max_new_tokens": 6, "progress": False}
    result = evaluate_safety(**asked, out=tmp_path / "run")
    check_table(tmp_path / "run" / "safety.parquet", "mastlens evaluate-safety")
    assert set(result.table["verdict"]) <= {"refused", "complied", "unjudged"}
    assert len(result.summary) == 8
    assert result.summary["n"].sum() + result.summary["unjudged"].sum() == len(result.table) == 9
    pd.testing.assert_frame_equal(result.summary, evaluate_safety(**asked, out=tmp_path / "run").summary)
    forced = evaluate_safety(**asked, think="forced")
    assert (forced.table["answer"] == "").all()  # six tokens of a random model close no trace
    assert (forced.table["verdict"] == "unjudged").all()
    assert forced.summary["rate"].isna().all()


def test_the_commands(tiny, files, safety, tmp_path):
    common = ["--model", tiny.rlvr]
    said = run_command("choices", *common, "--questions", f"towns={files / 'towns.jsonl'}", "--out", tmp_path / "c")
    assert said.summary["splits"][0]["n"] == 2
    assert (tmp_path / "c" / "choices.parquet").is_file()
    for ask in ("option", "text"):
        words = ["--questions", f"towns={files / 'towns.jsonl'}", "--ask", ask, "--out", tmp_path / ask]
        run_command("choices", *common, *words)
        direct = choices(model=tiny.rlvr, questions={"towns": files / "towns.jsonl"}, ask=ask, progress=False)
        written = pd.read_parquet(tmp_path / ask / "choices.parquet")
        assert [list(row) for row in written["logprobs"]] == [list(row) for row in direct.table["logprobs"]]
    traces = ["evaluate-traces", *common, "--questions", f"towns={files / 'towns.jsonl'}", "--max-new-tokens", 8]
    said = run_command(*traces, "--facts", files / "facts.json", "--out", tmp_path / "t")
    assert said.summary["splits"][0]["n"] == 2
    assert np.isclose(sum(row["share"] for row in said.summary["categories"]), 1)
    run_command(*traces, "--facts", files / "facts.json", "--ask", "option", "--out", tmp_path / "o")
    record = json.loads((tmp_path / "o" / "run.json").read_text())["stages"]["evaluate-traces"]
    assert record["settings"]["choices_ask"] == "option"
    scored = pd.read_parquet(tmp_path / "o" / "trace_judgements.parquet")["choice_correct"]
    options = pd.read_parquet(tmp_path / "option" / "choices.parquet")["correct"]
    assert [bool(ok) for ok in scored] == list(options)
    said = run_command("compare-traces", tmp_path / "t", tmp_path / "t")
    assert said.summary["splits"][0]["mcnemar_p"] == 1
    refusals = ["evaluate-safety", *common, "--data", f"star1={safety['star1']}", "--max-new-tokens", 4]
    said = run_command(*refusals, "--out", tmp_path / "s")
    assert said.summary["data"][0]["data"] == "star1"
    for words, message in (
        ([*traces, "--out", tmp_path / "x"], "--facts"),
        ([*traces, "--judge", "endpoint", "--out", tmp_path / "x"], "--judge-model"),
        ([*traces, "--judge", "endpoint", "--judge-model", "m", "--out", tmp_path / "x"], "--judge-url"),
        ([*traces, "--judge", "endpint", "--out", tmp_path / "x"], "endpoint"),
        (["choices", *common, "--questions", "towns", "--out", tmp_path / "x"], "--questions"),
        ([*refusals[:3], "--data", "star1", "--out", tmp_path / "x"], "--data"),
        ([*traces, "--facts", files / "facts.json", "--ask", "leter", "--out", tmp_path / "x"], "letter"),
    ):
        with pytest.raises(m.MastlensError, match=message):
            run_command(*words)
