"""The unlearning loop: AdamW on the selected tensors and on nothing else."""

import math
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mastlens.architectures.projections import Projection
from mastlens.edits.making import make_edit
from mastlens.errors import BadSetting, MastlensWarning
from mastlens.models.divergence import forward_kl
from mastlens.models.weights import owners
from mastlens.problems.encoding import EncodedProblem
from mastlens.unlearning import losses
from mastlens.unlearning.masters import Masters
from mastlens.unlearning.misdirection import Misdirection, check_reach
from mastlens.unlearning.objectives import ForgetBatch, Objective, OutputObjective, SteeringObjective
from mastlens.unlearning.passes import Passes
from mastlens.unlearning.rewinding import Imitated
from mastlens.unlearning.scorer import Scorer
from mastlens.unlearning.settings import CACHE_MB
from mastlens.unlearning.sides import check_arguments, check_sides, numbered, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CACHE_MB", "CLIP", "Step", "Unlearner", "batch_schedule", "make_edit", "unlearning_steps"]

CLIP = 1.0
_READ = 32  # problems a pass where nothing is learnt


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
    """

    step: int
    forget_loss: float
    retain_loss: float = math.nan
    grad_norm: float = math.nan
    forget_logprob: float = math.nan
    trace_loss: float = math.nan
    cot_loss: float = math.nan
    reflection_loss: float = math.nan


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

    AdamW, betas (0.9, 0.999), no weight decay, constant learning rate, gradient norm clipped at 1, evaluation
    mode. All other parameters have ``requires_grad=False``, so that they have neither gradient nor optimiser
    state, and the backward pass ends at the lowest selected tensor. Where memory allows, the forward pass begins there.

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
        begin_at: Name to stored tensor of what is selected, where the run begins at other values than the model's; what
            an objective knows of before is still the model's.
        imitated: What the SFT model says at the tokens of ``forget``, for an objective that imitates it.
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
        begin_at: Mapping[str, Tensor] | None = None,
        imitated: Imitated | None = None,
    ):
        check_arguments(objective, matrices, retain, lr=lr, steps=steps, batch_size=batch_size)
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
        uses = {side: [row for rows in schedule for row in rows] for side, schedule in self.schedules.items()}
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
        self._look_back(uses)
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
        self.imitated = imitated
        self.masters = Masters(model, matrices, originals)
        if begin_at is not None:
            self.masters.begin_at(begin_at)
        self.optimiser = torch.optim.AdamW(self.masters.parameters, lr=lr, betas=(0.9, 0.999), weight_decay=0.0)
        self.scorer: Scorer | None = None
        if self.misdirection is not None and objective.token_weights is not None:
            control = self.misdirection.control
            self.scorer = Scorer(len(control), objective.token_weights, control.device)
        self._good = [parameter.detach().clone() for parameter in self.masters.parameters]

    @property
    def control(self) -> Tensor | None:
        """The control vector of an objective that steers activations, on the CPU; None for others."""
        return None if self.misdirection is None else self.misdirection.control.detach().cpu().float()

    def _look_back(self, uses: Mapping[str, Sequence[int]]) -> None:
        """Read what the objective wants to know of the weights before the first step: no second model is needed."""
        objective = self.objective
        if isinstance(objective, OutputObjective) and (objective.needs.before or objective.retain_loss == "kl"):
            self.passes.remember_originals()
        self._reference = {
            side: self._sums(side, sorted(set(uses[side])))
            for side in ("forget", "refusal")
            if objective.needs.reference and side in uses
        }

    @torch.no_grad()
    def _sums(self, side: str, items: Sequence[int]) -> Tensor:
        """Return the summed log-probability of each solution of a side; NaN at problems that are never read."""
        sums = torch.full((len(self.passes.problems[side]),), torch.nan, device=self.model.device)
        lengths = [len(problem.prompt) + len(problem.solution) for problem in self.passes.problems[side]]
        ordered = sorted(items, key=lambda item: lengths[item])
        for start in range(0, len(ordered), _READ):
            rows = ordered[start : start + _READ]
            sums[rows] = self.passes.read(side, rows).logprobs.sums
        return sums

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
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters.parameters, CLIP))
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
        self.optimiser.step()
        self.masters.write_back()
        self.done = self.held = number
        if number == self.steps and not self._ends_well():
            self._fall_back(f"The weights of the last step, {number}, give no finite loss.", number - 1)
        return Step(number, grad_norm=norm, **terms)

    def _terms(self, rows: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Add the gradients of all terms of a step's batches; return the terms, unweighted, by their column."""
        settings = self.objective.token_weights
        if self.misdirection is not None:
            learns = settings is not None and self.done > 0 and self.done % settings.every == 0
            return self.misdirection.step(rows, self._back, self.scorer, learns=learns)
        assert isinstance(self.objective, OutputObjective)
        forget_loss, logprob = self._forget(self.objective, rows["forget"])
        terms = {"forget_loss": forget_loss, "forget_logprob": logprob}
        return terms | ({"retain_loss": self._retain(self.objective, rows["retain"])} if "retain" in rows else {})

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
        if isinstance(self.objective, SteeringObjective):
            value = self.passes.states("forget", rows, self.objective.layer).values.float().mean()
        else:
            value = self.passes.read("forget", rows).logprobs.values.mean()
        return self.masters.finite and bool(torch.isfinite(value))

    def _forget(self, objective: OutputObjective, rows: Sequence[int]) -> tuple[float, float]:
        """Add the gradient of the forget term; return it, and the token-mean log-probability."""
        passes = self.passes
        # Each side goes back on its own: the graph of one batch is in memory at a time.
        before = passes.logits_before("forget", rows) if objective.needs.before else None
        solutions = passes.read("forget", rows)
        refusals = passes.read("refusal", rows).logprobs.sums if objective.needs.alternatives else None
        references = {side: sums[list(rows)] for side, sums in self._reference.items()}
        wanted = None if self.imitated is None else self.imitated.logits(rows)
        batch = ForgetBatch(solutions, references.get("forget"), before, refusals, references.get("refusal"), wanted)
        loss = objective.forget_loss(batch, self._token_weights(objective, batch))
        with torch.no_grad():  # constants: an objective on whole distributions has not made them yet
            logprob = float(replace(solutions, hidden=solutions.hidden.detach()).logprobs.values.mean())
        self._back(objective.gamma * loss)
        return float(loss.detach()), logprob

    def _back(self, loss: Tensor) -> None:
        """Go back through one term; its gradient is added to the masters at once, in float32."""
        loss.backward()
        self.masters.take_gradients()

    def _token_weights(self, objective: OutputObjective, batch: ForgetBatch) -> Tensor | None:
        """Return the weights for this step; every so many steps the scorer learns from its batch first."""
        settings, solutions = objective.token_weights, batch.solutions
        if settings is None:
            return None
        if self.scorer is None:
            self.scorer = Scorer(solutions.hidden.shape[1], settings, solutions.hidden.device)
        if self.done and self.done % settings.every == 0:
            fixed = replace(
                batch,
                solutions=replace(solutions, hidden=solutions.hidden.detach()),
                refusals=None if batch.refusals is None else batch.refusals.detach(),
            )
            with torch.no_grad():
                _ = fixed.solutions.logprobs  # kept as constants: the scorer's step does not reach the model
            self.scorer.learn(
                fixed.solutions.hidden, lambda weights: objective.gamma * objective.forget_loss(fixed, weights)
            )
        return self.scorer.weights(solutions.hidden)

    def _retain(self, objective: OutputObjective, rows: Sequence[int]) -> float:
        """Add the gradient of the retain term and return it."""
        passes = self.passes
        if objective.retain_loss == "kl":
            before = passes.logits_before("retain", rows)
            now = passes.read("retain", rows)
            loss = now.over_tokens(lambda logits, part: forward_kl(logits, before(part))).mean()
        else:
            kept = passes.read("retain", rows).logprobs
            loss = losses.retain_nll(kept.sums, kept.counts)
        self._back(objective.retain_weight * loss)
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """Return all that the next step hangs on, as named tensors: masters, moments, the scorer."""
        state: dict[str, Tensor] = {"done": torch.tensor(self.done)}
        for number, parameter in enumerate(self.masters.parameters):
            state[f"master.{number}"] = parameter.detach()
            state[f"good.{number}"] = self._good[number]
        state |= _moments("moment", self.optimiser)
        if self.scorer is not None:
            state["scorer"] = self.scorer.w.detach()
            state |= _moments("scorer-moment", self.scorer.optimiser)
        return state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned: what follows is, bit for bit, what followed in the run it came from."""
        self.done = self.held = int(state["done"])
        device = self.model.device
        count = range(len(self.masters.parameters))
        self.masters.restore([state[f"master.{number}"].to(device) for number in count])
        self._good = [state[f"good.{number}"].to(device) for number in count]
        _load_moments("moment", self.optimiser, state)
        if "scorer" in state and self.objective.token_weights is not None:
            self.scorer = Scorer(len(state["scorer"]), self.objective.token_weights, device)
            self.scorer.w.copy_(state["scorer"])
            _load_moments("scorer-moment", self.scorer.optimiser, state)

    def remaining(self) -> Generator[Step, None, None]:
        """Take the steps that are left, one for each item; the model is without gradients afterwards."""
        try:
            while (record := self.step()) is not None:
                yield record
        finally:
            self.close()

    def close(self) -> None:
        """Leave the model without gradients; the edited weights stay."""
        self.model.requires_grad_(False)
        self.model.zero_grad(set_to_none=True)


def _moments(label: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{label}.{number}.{key}": value
        for number, values in optimiser.state_dict()["state"].items()
        for key, value in values.items()
    }


def _load_moments(label: str, optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith(f"{label}."):
            _, number, key = name.split(".")
            moments.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})


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
