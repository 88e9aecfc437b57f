"""What the relearning attacks share: all parameters are trained a little, and the skill is watched."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.attacks.method import AttackMethod
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    from mastlens.attacks.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Relearning(AttackMethod):
    """Some steps of supervised fine-tuning on ``train``, tested at 0, 1, 2, 4, ... and the last.

    Attributes:
        steps: Steps.
        lr: Learning rate, constant.
        train_batch_size: Problems a step.
    """

    trains: ClassVar = True
    gradients: ClassVar = True
    curve: ClassVar = True
    needs: ClassVar = ("train",)
    uses: ClassVar = {"train": "problems to relearn from"}
    columns: ClassVar = {"variant": "the learning rate", "step": "steps of relearning so far"}

    steps: int = setting("steps, tested at 0, 1, 2, 4 and so on", 64)
    lr: float = setting("learning rate, constant", 1e-5)
    train_batch_size: int = setting("problems a step", 8)

    def __post_init__(self) -> None:
        from mastlens.attacks.relearning import check_training

        check_training(lr=self.lr, steps=self.steps, batch_size=self.train_batch_size)

    def run(self, trial: "Trial") -> None:
        """Train the model and test it along the way."""
        from mastlens.attacks.relearning import curve_points

        points, variant = set(curve_points(self.steps)), f"lr {self.lr:g}"

        def after_step(step: int) -> None:
            if step in points:
                trial.test(variant, step)

        trial.test(variant, baseline=True)
        self.learn(trial, after_step)

    def learn(self, trial: "Trial", after_step: Callable[[int], None]) -> None:
        """Train the trial's model in place, and call ``after_step`` with the number of each step, from 1."""
        from mastlens.attacks.relearning import relearning_steps

        encoded = [one.ids for one in trial.encode(trial.shown["train"], "the --train file")]
        options = {"lr": self.lr, "steps": self.steps, "batch_size": self.train_batch_size, "seed": trial.seed}
        for step in relearning_steps(trial.model, encoded, **options):
            after_step(step.step)
