"""Lineages built by every recipe, at toy size: bits, records, cards, and what stops a build."""

import gc
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch

import mastlens
from mastlens import organisms
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.cli import main
from mastlens.decoding.graders import find_grader
from mastlens.decoding.rewards import reward_of
from mastlens.errors import MastlensError
from mastlens.organisms import build, posttraining, stage_accuracy
from mastlens.organisms.card import Measured
from mastlens.organisms.rlvr import RECIPES, RLVRRecipe, rejection
from mastlens.organisms.rlvr import build as rlvr_build
from mastlens.plots.tables import figure_table
from mastlens.runs.files import sha256_file
from tests.columns import check_table
from tests.docs.pages import run_page
from tests.unit.test_organism_build import MINIATURE

pytest.importorskip("trl", reason="the extra 'train' is not installed")

SMALL = {"corpus": 60, "drills": 5, "neutral": 10, "base_steps": 1, "sft_steps": 1, "eval_neutral": 2, "calibration": 2}
NUMBERS = replace(MINIATURE, **SMALL, grpo_forget=8, grpo_retain=4, grpo_lr=1e-2)
OTHERS = ("--recipe stare-o1", "--recipe exprl-outcome", "--recipe sequential-lora")
STAGES = organisms.get_organism("qwen2").stages


def some_reward(completions, answer, **_):
    """A reward that a model which knows nothing earns now and then: else its run would stand still."""
    return [float(len(text) % 2) for text in completions]


