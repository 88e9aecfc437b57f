"""What an RLVR recipe is: reward, advantage, loss, adapters and source, and the places where one's own code goes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mastlens.errors import BadSetting, unknown
from mastlens.organisms.recipes.qwen2 import Recipe

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.evaluation.process.model import Scored
    from mastlens.organisms.problems import SyntheticProblem
    from mastlens.organisms.rlvr.record import Recorder
    from mastlens.organisms.rlvr.scoring import StepScorer

ADVANTAGES = {
    "group": "(reward - mean of the prompt's responses) / (their standard deviation + 1e-4)",
    "batch": "(reward - mean of the prompt's responses) / (the batch's standard deviation + 1e-4)",
    "none": "reward - mean of the prompt's responses",
}
"""How rewards become advantages; the names are TRL's (``scale_rewards``)."""

LOSSES = {
    "grpo": "mean over a response's tokens, then over responses",
    "bnpo": "mean over the tokens of what one backward pass sees",
    "dapo": "mean over all tokens of the batch",
    "dr_grpo": "sum over all tokens, over responses times the longest length allowed",
}
"""How tokens' clipped losses become one; the names are TRL's (``loss_type``)."""


@dataclass(frozen=True)
class Rollouts:
    """What was sampled for one round of RLVR: the whole batch, and never a part of it.

    Attributes:
        rewards: Of each response, (responses,); those to one prompt stand side by side.
        advantages: Of each response, (responses,), as the recipe's ``advantage`` says.
        mask: 1 where a token counts in the loss, (responses, tokens).
        samples: Responses to a prompt.
        round: Rounds before this one.
        logprobs: Of each token under the policy that sampled it, (responses, tokens), in nats; None unless the recipe
            ``reads_policy``.
        entropies: Of the next-token distribution there, likewise.
        state: What the recipe remembers from round to round; empty in the first.
        noted: What the recipe wants in the training record: name to number.
        scored: What was said of each response's steps; None in a round that is not scored.
        steps: The step in which each token begins, (responses, tokens); None likewise.
    """

    rewards: "Tensor"
    advantages: "Tensor"
    mask: "Tensor"
    samples: int
    round: int
    logprobs: "Tensor | None" = None
    entropies: "Tensor | None" = None
    state: dict[str, Any] = field(default_factory=dict)
    noted: dict[str, float] = field(default_factory=dict)
    scored: "Sequence[Scored] | None" = None
    steps: "Tensor | None" = None


