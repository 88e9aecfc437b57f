"""Sampling whose every draw belongs to one response: the rest of the batch has no part in it."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mastlens.errors import BadSetting
from mastlens.models.memory import float64_device


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        temperature: What logits are divided by, > 0; GRPO's usual rollouts take 0.7 to 1.
        top_p: The nucleus: the likeliest tokens that together have at least this probability, 0 < top_p <= 1.
        seed: With a response's name, it decides that response's draws.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise BadSetting(
                f"The temperature (--temperature) of sampled responses is above 0, it is {self.temperature}; "
                "0 means greedy, and that needs no sampling."
            )
        if not 0 < self.top_p <= 1:
            raise BadSetting(f"top_p (--top-p) is above 0 and at most 1, it is {self.top_p}.")

    def seed_of(self, name: str) -> int:
        """Return the 64-bit seed of one response's draws, from ``seed`` and its name alone."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}\n{name}".encode()).digest()[:8], "little")

    def uniforms(self, name: str, count: int) -> Float[np.ndarray, " count"]:
        """Return the numbers in [0, 1) that draw a response, one a token; the first n are the same for any count."""
        return np.random.Generator(np.random.Philox(self.seed_of(name))).random(count)


def draw(
    logits: Float[Tensor, "rows vocabulary"], uniforms: Float[Tensor, " rows"], sampling: Sampling
) -> Int[Tensor, " rows"]:
    """Return one token a row by inverting the distribution function, in float64.

    Args:
        logits: Of the next token.
        uniforms: One number in [0, 1) a row.
        sampling: Temperature and nucleus (Holtzman et al. 2020, arXiv:1904.09751).
    """
    device = logits.device
    chances = torch.softmax(logits.to(float64_device(device)).double() / sampling.temperature, dim=-1)
    order = None
    if sampling.top_p < 1:
        chances, order = chances.sort(dim=-1, descending=True, stable=True)
        before = chances.cumsum(dim=-1) - chances
        chances = chances.masked_fill(before >= sampling.top_p, 0.0)
    summed = chances.cumsum(dim=-1)
    reached = uniforms.to(summed)[:, None] * summed[:, -1:]
    # The token in whose interval the number falls; rounding may not take it past the last that has a chance.
    places = (summed <= reached).sum(dim=-1)
    last = chances.shape[-1] - 1 - (chances > 0).flip(-1).int().argmax(dim=-1)
    places = torch.minimum(places, last)
    return (places if order is None else order.gather(-1, places[:, None])[:, 0]).to(device)
