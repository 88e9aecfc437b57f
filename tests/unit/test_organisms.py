"""What the registry of lineages says of each is so, and the rest of the package goes by it."""

import re
from dataclasses import replace

import pytest

from mastlens import Organism, register_organism
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.explorer.sources import find_sources
from mastlens.organisms import ORGANISMS, ROLES, build_organism, get_organism, list_organisms, read_card, stage_folder
from mastlens.problems.reading import read_problems
from mastlens.runs.files import sha256_file
from mastlens.studies.settings import parse_study, read_study, study_file

AT_HAND = [
    pytest.param(name, marks=pytest.mark.skipif(not one.present, reason=f"not in the cache. {one.remedy}"))
    for name, one in ORGANISMS.items()
]
NOTHING = {"checkpoints": {}, "problems": {}, "edit": None}


@pytest.mark.parametrize("name", AT_HAND)
def test_a_lineage_is_what_its_object_says(name):
    organism, card = get_organism(name), read_card(name)
    assert organism.stages == tuple(card["stages"])
    assert set(organism.stages) == {path.name for path in organism.folder.iterdir() if path.is_dir()}
    assert organism.architecture == card["architecture"]["model_type"]
    assert set(organism.roles) <= set(ROLES)
    measured = {row["split"] for row in card.get("accuracy", ())}
    for split in organism.splits:
        assert split in measured or not measured
        for region in ("calibration", "eval"):
            assert organism.files(region)[split].is_file()
    for role in organism.roles:
        assert Checkpoint(organism.spec(role)).config["model_type"] == organism.architecture
    for side, file in organism.problems.items():
        assert file.startswith(side)
        assert not file.endswith("-eval.jsonl")  # opened to report, never to look around
        assert read_problems(organism.folder / file)
    assert (organism.recipe is None) == (organism.wheel is not None)
    if organism.recipe is not None:
        assert card["recipe"].items() <= vars(organism.recipe).items()


@pytest.mark.parametrize("name", AT_HAND)
def test_the_explorer_finds_each_lineage_by_its_fingerprints(name, tmp_path):
    organism = get_organism(name)
    roles = {role: spec for role, spec in organism.specs().items() if role != "reference"}
    lineage = {role: Checkpoint(spec).fingerprint for role, spec in roles.items()}
    record = {"stages": {"geometry": {"lineage": lineage, "inputs": {}}}}
    if not organism.problems:
        pytest.skip("it has no problem files")
    found = find_sources(tmp_path, record, **NOTHING)
    assert {role: checkpoint.spec for role, checkpoint in found.checkpoints.items()} == roles
    assert found.problems == {side: organism.folder / file for side, file in organism.problems.items()}
    asked = organism.files("calibration")[organism.splits[0]]
    record["stages"]["couple"] = {"lineage": lineage, "inputs": {"forget": sha256_file(asked)}}
    assert find_sources(tmp_path, record, **NOTHING).problems["forget"] == asked


def test_a_study_is_named_by_its_organism_and_by_its_former_name():
    assert read_study("organism:qwen2") == read_study("organism:unlearning")
    assert study_file("organism:qwen2") == get_organism("qwen2").study
    with pytest.raises(MastlensError, match=r"organism:think has no study file\. .*reasoning-table.*organism:qwen2"):
        study_file("organism:think")
    with pytest.raises(MastlensError, match="'qwen2'"):
        study_file("organism:qwen")
    with pytest.raises(
        MastlensError, match=r"organism:think lacks a base, SFT or RLVR stage\. Take organism = .*qwen2"
    ):
        parse_study({"organism": "think"})


def test_every_study_that_a_caption_names_can_be_read():
    from mastlens.paper.catalogue import FIGURES

    named = {found for figure in FIGURES for found in re.findall(r"mastlens run (\S+)", figure.command)}
    named |= {found for one in ORGANISMS.values() for found in re.findall(r"mastlens run (\S+)", one.command)}
    assert named
    assert all(read_study(study) for study in named)


@pytest.fixture
def mine(tiny, monkeypatch):
    """The tiny lineage, registered until the test ends."""
    monkeypatch.setattr(ORGANISMS, "_registered", {})
    stages = (tiny.base.name, tiny.rlvr.name)
    organism = Organism("mine", "a test", tiny.base.parent, stages, {"base": stages[0], "rlvr": stages[1]})
    return register_organism(organism)


def test_a_lineage_of_ones_own(mine, tiny):
    assert stage_folder(f"mine/{tiny.rlvr.name}") == tiny.rlvr
    assert Checkpoint(mine.spec("rlvr")).fingerprint == Checkpoint(tiny.rlvr).fingerprint
    table = list_organisms()
    assert list(table[table["name"] == "mine"]["stage"]) == list(mine.stages)
    assert list(table["name"]) == [name for name, one in ORGANISMS.items() for _ in one.stages]
    assert list(table["name"])[-2:] == ["mine"] * 2
    with pytest.raises(MastlensError, match="no recipe to build it by"):
        build_organism("mine", "anywhere")
    with pytest.raises(MastlensError, match="already an organism called 'qwen2'"):
        register_organism(replace(mine, name="qwen2"))
    with pytest.raises(MastlensError, match=r"lacks nowhere/config\.json"):
        register_organism(replace(mine, name="other", stages=(*mine.stages, "nowhere")))
    with pytest.raises(MastlensError, match="Did you mean 'rlvr'"):
        replace(mine, roles={"rvlr": mine.stages[1]})
    with pytest.raises(MastlensError, match="Valid: "):
        replace(mine, roles={"sft": "nowhere"})
    with pytest.raises(MastlensError, match="one word"):
        replace(mine, name="a/b")


def test_a_recipe_of_another_lineage_is_refused(tmp_path):
    with pytest.raises(MastlensError, match="is built by a ThinkRecipe, not a Recipe"):
        build_organism("think", tmp_path / "new", recipe=get_organism("qwen2").recipe)
    assert not (tmp_path / "new").exists()
