"""The unlearning loop: AdamW on the selected tensors and on nothing else."""

import math
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mastlens.architectures.projections import Projection
from mastlens.edits.making import make_edit
from mastlens.errors import BadSetting, MastlensWarning
from mastlens.models.sharding import ranks_of, settle, weight_storages
from mastlens.models.weights import owners
from mastlens.problems.encoding import EncodedProblem
from mastlens.unlearning.anchor import Anchor
from mastlens.unlearning.anchoring import Anchoring
from mastlens.unlearning.gating import GateOptimiser
from mastlens.unlearning.hardening import Hardening, check_robust
from mastlens.unlearning.masters import Masters
from mastlens.unlearning.misdirection import Misdirection, check_reach
from mastlens.unlearning.objectives import Objective, OutputObjective, SteeringObjective
from mastlens.unlearning.objectives.gates import Gates
from mastlens.unlearning.optimisers import load_moments, make_optimiser, moments, take_step
from mastlens.unlearning.orthogonal import RetainSubspace, gradients_of
from mastlens.unlearning.passes import Passes
from mastlens.unlearning.rewinding import Imitated
from mastlens.unlearning.robustness import Robustness
from mastlens.unlearning.schedules import CONSTANT, rate_by_step
from mastlens.unlearning.scorer import Scorer
from mastlens.unlearning.settings import CACHE_MB, OPTIMIZERS
from mastlens.unlearning.sharded import ShardedMasters, summed
from mastlens.unlearning.sides import check_arguments, check_orthogonal, check_sides, numbered, whole
from mastlens.unlearning.splitting import (
    AUTO,
    Splitting,
    check_splitting,
    choose_splitting,
    kept_bytes,
)
from mastlens.unlearning.terms import OutputTerms, make_scorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CACHE_MB", "CLIP", "Step", "Unlearner", "batch_schedule", "make_edit", "unlearning_steps"]

CLIP = 1.0


@dataclass(frozen=True)
class Step:
    """One unlearning step.

    Attributes:
        step: From 1.
        forget_loss: The forget term on this step's batch, before the update.
        retain_loss: The retain term on this step's batch, before the update; NaN without one.
        grad_norm: Norm of the gradient over all selected tensors, before clipping.
        forget_logprob: Token-mean log-probability of the forget batch's solutions, before the update; NaN where the
            objective does not look at it (RMU, R2MU).
        trace_loss: R2MU's term on traces; NaN without traces.
        cot_loss: R2MU's term on chains of thought; NaN without any.
        reflection_loss: Mean probability of the listed reflection tokens on the forget batch; NaN where there is no
            penalty on it.
        anchor_loss: The anchor's pull on what has drifted from the source, before the update; NaN without an anchor.
    """

    step: int
    forget_loss: float
    retain_loss: float = math.nan
    grad_norm: float = math.nan
    forget_logprob: float = math.nan
    trace_loss: float = math.nan
    cot_loss: float = math.nan
    reflection_loss: float = math.nan
    anchor_loss: float = math.nan


def batch_schedule(items: int, batch_size: int, steps: int, seed: int, side: int) -> list[list[int]]:
    """Return the item numbers of every step's batch: shuffled passes, from the seed alone.

    Args:
        items: Number of problems.
        batch_size: Problems a batch.
        steps: Number of batches.
        seed: Of the run.
        side: 0 for forget, 1 for retain, 3 for chains of thought: streams that do not depend on each other.
    """
    generator = np.random.default_rng([seed, side])
    stream: list[int] = []
    while len(stream) < steps * batch_size:
        stream.extend(generator.permutation(items).tolist())
    return [stream[step * batch_size : (step + 1) * batch_size] for step in range(steps)]


