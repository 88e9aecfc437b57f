"""Losses as pure functions of log-probabilities, logits and activations. All are minimised.

Forget losses fall as the model forgets; retain losses are least where the model stays what it was. Means are over what
counts: solution tokens or sequences, never prompt or padding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from mastlens.models.likelihood import TokenLogprobs

_EDGE = 1e-6  # the entropy's slope is infinite at 0 and 1


def retain_nll(sums: Float[Tensor, " batch"], counts: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the token-mean negative log-likelihood -sum(log p) / tokens."""
    return -sums.sum() / counts.sum()


def gradient_ascent(sums: Float[Tensor, " batch"], counts: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the token-mean log-likelihood: minimising it ascends the loss (GA, GradDiff)."""
    return sums.sum() / counts.sum()


def npo(
    sums: Float[Tensor, " batch"],
    reference: Float[Tensor, " batch"],
    *,
    beta: float,
    counts: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the NPO loss -(2/beta) mean log sigmoid(-beta (log p - log p_ref)).

    Log-probabilities are summed over the sequence (Zhang et al. 2024, arXiv:2404.05868, eq. 3). With ``counts`` they
    are means over its tokens: long traces do not saturate the sigmoid then.

    Args:
        sums: log p of each solution under the model.
        reference: The same under the model before unlearning.
        beta: Inverse temperature; the smaller, the closer to gradient ascent.
        counts: Tokens of each solution, for the per-token variant.
    """
    ratio = sums - reference
    return -(2 / beta) * logsigmoid(-beta * (ratio if counts is None else ratio / counts)).mean()


def simnpo(
    sums: Float[Tensor, " batch"],
    counts: Float[Tensor, " batch"],
    *,
    beta: float,
    delta: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the SimNPO loss -(2/beta) mean log sigmoid(beta (NLL / tokens - delta)).

    No reference model; normalised by length (Fan et al. 2024, arXiv:2410.07163). ``delta`` stands inside
    beta, as in open-unlearning: it is the paper's margin divided by beta.
    """
    return -(2 / beta) * logsigmoid(beta * (-sums / counts - delta)).mean()


def dpo(
    preferred: Float[Tensor, " batch"],
    preferred_reference: Float[Tensor, " batch"],
    rejected: Float[Tensor, " batch"],
    rejected_reference: Float[Tensor, " batch"],
    *,
    beta: float,
) -> Float[Tensor, ""]:
    """Return the DPO loss -(2/beta) mean log sigmoid(beta [log-ratio(preferred) - log-ratio(rejected)]).

    For unlearning (IdkDPO) a refusal is preferred to the solution (Rafailov et al. 2023, arXiv:2305.18290, eq. 7; the
    factor 2/beta as in open-unlearning, so that it compares with NPO).

    Args:
        preferred: log p of each refusal under the model, summed.
        preferred_reference: The same before unlearning.
        rejected: log p of each solution under the model, summed.
        rejected_reference: The same before unlearning.
        beta: Inverse temperature.
    """
    margin = (preferred - preferred_reference) - (rejected - rejected_reference)
    return -(2 / beta) * logsigmoid(beta * margin).mean()


def wga(
    values: Float[Tensor, " tokens"], *, beta: float, weights: Float[Tensor, " tokens"] | None = None
) -> Float[Tensor, ""]:
    """Return the weighted gradient ascent loss mean(stop(p^beta) log p).

    Tokens that are forgotten already weigh little (Wang et al. 2025, arXiv:2502.19301). The weight is a constant to
    the gradient. With token weights g the mean is of g stop(p)^(beta g) log p, ATWU's "SatGA+" (arXiv:2606.06320).

    Args:
        values: log p of each solution token.
        beta: Exponent.
        weights: g, one a token.
    """
    if weights is None:
        return ((beta * values.detach()).exp() * values).mean()
    return (weights * (beta * weights * values.detach()).exp() * values).mean()


def satimp(
    values: Float[Tensor, " tokens"],
    *,
    beta1: float,
    beta2: float,
    weights: Float[Tensor, " tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Return the SatImp loss mean(stop(p^beta1 (1 - p)^beta2) log p), Yang et al. 2025 (arXiv:2505.11953).

    Args:
        values: log p of each solution token.
        beta1: Exponent of saturation.
        beta2: Exponent of importance.
        weights: Weight of each token.
    """
    p = values.detach().exp()
    # log p is 0 at best, up to rounding: 1 - p must not be negative under a root.
    scale = p**beta1 * (1 - p).clamp_min(0) ** beta2
    return ((scale if weights is None else scale * weights) * values).mean()


def undial(
    logits: Float[Tensor, "tokens vocabulary"],
    reference: Float[Tensor, "tokens vocabulary"],
    targets: Int[Tensor, " tokens"],
    *,
    beta: float,
) -> Float[Tensor, " tokens"]:
    """Return each token's UNDIAL loss: cross-entropy to softmax(z_ref - beta onehot(target)).

    Self-distillation from logits with the memorised token turned down (Dong et al. 2025, arXiv:2402.10052).

    Args:
        logits: z under the model.
        reference: z under the model before unlearning.
        targets: The tokens to forget.
        beta: How far their logits are turned down.
    """
    lowered = reference.scatter_add(1, targets[:, None], torch.full_like(reference[:, :1], -beta))
    return _cross_entropy(lowered, logits)


def ce_u(logits: Float[Tensor, "tokens vocabulary"], targets: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return each token's CE-U loss: cross-entropy to the model's own distribution without the target.

    Yang 2025 (arXiv:2503.01224): the teacher is softmax of the logits with the target's at minus infinity, a constant
    to the gradient.
    """
    return _cross_entropy(logits.detach().scatter(1, targets[:, None], -torch.inf), logits)


def _cross_entropy(
    teacher: Float[Tensor, "tokens vocabulary"], student: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    # A forbidden token has log-probability -inf and adds nothing: 0 times -inf must not become NaN.
    least = torch.finfo(student.dtype).min
    return -(teacher.softmax(dim=1) * student.log_softmax(dim=1).clamp_min(least)).sum(dim=1)


def token_distances(
    states: Float[Tensor, "tokens hidden"], target: Float[Tensor, "#tokens hidden"]
) -> Float[Tensor, " tokens"]:
    """Return each token's |h - target|^2 / hidden size, in float32.

    The papers write the squared norm; the released codes of RMU and R2MU take a mean squared error, which divides it by
    the hidden size. Coefficients and learning rates of those codes fit this.
    """
    return (states.float() - target.float()).square().mean(dim=1)


def sequence_mean(
    values: Float[Tensor, " tokens"],
    rows: Int[Tensor, " tokens"],
    size: int,
    *,
    shares: Float[Tensor, " sequences"] | None = None,
    weights: Float[Tensor, " tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean over sequences of each sequence's mean over its own tokens.

    This is E_x of 1/|x| sum_t, as RMU's equation has it (arXiv:2403.03218, eq. 1): sums 10 and 4 over 5 tokens and 1
    give 3. Padding is not handed in, so that no result depends on what else is in a batch.

    Args:
        values: A number for each token.
        rows: The sequence that each token belongs to.
        size: Number of sequences.
        shares: What each sequence counts; None for 1 / size each.
        weights: What each token counts within its sequence; None for all alike. Only their ratios matter.
    """
    counted = torch.ones_like(values) if weights is None else weights
    whole = values.new_zeros(size).index_add(0, rows, counted)
    sums = values.new_zeros(size).index_add(0, rows, values if weights is None else weights * values)
    means = sums / whole.clamp_min(torch.finfo(whole.dtype).tiny)
    return means.mean() if shares is None else (shares * means).sum()


def steer(
    states: Float[Tensor, "tokens hidden"],
    control: Float[Tensor, " hidden"],
    rows: Int[Tensor, " tokens"],
    size: int,
    *,
    shares: Float[Tensor, " sequences"] | None = None,
    weights: Float[Tensor, " tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Return the loss that pulls activations to a control vector: RMU's forget term, R2MU's trace term.

    ``sequence_mean`` of ``token_distances`` (arXiv:2403.03218, eq. 1; arXiv:2506.12963).

    Args:
        states: Activations at the steering layer, of real tokens only.
        control: c times the unit vector u.
        rows: The sequence that each token belongs to.
        size: Number of sequences.
        shares: What each sequence counts; None for all alike.
        weights: What each token counts within its sequence; None for all alike.
    """
    return sequence_mean(token_distances(states, control[None]), rows, size, shares=shares, weights=weights)


def anchor(
    states: Float[Tensor, "tokens hidden"],
    reference: Float[Tensor, "tokens hidden"],
    rows: Int[Tensor, " tokens"],
    size: int,
) -> Float[Tensor, ""]:
    """Return the loss that keeps activations where they were: RMU's retain term, R2MU's chain-of-thought term."""
    return sequence_mean(token_distances(states, reference), rows, size)


def listed_probability(
    logits: Float[Tensor, "tokens vocabulary"], listed: Int[Tensor, " listed"]
) -> Float[Tensor, " tokens"]:
    """Return each token's mean softmax probability of the listed tokens: the reflection token penalty.

    A mean over the list, not a sum, as R2MU's released code has it (``unlearn_think.py``).
    """
    return logits.softmax(dim=1)[:, listed].mean(dim=1)


def entropy(weights: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return H(g) = -g log g - (1 - g) log(1 - g) of each token's weight g, in nats."""
    g = weights.clamp(_EDGE, 1 - _EDGE)
    return -g * g.log() - (1 - g) * (1 - g).log()


def row_means(values: Float[Tensor, " tokens"], rows: Int[Tensor, " tokens"]) -> Float[Tensor, " batch"]:
    """Return the mean of the values of each row that has some."""
    _, places = rows.unique(return_inverse=True)
    zeros = values.new_zeros(int(places.max()) + 1)
    return zeros.index_add(0, places, values) / zeros.index_add(0, places, torch.ones_like(values))


def weighted_sums(
    logprobs: TokenLogprobs, weights: Float[Tensor, " tokens"] | None, *, rescaled: bool
) -> Float[Tensor, " batch"]:
    """Return each sequence's sum of g log p; log p summed where there are no weights.

    Args:
        logprobs: log p of each solution token.
        weights: g, one a token.
        rescaled: Multiply by tokens / sum of g, so that weights of any size leave the length as it is (ATWU's w_x,
            for log-ratios); SimNPO divides by the length itself.
    """
    if weights is None:
        return logprobs.sums
    zeros = logprobs.values.new_zeros(logprobs.size)
    sums = zeros.index_add(0, logprobs.rows, weights * logprobs.values)
    if not rescaled:
        return sums
    whole = zeros.index_add(0, logprobs.rows, weights)
    return sums * logprobs.counts / whole.clamp_min(torch.finfo(whole.dtype).tiny)


def after_first(rows: Int[Tensor, " tokens"]) -> Bool[Tensor, " tokens"]:
    """Return True at all tokens but the first of each row; tokens of a row stand together."""
    return torch.cat([rows.new_zeros(1, dtype=torch.bool), rows[1:] == rows[:-1]]) if len(rows) else rows.bool()
