"""``soft-prompt``: vectors before the prompt, trained until the model answers; its weights stay as they are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.attacks.methods.relearn import Relearning
from mastlens.errors import BadSetting
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    from mastlens.attacks.trials import Trial


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(Relearning):
    """Trains embeddings before the prompt on ``train``; what they bring back on other problems was there.

    Attributes:
        lr: Learning rate, constant.
        vectors: How many embeddings.
    """

    name: ClassVar = "soft-prompt"
    summary: ClassVar = "train embeddings before the prompt on --train; no weight changes"
    source: ClassVar = "embedding-space attacks, arXiv:2402.09063; prompt tuning, arXiv:2104.08691"
    trains: ClassVar = False
    gradients: ClassVar = True
    uses: ClassVar = {"train": "problems to train a soft prompt on"}
    columns: ClassVar = {"variant": "plain, or the vectors and the learning rate", "step": "steps of training so far"}

    lr: float = setting("learning rate, constant", 1e-2)
    vectors: int = setting("embeddings before the prompt", 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vectors < 1:
            raise BadSetting(f"A soft prompt has at least one embedding (--vectors), not {self.vectors}.")

    def run(self, trial: "Trial") -> None:
        """Test the model as it is, and along the training of the vectors before its prompts."""
        from mastlens.attacks.relearning import curve_points
        from mastlens.attacks.softening import Softening

        soft = Softening(trial, self.vectors)
        points, variant = set(curve_points(self.steps)), f"{self.vectors} vectors, lr {self.lr:g}"
        trial.test(variant, baseline=True)
        given = {"lr": self.lr, "steps": self.steps, "batch_size": self.train_batch_size}
        with soft.active():
            for step in soft.train(trial.shown["train"], **given):
                if step in points:
                    trial.test(variant, step, prompt=soft.prompt)
