"""KL divergence between a model and its edited self, token by token, without a second model in memory."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlens.edit import named_weights, swapped
from mastlens.likelihood import Head, by_length, counted_states
from mastlens.problems import EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def token_divergence(
    model: "PreTrainedModel",
    edited: Mapping[str, Tensor],
    encoded: Sequence[EncodedProblem],
    *,
    batch_size: int = 16,
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
        batch_size: Problems a forward pass; it does not change the result beyond rounding.
        progress: Label of a progress bar; None for none.

    Returns:
        One row a problem, in the order given: ``tokens``, ``kl`` in nats, ``same_top`` (number of tokens at which
        both find the same token most probable).
    """
    sums = np.zeros((len(encoded), 3))
    # Where the edit reaches into the output embedding, source and edited states go through heads of their own.
    output = model.get_output_embeddings()
    inside = {id(parameter) for parameter in output.parameters()} if output is not None else set()
    of_head = {
        name: edited[name] for name, weight in named_weights(model, list(edited)).items() if id(weight) in inside
    }
    for items, batch in by_length(model, encoded, batch_size, progress):
        states, head = counted_states(model, batch)
        with swapped(model, edited):
            moved, moved_head = counted_states(model, batch)
        rows = batch.is_solution[:, 1:].nonzero()[:, 0]
        found = torch.empty((2, len(rows)), dtype=torch.float64, device=rows.device)
        for part in head.parts(states):
            p = _log_probabilities(head, states[part])
            with swapped(model, of_head):
                q = _log_probabilities(moved_head, moved[part])
            # A token that the source forbids (log-probability -inf) adds nothing, whatever the edit says of it.
            terms = p.exp() * (p - q)
            found[0, part] = torch.where(p > -torch.inf, terms, 0.0).sum(dim=-1)
            found[1, part] = (p.argmax(dim=-1) == q.argmax(dim=-1)).double()
        totals = found.new_zeros((len(items), 3))
        totals.index_add_(0, rows, torch.stack([torch.ones_like(found[0]), *found], dim=1))
        sums[items] = totals.cpu().numpy()
    return pd.DataFrame(
        {"tokens": sums[:, 0].astype(np.int64), "kl": sums[:, 1], "same_top": sums[:, 2].astype(np.int64)}
    )


def _log_probabilities(head: Head, states: Tensor) -> Tensor:
    return torch.log_softmax(head(states).float().double(), dim=-1)
