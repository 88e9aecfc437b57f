"""Capturing activations and gradients of all attention projections: time and memory beside hooks written by hand.

Four arms run one random Qwen2 model (31 M parameters, frozen) forward and backward on the same 4 sequences of 256
tokens, in float32, and keep the outputs of every q, k, v and o projection and the gradients at them:

- ``by hand``: a forward hook a module that keeps its output, then ``torch.autograd.grad``;
- ``mastlens``: ``HookedModel(model).watch("q", "k", "v", "out", gradients=True)``;
- ``transformer_lens``: forward and backward hooks of a ``TransformerBridge`` without processing (its attention is
  always the eager one, the others keep sdpa);
- ``nnsight``: one trace, gradients by ``torch.autograd.grad`` in it.

Time: the arms take turns in one process, ``--rounds`` times, after one round that is not counted; the ratio is that of
the medians, its interval a bootstrap over rounds. (Not of the sums: one stall of the machine, which a shared one has,
would decide that ratio. No round is left out; the file holds them all.)

Memory: peak anonymous memory beyond the loaded model, each arm in a fresh process, ``--memory-rounds`` times. That all
arms keep the same numbers is checked first. Building a bridge or wrapping a model is not counted.

    OMP_NUM_THREADS=2 python -m benchmarks.hooks --out benchmarks/results
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

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
from mastlens.models.backends import same_weights
from mastlens.models.hooked import HookedModel
from mastlens.runs.cost import measured

BATCH, LENGTH, LAYERS = 4, 256, 6
NAMES = ("q", "k", "v", "out")
MODULES = dict(zip(NAMES, ("q_proj", "k_proj", "v_proj", "o_proj"), strict=True))
GOALS = {"time": 1.05, "memory": 1.02}
Kept = dict[tuple[str, int], tuple[Tensor, Tensor]]
"""(name, layer) -> activation and gradient, [batch, pos, features] or with heads split."""


def make_model() -> Qwen2ForCausalLM:
    """Return the model, frozen, in evaluation mode."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=2752,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).eval().requires_grad_(False)


