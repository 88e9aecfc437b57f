"""What the commands have in common that look inside: a pair is opened, looked at, and what was seen is kept."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from mastlens.analysis.inside.pair import Pair
from mastlens.analysis.inside.settings import PairSettings
from mastlens.checkpoints.lineage import Lineage
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.files import write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, remembered

Seen = TypeVar("Seen")
Texts = Mapping[str, list[EncodedProblem]]
"""Split to its texts as token ids."""


def looked_inside(
    settings: PairSettings,
    kind: Callable[..., Seen],
    files: Mapping[str, str],
    look: Callable[[Pair, Texts], Sequence[pd.DataFrame]],
    **deciding: Any,
) -> Seen:
    """Return what is seen of a pair of models, computed once and kept in the command's folder.

    Args:
        settings: Of the command.
        kind: What is made of its tables and of what decided them, in that order.
        files: Attribute of the result to the file of that table.
        look: Gives the tables, in the order of ``files``.
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
        return kind(*look(pair, pair.texts(settings.splits, limit=settings.limit, asking=asking)), recorded)

    def write(result: Seen, folder: Path) -> None:
        for name, file in files.items():
            write_table(folder / file, getattr(result, name))

    return remembered(
        settings.out,
        settings.command.replace(" ", "-"),
        outputs=list(files.values()),
        lineage=lineage.fingerprints,
        behaviour=lineage.behaviour(),
        inputs=hash_inputs(settings.splits),
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=lambda folder: kind(*(read_table(folder / file) for file in files.values()), recorded),
    )
