"""Execute notebooks as a reader would, each in an empty folder and offline, and keep them as pages.

python notebooks/execute.py [NUMBER ...] [--out build/notebooks]      writes NN_name.html, prints the seconds
"""

import argparse
import os
import re
import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, too, this folder is `notebooks`

from notebooks.sync import build, twins, without_checks

CELL_LIMIT = 600
"""Seconds that one cell may take before it counts as hung: generous, because machines differ. The whole notebook is
meant to stay under 120 on two free cores; ``execute.py`` prints what it took."""


LINES = 25
"""Lines that are told of either end of a failed cell's traceback."""


@dataclass(frozen=True)
class Executed:
    """A notebook after its cells have run.

    Attributes:
        name: Its name, without an ending.
        notebook: With its outputs.
        seconds: Wall time, the kernel's start included.
        processor_seconds: What its kernel used of all processors together: on a busy machine the fairer number.
    """

    name: str
    notebook: NotebookNode
    seconds: float
    processor_seconds: float

    @property
    def complaints(self) -> str:
        """What the cells wrote to stderr: warnings and progress bars, of which a page should have none."""
        outputs = (output for cell in self.notebook.cells for output in cell.get("outputs", []))
        return "".join(output.text for output in outputs if output.get("name") == "stderr")


def execute(
    source: Path,
    folder: Path,
    *,
    limit: int = CELL_LIMIT,
    renderer: str = "plotly_mimetype",
    cache: Path | None = None,
) -> Executed:
    """Execute a plain-text notebook in a folder; the hub is out of reach.

    Args:
        source: The ``.py``.
        folder: The working directory of its cells, and where their temporary folders go.
        limit: Seconds for one cell.
        renderer: How plotly's figures are put out: JupyterLab's own way, or ``notebook``, with the script that draws
            them, for a page that is to be read without one.
        cache: Where results that take long are kept; the user's own by default. With an empty one, what a notebook
            shows does not depend on the machine: it has no real model then.

    Raises:
        CellExecutionError: If a cell fails, with its traceback: an assertion in it, for one.
        CellTimeoutError: If a cell takes longer than ``limit``.
    """
    from nbclient import NotebookClient

    notebook = build(source.read_text(encoding="utf-8"), checks=True)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TMPDIR": str(folder),
        "PLOTLY_RENDERER": renderer,
        **({"MASTLENS_CACHE": str(cache)} if cache else {}),
    }
    client = NotebookClient(
        notebook,
        timeout=limit,
        startup_timeout=300,  # a busy machine is no defect of a notebook
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns of every kernel that it starts
    )
    start, before = time.perf_counter(), os.times()
    client.execute(env=environment)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Executed(source.stem, notebook, time.perf_counter() - start, used)


def page(executed: Executed) -> str:
    """Return an executed notebook as one HTML page."""
    from nbconvert import HTMLExporter

    shown = deepcopy(executed.notebook)
    for cell in shown.cells:
        if cell.cell_type == "code":
            cell.source = without_checks(cell.source)
    shown.cells = [cell for cell in shown.cells if cell.source.strip() or cell.get("outputs")]
    html, _ = HTMLExporter().from_notebook_node(shown)
    return html


def main(arguments: list[str]) -> int:
    """Execute the notebooks and write their pages; return the exit status."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("only", nargs="*", metavar="NUMBER", help="beginnings of names, such as 02; without any, all")
    parser.add_argument("--out", type=Path, default=Path("build/notebooks"), help="where the pages go")
    parser.add_argument("--limit", type=int, default=CELL_LIMIT, help=f"seconds for one cell (default {CELL_LIMIT})")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for source in twins(only=options.only):
        with tempfile.TemporaryDirectory() as folder:
            try:
                executed = execute(source, Path(folder), limit=options.limit, renderer="notebook")
            except (CellExecutionError, CellTimeoutError) as error:
                told = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().splitlines()
                sys.stderr.write("\n".join([f"{source.stem} failed:", *told[:LINES], "...", *told[-LINES:], ""]))
                failed += 1
                continue
        (options.out / f"{source.stem}.html").write_text(page(executed), encoding="utf-8")
        took = f"{executed.seconds:.0f} s, of all processors {executed.processor_seconds:.0f} s"
        sys.stdout.write(f"{source.stem}: {took}\n{executed.complaints}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
