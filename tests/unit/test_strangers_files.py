"""Files from strangers: damaged, of another form, deep, huge, or made to harm; one clear error, nothing run."""

import json
import math
import os
import shutil
from types import SimpleNamespace

import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastlens import organisms
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import foreign_files
from mastlens.checkpoints.folders import MANIFEST, resolve_folder
from mastlens.columns import TABLES
from mastlens.errors import BadFile, BadSetting, MastlensError, NotFound
from mastlens.evaluation.multiple_choice import read_choices
from mastlens.evaluation.perplexity import read_texts
from mastlens.evaluation.safety.requests import read_requests
from mastlens.evaluation.traces.facts import read_facts
from mastlens.evaluation.traces.questions import read_questions
from mastlens.explorer.sources import find_sources
from mastlens.plots.frame import finish, plain
from mastlens.plots.markup import without_markup
from mastlens.problems.reading import read_problems
from mastlens.runs import reading
from mastlens.runs.ledger import Ledger
from mastlens.runs.stages import read_record
from mastlens.selection.catalogue import RULES
from mastlens.selection.ranking import read_selection
from mastlens.studies.arms import Arm
from mastlens.studies.planning import objective_settings
from mastlens.studies.selecting import check_selections
from mastlens.studies.settings import parse_study, read_study
from mastlens.unlearning.documents import read_documents
from mastlens.unlearning.refusals import read_refusals

LINES = [read_problems, read_choices, read_questions, read_texts, read_documents]
READERS = [*LINES, read_facts, lambda path: read_requests("star1", path), read_study, read_refusals]

HARMFUL = {
    "not UTF-8": b'{"question": "\xff", "text": "\xff"}',
    "UTF-16": '{"question": "a"}'.encode("utf-16"),
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "cut": b'{"problem": "a", "solu',
    "no object": b"5",
    "null": b"null",
    "list": b"[1, 2]",
    "a text": b'"choices"',
    "empty": b"",
    "blank": b" \n \n",
    "zeros": bytes(1000),
    "half a pair": b'{"problem": "a\\ud800", "question": "\\ud800", "text": "\\udfff", "solution": "1", "answer": "1"}',
    "many digits": b'{"problem": ' + b"9" * 5000 + b"}",
    "other names": b'{"x": 1}',
    "other kinds": b'{"problem": 1, "question": [], "choices": 5, "answer": {}, "text": 3, "people": 5}',
    "lists for text": b'{"problem": ["a"], "choices": [[1], [2]], "answer": [0], "text": ["x"], "people": [[]]}',
    "an index that is none": b'{"problem": "a", "choices": ["b", "c"], "answer": 1e400}',
}


