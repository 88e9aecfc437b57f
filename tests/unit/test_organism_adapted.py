"""A lineage of merged adapters: what moved and what did not, and a build that was stopped anywhere."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch

from mastlens import organisms
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.organisms import adapted, build, get_organism, posttraining
from mastlens.organisms.recipes.adapted import AdaptedRecipe
from mastlens.problems.reading import read_problems
from mastlens.runs.files import sha256_file

pytest.importorskip("trl", reason="the extra 'train' is not installed")
SMALL = AdaptedRecipe(
    start="organism:qwen2/base",
    layers=8,
    rank=4,
    grpo_rank=2,
    continued_steps=3,
    continued_batch=4,
    sft_steps=2,
    sft_batch=4,
    grpo_prompts=2,
    grpo_samples=4,
    grpo_forget=4,
    grpo_retain=4,
    micro_batch=4,
    max_new_tokens=6,
    train=3,
    calibration=3,
    eval=6,
    neutral=4,
)


def made(out, recipe=SMALL):
    return organisms.build_organism("smollm2-grpo", out, seed=1, recipe=recipe)


@pytest.fixture(autouse=True)
def _some_reward(monkeypatch):
    def shorter(completions, answer, **_):  # a reward that a model of no skill earns, too
        return [1.0 / (1 + len(str(one))) for one in completions]

    monkeypatch.setattr(posttraining, "boxed_reward", shorter)
    monkeypatch.setattr(posttraining, "_EVERY", 1)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            posttraining, "boxed_reward", lambda completions, answer, **_: [1 / (1 + len(c)) for c in completions]
        )
        yield made(tmp_path_factory.mktemp("adapted") / "lineage")


def test_projections_move_by_the_rank_of_their_adapters_and_nothing_else_moves(built):
    stages = {stage: Checkpoint(built / stage) for stage in get_organism("smollm2-grpo").stages}
    assert stages["base"].fingerprint == Checkpoint("organism:qwen2/base").fingerprint
    blocks = {matrix.name for matrix in stages["base"].matrices() if matrix.layer >= 0}
    for before, after, rank in (
        ("base", "continued", 4), ("continued", "sft", 4), ("sft", "rlvr", 2), ("sft", "rlvr-retain", 2),
    ):  # fmt: skip
        for name in stages["base"].tensors:
            old, new = stages[before].tensor(name).double(), stages[after].tensor(name).double()
            assert torch.equal(old, new) == (name not in blocks), (after, name)
            if name in blocks:
                values = torch.linalg.svdvals(new - old)
                assert values[rank] < 1e-4 * values[0], (after, name)


def test_the_card_says_what_was_trained_and_whether_it_took(built):
    card = json.loads((built / "card.json").read_text())
    assert list(card["stages"]) == ["base", "continued", "sft", "rlvr", "rlvr-retain"]
    assert [stage["steps"] for stage in card["stages"].values()] == [0, 3, 2, 4, 2]
    for name, stage in card["stages"].items():
        assert stage["sha256"] == sha256_file(built / name / "model.safetensors")
    told = next(
        row for row in card["comparisons"] if (row["region"], row["split"], row["before"]) == ("eval", "forget", "sft")
    )
    assert f"{100 * told['difference']:+.1f} points" in card["note"]
    assert "NOT taken" in card["note"]  # six items prove nothing
    assert "at most the rank" in card["note"]
    assert set(card["subjects"]) == {name for names in adapted.sides(SMALL).values() for name in names}
    assert "Five checkpoints" in (built / "README.md").read_text()
    assert not list(built.glob("*.partial")) + list(built.glob("asked.json"))


def test_no_problem_is_in_two_files_and_rlvr_retain_saw_no_forget_problem(built):
    files = {path.stem: [one.problem for one in read_problems(path)] for path in built.glob("*.jsonl")
             if path.stem != "neutral-eval"}  # fmt: skip
    assert len(files) == 8
    for (one, first), (other, second) in itertools.combinations(files.items(), 2):
        assert not set(first) & set(second), (one, other)
    both, retain = adapted.rewarded(SMALL, 3)
    assert [p for p in both if p.subject in SMALL.induced] == retain
    assert len(both) == 8


@pytest.mark.long
def test_a_build_that_is_stopped_anywhere_ends_with_the_same_bits(built, tmp_path, monkeypatch):
    plain = torch.optim.AdamW.step
    total, stops = 3 + 2 + 4 + 2, 0
    taken = itertools.count()
    for allowed in itertools.cycle((2, 3)):
        left = itertools.count()
        with monkeypatch.context() as patch:

            def step(self, *args, left=left, allowed=allowed, **kwargs):
                if next(left) >= allowed:
                    raise KeyboardInterrupt
                next(taken)
                return plain(self, *args, **kwargs)

            patch.setattr(torch.optim.AdamW, "step", step)
            try:
                folder = made(tmp_path / "stopped")
            except KeyboardInterrupt:
                stops += 1
                continue
        break
    assert stops >= 4
    assert next(taken) < total + stops  # what was done was not done again
    for stage in get_organism("smollm2-grpo").stages:
        assert sha256_file(folder / stage / "model.safetensors") == sha256_file(built / stage / "model.safetensors")


def test_an_unfinished_build_is_not_gone_on_with_under_other_settings(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(adapted, "train_sft", stop)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "begun")
    with pytest.raises(MastlensError, match="rank was 4, and is 8 now"):
        made(tmp_path / "begun", replace(SMALL, rank=8))
    shutil.rmtree(tmp_path / "begun.unfinished")


@pytest.mark.long
def test_without_adapters_everything_moves(tmp_path, monkeypatch):
    whole = replace(SMALL, rank=0, continued_steps=1, sft_steps=1, grpo_forget=2, grpo_retain=2)
    monkeypatch.setattr(adapted, "measure_stages", _nothing_measured)
    monkeypatch.setattr(adapted, "make_card", lambda *_, **__: {})
    monkeypatch.setattr(adapted, "render_card", lambda _: "")
    folder = made(tmp_path / "whole", whole)
    before, after = Checkpoint(folder / "sft"), Checkpoint(folder / "rlvr")
    still = [name for name in before.tensors if torch.equal(before.tensor(name), after.tensor(name))]
    assert not still


def _nothing_measured(*_):
    told = {"region": "eval", "split": "forget", "before": "sft", "difference": 0.0, "mcnemar_p": 1.0}
    return build.Measured([], [told], {})
