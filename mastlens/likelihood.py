"""Log-probabilities of texts under a model: the one place that computes them. Natural logarithms throughout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from mastlens.problems import Batch, EncodedProblem, batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of the solution tokens of a batch, in reading order.

    Attributes:
        values: log p(token | everything before it), one a solution token, float32.
        rows: The row of the batch that each token belongs to.
        size: Number of rows in the batch.
    """

    values: Float[Tensor, " tokens"]
    rows: Int[Tensor, " tokens"]
    size: int

    @property
    def sums(self) -> Float[Tensor, " batch"]:
        """Summed log-probability of each solution."""
        return self.values.new_zeros(self.size).index_add(0, self.rows, self.values)

    @property
    def counts(self) -> Float[Tensor, " batch"]:
        """Number of solution tokens of each row, as a float."""
        return self.values.new_zeros(self.size).index_add(0, self.rows, torch.ones_like(self.values))


def token_logprobs(model: "PreTrainedModel", batch: Batch) -> TokenLogprobs:
    """Return the log-probabilities of a batch's solution tokens; differentiable.

    The softmax is taken in float32 at the positions that count and nowhere else: prompt and padding cost no
    memory of vocabulary size.
    """
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), use_cache=False).logits
    counted = batch.is_solution[:, 1:]
    chosen = logits[:, :-1][counted].float()
    targets = batch.input_ids[:, 1:][counted]
    values = -torch.nn.functional.cross_entropy(chosen, targets, reduction="none")
    return TokenLogprobs(values, counted.nonzero()[:, 0], batch.input_ids.shape[0])


@torch.no_grad()
def sequence_logprobs(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    *,
    batch_size: int = 32,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return summed log-probability and token count of each solution.

    Args:
        model: The model, in evaluation mode.
        encoded: Problems as token ids.
        batch_size: Problems a forward pass; it does not change the result beyond rounding.
        progress: Label of a progress bar; None for none.

    Returns:
        Two arrays, float64 and int64, one entry a problem, in the order given.
    """
    # Problems of similar length together: less padding. The order of the result is that of the input.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].prompt) + len(encoded[i].solution))
    sums, counts = np.zeros(len(encoded)), np.zeros(len(encoded), dtype=np.int64)
    ordered = [encoded[i] for i in order]
    with tqdm(total=len(encoded), desc=progress, disable=progress is None, unit="item") as bar:
        for chosen, batch in batches(ordered, batch_size, device=str(model.device)):
            logprobs = token_logprobs(model, batch)
            sums[order[chosen]] = logprobs.sums.double().cpu().numpy()
            counts[order[chosen]] = logprobs.counts.long().cpu().numpy()
            bar.update(chosen.stop - chosen.start)
    return sums, counts
