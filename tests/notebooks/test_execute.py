"""Every notebook runs from its first cell to its last, offline, in an empty folder; its own assertions hold."""

import pytest

pytest.importorskip("nbclient", reason="notebooks need the dev extra")
pytest.importorskip("ipykernel", reason="notebooks need the dev extra")

from nbclient.exceptions import CellExecutionError, CellTimeoutError

from notebooks.execute import execute
from notebooks.sync import twins

LONG = {"07_reasoning_traces", "08_trajectories"}  # their stages are tested one by one
SOURCES = [pytest.param(path, id=path.stem, marks=[pytest.mark.long] * (path.stem in LONG)) for path in twins()]


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_notebook(source, tmp_path, record_property):
    executed = execute(source, tmp_path, cache=tmp_path / "cache")
    record_property("seconds", round(executed.seconds, 1))
    record_property("processor_seconds", round(executed.processor_seconds, 1))
    assert executed.complaints == "", "no warning and no progress bar on the page"
    assert any(cell.get("outputs") for cell in executed.notebook.cells)


def test_a_failing_assertion_fails_and_a_hung_cell_ends(tmp_path):
    source = tmp_path / "00_wrong.py"
    source.write_text("# %%\nassert 1 + 1 == 3\n")
    with pytest.raises(CellExecutionError, match="AssertionError"):
        execute(source, tmp_path)
    source.write_text("# %%\nimport time\n\ntime.sleep(60)\n")
    with pytest.raises(CellTimeoutError):
        execute(source, tmp_path, limit=1)


def test_cells_run_offline_in_the_folder_and_complaints_are_heard(tmp_path):
    source = tmp_path / "00_environment.py"
    source.write_text(
        "# %%\nimport os, sys, pathlib, tempfile\n\nprint(os.environ['HF_HUB_OFFLINE'], pathlib.Path.cwd())\n"
        "sys.stderr.write('a warning')\n\n# %%\nprint(tempfile.mkdtemp())\n"
    )
    executed = execute(source, tmp_path)
    first, second = (
        "".join(out["text"] for out in cell.outputs if out.get("name") == "stdout") for cell in executed.notebook.cells
    )
    assert first.split() == ["1", str(tmp_path)]
    assert second.startswith(str(tmp_path))
    assert executed.complaints == "a warning"
