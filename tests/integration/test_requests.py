"""Requests in sequence on a tiny lineage: the chain is one edit, orders differ, overlapping requests are refused."""

import pandas as pd
import pytest

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.evaluation.responses import evaluate
from mastlens.models.weights import same_bits
from mastlens.plots.cards.requests import requests_card
from mastlens.plots.tables import figure_table
from mastlens.studies.requests import FILE, Requests, unlearn_requests

from ..columns import check_table
from ..conftest import write_problems

NAME = "model.layers.0.self_attn.v_proj.weight"
SETTINGS = {"names": [NAME], "objective": "ga", "steps": 1, "lr": 1e-2, "batch_size": 2, "progress": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("requests")
    names = ("one", "two", "kept")
    train = {n: write_problems(folder / f"{n}.jsonl", first=100 * (i + 1), count=3) for i, n in enumerate(names[:2])}
    tested = {n: write_problems(folder / f"{n}-eval.jsonl", first=500 + 50 * i, count=2) for i, n in enumerate(names)}
    return train, tested


def chain(tiny, files, out=None, **changes):
    train, tested = files
    given = {"orders": "all", "evaluation": {"max_new_tokens": 2, "batch_size": 4}, "out": out} | changes
    return unlearn_requests(tiny.rlvr, train, tested, **given, **SETTINGS)


@pytest.fixture(scope="module")
def made(tiny, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("chain") / "out"
    return out, chain(tiny, files, out)


def test_the_chain_is_one_edit_of_the_source(tiny, made, files):
    out, _ = made
    first, second = (Edit.load(out / name / "edit.safetensors") for name in ("one", "one+two"))
    assert same_bits(second.before[NAME], first.after[NAME])  # the second began where the first had ended
    assert not same_bits(second.after[NAME], first.after[NAME])
    whole = first.compose(second)
    assert same_bits(whole.before[NAME], Checkpoint(tiny.rlvr).tensor(NAME))
    wanted = evaluate(
        model=tiny.rlvr, edit=whole, splits=files[1], max_new_tokens=2, batch_size=4, progress=False
    ).table
    kept = pd.read_parquet(out / "one+two" / "evaluation" / "responses.parquet")
    assert kept[["split", "item", "response", "logprob_solution"]].equals(
        wanted[["split", "item", "response", "logprob_solution"]]
    )
    others = [name for name in Checkpoint(tiny.rlvr).tensors if name != NAME]
    edited = Checkpoint(out / "one" / "edited")
    assert all(same_bits(edited.tensor(name), Checkpoint(tiny.rlvr).tensor(name)) for name in others)


def test_every_order_stage_and_split_has_its_row(made):
    out, result = made
    table = result.table
    assert table["order"].unique().tolist() == ["one > two", "two > one", "at once"]
    assert len(table) == 3 * (3 + 3 + 2)
    assert pd.read_parquet(out / FILE).equals(table)
    check_table(out / FILE, "mastlens.unlearn_requests")
    rows = table[table["order"] == "two > one"].set_index(["stage", "split"])
    assert rows.loc[1, "side"].to_dict() == {"one": "waiting", "two": "forgotten", "kept": "retain"}
    assert rows.loc[2, "side"].to_dict() == {"one": "forgotten", "two": "forgotten", "kept": "retain"}
    assert rows.loc[(2, "two"), "request"] == "one"
    assert (table["ci_low"] <= table["accuracy"]).all()
    once = table[(table["order"] == "at once") & (table["stage"] == 1)]
    assert once["side"].tolist() == ["forgotten", "forgotten", "retain"]
    assert len(pd.read_parquet(out / "at-once" / "steps.parquet")) == 2  # as many steps as both requests have
    assert not same_bits(
        Edit.load(out / "two+one" / "edit.safetensors").after[NAME],
        Edit.load(out / "one+two" / "edit.safetensors").after[NAME],
    )
    assert len(figure_table(result.plot())) == len(table)


def test_run_again_nothing_is_made_anew(tiny, made, files):
    out, result = made
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert chain(tiny, files, out).table.equals(result.table)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == stamps


def test_what_came_back_is_said_only_beyond_its_interval():
    row = {"order": "a > b", "stage": 2, "request": "b", "split": "a", "side": "forgotten", "n": 50, "accuracy": 0.4}
    row |= {"change": 0.3, "change_low": 0.1, "change_high": 0.5}
    kept = {**row, "split": "k", "side": "retain", "change": -0.1, "change_low": -0.2, "change_high": 0.1}
    back = requests_card(pd.DataFrame([row, kept])).verdict
    assert back.startswith("Came back by a later request: a, after b (a > b): +30 points [+10, +50].")
    assert "a > b: -10" in back
    none = requests_card(pd.DataFrame([{**row, "change_low": -0.1}, kept])).verdict
    assert none.startswith("No later request brought back what an earlier one took out, in 1 readings.")
    assert Requests(pd.DataFrame([row, kept])).card().verdict == back


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"requests": ("one",)}, "at least two"),
        ({"requests": ("one", "again")}, "overlap: 3 problems"),
        ({"requests": ("one", "other")}, "no split to test it on"),
        ({"orders": "some"}, "'all'|given, all"),
        ({"tested": "one"}, "also in the split 'kept'"),
        ({"forget": "x"}, "given by the requests"),
        ({"requests": ("one", "a/b")}, "names folders"),
    ],
)
def test_a_users_mistake_is_said_before_anything_is_written(tiny, files, tmp_path, changes, said):
    train, tested = files
    more = {"again": train["one"], "other": train["two"], "a/b": train["two"]}
    train = {name: {**train, **more}[name] for name in changes.pop("requests", train)}
    tested = {**tested, "again": tested["two"], "a/b": tested["two"]}
    if changes.pop("tested", None):
        tested |= {"kept": train["one"]}
    with pytest.raises(m.MastlensError, match=said):
        unlearn_requests(tiny.rlvr, train, tested, out=tmp_path / "out", **{**SETTINGS, **changes})
    assert not (tmp_path / "out").exists()
