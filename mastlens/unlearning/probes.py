"""Looking at a model while it is edited: cheap probes, guards that stop in time, and the choice among the steps.

Probes are read on calibration problems, never on those that the gradient sees.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mastlens.decoding.answering import answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.prompts import Prompt
from mastlens.decoding.repetition import repeated_share
from mastlens.errors import BadSetting, MastlensWarning
from mastlens.models.divergence import token_divergence
from mastlens.models.likelihood import sequence_logprobs
from mastlens.problems.encoding import EncodedProblem
from mastlens.problems.reading import Problem, read_problems
from mastlens.unlearning.loop import Unlearner
from mastlens.unlearning.settings import ProbeSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROMPTS = 4  # responses in which repetition is looked for
COLUMNS = ("forget_probe_logprob", "retain_probe_logprob", "retain_probe_kl", "retain_probe_repetition")


@dataclass(frozen=True)
class Look:
    """What one look found.

    Attributes:
        step: After which step; 0 is the source.
        forget_logprob: Token-mean log-probability of the forget solutions.
        retain_logprob: The same of the retain solutions.
        retain_kl: KL(source || edited), mean over the retain solutions' tokens.
        repetition: Share of 4-grams in responses that repeat an earlier one.
        masters: The edited weights, on the CPU.
        scorer: w of the token weights at that step; None without them.
    """

    step: int
    forget_logprob: float
    retain_logprob: float
    retain_kl: float
    repetition: float
    masters: list[Tensor]
    scorer: Tensor | None = None

    @property
    def finite(self) -> bool:
        """Whether all that was seen are numbers."""
        return all(map(math.isfinite, self.numbers))

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """In the order of ``COLUMNS``."""
        return self.forget_logprob, self.retain_logprob, self.retain_kl, self.repetition


class Prober:
    """Looks at a run.

    Args:
        run: The run.
        settings: What to look at.
        tokenizer: Of the model.
        encode: Problems and what to call them in a message, to token ids.
    """

    def __init__(
        self,
        run: Unlearner,
        settings: ProbeSettings,
        tokenizer: "PreTrainedTokenizerBase",
        encode: Callable[[Sequence[Problem], str], list[EncodedProblem]],
    ):
        self.run, self.settings, self.tokenizer = run, settings, tokenizer
        self.forget, self.retain = (
            encode(read_problems(path)[: settings.items], str(path)) for path in (settings.forget, settings.retain)
        )
        self.looks: list[Look] = []
        self.stopped = ""
        """Why a guard stopped the run; empty while none did."""
        run.passes.remember_originals()

    def begin(self) -> None:
        """Look at the source, before the first step.

        Raises:
            MastlensError: If the source itself is beyond a guard.
        """
        look = self._measure()
        if broken := self._broken(look):
            raise BadSetting(f"The source itself is beyond a guard: {broken}. Raise it, or probe other problems.")
        self.looks = [look]

    def _broken(self, look: Look) -> str:
        """Return which guards a look breaks; what is not a number breaks them."""
        limits = {
            "KL(source || edited) on retain": (look.retain_kl, self.settings.max_kl),
            "the share of repeated 4-grams": (look.repetition, self.settings.max_repetition),
        }
        broken = [f"{name} is {value:.3g}, above {limit:g}" for name, (value, limit) in limits.items() if value > limit]
        if not look.finite:
            broken.append("a probe is not a number")
        return " and ".join(broken)

    def after(self, step: int) -> dict[str, float]:
        """Return the probes after a step, NaN where it is not looked at; stops the run at a guard."""
        if step % self.settings.every and step != self.run.steps:
            return dict.fromkeys(COLUMNS, math.nan)
        look = self._measure()
        if broken := self._broken(look):
            self.stopped = f"Stopped after step {step}: {broken}."
        elif self.settings.choose == "pareto":
            self.looks = non_dominated([*self.looks, look])
        else:
            self.looks = [look]
        return dict(zip(COLUMNS, look.numbers, strict=True))

    def _measure(self) -> Look:
        model, passes = self.run.model, self.run.passes

        means = []
        for side in (self.forget, self.retain):
            sums, counts = sequence_logprobs(model, side)
            means.append(float(sums.sum() / counts.sum()))
        edited = self.run.masters.tensors()
        with passes.before():
            apart = token_divergence(model, edited, self.retain)
        prompts = [Prompt(str(place), ids.prompt) for place, ids in enumerate(self.retain[:_PROMPTS])]
        answered = answer(HuggingFaceEngine(model, self.tokenizer), prompts, Decoding(self.settings.new_tokens))
        shares = [
            repeated_share(self.tokenizer(one.response.text, add_special_tokens=False)["input_ids"]) for one in answered
        ]
        masters = [parameter.detach().to("cpu", copy=True) for parameter in self.run.masters.parameters]
        scorer = None if self.run.scorer is None else self.run.scorer.w.detach().to("cpu", copy=True)
        return Look(
            step=self.run.held,
            forget_logprob=means[0],
            retain_logprob=means[1],
            retain_kl=float(apart["kl"].sum() / apart["tokens"].sum()),
            repetition=sum(shares) / len(shares),
            masters=masters,
            scorer=scorer,
        )

    def state(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Return the kept looks as JSON and tensors."""
        tensors = {f"look.{look.step}.{i}": t for look in self.looks for i, t in enumerate(look.masters)}
        tensors |= {f"look.{look.step}.scorer": look.scorer for look in self.looks if look.scorer is not None}
        return [{k: v for k, v in vars(look).items() if k not in ("masters", "scorer")} for look in self.looks], tensors

    def load_state(self, looks: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Set the kept looks to what ``state`` returned."""
        count = len(self.run.masters.parameters)
        self.looks = [
            Look(
                **look,
                masters=[tensors[f"look.{look['step']}.{i}"] for i in range(count)],
                scorer=tensors.get(f"look.{look['step']}.scorer"),
            )
            for look in looks
        ]


def non_dominated(looks: Sequence[Look]) -> list[Look]:
    """Return the looks that no other equals or beats both in forgetting and in retain KL, in their order."""

    def beaten(look: Look) -> bool:
        return any(
            other.forget_logprob <= look.forget_logprob
            and other.retain_kl <= look.retain_kl
            and (other.forget_logprob, other.retain_kl) != (look.forget_logprob, look.retain_kl)
            for other in looks
        )

    return [look for look in looks if not beaten(look)]


def knee(looks: Sequence[Look]) -> Look:
    """Return the look that lies furthest on the good side of the line between the extremes of a Pareto front.

    Both axes are scaled to the front's range (Satopaa et al. 2011, "Kneedle"). The source, step 0, is an extreme but
    no choice; of equal ones the latest is taken, which forgot more.

    Args:
        looks: A front, in the order of its steps, with at least one step after the source.
    """
    forgetting = [-look.forget_logprob for look in looks]
    costs = [look.retain_kl for look in looks]

    def scaled(values: Sequence[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.0 for value in values]

    gains = [gain - cost for gain, cost in zip(scaled(forgetting), scaled(costs), strict=True)]
    choices = [number for number, look in enumerate(looks) if look.step > 0]
    return looks[max(choices, key=lambda number: (gains[number], number))]


def choose_step(prober: Prober) -> int:
    """Put the chosen step's weights into the model and return its number; say so where a guard decided."""
    run = prober.run
    edited = [look for look in prober.looks if look.step > 0]
    if prober.settings.choose == "last" and not prober.stopped:
        return run.held
    if not edited:
        taken = prober.looks[0]
    else:
        taken = knee(prober.looks) if prober.settings.choose == "pareto" else prober.looks[-1]
    run.masters.restore(taken.masters)
    if run.scorer is not None and taken.scorer is not None:
        with torch.no_grad():
            run.scorer.w.copy_(taken.scorer)
    if prober.stopped:
        warnings.warn(
            f"{prober.stopped} The edit holds step {taken.step}, inside the guards.", MastlensWarning, stacklevel=2
        )
    elif not edited:
        warnings.warn(
            "No step is better than the source in anything: the edit is empty.", MastlensWarning, stacklevel=2
        )
    return taken.step
