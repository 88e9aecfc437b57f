"""A real pre-trained model: mastlens beside what a user would write instead, on the yardstick, float32.

    mastlens organism fetch smollm2 && mastlens organism build smollm2-short
    python -m benchmarks.real --out docs/results/real            # everything; hours on 2 cores
    python -m benchmarks.real --parts unlearn --limit 4 --rounds 1

Every arm runs in a fresh process, the arms of a part take turns, ``--rounds`` times each. What is measured lies in
``OUT.jsonl``, one line a process: the same command goes on where it stopped. Time is wall-clock time and the
processor's (user and system) in the measured block; the model is loaded before it, except in geometry. Memory is the
largest anonymous memory in the block beyond what the process held at its start, the loaded model. The page ``OUT.md``
has medians, and each ratio beside its goal; on a shared machine the ratio of processor times is the one to read.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import order_of, surroundings, table, version_line
from benchmarks.plain import BATCH, LR, MICRO, chat_prompts, generate, npo_step, token_sums
from benchmarks.plain import opened as plain_opened
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.organisms import lineage_folder, stage_folder
from mastlens.organisms.continued import problem_lines
from mastlens.organisms.recipes.continued import ContinuedRecipe
from mastlens.problems.encoding import EncodedProblem, encode_problems
from mastlens.problems.reading import Problem, parse_problem
from mastlens.runs.cost import measured
from mastlens.runs.files import write_text

MODEL, LINEAGE, NEW_TOKENS = "smollm2/instruct", "smollm2-short", 64
Block = Callable[[], Any]


@dataclass(frozen=True)
class Goal:
    """What a ratio should be at the most: of arm over reference, in time and memory."""

    arm: str
    reference: str
    time: float
    memory: float | None = None


# What is read


def problems(count: int) -> tuple[list[Problem], list[Problem]]:
    """Return problems to forget and to keep: the first training problems of the lineage."""
    sides = [
        [parse_problem("", number, json.loads(line)) for number, line in enumerate(lines(side)[:count])]
        for side in ("forget", "retain")
    ]
    return sides[0], sides[1]


def lines(side: str) -> list[str]:
    """Return the lines of a side's training file."""
    return problem_lines(ContinuedRecipe())[f"{side}-train.jsonl"]


def encoded(tokenizer: Any, count: int) -> tuple[list[EncodedProblem], list[EncodedProblem]]:
    """Return the same as token ids."""
    forget, retain = problems(count)
    return encode_problems(forget, tokenizer), encode_problems(retain, tokenizer)


def opened() -> tuple[Any, Any]:
    """Return the model in float32 and its tokenizer, as a user loads them."""
    return plain_opened(stage_folder(MODEL))


# Evaluate


def evaluate_arms(limit: int) -> dict[str, Callable[[], Block]]:
    """Return the arms of ``evaluate``: 32 items by default, 64 new tokens."""
    count, size = limit or 32, 32

    def plain() -> Block:
        model, tokenizer = opened()
        chosen, _ = problems(count)
        return lambda: generate(model, tokenizer, chat_prompts(tokenizer, chosen), size, NEW_TOKENS)

    def script() -> Block:
        model, tokenizer = opened()
        chosen, _ = problems(count)

        def run() -> None:
            generate(model, tokenizer, chat_prompts(tokenizer, chosen), size, NEW_TOKENS)
            answers = [Problem(p.problem, f"\\boxed{{{p.answer}}}", p.answer) for p in chosen]
            for side in (chosen, answers):
                ids = encode_problems(side, tokenizer)
                with torch.no_grad():
                    for start in range(0, len(ids), size):
                        token_sums(model, ids[start : start + size])

        return run

    def ours() -> Block:
        from mastlens.evaluation.responses import evaluate

        checkpoint = Checkpoint(f"organism:{MODEL}")
        model = checkpoint.load_model(dtype=torch.float32)
        checkpoint.load_model = lambda *args, **kwargs: model  # type: ignore[method-assign] - loaded before, as above

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "items.jsonl"
                file.write_text("\n".join(lines("forget")[:count]) + "\n")
                evaluate(model=checkpoint, splits={"items": file}, max_new_tokens=NEW_TOKENS, progress=False)

        return run

    return {"generate alone": plain, "generate and two log-probabilities": script, "mastlens evaluate": ours}


