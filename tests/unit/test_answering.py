"""Prompt, response, grade: what is asked, in which order, what is graded, what is kept; with an engine of one's own."""

from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest

import mastlens as m
from mastlens.decoding.answering import answer
from mastlens.decoding.engines import ENGINES, Decoding, Engine
from mastlens.decoding.generation import Response
from mastlens.decoding.graders import Grade, Grader
from mastlens.decoding.prompts import Prompt, items_of
from mastlens.runs.ledger import Ledger


class Echo(Engine):
    """Writes each prompt's token ids behind its name, a fixed text around them; ends at a given number of responses."""

    name: ClassVar[str] = "echo"
    context: ClassVar[int | None] = None
    open_ones: ClassVar[int] = 0

    def __init__(self, text="{}", breaks_after=None):
        self.text, self.breaks_after, self.asked = text, breaks_after, []

    @classmethod
    @contextmanager
    def opened(cls, opening):
        cls.open_ones += 1
        changed = " ".join(sorted(opening.changes)) or "nothing"
        try:
            yield cls(rf"\boxed{{{{7}}}} from {opening.checkpoint.folder.name}, {changed} changed")
        finally:
            cls.open_ones -= 1

    def respond(self, prompts, decoding, *, names, finished, progress=None):
        self.asked.append((list(names), decoding))
        # Backwards: the order in which responses are finished is the engine's.
        for place in reversed(range(len(prompts))):
            if self.breaks_after is not None and len(prompts) - 1 - place >= self.breaks_after:
                raise KeyboardInterrupt
            finished(place, Response(self.text.format(f"{names[place]}:{list(prompts[place])}"), 3, "end"))

    def logprobs(self, encoded, *, batch_size, progress=None):
        assert type(self).open_ones == 1
        return -np.array([len(one.prompt) + len(one.solution) / 100 for one in encoded])


PROMPTS = [Prompt("a/0", (1, 2), "7"), Prompt("a/1", (3,), "8"), Prompt("b/0", (4,))]


def test_answers_come_in_the_order_of_the_prompts_samples_side_by_side():
    engine, decoding = Echo(), Decoding(max_new_tokens=5)
    answered = answer(engine, PROMPTS, decoding, samples=2)
    names = ["a/0/0", "a/0/1", "a/1/0", "a/1/1", "b/0/0", "b/0/1"]
    assert engine.asked == [(names, decoding)]
    assert [one.response.text for one in answered[:2]] == ["a/0/0:[1, 2]", "a/0/1:[1, 2]"]
    assert [(one.prompt.name, one.sample) for one in answered] == [(n[:3], int(n[-1])) for n in names]


def test_only_what_has_a_right_answer_is_graded_and_by_the_grader_that_is_given():
    graded = []

    class Eight(Grader):
        name, summary = "eight", "the right answer is 8"

        def judge(self, said, gold):
            graded.append((said, gold))
            return Grade(gold == "8", False, said)

    answered = answer(Echo("x{}"), PROMPTS, grader=Eight())
    assert graded == [("xa/0/0:[1, 2]", "7"), ("xa/1/0:[3]", "8")]
    assert [one.correct for one in answered] == [False, True, False]
    assert answered[2].grade is None
    found = answer(Echo(r"\boxed{{7}}"), PROMPTS)
    assert [one.correct for one in found] == [True, False, False]


def test_what_is_graded_is_the_part_asked_for_with_what_the_prompt_gives():
    text = r"\boxed{{7}}</think>none"
    opened = [Prompt("a", (1,), "7", opened=True)]
    assert not answer(Echo(text), opened)[0].correct  # after the thinking there is no answer
    assert answer(Echo(text), opened, graded="trace")[0].correct
    assert (answer(Echo(text), opened)[0].trace, answer(Echo(text), opened)[0].answer) == (r"\boxed{7}", "none")
    given = [Prompt("a", (1,), "7", given=r"So \boxed{")]
    assert answer(Echo("7}}"), given)[0].correct
    assert not answer(Echo("7}}"), [Prompt("a", (1,), "8", given=r"So \boxed{")])[0].correct
    with pytest.raises(m.MastlensError, match="reasoning"):
        answer(Echo(), PROMPTS, graded="reason")


def test_what_an_interrupted_run_has_finished_is_not_asked_again(tmp_path):
    kept = tmp_path / "partial.jsonl"
    with pytest.raises(KeyboardInterrupt), Ledger(kept, "key") as ledger:
        answer(Echo("old {}", breaks_after=2), PROMPTS, ledger=ledger)
    engine = Echo("new {}")
    with Ledger(kept, "key") as ledger:
        answered = answer(engine, PROMPTS, ledger=ledger)
        answer(engine, PROMPTS, ledger=ledger)  # all there: the engine is left alone
    assert [names for names, _ in engine.asked] == [["a/0/0"]]
    assert [one.response.text[:3] for one in answered] == ["new", "old", "old"]


def test_splits_are_one_stream():
    assert items_of({"x": "ab", "y": "c"}) == [("x", 0, "a"), ("x", 1, "b"), ("y", 0, "c")]


def test_an_engine_of_ones_own_answers_an_evaluation(tiny, tmp_path):
    ENGINES.register(Echo)
    asked = {"model": tiny.rlvr, "splits": {"forget": tiny.forget}, "progress": False, "max_new_tokens": 4}
    made, plain = m.evaluate(**asked, engine="echo"), m.evaluate(**asked)
    assert set(made.table["response"]) == {rf"\boxed{{7}} from {tiny.rlvr.name}, nothing changed"}
    assert list(made.table["correct"]) == list(made.table["gold"] == "7")
    assert list(made.table["prompt"]) == list(plain.table["prompt"])
    for kind in ("solution", "answer"):  # the engine's own: no other holds the model
        whole = -made.table[f"logprob_{kind}"]
        np.testing.assert_allclose(whole % 1, made.table[f"{kind}_tokens"] / 100, atol=1e-9)
    assert list(made.table["logprob_solution"]) != list(plain.table["logprob_solution"])
    assert made.settings["engine"] == "echo"
    assert len(made.settings["engine_code"]) == 64  # somebody's own code is part of what a result depends on
    assert "engine_code" not in plain.settings
    edit = m.negate_increment(sft=tiny.sft, rlvr=tiny.rlvr, where="v_proj", out=tmp_path / "edit")
    edited = m.evaluate(**asked, engine="echo", edit=edit)
    assert f"{' '.join(sorted(edit.after))} changed" in edited.table["response"][0]
    assert Echo.open_ones == 0
    with pytest.raises(m.MastlensError, match=r"'echo' has no setting tensor_parallel_size .--tensor-parallel-size"):
        m.evaluate(**asked, engine="echo", tensor_parallel_size=2)
