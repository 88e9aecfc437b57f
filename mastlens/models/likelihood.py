"""Log-probabilities of texts under a model: the one place that computes them. Natural logarithms throughout.

Logits are by far the largest thing that a forward pass makes: tokens times vocabulary. They exist here at the
positions that count and nowhere else, some rows at a time, and are never kept for the way back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mastlens.architectures.rotation import rows_alone
from mastlens.models.batching import by_length
from mastlens.problems.encoding import Batch, EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBED = 2  # rows on which the output embedding called alone must give the model's own logits, bit for bit
# Logits in memory at a time: small enough for a CPU's cache to be of use, large enough to keep a GPU busy.
_LOGITS = {"cpu": 2**22}
_LOGITS_ELSEWHERE = 2**26


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


OfLogits = Callable[[Float[Tensor, "tokens vocabulary"], slice], Float[Tensor, " tokens"]]
"""A number for each token out of its float32 logits; the slice says which of the tokens these are."""


@dataclass(frozen=True)
class Reading:
    """What a model says at the solution tokens of a batch, in reading order; each number when it is asked for.

    Attributes:
        hidden: The state that each token is predicted from: what the output embedding reads.
        head: The way from there to logits.
        targets: The tokens.
        rows: The row of the batch that each token belongs to.
        size: Number of rows in the batch.
        own: The state at each token itself, a constant; None where it was not asked for.
    """

    hidden: Float[Tensor, "tokens hidden"]
    head: "Head"
    targets: Int[Tensor, " tokens"]
    rows: Int[Tensor, " tokens"]
    size: int
    own: Float[Tensor, "tokens hidden"] | None = None

    @cached_property
    def logprobs(self) -> TokenLogprobs:
        """Log-probabilities of the tokens; the softmax is taken in float32. Differentiable once."""

        def of_targets(logits: Tensor, part: slice) -> Tensor:
            return -nn.functional.cross_entropy(logits, self.targets[part], reduction="none")

        return TokenLogprobs(self.over_tokens(of_targets), self.rows, self.size)

    def over_tokens(self, of_logits: OfLogits) -> Float[Tensor, " tokens"]:
        """Return a number for each token out of its logits, some tokens at a time. Differentiable once."""
        if self.head.frozen or not torch.is_grad_enabled():
            return _OverTokens.apply(self.hidden, self.head, of_logits)  # pyright: ignore[reportReturnType] - torch leaves it untyped
        parts = self.head.parts(self.hidden)
        if len(parts) == 1 or self.head.embedding is None:
            return of_logits(self.head(self.hidden).float(), slice(0, len(self.hidden)))

        def of_part(hidden: Tensor, part: slice) -> Tensor:
            return of_logits(self.head(hidden).float(), part)

        # The head is learnt too: its gradient needs the logits, which are made again on the way back, part by part.
        found = [checkpoint(of_part, self.hidden[part], part, use_reentrant=False) for part in parts]
        return torch.cat(found)


def read_solutions(model: "PreTrainedModel", batch: Batch, *, known: bool = False, own: bool = False) -> Reading:
    """Return what a model says at the solution tokens of a batch.

    Args:
        model: The model, in evaluation mode.
        batch: The batch.
        known: See ``counted_states``.
        own: Whether to keep the state at each token itself, too.
    """
    counted = batch.is_solution[:, 1:]
    targets, rows = batch.input_ids[:, 1:][counted], counted.nonzero()[:, 0]
    if not own:
        hidden, head = counted_states(model, batch, known=known)
        return Reading(hidden, head, targets, rows, len(batch.input_ids))
    before = torch.nn.functional.pad(counted, (0, 1))
    either = before | batch.is_solution
    states, head = counted_states(model, batch, known=known, counted=either)
    at, of = states[before[either]], states[batch.is_solution[either]].detach()
    return Reading(at, head, targets, rows, len(batch.input_ids), of)


def token_logprobs(model: "PreTrainedModel", batch: Batch) -> TokenLogprobs:
    """Return the log-probabilities of a batch's solution tokens; differentiable once."""
    return read_solutions(model, batch).logprobs


