"""Think modes on the kinds of template that exist, and responses cut into trace and answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastlens import MastlensError
from mastlens.problems.encoding import encode_prompt
from mastlens.problems.thinking import answer_ids, prompt_opens, render_prompt, split_trace
from tests.conftest import write_tokenizer

QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1 = (
    "{% for m in messages %}<|User|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[reply]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def templated(tokenizer):
    yield lambda template: setattr(tokenizer, "chat_template", template) or tokenizer
    tokenizer.chat_template = None


@pytest.mark.parametrize(
    ("template", "mode", "expected"),
    [
        (QWEN3, "free", "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"),
        (QWEN3, "empty", "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (QWEN3, "forced", "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n<think>\n"),
        (QWEN3, "none", "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nAnswer:"),
        (R1, "free", "<|User|>Hi?<|Assistant|><think>\n"),
        (R1, "empty", "<|User|>Hi?<|Assistant|><think>\n</think>\n\n"),
        (R1, "forced", "<|User|>Hi?<|Assistant|><think>\n"),
        (R1, "none", "<|User|>Hi?<|Assistant|>Answer:"),
        (PLAIN, "free", "[user]Hi?[reply]"),
        (PLAIN, "empty", "[user]Hi?[reply]<think></think>\n\n"),
        (PLAIN, "forced", "[user]Hi?[reply]<think>\n"),
        (PLAIN, "none", "[user]Hi?[reply]Answer:"),
        (None, "free", "Hi?\n"),
        (None, "empty", "Hi?\n<think></think>\n\n"),
        (None, "forced", "Hi?\n<think>\n"),
        (None, "none", "Hi?\nAnswer:"),
    ],
)
def test_every_mode_of_every_kind_of_template(templated, template, mode, expected):
    tokenizer = templated(template)
    assert render_prompt("Hi?", tokenizer, think=mode) == expected
    ids = encode_prompt("Hi?", tokenizer, think=mode)
    assert tokenizer.decode(list(ids)) == expected
    assert prompt_opens(expected) == expected.endswith("<think>\n")


def test_the_template_can_be_left_aside_and_the_old_prompt_is_what_it_was(templated):
    tokenizer = templated(QWEN3)
    assert render_prompt("Hi?", tokenizer, think="free", chat_template=False) == "Hi?\n"
    assert encode_prompt("Hi?", tokenizer, chat_template=False) == tuple(tokenizer("Hi?\n")["input_ids"])
    with pytest.raises(MastlensError, match="forced"):
        render_prompt("Hi?", tokenizer, think="forcd")


def test_a_question_that_ends_in_the_cue_is_not_cued_twice(templated):
    assert render_prompt("A. x\nAnswer:", templated(None), think="none") == "A. x\nAnswer:"


def test_an_answer_behind_the_cue_has_a_space_and_else_none(tokenizer):
    assert tokenizer.decode(list(answer_ids("B", tokenizer, think="none"))) == " B"
    assert tokenizer.decode(list(answer_ids("B", tokenizer, think="empty"))) == "B"


@pytest.mark.parametrize(
    ("response", "opened", "expected"),
    [
        ("<think>\na b\n</think>\n\nB", False, ("a b", "B")),
        ("a b\n</think>\n\nB", True, ("a b", "B")),  # the template opened it
        ("a b\n</think>\n\nB", False, ("a b", "B")),
        ("<think>\na b", False, ("a b", "")),  # cut off
        ("a b", True, ("a b", "")),
        ("a b", False, ("", "a b")),
        ("", False, ("", "")),
        ("", True, ("", "")),
        ("</think>B", False, ("", "B")),
        ("<think></think>B", False, ("", "B")),
        ("Sure. <think>a</think>B", False, ("Sure. a", "B")),
        ("<think>a</think>x<think>b</think>B", False, ("axb", "B")),
        ("<think>a</think>B<think>more", False, ("a\nmore", "B")),
    ],
)
def test_responses_are_split(response, opened, expected):
    assert split_trace(response, opened=opened) == expected


@given(
    st.text(alphabet="ab .\n", max_size=40),
    st.text(alphabet="ab .\n", max_size=40),
    st.booleans(),
)
def test_whatever_was_joined_is_split_again(trace, answer, opened):
    response = ("" if opened else "<think>\n") + f"{trace}\n</think>\n\n{answer}"
    assert split_trace(response, opened=opened) == (trace.strip(), answer.strip())
