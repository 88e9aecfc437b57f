"""What a command says last, quietly or not, and options that come out of a file."""

import json

import pytest

from mastlens.cli import main
from mastlens.cli.defaults import parse
from mastlens.cli.outcome import Outcome
from mastlens.cli.parser import build_parser
from mastlens.cli.reading import settings_from
from mastlens.cli.registry import COMMANDS
from mastlens.errors import MastlensError
from mastlens.evaluation.settings import EvaluateSettings
from mastlens.runs.words import following
from tests.docs.test_commands import unknown_words
from tests.unit.test_settings import filled

SILENT = {"report", "figures", "estimate"}  # a page, files and a command line: they are the end, or name what follows


@pytest.mark.parametrize("settings", [pytest.param(c.settings, id=c.settings.command) for c in COMMANDS])
def test_every_command_says_what_to_type_next(settings):
    line = following(filled(settings))
    assert bool(line) is (settings.command not in SILENT)
    if line:
        assert unknown_words(line) == []
        assert "{" not in line


def test_paths_that_were_given_stand_in_the_next_command_and_others_in_capitals():
    asked = EvaluateSettings(model="m", splits={"a": "x"}, out="my run")
    assert following(asked) == "mastlens compare 'my run' AFTER"
    assert following(EvaluateSettings(model="m", splits={"a": "x"})) == "mastlens compare OUT AFTER"


def test_quiet_leaves_the_conclusion():
    told = Outcome("a table", {"n": 1}, "It is so.", "mastlens report run")
    assert told.told() == "It is so.\n\na table\n\nNext: mastlens report run"
    assert told.told(quiet=True) == "It is so.\n\nNext: mastlens report run"
    assert Outcome("Wrote it", {}).told(quiet=True) == "Wrote it"
    assert told.machine == {"n": 1, "conclusion": "It is so.", "next": "mastlens report run"}


def test_a_command_begins_with_its_verdict_and_ends_with_what_follows(tiny, capsys):
    assert main(["inspect", str(tiny.rlvr)]) == 0
    whole = capsys.readouterr().out
    assert main(["inspect", str(tiny.rlvr), "--quiet"]) == 0
    short = capsys.readouterr().out
    verdict, blank, following = short.splitlines()
    assert (whole.splitlines()[0], blank, whole.splitlines()[-1]) == (verdict, "", following)
    assert len(whole) > len(short) + 100
    assert following.startswith(f"Next: mastlens geometry --base BASE --rlvr {tiny.rlvr}")
    assert main(["inspect", str(tiny.rlvr), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["next"].startswith("mastlens geometry")


def defaults(tmp_path, text, *words):
    file = tmp_path / "defaults.toml"
    file.write_text(text)
    return parse(build_parser(words[0]), [*words, "--defaults", str(file)])


EVALUATE = """
[evaluate]
model = "m"
max-new-tokens = 8
chat_template = false
stop_at_answer = true
harness = ["one", "two"]
out = "from the file"
[evaluate.split]
a = "a.jsonl"
b = "b c.jsonl"
[edit.apply]
to = "m"
"""


def test_what_is_not_typed_comes_from_the_file_and_what_is_typed_wins(tmp_path):
    found = settings_from(EvaluateSettings, defaults(tmp_path, EVALUATE, "evaluate", "--out", "typed"))
    assert found.model == "m"
    assert found.max_new_tokens == 8
    assert found.chat_template is False
    assert found.stop_at_answer is True
    assert found.splits == {"a": "a.jsonl", "b": "b c.jsonl"}
    assert list(found.harness.tasks) == ["one", "two"]
    assert found.out == "typed"
    typed = settings_from(EvaluateSettings, defaults(tmp_path, EVALUATE, "evaluate", "--split", "c=c.jsonl"))
    assert typed.splits == {"c": "c.jsonl"}  # not both
    assert typed.out == "from the file"
    assert defaults(tmp_path, EVALUATE, "edit", "apply", "e", "--out", "o").to == "m"


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (EVALUATE.replace("model", "modle"), ["evaluate"], "Did you mean 'model'"),
        ("[couple]\n", ["evaluate"], r"has no table \[evaluate\]"),
        ('[evaluate]\nmodel = "m"\n', ["evaluate"], "Neither typed nor in .*: --out"),
        ("[evaluate\n", ["evaluate"], "defaults.toml"),
        ('[unlearn]\nrlvr = "m"\n', ["unlearn"], "--ranking or --where or --all-parameters"),
    ],
)
def test_a_file_that_does_not_fit_is_told(tmp_path, text, words, said):
    with pytest.raises(MastlensError, match=said):
        defaults(tmp_path, text, *words)


def test_the_help_shows_the_coefficients_of_an_objective_of_ones_own(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from mastlens.unlearning.objectives import ForgetBatch, OutputObjective, coefficient\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(OutputObjective):\n"
        "    name = 'mine'\n"
        "    summary = 'mine alone'\n"
        "    strength: float = coefficient('how hard it pulls', 2.5)\n\n"
        "    def forget_loss(self, batch: ForgetBatch, weights=None):\n"
        "        return batch.solutions.logprobs.values.mean()\n"
    )
    for words, seen in ((["unlearn", "--objective", f"{file}:Mine", "--help"], True), (["unlearn", "--help"], False)):
        with pytest.raises(SystemExit):
            main(words)
        shown = " ".join(capsys.readouterr().out.split())
        assert ("strength 2.5: how hard it pulls" in shown) is seen