@pytest.mark.parametrize("content", HARMFUL.values(), ids=HARMFUL)
@pytest.mark.parametrize("read", READERS)
def test_what_is_wrong_with_a_file_is_said(read, content, tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    if read is read_refusals and content.isascii() and content.strip():
        return  # any line of text is a refusal
    with pytest.raises(MastlensError, match=r"file\.jsonl"):
        read(path)


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 300 + "/y", "a\0b", "\ud800", "a+" + "b" * 300], ids=range(5))
def test_a_name_that_no_path_can_have_leads_nowhere(name, tiny, tmp_path):
    """Of a checkpoint, of an adapter's base, of what a study names, of what a record says was read."""
    with pytest.raises(MastlensError):
        Checkpoint(name)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": name, "target_modules": ["q"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(MastlensError, match="base"):
        Checkpoint(tmp_path)
    for index, told in (
        (True, "shards|outside|half of a character"),
        (False, "names|half of a character"),
    ):  # what an index or a configuration leads to
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        shutil.copytree(tiny.rlvr, tmp_path / "model")
        if index:
            (tmp_path / "model" / "model.safetensors").unlink()
            (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        else:
            config = json.loads((tmp_path / "model" / "config.json").read_text())
            (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
        with pytest.raises(MastlensError, match=told):
            Checkpoint(tmp_path / "model").tensors  # noqa: B018 - that it is read
    study = {"train": {"forget": "f", "retain": "r"}, "compare": [{"objectives": ["ga"], "selections": ["mast"]}]}
    held = {kind: {"forget": "f", "kept": "r"} for kind in ("calibration", "eval")}
    parsed = parse_study(study | held | {"lineage": dict.fromkeys(("base", "sft", "rlvr"), name)}, folder=tmp_path)
    assert parsed.lineage.rlvr == name
    record = {"stages": {"study": {"settings": {"lineage": {"rlvr": name}, "train": {"forget": name}}}}}
    assert find_sources(tmp_path, record, checkpoints={}, problems={}, edit=None).problems == {}


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_a_folder_and_a_device_are_no_files(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "zero", tmp_path / "nowhere"):
        with pytest.raises(MastlensError):
            read(path)


def test_the_line_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    good = json.dumps({"problem": "a\u2028b", "solution": "1", "answer": "1"}, ensure_ascii=False)
    path.write_text(f"{good}\n\n{good}\n{{oops\n", encoding="utf-8")
    with pytest.raises(BadFile, match="line 4"):
        read_problems(path)
    path.write_bytes(good.encode() + b"\n\xff")
    with pytest.raises(BadFile, match="line 2"):
        read_problems(path)
    path.write_text(f"\ufeff{good}\n{good}", encoding="utf-8")
    assert [one.line for one in read_problems(path)] == [1, 2]


@pytest.mark.parametrize("data", [b"[]", b"\xff", b"[" * 100_000, b"{"])
def test_a_lineages_card_and_a_folders_list(data, tmp_path, monkeypatch):
    """A card that cannot be read is the file's fault; a list that cannot be read vouches for nothing."""
    monkeypatch.setattr(organisms, "get_organism", lambda name: SimpleNamespace(folder=tmp_path))
    assert organisms.read_card("mine") == {}
    for name in ("card.json", MANIFEST):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadFile, match=r"card\.json"):
        organisms.read_card("mine")
    assert "card.json" in foreign_files(tmp_path)


def test_files_that_are_too_large_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "p.json"
    path.write_text('{"a": "bcdefgh"}')
    assert reading.read_json(path) == {"a": "bcdefgh"}
    monkeypatch.setattr(reading, "LARGEST_JSON", 15)
    with pytest.raises(BadFile, match="more than 15 bytes"):
        reading.read_json(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
)


@given(values)
def test_json_is_read_as_json_does(value):
    text = json.dumps(value)
    assert reading.parse_json(text, "x") == json.loads(text) == value


@given(st.integers(1, 200), st.text(alphabet='[]{}"\\ab', max_size=40))
def test_depth_counts_brackets_outside_of_texts(depth, text):
    nested = "[" * depth + json.dumps(text) + "]" * depth
    assert reading.too_deep(nested) == (depth > reading.DEEPEST)


def test_toml_that_takes_minutes_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    path = tmp_path / "s.toml"
    parsed = []
    monkeypatch.setattr(
        reading.tomllib, "loads", lambda text, loads=reading.tomllib.loads: parsed.append(1) or loads(text)
    )
    for text in (".".join("a" * 50_000) + " = 1", f"[{'.'.join('a' * 50_000)}]", "x = {" + "b.c." * 40 + "d = 1}"):
        path.write_text(text)
        with pytest.raises(BadFile, match="parts"):
            reading.read_toml(path)
    assert not parsed
    path.write_text("a.b.c = 1\nname = 'what. is. this'")
    assert reading.read_toml(path) == {"a": {"b": {"c": 1}}, "name": "what. is. this"}
    assert parsed


# Tables

RANKING = pd.DataFrame(
    {"rank": [1, 2], "layer": [0, 1], "projection": ["q", "k"], "name": ["a", "b"], "score": [2.0, 1]}
)
RANKING["selected"] = True


def test_a_ranking_is_read(tmp_path):
    RANKING.to_parquet(tmp_path / "ranking.parquet")
    assert read_selection(tmp_path / "ranking.parquet") == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": [5, 6]},
        {"name": ["a", None]},
        {"name": [["a"], ["b"]]},
        {"layer": ["0", "1"]},
        {"layer": [0.5, math.nan]},
        {"rank": ["x", "y"]},
        {"score": ["x", "y"]},
        {"selected": ["yes", "no"]},
        {"projection": [1, 2]},
        {"name": None},
        {"selected": None},
    ],
)
def test_columns_hold_what_their_names_say(change, tmp_path):
    table = RANKING.assign(**{k: v for k, v in change.items() if v is not None})
    table = table.drop(columns=[k for k, v in change.items() if v is None])
    table.to_parquet(tmp_path / "ranking.parquet")
    with pytest.raises(BadFile, match=next(iter(change))):
        read_selection(tmp_path / "ranking.parquet")
    with pytest.raises(BadFile, match=next(iter(change))):
        reading.read_table(tmp_path / "ranking.parquet")


