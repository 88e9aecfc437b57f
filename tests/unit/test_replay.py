"""The organism's RLVR run again: from its SFT stage, cached, and equal to the build's where the machine is."""

import json

import pytest

from mastlens import organisms
from mastlens.analysis.trajectories.trajectory import trajectory
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.organisms import build, posttraining
from mastlens.runs.files import sha256_file
from tests.unit.test_organism_build import MINIATURE

pytest.importorskip("trl", reason="the extra 'train' is not installed")


def some_reward(completions, answer, **_):
    """A reward that a model which knows nothing earns now and then: else its run would stand still."""
    return [float(len(text) % 2) for text in completions]


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posttraining, "boxed_reward", some_reward)
        patch.setattr(
            build, "measure_stages", lambda *_: build.Measured([], [], {})
        )  # what the stages can do is of no interest here
        patch.setattr(build, "make_card", lambda *_, **__: {})
        patch.setattr(build, "render_card", lambda _: "")
        out = tmp_path_factory.mktemp("organism") / "lineage"
        organisms.build_organism("qwen2", out, seed=1, recipe=MINIATURE)
        yield out


def replay(lineage, cache, **changes):
    from mastlens.organisms.replay import organism_trajectory

    settings = {"cache": cache, "lineage": lineage, "seed": 1, "recipe": MINIATURE}
    return organism_trajectory("qwen2", **(settings | changes))


def test_the_run_again_is_the_builds(lineage, tmp_path, monkeypatch):
    folder = replay(lineage, tmp_path)
    assert not (lineage / "trajectory").exists()  # keeping steps on the way changes nothing
    files = sorted(path.relative_to(lineage / "rlvr") for path in (lineage / "rlvr").rglob("*") if path.is_file())
    assert [str(f) for f in files if sha256_file(lineage / "rlvr" / f) != sha256_file(folder / "step_4" / f)] == []
    assert sorted(p.name for p in folder.iterdir()) == ["replay.json", "step_2", "step_4"]
    assert json.loads((folder / "replay.json").read_text())["same_as_shipped"]
    assert Checkpoint(folder / "step_2").fingerprint != Checkpoint(folder / "step_4").fingerprint

    monkeypatch.setattr(posttraining, "train_grpo", None)  # no second run
    assert replay(lineage, tmp_path) == folder
    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path))
    assert replay(lineage, None) == folder
    with pytest.raises(TypeError):
        replay(lineage, tmp_path, seed=2)  # another run
    assert [p.name for p in (tmp_path / "trajectories").iterdir()] == [folder.name]  # which left nothing

    result = trajectory(lineage / "sft", folder, rank=4, progress=False)
    assert result.settings["steps"] == [2, 4]
    assert (result.table["delta_norm"] > 0).any()


def test_steps_that_are_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path))
    for path in ("organism:qwen2/trajectory", "organism:qwen2/trajectory/step_70"):
        with pytest.raises(MastlensError, match="mastlens organism trajectory qwen2"):
            Checkpoint(path)
        with pytest.raises(MastlensError, match="not in the cache"):
            trajectory("organism:qwen2/sft", path, progress=False)
    assert {path.name for path in tmp_path.iterdir()} <= {"digests"}  # what is read is hashed once


def test_cached_steps_are_paths(tmp_path, monkeypatch):
    from mastlens.organisms.replay import _place

    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path))
    shipped = organisms.lineage_folder("qwen2")
    folder, _ = _place("qwen2", shipped, None, organisms.DEFAULT_SEED, organisms.get_organism("qwen2").recipe)
    (folder / "step_70").mkdir(parents=True)
    (folder / "replay.json").write_text("{}")
    assert organisms.stage_folder("qwen2/trajectory") == folder
    assert organisms.stage_folder("qwen2/trajectory/step_70") == folder / "step_70"
    with pytest.raises(MastlensError, match="Did you mean 'step_70'"):
        organisms.stage_folder("qwen2/trajectory/step_71")
