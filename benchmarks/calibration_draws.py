"""What the calibration of nulls is measured on: weights, random increments, planted effects, stored."""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from mastlens.analysis.increments.precision import rounding_variance

STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = ("isotropic", "rows", "columns", "spiked", "smollm2")
INCREMENTS = ("gaussian", "signs", "sparse", "heavy", "rank-1", "rank-4", "rank-16", "block")
RATIOS = (0.07, 0.3, 1.3, 4.0, 20.0)
PLANTED = ("into", "out", "head", "mask", "aligned", "shared", "trend", "taught")
NOMINAL, TABLE = 0.001, 0.05
WIDTH, HEADS, RANK = 128, 8, 16
DIRECTIONS = ("stable_rank", "effective_rank", "energy_rank_99", "participation")
COORDINATES = ("off_principal_mask", "principal_overlap", "low_magnitude_overlap", "principal_not_low_overlap")
SMOLLM2 = "MASTLENS_SMOLLM2"
"""Environment variable: a folder with SmolLM2's weights as safetensors; without it that kind of weight is left out."""

Told = dict[str, tuple[int, int]]
"""Column to how many readings are called beyond chance, and of how many."""


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
        storage: Dtype that both checkpoints are stored in.
        weight: Kind of weight.
        increment: Kind of random increment, or of planted effect.
        ratio: Norm of the stored increment over the precision floor; of a path the optimiser's steps.
        family: What is measured: ``geometry``, ``coupling``, ``table``, ``agreement``, ``path`` or ``inside``.
    """

    storage: str
    weight: str
    increment: str
    ratio: float
    family: str = "geometry"

    @property
    def name(self) -> str:
        """A file's name."""
        prefix = "" if self.family == "geometry" else f"{self.family}-"
        return f"{prefix}{self.storage}-{self.weight}-{self.increment}-{self.ratio:g}"

    def generator(self, repeat: int) -> torch.Generator:
        """Return the generator of one repeat: the same whatever else was run."""
        digest = hashlib.sha256(f"{self.name}/{repeat}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def weight(kind: str, rows: int, cols: int, generator: torch.Generator) -> Tensor:
    """Draw a float32 weight."""
    if kind == "smollm2":
        matrices = _smollm2()
        whole = matrices[int(torch.randint(len(matrices), (1,), generator=generator))]
        top, left = (int(torch.randint(size - part + 1, (1,), generator=generator)) // 16 * 16
                     for size, part in zip(whole.shape, (rows, cols), strict=True))  # fmt: skip
        return whole[top : top + rows, left : left + cols].clone()
    w = torch.randn(rows, cols, generator=generator)
    if kind == "rows":
        w *= torch.exp(0.5 * torch.randn(rows, 1, generator=generator))
    elif kind == "columns":
        w *= torch.exp(0.5 * torch.randn(1, cols, generator=generator))
    elif kind == "spiked":
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        w = (u * (s * (1 + 8 * torch.arange(1, len(s) + 1) ** -0.7))) @ vh
    return 0.02 * w / w.square().mean().sqrt()


@lru_cache
def _smollm2() -> list[Tensor]:
    from safetensors import safe_open

    found = []
    for file in sorted(Path(os.environ[SMOLLM2]).glob("*.safetensors")):
        with safe_open(file, framework="pt") as stream:
            names = [name for name in stream.offset_keys() if "self_attn" in name and name.endswith("weight")]
            found += [stream.get_tensor(name).float() for name in names[::4]]
    return found


def increment(kind: str, rows: int, cols: int, generator: torch.Generator) -> Tensor:
    """Draw a random float32 increment of any size."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if kind == "signs":
        return normal(rows, cols).sign()
    if kind == "sparse":
        return normal(rows, cols) * (torch.rand(rows, cols, generator=generator) < 0.01)
    if kind == "heavy":
        return normal(rows, cols) * torch.exp(1.5 * normal(rows, cols))
    if kind.startswith("rank"):
        rank = int(kind.split("-")[1])
        return normal(rows, rank) @ normal(rank, cols)
    drawn = normal(rows, cols)
    if kind == "block":
        size = rows // HEADS
        head = int(torch.randint(HEADS, (1,), generator=generator))
        drawn[: head * size] = 0
        drawn[(head + 1) * size :] = 0
    return drawn


def planted(kind: str, before: Tensor, drawn: Tensor) -> Tensor:
    """Return a random increment with an effect in it: see ``PLANTED`` and docs/results/calibration.md."""
    u, _, vh = torch.linalg.svd(before.float(), full_matrices=False)
    u, v = u[:, :RANK], vh[:RANK].T
    if kind == "into":  # a tenth of the energy is moved into the principal subspaces
        core = u @ (u.T @ drawn @ v) @ v.T
        rest = drawn - core
        return 0.9**0.5 * rest / rest.norm() + 0.1**0.5 * core / core.norm()
    if kind == "out":  # what lies on the principal output directions, a tenth at the most, is taken out
        return drawn - u @ (u.T @ drawn)
    if kind == "head":  # one head of eight has a quarter of the energy
        size = len(drawn) // HEADS
        energy = drawn.square().sum()
        block = drawn[:size]
        factor = 0.25 * (energy - block.square().sum()) / (0.75 * block.square().sum())
        return torch.cat([block * factor.sqrt(), drawn[size:]])
    assert kind == "mask"  # entries of the principal mask change one and a half times as often as chance has it
    from mastlens.analysis.increments.masks import PRINCIPAL_RANK, principal_mask

    w_u, w_s, w_vh = torch.linalg.svd(before.double(), full_matrices=False)
    inside = principal_mask(w_u[:, :PRINCIPAL_RANK], w_s, w_vh[:PRINCIPAL_RANK].T)
    change = torch.where(inside, 0.75, 0.25)
    return drawn * (torch.rand(drawn.shape, generator=torch.Generator().manual_seed(0)) < change)


def gradient(rows: int, cols: int, generator: torch.Generator) -> Tensor:
    """Draw a gradient as trained networks have them: of few directions, and large in some columns. |G| = 1."""
    u, v = (torch.linalg.qr(torch.randn(size, min(rows, cols), generator=generator))[0] for size in (rows, cols))
    hot = torch.exp(0.7 * torch.randn(cols, generator=generator))
    g = (u * torch.arange(1, min(rows, cols) + 1) ** -1.0) @ v.T * hot
    return g / g.norm()


def noise_path(kind: str, steps: list[int], size: int, generator: torch.Generator) -> Tensor:
    """Return the updates at these steps of an AdamW run whose gradients are noise: (steps, entries), float64.

    Args:
        kind: ``rank-N`` for gradients of N directions each, ``iid`` for independent entries, ``decay`` for rank 1 with
            a learning rate that rises and falls, ``trend`` for rank 1 with a mean as large as the noise.
        steps: Ascending, from 1.
        size: Rows and columns.
        generator: Decides all.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight = torch.nn.Parameter(torch.zeros(size, size, dtype=torch.float64))
    optimiser = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.0, eps=1e-12)
    rank = int(kind.split("-")[1]) if kind.startswith("rank") else 1
    mean, found = normal(size, size) * (kind == "trend"), []
    for step in range(1, steps[-1] + 1):
        if kind == "decay":
            optimiser.param_groups[0]["lr"] = min(10 * step / steps[-1], 1.02 - step / steps[-1])
        weight.grad = mean + (normal(size, size) if kind == "iid" else normal(size, rank) @ normal(rank, size))
        optimiser.step()
        if step in steps:
            found.append(weight.detach().clone().flatten())
    return torch.stack(found)


def stored(before: Tensor, drawn: Tensor, ratio: float) -> Tensor:
    """Return the matrix after the increment, rounded, at the scale at which the stored increment has this size."""
    wide, floor = before.float(), (2 * rounding_variance(before)) ** 0.5
    unit = drawn * (floor / drawn.norm())
    low, high = -30.0, 12.0
    for _ in range(30):
        middle = (low + high) / 2
        after = (wide + 2.0**middle * unit).to(before.dtype)
        low, high = (middle, high) if float((after.float() - wide).norm()) < ratio * floor else (low, middle)
    return (wide + 2.0**high * unit).to(before.dtype)
