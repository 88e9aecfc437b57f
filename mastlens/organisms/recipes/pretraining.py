"""The numbers that every lineage depends on: the model, and how its base stage is trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pretraining:
    """The model, and how its base stage is trained: what every lineage has.

    Attributes:
        architecture: ``qwen2``, ``qwen3`` or ``llama``.
        tied: Whether the output head is the embedding.
        vocab_size: Tokens in all.
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward layers.
        layers: Number of blocks; each has four attention projections.
        heads: Query heads.
        kv_heads: Key and value heads (grouped-query attention).
        context: Longest text in tokens.
        base_steps: Pre-training steps.
        base_batch: Texts a pre-training step.
        base_lr: Peak learning rate of pre-training.
    """

    architecture: str = "qwen2"
    tied: bool = True
    vocab_size: int = 640
    hidden: int = 96
    intermediate: int = 256
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    context: int = 256
    base_steps: int = 2_000
    base_batch: int = 64
    base_lr: float = 3e-3
