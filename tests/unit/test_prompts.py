"""Prompts of the attack: what they put around a problem, what they give away, what fits."""

import pytest

from mastlens.attacks.prompting import knows_thinking, prompt_variants, solution_start
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError, MastlensWarning
from mastlens.problems.encoding import encode_problem, encode_prompt
from mastlens.problems.reading import Problem, read_problems

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def tokenizer(tiny):
    return Checkpoint(tiny.rlvr).load_tokenizer()


@pytest.fixture
def problems(tiny):
    return read_problems(tiny.forget)


def text(tokenizer, ids):
    return tokenizer.decode(list(ids))


def test_plain_is_what_everything_else_reads(tokenizer, problems):
    variants = prompt_variants(tokenizer, problems)
    assert next(iter(variants)) == "plain"
    for problem in problems:
        assert variants["plain"](problem).ids == encode_problem(problem, tokenizer)
        assert variants["plain"](problem).given == ""


def test_prefill_gives_the_beginning_and_scores_the_rest(tokenizer):
    problem = Problem("How many?", r"First 3*4=12; then 12+5=17; then 17-2=15. In all \boxed{15}.", "15")
    found = prompt_variants(tokenizer, [problem], prefills=[0.5])["prefill-50"](problem)
    assert found.given == "First 3*4=12; then 12+5=17;"
    assert text(tokenizer, found.ids.prompt) == "How many?\n" + found.given
    rest = text(tokenizer, found.ids.solution[:-1])
    assert found.given + rest == problem.solution
    assert found.ids.solution[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("solution", "answer", "share", "expected"),
    [
        (r"Take 7 of them, so \boxed{12}.", "12", 0.99, "Take 7 of them, so"),
        (r"2+3=5 and 5+1=6. \boxed{5}", "5", 0.9, ""),  # the answer stands in the first word
        (r"Add 15 and 5 to 20. \boxed{5}", "5", 0.9, "Add 15 and"),  # 15 is another number
        (r"It is \boxed{3}.", "3", 0.9, "It is"),
        (r"\boxed{x+1} it is, as one sees", "x + 1", 0.9, ""),
        ("one two three four", "four", 0.25, "one"),
    ],
)
def test_a_prefill_never_states_the_answer(solution, answer, share, expected):
    found = solution_start(Problem("?", solution, answer), share)
    assert found == expected
    assert solution.startswith(found)
    assert len(found) <= share * len(solution)


def test_no_beginning_of_a_real_solution_holds_its_answer():
    from mastlens.organisms import lineage_folder

    for problem in read_problems(lineage_folder("qwen2") / "forget-eval.jsonl"):
        given = solution_start(problem, 0.95)
        words = given.replace("=", " ").replace("*", " ").replace("+", " ").replace("-", " ").replace("/", " ").split()
        assert problem.answer not in [word.strip(".,;:") for word in words]
        assert "boxed" not in given


def test_few_shot_shows_solved_examples_first(tokenizer, problems):
    examples = {"retain": problems[6:9]}
    variants = prompt_variants(tokenizer, problems[:3], examples=examples, shots=[2])
    shown = text(tokenizer, variants["few-shot-retain-2"](problems[0]).ids.prompt)
    first, second = problems[6], problems[7]
    expected = f"{first.problem}\n{first.solution}\n\n{second.problem}\n{second.solution}\n\n{problems[0].problem}\n"
    assert shown == expected
    assert variants["few-shot-retain-2"](problems[0]).ids.solution == variants["plain"](problems[0]).ids.solution


def test_few_shot_says_what_the_context_holds(tokenizer, problems):
    examples = {"retain": problems[6:12]}
    plain = prompt_variants(tokenizer, problems[:3])["plain"]
    longest = max(len(plain(p).ids.prompt) for p in problems[:3])
    room = 2 * max(len(plain(p).ids.solution) for p in problems[:3])
    one = prompt_variants(tokenizer, problems[:3], examples=examples, shots=[1])["few-shot-retain-1"]
    context = max(len(one(p).ids.prompt) for p in problems[:3]) + room
    with pytest.warns(MastlensWarning, match="holds 1"):
        variants = prompt_variants(tokenizer, problems[:3], examples=examples, shots=[4], context=context)
    assert [name for name in variants if name.startswith("few-shot")] == ["few-shot-retain-1"]
    with pytest.warns(MastlensWarning, match="holds 0"):
        variants = prompt_variants(tokenizer, problems[:3], examples=examples, shots=[4], context=longest + room)
    assert not [name for name in variants if name.startswith("few-shot")]


def test_paraphrases_keep_the_problem_and_the_solution(tokenizer, problems):
    variants = prompt_variants(tokenizer, problems)
    named = [name for name in variants if name.startswith("paraphrase")]
    shown = {text(tokenizer, variants[name](problems[0]).ids.prompt) for name in named}
    assert len(shown) == len(named) >= 3
    for prompt in shown:
        assert problems[0].problem in prompt
        assert prompt != problems[0].problem + "\n"


def test_thinking_only_where_it_is_known(tokenizer, problems):
    assert not knows_thinking(tokenizer)
    assert not any("think" in name for name in prompt_variants(tokenizer, problems))
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    variants = prompt_variants(tokenizer, problems)
    base = encode_prompt(problems[0].problem, tokenizer)
    for name, given in (("think", "<think>\n"), ("empty-think", "<think>\n\n</think>\n\n")):
        found = variants[name](problems[0])
        assert found.given == given
        assert found.ids.prompt[: len(base)] == base
        assert text(tokenizer, found.ids.prompt[len(base) :]) == given
        assert found.ids.solution == variants["plain"](problems[0]).ids.solution


def test_a_template_that_opens_the_thinking_is_only_closed(tokenizer, problems):
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    tokenizer.chat_template = CHATML.replace("<|assistant|>", "<|assistant|><think>\n")
    variants = prompt_variants(tokenizer, problems)
    assert "think" not in variants  # the plain prompt is it already
    shown = text(tokenizer, variants["empty-think"](problems[0]).ids.prompt)
    assert shown == f"<|user|>{problems[0].problem}\n<|assistant|><think>\n\n</think>\n\n"


def test_examples_are_turns_of_a_chat(tokenizer, problems):
    tokenizer.chat_template = CHATML
    variants = prompt_variants(tokenizer, problems[:1], examples={"train": problems[3:4]}, shots=[1])
    shown = text(tokenizer, variants["few-shot-train-1"](problems[0]).ids.prompt)
    one = problems[3]
    assert shown == (
        f"<|user|>{one.problem}\n<|assistant|>{one.solution}\n<|user|>{problems[0].problem}\n<|assistant|>"
    )
    bare = prompt_variants(tokenizer, problems[:1], chat_template=False)["plain"](problems[0])
    assert text(tokenizer, bare.ids.prompt) == problems[0].problem + "\n"


@pytest.mark.parametrize("settings", [{"prefills": [1.0]}, {"prefills": [0.0]}, {"shots": [0], "examples": True}])
def test_settings_that_make_no_sense_are_refused(tokenizer, problems, settings):
    if "examples" in settings:
        settings = settings | {"examples": {"train": problems}}
    with pytest.raises(MastlensError, match="--"):
        prompt_variants(tokenizer, problems, **settings)
