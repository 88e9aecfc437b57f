"""``relearn-forget``: fine-tuning on a part of what was forgotten, tested on the rest of it too."""

from dataclasses import dataclass
from typing import ClassVar

from mastlens.attacks.method import Problems
from mastlens.attacks.methods.relearn import Relearning

HELD_OUT = "train-held-out"
"""The split of those ``train`` problems that are not trained on."""


@dataclass(frozen=True, kw_only=True)
class RelearnForget(Relearning):
    """Fine-tunes on one half of ``train`` and tests the other half too, as the split ``train-held-out``."""

    name: ClassVar = "relearn-forget"
    summary: ClassVar = "fine-tune on half of what was forgotten (--train), and test the other half too"
    source: ClassVar = "relearning from accessible facts, arXiv:2410.08827"

    def hold_out(self, has: Problems, seed: int) -> tuple[Problems, Problems]:
        """Return one half of ``train`` to train on, and the other to test."""
        from mastlens.attacks.relearning import halves

        trained, other = halves(has["train"], seed)
        return {**has, "train": trained}, {HELD_OUT: other}
