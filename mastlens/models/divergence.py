"""How far one model's next-token distributions are from another's, under teacher forcing. In nats."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.models.batching import by_length
from mastlens.models.likelihood import counted_states
from mastlens.models.memory import float64_device
from mastlens.models.weights import owners, swapped
from mastlens.problems.encoding import EncodedProblem

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


def reverse_kl(
    logits: Float[Tensor, "tokens vocabulary"], reference: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    """Return each token's KL(model || reference), in nats; arguments as in ``forward_kl``."""
    return forward_kl(reference, logits)


def jensen_shannon(
    logits: Float[Tensor, "tokens vocabulary"], reference: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    """Return each token's Jensen-Shannon divergence, in nats: at most log 2; arguments as in ``forward_kl``.

    The mean of KL(reference || m) and KL(model || m), m halfway between the two (Lin 1991).
    """
    now, before = logits.log_softmax(dim=1), reference.log_softmax(dim=1)
    between = torch.logaddexp(now, before) - math.log(2)
    return (forward_kl(between, before) + forward_kl(between, now)) / 2


@torch.no_grad()
def token_divergence(
    model: "PreTrainedModel",
    edited: Mapping[str, Tensor],
    encoded: Sequence[EncodedProblem],
    *,
    batch_size: int | str = 16,
    progress: str | None = None,
) -> pd.DataFrame:
    """Return KL(source || edited) at every counted token, summed item by item.

    The forward divergence of Shenfeld et al. (2025), arXiv:2509.04259, over the whole vocabulary, where the source
    is what the edit started from: sum over v of p(v) (log p(v) - log q(v)). Texts are given (teacher forcing). No
    second model is in memory: the edited tensors are swapped in and out, batch by batch. Logits in float32,
    probabilities and sums in float64, because a small divergence is a small difference of large numbers.

    Args:
        model: The source, in evaluation mode; it comes back bit for bit.
        edited: The edit's tensors by their names in the checkpoint.
        encoded: Problems as token ids; the solution's tokens and the end count.
        batch_size: Problems a forward pass, or ``auto``; it does not change the result beyond rounding.
        progress: Label of a progress bar; None for none.

    Returns:
        One row a problem, in the order given: ``tokens``, ``kl`` in nats, ``same_top`` (number of tokens at which
        both find the same token most probable).
    """
    sums = np.zeros((len(encoded), 3))
    # Where the edit reaches into the output embedding, source and edited states go through heads of their own.
    output = model.get_output_embeddings()
    inside = {id(parameter) for parameter in output.parameters()} if output is not None else set()
    of_head = {name: edited[name] for name, weight in owners(model, edited).items() if id(weight) in inside}
    batches = by_length(model, encoded, batch_size, progress)
    for items, batch in batches:
        with batches.fitting():
            states, head = counted_states(model, batch)
            with swapped(model, edited):
                moved, moved_head = counted_states(model, batch)
            wide = float64_device(model.device)
            rows = batch.is_solution[:, 1:].nonzero()[:, 0].to(wide)
            found = torch.empty((2, len(rows)), dtype=torch.float64, device=wide)
            for part in head.parts(states):
                source = head(states[part]).float().to(wide).double()
                with swapped(model, of_head):
                    now = moved_head(moved[part]).float().to(wide).double()
                found[0, part] = forward_kl(now, source)
                found[1, part] = (source.argmax(dim=-1) == now.argmax(dim=-1)).double()
            totals = found.new_zeros((len(items), 3))
            totals.index_add_(0, rows, torch.stack([torch.ones_like(found[0]), *found], dim=1))
            sums[items] = totals.cpu().numpy()
    return pd.DataFrame(
        {"tokens": sums[:, 0].astype(np.int64), "kl": sums[:, 1], "same_top": sums[:, 2].astype(np.int64)}
    )
