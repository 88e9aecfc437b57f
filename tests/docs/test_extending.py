"""Each page on extending does what it says: it is run from top to bottom, and what it made is looked at."""

import hashlib
import json
import re

import pandas as pd
import pytest

from mastlens.architectures import catalogue
from mastlens.cli import main
from mastlens.errors import MastlensError
from mastlens.selection import RULES, describe_rules
from tests.docs.pages import DOCS, read_blocks, run_page


def test_a_figure(tmp_path, monkeypatch):
    made = run_page("extending/figure", tmp_path, monkeypatch)
    geometry = pd.read_parquet(tmp_path / "run" / "geometry.parquet")
    rlvr = geometry[(geometry["increment"] == "rlvr") & (geometry["projection"] == "q")]
    drawn = json.loads(made["fig"].to_json())["data"][0]
    assert drawn["name"] == "q"
    assert list(made["fig"].data[0].y) == pytest.approx(list(rlvr["delta_norm"] / rlvr["precision_floor"]))
    assert {path.name for path in tmp_path.glob("above-rounding.*")} == {
        f"above-rounding.{e}" for e in ("html", "json", "csv")
    }
    with pytest.raises(
        MastlensError, match=r"needs the column 'precision_floor'.*mastlens geometry writes such a table"
    ):
        made["plot_above_rounding"](geometry.drop(columns="precision_floor"))


def test_an_architecture(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_registered", {})
    made = run_page("extending/architecture", tmp_path, monkeypatch)
    assert "bloom" not in catalogue.ARCHITECTURES
    check = read_blocks(DOCS / "extending" / "architecture.md")[-1].code
    confused = check.replace("matrix[projection]", "matrix[dict(q='k', k='q', v='v')[projection]]")
    exec(check, dict(made))
    with pytest.raises(AssertionError):  # q and k have one shape: nothing but this check tells them apart
        exec(confused, dict(made))


def test_a_score(tmp_path, monkeypatch):
    made = run_page("extending/score", tmp_path, monkeypatch)
    assert made["ranking"]["selected"].sum() == 4
    assert made["scores"].abs().max() > 1e-5  # not equal by being nothing


def test_a_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(RULES, "_registered", {})
    made = run_page("extending/rule", tmp_path, monkeypatch)
    assert "spared" in describe_rules()["rule"].tolist()
    ranking, table = made["ranking"], made["table"]
    assert ranking["selected"].sum() == table["selected"].sum() == 4
    assert ranking.set_index("name")["score"].to_dict() != table.set_index("name")["score"].to_dict()  # another weight
    # The same name with other code is another stage: refused, and the ranking stands as it was.
    before = (tmp_path / "run" / "ranking.parquet").read_bytes()
    text = (tmp_path / "spared.py").read_text()
    (tmp_path / "spared.py").write_text(text.replace("- weight *", "+ weight *"))
    again = ["rank", "run", "--rule", "spared.py:SPARED", "--parameter", "weight=2", "--top", "4"]
    assert main(again) == 2
    assert (tmp_path / "run" / "ranking.parquet").read_bytes() == before
    (tmp_path / "spared.py").write_text(text)
    assert main(again) == 0


@pytest.mark.slow
def test_a_judge(tmp_path, monkeypatch):
    made = run_page("extending/judge", tmp_path, monkeypatch)

    def recorded(name):
        return json.loads((tmp_path / name / "run.json").read_text())["stages"]["evaluate-traces"]["settings"]["judge"]

    code = hashlib.sha256((tmp_path / "words.py").read_bytes()).hexdigest()
    assert recorded("words") == {"judge": "words", "case": False, "code": code}
    assert "code" not in recorded("rule")
    mine, exact = made["mine"], made["exact"]
    asked = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    answers = [one["choices"][one["answer"]].lower() for one in asked]
    said = [answer in re.findall(r"\w+", trace.lower()) for answer, trace in zip(answers, mine["trace"], strict=True)]
    assert mine["leak"].tolist() == said
    assert 0 < sum(said) < len(said)
    assert made["agreement"].table.to_numpy().sum() == len(mine) == len(exact)
    wrong = ["evaluate-traces", "--model", "organism:think/think", "--questions", "forget=questions.jsonl"]
    assert main([*wrong, "--out", "x", "--judge", "rul"]) == 2
    assert main([*wrong, "--out", "x", "--judge", "words.py:NOTHING"]) == 2


def test_a_grader(tmp_path, monkeypatch):
    made = run_page("extending/grader", tmp_path, monkeypatch)
    assert made["grader"].record().keys() == {"name", "tolerance", "code"}
    said = pd.read_parquet(tmp_path / "near" / "responses.parquet")
    again = [made["grader"].grade(text, gold) for text, gold in zip(said["response"], said["gold"], strict=True)]
    assert said["correct"].tolist() == [grade.correct for grade in again]
    recorded = json.loads((tmp_path / "near" / "run.json").read_text())["stages"]["evaluate"]["settings"]["grader"]
    digest = hashlib.sha256((tmp_path / "near.py").read_bytes()).hexdigest()
    assert recorded == {"name": "near", "tolerance": 0.05, "code": digest}
    with pytest.raises(MastlensError, match="takes a share of the gold answer"):
        made["find_grader"]("near.py:Near:much")
