"""Edits to and from a hub, and numbers to a tracker: through their libraries, and told in words where they fail."""

import json
from typing import ClassVar

import huggingface_hub
import pytest

import mastlens as m
from mastlens.cli import main
from mastlens.errors import MastlensError, MissingPackage, NotFound
from mastlens.runs import tracking

WHERE = "layers.1.self_attn.o"


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    asked = {"rlvr": tiny.rlvr, "forget": tiny.forget, "objective": "ga", "steps": 2, "lr": 1e-3, "progress": False}
    m.unlearn(**asked, where=WHERE, out=out)
    return out / "edit.safetensors"


class Hub:
    """A hub that keeps what it is given."""

    def __init__(self, folder, *, refuses=False):
        self.folder, self.refuses = folder, refuses

    def create_repo(self, repository, *, private, exist_ok):
        if self.refuses:
            raise huggingface_hub.errors.OfflineModeIsEnabled("no network here")
        self.private = private

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        import shutil

        shutil.copytree(folder_path, self.folder / repo_id)
        return type("Commit", (), {"oid": "abc123"})


def test_an_edit_goes_to_the_hub_and_comes_back(made, tiny, tmp_path, monkeypatch, capsys):
    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    words = ["edit", "push", str(made), "me/edit", "--to", str(tiny.rlvr), "--private", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    local = m.Edit.load(made)
    assert told["edit"] == "me/edit@abc123"
    assert told["sha256"] == local.sha256
    assert hub.private is True
    assert local.sha256 in (tmp_path / "me/edit/README.md").read_text()

    def download(repository, name, revision):
        assert revision == "abc123"
        return str(tmp_path / repository / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path.parent)
    assert m.Edit.load("me/edit@abc123").sha256 == local.sha256
    asked = {"model": tiny.rlvr, "splits": {"a": tiny.forget}, "limit": 2, "max_new_tokens": 2, "progress": False}
    there, here = (m.evaluate(**asked, edit=edit).table for edit in ("me/edit@abc123", made))
    assert there.equals(here)
    # Whoever changes it on the way is found out.
    file = tmp_path / "me/edit/edit.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(MastlensError, match="tampered"):
        m.Edit.load("me/edit@abc123")


@pytest.mark.parametrize(("token", "said"), [(None, "There is no token"), ("a token", "OfflineModeIsEnabled")])
def test_without_token_or_network_the_edit_stays(made, tiny, monkeypatch, capsys, tmp_path, token, said):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(tmp_path, refuses=True))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    before = made.read_bytes()
    assert main(["edit", "push", str(made), "me/edit", "--to", str(tiny.rlvr)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert f"in {made}" in err
    assert made.read_bytes() == before


def test_an_edit_that_is_nowhere_is_told():
    with pytest.raises(NotFound, match="There is no edit file me/nothing here, and the hub did not give"):
        m.Edit.load("me/nothing")
    with pytest.raises(NotFound, match=r"There is no edit file run/edit\.safetensors"):
        m.Edit.load("run/edit.safetensors")


class Tracker:
    requires_logging_directory = True
    seen: ClassVar[list] = []

    def __init__(self, project, logging_dir):
        Tracker.seen = [("open", project, logging_dir)]

    def store_init_configuration(self, values):
        Tracker.seen.append(("settings", values))

    def log(self, numbers, step):
        Tracker.seen.append((step, numbers))

    def finish(self):
        Tracker.seen.append("closed")


def test_a_tracker_gets_each_step_and_changes_nothing(made, tiny, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    import accelerate.tracking

    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Tracker)
    monkeypatch.setattr(tracking, "_installed", lambda name: True)
    asked = {"rlvr": tiny.rlvr, "forget": tiny.forget, "objective": "ga", "steps": 2, "lr": 1e-3, "progress": False}
    told = m.unlearn(**asked, where=WHERE, track="tensorboard", out=tmp_path / "run")
    assert (tmp_path / "run/edit.safetensors").read_bytes() == made.read_bytes()
    steps = [entry for entry in Tracker.seen if isinstance(entry, tuple) and isinstance(entry[0], int)]
    assert [step for step, _ in steps] == [1, 2]
    assert [numbers["forget_loss"] for _, numbers in steps] == told.table["forget_loss"].tolist()
    assert "retain_loss" not in steps[0][1]  # there was none
    assert Tracker.seen[0] == ("open", "mastlens", str(tmp_path / "run" / "tracking"))
    assert Tracker.seen[1][1]["lr"] == 1e-3
    assert Tracker.seen[-1] == "closed"
    record = json.loads((tmp_path / "run/run.json").read_text())["stages"]["unlearn"]
    assert "track" not in record["settings"]
    # The same stage without it is the same stage.
    assert m.unlearn(**asked, where=WHERE, out=tmp_path / "run").edit.sha256 == told.edit.sha256


def test_a_tracker_that_is_not_there_is_told(tiny, monkeypatch):
    monkeypatch.setattr(tracking, "_installed", lambda name: False)
    with pytest.raises(MissingPackage, match=r"--track wandb needs accelerate: pip install 'mastlens\[track\]' wandb"):
        m.evaluate(model=tiny.rlvr, splits={"a": tiny.forget}, track="wandb")
    with pytest.raises(m.UnknownName, match="Did you mean 'wandb'"):
        m.evaluate(model=tiny.rlvr, splits={"a": tiny.forget}, track="wandbb")
