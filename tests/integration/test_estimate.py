"""``estimate``: what a command will need, from running it small; nothing is written, and nothing of the user's read."""

import json

import pytest

import mastlens as m
from mastlens.cli import main
from mastlens.cli.registry import COMMANDS
from mastlens.errors import MastlensError
from mastlens.estimating import plans
from mastlens.estimating.plans import PLANS, Plan, Probe, lines_of, sampled, spread
from mastlens.evaluation.settings import EvaluateSettings
from mastlens.problems.encoding import encode_problems
from mastlens.problems.reading import read_problems
from mastlens.runs.settings import Settings
from mastlens.unlearning.settings import UnlearnSettings

LAST = "layers.1.self_attn.o"


def asked(tiny, **more) -> UnlearnSettings:
    made = {"rlvr": tiny.rlvr, "forget": tiny.forget, "retain": tiny.retain, "objective": "npo", "where": LAST}
    return UnlearnSettings(**{**made, "steps": 40, "lr": 1e-4, "batch_size": 2} | more)


def test_the_whole_follows_from_two_probes_and_from_what_a_token_costs():
    none = Settings()
    plan = Plan(Probe(none, 1), Probe(none, 5), 101, "texts")
    assert len(plan.probes) == 3
    # 9 s at the first time, 3 s for one text, 5 s for five: half a second a text
    assert plan.seconds([9.0, 3.0, 5.0]) == pytest.approx(9 + 100 * 0.5)
    longer = Plan(Probe(none, 1), Probe(none, 5), 101, "texts", Probe(none, 5), plans.LONG + 30)
    token = 1.6 / (plans.LONG - plans.SHORT) / 5
    told = longer.seconds([9.0, 3.0, 5.0, 6.6])
    assert told == pytest.approx(59 + token * 101 * (plans.LONG + 30 - plans.SHORT))
    assert longer.seconds([9.0, 3.0, 5.0, 4.0]) == pytest.approx(59)  # noise is not taken for a gain


def test_probes_read_the_longest_text_and_texts_at_even_places():
    lines = ["x" * length for length in (9, 1, 5, 3, 7, 2, 8, 4)]
    assert [len(line) for line in spread(lines, 4)] == [2, 4, 7, 9]
    assert [len(line) for line in spread(lines, 1)] == [9]
    assert sorted(spread(lines, 20)) == sorted(lines)


def test_a_probe_is_the_command_itself_but_for_its_size(tiny, tmp_path):
    whole = asked(tiny, out=tmp_path / "run", limit=3)
    small = sampled(whole, 2, tmp_path, steps=1)
    assert (small.out, small.limit, small.steps) == (None, None, 1)
    kept = read_problems(tiny.forget)[:3]
    assert {p.problem for p in read_problems(small.forget)} < {p.problem for p in kept}
    assert len(read_problems(small.retain)) == 2
    same = ("rlvr", "objective", "where", "lr", "batch_size", "dtype", "seed")
    assert all(getattr(small, name) == getattr(whole, name) for name in same)


def test_an_edit_is_estimated_and_nothing_is_written(tiny, tmp_path):
    before = {path: path.read_bytes() for path in tiny.rlvr.rglob("*") if path.is_file()}
    found = m.estimate(asked(tiny, out=tmp_path / "run"), progress=False)
    assert list(tmp_path.iterdir()) == []
    assert {path: path.read_bytes() for path in tiny.rlvr.rglob("*") if path.is_file()} == before
    checkpoint = m.Checkpoint(tiny.rlvr)
    (stored,) = [t for name, t in checkpoint.tensors.items() if LAST in name]
    entries = stored.shape[0] * stored.shape[1]
    assert found.value("disk") == 2 * entries * stored.dtype.itemsize / 1e6
    assert found.value("disk while it runs") == 16 * entries / 1e6
    assert found.value("steps") == 40
    assert found.value("time") > 0
    tokenizer = checkpoint.load_tokenizer()
    means = [
        sum(ids.length for ids in encode_problems(problems, tokenizer)) / len(problems)
        for problems in map(read_problems, (tiny.forget, tiny.retain))
    ]
    assert found.value("tokens of the texts") == pytest.approx(sum(means) * 40 * 2, abs=1)
    assert found.command.startswith("mastlens unlearn ")
    assert "Nothing was written" in found.card().verdict


def test_what_a_model_writes_is_counted_at_the_most(tiny):
    splits = {"a": tiny.forget}
    given = {"model": tiny.rlvr, "splits": splits, "max_new_tokens": 20, "samples": 2, "temperature": 1.0}
    found = m.estimate(m.evaluate, given={**given, "limit": 2}, progress=False)
    assert found.value("texts") == 2
    assert found.value("tokens written, at most") == 2 * 2 * 20
    assert lines_of(EvaluateSettings(**given)).keys() == {"a"}
    assert found.value("disk") != found.value("disk")  # tables are not counted


@pytest.mark.parametrize("command", ["geometry", "couple", "causal-map", "token-differences"])
def test_other_commands_are_estimated(tiny, command):
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr}
    given = {
        "geometry": {"base": tiny.base, **pair},
        "couple": {**pair, "forget": tiny.forget, "spectrum": False},
        "causal-map": {**pair, "forget": tiny.forget, "both_directions": False},
        "token-differences": {**pair, "splits": {"a": tiny.forget}},
    }[command]
    found = m.estimate(getattr(m, command.replace("-", "_")), given=given, progress=False)
    assert found.value("time") > 0
    assert found.settings["work"] > max(found.settings["probed"]) or command == "geometry"


def test_the_command_line_estimates_the_command_behind_it(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["couple", "--sft", str(tiny.sft), "--rlvr", str(tiny.rlvr), "--forget", str(tiny.forget)]
    assert main(["estimate", "--json", *words, "--no-spectrum", "--out", "run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["command"].startswith("mastlens couple ")
    assert {row["quantity"] for row in told["estimate"]} >= {"texts", "tokens of the texts", "time"}
    assert not (tmp_path / "run").exists()
    assert main(["estimate", "edit", "show", "x"]) == 2
    assert "cannot be estimated. These can be: geometry" in capsys.readouterr().err
    assert main(["estimate"]) == 2
    assert "nothing to estimate" in capsys.readouterr().err


def test_what_is_no_command_is_refused():
    with pytest.raises(MastlensError, match="a command's function with its settings"):
        m.estimate(print)
    assert set(PLANS) <= {entry.settings.command for entry in COMMANDS}
