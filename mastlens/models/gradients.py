"""Mean gradients of the solutions' loss, and the Fisher information, for the parameters asked for and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from mastlens.models.likelihood import token_logprobs
from mastlens.models.sharding import Rows, Spread, in_step, ranks_of
from mastlens.models.weights import placed_weights
from mastlens.problems.encoding import Batch, EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gradients:
    """Gradients over a set of problems.

    Of a model over ranks they lie over ranks, too: ``Spread``.

    Attributes:
        mean: Name to the gradient of the token-mean negative log-likelihood of the set, float32.
        fisher: Name to the diagonal of the empirical Fisher information, float32: the mean over problems of the
            squared gradient of -log p(solution | prompt), entry by entry. None where it was not asked for.
    """

    mean: dict[str, Tensor | Spread]
    fisher: dict[str, Tensor | Spread] | None = None


def mean_gradients(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    names: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    batch_size: int | str = 8,
    progress: str | None = None,
) -> dict[str, Tensor]:
    """Return name to the gradient of the token-mean negative log-likelihood of a whole model; see above."""
    found = measure_gradients(model, encoded, names, weights=weights, batch_size=batch_size, progress=progress).mean
    return {name: gradient for name, gradient in found.items() if isinstance(gradient, Tensor)}


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

    Of a model over ranks each takes a part of the problems, and has its rows of every sum.

    The Fisher information needs each problem's gradient by itself: it takes one problem a backward pass, from
    which the mean comes too, and one more buffer a parameter. Ranks go through every problem together then.

    Args:
        model: The model, in evaluation mode.
        encoded: Problems as token ids.
        names: Parameter names.
        fisher: Also the Fisher information.
        weights: What the loss of each problem is multiplied by; the number of tokens that it is divided by stays.
        batch_size: Problems a backward pass, or ``auto``; 1 with ``fisher``, whatever is given.
        progress: Label of a progress bar; None for none.

    Returns:
        Float32 tensors on the model's device; over ranks each with its rows.

    Raises:
        MastlensError: For a name that the model does not have.
    """
    ranks = ranks_of(model)
    placed = placed_weights(model, dict.fromkeys(names))
    chosen = {place.parameter: parameter for parameter, place in placed.values()}
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    kept = [(parameter, parameter.grad) for parameter in chosen.values()]
    factor = 1 / ranks.size if ranks is not None and fisher else 1.0  # what all ranks go through is summed over them
    totals: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    tokens = 0

    def collect(name: str, parameter: Tensor) -> None:
        made, parameter.grad = parameter.grad, None
        if made is None:
            return
        made = Rows.of(made).local.float()
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
        if weights is not None and items:
            values = values * values.new_tensor([weights[item] for item in items])[logprobs.rows]
        (-values.sum() * (factor if items else 0.0)).backward()
        if ranks is not None:
            for name, parameter in chosen.items():
                collect(name, parameter)
        return len(values) if items else 0

    handles = []
    try:
        model.requires_grad_(False)
        for name, parameter in chosen.items():
            parameter.grad = None
            parameter.requires_grad_(True)
            if ranks is None:
                handles.append(parameter.register_post_accumulate_grad_hook(partial(collect, name)))
        size = 1 if fisher else batch_size
        every = range(len(encoded)) if fisher else None
        batches, given = in_step(model, encoded, size, progress, mine=every, backward=True)
        for items, batch in given:
            with batches.fitting(anew=forget):
                tokens += backward(items, batch)
    finally:
        for handle in handles:
            handle.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for parameter, gradient in kept:
            parameter.grad = gradient
    if ranks is not None and not fisher:
        tokens = round(ranks.sums([tokens])[0])

    def by_name(sums: dict[str, Tensor], count: int) -> dict[str, Tensor | Spread]:
        whole = _divided(sums, count, chosen)
        if ranks is None:
            return {name: place.of(whole[place.parameter]) for name, (_, place) in placed.items()}
        here = {name: replace(Rows.of(parameter), local=whole[name]) for name, parameter in chosen.items()}
        rows = {name: (here[place.parameter], place) for name, (_, place) in placed.items()}
        return {name: Spread(weight.stored(place), weight, place, ranks) for name, (weight, place) in rows.items()}

    return Gradients(by_name(totals, tokens), by_name(squares, len(encoded)) if fisher else None)


def gradient_shares(
    model: "PreTrainedModel", problem: EncodedProblem, names: Sequence[str]
) -> Float[np.ndarray, " solution"]:
    """Return what each solution token has of the whole solution's gradient: <g_t, g> / |g|^2.

    g_t is the gradient of -log p(token t | everything before it), g the sum of them. The shares add up to one; a
    negative one belongs to a token that pulls the other way. The inner products of all tokens come from one pass: they
    are the derivatives of the log-probabilities along g, which forward-mode differentiation gives exactly.

    Args:
        model: The model, in evaluation mode; it is left as it is.
        problem: Token ids.
        names: Parameter names: gradients are of these.

    Returns:
        Float64; NaN everywhere where the gradient is zero.

    Raises:
        MastlensError: For a name that the model does not have.
    """
    placed = placed_weights(model, dict.fromkeys(names))
    chosen = {place.parameter: parameter.detach() for parameter, place in placed.values()}
    ids = torch.tensor([problem.prompt + problem.solution], device=model.device)
    start = len(problem.prompt)

    def logprobs(*values: Tensor) -> Tensor:
        given = dict(zip(chosen, values, strict=True))
        logits = functional_call(model, given, (ids,), {"use_cache": False}).logits[0, start - 1 : -1]
        return logits.float().log_softmax(-1).gather(1, ids[0, start:, None])[:, 0]

    own = tuple(chosen.values())
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():  # the others know no forward mode
        leaves = [value.clone().requires_grad_() for value in own]
        whole = torch.autograd.grad(logprobs(*leaves).sum(), leaves, allow_unused=True)
        along = tuple(torch.zeros_like(value) if g is None else g for value, g in zip(own, whole, strict=True))
        inner = jvp(logprobs, own, along)[1]
    found = inner.detach().double().cpu().numpy()
    total = float(found.sum())
    return found / total if total > 0 else np.full(len(found), np.nan)


def _divided(totals: dict[str, Tensor], count: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide sums in place; a parameter that no solution reaches has no gradient, which is a gradient of zero."""
    return {
        name: totals[name].div_(count)
        if name in totals
        else torch.zeros_like(Rows.of(parameter).local, dtype=torch.float32)
        for name, parameter in parameters.items()
    }
