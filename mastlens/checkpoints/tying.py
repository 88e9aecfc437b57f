"""Whether a checkpoint's output embedding is its input embedding, as transformers decides it."""

from typing import TYPE_CHECKING

import torch

from mastlens.architectures.configuration import complete_config

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint

INPUTS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
OUTPUTS = ("lm_head.weight", "embed_out.weight")


def find_tie(checkpoint: "Checkpoint") -> str | None:
    """Return the name of the embedding that is input and output in one; None where they are two matrices.

    They are one where the configuration ties them, unless the file holds two that differ.
    """
    embedding = next((name for name in checkpoint.tensors if name.endswith(INPUTS)), None)
    if embedding is None or not getattr(complete_config(checkpoint.config), "tie_word_embeddings", False):
        return None
    head = next((name for name in checkpoint.tensors if name.endswith(OUTPUTS)), None)
    if head is None or torch.equal(checkpoint.tensor(head), checkpoint.tensor(embedding)):
        return embedding
    return None
