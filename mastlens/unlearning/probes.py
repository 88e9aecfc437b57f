"""Looking at a model while it is edited: cheap probes, guards that stop in time, and the choice among the steps.

Probes are read on calibration problems, never on those that the gradient sees.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mastlens.decoding.generation import generate
from mastlens.decoding.repetition import repeated_share
from mastlens.divergence import token_divergence
from mastlens.errors import MastlensError, MastlensWarning, unknown
from mastlens.likelihood import sequence_logprobs
from mastlens.problems import EncodedProblem, Problem, read_problems
from mastlens.unlearning.loop import Unlearner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHOICES = ("last", "pareto")
_PROMPTS = 4  # responses in which repetition is looked for
COLUMNS = ("forget_probe_logprob", "retain_probe_logprob", "retain_probe_kl", "retain_probe_repetition")


@dataclass(frozen=True)
class ProbeSettings:
    """What to look at and when to stop.

    Attributes:
        forget: File of calibration problems to forget.
        retain: File of calibration problems to keep.
        every: Steps between two looks.
        items: Problems of each side, the first ones of the file.
        max_kl: Stop when KL(source || edited) on the retain problems is above this, in nats a token.
        max_repetition: Stop when more than this share of 4-grams in responses repeats an earlier one.
        choose: ``last``: the last step inside the guards; ``pareto``: of the steps that no other beats in both
            forgetting and retain KL, the one that stands out most from the line between the extremes.
        new_tokens: Length of the responses in which repetition is looked for.
    """

    forget: str | os.PathLike[str]
    retain: str | os.PathLike[str]
    every: int = 10
    items: int = 32
    max_kl: float = 1.0
    max_repetition: float = 0.5
    choose: str = "last"
    new_tokens: int = 48

    def __post_init__(self):
        if self.choose not in CHOICES:
            raise unknown("choice of step", self.choose, CHOICES)
        if self.every < 1 or self.items < 1 or self.new_tokens < 1:
            raise MastlensError("Probes look every so many steps at so many items: each at least 1.")
        if not (self.max_kl > 0 and self.max_repetition > 0):
            raise MastlensError("The guards (max_kl, max_repetition) must be above 0; use inf for no guard.")

    @property
    def files(self) -> dict[str, str | os.PathLike[str]]:
        """Role to file."""
        return {"probe_forget": self.forget, "probe_retain": self.retain}

    def settings(self) -> dict[str, Any]:
        """Return what decides the result, without the files, whose contents are hashed."""
        return {key: value for key, value in asdict(self).items() if key not in ("forget", "retain")}


@dataclass(frozen=True)
class Look:
    """What one look found.

    Attributes:
        step: After which step; 0 is the source.
        forget_logprob: Token-mean log-probability of the forget solutions.
        retain_logprob: The same of the retain solutions.
        retain_kl: KL(source || edited), mean over the retain solutions' tokens.
        repetition: Share of 4-grams in responses that repeat an earlier one.
        masters: The edited weights.
    """

    step: int
    forget_logprob: float
    retain_logprob: float
    retain_kl: float
    repetition: float
    masters: list[Tensor]

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
        self.stopped = False
        run.passes.remember_originals()

    def look(self) -> Look:
        """Look now and keep it, if it may still be chosen."""
        found = self._measure()
        if self.settings.choose == "pareto":
            self.looks = non_dominated([*self.looks, found])
        else:
            self.looks = [found]
        return found

    def after(self, step: int) -> dict[str, float]:
        """Return the probes after a step, NaN where it is not looked at; stops the run at a guard."""
        if step % self.settings.every and step != self.run.steps:
            return dict.fromkeys(COLUMNS, math.nan)
        kept = list(self.looks)
        found = self.look()
        limits = {
            "KL(source || edited) on retain": (found.retain_kl, self.settings.max_kl),
            "the share of repeated 4-grams": (found.repetition, self.settings.max_repetition),
        }
        broken = [f"{name} is {value:.3g}, above {limit:g}" for name, (value, limit) in limits.items() if value > limit]
        if broken:
            self.stopped, self.looks = True, kept
            self.run.masters.restore(kept[-1].masters)
            warnings.warn(
                f"Stopped after step {step}: {' and '.join(broken)}. The edit holds step {kept[-1].step}, the last "
                "look inside the guards.",
                MastlensWarning,
                stacklevel=2,
            )
        return dict(zip(COLUMNS, found.numbers, strict=True))

    def _measure(self) -> Look:
        model, passes = self.run.model, self.run.passes

        means = []
        for side in (self.forget, self.retain):
            sums, counts = sequence_logprobs(model, side)
            means.append(float(sums.sum() / counts.sum()))
        edited = self.run.masters.tensors()
        with passes.before():
            apart = token_divergence(model, edited, self.retain)
        prompts = [problem.prompt for problem in self.retain[:_PROMPTS]]
        responses = generate(model, self.tokenizer, prompts, max_new_tokens=self.settings.new_tokens)
        shares = [
            repeated_share(self.tokenizer(response.text, add_special_tokens=False)["input_ids"])
            for response in responses
        ]
        masters = [parameter.detach().clone() for parameter in self.run.masters.parameters]
        return Look(
            self.run.done,
            means[0],
            means[1],
            float(apart["kl"].sum() / apart["tokens"].sum()),
            sum(shares) / len(shares),
            masters,
        )

    def state(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Return the kept looks as JSON and tensors."""
        tensors = {f"look.{look.step}.{i}": t for look in self.looks for i, t in enumerate(look.masters)}
        return [{k: v for k, v in vars(look).items() if k != "masters"} for look in self.looks], tensors

    def load_state(self, looks: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Set the kept looks to what ``state`` returned."""
        count = len(self.run.masters.parameters)
        device = self.run.model.device
        self.looks = [
            Look(**look, masters=[tensors[f"look.{look['step']}.{i}"].to(device) for i in range(count)])
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

    Both axes are scaled to the front's range; of equal ones the earliest (Satopaa et al. 2011, "Kneedle").
    """
    forgetting = [-look.forget_logprob for look in looks]
    costs = [look.retain_kl for look in looks]

    def scaled(values: Sequence[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.0 for value in values]

    gains = [gain - cost for gain, cost in zip(scaled(forgetting), scaled(costs), strict=True)]
    return looks[gains.index(max(gains))]


def choose_step(prober: Prober) -> int:
    """Put the chosen step's weights into the model and return its number."""
    run = prober.run
    if prober.settings.choose == "last" and not prober.stopped:
        return run.done
    taken = knee(prober.looks) if prober.settings.choose == "pareto" else prober.looks[-1]
    with torch.no_grad():
        run.masters.restore(taken.masters)
    return taken.step
