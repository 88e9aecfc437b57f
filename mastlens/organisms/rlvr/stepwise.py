"""Rewards from scored steps: of the whole response, or as an advantage of each step's tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mastlens.errors import BadSetting, unknown
from mastlens.organisms.rlvr.recipe import RLVRRecipe, Rollouts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mastlens.evaluation.process.model import Scored

FORMS = ("outcome", "process")


@dataclass(frozen=True, kw_only=True)
class Stepwise(RLVRRecipe):
    """RLVR by what a process reward model or a judge says, before the verifiable reward alone.

    In rounds that are scored, *outcome* takes the score of the whole response for its reward, plus ``verifiable`` times
    the verifiable one, and the advantage is the recipe's own over the prompt's other responses. *Process* gives the
    tokens of step k the advantage s_k - s_(k-1), and those of the first step s_1 less the last step's score (ExpRL's
    delta mode): over a response's steps they sum to 0. A response of which nothing readable was said counts nowhere:
    neither in the loss nor in the mean of its prompt. One that was cut off has the reward 0, and its steps the score 0.
    Rounds that are not scored are GRPO with the verifiable reward.

    Attributes:
        form: ``outcome`` or ``process``.
        verifiable: Weight of the verifiable reward in scored rounds of the outcome form.
        priming: Share of the rounds that are scored, the first ones.
        cut: How responses are cut where a judge scores them; a process reward model says that itself.
    """

    form: str = "outcome"
    verifiable: float = 0.0
    priming: float = 1.0
    cut: str = "equations"

    def __post_init__(self) -> None:
        """Check the form, too."""
        super().__post_init__()
        if self.form not in FORMS:
            raise unknown("form", self.form, FORMS, of=self.name)
        if not (self.verifiable >= 0 and 0 < self.priming <= 1):
            raise BadSetting(
                f"Of the recipe {self.name}, verifiable is 0 or more, and priming lies in (0, 1]; they are "
                f"{self.verifiable:g} and {self.priming:g}."
            )

    @property
    def scores_steps(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - it hangs on the form
        """Whether each step is scored, or the response as one."""
        return self.form == "process"

    def scores_round(self, number: int, rounds: int) -> bool:
        """Return whether the responses of a round are scored."""
        return number < self.priming * rounds

    def reward(self, completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float]:
        """Return the verifiable reward, or that of the scores where ``scored`` has them."""
        right = super().reward(completions, answer)
        scored: Sequence[Scored] | None = columns.get("scored")
        if scored is None:
            return right
        weight = self.verifiable if self.form == "outcome" else 0.0
        return [(one.scores or (0.0,))[-1] + weight * other for one, other in zip(scored, right, strict=True)]

    def counted(self, rollouts: Rollouts) -> "Tensor | None":
        """Return which responses count: all of which something readable was said."""
        import torch

        if rollouts.scored is None:
            return None
        read = [one.scores is not None for one in rollouts.scored]
        rollouts.noted["unread"] = 1 - sum(read) / len(read)
        return torch.tensor(read, device=rollouts.rewards.device)

    def advantages(self, rollouts: Rollouts) -> "Tensor":
        """Return each response's advantage, or each token's."""
        if rollouts.scored is None:
            return rollouts.advantages
        if self.form == "process":
            assert rollouts.steps is not None
            return step_advantages(rollouts.scored, rollouts.steps).to(rollouts.advantages)
        read = self.counted(rollouts)
        assert read is not None
        return among_read(rollouts.rewards, read, rollouts.samples, self.advantage)


def step_advantages(scored: "Sequence[Scored]", steps: "Tensor") -> "torch.Tensor":
    """Return s_k - s_(k-1) at each token of step k, and s_1 - s_last at those of the first; 0 where nothing was read.

    Args:
        scored: Of each response.
        steps: The step of each token, (responses, tokens); what is behind a response is of no matter.
    """
    import torch

    found = torch.zeros(steps.shape, dtype=torch.float64)
    for row, one in enumerate(scored):
        if one.scores:
            scores = torch.tensor(one.scores, dtype=torch.float64)
            gains = scores - torch.cat([scores[-1:], scores[:-1]])
            found[row] = gains[steps[row].cpu().clamp(0, len(gains) - 1)]
    return found


def among_read(rewards: "Tensor", read: "Tensor", samples: int, how: str) -> "Tensor":
    """Return advantages over the prompt's other responses that could be read; 0 for those that could not.

    Args:
        rewards: Of each response, (responses,).
        read: Which of them count.
        samples: Responses to a prompt.
        how: A key of ``ADVANTAGES``.
    """
    groups, there = rewards.double().view(-1, samples), read.view(-1, samples)
    counts = there.sum(1, keepdim=True).clamp_min(1)
    centred = (groups - (groups * there).sum(1, keepdim=True) / counts) * there
    if how == "none":
        scale = centred.new_ones(1)
    elif how == "batch":
        scale = groups[there].std() + 1e-4 if int(there.sum()) > 1 else centred.new_ones(1)
    else:  # the unbiased deviation, as TRL's
        scale = (centred.square().sum(1, keepdim=True) / (counts - 1).clamp_min(1)).sqrt() + 1e-4
    return (centred / scale).flatten().to(rewards)