@torch.no_grad()
def sequence_logprobs(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    *,
    batch_size: int | str = 32,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return summed log-probability and token count of each solution.

    Args:
        model: The model, in evaluation mode.
        encoded: Problems as token ids.
        batch_size: Problems a forward pass, or ``auto``; it does not change the result beyond rounding.
        progress: Label of a progress bar; None for none.

    Returns:
        Two arrays, float64 and int64, one entry a problem, in the order given.
    """
    sums, counts = np.zeros(len(encoded)), np.zeros(len(encoded), dtype=np.int64)
    batches = by_length(model, encoded, batch_size, progress)
    for items, batch in batches:
        with batches.fitting():
            logprobs = token_logprobs(model, batch)
            sums[items] = logprobs.sums.cpu().double().numpy()
            counts[items] = logprobs.counts.long().cpu().numpy()
    return sums, counts


class Head:
    """From hidden states (tokens, hidden) to logits (tokens, vocabulary), the way the model itself goes.

    Args:
        embedding: The model's output embedding; None where the states are the logits already.
        config: The text model's configuration.
    """

    def __init__(self, embedding: nn.Module | None = None, config: Any = None):
        self.embedding = embedding
        self.divisor = getattr(config, "logits_scaling", None)  # Granite
        self.factor = getattr(config, "logit_scale", None)  # Cohere
        self.cap = getattr(config, "final_logit_softcapping", None)  # Gemma

    def __call__(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocabulary"]:
        """Return the logits of hidden states; where there is no head of our own to apply, what came is logits."""
        if self.embedding is None:
            return hidden
        logits = self.embedding(hidden[None])[0]
        if self.divisor is not None:
            logits = logits / self.divisor
        if self.factor is not None:
            logits = logits * self.factor
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits

    @property
    def frozen(self) -> bool:
        """Whether no gradient is wanted inside the head."""
        return self.embedding is not None and not any(p.requires_grad for p in self.embedding.parameters())

    def parts(self, hidden: Float[Tensor, "tokens hidden"]) -> list[slice]:
        """Return slices that cover the tokens, each with logits that fit the memory set aside for them."""
        weight = hidden if self.embedding is None else next(self.embedding.parameters())
        vocabulary = hidden.shape[1] if self.embedding is None else weight.shape[0]
        each = max(1, _LOGITS.get(weight.device.type, _LOGITS_ELSEWHERE) // vocabulary)
        return [slice(start, start + each) for start in range(0, len(hidden), each)]


def counted_states(
    model: "PreTrainedModel",
    batch: Batch,
    *,
    known: bool = False,
    counted: Bool[Tensor, "batch length"] | None = None,
) -> tuple[Float[Tensor, "tokens hidden"], Head]:
    """Return what the model hands to its output embedding at the positions that count, and the rest of the way.

    The model's own forward runs with the output embedding reading a few rows only. Its logits there must equal,
    bit for bit, those of the head called alone; else the architecture does something else at its end, and the
    logits come from the model itself, at all positions.

    Args:
        model: The model.
        batch: The batch.
        known: That the head called alone gives this model's logits is known from an earlier call, and not tried.
        counted: True at the positions; None for those before each solution token.
    """

    def run() -> Tensor:
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), use_cache=False).logits

    if counted is None:
        counted = torch.nn.functional.pad(batch.is_solution[:, 1:], (0, 1))  # the position before each token
    return states_at(model, counted, run, known=known)


def states_at(
    model: "PreTrainedModel", counted: Bool[Tensor, "batch length"], run: Callable[[], Tensor], *, known: bool = False
) -> tuple[Float[Tensor, "tokens hidden"], Head]:
    """Return what the model hands to its output embedding at some positions of a pass; see ``counted_states``.

    Args:
        model: The model.
        counted: True at these positions.
        run: The pass, as often as it is called: returns the logits at all positions.
        known: See ``counted_states``.
    """
    embedding = model.get_output_embeddings()
    passed: list[Tensor] = []

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(args) != 1 or args[0].shape[:2] != counted.shape:
            return args
        passed.append(args[0][counted])
        return (passed[0][None, :_PROBED],)

    if embedding is not None:
        handle = embedding.register_forward_pre_hook(narrow)
        try:
            with rows_alone(model):
                shown = run()
        finally:
            handle.remove()
        if len(passed) == 1:
            head = Head(embedding, model.config.get_text_config())
            with torch.no_grad():
                if known or torch.equal(head(passed[0][:_PROBED]), shown[0]):
                    return passed[0], head
    with rows_alone(model):
        return run()[counted], Head()


class _OverTokens(torch.autograd.Function):
    """A number for each token, with what the way back needs of it: one vector a token, not its logits.

    It hangs on the token's own hidden state alone, so its gradient can be taken at once, while the logits are there.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, of_logits: OfLogits) -> Tensor:
        values = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in head.parts(hidden):
            with torch.set_grad_enabled(slopes is not None):
                rows = hidden[part].detach().requires_grad_(slopes is not None)
                found = of_logits(head(rows).float(), part)
                if slopes is not None:
                    (slopes[part],) = torch.autograd.grad(found.sum(), rows)
            values[part] = found.detach()
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slopes,) = ctx.saved_tensors
        return grad_outputs[0][:, None].to(slopes.dtype) * slopes, None, None
