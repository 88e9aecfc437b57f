"""The comparison of recipes at toy size: a row a recipe, kept as it is done, and a page of them."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from benchmarks import recipes, recipes_edits, recipes_page
from mastlens import organisms
from mastlens.errors import MastlensError
from mastlens.organisms import build, posttraining
from tests.unit.test_rlvr_builds import NUMBERS, some_reward

pytest.importorskip("trl", reason="the extra 'train' is not installed")

SEEN = replace(
    NUMBERS,
    sft_steps=3,
    sft_lr=1e-2,
    train_forget=4,
    train_retain=4,
    eval_forget=4,
    eval_retain_math=4,
    eval_retain_gsm=4,
)


@pytest.mark.long
def test_rows_are_kept_as_they_come_and_become_a_page(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(posttraining, "boxed_reward", some_reward)
    monkeypatch.setattr(build, "_THREADS", 1)
    monkeypatch.setattr(recipes, "LEAST", 2)
    out, names = tmp_path / "out", ("grpo", "lora-grpo")
    real, built = organisms.build_organism, []

    def counted(*given, recipe, **settings):
        built.append(recipe)
        if recipe == "lora-grpo" and len(built) == 2:
            raise KeyboardInterrupt
        return real(*given, recipe=recipe, **settings)

    monkeypatch.setattr(recipes.mastlens, "build_organism", counted)
    work = recipes.Work(out, tmp_path / "kept", SEEN, start_seed=1, rank=2)
    with pytest.raises(KeyboardInterrupt):
        recipes.compare(names, [1], ["rows"], work)
    assert [path.name for path in (tmp_path / "kept" / "rows").iterdir()] == ["grpo-1.json"]
    monkeypatch.setattr(recipes_edits, "GRID", {"learning_rates": [1e-2], "steps": 2, "every": 1, "batch_size": 2})
    monkeypatch.setattr(recipes_edits, "COMPARED", (("npo", ("all-parameters",), "first"),))
    monkeypatch.setattr(recipes_edits, "STEPS", 2)
    found = recipes.compare(names, [1], recipes.PARTS, work)
    assert built == ["grpo", "lora-grpo", "lora-grpo"]  # what was done was not done again
    rows, edits, pairs = (found[part] for part in recipes.PARTS)
    assert list(rows["recipe"]) == list(edits["recipe"]) == list(names)
    card = json.loads((out / "grpo-1" / "card.json").read_text())
    (said,) = [
        one["accuracy"] for one in card["accuracy"]
        if (one["stage"], one["region"], one["split"], one["subject"]) == ("rlvr", "eval", "forget", "all")
    ]  # fmt: skip
    assert rows["forget_accuracy"].iloc[0] == said
    energy = rows[[f"energy_{p}" for p in "qkvo"]].sum(axis=1)
    assert energy.tolist() == pytest.approx([1.0, 1.0])
    assert (rows["matrices"] == 8).all()
    for measure in recipes_page.READINGS:
        assert rows[f"{measure}_beyond"].between(0, 8).all()
    for group in ("attention", "mlp"):
        assert (rows[f"put_back_{group}_low"] <= rows[f"put_back_{group}"]).all()
    assert rows["relex_explained"].notna().tolist() == [True, False]  # steps of adapters are not kept
    assert 0 < rows["relex_explained"].iloc[0] <= 1
    assert {f"{model}_after_{step}" for model in ("edited", "reference") for step in (0, 1, 2)} <= set(edits)
    assert len(pairs) == 1
    assert 0 <= pairs["beyond"].iloc[0] <= pairs["of"].iloc[0] == 8
    again = recipes.compare(names, [1], recipes.PARTS, recipes.Work(tmp_path / "none", work.keep, SEEN, 1, 2))
    for part in recipes.PARTS:  # from what is kept alone
        pd.testing.assert_frame_equal(again[part], found[part])
    text = recipes_page.page(work.keep, "python -m benchmarks.recipes ...")
    assert text.count("\n| lora-grpo |") == 3
    assert text.count("\n| grpo |") == 4
    assert text.count("\n| grpo · lora-grpo |") == 1
    with pytest.raises(MastlensError, match="was measured with another numbers"):
        recipes.compare(names, [1], ["rows"], replace(work, numbers=replace(SEEN, grpo_lr=1.0)))
    with pytest.raises(MastlensError, match="Name grpo, too"):
        recipes.compare(["matched-sft"], [3], ["rows"], work)