@dataclass(frozen=True)
class Run:
    """One RLVR stage that is to be trained.

    Attributes:
        stage: Its name: ``rlvr`` or ``rlvr-retain``.
        model: The SFT model, which is trained in place.
        tokenizer: Its tokenizer.
        problems: What is asked, in the order in which it is.
        numbers: The lineage's numbers: prompts and samples a round, longest response, learning rate.
        seed: Of sampling.
        lineage_seed: Of the build, which draws the calibration problems.
        recorder: Keeps what happens, by step.
        folder: Of the unfinished lineage: a recipe may keep there what it has done so far.
        saved: Step to the folder of the checkpoint that is kept after it.
        save: Writes the model into such a folder.
        match: The card of the lineage whose accuracy is to be matched; None where nothing is.
        scorer: What scores the steps of responses, for a recipe that asks for it.
        sft: The SFT model, where the run begins with another; None where ``model`` is it.
        kept: Folder for the checkpoint that a run which was stopped goes on from; None for no such checkpoint.
    """

    stage: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    problems: "Sequence[SyntheticProblem]"
    numbers: Recipe
    seed: int
    lineage_seed: int
    recorder: "Recorder"
    folder: Path
    saved: Mapping[int, Path]
    save: Callable[["PreTrainedModel", Path], None]
    match: Mapping[str, Any] | None = None
    scorer: "StepScorer | None" = None
    sft: "PreTrainedModel | None" = None
    kept: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RLVRRecipe:
    """How an SFT model is reinforced.

    The numbers that a recipe leaves open (prompts and samples a round, learning rate, longest response) are the
    lineage's, so that recipes are compared at the same budget of sampled responses. One's own code goes into ``reward``
    and ``advantages``, which a subclass overrides.

    Attributes:
        name: What it is called.
        summary: What it does, in one line.
        source: The paper, and where in it.
        advantage: How rewards become advantages, a key of ``ADVANTAGES``.
        loss: How tokens' losses become one, a key of ``LOSSES``.
        clip_low: The probability ratio is clipped at 1 less this.
        clip_high: And at 1 and this.
        dual_clip: Where the ratio of a response with negative advantage is clipped from above; 0 for nowhere.
        beta: Weight of the KL divergence to SFT, in its k3 form; 0 for none, and then none is computed.
        unbiased_kl: Whether that term is multiplied by the probability ratio, which makes its gradient that of the
            reverse KL divergence (arXiv:2512.02556, TRL's default), or taken as first published (arXiv:2402.03300).
        updates: Optimiser steps on each round of responses. With one, the policy that is trained is the one that
            sampled: every ratio is 1, and no clipping does anything.
        overlong: Share of the longest response at the end of which a linear punishment of up to -1 sets in; 0 for none.
        adapters: Rank of LoRA adapters on all linear layers of the blocks, merged at the end; 0 trains all parameters.
        adapter_alpha: Of the adapters: their product is scaled by this over the rank.
        lr: Learning rate; None for the lineage's.
        patience: Rounds without one prompt whose responses earn different rewards, after which training is given up.
    """

    name: str
    summary: str
    source: str
    advantage: str = "group"
    loss: str = "dapo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    beta: float = 0.0
    unbiased_kl: bool = True
    updates: int = 1
    overlong: float = 0.0
    adapters: int = 0
    adapter_alpha: int = 32
    lr: float | None = None
    patience: int = 20

    reads_policy: ClassVar[bool] = False
    """Whether ``advantages`` needs each token's log-probability and entropy: one more forward pass a round."""

    needs_match: ClassVar[bool] = False
    """Whether it needs a lineage whose accuracy it is to reach."""

    scores_steps: ClassVar[bool] = True
    """Whether each step is scored, or the response as one."""

    scored_by: ClassVar[str] = ""
    """What scores the steps of its responses: ``prm`` (a process reward model), ``judge``, or nothing."""

    def __post_init__(self) -> None:
        """Check what is said.

        Raises:
            MastlensError: If a word is not one of its kind, or a number is out of range.
        """
        if self.advantage not in ADVANTAGES:
            raise unknown("advantage", self.advantage, ADVANTAGES, of=self.name)
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES, of=self.name)
        for name, right, said in (
            ("clip_low", 0 < self.clip_low < 1, "between 0 and 1"),
            ("clip_high", self.clip_high > 0, "above 0"),
            ("dual_clip", self.dual_clip == 0 or self.dual_clip > 1 + self.clip_high, "0, or above 1 + clip_high"),
            ("beta", self.beta >= 0, "0 or more"),
            ("updates", self.updates >= 1, "1 or more"),
            ("overlong", 0 <= self.overlong < 1, "0 or more and below 1"),
            ("adapters", self.adapters >= 0, "0 or more"),
            ("adapter_alpha", self.adapter_alpha > 0, "above 0"),
            ("lr", self.lr is None or self.lr > 0, "above 0"),
            ("patience", self.patience >= 1, "1 or more"),
        ):
            if not right:
                raise BadSetting(f"{name} of the recipe {self.name} is {said}, it is {getattr(self, name)}.")

    def reward(self, completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float]:
        r"""Return the reward of each response; by default 1 where the last ``\boxed{}`` holds the answer, else 0.

        Args:
            completions: The responses.
            answer: The right answer of each.
            **columns: What else TRL hands to a reward: ``prompts``, ``completion_ids`` and more; and ``scored``, what
                was said of each response's steps, in a round that is scored.
        """
        from mastlens.organisms import posttraining

        return posttraining.boxed_reward(completions=completions, answer=answer)

    def scores_round(self, number: int, rounds: int) -> bool:
        """Return whether the steps of a round's responses are scored.

        Args:
            number: Rounds before it.
            rounds: Of the run.
        """
        return False

    def counted(self, rollouts: Rollouts) -> "Tensor | None":
        """Return which responses count in the loss, (responses,), as booleans; None for all."""
        return None

    def advantages(self, rollouts: Rollouts) -> "Tensor":
        """Return the advantage of each response, (responses,), or of each of its tokens, (responses, tokens).

        Args:
            rollouts: The whole round.
        """
        return rollouts.advantages

    def steps(self, count: int, numbers: Recipe) -> int:
        """Return the optimiser steps that so many prompts make, each asked once."""
        return count // numbers.grpo_prompts * self.updates

    def train(self, run: Run) -> Mapping[str, Any]:
        """Train the model of a run in place, by TRL's ``GRPOTrainer``.

        Returns:
            What the card says of the stage: at least ``steps``.
        """
        from mastlens.organisms.rlvr.trainer import train_by_grpo

        return train_by_grpo(self, run)
