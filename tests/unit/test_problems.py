"""Problem files: formats, line numbers, what is in the text, and tokenizers that lose some of it."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mastlens as m
from mastlens.problems.encoding import check_tokenizer, collate, encode_problem, encode_problems
from mastlens.problems.reading import read_problems

DATA = Path(__file__).parents[1] / "data"
MATH = {"problem": "What is 1 + 1?", "solution": r"It is \boxed{2}.", "answer": "2"}


def write(path, *records, newline="\n", end="\n", prefix=""):
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_bytes((prefix + newline.join(lines) + end).encode())
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "problems.jsonl"


def test_math_names(path):
    found = read_problems(write(path, MATH | {"subject": "Algebra", "level": 3}, MATH))
    assert [(p.problem, p.solution, p.answer, p.subject, p.line) for p in found] == [
        (MATH["problem"], MATH["solution"], "2", "Algebra", 1),
        (MATH["problem"], MATH["solution"], "2", "", 2),
    ]


def test_gsm8k_names_and_calculator_marks(path):
    record = {
        "question": "How many eggs?",
        "answer": "She has 16 - 7 = <<16-7=9>>9 eggs.\nThat is $<<9*2=18.00>>18.\n#### 18",
    }
    (found,) = read_problems(write(path, record))
    assert found.problem == "How many eggs?"
    assert found.answer == "18"
    assert "She has 16 - 7 = 9 eggs.\nThat is $18." in found.solution
    assert "<<" not in found.solution
    assert found.solution.rstrip().endswith("#### 18")  # the solution ends in the answer


@pytest.mark.parametrize(
    ("mark", "plain"), [("2,125", "2125"), ("1,450,000", "1450000"), ("-10", "-10"), ("5.5", "5.5")]
)
def test_gsm8k_answers_with_commas_and_signs(path, mark, plain):
    from mastlens.decoding.graders import Mathematics

    (found,) = read_problems(write(path, {"question": "How much?", "answer": f"So much.\n#### {mark}"}))
    for response in (f"#### {mark}", f"#### {plain}", rf"\boxed{{{plain}}}", found.solution):
        assert Mathematics().grade(response, found.answer).correct, response
    assert not Mathematics().grade(r"\boxed{1}", found.answer).correct


def test_byte_order_mark_and_windows_line_ends(path):
    found = read_problems(write(path, MATH, MATH, prefix="\ufeff", newline="\r\n", end="\r\n"))
    assert [p.problem for p in found] == [MATH["problem"]] * 2
    assert [p.line for p in found] == [1, 2]


def test_no_newline_at_the_end(path):
    assert len(read_problems(write(path, MATH, MATH, end=""))) == 2


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_line_separators_of_unicode_are_text(path, character):
    """JSON allows them unescaped (or, below U+0020, escaped); splitting there would cut a record in two."""
    text = f"one{character}two"
    found = read_problems(write(path, MATH | {"problem": text}, MATH))
    assert [p.problem for p in found] == [text, MATH["problem"]]
    assert [p.line for p in found] == [1, 2]
    with pytest.raises(m.MastlensError, match="3"):
        read_problems(write(path, MATH | {"problem": text}, MATH, "{"))


def test_other_scripts_and_emoji_stay(path):
    text = "¿Cuánto? 多少 ½ 😀 e\u0301"
    assert read_problems(write(path, MATH | {"problem": text}))[0].problem == text


MALFORMED = {
    "no JSON": "{not json",
    "cut off": '{"problem": "What',
    "no object": "[1, 2]",
    "a number": "7",
    "no solution": {"problem": "p", "answer": "2"},
    "no answer": {"problem": "p", "solution": "s"},
    "no problem": {"solution": "s", "answer": "2"},
    "other names": {"prompt": "p", "completion": "s"},
    "problem is no text": MATH | {"problem": 7},
    "solution is null": MATH | {"solution": None},
    "empty problem": MATH | {"problem": ""},
    "empty solution": MATH | {"solution": "  "},
    "empty answer": MATH | {"answer": ""},
    "a list for an answer": MATH | {"answer": [1, 2]},
    "an object for an answer": MATH | {"answer": {"value": 2}},
    "true for an answer": MATH | {"answer": True},
    "NaN for an answer": MATH | {"answer": float("nan")},
    "infinity for an answer": MATH | {"answer": float("inf")},
    "GSM8K without ####": {"question": "q", "answer": "It is 7."},
    "GSM8K with nothing behind ####": {"question": "q", "answer": "It is 7.\n####"},
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_lines_are_named_by_number(path, kind):
    write(path, *[MATH] * 6, MALFORMED[kind], MATH)
    with pytest.raises(m.MastlensError) as error:
        read_problems(path)
    message = str(error.value)
    assert path.name in message
    assert "7" in message.replace(str(path.parent), "")
    assert "line" in message.lower() or f"{path.name}:7" in message
    assert len(read_problems(write(path, *[MATH] * 6, MATH))) == 7


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("7", "7"),
        ("-3", "-3"),
        ("0.5", "0.5"),
        ("1e-6", "0.000001"),
        ("1e22", "1" + "0" * 22),
        ("1" + "0" * 400, "1" + "0" * 400),
        (r'"\\frac12"', r"\frac12"),
    ],
)
def test_a_number_for_an_answer_is_its_digits(path, answer, text):
    path.write_text(f'{{"problem": "p", "solution": "s", "answer": {answer}}}\n')
    assert [p.answer for p in read_problems(path)] == [text]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(m.MastlensError, match=r"(?i)empty|no problem"):
        read_problems(path)


def test_bytes_that_are_no_utf8_are_refused(path):
    path.write_bytes(json.dumps(MATH).encode() + b'\n{"problem": "caf\xe9", "solution": "s", "answer": "1"}\n')
    with pytest.raises(m.MastlensError) as error:
        read_problems(path)
    assert path.name in str(error.value)
    assert "UTF-8" in str(error.value).upper()


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "nothing.jsonl", tmp_path):
        with pytest.raises(m.MastlensError) as error:
            read_problems(path)
        assert path.name in str(error.value)


@pytest.mark.parametrize("name", ["gsm8k", "math500"])
def test_the_sample_reads_and_survives_the_tokenizer(tiny, name):
    found = read_problems(DATA / name / "sample.jsonl")
    assert len(found) == 20
    assert [p.line for p in found] == list(range(1, 21))
    assert all(p.problem and p.solution and p.answer for p in found)
    assert (DATA / name / "LICENSE").read_text().startswith("MIT License")
    tokenizer = m.Checkpoint(tiny.rlvr).load_tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_tokenizer(tokenizer, found, "tiny")  # byte level: nothing can be lost
    for p in found:
        encoded = encode_problem(p, tokenizer)
        assert tokenizer.decode(encoded.prompt, clean_up_tokenization_spaces=False) == p.problem + "\n"
        assert tokenizer.decode(encoded.solution[:-1], clean_up_tokenization_spaces=False) == p.solution
        assert encoded.solution[-1] == tokenizer.eos_token_id


def letters_tokenizer(alphabet, *, keep_spaces):
    """Return a tokenizer that knows single characters only and drops in silence what it does not know."""
    tokens = ["<|endoftext|>", *sorted(set(alphabet))]
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    if not keep_spaces:
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


TEXT = m.Problem(problem="What is 1 + 1?", solution="It is 2.", answer="2")
ALL = TEXT.problem + TEXT.solution + "\n" + r"\boxed{}"


def test_a_tokenizer_that_loses_characters_is_named():
    broken = letters_tokenizer(ALL.replace("+", ""), keep_spaces=True)
    with pytest.raises(m.MastlensError) as error:
        check_tokenizer(broken, [TEXT], "my/checkpoint")
    assert "my/checkpoint" in str(error.value)
    assert "+" in str(error.value)
    assert "tokenizer" in str(error.value).lower()


def test_a_tokenizer_that_loses_white_space_only_is_a_warning():
    with pytest.warns(m.MastlensWarning) as caught:
        check_tokenizer(letters_tokenizer(ALL, keep_spaces=False), [TEXT], "my/checkpoint")
    assert any("my/checkpoint" in str(w.message) and "white" in str(w.message).lower() for w in caught)


def test_a_whole_tokenizer_is_neither():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_tokenizer(letters_tokenizer(ALL, keep_spaces=True), [TEXT], "my/checkpoint")


def test_every_problem_is_checked_and_not_only_the_first():
    broken = letters_tokenizer(ALL, keep_spaces=True)
    late = m.Problem(problem="What is Ω?", solution="It is 2.", answer="2", line=41)
    with pytest.raises(m.MastlensError, match="Ω"):
        check_tokenizer(broken, [TEXT] * 40 + [late], "my/checkpoint")


def test_what_reads_problems_checks_the_tokenizer(tiny, tmp_path):
    """A Qwen2 folder gets the Qwen2 class whatever its files say; so the check is where the files are read."""
    folder, out = tmp_path / "rlvr", tmp_path / "out"
    shutil.copytree(tiny.rlvr, folder)
    letters_tokenizer("WhatisIt .?2", keep_spaces=True).save_pretrained(folder)
    for call in (
        lambda: m.couple(sft=tiny.sft, rlvr=folder, forget=tiny.forget, out=out),
        lambda: m.unlearn(rlvr=folder, forget=tiny.forget, objective="ga", steps=1, lr=1e-3, where="q_proj", out=out),
        lambda: m.evaluate(model=folder, splits={"f": tiny.forget}, max_new_tokens=2, out=out),
    ):
        with pytest.raises(m.MastlensError, match=r"(?i)tokenizer"):
            call()
        assert not list(out.rglob("*"))


def test_a_problem_longer_than_the_context_is_named_by_line(tiny, tmp_path):
    tokenizer = m.Checkpoint(tiny.rlvr).load_tokenizer()
    path = write(tmp_path / "long.jsonl", MATH, MATH, MATH | {"solution": "Nothing here. " * 60})
    problems = read_problems(path)
    with pytest.raises(m.MastlensError) as error:
        encode_problems(problems, tokenizer, context=128, source=str(path))
    message = str(error.value).replace(str(path.parent), "")
    assert "3" in message
    assert "128" in message
    assert path.name in message
    assert len(encode_problems(problems, tokenizer)) == 3  # no limit
    assert len(encode_problems(problems[:2], tokenizer, context=128)) == 2


def test_the_context_is_met_exactly(tiny):
    tokenizer = m.Checkpoint(tiny.rlvr).load_tokenizer()
    encoded = encode_problem(TEXT, tokenizer)
    size = len(encoded.prompt) + len(encoded.solution)
    assert encode_problems([TEXT], tokenizer, context=size) == [encoded]
    with pytest.raises(m.MastlensError):
        encode_problems([TEXT], tokenizer, context=size - 1)


CHAT = (
    "{% for x in messages %}<{{ x['role'] }}>{{ x['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_the_chat_template_takes_the_prompts_place(tiny):
    tokenizer = m.Checkpoint(tiny.rlvr).load_tokenizer()
    plain = encode_problem(TEXT, tokenizer)
    tokenizer.chat_template = CHAT
    chat = encode_problem(TEXT, tokenizer)
    assert tokenizer.decode(chat.prompt) == "<user>What is 1 + 1?</><assistant>"
    assert chat.solution == plain.solution
    assert encode_problem(TEXT, tokenizer, chat_template=False) == plain


def test_special_tokens_of_the_tokenizer_stand_before_the_prompt_alone():
    from tokenizers.processors import TemplateProcessing

    tokenizer = letters_tokenizer(ALL, keep_spaces=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    encoded = encode_problem(TEXT, tokenizer)
    assert encoded.prompt[0] == 0
    assert encoded.prompt[1:] == tuple(tokenizer(TEXT.problem + "\n", add_special_tokens=False)["input_ids"])
    assert encoded.solution == (*tokenizer(TEXT.solution, add_special_tokens=False)["input_ids"], 0)


def test_collate_marks_solution_and_padding(tiny):
    tokenizer = m.Checkpoint(tiny.rlvr).load_tokenizer()
    long = m.Problem(problem="What is 1 + 1?" * 3, solution="It is 2." * 2, answer="2")
    encoded = encode_problems([TEXT, long], tokenizer)
    batch = collate(encoded, pad=9)
    for row, item in enumerate(encoded):
        size = len(item.prompt) + len(item.solution)
        ids = [*item.prompt, *item.solution]
        width = batch.input_ids.shape[1]
        assert batch.input_ids[row].tolist() == ids + [9] * (width - size)
        assert batch.attention_mask[row].tolist() == [True] * size + [False] * (width - size)
        solution = [False] * len(item.prompt) + [True] * len(item.solution) + [False] * (width - size)
        assert batch.is_solution[row].tolist() == solution
