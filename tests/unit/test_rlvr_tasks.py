"""Tasks reinforced one after another: merged and apart by hand, what is forgotten, and builds at toy size."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.organisms.problems import draw_split
from mastlens.organisms.rlvr import RECIPES, tasks, trainer
from mastlens.organisms.rlvr.recipe import Run
from mastlens.organisms.rlvr.record import Recorder
from mastlens.organisms.subjects import FORGET, RETAIN_GSM, RETAIN_MATH
from tests.columns import check_table
from tests.unit.test_rlvr_builds import NUMBERS, build_by, digest, small

__all__ = ["small"]  # a fixture

PROBLEMS = [*draw_split(FORGET, 8, "train", 1), *draw_split((*RETAIN_MATH, *RETAIN_GSM), 24, "train", 1)]


@pytest.fixture
def run(tiny, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny.sft), AutoTokenizer.from_pretrained(tiny.sft)
    recorder = Recorder("rlvr", tmp_path / "rows")
    return Run("rlvr", model, tokenizer, PROBLEMS, NUMBERS, 7, 0, recorder, tmp_path, {}, lambda *_: None)


@pytest.mark.parametrize(
    ("name", "started"), [("sequential-lora", [0.0, 1.0, 3.0]), ("sequential-lora-apart", [0.0] * 3)]
)
def test_adapters_are_merged_before_the_next_task_or_at_the_end(run, monkeypatch, name, started):
    sft, seen = deepcopy(run.model), []
    probe = next(iter(dict(sft.named_parameters())))

    def train(recipe, given):
        moved = float((given.model.get_parameter(probe) - sft.get_parameter(probe)).detach().mean())
        seen.append((round(moved, 4), {one.subject for one in given.problems}, given.seed))
        assert torch.equal(given.sft.get_parameter(probe), sft.get_parameter(probe))
        given.recorder.begin(step=0, responses=2)
        given.recorder.end(entropy=1.0)
        with torch.no_grad():
            given.model.get_parameter(probe).add_(float(len(seen)))  # each task adds its number
        return {"steps": 2}

    monkeypatch.setattr(trainer, "train_by_grpo", train)
    accuracy = iter(np.array([[0, 0, 0, 0]] + [[1, 1, 0, 1]] * 20, dtype=bool))
    monkeypatch.setattr(tasks, "measured", lambda run, model, names, label: dict.fromkeys(names, next(accuracy)))
    told = RECIPES[name].train(run)
    assert [one[0] for one in seen] == pytest.approx(started, abs=1e-4)
    assert [one[1] for one in seen] == [set(FORGET), set(RETAIN_MATH), set(RETAIN_GSM)]
    assert [one[2] for one in seen] == [7, 8, 9]
    gain = run.model.get_parameter(probe) - sft.get_parameter(probe)
    torch.testing.assert_close(gain, torch.full_like(gain, 6.0), rtol=0, atol=1e-5)
    others = [n for n, _ in sft.named_parameters() if n != probe]
    assert all(torch.equal(run.model.get_parameter(n), sft.get_parameter(n)) for n in others)
    assert (told["steps"], [one["task"] for one in told["tasks"]]) == (6, ["forget", "retain-math", "retain-gsm"])
    assert [(row["task"], row["step"]) for row in run.recorder.rows] == [(1, 0), (2, 2), (3, 4)]
    assert told["tasks"][0]["accuracies"] == [0.0, 0.75, 0.75, 0.75]


def test_what_is_forgotten_is_counted_item_by_item():
    right = [{"a": np.array(one, dtype=bool)} for one in ([0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1])]
    (row,) = tasks._told(["a"], [3], right, [])
    assert (row["learnt"], row["forgotten"], row["b"], row["c"], row["n"]) == (0.75, 0.25, 2, 1, 4)
    assert row["accuracies"] == [0.0, 0.75, 0.5] and row["mcnemar_p"] == 1.0
    (alone,) = tasks._told(["a"], [3], right, [{"a": np.ones(4, dtype=bool)}])
    assert (alone["learnt"], alone["forgotten"], alone["b"]) == (1.0, 0.5, 2)


def test_tasks_that_cannot_be_learnt_are_named(run):
    recipe = RECIPES["sequential-lora"]
    with pytest.raises(MastlensError, match="belong to no task"):
        replace(recipe, tasks=("forget",)).train(run)
    with pytest.raises(MastlensError, match="has 2 prompts, and a round takes 4"):
        recipe.train(replace(run, problems=PROBLEMS[:10]))
    for wrong, said in ((("forgot",), "Did you mean 'forget'"), (("forget", "retain-math+forget"), "each split once")):
        with pytest.raises(MastlensError, match=said):
            replace(recipe, tasks=wrong)
    with pytest.raises(MastlensError, match="Did you mean 'apart'"):
        replace(recipe, adapters_kept="aparts")
    with pytest.raises(MastlensError, match="rank above 0"):
        replace(recipe, adapters=0)


@pytest.mark.parametrize("name", ["sequential-lora", "sequential-lora-apart"])
def test_a_lineage_is_built_task_by_task(tmp_path, name):
    recipe = replace(RECIPES[name], adapters=2, tasks=("forget", "retain-math+retain-gsm"))
    numbers = replace(NUMBERS, grpo_retain=8)
    lineage = build_by(recipe, tmp_path / name, numbers=numbers)
    table = pd.read_parquet(lineage / "training.parquet")
    assert table[table["stage"] == "rlvr"][["task", "step"]].to_numpy().tolist() == [[1, 0], [1, 1], [2, 2], [2, 3]]
    assert table[table["stage"] == "rlvr-retain"]["task"].tolist() == [1, 1]
    second = table[(table["stage"] == "rlvr") & (table["task"] == 2)]["kl_sft"].iloc[0]
    assert (second > 0) == (name == "sequential-lora")  # KL is to SFT, wherever the task began
    check_table(lineage / "training.parquet", "organism build", without=("--recipe stare-o1", "--recipe exprl-outcome"))
    before, after = (Checkpoint(lineage / stage) for stage in ("sft", "rlvr"))
    moved = [n for n in before.tensors if not torch.equal(before.tensor(n), after.tensor(n))]
    assert moved and all("_proj.weight" in n for n in moved)
    for n in moved:  # the sum of two of rank 2
        values = torch.linalg.svdvals((after.tensor(n) - before.tensor(n)).double())
        assert values[4] < 1e-4 * values[0]
    told = json.loads((lineage / "card.json").read_text())["rlvr"]["stages"]
    assert [one["task"] for one in told["rlvr"]["tasks"]] == list(recipe.tasks)
    assert [len(one["accuracies"]) for one in told["rlvr"]["tasks"]] == [3, 3]
    assert "### rlvr: what each task forgets" in (lineage / "README.md").read_text()
    assert digest(lineage / "rlvr") != digest(lineage / "sft")
