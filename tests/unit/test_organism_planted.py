"""Planted lineages: nothing moves but the plant, and the plant put back is the model that never learnt it."""

import json
from dataclasses import replace

import pytest
import torch

import mastlens
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.organisms import get_organism, planted
from mastlens.organisms.kept_plants import PLANTS_HERE, keep_plant, kept_plant, shipped_start
from mastlens.organisms.plants import PLANTS, draw_truth, only_moving
from mastlens.runs.files import sha256_file
from tests.unit.test_organism_build import MINIATURE


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    return Checkpoint("organism:qwen2/sft")


@pytest.mark.parametrize("kind", PLANTS)
def test_a_plant_is_drawn_by_its_seed_alone(source, kind):
    matrices = source.matrices()
    truth = draw_truth(kind, matrices, 0)
    assert truth == draw_truth(kind, matrices, 0)
    assert len({one.name for one in truth}) == len(truth) > 0
    if kind not in ("vo", "qk", "embeddings"):  # these leave nothing to draw
        assert any(truth != draw_truth(kind, matrices, seed) for seed in range(1, 6))


def test_kinds_are_what_they_say(source):
    matrices = source.matrices()
    drawn = {kind: draw_truth(kind, matrices, 3) for kind in PLANTS}
    assert {one.projection for one in drawn["scattered"]} <= set("qkvo")
    assert len(drawn["scattered"]) == len(drawn["mlp"]) == 6
    assert len({one.layer for one in drawn["layer"]}) == 1
    assert len(drawn["layer"]) == 7
    assert [one.projection for one in drawn["vo"]] == ["v", "o"] * 8
    assert {one.projection for one in drawn["qk"]} == {"q", "k"}
    assert not {one.projection for one in drawn["mlp"]} & set("qkvo")
    assert all("#h" in one.name for one in drawn["heads"])
    assert [one.name for one in drawn["embeddings"]] == ["model.embed_tokens.weight"]
    with pytest.raises(MastlensError, match="Did you mean 'heads'"):
        draw_truth("head", matrices, 0)


def _step(model, truth, *, direction=False) -> None:
    with only_moving(model, truth, direction=direction):
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
        for _ in range(3):
            optimiser.zero_grad()
            model(input_ids=torch.arange(12)[None]).logits.square().mean().backward()
            optimiser.step()


@pytest.mark.parametrize("kind", PLANTS)
def test_nothing_moves_but_the_plant(source, kind):
    model = source.load_model().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    truth = draw_truth(kind, source.matrices(), 1)
    _step(model, truth, direction=PLANTS[kind].direction)
    after = model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        here: list[Projection] = [one for one in truth if one.stored == name]
        rest = tensor.clone()
        for one in here:
            assert not torch.equal(one.read(tensor), one.read(before[name])), one.name
            one.write(rest, one.read(before[name]))
        tied = name == "lm_head.weight" and kind == "embeddings"
        assert tied or torch.equal(rest, before[name]), name
    assert all(parameter.requires_grad for parameter in model.parameters())
    if PLANTS[kind].direction:
        (one,) = truth
        moved = torch.linalg.svdvals((after[one.name] - before[one.name]).double())
        assert moved[1] < 1e-4 * moved[0]


def test_the_plant_put_back_is_the_model_that_never_learnt_it(tmp_path, monkeypatch):
    pytest.importorskip("trl", reason="the extra 'train' is not installed")
    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path / "cache"))
    from mastlens.organisms import posttraining
    from mastlens.organisms.planted import planted_truth

    def shorter(completions, answer, **_):  # a reward that a model of no skill earns, too
        return [1.0 / (1 + len(str(one))) for one in completions]

    monkeypatch.setattr(posttraining, "boxed_reward", shorter)
    recipe = replace(get_organism("planted-scattered").recipe, lineage=MINIATURE, retain=4, lr=1e-2)
    first = mastlens.build_organism("planted-scattered", tmp_path / "first", seed=2, recipe=recipe)
    truth = planted_truth(first)
    assert 0 < len(truth) <= 6
    stages = {stage: Checkpoint(first / stage) for stage in ("rlvr-retain", "rlvr")}
    for name in stages["rlvr"].tensors:
        same = torch.equal(stages["rlvr"].tensor(name), stages["rlvr-retain"].tensor(name))
        assert same or name in truth
    card = json.loads((first / "card.json").read_text())
    assert card["plant"]["truth"] == truth
    assert card["plant"]["taken"] in (True, False)
    shared = sorted((tmp_path / "cache" / "organisms" / "shared").iterdir())
    assert len(shared) == 1
    made = {file: file.stat().st_mtime_ns for file in shared[0].rglob("*.safetensors")}
    mlp = replace(recipe, kind="mlp")
    second = mastlens.build_organism("planted-mlp", tmp_path / "second", seed=2, recipe=mlp)
    assert {file: file.stat().st_mtime_ns for file in shared[0].rglob("*.safetensors")} == made
    assert not set(planted_truth(second)) & set(truth)
    with pytest.raises(MastlensError, match="names no plant"):
        planted_truth(first / "rlvr")


def test_plants_of_the_shipped_seed_begin_with_the_shipped_stages(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path))
    from mastlens.organisms.build import Clock
    from mastlens.organisms.planted import SHARED, build_shared

    own, lineage = get_organism("qwen2"), get_organism("planted-scattered").recipe.lineage
    assert lineage.eval_forget > own.recipe.eval_forget  # which no weight depends on
    folder = build_shared(lineage, 0, Clock())
    for stage in SHARED:
        files = {path.name: path.read_bytes() for path in (own.folder / stage).iterdir()}
        assert {path.name: path.read_bytes() for path in (folder / stage).iterdir()} == files
    assert build_shared(lineage, 0, Clock()) == folder
    llama = get_organism("planted-llama-scattered").recipe.lineage
    for other, seed in ((lineage, 1), (replace(lineage, sft_lr=1e-3), 0), (llama, 0)):
        assert shipped_start(other, seed) is None


@pytest.mark.parametrize("plant", sorted(path.name for path in PLANTS_HERE.iterdir()))
def test_a_plant_that_is_shipped_is_put_together_bit_for_bit(tmp_path, monkeypatch, plant):
    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(planted, "train_grpo", None)  # nothing is trained
    kind, seed = plant.rsplit("-seed", 1)
    recipe = get_organism(f"planted-{kind}").recipe
    lineage = mastlens.build_organism(f"planted-{kind}", tmp_path / plant, seed=int(seed))
    card = json.loads((lineage / "card.json").read_text())
    assert sha256_file(lineage / "rlvr" / "model.safetensors") == card["stages"]["rlvr"]["sha256"]
    for name, told in card["files"].items():
        assert sha256_file(lineage / name) == told["sha256"], name
    assert card["plant"]["taken"]
    again = keep_plant(lineage, tmp_path / "kept")
    for path in again.iterdir():
        assert path.read_bytes() == (PLANTS_HERE / plant / path.name).read_bytes()
    assert kept_plant(replace(recipe, lr=2e-3), int(seed)) is None, "another recipe is trained"
    assert kept_plant(recipe, 17) is None
