"""Forget terms of objectives on log-probabilities: what each looks at, handed to the formulas in ``losses``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mastlens.models.likelihood import Reading
from mastlens.unlearning import losses

if TYPE_CHECKING:
    from mastlens.unlearning.objectives import Objective


@dataclass(frozen=True)
class Said:
    """What an objective on log-probabilities may look at, of one forget batch.

    Attributes:
        now: The solutions under the model as it is.
        reference: log p of each solution before unlearning, summed; where it was asked for.
        before: Gives the logits, before unlearning, of a slice of the solution tokens; where they were asked for.
        refusal: log p of each refusal under the model as it is, summed; where they were asked for.
        refusal_reference: The same before unlearning.
    """

    now: Reading
    reference: Tensor | None = None
    before: Callable[[slice], Tensor] | None = None
    refusal: Tensor | None = None
    refusal_reference: Tensor | None = None


def _ascend(objective: "Objective", said: Said, weights: Tensor | None) -> Tensor:
    logprobs = said.now.logprobs
    return losses.gradient_ascent(losses.weighted_sums(logprobs, weights, rescaled=False), logprobs.counts)


def _npo(objective: "Objective", said: Said, weights: Tensor | None) -> Tensor:
    assert said.reference is not None
    logprobs = said.now.logprobs
    sums = losses.weighted_sums(logprobs, weights, rescaled=True)
    counts = logprobs.counts if objective.name == "npo-token" else None
    return losses.npo(sums, said.reference, beta=objective.beta, counts=counts)


def _simnpo(objective: "Objective", said: Said, weights: Tensor | None) -> Tensor:
    logprobs = said.now.logprobs
    sums = losses.weighted_sums(logprobs, weights, rescaled=False)
    return losses.simnpo(sums, logprobs.counts, beta=objective.beta, delta=objective.delta)


def _dpo(objective: "Objective", said: Said, weights: Tensor | None) -> Tensor:
    assert said.reference is not None
    assert said.refusal is not None
    assert said.refusal_reference is not None
    rejected = losses.weighted_sums(said.now.logprobs, weights, rescaled=True)
    return losses.dpo(said.refusal, said.refusal_reference, rejected, said.reference, beta=objective.beta)


def _wga(objective: "Objective", said: Said, weights: Tensor | None) -> Tensor:
    return losses.wga(said.now.logprobs.values, beta=objective.beta, weights=weights)


def _satimp(objective: "Objective", said: Said, weights: Tensor | None) -> Tensor:
    values = said.now.logprobs.values
    return losses.satimp(values, beta1=objective.beta, beta2=objective.beta2, weights=weights)


def _undial(objective: "Objective", said: Said, weights: Tensor | None) -> Tensor:
    before = said.before
    assert before is not None
    values = said.now.over_tokens(
        lambda logits, part: losses.undial(logits, before(part), said.now.targets[part], beta=objective.beta)
    )
    return values.mean() if weights is None else (weights * values).mean()


def _ce_u(objective: "Objective", said: Said, weights: Tensor | None) -> Tensor:
    values = said.now.over_tokens(lambda logits, part: losses.ce_u(logits, said.now.targets[part]))
    counted = losses.after_first(said.now.rows)  # as its code, which leaves the first token of an answer alone
    if not bool(counted.any()):
        counted = torch.ones_like(counted)
    return (values if weights is None else weights * values)[counted].mean()


FORGET: dict[str, Callable[["Objective", Said, Tensor | None], Tensor]] = {
    "ga": _ascend,
    "graddiff": _ascend,
    "npo": _npo,
    "npo-token": _npo,
    "simnpo": _simnpo,
    "dpo": _dpo,
    "wga": _wga,
    "satimp": _satimp,
    "undial": _undial,
    "ce-u": _ce_u,
}
"""Objective to its forget term; steering objectives have none of this kind."""
