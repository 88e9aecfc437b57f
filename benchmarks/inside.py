"""What the maps of activations cost, beside the passes that they stand on, and how exactly parts add up.

On a lineage (the shipped one by default, ``--lineage organism:smollm2-short`` for a real model) and the first texts of
a file, everything without a null, models loaded. ``maps``:

- residual and KL map of all layers against two plain forwards of transformers over the same batches;
- attribution patching over all heads, both directions, against one forward and backward of one model;
- the sum of all parts against the logit difference.

``patching``, on the first two texts: exact patching over heads, both directions, against plain transformers with a
hook, whose effects must be the same, and against ours with whole passes.

    OMP_NUM_THREADS=1 python -m benchmarks.inside maps --out benchmarks/results
    OMP_NUM_THREADS=1 python -m benchmarks.inside patching --out benchmarks/results

With ``--lineage organism:smollm2-short --layers 0,7,15,22,29 --rounds 3`` the latter takes about forty minutes.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import interleaved, ratio, shown, surroundings, table, version_line, write_results
from benchmarks.plain import token_sums
from mastlens.analysis.inside.exchanging import Exchange
from mastlens.analysis.inside.pair import Pair
from mastlens.analysis.inside.reading import PairReading, counted_tokens
from mastlens.analysis.inside.tally import Tally
from mastlens.analysis.inside.writing import inside_write
from mastlens.checkpoints.computing import Computing
from mastlens.checkpoints.lineage import Lineage
from mastlens.models.batching import by_length
from mastlens.models.likelihood import token_logprobs
from mastlens.models.suffix import PartialForward
from mastlens.organisms import lineage_folder
from mastlens.problems.encoding import EncodedProblem

GOALS = {"map": 1.15, "attribution patching": 3.0, "exact patching": 0.6, "completeness": 1e-4}
BATCH, FEW = 8, 2
"""Texts at a time, and texts of exact patching."""


class WholePasses(Exchange):
    """Exact patching that runs every layer for every exchange."""

    def _suffix(self, hooked: Any, encoded: Any) -> PartialForward:
        return PartialForward([])


@torch.no_grad()
def plain_patching(pair: Pair, encoded: list[EncodedProblem], layers: list[int]) -> np.ndarray:
    """Put each head of each model into the other, as one writes it: a hook, and a pass for each head.

    Returns:
        How each text's log-probability changes, one row for each direction, layer and head.
    """
    ways = (pair.changed, pair.source), (pair.source, pair.changed)
    return np.concatenate([_put_heads(to, _written(other, encoded, layers), encoded) for to, other in ways])


def _output(model: Any, layer: int) -> Any:
    return model.get_submodule(f"model.layers.{layer}.self_attn.o_proj")


def _written(model: Any, encoded: list[EncodedProblem], layers: list[int]) -> dict[int, torch.Tensor]:
    """Return what the heads of each layer write, side by side."""
    found: dict[int, torch.Tensor] = {}
    handles = [
        _output(model, layer).register_forward_pre_hook(lambda _, args, layer=layer: found.update({layer: args[0]}))
        for layer in layers
    ]
    token_sums(model, encoded)
    for handle in handles:
        handle.remove()
    return found


def _put_heads(model: Any, theirs: dict[int, torch.Tensor], encoded: list[EncodedProblem]) -> np.ndarray:
    unpatched, heads, effects = token_sums(model, encoded)[0], model.config.num_attention_heads, []
    for layer, value in theirs.items():
        for part in np.array_split(np.arange(value.shape[-1]), heads):

            def put(_: Any, args: Any, value: torch.Tensor = value, part: np.ndarray = part) -> tuple[torch.Tensor]:
                new = args[0].clone()
                new[..., part[0] : part[-1] + 1] = value[..., part[0] : part[-1] + 1]
                return (new,)

            handle = _output(model, layer).register_forward_pre_hook(put)
            effects.append((token_sums(model, encoded)[0] - unpatched).numpy())
            handle.remove()
    return np.array(effects)


@torch.no_grad()
def plain_forwards(pair: Pair, encoded: list[EncodedProblem]) -> None:
    """Run both models over all texts."""
    for model in (pair.source, pair.changed):
        for _, batch in by_length(model, encoded, BATCH, None):
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), use_cache=False)


def forward_backward(pair: Pair, encoded: list[EncodedProblem]) -> None:
    """Run one model forth and back over all texts, to the gradient of what its embedding gives."""
    for _, batch in by_length(pair.source, encoded, BATCH, None, backward=True):
        started: list[torch.Tensor] = []

        def start(module: Any, args: Any, output: torch.Tensor, started: list[torch.Tensor] = started) -> torch.Tensor:
            started.append(output.detach().requires_grad_())
            return started[0]

        handle = pair.source.get_input_embeddings().register_forward_hook(start)
        try:
            torch.autograd.grad(token_logprobs(pair.source, batch).values.sum(), started)
        finally:
            handle.remove()


def opened(lineage: str, problems: Path, limit: int) -> tuple[Pair, list[EncodedProblem]]:
    """Return the pair of models, and the texts."""
    stages = Lineage.open(f"{lineage}/rlvr", sft=f"{lineage}/sft")
    pair = Pair.of(stages, Computing("cpu", "float32"), draws=0, seed=0)
    return pair, pair.texts({"texts": problems}, limit=limit, asking=True)["texts"]


def maps(given: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of every arm, and the completeness error."""
    pair, encoded = opened(given.lineage, given.problems, given.limit)
    reading = PairReading(pair, lens=False)
    heads = Exchange(pair, ("z",), None, exact=False)

    def read() -> None:
        tally = Tally(1, 0, sum(map(counted_tokens, encoded)))
        reading.read(encoded, tally, batch_size=BATCH, progress=None)

    cheap = {"plain forwards": lambda: plain_forwards(pair, encoded), "map": read}
    passes = {
        "forward and backward": lambda: forward_backward(pair, encoded),
        "attribution patching": lambda: heads.run(encoded, batch_size=BATCH, progress=None),
    }
    seconds = {}
    for arms in (cheap, passes):
        seconds |= interleaved(arms, given.rounds)
    stages = {stage: f"{given.lineage}/{stage}" for stage in ("sft", "rlvr")}
    found = inside_write(
        **stages, splits={"texts": given.problems}, limit=given.limit, draws=0, dtype="float32", progress=False
    ).table
    beside = {"map": "plain forwards", "attribution patching": "forward and backward"}
    return {
        **told_of(pair, encoded, seconds, beside),
        "completeness": float(found["completeness_error"].max()),
    }


