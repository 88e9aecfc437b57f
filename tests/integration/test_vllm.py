"""vLLM itself, in whatever environment has it, against transformers here: a small model of random weights, in float32.

Run by ``make vllm``. Each start takes vLLM most of a minute, so all that one start can show stands in one test.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.decoding.engines import Decoding, HuggingFaceEngine, Opening
from mastlens.evaluation.comparison import read_responses
from mastlens.problems.encoding import EncodedProblem
from tests.lineages import write_lineage

ROOT = Path(__file__).parents[2]
VARIABLE = "MASTLENS_VLLM_PYTHON"
TIE = 1e-3
"""Two tokens whose logits are this close may change places: kernels round differently, by parts in 10^6 of a logit."""
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def python():
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    if VARIABLE not in os.environ:
        pytest.skip(f"vLLM is not installed here; {VARIABLE} names the Python of an environment that has it")
    return os.environ[VARIABLE]


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    # Heads of 32: the smallest that its kernels for CPUs know.
    return write_lineage(tmp_path_factory.mktemp("lineage"), hidden_size=128, intermediate_size=96)


@pytest.fixture
def run(python):
    """Runs a module with vLLM's interpreter; behind it no temporary file of ours is left."""
    # Not below tmp_path: vLLM's sockets stand there, whose names have at most 107 characters.
    folder = tempfile.TemporaryDirectory(prefix="mv-")
    place = Path(folder.name)

    def run(*words):
        compiled = str(Path(tempfile.gettempdir()) / "mastlens-inductor")  # once, not in every test's own folder
        ours = {
            "TMPDIR": str(place),
            "TORCHINDUCTOR_CACHE_DIR": compiled,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        kept = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        done = subprocess.run(
            [python, "-m", *map(str, words)],
            cwd=ROOT, env={**kept, **os.environ, **ours}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        assert [path.name for path in place.iterdir() if "mastlens" in path.name] == []
        return done

    yield run
    folder.cleanup()


@torch.no_grad()
def ties_where_they_part(model, prompt, ours, theirs):
    """Return whether two greedy responses are the same, or part where two tokens have nearly the same logit."""
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            logits = model(input_ids=torch.tensor([[*prompt, *ours[:place]]])).logits[0, -1]
            return abs(float(logits[mine] - logits[other])) < TIE
    return len(ours) == len(theirs)


def test_an_edited_checkpoint_is_one_model_in_both_engines(lineage, run, tmp_path):
    edit = m.negate(sft=lineage.base, rlvr=lineage.rlvr, where="layers.1.self_attn.[qo]_proj")
    edit.save(tmp_path / "edit.safetensors")
    before = {name: value.clone() for name, value in Checkpoint(lineage.rlvr).load_model().state_dict().items()}
    rng = np.random.default_rng(0)

    def some(size):
        return rng.integers(1, 320, size).tolist()

    texts = [(some(size), some(length)) for size, length in ((3, 1), (20, 40), (88, 40), (5, 2))]
    prompts = [some(size) for size in (2, 30, 7, 60, 9, 11)]
    (tmp_path / "asked.json").write_text(json.dumps({"prompts": prompts, "texts": texts}))
    run("tests.vllm_cases", lineage.rlvr, *(tmp_path / n for n in ("edit.safetensors", "asked.json", "answered.json")))
    found = json.loads((tmp_path / "answered.json").read_text())

    checkpoint = Checkpoint(lineage.rlvr)
    encoded = [EncodedProblem(tuple(prompt), tuple(solution)) for prompt, solution in texts]
    plain = Opening(checkpoint, checkpoint.load_tokenizer(), edit.after, Computing(), 1)
    with HuggingFaceEngine.opened(plain) as engine:
        expected = engine.logprobs(encoded, batch_size=1)
        made = {}
        engine.respond(prompts, Decoding(max_new_tokens=12), names=list("abcdef"), finished=made.__setitem__)
        for place, theirs in enumerate(found["greedy"]):
            assert ties_where_they_part(engine.model, prompts[place], made[place].ids, theirs)
    np.testing.assert_allclose(found["logprobs"], expected, rtol=1e-5, atol=1e-4)
    with HuggingFaceEngine.opened(Opening(checkpoint, plain.tokenizer)) as unedited:
        assert np.abs(unedited.logprobs(encoded, batch_size=1) - expected).min() > 0.01  # what is told apart
    assert found["drawn again, some"] == found["drawn"][2:5]
    assert found["drawn, another seed"] != found["drawn"] != found["greedy"]
    assert found["left while running"] == []
    after = Checkpoint(lineage.rlvr).load_model().state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_command_gives_the_table_that_it_gives_through_transformers(lineage, run, tmp_path):
    asked = {"max_new_tokens": 8, "think": "empty", "dtype": "float32", "device": "cpu"}
    plain = m.evaluate(model=lineage.rlvr, splits={"forget": lineage.forget}, progress=False, **asked)
    done = run(
        "mastlens", "evaluate", "--engine", "vllm", "--model", lineage.rlvr, "--split", f"forget={lineage.forget}",
        "--max-new-tokens", 8, "--think", "empty", "--dtype", "float32", "--device", "cpu", "--enforce-eager",
        "--max-model-len", 128, "--json", "--out", tmp_path / "out",
    )  # fmt: skip
    json.loads(done.stdout)  # and nothing of vLLM's
    table = read_responses(tmp_path / "out")
    for kind in ("solution", "answer"):
        expected = plain.table[f"logprob_{kind}"]
        np.testing.assert_allclose(table[f"logprob_{kind}"], expected, rtol=1e-5, atol=1e-4)
        assert list(table[f"{kind}_tokens"]) == list(plain.table[f"{kind}_tokens"])
    assert list(table["prompt"]) == list(plain.table["prompt"])
    assert (table["response"] == plain.table["response"]).mean() > 0.8  # else it is another model: ties are rare here
