"""How problems are asked: system prompt, worked examples, the form of an answer; one path for every command."""

import json
from dataclasses import replace

import pytest

import mastlens as m
from mastlens.errors import MastlensError
from mastlens.evaluation.responses import Evaluation
from mastlens.evaluation.settings import EvaluateSettings
from mastlens.problems.asking import INSTRUCTION, Asking, asking_of
from mastlens.problems.encoding import encode_prompt
from mastlens.problems.reading import Problem, read_problems
from mastlens.problems.thinking import render_prompt

PLAIN = {"chat_template": True, "system": None, "few_shot": None, "answer_format": "plain"}
SHOTS = (Problem("1 + 1?", "It is 2.\n#### 2", "2"), Problem("2 + 2?", "It is 4.\n#### 4", "4"))


class Templated:
    """A tokenizer whose template writes each turn as [role: content]."""

    chat_template = "there is one"
    additional_special_tokens = ()
    added = ""


@pytest.fixture
def chat(monkeypatch):
    def apply(tokenizer, turns, **switches):
        return "".join(f"[{turn['role']}: {turn['content']}]" for turn in turns)

    monkeypatch.setattr("mastlens.problems.thinking.apply_template", apply)
    return Templated()


def test_what_is_asked_stands_in_the_turns_and_without_a_template_in_one_text(chat):
    asking = Asking(system="Be brief.", answer_format="boxed").showing(SHOTS[:1])
    told = f"[system: Be brief.][user: 1 + 1?\n\n{INSTRUCTION}][assistant: {SHOTS[0].solution}]"
    assert render_prompt("3 + 3?", chat, chat_template=asking) == f"{told}[user: 3 + 3?\n\n{INSTRUCTION}]"
    bare = f"Be brief.\n\n1 + 1?\n\n{INSTRUCTION}\n{SHOTS[0].solution}\n\n3 + 3?\n\n{INSTRUCTION}\n"
    assert render_prompt("3 + 3?", chat, chat_template=replace(asking, chat_template=False)) == bare
    # A problem is never its own example.
    assert render_prompt("1 + 1?", chat, chat_template=asking) == f"[system: Be brief.][user: 1 + 1?\n\n{INSTRUCTION}]"


@pytest.mark.parametrize("chat_template", [True, False])
def test_nothing_asked_is_what_it_always_was(chat, chat_template):
    asking = asking_of(**PLAIN | {"chat_template": chat_template})
    assert bool(asking) is chat_template
    same = render_prompt("3 + 3?", chat, chat_template=chat_template)
    assert render_prompt("3 + 3?", chat, chat_template=asking) == same
    assert same == ("[user: 3 + 3?]" if chat_template else "3 + 3?\n")
    assert asking.record() == {"chat_template": chat_template}


def test_examples_come_from_a_file_or_with_the_package(tmp_path):
    file = tmp_path / "shots.jsonl"
    file.write_text("".join(json.dumps({"question": p.problem, "answer": p.solution}) + "\n" for p in SHOTS))
    own = asking_of(**PLAIN | {"few_shot": file})
    assert [problem for problem, _ in own.shots] == [p.problem for p in SHOTS]
    boxed = asking_of(**PLAIN | {"few_shot": str(file), "answer_format": "boxed"})
    assert boxed.shots[0][1] == "It is 2.\nThe answer is \\boxed{2}."
    shipped = [asking_of(**PLAIN | {"few_shot": count}) for count in (1, 3)]
    assert shipped[1].shots[:1] == shipped[0].shots
    assert len(shipped[1].shots) == 3
    records = [one.record() for one in (own, boxed, *shipped)]
    assert len({json.dumps(record) for record in records}) == 4
    for wrong in (0, 10**6):
        with pytest.raises(MastlensError, match="at least one is shown"):
            asking_of(**PLAIN | {"few_shot": wrong})


def test_a_command_asks_so_and_its_record_says_it(tiny, tmp_path):
    shot = tmp_path / "shot.jsonl"
    shot.write_text(json.dumps({"problem": "1?", "solution": "2", "answer": "2"}) + "\n")
    asked = {"model": tiny.rlvr, "splits": {"a": tiny.forget}, "limit": 2, "max_new_tokens": 2, "progress": False}
    plain, boxed = m.evaluate(**asked), m.evaluate(**asked, answer_format="boxed")
    told = m.evaluate(**asked, system_prompt="Add.", few_shot=shot, out=tmp_path / "out")
    problem = read_problems(tiny.forget)[0].problem
    prompts = [run.table["prompt"].iloc[0] for run in (plain, boxed, told)]
    assert prompts == [f"{problem}\n", f"{problem}\n\n{INSTRUCTION}\n", f"Add.\n\n1?\n2\n\n{problem}\n"]
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["stages"]["evaluate"]["settings"]
    assert settings["system_prompt"] == "Add."
    assert len(settings["few_shot"]) == 64
    assert "answer_format" not in settings
    assert "system_prompt" not in plain.settings
    assert boxed.settings["answer_format"] == "boxed"
    assert (plain.table["logprob_solution"] != told.table["logprob_solution"]).all()
    with pytest.raises(m.StageRefused, match="overwrite=True"):
        m.evaluate(**asked, out=tmp_path / "out")


def test_gradients_and_edits_follow_the_same_prompt(tiny):
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "forget": tiny.forget, "limit": 2, "spectrum": False}
    cosines = [
        m.couple(**pair, progress=False, **more).table["forget_cosine"] for more in ({}, {"system_prompt": "Add."})
    ]
    assert not cosines[0].equals(cosines[1])
    tokenizer = m.Checkpoint(tiny.rlvr).load_tokenizer()
    asking = EvaluateSettings(model=tiny.rlvr, splits={}, system_prompt="Add.").asking
    prompts = [encode_prompt("2 + 2?", tokenizer, chat_template=one) for one in (True, asking)]
    assert len(prompts[1]) > len(prompts[0])


def test_a_hint_where_most_responses_cannot_be_graded(tiny):
    table = m.evaluate(model=tiny.rlvr, splits={"a": tiny.forget}, limit=4, max_new_tokens=2, progress=False).table
    cut = Evaluation(table.assign(truncated=True, response="so", correct=False)).hints
    assert cut[0].startswith("100% of the responses were cut off: raise --max-new-tokens")
    assert "--answer-format boxed" in cut[1]
    assert Evaluation(table.assign(truncated=False, response="so", correct=True)).hints == []
    assert Evaluation(table.assign(truncated=False, response="\\boxed{1}", correct=False)).hints == []