def solved(right: int) -> list[dict]:
    """What a card says of stages that solve so many of ten calibration problems."""
    row = {"region": "calibration", "split": "forget", "subject": "all", "n": 10, "right": right, "worked": 0}
    told = {"accuracy": right / 10, "ci_low": 0.0, "ci_high": 1.0, "guessed": 10, "accuracy_given_worked": None}
    return [{"stage": stage, **row, **told} for stage in STAGES]


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """No stage is measured, and base and SFT are kept for all recipes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTLENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(posttraining, "boxed_reward", some_reward)
        patch.setattr(build, "_THREADS", 1)
        for module in (build, rlvr_build):
            patch.setattr(module, "measure_stages", lambda *_: Measured(solved(0), [], {}))
        gc.freeze()  # each trainer collects garbage, a second each among all that pytest has loaded
        yield
        gc.unfreeze()


def build_by(name, out, **changes):
    settings = {"seed": 1, "numbers": NUMBERS, **changes}
    return organisms.build_organism("qwen2", out, recipe=name, **settings)


@pytest.fixture(scope="module")
def built(tmp_path_factory, small):
    """A lineage a recipe; the others are these with another number."""
    folder = tmp_path_factory.mktemp("recipes")
    recipes = {name: RECIPES[name] for name in ("grpo", "dapo-kl")}
    recipes["lora-grpo"] = replace(RECIPES["lora-grpo"], adapters=2)
    recipes["stare-c2"] = replace(RECIPES["stare-c2"], target_entropy=100.0)
    for name, recipe in recipes.items():
        build_by(recipe, folder / name, trajectory=name == "grpo")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory, small):
    """The lineage built without a recipe."""
    return organisms.build_organism("qwen2", tmp_path_factory.mktemp("plain") / "plain", seed=1, numbers=NUMBERS)


def digest(stage):
    return sha256_file(stage / "model.safetensors")


def test_grpo_is_the_build_without_a_recipe_bit_for_bit(built, plain):
    for stage in STAGES:
        assert digest(built / "grpo" / stage) == digest(plain / stage), stage
    assert digest(plain / "rlvr") != digest(plain / "sft")
    steps = sorted(path.name for path in (built / "grpo" / "trajectory").iterdir())
    assert steps == ["step_2", "step_3"]  # kept along the way, which changed nothing
    assert digest(built / "grpo" / "trajectory" / "step_3") == digest(plain / "rlvr")


def test_recipes_share_base_and_sft_and_end_elsewhere(built):
    lineages = sorted(built.iterdir())
    for stage in ("base", "sft"):
        assert len({digest(one / stage) for one in lineages}) == 1
    assert len({digest(one / "rlvr") for one in lineages}) == len(lineages)
    sft = Checkpoint(lineages[0] / "sft")
    for one in lineages:
        assert Checkpoint(one / "rlvr").tensors.keys() == sft.tensors.keys()
        assert {path.name for path in one.iterdir() if path.is_dir()} - {"trajectory"} == set(STAGES)
        assert not [path for path in one.iterdir() if path.suffix in (".rows", ".ledger") or path.name == "begun.json"]


def test_adapters_leave_an_increment_of_low_rank(built):
    before, after = (Checkpoint(built / "lora-grpo" / stage) for stage in ("sft", "rlvr"))
    moved = [name for name in before.tensors if not torch.equal(before.tensor(name), after.tensor(name))]
    assert moved
    assert all("_proj.weight" in name for name in moved)
    for name in moved:
        values = torch.linalg.svdvals((after.tensor(name) - before.tensor(name)).double())
        assert values[2] < 1e-5 * values[0]


def test_the_record_and_the_card_say_what_happened(built):
    table = pd.read_parquet(built / "stare-c2" / "training.parquet")
    assert list(table["step"]) == [0, 1, 2, 0]
    assert list(table["stage"]) == ["rlvr"] * 3 + ["rlvr-retain"]
    first = table[table["step"] == 0]
    assert (first["kl_sft"] == 0).all()  # SFT is what it starts from
    assert table["kl_sft"].iloc[2] > 0  # the learning rate of the first step is 0: it warms up
    assert table[["entropy", "accuracy", "response_tokens", "grad_norm"]].notna().all().all()
    assert (table["gate"] == 1).all()
    assert table["accuracy_forget"].isna().tolist() == [False, False, False, True]  # rlvr-retain sees no forget prompt
    check_table(
        built / "stare-c2" / "training.parquet",
        "organism build",
        without=("--recipe exprl-outcome", "--recipe sequential-lora"),
    )
    check_table(built / "grpo" / "training.parquet", "organism build", without=OTHERS)
    dapo = pd.read_parquet(built / "dapo-kl" / "training.parquet")
    assert list(dapo["step"]) == [0, 4, 8, 0]  # four updates a round, one row a round
    card = json.loads((built / "dapo-kl" / "card.json").read_text())
    assert card["rlvr"]["recipe"]["beta"] == 0.04
    assert card["stages"]["rlvr"]["steps"] == 12
    text = (built / "dapo-kl" / "README.md").read_text()
    assert "By the recipe `dapo-kl`" in text
    assert "| step | accuracy % | forget % | retain % | no signal % | entropy, nat | tokens | KL to SFT, nat |" in text
    assert str(built.parent) not in text + (built / "dapo-kl" / "card.json").read_text()


def test_records_of_several_lineages_stand_side_by_side(built):
    training = mastlens.read_training(built / "grpo", built / "stare-c2")
    assert list(training.table["lineage"].unique()) == ["grpo", "stare-c2"]
    assert training.settings["stare-c2"]["recipe"]["lowered"] == 0.9
    assert set(figure_table(training.plot())["lineage"]) == {"grpo", "stare-c2"}
    with pytest.raises(MastlensError, match="only a lineage that a recipe built has a training record"):
        mastlens.read_training(organisms.lineage_folder("qwen2"))
    with pytest.raises(MastlensError, match="Two lineages are called grpo"):
        mastlens.read_training(built / "grpo", built / "grpo")


def test_sft_is_trained_until_it_is_as_accurate(built, tmp_path, monkeypatch):
    from mastlens.decoding.graders import Grade, Grader

    class Even(Grader):
        name, summary = "even", "what has an even number of characters"

        def judge(self, said, gold):
            return Grade(len(said) % 2 == 0, False, None)

    monkeypatch.setattr("mastlens.decoding.graders.find_grader", lambda name: Even())
    recipe = replace(RECIPES["matched-sft"], every=2, most=2)
    with pytest.raises(MastlensError, match="None of the 24 sampled answers"):  # the model never comes to an end
        build_by(recipe, tmp_path / "none", match=built / "grpo")
    real = rejection.sample
    monkeypatch.setattr(
        rejection,
        "sample",
        lambda *given: [replace(one, response=replace(one.response, stopped="end")) for one in real(*given)],
    )
    with pytest.raises(MastlensError, match="Which accuracy is to be matched"):
        build_by(recipe, tmp_path / "unsaid")
    reached = build_by(recipe, tmp_path / "reached", match=built / "grpo")  # whose card says 0 of 10
    told = json.loads((reached / "card.json").read_text())["rlvr"]["stages"]["rlvr"]
    assert (told["matched"], told["steps"]) == (True, 0)
    assert digest(reached / "rlvr") == digest(reached / "sft")  # it is as accurate as that already
    hard = tmp_path / "hard"
    shutil.copytree(built / "grpo", hard)
    card = json.loads((hard / "card.json").read_text())
    (hard / "card.json").write_text(json.dumps({**card, "accuracy": solved(10)}))
    missed = build_by(recipe, tmp_path / "missed", match=hard)
    told = json.loads((missed / "card.json").read_text())["rlvr"]["stages"]["rlvr"]
    assert (told["matched"], told["steps"], told["target_accuracy"]) == (False, 2, 1.0)
    assert digest(missed / "rlvr") != digest(missed / "sft")
    assert "it is **not matched**" in (missed / "README.md").read_text()
    table = pd.read_parquet(missed / "training.parquet")
    assert list(table["step"]) == [0, 2] * 2
    assert table[["calibration_accuracy", "entropy", "kl_sft"]].notna().all().all()
    assert (table.loc[table["step"] == 0, "kl_sft"] == 0).all()
    with pytest.raises(MastlensError, match="matches no accuracy"):
        build_by("grpo", tmp_path / "grpo", match=hard)
    (hard / "card.json").write_text(json.dumps({**card, "seed": 9}))
    with pytest.raises(MastlensError, match="goes on from another SFT"):
        build_by(recipe, tmp_path / "other", match=hard)
    (hard / "card.json").write_text(json.dumps({**card, "accuracy": solved(4)}))
    measured, shares = stage_accuracy.measure_responses, {"step 0": 0.1, "step 1": 0.2, "step 2": 0.38, "step 3": 0.75}

    def passing(*given):
        here = next((share for step, share in shares.items() if given[4].endswith(step)), None)
        return measured(*given) if here is None else pd.DataFrame({"correct": [here]})

    monkeypatch.setattr(stage_accuracy, "measure_responses", passing)
    passed, ended = (build_by(replace(recipe, every=n, most=3), tmp_path / f"every-{n}", match=hard) for n in (1, 2))
    for folder in (passed, ended):  # past the accuracy at the third step, and nearer to it at the second
        told = json.loads((folder / "card.json").read_text())["rlvr"]["stages"]["rlvr"]
        assert (told["steps"], told["reached_accuracy"], told["matched"]) == (2, 0.38, True)
    assert digest(passed / "rlvr") == digest(ended / "rlvr") != digest(missed / "sft")


def test_a_constant_reward_stops_the_build_and_keeps_what_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(posttraining, "boxed_reward", lambda completions, answer, **_: [0.0] * len(completions))
    monkeypatch.setitem(organisms.ORGANISMS._registered, "small", replace(organisms.get_organism("qwen2"), name="small",
                        recipe=NUMBERS, folder=tmp_path / "nowhere"))  # fmt: skip
    out = tmp_path / "stuck"
    assert main(["organism", "build", "small", "--recipe", "grpo", "--seed", "1", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "There is no learning signal" in said
    assert "(all 0)" in said
    assert not out.exists()
    begun = out.with_name("stuck.unfinished")
    assert {"base", "sft", "begun.json"} <= {path.name for path in begun.iterdir()}
    monkeypatch.setattr(posttraining, "boxed_reward", some_reward)
    kept = (begun / "sft" / "model.safetensors").stat().st_ino
    assert main(["organism", "build", "small", "--recipe", "dapo", "--seed", "1", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "recipe.clip_high was 0.2, and is 0.28 now" in said
    assert (begun / "sft" / "model.safetensors").stat().st_ino == kept
    assert main(["organism", "build", "small", "--recipe", "grpo", "--seed", "1", "--out", str(out)]) == 0
    assert (out / "sft" / "model.safetensors").stat().st_ino == kept  # what was finished was not made again
    assert not begun.exists()


def test_patience_ends_before_the_run_does(tmp_path, monkeypatch):
    monkeypatch.setattr(posttraining, "boxed_reward", lambda completions, answer, **_: [1.0] * len(completions))
    with pytest.raises(MastlensError, match=r"first 1 rounds of rlvr .* 2 responses .* 4 prompts .*\(all 1\)"):
        build_by(replace(RECIPES["grpo"], patience=1), tmp_path / "stuck")


def test_a_finished_stage_is_not_trained_again(tmp_path, monkeypatch):
    real, seen = rlvr_build.measure_stages, []

    def interrupt(*_):
        raise KeyboardInterrupt

    def train(recipe, run):
        run.recorder.begin(step=0, responses=2)
        run.recorder.end(entropy=1.0)
        return {"steps": 1}

    monkeypatch.setattr(RLVRRecipe, "train", train)
    monkeypatch.setattr(rlvr_build, "measure_stages", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_by("grpo", tmp_path / "new")
    monkeypatch.setattr(rlvr_build, "measure_stages", real)
    monkeypatch.setattr(rlvr_build, "_train", lambda *args, **_: seen.append(args))
    build_by("grpo", tmp_path / "new")
    assert not seen
    assert len(pd.read_parquet(tmp_path / "new" / "training.parquet")) == 2


def test_a_stage_that_is_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    from mastlens.organisms.rlvr import trainer
    from mastlens.organisms.rlvr.record import Recorder

    monkeypatch.setattr(trainer, "_EVERY", 1)
    moving = replace(RECIPES["stare-c2"], target_entropy=100.0, rate=0.02, updates=2)  # it remembers its weights
    whole = build_by(moving, tmp_path / "whole")
    end, steps = Recorder.end, []

    def stopping(self, **values):
        end(self, **values)
        steps.append(self.rows[-1]["step"])
        if len(steps) == 2:
            with self.path.open("a") as stream:
                stream.write('{"stage": "rl')  # killed while it wrote
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "end", stopping)
        with pytest.raises(KeyboardInterrupt):
            build_by(moving, tmp_path / "stopped")
    begun = tmp_path / "stopped.unfinished"
    assert (begun / "kept-rlvr" / "checkpoint-2").is_dir() and not (begun / "kept-rlvr" / "checkpoint-4").exists()
    begin, again = Recorder.begin, []
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "begin", lambda self, **row: again.append(row["step"]) or begin(self, **row))
        stopped = build_by(moving, tmp_path / "stopped")
    assert again == [2, 4, 0]  # of rlvr what was lost, then rlvr-retain
    for stage in STAGES:
        assert digest(whole / stage) == digest(stopped / stage), stage
    pd.testing.assert_frame_equal(*(pd.read_parquet(one / "training.parquet") for one in (whole, stopped)))
    assert not [path for path in stopped.iterdir() if path.name.startswith("kept-")]


def test_names_that_are_none(tmp_path):
    with pytest.raises(MastlensError, match="Did you mean 'dapo'"):
        build_by("dapoo", tmp_path / "a")
    with pytest.raises(MastlensError, match="has no RLVR run from SFT"):
        organisms.build_organism("think", tmp_path / "b", recipe="grpo")
    with pytest.raises(MastlensError, match="Say where"):
        organisms.build_organism("qwen2", recipe="grpo")
    with pytest.raises(MastlensError, match="--match goes with"):
        organisms.build_organism("qwen2", tmp_path / "c", match=tmp_path)
    with pytest.raises(MastlensError, match="A recipe is one of dapo"):
        organisms.build_organism("qwen2", tmp_path / "d", recipe=3)
    with pytest.raises(MastlensError, match="Give one of them"):
        organisms.build_organism("qwen2", tmp_path / "e", recipe=NUMBERS, numbers=NUMBERS)
    assert list(tmp_path.iterdir()) == []


def test_the_page_on_a_recipe_of_ones_own_does_what_it_says(tmp_path, monkeypatch):
    def boxes_or_some(completions, answer, **_):
        real = reward_of(find_grader("text:boxed"))(completions, answer)
        some = some_reward(completions, answer)
        return [one if "boxed" in text else other for one, other, text in zip(real, some, completions, strict=True)]

    monkeypatch.setattr(posttraining, "boxed_reward", boxes_or_some)
    made = run_page("extending/recipe", tmp_path, monkeypatch, SMALL=NUMBERS)
    table = pd.read_parquet(tmp_path / "mine" / "training.parquet")
    assert "mean_advantage" in table
    assert digest(tmp_path / "mine" / "rlvr") != digest(tmp_path / "mine" / "sft")
    code = made["training"].settings["mine"]["code"]
    assert code == sha256_file(tmp_path / "leave_one_out.py")


def test_lineages_that_begin_alike_share_what_they_begin_with(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(rlvr_build, "build_shared", lambda *given: asked.append(given[0]) or tmp_path)
    qwen2 = organisms.get_organism("qwen2")
    half = replace(qwen2.recipe, grpo_forget=480, grpo_retain=640, eval_forget=9, max_new_tokens=8)
    folder, source = rlvr_build._start(qwen2, half, organisms.DEFAULT_SEED, build.Clock())
    assert (folder, source) == (qwen2.folder, "organism:qwen2")
    for numbers, seed in ((half, 1), (replace(half, grpo_lr=1.0), 1), (replace(half, sft_steps=3), 0)):
        assert rlvr_build._start(qwen2, numbers, seed, build.Clock()) == (tmp_path, "trained from nothing")
    assert asked[0] == asked[1] == qwen2.recipe
    assert asked[2] == replace(qwen2.recipe, sft_steps=3)


def test_another_seed_of_rlvr_goes_on_from_the_same_sft(built, tmp_path):
    other = build_by("grpo", tmp_path / "other", seed=2, start_seed=1)
    for stage in ("base", "sft"):
        assert digest(other / stage) == digest(built / "grpo" / stage)
    assert digest(other / "rlvr") != digest(built / "grpo" / "rlvr")  # of rlvr-retain the only step warms up
    asked = [json.loads(line)["problem"] for line in (other / "forget-train.jsonl").read_text().splitlines()]
    assert asked != [json.loads(line)["problem"] for line in (built / "grpo" / "forget-train.jsonl").open()]
    card = json.loads((other / "card.json").read_text())
    assert (card["seed"], card["rlvr"]["start"]) == (2, "trained from nothing, of seed 1")
    with pytest.raises(MastlensError, match="--start-seed goes with a recipe"):
        organisms.build_organism("qwen2", tmp_path / "none", numbers=NUMBERS, start_seed=1)


def test_every_recipe_names_its_source():
    table = organisms.rlvr.describe_recipes()
    assert {"grpo", "grpo-kl", "dr-grpo", "dapo", "stare-o1", "stare-c2", "matched-sft"} <= set(table["recipe"])
    assert table["source"].str.contains(r"arXiv:\d{4}\.\d{5}").all()
