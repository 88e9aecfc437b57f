"""The explorer: a map of every attention projection, and behind each cell everything known about that projection."""

import os
from typing import TYPE_CHECKING

from mastlens.explorer.exploration import Exploration, open_exploration
from mastlens.explorer.explorer import Explorer
from mastlens.explorer.figures import projection_figures, score_map

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.edits.edit import Edit

__all__ = ["Exploration", "Explorer", "explore", "open_exploration", "projection_figures", "score_map"]


def explore(
    study: "str | os.PathLike[str] | Exploration",
    *,
    base: "str | os.PathLike[str] | Checkpoint | None" = None,
    sft: "str | os.PathLike[str] | Checkpoint | None" = None,
    rlvr: "str | os.PathLike[str] | Checkpoint | None" = None,
    edit: "str | os.PathLike[str] | Edit | None" = None,
    forget: str | os.PathLike[str] | None = None,
    retain: str | os.PathLike[str] | None = None,
    limit: int = 32,
    device: str = "cpu",
) -> Explorer:
    """Open a run's folder to look around in: a map of scores, and every projection behind a click.

    As the last line of a notebook's cell it shows itself: in JupyterLab and VS Code as a widget, elsewhere as the map
    alone. Tables are read as they are; angles, heads, attention, and what putting a projection back does are measured
    when it is opened, once. Checkpoints are opened for reading; the model in memory is the explorer's own, and after
    each measurement it is what it was, bit for bit.

    Args:
        study: A folder with any of ``geometry.parquet``, ``coupling.parquet``, ``ranking.parquet`` and
            ``causal_map.parquet``: a demo, a study, or any run.
        base: The pre-trained checkpoint. Checkpoints and files need to be given only where the run's record does not
            say where they are: those of a study and of shipped organisms are found.
        sft: The checkpoint that RLVR started from.
        rlvr: The checkpoint after RLVR.
        edit: An edit whose effect on attention is shown; by default that of the folder, or of a demo its selected one.
        forget: File of forget problems to measure on.
        retain: File of retain problems.
        limit: Use the first so many problems of each file.
        device: Where to compute.

    Raises:
        MastlensError: If the folder holds no table to explore, or what was given is not there.
    """
    return Explorer(
        open_exploration(
            study, base=base, sft=sft, rlvr=rlvr, edit=edit, forget=forget, retain=retain, limit=limit, device=device
        )
    )
