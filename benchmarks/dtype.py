r"""What bfloat16 changes: log-probabilities, coupling, its ranking, and responses, beside float32.

The same model is read twice, in float32 and in bfloat16, on the same problems and the same machine; weights come from
the same files. Told are

- log p of solution tokens: the root of the mean squared difference, and the largest;
- log p of whole solutions: the largest difference, in nats;
- coupling: the largest difference of a ``forget_cosine``, how many of them are above chance in one type alone, and the
  rank correlation (Spearman) of the orders that |forget_cosine| gives;
- greedy responses that differ in any token.

    python -m benchmarks.dtype --sft organism:qwen2/sft --rlvr organism:qwen2/rlvr \
        --forget mastlens/organisms/lineages/qwen2/forget-train.jsonl --limit 64 --max-new-tokens 48
"""

import argparse
from typing import Any

import numpy as np

import mastlens
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.models.distributions import solution_tokens
from mastlens.problems.encoding import context_length, encode_problems
from mastlens.problems.reading import read_problems
from mastlens.statistics import spearman

TYPES = ("float32", "bfloat16")


def measured(asked: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Return what one type gives."""
    checkpoint = Checkpoint(asked.rlvr)
    problems = read_problems(asked.forget, asked.limit)
    tokenizer, model = checkpoint.load_tokenizer(), Computing("cpu", dtype).load(checkpoint)
    encoded = encode_problems(problems, tokenizer, context=context_length(model.config))
    logprobs, _ = solution_tokens(model, encoded, batch_size="auto", progress=f"log p, {dtype}")
    del model
    shared = {"dtype": dtype, "device": "cpu", "limit": asked.limit}
    coupled = mastlens.couple(sft=asked.sft, rlvr=asked.rlvr, forget=asked.forget, spectrum=False, **shared)
    written = mastlens.evaluate(
        model=asked.rlvr,
        splits={"forget": asked.forget},
        max_new_tokens=asked.max_new_tokens,
        solution_logprob=False,
        **shared,
    )
    return {"tokens": logprobs, "coupling": coupled.table, "responses": written.table["response"].tolist()}


def compared(whole: dict[str, Any], short: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is told of both."""
    apart = np.concatenate(whole["tokens"]).astype(float) - np.concatenate(short["tokens"]).astype(float)
    sums = [
        float(a.sum(dtype=float) - b.sum(dtype=float)) for a, b in zip(whole["tokens"], short["tokens"], strict=True)
    ]
    cosines = [found["coupling"]["forget_cosine"].to_numpy() for found in (whole, short)]
    above = [found["coupling"]["forget_above_chance"].to_numpy() for found in (whole, short)]
    ranks = spearman(abs(cosines[0]), abs(cosines[1]))["spearman"]
    differ = sum(a != b for a, b in zip(whole["responses"], short["responses"], strict=True))
    return [
        ("log p of a token, root mean square", f"{np.sqrt((apart**2).mean()):.4f} nats"),
        ("log p of a token, largest", f"{abs(apart).max():.3f} nats of {len(apart):,} tokens"),
        ("log p of a solution, largest", f"{max(map(abs, sums)):.3f} nats of {len(sums)} solutions"),
        ("forget_cosine, largest", f"{abs(cosines[0] - cosines[1]).max():.1e} of {abs(cosines[0]).max():.1e} at most"),
        ("above chance in one type alone", f"{int((above[0] != above[1]).sum())} of {len(above[0])} projections"),
        ("order by coupling, Spearman", f"{ranks:.4f}"),
        ("greedy responses that differ", f"{differ} of {len(whole['responses'])}"),
    ]


def main() -> None:
    """Measure, and print a table for the documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sft", required=True)
    parser.add_argument("--rlvr", required=True)
    parser.add_argument("--forget", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    asked = parser.parse_args()
    print("| float32 minus bfloat16 | |\n|---|---|")
    for what, told in compared(*(measured(asked, dtype) for dtype in TYPES)):
        print(f"| {what} | {told} |", flush=True)


if __name__ == "__main__":
    main()
