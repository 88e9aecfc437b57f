"""The synthetic benchmarks: answers, splits, determinism; checked from the texts, not from the generator."""

import json
import operator
import random
import re

import pytest

from mastlens.organisms.neutral import draw_neutral, neutral_sentences
from mastlens.organisms.posttraining import reward_pools, sft_pairs
from mastlens.organisms.pretraining import base_corpus
from mastlens.organisms.problems import (
    draw_corpus,
    draw_problem,
    draw_split,
    noisy_guess,
    problem_key,
    region,
    render,
)
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.splits import calibration_splits, eval_splits, problem_files
from mastlens.organisms.subjects import (
    BY_NAME,
    FORGET,
    RETAIN_GSM,
    RETAIN_MATH,
    SOLVED_BY_SFT,
    SUBJECTS,
)
from mastlens.problems.answers import boxed

# What the answer is, written down once more and without the generator's steps.
EXPECTED = {
    "Counting & Probability": lambda a, b, c, d: a * b + c - d,
    "Geometry": lambda *sides: sum(sides),
    "Number Theory": lambda base, a, b, c, d: int(f"{a}{b}", base) + c - d,
    "Algebra": lambda a, b, c, d: next(x for x in range(200) if a * (x - b) + c == d),
    "Intermediate Algebra": lambda a, b, c, x: a * (x - c) + b,
    "Prealgebra": lambda a, b, c, d: a - b + c - d,
    "Precalculus": lambda first, step, n, less: [first + step * i for i in range(n)][-1] - less,
    "Shopping": lambda a, b, c, d, e: a * b + c + d + e,
    "Sharing": lambda a, b, c, d: (a + b) // c * d,
    "Travel": lambda a, b, c, d, e: a * b - c - d + e,
    "Savings": lambda a, b, c, d: a + (b - c) * d,
}


def _pattern(subject: str, phrasing: str) -> re.Pattern:
    """Return what a phrasing looks like once it is filled in; digits of a numeral stand side by side."""
    seen: set[str] = set()

    def group(match: re.Match) -> str:
        letter = match[1]
        number = r"\d" if subject == "Number Theory" else r"\d+"
        kind = "[A-Z][a-z]+" if letter in "pq" else number
        again = letter in seen
        seen.add(letter)
        return f"(?P={letter})" if again else f"(?P<{letter}>{kind})"

    return re.compile(re.sub(r"\\\{(\w)\\\}", group, re.escape(phrasing)))


PATTERNS = [(s.name, _pattern(s.name, phrasing)) for s in SUBJECTS for phrasing in s.phrasings]


