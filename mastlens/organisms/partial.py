"""Training that is stopped goes on from where it last wrote its state down, bit for bit."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.errors import StageRefused
from mastlens.runs.files import atomic_path, write_json
from mastlens.runs.reading import read_object

if TYPE_CHECKING:
    import torch

ASKED = "asked.json"
_STATE = "state.pt"


def claim(begun: Path, asked: Mapping[str, Any], name: str = ASKED) -> None:
    """Write into an unfinished build's folder what it is of, or refuse to go on with one that is of something else.

    Args:
        begun: The folder; made if it is not there.
        asked: Settings and seed, as JSON has them.
        name: Of the file.

    Raises:
        MastlensError: If the folder holds the beginning of a build with other settings.
    """
    path = begun / name
    if not path.is_file():
        begun.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(asked))
        return
    now = json.loads(json.dumps(dict(asked)))  # tuples are lists in a file
    before = read_object(path, "what an unfinished build is of")
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        told = "; ".join(f"{key} was {before.get(key)}, and is {now.get(key)} now" for key in differing[:4])
        more = f" (and {len(differing) - 4} more)" if len(differing) > 4 else ""
        raise StageRefused(
            f"{begun} holds a build that was begun with other settings: {told}{more}. What it finished is kept. Go on "
            "with those settings, choose another folder, or remove it."
        )


@contextlib.contextmanager
def trainer_folder(kept: Path | None) -> Iterator[tuple[Path, str | None]]:
    """Yield the output folder of a Hugging Face trainer, and the checkpoint in it to go on from.

    A checkpoint that was being written when the process ended is removed: the trainer writes its state last.

    Args:
        kept: Where checkpoints are kept between calls; None for a folder that is gone afterwards.
    """
    if kept is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch), None
        return
    kept.mkdir(parents=True, exist_ok=True)
    found = sorted(kept.glob("checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))
    for folder in found:
        if not (folder / "trainer_state.json").is_file():
            shutil.rmtree(folder)
    whole = [folder for folder in found if folder.is_dir()]
    yield kept, str(whole[-1]) if whole else None


def keep_state(
    kept: Path, step: int, model: "torch.nn.Module", optimizer: "torch.optim.Optimizer", losses: list[float]
):
    """Write down where a plain training loop stands after ``step`` steps."""
    import torch

    kept.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
    with atomic_path(kept / _STATE) as target:
        torch.save(state, target)


def take_state(
    kept: Path | None, model: "torch.nn.Module", optimizer: "torch.optim.Optimizer"
) -> tuple[int, list[float]]:
    """Load what ``keep_state`` wrote into model and optimiser; return the steps that are done and their losses."""
    import torch

    if kept is None or not (kept / _STATE).is_file():
        return 0, []
    state = torch.load(kept / _STATE, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["losses"]
