"""Mean gradients of the solutions' loss, and the Fisher information, for the parameters asked for and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mastlens.models.batching import by_length
from mastlens.models.likelihood import token_logprobs
from mastlens.models.weights import placed_weights
from mastlens.problems.encoding import Batch, EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gradients:
    """Gradients over a set of problems.

    Attributes:
        mean: Name to the gradient of the token-mean negative log-likelihood of the set, float32.
        fisher: Name to the diagonal of the empirical Fisher information, float32: the mean over problems of the
            squared gradient of -log p(solution | prompt), entry by entry. None where it was not asked for.
    """

    mean: dict[str, Tensor]
    fisher: dict[str, Tensor] | None = None


def mean_gradients(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    names: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    batch_size: int | str = 8,
    progress: str | None = None,
) -> dict[str, Tensor]:
    """Return name to the gradient of the token-mean negative log-likelihood; see ``measure_gradients``."""
    return measure_gradients(model, encoded, names, weights=weights, batch_size=batch_size, progress=progress).mean


def measure_gradients(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    names: Sequence[str],
    *,
    fisher: bool = False,
    weights: Sequence[float] | None = None,
    batch_size: int | str = 8,
    progress: str | None = None,
) -> Gradients:
    """Return the gradient of the token-mean negative log-likelihood for the named parameters alone.

    Sums over the whole set are divided once by its number of solution tokens, so the batch size does not matter.
    There is one float32 buffer a parameter; each gradient is added to it as the backward pass makes it, so that
    those of a batch never stand side by side. The backward pass ends at the lowest of the parameters. The
    model's ``requires_grad`` flags and gradients are as before when it returns, or fails.

    The Fisher information needs each problem's gradient by itself: it takes one problem a backward pass, from
    which the mean comes too, and one more buffer a parameter.

    Args:
        model: The model, in evaluation mode.
        encoded: Problems as token ids.
        names: Parameter names.
        fisher: Also the Fisher information.
        weights: What the loss of each problem is multiplied by; the number of tokens that it is divided by stays.
        batch_size: Problems a backward pass, or ``auto``; 1 with ``fisher``, whatever is given.
        progress: Label of a progress bar; None for none.

    Returns:
        Float32 tensors on the model's device.

    Raises:
        MastlensError: For a name that the model does not have.
    """
    placed = placed_weights(model, dict.fromkeys(names))
    chosen = {place.parameter: parameter for parameter, place in placed.values()}
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    kept = [(parameter, parameter.grad) for parameter in chosen.values()]
    totals: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    tokens = 0

    def collect(name: str, parameter: Tensor) -> None:
        made, parameter.grad = parameter.grad, None
        if made is None:
            return
        made = made.float()
        if fisher and name in squares:
            squares[name].addcmul_(made, made)
        elif fisher:
            squares[name] = made.square()
        if name in totals:
            totals[name].add_(made)
        else:
            totals[name] = made

    def forget() -> None:
        nonlocal tokens
        tokens = 0
        totals.clear()
        squares.clear()
        for parameter in chosen.values():
            parameter.grad = None

    def backward(items: Sequence[int], batch: Batch) -> int:
        logprobs = token_logprobs(model, batch)
        values = logprobs.values
        if weights is not None:
            values = values * values.new_tensor([weights[item] for item in items])[logprobs.rows]
        (-values.sum()).backward()
        return len(values)

    handles = []
    try:
        model.requires_grad_(False)
        for name, parameter in chosen.items():
            parameter.grad = None
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(partial(collect, name)))
        batches = by_length(model, encoded, 1 if fisher else batch_size, progress, backward=True)
        for items, batch in batches:
            with batches.fitting(anew=forget):
                tokens += backward(items, batch)
    finally:
        for handle in handles:
            handle.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for parameter, gradient in kept:
            parameter.grad = gradient

    def by_name(sums: dict[str, Tensor], count: int) -> dict[str, Tensor]:
        whole = _divided(sums, count, chosen)
        return {name: place.of(whole[place.parameter]) for name, (_, place) in placed.items()}

    return Gradients(by_name(totals, tokens), by_name(squares, len(encoded)) if fisher else None)


def _divided(totals: dict[str, Tensor], count: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide sums in place; a parameter that no solution reaches has no gradient, which is a gradient of zero."""
    return {
        name: totals[name].div_(count) if name in totals else torch.zeros_like(parameter, dtype=torch.float32)
        for name, parameter in parameters.items()
    }
