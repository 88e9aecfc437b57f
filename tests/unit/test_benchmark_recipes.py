"""The comparison of recipes at toy size: a row a recipe, kept as it is done, and a page of them."""

import json
from dataclasses import replace

import pytest

from benchmarks import recipes
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
    out, names = tmp_path / "out", ("grpo", "lora-grpo")
    real, built = organisms.build_organism, []

    def counted(*given, recipe, **settings):
        built.append(recipe)
        if recipe == "lora-grpo" and len(built) == 2:
            raise KeyboardInterrupt
        return real(*given, recipe=recipe, **settings)

    monkeypatch.setattr(recipes.mastlens, "build_organism", counted)
    with pytest.raises(KeyboardInterrupt):
        recipes.compare(names, out, [1], SEEN, rank=2)
    assert [path.name for path in (out / "rows").iterdir()] == ["grpo-1.json"]
    rows = recipes.compare(names, out, [1], SEEN, rank=2)
    assert built == ["grpo", "lora-grpo", "lora-grpo"]  # what was done was not done again
    assert list(rows["recipe"]) == list(names)
    card = json.loads((out / "grpo-1" / "card.json").read_text())
    (said,) = [
        one["accuracy"] for one in card["accuracy"]
        if (one["stage"], one["region"], one["split"], one["subject"]) == ("rlvr", "eval", "forget", "all")
    ]  # fmt: skip
    assert rows["forget_accuracy"].iloc[0] == said
    energy = rows[[f"energy_{p}" for p in "qkvo"]].sum(axis=1)
    assert energy.tolist() == pytest.approx([1.0, 1.0])
    assert (rows["matrices"] == 8).all()
    for measure in recipes.READINGS:
        assert rows[f"{measure}_beyond"].between(0, 8).all()
    for group in ("attention", "mlp"):
        assert (rows[f"put_back_{group}_low"] <= rows[f"put_back_{group}"]).all()
    pairs = recipes.agreements(rows, out)
    assert len(pairs) == 1
    assert 0 <= pairs["beyond"].iloc[0] <= pairs["of"].iloc[0] == 8
    text = recipes.page(rows, pairs, "python -m benchmarks.recipes ...")
    assert text.count("| lora-grpo |") == 3
    with pytest.raises(MastlensError, match="is of other numbers"):
        recipes.compare(names, out, [1], replace(SEEN, grpo_lr=1.0), rank=2)
    with pytest.raises(MastlensError, match="Name grpo, too"):
        recipes.compare(["matched-sft"], out, [1], SEEN)
