"""What the commands have in common that look inside: a pair is opened, looked at, and what was seen is kept."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mastlens.analysis.inside.pair import Pair
from mastlens.analysis.inside.settings import PairSettings
from mastlens.checkpoints.lineage import Lineage
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.files import write_table, write_tensors
from mastlens.runs.reading import read_table, read_tensors
from mastlens.runs.stages import hash_inputs, remembered

Seen = TypeVar("Seen")
Texts = Mapping[str, list[EncodedProblem]]
"""Split to its texts as token ids."""
TENSORS = ".safetensors"


def looked_inside(
    settings: PairSettings,
    kind: Callable[..., Seen],
    files: Mapping[str, str],
    look: Callable[[Pair, Any], Sequence[Any]],
    **deciding: Any,
) -> Seen:
    """Return what is seen of a pair of models, computed once and kept in the command's folder.

    Args:
        settings: Of the command.
        kind: What is made of what is seen and of what decided it, in that order.
        files: Attribute of the result to the file of that table, or of those tensors.
        look: Gives them, in the order of ``files``, from the pair and the settings' texts.
        **deciding: What decides them beside what all such commands have.

    Raises:
        MastlensError: If the checkpoints are not one lineage, or cannot read the same texts.
    """
    lineage = Lineage.open(settings.rlvr, sft=settings.sft)
    computing = settings.computing(*lineage.stages.values())
    asking = settings.asking
    shared = {"dtype": computing.dtype, "limit": settings.limit, "draws": settings.draws, "seed": settings.seed}
    recorded = {**shared, **deciding, **asking.record()}

    def compute() -> Seen:
        pair = Pair.of(lineage, computing, draws=settings.draws, seed=settings.seed)
        return kind(*look(pair, settings.texts_for(pair)), recorded)

    def write(result: Seen, folder: Path) -> None:
        for name, file in files.items():
            write = write_tensors if file.endswith(TENSORS) else write_table
            write(folder / file, getattr(result, name))

    def read(folder: Path) -> Seen:
        reads = (read_tensors if file.endswith(TENSORS) else read_table for file in files.values())
        return kind(*(one(folder / file) for one, file in zip(reads, files.values(), strict=True)), recorded)

    return remembered(
        settings.out,
        settings.command.replace(" ", "-"),
        outputs=list(files.values()),
        lineage=lineage.fingerprints,
        behaviour=lineage.behaviour(),
        inputs=hash_inputs(settings.inputs),
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=read,
    )
