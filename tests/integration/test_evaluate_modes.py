"""``evaluate`` in the think modes: prompts, log-probabilities and responses against plain transformers; its command."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import mastlens as m
from mastlens.cli import main
from mastlens.decoding.generation import generate, sampling_of
from tests.conftest import run_command
from tests.reference.plain import load_model, load_tokenizer, logprob, read_records

CLOSED = "<think></think>\n\n"
OPENINGS = {"free": "\n", "empty": f"\n{CLOSED}", "forced": "\n<think>\n", "none": "\nAnswer:"}
LIMIT = 6


@pytest.fixture(scope="module")
def model(tiny):
    return load_model(tiny.rlvr)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(tiny.rlvr)


def evaluated(tiny, **changes):
    asked = {"model": tiny.rlvr, "splits": {"forget": tiny.forget}, "max_new_tokens": LIMIT, "progress": False}
    return m.evaluate(**(asked | changes))


def greedy(model, prompt, eos):
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + LIMIT and ids[-1] != eos:
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return [token for token in ids[len(prompt) :] if token != eos]


@pytest.mark.parametrize("think", OPENINGS)
def test_everything_follows_the_prompt_of_the_mode(tiny, model, tokenizer, think):
    table = evaluated(tiny, think=think).table
    space = " " if think == "none" else ""  # behind the cue, as multiple choice has it
    for record, row in list(zip(read_records(tiny.forget), table.itertuples(), strict=True))[:4]:
        text = record["problem"] + OPENINGS[think]
        prompt = tokenizer(text)["input_ids"]
        assert row.prompt == text
        assert row.response == tokenizer.decode(greedy(model, prompt, tokenizer.eos_token_id))
        solution = [*tokenizer(space + record["solution"])["input_ids"], tokenizer.eos_token_id]
        answer = tokenizer(rf"{space}\boxed{{{record['answer']}}}")["input_ids"]
        with torch.no_grad():
            expected = [logprob(model, prompt, ids).item() for ids in (solution, answer)]
        np.testing.assert_allclose([row.logprob_solution, row.logprob_answer], expected, rtol=1e-5)
        assert (row.solution_tokens, row.answer_tokens) == (len(solution), len(answer))


def test_free_is_what_there_was_and_another_mode_is_another_evaluation(tiny, tmp_path):
    without = evaluated(tiny, out=tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())["stages"]["evaluate"]
    assert "think" not in record["settings"]  # records of earlier versions go on being known
    pd.testing.assert_frame_equal(without.table, evaluated(tiny, think="free", out=tmp_path).table, check_dtype=False)
    assert json.loads((tmp_path / "run.json").read_text())["stages"]["evaluate"] == record
    with pytest.raises(m.MastlensError, match="think"):
        evaluated(tiny, think="empty", out=tmp_path)
    assert evaluated(tiny, think="empty", out=tmp_path / "other").settings["think"] == "empty"
    with pytest.raises(m.MastlensError, match="forced"):
        evaluated(tiny, think="forcd")


def test_a_problem_that_only_the_mode_makes_too_long_is_named(tiny, tmp_path, tokenizer):
    record = read_records(tiny.forget)[0]
    room = 128 - len(tokenizer(record["problem"] + "\n")["input_ids"]) - 1
    solution = "#" * room
    while len(tokenizer(solution)["input_ids"]) > room:
        solution = solution[1:]
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps(record | {"solution": solution}) + "\n")
    assert len(evaluated(tiny, splits={"long": path}).table) == 1
    with pytest.raises(m.MastlensError, match=r"long.jsonl, line 1: 1\d\d tokens .*'empty'"):
        evaluated(tiny, splits={"long": path}, think="empty")


@pytest.mark.parametrize(
    ("opening", "said", "kept"),
    [
        ("Hi?\n", r"a \boxed{7} b", r"a \boxed{7}"),
        (f"Hi?\n{CLOSED}", r"a \boxed{7} b", r"a \boxed{7}"),
        ("Hi?\n<think>\n\n</think>\n\n", r"a \boxed{7} b", r"a \boxed{7}"),
        ("What is <think>?\n", r"a \boxed{7} b", r"a \boxed{7}"),  # a word of the question
        ("Hi?\n<think>\n", r"a \boxed{7} b", r"a \boxed{7} b"),  # still thinking
        ("Hi?\n<think>\n", r"a \boxed{7}</think>\boxed{8} b", r"a \boxed{7}</think>\boxed{8}"),
        (f"Hi?\n{CLOSED}", r"<think>\boxed{7} b", r"<think>\boxed{7} b"),  # opened once more
    ],
)
def test_a_response_stops_at_its_answer_behind_any_prompt(model, tokenizer, monkeypatch, opening, said, kept):
    script = [*tokenizer(said)["input_ids"], tokenizer.eos_token_id]

    def scripted(logits, items, steps):
        return torch.tensor([script[min(step, len(script) - 1)] for step in steps])

    monkeypatch.setattr("mastlens.decoding.generation._chooser", lambda *_: scripted)
    prompt = tokenizer(opening)["input_ids"]
    (response,) = generate(model, tokenizer, [prompt], max_new_tokens=60, stop_at_answer=True)
    assert (response.text, response.stopped) == (kept, "end" if kept == said else "answer")


def test_how_responses_are_drawn():
    assert sampling_of(1, 0.0, 1.0, 3) is None
    drawn = sampling_of(4, 0.6, 0.95, 3)
    assert (drawn.temperature, drawn.top_p, drawn.seed) == (0.6, 0.95, 3)
    for samples, temperature, top_p in ((0, 0.6, 1.0), (2, 0.0, 1.0), (1, 0.0, 0.9), (1, 0.6, 0.0)):
        with pytest.raises(m.MastlensError):
            sampling_of(samples, temperature, top_p, 0)


def test_the_command_takes_the_mode(tiny, tmp_path):
    words = ["evaluate", "--model", tiny.rlvr, "--split", f"forget={tiny.forget}", "--max-new-tokens", LIMIT]
    run_command(*words, "--think", "empty", "--out", tmp_path)
    assert pd.read_parquet(tmp_path / "responses.parquet")["prompt"].str.endswith(CLOSED).all()


@pytest.mark.parametrize("given", ["a", "=b", "a=", "a=b a=c"])
def test_files_are_named_by_the_option_that_took_them(given, tiny, tmp_path, capsys):
    line = ["evaluate", "--model", str(tiny.rlvr), "--split", *given.split(), "--out", str(tmp_path / "run")]
    assert main(line) == 2
    assert "--split" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