PLACE = {"layer": "whole", "projection": "text", "name": "text"}
CONTRACT = {
    "geometry": {
        **{"increment": "text", **PLACE, "rows": "whole", "cols": "whole"},
        **dict.fromkeys(("delta_norm", "delta_rms", "relative_norm", "off_principal", "off_principal_null"), "number"),
    },
    "coupling": {**PLACE, **dict.fromkeys(("forget_grad_norm", "forget_inner", "forget_cosine"), "number")},
    "ranking": {"rank": "whole", **PLACE, "score": "number", "selected": "truth"},
    "responses": {
        **dict.fromkeys(("split", "prompt", "response", "gold"), "text"),
        **{"item": "whole", "correct": "truth", "correct_strict": "truth", "truncated": "truth"},
    },
}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_is_in_the_declarations(name):
    """The columns that design fixes are needed and checked; what came later, or hangs on an option, may be missing."""
    kinds, needed = reading.contract(f"{name}.parquet")
    assert CONTRACT[name].items() <= kinds.items()
    assert set(CONTRACT[name]) <= set(needed)
    assert {"logprob_answer", "answer_tokens", "retain_inner", "off_principal_mask"}.isdisjoint(needed)
    unknown, none = reading.contract("other.parquet")
    assert none == ()
    assert (unknown["layer"], unknown["item"], unknown["response"]) == ("whole", "whole", "text")
    assert "correct" not in unknown  # true or false here, a count there


def test_kinds_are_ones_that_are_checked():
    kinds = {column.kind for table in TABLES for column in table.columns}
    assert kinds == {"", *reading._EXPECTED}


@pytest.mark.parametrize("keep", [0, 3, 4, 100, -1, -8])
def test_a_damaged_table(keep, tmp_path):
    path = tmp_path / "ranking.parquet"
    RANKING.to_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadFile, match="cannot be read as a table"):
        reading.read_table(path)
    with pytest.raises(NotFound):
        reading.read_table(tmp_path / "none.parquet")


def test_a_small_file_that_claims_a_large_table(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"layer": pa.array([7] * 1_000_000)}), path)
    assert path.stat().st_size < 100_000
    assert len(reading.read_table(path)) == 1_000_000
    monkeypatch.setattr(reading, "MOST_CELLS", 999_999)
    with pytest.raises(BadFile, match="1,000,000 rows"):
        reading.read_table(path)


