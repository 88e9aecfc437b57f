"""``relearn-rlvr``: rewards for right answers bring the skill back without a solution ever being shown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.attacks.methods.relearn import Relearning
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    from mastlens.attacks.trials import Trial


@dataclass(frozen=True, kw_only=True)
class RelearnRLVR(Relearning):
    """Rewards right answers to ``train`` by GRPO, solutions unseen; needs the extra ``train``.

    Attributes:
        lr: Learning rate, constant.
    """

    name: ClassVar = "relearn-rlvr"
    summary: ClassVar = "reward right answers to --train by GRPO, solutions unseen"
    source: ClassVar = "GRPO, arXiv:2402.03300, with TRL's trainer"

    lr: float = setting("learning rate, constant", 1e-6)

    def learn(self, trial: "Trial", after_step: Callable[[int], None]) -> None:
        """Run GRPO on the trial's model in place."""
        from mastlens.attacks.reinforcing import reinforce

        reinforce(
            trial.model,
            trial.tokenizer,
            trial.shown["train"],
            lr=self.lr,
            steps=self.steps,
            batch_size=self.train_batch_size,
            max_new_tokens=trial.max_new_tokens,
            grader=trial.grader,
            chat_template=trial.chat_template,
            seed=trial.seed,
            after_step=after_step,
        )
