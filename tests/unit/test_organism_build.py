"""The build from end to end, on a recipe that teaches nothing but takes every step."""

import json
from dataclasses import replace

import pytest

from mastlens import organisms
from mastlens.errors import MastlensError
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.problems.answers import response_style
from mastlens.runs.files import sha256_file

pytest.importorskip("trl", reason="the extra 'train' is not installed")

MINIATURE = Recipe(
    vocab_size=300,
    hidden=16,
    intermediate=16,
    layers=2,
    corpus=200,
    drills=20,
    neutral=40,
    base_steps=3,
    base_batch=8,
    sft_steps=2,
    sft_batch=4,
    grpo_prompts=4,
    grpo_samples=2,
    grpo_forget=8,
    grpo_retain=8,
    max_new_tokens=6,
    train_forget=6,
    train_retain=8,
    calibration=8,
    eval_forget=6,
    eval_retain_math=8,
    eval_retain_gsm=8,
    eval_neutral=5,
    trajectory=2,
)

STAGES = organisms.get_organism("qwen2").stages


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("organism") / "first"
    return organisms.build_organism("qwen2", out, seed=1, trajectory=True, recipe=MINIATURE)


def test_a_build_writes_every_stage_file_and_card(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    card = json.loads((built / "card.json").read_text())
    for stage in STAGES:
        model = AutoModelForCausalLM.from_pretrained(built / stage)
        assert model.num_parameters() == card["architecture"]["parameters"]
        assert len(AutoTokenizer.from_pretrained(built / stage)) == MINIATURE.vocab_size
        assert sha256_file(built / stage / "model.safetensors") == card["stages"][stage]["sha256"]
    assert len({stage["sha256"] for stage in card["stages"].values()}) == len(STAGES) or (
        # a reward that is never earned moves nothing: then the RLVR stages are the SFT one
        card["stages"]["sft"]["sha256"] != card["stages"]["base"]["sha256"]
    )
    assert card["stages"]["rlvr"]["steps"] == 4
    assert card["stages"]["rlvr-retain"]["steps"] == 2
    assert sorted(p.name for p in (built / "trajectory").iterdir()) == ["step_2", "step_4"]
    assert card["files"]["forget-eval.jsonl"]["lines"] == 6
    assert {"base", "sft", "rlvr", "rlvr-retain", "card"} <= set(card["timing"])
    assert str(built.parent) not in (built / "card.json").read_text() + (built / "README.md").read_text()


@pytest.mark.long
def test_equal_builds_have_equal_bits(built, tmp_path):
    again = organisms.build_organism("qwen2", tmp_path / "second", seed=1, trajectory=True, recipe=MINIATURE)
    files = sorted(p.relative_to(built) for p in built.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    differing = [str(f) for f in files if sha256_file(built / f) != sha256_file(again / f)]
    assert set(differing) <= {"card.json"}
    cards = [json.loads((folder / "card.json").read_text()) for folder in (built, again)]
    for card in cards:
        del card["timing"]
    assert cards[0] == cards[1]


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(MastlensError, match="exists already"):
        organisms.build_organism("qwen2", tmp_path, recipe=MINIATURE)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    from mastlens.organisms import build

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "train_sft", interrupt)
    with pytest.raises(KeyboardInterrupt):
        organisms.build_organism("qwen2", tmp_path / "new", recipe=replace(MINIATURE, base_steps=1))
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_say_which_exist():
    with pytest.raises(MastlensError, match="qwen2"):
        organisms.build_organism("qwen3", "anywhere")
    with pytest.raises(MastlensError, match="Did you mean 'rlvr'"):
        organisms.stage_folder("qwen2/rlrv")
    with pytest.raises(MastlensError, match="names no stage"):
        organisms.stage_folder("qwen2")


@pytest.mark.parametrize(
    ("response", "style"),
    [
        (r"Outcomes: 2*4=8 or 8+5=13. In total \boxed{13}.", "worked"),
        (r"Perhaps \boxed{10}.", "guessed"),
        ("Perhaps", "other"),
    ],
)
def test_styles_of_responses(response, style):
    assert response_style(response) == style
