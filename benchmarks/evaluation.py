"""Greedy responses to the organism's 606 eval items: mastlens beside what transformers offers.

Four arms write the same responses (checked first) with the shipped ``organism:qwen2/rlvr`` in float32, at most
64 new tokens each, in one process that takes turns between them:

- ``loop``: ``model.generate`` for one prompt after another;
- ``pipeline 32``: transformers' text-generation pipeline, batches of 32 in the files' order;
- ``mastlens 32`` and ``mastlens 128``: ``mastlens.decoding.generation.generate`` with 32 and 128 rows at a time.

Time is that of generation alone: tokenised prompts (texts for the pipeline) to texts. Ratios are those of the medians
over rounds, intervals a bootstrap over rounds. Memory: peak anonymous memory beyond the loaded model, each arm in a
fresh process.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation --out benchmarks/results
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import GenerationConfig, pipeline

from benchmarks.common import (
    from_fresh_process,
    interleaved,
    ratio,
    shown,
    surroundings,
    table,
    version_line,
    write_results,
)
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.generation import generate
from mastlens.problems.encoding import encode_prompt
from mastlens.problems.reading import read_problems
from mastlens.runs.cost import measured

SPLITS = ("forget", "retain-math", "retain-gsm")
MODEL = "organism:qwen2/rlvr"
NEW_TOKENS = 64
GOALS = {"loop": 10.0, "pipeline 32": 1.5}


def make_arms(items: int | None) -> dict[str, Callable[[], list[str]]]:
    """Return name to what writes the responses."""
    checkpoint = Checkpoint(MODEL)
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    folder = checkpoint.folder.parent
    problems = [p for split in SPLITS for p in read_problems(folder / f"{split}-eval.jsonl")]
    if items is not None:
        problems = problems[:: max(1, len(problems) // items)][:items]
    prompts = [encode_prompt(problem.problem, tokenizer) for problem in problems]
    end = tokenizer.eos_token_id

    @torch.no_grad()
    def loop() -> list[str]:
        config = GenerationConfig(do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=end, pad_token_id=end)
        texts = []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
            texts.append(tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True))
        return texts

    def piped() -> list[str]:
        tokenizer.padding_side = "left"
        made = pipeline("text-generation", model=model, tokenizer=tokenizer, batch_size=32, device="cpu")
        texts = [problem.problem + "\n" for problem in problems]
        found = made(texts, max_new_tokens=NEW_TOKENS, do_sample=False, return_full_text=False)
        return [one[0]["generated_text"] for one in found]

    def ours(rows: int) -> list[str]:
        return [r.text for r in generate(model, tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_size=rows)]

    return {
        "loop": loop,
        "pipeline 32": piped,
        "mastlens 32": partial(ours, 32),
        "mastlens 128": partial(ours, 128),
    }


def memory(arm: str, items: int | None) -> float:
    """Return an arm's peak anonymous memory in MB beyond the loaded model."""
    run = make_arms(items)[arm]
    make_arms(2)[arm]()  # what is imported and set up at the first call is no part of it
    with measured() as cost:
        run()
    return float("nan") if cost.peak_mb is None else cost.peak_mb


def main() -> None:
    """Measure and write the page, or print one arm's memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, help="only so many, evenly spread (default: all 606)")
    parser.add_argument("--arm", help="print this arm's memory and stop")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.arm:
        print(memory(arguments.arm, arguments.items))
        return
    arms = make_arms(arguments.items)
    written = {name: arm() for name, arm in arms.items()}
    differing = {
        name: sum(a != b for a, b in zip(texts, written["loop"], strict=True)) for name, texts in written.items()
    }
    if any(differing.values()):
        raise SystemExit(f"The arms do not write the same responses: {differing}")
    seconds = interleaved(arms, arguments.rounds, uncounted=0)  # the check was the first call of each
    ratios = {
        name: {other: ratio(seconds[other], seconds[name]) for other in ("loop", "pipeline 32")}
        for name in ("mastlens 32", "mastlens 128")
    }
    extra = [] if arguments.items is None else ["--items", str(arguments.items)]
    peaks = {name: from_fresh_process("benchmarks.evaluation", "--arm", name, *extra) for name in arms}
    count = len(written["loop"])
    result = {"items": count, "seconds": seconds, "ratios": ratios, "peak_mb": peaks, **surroundings()}
    medians = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    page = [
        "# Evaluation: greedy responses",
        "",
        f"{count} items, {arguments.rounds} rounds, {torch.get_num_threads()} thread; all arms write the same texts.",
        *table(
            ["arm", "seconds (median)", "items / s", "peak MB", "loop / arm", "pipeline / arm"],
            [
                [
                    name,
                    f"{medians[name]:.2f}",
                    f"{count / medians[name]:.1f}",
                    f"{peaks[name]:.0f}",
                    *(shown(ratios[name][other], 2) if name in ratios else "" for other in GOALS),
                ]
                for name in arms
            ],
        ),
        "",
        f"Goals: {', '.join(f'{goal:g} times {name}' for name, goal in GOALS.items())}.",
        "",
        version_line(result),
    ]
    if arguments.out is not None:
        write_results(arguments.out, "evaluation", result, page)
    print("\n".join(page))
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
