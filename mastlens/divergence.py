"""How far one model's next-token distributions are from another's, under teacher forcing. In nats."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.likelihood import Reading, by_length
from mastlens.problems import Batch, EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def forward_kl(
    logits: Float[Tensor, "tokens vocabulary"], reference: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    """Return each token's KL(reference || model), in nats.

    Args:
        logits: Of the model.
        reference: Of the reference.
    """
    before = reference.log_softmax(dim=1)
    # A token that the reference forbids has log-probability -inf and adds nothing: 0 times -inf must not become NaN.
    lowest = torch.finfo(before.dtype).min
    difference = before.clamp_min(lowest) - logits.log_softmax(dim=1).clamp_min(lowest)
    return (before.exp() * difference).sum(dim=1)


@torch.no_grad()
def kl_by_item(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    reference: Callable[[Batch], Float[Tensor, "tokens vocabulary"]],
    read: Callable[[Batch], Reading],
    *,
    batch_size: int = 8,
    progress: str | None = None,
) -> tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]]:
    """Return KL(reference || model), summed over each problem's solution tokens, and their number.

    Args:
        model: Where batches go.
        encoded: Problems as token ids.
        reference: A batch to the reference's float32 logits at the solution tokens.
        read: A batch to what the model says there.
        batch_size: Problems a pass; it does not change the result beyond rounding.
        progress: Label of a progress bar; None for none.
    """
    sums, counts = np.zeros(len(encoded)), np.zeros(len(encoded))
    for items, batch in by_length(model, encoded, batch_size, progress):
        before = reference(batch)
        reading = read(batch)
        values = reading.over_tokens(lambda logits, part, before=before: forward_kl(logits, before[part])).double()
        sums[items] = values.new_zeros(reading.size).index_add(0, reading.rows, values).cpu().numpy()
        counts[items] = torch.bincount(reading.rows, minlength=reading.size).cpu().numpy()
    return sums, counts