# Records


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {"stages": []},
        {"stages": {"rank": 5}},
        {"stages": {"rank": {"lineage": []}}},
        {"stages": {"rank": {"lineage": {"rlvr": 5}}}},
        {"stages": {"rank": {"outputs": "x"}}},
        {"stages": {"rank": {"settings": None}}},
    ],
)
def test_a_run_record_of_another_form(record, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(BadFile, match=r"run\.json"):
        read_record(tmp_path)


def test_a_ledger_drops_lines_that_are_none(tmp_path):
    with Ledger(tmp_path / "l", "key") as ledger:
        ledger.add("a", 1.5)
    with (tmp_path / "l").open("ab") as stream:
        stream.write(b"\xff\xfe\n" + b"[" * 100_000 + b"\n" + b'["b", "\\ud800"]\n')
    with Ledger(tmp_path / "l", "key") as ledger:
        assert ledger["a"] == 1.5
        assert "b" not in ledger


# Studies

STUDY = {
    "lineage": {"rlvr": "a", "sft": "b", "base": "c"},
    "train": {"forget": "f", "retain": "r"},
    "calibration": {"forget": "f", "other": "r"},
    "eval": {"forget": "f", "other": "r"},
    "compare": [{"objectives": ["ga"], "selections": ["mast"]}],
}


@pytest.mark.parametrize("suffix", ["/../../../escaped", "/x", "\\..", "\0", "a b", "\n", "…", "x" * 200])
def test_a_suffix_does_not_climb(suffix):
    told = {**STUDY, "compare": [{**STUDY["compare"][0], "suffix": suffix}]}
    with pytest.raises(BadSetting, match="suffix"):
        parse_study(told)
    with pytest.raises(BadSetting):
        Arm(f"ga{suffix}/../seed-0", "matched", "ga")
    told["compare"][0]["suffix"] = "-long.2"
    assert parse_study(told).compare[0].suffix == "-long.2"
    assert Arm("ga-long.2/mast/draw-1-seed-0", "matched", "ga").name


@pytest.mark.parametrize("label", ["../x", "a/b", "", ".", "..", "/abs"])
def test_a_label_does_not_climb(label):
    for kind, value in (("objectives", {"name": "ga"}), ("selections", {"where": "x"})):
        with pytest.raises(BadSetting, match="folder"):
            parse_study({**STUDY, kind: {label: value}})


def test_a_study_and_a_path_name_no_code(tmp_path, monkeypatch):
    """``mastlens unlearn --objective file.py:Name`` is asked for by the user; a study may come from anywhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for name in ("evil.py:Evil", 5, ["ga"]):
        settings = parse_study({**STUDY, "objectives": {"mine": {"name": name}}})
        with pytest.raises(MastlensError, match="objective"):
            objective_settings(settings, "mine")
    told = {**STUDY, "compare": [{"objectives": ["ga"], "selections": ["mine"]}]}
    for selection in ({"rule": "evil.py:Evil"}, {"rule": "mast", "match": "evil.py:Evil"}):
        with pytest.raises(MastlensError, match="evil"):
            check_selections(parse_study({**told, "selections": {"mine": selection}}))
    with pytest.raises(MastlensError, match="evil"):
        parse_study({"organism": "evil.py:Evil"})
    with pytest.raises(MastlensError, match="evil"):
        resolve_folder("organism:evil.py:Evil/rlvr")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(MastlensError, match="Evil"):  # asked for by the user, it is run
        RULES.find("evil.py:Evil")
    assert (tmp_path / "ran").exists()


# Figures

LINK = '<a href="http://evil.example">q</a>'


def test_no_table_puts_markup_into_a_figure():
    fig = go.Figure(go.Bar(x=[LINK, "b<c", "plain"], y=[1, 2, 3], customdata=[[LINK], ["<b>x</b>"], [1]], name=LINK))
    fig.add_scatter(
        x=[1.0, 2.0], y=[1.0, 2.0], text=["<b>bold</b><br>below", "<img src=x>"], hovertemplate="%{y}<extra></extra>"
    )
    fig.add_annotation(x=LINK, y=1, text=LINK)
    fig.update_xaxes(categoryarray=[LINK, "plain"], title_text=f"layer<br>{plain(LINK)}")
    table = pd.DataFrame({"name": [LINK]})
    made = finish(fig, table, title=LINK)
    shown = made.to_dict()
    shown["layout"].pop("meta")
    shown["layout"].pop("template")
    text = json.dumps(shown, default=list)
    assert "<a" not in text
    assert "<img" not in text
    assert made.data[0].x[0] == made.layout.xaxis.categoryarray[0] == made.layout.annotations[0].x
    assert made.data[0].x[2] == "plain"
    assert made.data[1].text[0] == "<b>bold</b><br>below"  # composed here, and allowed
    assert made.data[1].hovertemplate == "%{y}<extra></extra>"
    assert list(made.table["name"]) == [LINK]  # the data are handed back as they are


def test_a_figure_without_markup_stays_as_it_is():
    fig = go.Figure(go.Bar(x=["q", "k"], y=[1.0, 2.0], hovertext=["<b>q</b><br>1", "k"]))
    before = fig.to_json()
    without_markup(fig)
    assert fig.to_json() == before


def test_a_figure_as_html_asks_nothing_of_the_network():
    made = finish(go.Figure(go.Bar(x=["q"], y=[1])), pd.DataFrame({"x": [1]}), title="t")
    page = made._repr_html_()
    assert "<script src" not in page.replace("'", '"')
    assert "cdn.plot.ly/plotly" not in page
    assert "Plotly.newPlot" in page


# Facts


def test_facts_are_texts(tmp_path):
    one = {"name": "a", "side": "forget", "town": "x", "craft": "c", "pet": "p"}
    path = tmp_path / "facts.json"
    for change in ({"town": ["x"]}, {"name": 5}, {"pet": None}):
        path.write_text(json.dumps({"people": [{**one, **change}], "rivers": {"x": "r"}, "tools": {}}))
        with pytest.raises(BadFile, match="facts"):
            read_facts(path)
    for rivers in ({"x": ["r"]}, {"x": 5}, [], "x"):
        path.write_text(json.dumps({"people": [one], "rivers": rivers, "tools": {}}))
        with pytest.raises(BadFile, match="facts"):
            read_facts(path)
    path.write_text(json.dumps({"people": [one], "rivers": {"x": "r"}, "tools": {}}))
    assert read_facts(path).values("river") == {"r"}