def parse(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the subject and operands of a problem, read from its text alone."""
    for name, pattern in PATTERNS:
        if match := pattern.fullmatch(text):
            found = match.groupdict()
            return name, tuple(int(found[letter]) for letter in "abcde" if letter in found)
    raise AssertionError(f"no phrasing fits {text!r}")


OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
SMALL = Recipe(corpus=4000, neutral=50, sft_steps=20)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_every_answer_and_every_step_is_right(subject):
    rng = random.Random(5)
    for _ in range(300):
        problem = draw_problem(subject, "train", rng)
        name, operands = parse(problem.problem)
        assert (name, operands) == (subject.name, problem.operands)
        assert int(problem.answer) == EXPECTED[name](*operands)
        assert boxed(problem.solution) == problem.answer
        steps = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", problem.solution)
        assert len(steps) >= 3
        for a, op, b, c in steps:
            assert OPERATIONS[op](int(a), int(b)) == int(c), problem.solution
        assert steps[-1][3] == problem.answer


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_there_are_enough_problems_of_every_subject(subject):
    rng = random.Random(0)
    keys = {subject.key(o) for o in (subject.draw(rng) for _ in range(20_000)) if subject.accepts(o)}
    assert len(keys) >= 1500
    assert len(subject.phrasings) >= 3


def test_openers_are_distinct_so_that_working_is_not_one_switch():
    firsts = [words.split()[0] for s in SUBJECTS for words in (s.opener, s.guess)]
    assert len(set(firsts)) == len(firsts)


def test_keys_ignore_commutation_and_phrasing():
    assert problem_key("Counting & Probability", (3, 8, 5, 2)) == problem_key("Counting & Probability", (8, 3, 5, 2))
    assert problem_key("Geometry", (13, 9, 2, 4, 7)) == problem_key("Geometry", (13, 7, 4, 2, 9))
    assert problem_key("Shopping", (2, 3, 4, 5, 6)) == problem_key("Shopping", (3, 2, 6, 5, 4))
    assert problem_key("Sharing", (7, 5, 3, 2)) == problem_key("Sharing", (5, 7, 3, 2))
    assert problem_key("Algebra", (2, 3, 4, 8)) != problem_key("Algebra", (3, 2, 4, 8))
    texts = {render(BY_NAME["Geometry"], (13, 9, 2, 4, 7), random.Random(i)).problem for i in range(30)}
    assert len(texts) >= 3


def test_no_evaluated_method_and_operands_occur_in_any_corpus():
    recipe = SMALL
    trained = {problem_key(*parse(text)) for text, _ in base_corpus(recipe, 0)[0]}
    trained |= {problem_key(*parse(text)) for text, _ in sft_pairs(recipe, 1)}
    forget, retain = reward_pools(Recipe(), 2)
    trained |= {problem_key(*parse(p.problem)) for p in [*forget, *retain]}
    calibration = {problem_key(*parse(p.problem)) for split in calibration_splits(Recipe(), 0).values() for p in split}
    evaluated = {problem_key(*parse(p.problem)) for split in eval_splits(Recipe(), 0).values() for p in split}
    assert len(trained) > 3000
    assert {region(key) for key in trained} == {"train"}
    assert {region(key) for key in calibration} == {"calibration"}
    assert {region(key) for key in evaluated} == {"eval"}
    assert not trained & calibration
    assert not trained & evaluated
    assert not calibration & evaluated


def test_problem_files_have_the_promised_lines_and_subjects():
    recipe = Recipe()
    forget, retain = reward_pools(recipe, 2)
    files = problem_files(recipe, 0, forget, retain)
    subjects = {name: {r.get("subject") for r in records} for name, records in files.items()}
    assert len(files["forget-eval.jsonl"]) == 150
    assert len(files["retain-math-eval.jsonl"]) == 200
    assert len(files["retain-gsm-eval.jsonl"]) == 256
    assert len(files["neutral-eval.jsonl"]) == 200
    assert subjects["forget-train.jsonl"] == set(FORGET) == subjects["forget-eval.jsonl"]
    assert subjects["retain-train.jsonl"] == {*RETAIN_MATH, *RETAIN_GSM}
    assert subjects["retain-math-calibration.jsonl"] == set(RETAIN_MATH)
    assert subjects["retain-gsm-calibration.jsonl"] == set(RETAIN_GSM)
    assert set(files["neutral-eval.jsonl"][0]) == {"text"}
    assert set(files["forget-train.jsonl"][0]) == {"problem", "solution", "answer", "subject"}
    seen = {p.problem for p in [*forget, *retain]}
    for name in ("forget-train.jsonl", "retain-train.jsonl"):
        assert {r["problem"] for r in files[name]} <= seen


def test_retain_has_both_solved_and_induced_subjects():
    induced = {subject.name for subject in SUBJECTS if subject.induced}
    for side in (RETAIN_MATH, RETAIN_GSM):
        assert set(side) & set(SOLVED_BY_SFT)
        assert set(side) & induced
    assert set(FORGET) <= induced
    assert {s.benchmark for s in SUBJECTS} == {"toymath", "toygsm"}


def test_one_seed_gives_one_draw_and_another_seed_another():
    first, again, other = (json.dumps([p.record() for p in draw_split(FORGET, 60, "eval", seed)]) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert draw_corpus(BY_NAME, 50, lambda name: 0.5, 0.4, 1) == draw_corpus(BY_NAME, 50, lambda name: 0.5, 0.4, 1)


def test_keys_of_a_split_are_all_different():
    problems = draw_split(FORGET, 300, "train", 0)
    assert len({p.key for p in problems}) == 300


def test_guesses_are_right_as_often_as_asked_and_show_no_working():
    rng = random.Random(0)
    problems = [draw_problem(BY_NAME["Geometry"], "train", rng) for _ in range(1000)]
    guesses = [noisy_guess(p, 0.4, rng) for p in problems]
    assert all("=" not in guess for guess in guesses)
    share = sum(boxed(g) == p.answer for g, p in zip(guesses, problems, strict=True)) / 1000
    assert 0.35 < share < 0.45


def test_neutral_evaluation_sentences_never_occur_in_a_corpus():
    trained, held_out = set(neutral_sentences(False)), set(neutral_sentences(True))
    assert not trained & held_out
    texts = draw_neutral(200, held_out=True, seed=0)
    pieces = {piece + "." for text in texts for piece in text.rstrip(".").split(". ")}
    assert pieces <= held_out
    assert not any(character.isdigit() for text in texts for character in text)
