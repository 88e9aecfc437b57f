"""``evaluate --own-texts``: problem files in a model's own words, which every command reads."""

import pandas as pd
import pytest

import mastlens
from mastlens.errors import MastlensError, MastlensWarning
from mastlens.evaluation.own_texts import own_texts, write_own_texts
from mastlens.organisms import lineage_folder
from mastlens.problems.reading import Problem

FILES = lineage_folder("qwen2")


def test_right_answers_become_solutions(tmp_path):
    splits = {side: FILES / f"{side}-train.jsonl" for side in ("forget", "retain")}
    common = {"model": "organism:qwen2/rlvr", "splits": splits, "limit": 5, "max_new_tokens": 56, "progress": False}
    found = mastlens.evaluate(**common, own_texts=True, out=tmp_path / "own")
    for side, file in splits.items():
        asked = mastlens.read_problems(file, 5)
        rows = found.table[found.table["split"] == side].set_index("item")
        right = rows.index[rows["correct"]].tolist()
        written = mastlens.read_problems(tmp_path / "own" / f"own-{side}.jsonl")
        assert [one.solution for one in written] == rows.loc[right, "response"].tolist()
        assert [(one.problem, one.answer) for one in written] == [(asked[n].problem, asked[n].answer) for n in right]
    mastlens.evaluate(**common, out=tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("own-*"))
    same = [pd.read_parquet(tmp_path / name / "responses.parquet") for name in ("own", "plain")]
    pd.testing.assert_frame_equal(*same)
    coupled = mastlens.couple(
        sft="organism:qwen2/sft",
        rlvr="organism:qwen2/rlvr",
        forget=tmp_path / "own" / "own-forget.jsonl",
        retain=tmp_path / "own" / "own-retain.jsonl",
        where=r"layers\.0\.self_attn",
        progress=False,
    )
    assert len(coupled.table) == 4


def test_the_first_right_response_counts_and_a_split_without_one_is_told(tmp_path):
    problems = [Problem("1 + 1?", r"$\boxed{2}$", "2", subject="sums"), Problem("2 + 2?", r"$\boxed{4}$", "4")]
    rows = [("a", 0, 0, "no", False), ("a", 0, 1, "two", True), ("a", 0, 2, "zwei", True), ("b", 1, 0, "?", False)]
    table = pd.DataFrame(rows, columns=["split", "item", "sample", "response", "correct"])
    splits = {"a": problems, "b": problems}
    told = {"problem": "1 + 1?", "solution": "two", "answer": "2", "subject": "sums"}
    assert own_texts(table, splits) == {"a": [told], "b": []}
    with pytest.warns(MastlensWarning, match="No response of split 'b' is right"):
        write_own_texts(table, splits, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own-a.jsonl"]


def test_own_texts_want_a_folder():
    with pytest.raises(MastlensError, match="give --out DIR"):
        mastlens.evaluate(model="organism:qwen2/rlvr", splits={"a": FILES / "forget-train.jsonl"}, own_texts=True)


@pytest.mark.parametrize("name", ["../x", "/../../x", "a/b", "a\0b"])
def test_a_split_that_is_no_file_name_is_refused_before_anything_is_written(tmp_path, name):
    splits = {name: FILES / "forget-train.jsonl"}
    with pytest.raises(MastlensError, match="is a file's name"):
        mastlens.evaluate(model="organism:qwen2/rlvr", splits=splits, own_texts=True, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())