def make_ids() -> Tensor:
    """Return the token ids."""
    return torch.randint(0, 4096, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


def loss_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the next token, without a copy of the logits; the same in each arm."""
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), nn.functional.pad(ids, (0, 1), value=-100)[:, 1:].flatten()
    )


def start_graph(module: nn.Module, args: Any, output: Tensor) -> None:
    """Let gradients reach the activations of a frozen model: a forward hook for its embedding."""
    output.requires_grad_()


def by_hand(model: Qwen2ForCausalLM) -> Callable[[Tensor], Kept]:
    """Return hooks as one writes them."""

    def run(ids: Tensor) -> Kept:
        activations: dict[tuple[str, int], Tensor] = {}
        handles = [model.get_input_embeddings().register_forward_hook(start_graph)]
        for layer in range(LAYERS):
            for name, child in MODULES.items():
                module = model.get_submodule(f"model.layers.{layer}.self_attn.{child}")

                def keep(module: nn.Module, args: Any, output: Tensor, point: tuple[str, int] = (name, layer)) -> None:
                    activations[point] = output

                handles.append(module.register_forward_hook(keep))
        try:
            loss = loss_of(model(input_ids=ids, use_cache=False).logits, ids)
        finally:
            for handle in handles:
                handle.remove()
        gradients = torch.autograd.grad(loss, list(activations.values()))
        return {point: (activations[point], g) for point, g in zip(activations, gradients, strict=True)}

    return run


def with_mastlens(model: Qwen2ForCausalLM) -> Callable[[Tensor], Kept]:
    """Return the plain backend of mastlens."""
    hooked = HookedModel(model)

    def run(ids: Tensor) -> Kept:
        with hooked.watch(*NAMES, gradients=True) as view:
            gradients = view.gradients(loss_of(view.logits(ids), ids))
        return {point: (view[point], gradient) for point, gradient in gradients.items()}

    return run


def with_transformer_lens(model: Qwen2ForCausalLM) -> Callable[[Tensor], Kept]:
    """Return TransformerLens, used by itself."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    tree = same_weights(model)
    tree.set_attn_implementation("eager")
    bridge = build_bridge_from_module(tree, "Qwen2ForCausalLM", hf_config=tree.config)
    hooks = dict(zip(NAMES, ("q.hook_out", "k.hook_out", "v.hook_out", "o.hook_out"), strict=True))

    def run(ids: Tensor) -> Kept:
        activations: dict[tuple[str, int], Tensor] = {}
        gradients: dict[tuple[str, int], Tensor] = {}

        def into(kept: dict[tuple[str, int], Tensor], point: tuple[str, int]) -> Callable[..., None]:
            def hook(value: Tensor, hook: Any) -> None:
                kept[point] = value

            return hook

        def start(value: Tensor, hook: Any) -> Tensor:
            return value.requires_grad_()

        points = {(n, layer): f"blocks.{layer}.attn.{hooks[n]}" for layer in range(LAYERS) for n in NAMES}
        forward = [("embed.hook_out", start), *((hook, into(activations, p)) for p, hook in points.items())]
        backward = [(hook, into(gradients, p)) for p, hook in points.items()]
        with bridge.hooks(fwd_hooks=forward, bwd_hooks=backward):
            loss_of(bridge(ids, return_type="logits"), ids).backward()
        return {point: (activations[point], gradients[point]) for point in points}

    return run


def with_nnsight(model: Qwen2ForCausalLM) -> Callable[[Tensor], Kept]:
    """Return nnsight, used by itself."""
    from nnsight import NNsight

    wrapped = NNsight(same_weights(model))

    def run(ids: Tensor) -> Kept:
        activations: dict[tuple[str, int], Tensor] = {}
        kept: Kept = {}
        with wrapped.trace(input_ids=ids, use_cache=False):
            wrapped.model.embed_tokens.output.requires_grad_()
            for layer in range(LAYERS):
                for name, child in MODULES.items():
                    activations[name, layer] = getattr(wrapped.model.layers[layer].self_attn, child).output
            loss = loss_of(wrapped.output.logits, ids)
            gradients = torch.autograd.grad(loss, list(activations.values()))
            for point, gradient in zip(activations, gradients, strict=True):
                kept[point] = activations[point], gradient
        return kept

    return run


ARMS: dict[str, Callable[[Qwen2ForCausalLM], Callable[[Tensor], Kept]]] = {
    "by hand": by_hand,
    "mastlens": with_mastlens,
    "transformer_lens": with_transformer_lens,
    "nnsight": with_nnsight,
}


def largest_difference(runs: dict[str, Callable[[Tensor], Kept]], ids: Tensor) -> float:
    """Return the largest |difference| of any activation or gradient to that by hand, relative to its norm."""
    expected = runs["by hand"](ids)
    worst = [0.0]
    for run in runs.values():
        found = run(ids)
        for point, pair in expected.items():
            for ours, theirs in zip(found[point], pair, strict=True):
                worst.append(float((ours.reshape(theirs.shape) - theirs).norm().detach() / theirs.norm().detach()))
    return float(np.max(worst))


def measure_arm(arm: str) -> float | None:
    """Return this process' peak anonymous memory while one arm runs, beyond the loaded and wrapped model."""
    run, ids = ARMS[arm](make_model()), make_ids()
    run(ids[:1, :8])  # what the first pass sets up once is no arm's own
    with measured(interval=0.002) as cost:
        kept = run(ids)
    del kept
    return cost.peak_mb


def as_page(result: dict[str, Any]) -> list[str]:
    """Return the result as the lines of a page."""
    lines = [
        "# Hooks: activations and gradients of all attention projections",
        "",
        f"{result['parameters'] / 1e6:.1f} M parameters (Qwen2, frozen), {BATCH} sequences of {LENGTH} tokens, "
        f"float32, {result['threads']} threads; {result['rounds']} interleaved rounds, {result['memory_rounds']} fresh "
        "processes an arm. Ratios of medians to hooks written by hand, 95% bootstrap intervals over rounds. "
        f"Goals for mastlens: at most {GOALS['time']} of the time and {GOALS['memory']} of the memory.",
        "",
        f"Command: `{result['command']}`",
    ]
    rows = [
        (
            record["arm"],
            f"{statistics.median(record['seconds']):.3f}",
            shown(record["time"]),
            f"{statistics.median(record['peak_mb']):.1f}",
            shown(record["memory"]),
        )
        for record in result["arms"]
    ]
    lines += table(("arm", "median s", "time ratio", "peak MB beyond the model", "memory ratio"), rows)
    lines += ["", f"Largest difference between the arms' numbers: {result['largest_difference']:.1e} of the norm."]
    return [*lines, "", version_line(result)]


def main() -> None:
    """Run the benchmark, or one arm of it for its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--memory-rounds", type=int, default=5)
    parser.add_argument("--arm", choices=ARMS, help="measure this arm's memory in this process and print it")
    asked = parser.parse_args()
    if asked.arm:
        print(measure_arm(asked.arm))
        return
    model, ids = make_model(), make_ids()
    runs = {arm: build(model) for arm, build in ARMS.items()}
    difference = largest_difference(runs, ids)
    if not difference <= 1e-4:  # NaN is no agreement either
        raise SystemExit(f"the arms disagree by {difference:.1e} of a norm")
    seconds = interleaved({arm: partial(run, ids) for arm, run in runs.items()}, asked.rounds)
    peaks = {
        arm: [from_fresh_process("benchmarks.hooks", "--arm", arm) for _ in range(asked.memory_rounds)] for arm in ARMS
    }
    records = [
        {
            "arm": arm,
            "seconds": [round(s, 4) for s in seconds[arm]],
            "peak_mb": [round(p, 2) for p in peaks[arm]],
            "time": ratio(seconds[arm], seconds["by hand"]),
            "memory": ratio(peaks[arm], peaks["by hand"]),
        }
        for arm in ARMS
    ]
    for record in records:
        print(json.dumps(record), flush=True)
    result = {
        "command": f"python -m benchmarks.hooks --rounds {asked.rounds} --memory-rounds {asked.memory_rounds}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **surroundings(),
        "rounds": asked.rounds,
        "memory_rounds": asked.memory_rounds,
        "goals": GOALS,
        "largest_difference": difference,
        "arms": records,
    }
    write_results(asked.out, "hooks", result, as_page(result))


if __name__ == "__main__":
    main()
