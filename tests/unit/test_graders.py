"""Graders: found by name, each right where it should be and wrong beside it."""

import pytest

from mastlens.decoding.graders import DEFAULT, GRADERS, Grade, Grader, find_grader
from mastlens.errors import MastlensError


@pytest.mark.parametrize(
    ("grader", "response", "gold", "right"),
    [
        ("mathematics", r"so \boxed{\frac12}", "0.5", True),
        ("mathematics", r"so \boxed{\frac12}", "0.25", False),
        ("text", r"so \boxed{0.5}", "0.5", True),
        ("text", r"so \boxed{.5}", "0.5", False),
        ("text", "New  York", "New York", True),
        ("text", "NewYork", "New York", False),
        ("text", "I think\n#### Paris", "Paris", True),
        ("text", "", "Paris", False),
        ("text:boxed", r"\boxed{12}", "12", True),
        ("text:boxed", "12", "12", False),
        ("text:boxed", "#### 12", "12", False),
        (r"regex:answer is (\w+)", "The answer is 5, no: the answer is 7.", "7", True),
        (r"regex:answer is (\w+)", "The answer is 5, no: the answer is 7.", "5", False),
        (r"regex:\d+$", "7\nand 8", "8", True),
        (r"regex:\d+$", "none", "8", False),
        (r"regex:a(b)?", "a", "b", False),
        (r"regex:^(\w+): (\w+)", "x: y", "x", True),
        ("choice", "B", "B", True),
        ("choice", "(b)", "B", True),
        ("choice", "b", r"\text{(B)}", True),
        ("choice", r"so \boxed{\text{(B)}}", "B", True),
        ("choice", r"\boxed{\textbf{B. } Paris}", "B", True),
        ("choice", "B. Paris", "B", True),
        ("choice", "Paris is a city. The answer is (C).", "C", True),
        ("choice", "**Answer: C**", "C", True),
        ("choice", "The answer is B. No, the answer is C", "C", True),
        ("choice", "The answer is B. No, the answer is C", "B", False),
        ("choice", "The answer is Berlin", "B", False),
        ("choice", "A man walks", "A", False),
        ("choice", "I cannot say", "I", False),
        ("choice", "a", "A", True),
        ("choice:AB", "C", "C", False),
        ("choice", "", "A", False),
    ],
)
def test_right_and_wrong(grader, response, gold, right):
    found = find_grader(grader).grade(response, gold)
    assert found.correct is right
    assert found.strict <= found.correct
    assert found.reason


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("mathematics", "7", "8"), ("text", "B", "A"), ("choice", "B", "A"), ("regex:[A-Z]$", "B", "A")],
)
def test_thinking_does_not_count(name, right, wrong):
    grader = find_grader(name)
    assert grader.grade(f"<think>{wrong}</think>\n{right}", right).correct
    assert not grader.grade(f"<think>{right}</think>\n{wrong}", right).correct
    assert grader.grade(f"{wrong}</think>\n{right}", right, opened=True).correct
    cut = grader.grade(right, right, opened=True)
    assert not cut.correct and cut.answer is None and "cut off" in cut.reason
    assert grader.grade(right, right).correct


def test_all_are_found_and_described():
    assert DEFAULT == find_grader().name == "mathematics"
    assert set(GRADERS) == {"mathematics", "text", "regex", "choice"}
    for kind in GRADERS.values():
        assert kind.summary


@pytest.mark.parametrize("text", ["mathematics", "text:boxed", "regex:a:b(c)", "choice:ABCD"])
def test_a_grader_is_found_by_its_own_spelling(text):
    grader = find_grader(text)
    assert find_grader(grader.spelled) == grader
    assert find_grader(grader) is grader
    assert grader.record()["name"] == text.partition(":")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mathematic", "'mathematics'"),
        ("text:boxes", "'boxed'"),
        ("mathematics:x", "takes no argument"),
        ("regex", "regex:PATTERN"),
        ("regex:(", "regular expression"),
        ("choice:A", "two different letters"),
        ("nowhere.py:f", "no file nowhere.py"),
        ("nowhere.py", "no file nowhere.py"),
    ],
)
def test_mistakes_are_told(text, said):
    with pytest.raises(MastlensError) as error:
        find_grader(text)
    assert said in str(error.value)


def test_a_function_by_path(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def ends(response, gold):\n    return response.endswith(gold)\n")
    grader = find_grader(f"{file}:ends")
    assert grader.grade("it is 7", "7").correct
    assert not grader.grade("it is 8", "7").correct
    assert find_grader(grader.spelled) == grader
    before = grader.record()
    (tmp_path / "moved.py").write_text(file.read_text())
    assert find_grader(f"{tmp_path / 'moved.py'}:ends").record() == before
    file.write_text(file.read_text() + "\n")
    assert find_grader(f"{file}:ends").record() != before  # what it says now may differ


def test_a_function_may_give_the_whole_grade_and_a_file_may_hold_a_grader(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from mastlens.decoding.graders import Grade, Grader, argument\n"
        "def f(response, gold):\n    return Grade(True, False, response, 'because')\n"
        "@dataclass(frozen=True)\nclass Mine(Grader):\n    name = 'mine'\n    summary = 'mine'\n"
        "    most: int = argument(default=3, help='a number', parse=int)\n"
        "    def judge(self, said, gold):\n        return Grade(len(said) < self.most, False, said, 'short')\n"
        "six = Mine(6)\n"
    )
    assert find_grader(f"{file}:f").grade("y", "z") == Grade(True, False, "y", "because")
    for name, most in (("Mine", 3), ("Mine:5", 5), ("six", 6)):
        grader = find_grader(f"{file}:{name}")
        assert grader.grade("x" * (most - 1), "z").correct
        assert not grader.grade("x" * most, "z").correct
        assert grader.record().keys() == {"name", "most", "code"}
    with pytest.raises(MastlensError, match="a function takes no argument"):
        find_grader(f"{file}:f:7")
    with pytest.raises(MastlensError, match="takes a number"):
        find_grader(f"{file}:Mine:x")
    with pytest.raises(MastlensError, match=r"it has Mine, f|it has .*Mine"):
        find_grader(str(file))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def f(response, gold):\n    return None\n", "returned None"),
        ("def f(response, gold):\n    return 1 / 0\n", "ZeroDivisionError"),
        ("def g(response, gold):\n    return True\n", "Valid: g"),
        ("f = 7\n", "There is no grader in"),
        ("this is no python\n", "cannot be run"),
    ],
)
def test_a_broken_function_is_told(tmp_path, body, said):
    file = tmp_path / "mine.py"
    file.write_text(body)
    with pytest.raises(MastlensError) as error:
        find_grader(f"{file}:f").grade("x", "x")
    assert said in str(error.value)
    assert "mine.py" in str(error.value)


def test_a_path_is_run_only_where_it_was_asked_for(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef f(response, gold):\n    return True\n")
    with pytest.raises(MastlensError, match="only where you ask for it yourself"):
        find_grader(f"{file}:f", code=False)
    assert not (tmp_path / "ran").exists()
    assert find_grader(f"{file}:f").grade("", "").correct
    assert (tmp_path / "ran").exists()


def test_a_grader_of_ones_own_is_taken_as_it_is():
    class Never(Grader):
        name = "never"
        summary = "nothing is right"

        def judge(self, said, gold):
            return Grade(False, False, said, "never")

    assert find_grader(Never()).grade("7", "7").reason == "never"
