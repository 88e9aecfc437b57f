"""What an objective is: one frozen dataclass in one file, with its coefficients, its loss, its needs and its source.

Nothing here loads torch, so that coefficients can be listed at once: a loss imports what it computes with.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from mastlens.errors import BadSetting
from mastlens.registry import code_digest
from mastlens.unlearning.coefficient import Known, check_coefficients, coefficient, coefficients_of
from mastlens.unlearning.objectives.record import OF_STEERING, recorded
from mastlens.unlearning.token_weights import TokenWeights

if TYPE_CHECKING:
    from torch import Tensor

    from mastlens.models.likelihood import Reading

RETAIN = ("nll", "kl")
"""Retain terms: token-mean negative log-likelihood; forward KL(source || model) at the solution tokens."""
Presets = Mapping[str, Mapping[str, Any]]
"""Preset to the coefficients that it fixes."""


@dataclass(frozen=True)
class Needs:
    """What a run must have for an objective.

    Attributes:
        reference: Log-probabilities before unlearning, summed by solution.
        before: Whole distributions or activations before unlearning.
        retain: Retain problems.
        alternatives: A refusal for each forget problem.
        traces: Reasoning traces of the forget documents.
        cot: Chains of thought to keep.
        own_responses: What models say themselves in the place of the solutions: the SFT model's responses to the
            forget problems, the source's to the retain problems.
        increment: What RLVR gave: the SFT model's tensors beside those that are edited.
    """

    reference: bool = False
    before: bool = False
    retain: bool = False
    alternatives: bool = False
    traces: bool = False
    cot: bool = False
    own_responses: bool = False
    increment: bool = False

    def __str__(self) -> str:
        return ", ".join(each.name for each in fields(self) if getattr(self, each.name))


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A forget objective with its coefficients; one class, registered by its name, is one objective.

    The total loss is gamma * forget + retain_weight * retain.

    Attributes:
        name: As ``--objective`` takes it.
        summary: What it does, in one line.
        source: Where it is from.
        needs: What a run must have for it.
        presets: Preset to the coefficients that it fixes; a coefficient that it does not fix keeps its default.
        over: What its forget term is a mean over: ``sequences``, ``tokens`` or ``later tokens`` (all but the first of
            each solution). Micro-batches are added up by it; where it is empty, a step is never split.
        gamma: See ``coefficients``, as for every field below.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    needs: ClassVar[Needs] = Needs()
    presets: ClassVar[Presets] = {}
    over: ClassVar[str] = ""

    gamma: float = coefficient("weight of the forget term", 1.0, least=0)
    retain_weight: float = coefficient("weight of the retain term", 1.0, least=0)
    token_weights: TokenWeights | None = None  # a coefficient where there is a term over tokens that can be weighed

    def __post_init__(self) -> None:
        if self.token_weights is not None and "token_weights" not in self.coefficients():
            raise BadSetting(f"{self.name} has no term whose tokens could be weighed: it takes no token_weights.")
        check_coefficients(self, self.name)

    @classmethod
    def coefficients(cls) -> dict[str, Known]:
        """Return name to what is known of each coefficient that can be given."""
        return dict(coefficients_of(cls))

    @classmethod
    def make(cls, fixed: Mapping[str, Any], given: Mapping[str, Any]) -> "Objective":
        """Return the objective with what a preset fixes, then what is given."""
        return cls(**{**fixed, **given})

    def record(self) -> dict[str, Any]:
        """Return name, coefficients and needs for a record, under the keys that every objective's record has."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        needs = {each.name: getattr(self.needs, each.name) for each in fields(self.needs)}
        return recorded(self.name, values, needs, code_digest(type(self)))

    def settings(self) -> dict[str, Any]:
        """Return what the record of a run says of it."""
        return self.record()


@dataclass(frozen=True)
class ForgetBatch:
    """What an objective on the model's output may look at, of one forget batch.

    Attributes:
        solutions: The solutions under the model as it is.
        reference: log p of each solution before unlearning, summed; where it is needed.
        logits_before: Gives the logits, before unlearning, of a slice of the solution tokens; where they are needed.
        refusals: log p of each refusal under the model as it is, summed; where they are needed.
        refusals_reference: The same before unlearning.
        logits_wanted: Gives the logits, in the SFT model, of a slice of the solution tokens; where it is imitated.
    """

    solutions: "Reading"
    reference: "Tensor | None" = None
    logits_before: "Callable[[slice], Tensor] | None" = None
    refusals: "Tensor | None" = None
    refusals_reference: "Tensor | None" = None
    logits_wanted: "Callable[[slice], Tensor] | None" = None


@dataclass(frozen=True, kw_only=True)
class OutputObjective(Objective):
    """An objective on what the model says: log-probabilities of solution tokens, or logits there."""

    retain_loss: str = coefficient(
        "retain term: nll, or kl, forward from the source", "nll", choices=RETAIN, kind="retain term"
    )
    token_weights: TokenWeights | None = coefficient("learn which forget tokens to forget (ATWU)", None)

    @property
    def imitates_distributions(self) -> bool:
        """Whether it reads the SFT model's whole distributions (``ForgetBatch.logits_wanted``)."""
        return False

    @abstractmethod
    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return the unweighted forget term, a scalar that is minimised.

        Args:
            batch: What the model says of a forget batch.
            weights: One a solution token, in reading order; None for all alike.
        """

    def settings(self) -> dict[str, Any]:
        """Return what the record of a run says of it: what only steering has is left out."""
        return {key: value for key, value in self.record().items() if key not in OF_STEERING}
