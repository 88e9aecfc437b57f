"""Lineages of attention weights alone, with full-size shapes, decaying spectra and planted increments."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file


@dataclass(frozen=True)
class Shape:
    """The attention of an architecture: what a lineage of this size is built from."""

    layers: int
    hidden: int
    heads: int
    groups: int

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.hidden // self.heads

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Return projection to (rows, cols)."""
        narrow = self.groups * self.head_dim
        wide = (self.hidden, self.hidden)
        return {"q": wide, "k": (narrow, self.hidden), "v": (narrow, self.hidden), "o": wide}


SHAPES = {"1.5b": Shape(28, 1536, 12, 2), "7b": Shape(28, 3584, 28, 4)}
"""Qwen2.5-Math-1.5B and Qwen2.5-Math-7B."""

DECAYS = (0.4, 0.5, 0.7, 1.0)
"""Exponents of the spectra s_i ~ i^-a, one a layer in turn; neighbours jitter by 2 %."""

PLANTED = ("isotropic", "inside", "outside", "low-rank", "mixed")
"""Where the RLVR increment of a layer lies, in turn: see ``increment``."""

MIXTURES = {"mixed": ("inside", "outside", "isotropic"), "spread": ("low-rank", "isotropic")}
"""Increments of several parts; ``spread`` stands for SFT."""


def weight(rows: int, cols: int, decay: float, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Return a float32 matrix with a decaying spectrum, and the singular vectors it was made from."""
    smaller = min(rows, cols)
    left, _ = torch.linalg.qr(torch.randn(rows, smaller, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(cols, smaller, generator=generator))
    values = torch.arange(1, smaller + 1) ** -decay * torch.exp(0.02 * torch.randn(smaller, generator=generator))
    values *= 0.02 * (rows * cols) ** 0.5 / values.norm()  # entries of 0.02, as in trained models
    return (left * values) @ right.T, left, right


def increment(
    kind: str, left: torch.Tensor, right: torch.Tensor, norm: float, generator: torch.Generator, rank: int = 16
) -> torch.Tensor:
    """Return an increment of Frobenius norm ``norm``: in the top subspaces, outside of them, anywhere, or a mixture."""
    k = min(rank, left.shape[1] // 2)
    if kind == "inside":
        delta = left[:, :k] @ torch.randn(k, k, generator=generator) @ right[:, :k].T
    elif kind == "outside":
        delta = left[:, k : 2 * k] @ torch.randn(k, k, generator=generator) @ right[:, k : 2 * k].T
    elif kind == "low-rank":
        delta = torch.randn(len(left), 4, generator=generator) @ torch.randn(4, len(right), generator=generator)
    elif kind in MIXTURES:
        parts = [increment(part, left, right, 1.0, generator, rank) for part in MIXTURES[kind]]
        delta = torch.stack(parts).sum(0)
    else:
        delta = torch.randn(len(left), len(right), generator=generator)
    return delta * (norm / delta.norm())


def write_lineage(folder: Path, shape: Shape, *, sft: float = 1e-2, rlvr: float = 1e-4, seed: int = 0) -> None:
    """Write base, sft and rlvr, increments of the given relative norms, one shard a layer."""
    config = {
        "model_type": "qwen2",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups,
        "vocab_size": 151936,
    }
    for stage in ("base", "sft", "rlvr"):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "config.json").write_text(json.dumps(config))
    files = {}
    for layer in range(shape.layers):
        generator = torch.Generator().manual_seed(seed * 1000 + layer)
        stages: dict[str, dict[str, torch.Tensor]] = {"base": {}, "sft": {}, "rlvr": {}}
        for projection, (rows, cols) in shape.matrices().items():
            name = f"model.layers.{layer}.self_attn.{projection}_proj.weight"
            base, left, right = weight(rows, cols, DECAYS[layer % len(DECAYS)], generator)
            size = float(base.norm())
            tuned = base + increment("spread", left, right, sft * size, generator)
            kind = PLANTED[layer % len(PLANTED)]
            stages["base"][name], stages["sft"][name] = base, tuned
            stages["rlvr"][name] = tuned + increment(kind, left, right, rlvr * size, generator)
        file = f"model-{layer + 1:05d}-of-{shape.layers:05d}.safetensors"
        for stage, tensors in stages.items():
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(folder / stage / file))
        files |= dict.fromkeys(stages["base"], file)
    index = json.dumps({"metadata": {}, "weight_map": files})
    for stage in ("base", "sft", "rlvr"):
        (folder / stage / "model.safetensors.index.json").write_text(index)