# Couple


def projections_of(model: Any) -> list[str]:
    """Return the names of the attention projections' weights."""
    return [n for n, _ in model.named_parameters() if n.endswith(tuple(f".{p}_proj.weight" for p in "qkvo"))]


def couple_arms(limit: int) -> dict[str, Callable[[], Block]]:
    """Return the arms of ``couple``: the mean gradients of 24 + 24 problems."""
    count = limit or 24

    def one_by_one() -> Block:
        model, tokenizer = opened()
        sides = encoded(tokenizer, count)

        def run() -> None:
            for side in sides:
                for problem in side:
                    sums, _ = token_sums(model, [problem])
                    (-sums.sum()).backward()
                model.zero_grad(set_to_none=True)

        return run

    def ours() -> Block:
        from mastlens.models.gradients import mean_gradients

        model, tokenizer = opened()
        sides, names = encoded(tokenizer, count), projections_of(model)

        def run() -> None:
            for side in sides:
                mean_gradients(model, side, names, batch_size="auto")  # as the command has it

        return run

    return {"one text at a time, all gradients": one_by_one, "mastlens couple": ours}


# Unlearn


def unlearn_arms(limit: int) -> dict[str, Callable[[], Block]]:
    """Return the arms of ``unlearn``: steps of NPO with a retain term, 8 problems a side, 4 at a time."""
    steps = limit or 3

    def plain() -> Block:
        model, tokenizer = opened()
        reference, _ = opened()
        forget, retain = encoded(tokenizer, BATCH * steps)
        reference.requires_grad_(False)
        optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)

        def run() -> None:
            for step in range(steps):
                part = slice(step * BATCH, (step + 1) * BATCH)
                npo_step(model, reference, optimiser, forget[part], retain[part])

        return run

    def ours(chosen: Callable[[list[str]], list[str]]) -> Callable[[], Block]:
        def start() -> Block:
            from mastlens.unlearning import make_objective, unlearning_steps

            model, tokenizer = opened()
            forget, retain = encoded(tokenizer, BATCH * steps)
            names = chosen(projections_of(model))

            def run() -> None:
                settings = {"lr": LR, "steps": steps, "batch_size": BATCH, "micro_batch": MICRO}
                list(unlearning_steps(model, names, make_objective("npo"), forget, retain, **settings))

            return run

        return start

    def spread(names: list[str], count: int) -> list[str]:
        return [names[place * len(names) // count] for place in range(count)]

    return {
        "all parameters, reference model": plain,
        "mastlens, 12 in layers 15-29": ours(lambda names: spread(names[60:], 12)),
        "mastlens, 12 from layer 0": ours(lambda names: spread(names, 12)),
        "mastlens, 96 of 120": ours(lambda names: spread(names, 96)),
    }


# Causal map


def causal_arms(limit: int) -> dict[str, Callable[[], Block]]:
    """Return the arms of ``causal-map``: every projection put back, log p of 4 solutions."""
    count = limit or 4

    def work() -> Any:
        from benchmarks.causal_map import Workload
        from mastlens.analysis.causal.patching import patches_of, stored_tensors

        after, before = (Checkpoint(f"organism:{LINEAGE}/{stage}") for stage in ("rlvr", "sft"))
        model = after.load_model(dtype=torch.float32)
        forget, _ = encoded(after.load_tokenizer(), count)
        patches = patches_of(after.projections, heads=False)
        other = stored_tensors(before, model, after.projections)
        return Workload("yardstick", model, other, patches, forget, model.config.num_hidden_layers)

    def arm(name: str) -> Callable[[], Block]:
        def start() -> Block:
            from benchmarks.causal_map import naive, suffix

            loaded = work()
            return lambda: {"naive": naive, "suffix": suffix}[name](loaded)

        return start

    return {"naive patching": arm("naive"), "mastlens causal-map": arm("suffix")}


# Geometry


def geometry_arms(limit: int) -> dict[str, Callable[[], Block]]:
    """Return the arms of ``geometry`` on the lineage's own weights."""

    def read() -> Block:
        from safetensors import safe_open

        folder = lineage_folder(LINEAGE)

        def run() -> None:
            for stage in ("base", "sft", "rlvr"):
                with safe_open(folder / stage / "model.safetensors", "pt") as stream:
                    for name in stream.keys():  # noqa: SIM118 - it is no mapping
                        hashlib.sha256(stream.get_tensor(name).view(torch.uint8).numpy().data).hexdigest()

        return run

    def ours() -> Block:
        import mastlens

        stages = {stage: f"organism:{LINEAGE}/{stage}" for stage in ("base", "sft", "rlvr")}
        organism = {stage: f"organism:qwen2/{stage}" for stage in ("base", "sft", "rlvr")}
        mastlens.geometry(**organism, progress=False)  # imports apart
        return lambda: mastlens.geometry(**stages, progress=False)

    return {"reading and hashing": read, "mastlens geometry": ours}


def shapes_arms(limit: int) -> dict[str, Callable[[], Block]]:
    """Return the arms of ``geometry`` on attention of Qwen2.5-Math-1.5B's shapes: two layers by default."""
    layers = limit or 2

    def arm(name: str) -> Callable[[], Block]:
        def start() -> Block:
            from dataclasses import replace

            from benchmarks.geometry import ours, script
            from benchmarks.synthetic import SHAPES, write_lineage

            folder = tempfile.TemporaryDirectory()
            write_lineage(Path(folder.name), replace(SHAPES["1.5b"], layers=layers))
            if name == "ours":
                small = {stage: f"organism:qwen2/{stage}" for stage in ("base", "sft", "rlvr")}
                import mastlens

                mastlens.geometry(**small, progress=False)

            def run() -> None:
                with folder:
                    {"script": script, "ours": ours}[name](Path(folder.name), False)

            return run

        return start

    return {"the script": arm("script"), "mastlens geometry": arm("ours")}


PARTS: dict[str, Callable[[int], dict[str, Callable[[], Block]]]] = {
    "evaluate": evaluate_arms,
    "couple": couple_arms,
    "unlearn": unlearn_arms,
    "causal-map": causal_arms,
    "geometry": geometry_arms,
    "geometry-1.5b": shapes_arms,
}
"""Part to its arms: each loads what it needs and returns the block that is measured. The argument is ``--limit``."""

GOALS = {
    "evaluate": [
        Goal("mastlens evaluate", "generate alone", 1.4),
        Goal("mastlens evaluate", "generate and two log-probabilities", 0.65),
    ],
    "couple": [Goal("mastlens couple", "one text at a time, all gradients", 0.8, 1.2)],
    "unlearn": [
        Goal("mastlens, 12 in layers 15-29", "all parameters, reference model", 0.5, 0.35),
        Goal("mastlens, 12 from layer 0", "all parameters, reference model", 0.7, 0.5),
        Goal("mastlens, 96 of 120", "all parameters, reference model", 0.8, 0.5),
    ],
    "causal-map": [Goal("mastlens causal-map", "naive patching", 0.6)],
    "geometry": [Goal("mastlens geometry", "reading and hashing", 2.0)],
    "geometry-1.5b": [Goal("mastlens geometry", "the script", 1 / 15)],
}

EXTRA_MB = {"all parameters, reference model": "reference"}
"""Arms whose second model is loaded before the block: it is memory beyond weights too."""


def measure(part: str, arm: str, limit: int) -> dict[str, Any]:
    """Return what one arm costs in this process."""
    block = PARTS[part](limit)[arm]()
    reference = 0.0
    if arm in EXTRA_MB:
        reference = (stage_folder(MODEL) / "model.safetensors").stat().st_size * 2 / 1e6  # in float32
    before = time.process_time()
    with measured() as cost:
        block()
    cpu = time.process_time() - before
    peak = None if cost.peak_mb is None else round(cost.peak_mb + reference, 1)
    return {"part": part, "arm": arm, "limit": limit, "seconds": cost.seconds, "cpu": cpu, "peak_mb": peak}


def known(ledger: Path) -> list[dict[str, Any]]:
    """Return what is measured already."""
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.is_file() else []


def as_page(records: Sequence[dict[str, Any]], command: str) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from ["# A real model", ""]
    yield (
        "SmolLM2-135M (`organism:smollm2/instruct`, 30 layers, 120 attention projections; `smollm2-short` where there "
        "are several stages), float32: mastlens beside what a user would write instead, which `benchmarks/real.py` has "
        "in full. Every arm in fresh processes, in turns; medians. Memory is beyond the loaded weights. On a busy "
        "machine the processor's time is the one to read."
    )
    yield from ["", f"Command: `{command}`, {date.today().isoformat()}, {surroundings()['processor']}."]
    for part in PARTS:
        chosen = [record for record in records if record["part"] == part]
        if not chosen:
            continue
        limit = f", `--limit {chosen[0]['limit']}`" if chosen[0]["limit"] else ""
        yield from ["", f"## {part}{limit}"]
        arms: dict[str, list[dict[str, Any]]] = {}
        for record in chosen:
            arms.setdefault(record["arm"], []).append(record)
        middle = {
            arm: {
                key: statistics.median(found) if (found := [r[key] for r in those if r[key] is not None]) else None
                for key in ("seconds", "cpu", "peak_mb")
            }
            for arm, those in arms.items()
        }
        yield from table(
            ["arm", "runs", "seconds", "processor seconds", "peak MB beyond weights"],
            [[arm, len(arms[arm]), *("–" if v is None else f"{v:.1f}" for v in middle[arm].values())] for arm in arms],
        )
        rows = []
        for goal in GOALS[part]:
            if goal.arm in middle and goal.reference in middle:
                ours, theirs = middle[goal.arm], middle[goal.reference]
                times = [f"{ours[key] / theirs[key]:.2f}" for key in ("seconds", "cpu")]
                memory = "–" if not theirs["peak_mb"] else f"{ours['peak_mb'] / theirs['peak_mb']:.2f}"
                aim = "–" if goal.memory is None else f"{goal.memory:g}"
                rows.append([goal.arm, goal.reference, *times, f"{goal.time:.2g}", memory, aim])
        if rows:
            header = ["arm", "beside", "time ratio", "processor ratio", "goal", "memory ratio", "goal"]
            yield from table(header, rows)
    yield from ["", version_line(surroundings())]


def main() -> None:
    """Measure and write the page; or measure one arm in this process and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--limit", type=int, default=0, help="problems, steps or layers of each part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real"), help="without a suffix")
    parser.add_argument("--arm", help="of the only part: measure it here, print the record and stop")
    asked = parser.parse_args()
    if asked.arm:
        print(json.dumps(measure(asked.parts[0], asked.arm, asked.limit)))
        return
    ledger = asked.out.with_suffix(".jsonl")
    ledger.parent.mkdir(parents=True, exist_ok=True)
    for part in asked.parts:
        for turn in range(asked.rounds):
            for arm in order_of(list(PARTS[part](asked.limit)), turn):
                same = {"part": part, "arm": arm, "limit": asked.limit}
                if sum(record | same == record for record in known(ledger)) > turn:
                    continue
                words = ["--parts", part, "--arm", arm, "--limit", str(asked.limit)]
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.real", *words], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise SystemExit(f"{part}, {arm} failed:\n{done.stderr}")
                with ledger.open("a") as stream:
                    stream.write(done.stdout.strip().splitlines()[-1] + "\n")
                print(done.stdout.strip().splitlines()[-1], flush=True)
    command = f"python -m benchmarks.real --rounds {asked.rounds}" + (f" --limit {asked.limit}" if asked.limit else "")
    write_text(asked.out.with_suffix(".md"), "\n".join(as_page(known(ledger), command)) + "\n")
    print(asked.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
