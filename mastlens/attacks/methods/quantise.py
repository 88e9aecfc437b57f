"""``quantise``: fewer bits a weight; small edits may fall below a bin's width and be undone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.attacks.formats import DEFAULT_FORMATS, FORMATS, find_format
from mastlens.attacks.method import AttackMethod
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from mastlens.attacks.trials import Trial
    from mastlens.checkpoints.checkpoint import Checkpoint

FULL = "unquantised"
"""The variant that is no attack."""


def _formats() -> list[str]:
    others = [name for name in FORMATS if name not in DEFAULT_FORMATS]
    return [f"by default {', '.join(DEFAULT_FORMATS)}; also {', '.join(others)}"]


@dataclass(frozen=True, kw_only=True)
class Quantise(AttackMethod):
    """Rounds the weights to each format in turn.

    Attributes:
        formats: Formats, keys of ``FORMATS``.
        embeddings: Whether token embeddings and output head are rounded too; bitsandbytes leaves them as they are.
    """

    name: ClassVar = "quantise"
    summary: ClassVar = "round the weights to fewer bits"
    source: ClassVar = "arXiv:2410.16454"
    columns: ClassVar = {
        "variant": f"the format, or {FULL}",
        "format": "the format",
        "entries": "entries of the tensor",
        "edited": "entries that the edit changed",
        "code_changed": "share of the edited entries whose code differs, each side with its own scales",
        "code_changed_source_scales": "the same with the source's scales on both sides",
        "code_changed_expected": "that share where entries lie anywhere in their bins with equal chance",
        "change_per_bin": "median of change / width of the source's bin, over the edited entries",
        "kept_along_edit": "share of the edit that quantisation keeps, along its direction",
        "noise": "norm of the rounding error / norm of the edit",
    }

    formats: Sequence[str] = setting(
        "formats", DEFAULT_FORMATS, flag="--format", metavar="NAME", shown_default="", listing=_formats
    )
    embeddings: bool = setting("also token embeddings and output head", False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", tuple(find_format(name).name for name in self.formats))

    def run(self, trial: "Trial") -> None:
        """Test the model rounded to every format; its weights come back each time."""
        from mastlens.attacks.codes import linear_weights, quantised_weights
        from mastlens.models.weights import named_weights, swapped

        trial.test(FULL, baseline=True)
        matrices = linear_weights(trial.checkpoint, embeddings=self.embeddings)
        for name in self.formats:
            weights = named_weights(trial.model, list(matrices))
            with swapped(trial.model, quantised_weights(weights, matrices, find_format(name))):
                trial.test(name)

    def describe_edit(self, checkpoint: "Checkpoint", after: "Mapping[str, Tensor]") -> "pd.DataFrame":
        """Return which quantised codes the edit changes, as ``code_changes``."""
        from mastlens.attacks.codes import predict_codes

        return predict_codes(
            checkpoint, after, [find_format(name) for name in self.formats], embeddings=self.embeddings
        )
