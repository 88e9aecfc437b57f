"""``relearn-retain``: fine-tuning on harmless problems, which teach nothing of what was forgotten."""

from dataclasses import dataclass
from typing import ClassVar

from mastlens.attacks.methods.relearn import Relearning


@dataclass(frozen=True, kw_only=True)
class RelearnRetain(Relearning):
    """Fine-tunes on all of ``train``, which is benign."""

    name: ClassVar = "relearn-retain"
    summary: ClassVar = "fine-tune on harmless problems (--train)"
    source: ClassVar = "benign relearning, arXiv:2406.13356"