class Unlearner:
    """Edits some matrices of ``model`` in place, step by step.

    AdamW, betas (0.9, 0.999), no weight decay, constant learning rate unless asked otherwise, gradient norm clipped at
    1, evaluation mode. All other parameters have ``requires_grad=False``, so that they have neither gradient nor
    optimiser state, and the backward pass ends at the lowest selected tensor. Where memory allows, the forward pass
    begins there.

    Args:
        model: The model; its weights are changed.
        matrices: Parameters to edit, by name, and slices of fused ones as projections (``named_matrices``).
        objective: The forget objective and its coefficients.
        forget: Problems to forget, as token ids.
        retain: Problems to keep; None for no retain term.
        alternatives: The forget problems with a refusal each in place of the solution, in the same order.
        traces: For each forget document, its reasoning traces; where a trace has a prompt, only its solution counts.
        cot: Chains of thought to keep; where one has a prompt, only its solution counts.
        reflection: Tokens of the reflection token penalty.
        lr: Learning rate.
        steps: Number of steps.
        batch_size: Problems a step and side.
        seed: Decides the batches, and the direction of the control vector.
        originals: Name to stored tensor of what is selected, where the model holds it rounded.
        cache_mb: Most memory, in MB, for what the layers below the selection give, and for the activations of before
            that are kept; it does not change a result beyond rounding.
        micro_batch: Problems of a step that go through the model at a time, or ``auto``: as many as memory is set aside
            for. The step is the same to rounding.
        checkpoint_activations: ``on`` to compute what happens in a layer again on the way back, ``off``, or ``auto``:
            where one text alone would take more than that memory.
        schedule: Of the learning rate: ``constant``, ``linear`` or ``cosine``, both to 0.
        warmup: Steps in which the learning rate rises to ``lr``.
        optimizer: What keeps AdamW's state, and in how many bits: one of ``OPTIMIZERS``.
        orthogonal_to_retain: Of how many of the latest retain gradients the forget gradient is made orthogonal to the
            span; 0 for none.
        begin_at: Name to stored tensor of what is selected, where the run begins at other values than the model's; what
            an objective knows of before is still the model's.
        imitated: What the SFT model says at the tokens of ``forget``, for an objective that imitates it.
        before: Name to stored tensor of the SFT model, for an objective that gives back its increment.
        robust: How the forget term is hardened; None for not at all.
        anchor: How what is shared is held to the source; None for not at all.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        matrices: Sequence[str | Projection],
        objective: Objective,
        forget: Sequence[EncodedProblem],
        retain: Sequence[EncodedProblem] | None = None,
        *,
        alternatives: Sequence[EncodedProblem] | None = None,
        traces: Sequence[Sequence[EncodedProblem]] | None = None,
        cot: Sequence[EncodedProblem] | None = None,
        reflection: Sequence[int] = (),
        lr: float,
        steps: int,
        batch_size: int = 8,
        seed: int = 0,
        originals: Mapping[str, Tensor] | None = None,
        cache_mb: float = CACHE_MB,
        micro_batch: int | str = AUTO,
        checkpoint_activations: str = AUTO,
        schedule: str = CONSTANT,
        warmup: int = 0,
        optimizer: str = OPTIMIZERS[0],
        orthogonal_to_retain: int = 0,
        begin_at: Mapping[str, Tensor] | None = None,
        imitated: Imitated | None = None,
        before: Mapping[str, Tensor] | None = None,
        robust: Robustness | None = None,
        anchor: Anchor | None = None,
    ):
        check_arguments(objective, matrices, retain, lr=lr, steps=steps, batch_size=batch_size)
        check_splitting(objective, micro_batch, checkpoint_activations, batch_size)
        check_orthogonal(objective, orthogonal_to_retain, retain)
        check_robust(objective, robust)
        if anchor is not None:
            anchor.check()
        if robust is not None and robust.latent_noise:
            cache_mb = 0.0  # what the layers below give has to pass through the disturbed one
        if objective.needs.alternatives and (alternatives is None or len(alternatives) != len(forget)):
            raise BadSetting(f"The objective {objective.name} needs one refusal for each forget problem.")
        if not forget or (retain is not None and not retain):
            raise BadSetting("A side without problems has nothing to be read: give at least one.")
        check_sides(objective, len(forget), traces, cot, reflection)
        self.model, self.objective, self.lr, self.steps, self.seed = model, objective, lr, steps, seed
        self.done = 0
        """Steps taken."""
        self.held = 0
        """The step whose weights the model holds: the last one, unless that was not finite."""
        self.finite = True
        model.eval().requires_grad_(False)
        sides: dict[str, Sequence[EncodedProblem]] = {"forget": forget}
        self.schedules = {"forget": batch_schedule(len(forget), batch_size, steps, seed, side=0)}
        if retain is not None:
            sides["retain"] = retain
            self.schedules["retain"] = batch_schedule(len(retain), batch_size, steps, seed, side=1)
        if isinstance(objective, SteeringObjective):  # every token is steered, not a solution behind its prompt
            sides = {side: [whole(problem) for problem in problems] for side, problems in sides.items()}
        if cot is not None:
            sides["cot"] = cot
            self.schedules["cot"] = batch_schedule(len(cot), batch_size, steps, seed, side=3)
        self.ranks = ranks_of(model)
        uses = {
            side: [row for rows in schedule for row in self._share(rows)] for side, schedule in self.schedules.items()
        }
        places: list[list[int]] = []
        if traces is not None:
            sides["trace"], places = numbered(traces)
            uses["trace"] = [trace for document in uses["forget"] for trace in places[document]]
        if objective.needs.alternatives and alternatives is not None:
            sides["refusal"], uses["refusal"] = alternatives, uses["forget"]
        names = list(dict.fromkeys(m if isinstance(m, str) else m.stored for m in matrices))
        self.passes = Passes(model, names, sides, uses, cache_mb=cache_mb)
        if isinstance(objective, SteeringObjective):
            check_reach(self.passes, objective, owners(model, names))
        self.outputs: OutputTerms | None = None
        """The terms of an objective on the model's output; None for others."""
        if isinstance(objective, OutputObjective):
            read = sorted({row for rows in self.schedules["forget"] for row in rows})
            self.outputs = OutputTerms(self.passes, objective, read, steps=steps, ranks=self.ranks, imitated=imitated)
        self.misdirection: Misdirection | None = None
        """The terms of an objective that steers activations; None for others."""
        if isinstance(objective, SteeringObjective):
            self.misdirection = Misdirection(
                self.passes,
                objective,
                uses,
                traces=places,
                reflection=reflection,
                seed=seed,
                batch_size=batch_size,
                budget=cache_mb * 1e6 - self.passes.held,
            )
        self.masters = (
            Masters(model, matrices, originals)
            if self.ranks is None
            else ShardedMasters(model, matrices, originals, self.ranks)
        )
        longest = max(self.passes.length(side, row) for side in sides for row in range(len(sides[side])))
        self.passes.splitting = choose_splitting(
            objective,
            micro_batch,
            checkpoint_activations,
            longest=longest,
            device=model.device,
            kept=self._kept_a_token,
        )
        if self.ranks is not None:
            self.passes.splitting = self.ranks.from_first(self.passes.splitting)
        self.anchoring: Anchoring | None = None
        """What holds the shared part to the source; None where nothing does."""
        if anchor is not None:
            known = {side: given for side, given in (("forget", forget), ("retain", retain)) if given is not None}
            self.anchoring = Anchoring(anchor, self.masters, model, known, batch_size)
        if begin_at is not None:
            self.masters.begin_at(begin_at)
        self.optimiser = self._moves(optimizer, before)
        self.subspace = RetainSubspace(orthogonal_to_retain) if orthogonal_to_retain else None
        self.hardening = None if robust is None else Hardening(robust, self.masters, self.passes, seed)
        self._rate = rate_by_step(schedule, warmup=warmup, steps=steps)
        self._steered: Scorer | None = None  # the scorer of the tokens whose activations are steered
        if self.misdirection is not None and objective.token_weights is not None:
            control = self.misdirection.control
            self._steered = Scorer(len(control), objective.token_weights, control.device)
        self.passes.own = objective.token_weights is not None and objective.token_weights.as_authors
        self._good = [parameter.detach().clone() for parameter in self.masters.parameters]

    @property
    def control(self) -> Tensor | None:
        """The control vector of an objective that steers activations, on the CPU; None for others."""
        return None if self.misdirection is None else self.misdirection.control.detach().cpu().float()

    @property
    def scorer(self) -> Scorer | None:
        """What weighs the forget tokens; None without token weights, and before the first of them were read."""
        return self._steered if self.outputs is None else self.outputs.scorer

    @scorer.setter
    def scorer(self, scorer: Scorer) -> None:
        if self.outputs is None:
            self._steered = scorer
        else:
            self.outputs.scorer = scorer

    def _moves(self, optimizer: str, before: Mapping[str, Tensor] | None) -> torch.optim.Optimizer:
        """Return what moves the masters: AdamW, or gates on what they give back."""
        if not isinstance(self.objective, Gates):
            return make_optimiser(optimizer, self.masters.parameters, self.lr)
        if before is None:
            raise BadSetting(f"{self.objective.name} gives back what RLVR gave: it needs the SFT model's tensors.")
        unit, price = self.objective.gate, self.objective.price
        gates = GateOptimiser(self.masters, before, lr=self.lr, unit=unit, price=price)
        self.masters.write_back()
        return gates

    def _share(self, rows: Sequence[int]) -> Sequence[int]:
        """Return this rank's share of a step's problems: all of them where there is one process."""
        return rows if self.ranks is None or not self.objective.over else rows[self.ranks.rank :: self.ranks.size]

    def step(self) -> Step | None:
        """Take one step and return its record; None after the last one.

        If the loss or gradient is not finite, it warns, puts back the weights of the last step whose loss was
        finite, and ends the run.
        """
        if self.done == self.steps or not self.finite:
            return None
        number = self.done + 1
        self.masters.drop_gradients()
        terms = self._terms({side: schedule[self.done] for side, schedule in self.schedules.items()})
        terms = terms if self.ranks is None else summed(self.ranks, terms)
        if self.anchoring is not None:
            terms["anchor_loss"] = self.anchoring.pull()
        norm = self.masters.clip(CLIP)
        if not all(map(math.isfinite, (norm, *(terms[term] for term in terms if term != "forget_logprob")))):
            self._fall_back(
                f"Step {number}: the loss or its gradient is not finite (forget loss {terms['forget_loss']}, "
                f"gradient norm {norm}).",
                max(number - 2, 0),
            )
            return None
        with torch.no_grad():
            for kept, parameter in zip(self._good, self.masters.parameters, strict=True):
                kept.copy_(parameter)
        take_step(self.optimiser, self.lr * self._rate(self.done))
        self.masters.write_back()
        self.done = self.held = number
        if number == self.steps and not self._ends_well():
            self._fall_back(f"The weights of the last step, {number}, give no finite loss.", number - 1)
        return Step(number, grad_norm=norm, **terms)

    def _terms(self, rows: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Add the gradients of all terms of a step's batches; return the terms, unweighted, by their column."""
        settings = self.objective.token_weights
        if self.misdirection is not None:
            rate = settings.rate_at(self.done, self.steps) if settings and settings.learns_at(self.done) else None
            steer = partial(self.misdirection.step, rows, self._back, self.scorer, rate=rate)
            return steer() if self.hardening is None else self.hardening(self.done, steer)
        assert self.outputs is not None
        forget = partial(self.outputs.forget, rows["forget"], self.done, self._back)
        forget_loss, logprob = forget() if self.hardening is None else self.hardening(self.done, forget)
        terms = {"forget_loss": forget_loss, "forget_logprob": logprob}
        if "retain" not in rows:
            return terms
        alone = None if self.subspace is None else gradients_of(self.masters.parameters)
        terms["retain_loss"] = self.outputs.retain(rows["retain"], self._back)
        if self.subspace is not None and alone is not None:
            self.subspace.join(self.masters.parameters, alone)
        return terms

    def _fall_back(self, why: str, held: int) -> None:
        """Put back the weights of the last step whose loss was finite, and say so."""
        self.masters.restore(self._good)
        self.finite, self.held = False, held
        what = f"Use a smaller learning rate than {self.lr}." if self.done else "The source itself gives no number."
        warnings.warn(f"{why} The edit holds the last good step, {held}. {what}", MastlensWarning, stacklevel=3)

    @torch.no_grad()
    def _ends_well(self) -> bool:
        """Return whether the loss is finite after the last update, which no later step would tell."""
        rows = self.schedules["forget"][-1]
        rows = list(self._share(rows)) or rows[:1]
        if isinstance(self.objective, SteeringObjective):
            value = self.passes.states("forget", rows, self.objective.layer).values.float().mean()
        else:
            value = self.passes.read("forget", rows).logprobs.values.mean()
        finite = bool(torch.isfinite(value))
        return self.masters.finite and (finite if self.ranks is None else self.ranks.every(finite))

    def _back(self, loss: Tensor) -> None:
        """Go back through one term; its gradient is added to the masters at once, in float32."""
        loss.backward()
        self.masters.take_gradients()

    def _kept_a_token(self, checkpointed: bool) -> float:
        """Return the bytes a token that a pass keeps for the way back, measured on the shortest forget problem."""
        problems, passes = self.passes.problems["forget"], self.passes
        shortest = min(range(len(problems)), key=lambda row: passes.length("forget", row))
        passes.splitting = Splitting(checkpointed=checkpointed)

        def forward() -> Any:
            if isinstance(self.objective, SteeringObjective):
                return passes.states("forget", [shortest], self.objective.layer)
            reading = passes.read("forget", [shortest])
            return reading, reading.logprobs

        with weight_storages(self.model) as own:
            return kept_bytes(forward, own) / passes.length("forget", shortest)

    def state(self) -> dict[str, Tensor]:
        """Return all that the next step hangs on, as named tensors: masters, moments, the scorer."""
        state: dict[str, Tensor] = {"done": torch.tensor(self.done)}
        for number, parameter in enumerate(self.masters.parameters):
            state[f"master.{number}"] = parameter.detach()
            state[f"good.{number}"] = self._good[number]
        state |= moments("moment", self.optimiser)
        if self.subspace is not None:
            state |= self.subspace.state()
        if self.scorer is not None:
            state["scorer"] = self.scorer.w.detach()
            state |= moments("scorer-moment", self.scorer.optimiser)
        return state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned: what follows is, bit for bit, what followed in the run it came from."""
        self.done = self.held = int(state["done"])
        device = self.model.device
        count = range(len(self.masters.parameters))
        self.masters.restore([state[f"master.{number}"].to(device) for number in count])
        self._good = [state[f"good.{number}"].to(device) for number in count]
        load_moments("moment", self.optimiser, state)
        if self.subspace is not None:
            self.subspace.load_state(state, len(count), device)
        if "scorer" in state and self.objective.token_weights is not None:
            width = len(state["scorer"]) - self.objective.token_weights.as_authors
            scorer = make_scorer(self.objective, width, self.model.device)
            scorer.w.copy_(state["scorer"])
            load_moments("scorer-moment", scorer.optimiser, state)
            self.scorer = scorer

    def remaining(self) -> Generator[Step, None, None]:
        """Take the steps that are left, one for each item; the model is without gradients afterwards."""
        try:
            while (record := self.step()) is not None:
                yield record
        finally:
            self.close()

    def close(self) -> None:
        """Leave the model without gradients; the edited weights stay."""
        settle(self.model)
        self.model.requires_grad_(False)
        self.model.zero_grad(set_to_none=True)


def unlearning_steps(
    model: "PreTrainedModel",
    matrices: Sequence[str | Projection],
    objective: Objective,
    forget: Sequence[EncodedProblem],
    retain: Sequence[EncodedProblem] | None = None,
    **settings: Any,
) -> Generator[Step, None, None]:
    """Edit some matrices of ``model`` in place, one step for each item of the iteration; see ``Unlearner``.

    If the loss or gradient is not finite, the iteration ends with a warning and the model holds the weights
    of the last step whose loss was finite.
    """
    yield from Unlearner(model, matrices, objective, forget, retain, **settings).remaining()
