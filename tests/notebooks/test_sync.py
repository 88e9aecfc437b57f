"""The .ipynb files are what their plain-text twins give, hold no outputs, and keep to the house's form."""

import ast
import json
import re
import shutil

import pytest

pytest.importorskip("jupytext", reason="notebooks need the dev extra")

from notebooks.sync import HERE, build, out_of_date, render, twins, without_checks

SOURCES = twins()
NAMES = [path.stem for path in SOURCES]


def cells_of(path):
    """Return the cells as the file has them: plain JSON, no library of the writer's."""
    return json.loads(path.with_suffix(".ipynb").read_text())["cells"]


def text_of(cell):
    return "".join(cell["source"])


def test_there_are_notebooks_and_all_are_in_sync():
    assert SOURCES
    assert out_of_date() == []


def test_a_change_on_either_side_is_noticed(tmp_path):
    source = SOURCES[0]
    for path in (source, source.with_suffix(".ipynb")):
        shutil.copy(path, tmp_path)
    assert out_of_date(tmp_path) == []
    copy = tmp_path / source.name
    copy.write_text(copy.read_text() + "\n# %%\n1 + 1\n")
    assert out_of_date(tmp_path) == [f"{source.stem}.ipynb is not what {source.name} gives."]
    copy.unlink()
    assert out_of_date(tmp_path) == [f"{source.stem}.ipynb has no .py."]
    shutil.copy(source, tmp_path)
    made = copy.with_suffix(".ipynb")
    made.write_text(made.read_text().replace('"outputs": []', '"outputs": [{}]', 1))
    assert out_of_date(tmp_path) == [f"{source.stem}.ipynb is not what {source.name} gives."]
    made.unlink()
    assert out_of_date(tmp_path) == [f"{source.stem}.ipynb is missing."]


def test_the_same_text_gives_the_same_bytes_and_equal_cells_different_ids():
    text = "# %% [markdown]\n# # A title\n\n# %%\n1 + 1\n\n# %%\n1 + 1\n"
    assert render(text) == render(text)
    ids = [cell["id"] for cell in json.loads(render(text))["cells"]]
    assert len(set(ids)) == 3
    longer = [cell["id"] for cell in json.loads(render("# %%\n0\n\n" + text))["cells"]]
    assert longer[1:] == ids  # a new cell leaves the others' ids, and so the diff, alone


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_no_outputs(source):
    made = json.loads(source.with_suffix(".ipynb").read_text())
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "widgets" not in made["metadata"]
    assert made["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_the_cells_are_the_twin_itself(source):
    """Read without jupytext: the code of the .ipynb is that of the .py, but for assertions and what they import."""

    def asserts(node):
        return all(map(asserts, node.body)) if isinstance(node, ast.For) else isinstance(node, ast.Assert)

    tree = ast.parse(source.read_text())
    tree.body = [node for node in tree.body if not asserts(node)]
    made = ast.parse("\n".join(text_of(c) for c in cells_of(source) if c["cell_type"] == "code"))
    left = [line for line in map(ast.unparse, tree.body) if line not in list(map(ast.unparse, made.body))]
    assert all(line.startswith(("import ", "from ")) for line in left) and len(left) <= 2
    tree.body = [node for node in tree.body if ast.unparse(node) not in left]
    assert ast.dump(tree) == ast.dump(made)


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_form(source):
    cells = cells_of(source)
    assert re.match(r"# \S", text_of(cells[0])), "a notebook begins with its title"
    assert cells[-1]["cell_type"] == "markdown"
    headings = [line for cell in cells for line in text_of(cell).splitlines() if line.startswith("## ")]
    assert "not show" in headings[-1], "a notebook ends with what its result does not show"
    twin = ast.parse(source.read_text())
    assert any(isinstance(node, ast.Assert) for node in ast.walk(twin)), "key numbers are asserted"
    for text in map(text_of, cells):
        assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt|data)/", text), "no path of a machine"
        assert "sys.path" not in text
        assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_cells_are_short_and_one_takes_your_own_checkpoints(source):
    cells = cells_of(source)
    for cell in cells:
        assert cell["cell_type"] == "markdown" or len(text_of(cell).splitlines()) <= 20, text_of(cell)
    own = [i for i, cell in enumerate(cells) if re.search(r"^#+ .*your own checkpoints", text_of(cell), re.I | re.M)]
    assert own, "a reader is told where to put checkpoints of their own"
    assert any(cell["cell_type"] == "code" for cell in cells[own[0] :]), "and by a cell that runs"


def test_only_public_names():
    """What a notebook needs is public: no name with an underscore is imported or taken from the package."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom):
                taken = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            else:
                taken = [node.attr] if isinstance(node, ast.Attribute) else []
            assert not [name for name in taken if name.startswith("_")], source.name


def test_every_notebook_lies_in_the_folder_once():
    numbers = [path.name[:2] for path in SOURCES]
    assert len(set(numbers)) == len(numbers)
    assert HERE.name == "notebooks"


def test_a_reader_s_notebook_has_no_assertions_and_the_tests_run_them():
    source = "x = 1\n# It is one.\nassert x == 1\nfor y in (1, 2):\n    assert y\n\n\nassert (\n    x\n)\nx + 1\n"
    assert without_checks(source) == "x = 1\n\n\nx + 1"
    text = "# %%\nassert 1 == 1\n\n# %%\nprint('a')\nassert True\n"
    assert [cell.source for cell in build(text).cells] == ["print('a')"]
    assert [cell.source for cell in build(text, checks=True).cells] == ["assert 1 == 1", "print('a')\nassert True"]
    for path in SOURCES:
        code = [text_of(cell) for cell in cells_of(path) if cell["cell_type"] == "code"]
        assert not [line for cell in code for line in cell.splitlines() if line.startswith("assert ")], path.stem
        assert "assert " in path.read_text(), "the twin holds what is said"
