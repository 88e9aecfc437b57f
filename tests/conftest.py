"""Shapes are checked at run time here, and tiny lineages of random weights stand in for real ones."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # several processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
_caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_users = Path(os.environ.get("MASTLENS_CACHE") or _caches / "mastlens")
os.environ["MASTLENS_CACHE"] = tempfile.mkdtemp(prefix="mastlens-tests-")  # what this machine knows is no test's ...
atexit.register(shutil.rmtree, os.environ["MASTLENS_CACHE"], ignore_errors=True)
for _lineage in ("smollm2", "smollm2-short", "smollm2-strong"):  # ... but for real models, which are fetched once
    if (_users / "organisms" / _lineage).is_dir():
        (Path(os.environ["MASTLENS_CACHE"]) / "organisms").mkdir(exist_ok=True)
        (Path(os.environ["MASTLENS_CACHE"]) / "organisms" / _lineage).symlink_to(_users / "organisms" / _lineage)
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

_ROOT = Path(__file__).parents[1]
# Before anything of the package is imported: every annotated shape becomes a run-time check. Where there is none, what
# the hook costs (a third of the time of tests that call small functions often) buys nothing that pyright does not see.
SHAPED = [
    ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((_ROOT / "mastlens").rglob("*.py"))
    if "jaxtyping" in path.read_text(encoding="utf-8")
]
install_import_hook(SHAPED, "beartype.beartype")

import pytest
from hypothesis import settings as hypothesis_settings

from tests.lineages import TEXTS, TinyLineage, tiny_config, write_lineage, write_problems, write_tokenizer

__all__ = ["TEXTS", "TinyLineage", "run_command", "tiny_config", "write_lineage", "write_problems", "write_tokenizer"]

# A deadline in milliseconds measures how busy the machine is, not the code.
hypothesis_settings.register_profile("mastlens", deadline=None)
hypothesis_settings.load_profile("mastlens")


@pytest.fixture(autouse=True)
def _no_width(monkeypatch):
    """Output of a test goes to no terminal, whatever width somebody left in the environment."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyLineage:
    """A float32 Qwen2 lineage. Read-only: tests that damage a checkpoint copy it first."""
    return write_lineage(tmp_path_factory.mktemp("tiny"))


def run_command(*words):
    """Run a command as it is typed and return its outcome; mistakes are raised."""
    from mastlens.cli.parser import build_parser

    arguments = build_parser().parse_args([str(word) for word in words])
    return arguments.handler(arguments)


@pytest.fixture(scope="session")
def yardstick() -> Path:
    """The folder of SmolLM2-135M-Instruct, a real pre-trained model; without it, its tests are skipped with a word."""
    return _at_hand("smollm2") / "instruct"


@pytest.fixture(scope="session")
def yardstick_lineage() -> Path:
    """The folder of its lineage, likewise."""
    return _at_hand("smollm2-short")


def _at_hand(name: str) -> Path:
    from mastlens.errors import MastlensError
    from mastlens.organisms import lineage_folder

    try:
        return lineage_folder(name)
    except MastlensError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two workers on this machine, for all tests: it takes seconds to start."""
    ray = pytest.importorskip("ray")
    root = str(Path(__file__).parents[1])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}},
    )
    yield
    ray.shutdown()