def patching(given: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of every arm."""
    pair, encoded = opened(given.lineage, given.problems, FEW)
    layers = given.layers or list(range(pair.source.config.num_hidden_layers))
    exact, whole = (kind(pair, ("z",), layers, exact=True) for kind in (Exchange, WholePasses))
    ours = exact.run(encoded, batch_size=BATCH, progress=None).effects
    plain = plain_patching(pair, encoded, layers)
    assert np.allclose(np.array(list(ours.values())), plain, atol=1e-3 * np.abs(plain).max()), "other effects"
    arms: dict[str, Callable[[], object]] = {
        "plain patching": lambda: plain_patching(pair, encoded, layers),
        "whole passes": lambda: whole.run(encoded, batch_size=BATCH, progress=None),
        "exact patching": lambda: exact.run(encoded, batch_size=BATCH, progress=None),
    }
    seconds = interleaved(arms, given.rounds, uncounted=0)  # of hundreds of passes none is the first
    found = told_of(pair, encoded, seconds, {"exact patching": "plain patching"})
    found["ratios"]["suffixes"] = ratio(seconds["exact patching"], seconds["whole passes"])
    return {**found, "layers": layers}


def told_of(
    pair: Pair, encoded: list[EncodedProblem], seconds: dict[str, list[float]], beside: dict[str, str]
) -> dict[str, Any]:
    """Return what is said of both parts; ``beside`` has what each arm is held against."""
    return {
        "texts": len(encoded),
        "tokens": sum(map(counted_tokens, encoded)),
        "parameters": sum(p.numel() for p in pair.source.parameters()),
        "seconds": seconds,
        "ratios": {arm: ratio(seconds[arm], seconds[reference]) for arm, reference in beside.items()},
    }


def as_page(result: dict[str, Any]) -> list[str]:
    """Return the result as the lines of a page."""
    told = {
        "map": "residual and KL map of all layers over two plain forwards",
        "attribution patching": "attribution patching over all heads, both directions, over one forward and backward",
        "exact patching": "exact patching over heads, both directions, over plain transformers with a hook",
        "suffixes": "the same over itself with whole passes",
    }
    ratios = result["ratios"]
    rows = [(said, shown(ratios[arm]), GOALS.get(arm, "")) for arm, said in told.items() if arm in ratios]
    if "completeness" in result:
        error = f"{result['completeness']:.1e}"
        rows.append(("sum of parts: error over the logit difference", error, GOALS["completeness"]))
    layers = f"layers {', '.join(map(str, result['layers']))}, " if "layers" in result else ""
    return [
        "# Inside: what the maps of activations cost",
        "",
        f"{result['lineage']}, {result['parameters'] / 1e6:.1f} M parameters, {result['texts']} texts, "
        f"{result['tokens']} tokens, {layers}float32, {result['threads']} threads, {result['rounds']} interleaved "
        "rounds. Ratios of medians with 95 % bootstrap intervals over rounds.",
        "",
        f"Command: `{result['command']}`",
        *table(("what", "measured", "goal, at most"), rows),
        "",
        version_line(result),
    ]


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("maps", "patching"))
    parser.add_argument("--lineage", default="organism:qwen2")
    parser.add_argument("--problems", type=Path, default=lineage_folder("qwen2") / "forget-train.jsonl")
    parser.add_argument("--limit", type=int, default=24, help="texts of the maps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--layers",
        type=lambda text: [int(n) for n in text.split(",")],
        help="of exact patching, whose passes through all of a real model take hours; all by default",
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    result = {"maps": maps, "patching": patching}[given.part](given)
    command = f"OMP_NUM_THREADS={torch.get_num_threads()} python -m benchmarks.inside {given.part}"
    command += f" --lineage {given.lineage} --rounds {given.rounds}"
    command += f" --layers {','.join(map(str, given.layers))}" if given.layers else ""
    own = "" if given.lineage == "organism:qwen2" else f"-{given.lineage.removeprefix('organism:')}"
    name = f"{'inside' if given.part == 'maps' else 'inside-patching'}{own}"
    said = {"lineage": given.lineage, "rounds": given.rounds, "command": f"{command} --out benchmarks/results"}
    result |= said | surroundings()
    assert not math.isnan(result.get("completeness", 0.0))
    write_results(given.out, name, result, as_page(result))


if __name__ == "__main__":
    main()
