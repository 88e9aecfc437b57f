"""Membership inference by the loss beside how well the text compresses."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.evaluation.metrics.metric import MembershipMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading


@dataclass(frozen=True, kw_only=True)
class MiaZlib(MembershipMetric):
    """Zlib: the loss over the compressed length, so that plain text is not taken for known text."""

    name: ClassVar[str] = "mia-zlib"
    summary: ClassVar[str] = "membership inference by the loss over the compressed length (zlib)"
    formula: ClassVar[str] = "score: NLL a token of the answer / bytes of it after zlib; AUC of holdout over forget"
    source: ClassVar[str] = "Carlini et al. 2021, arXiv:2012.07805"
    differs: ClassVar[str] = "white space of the answer where a tokenizer cleans it up on decoding"

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the score of each answer."""
        import numpy as np

        return {"": Part(read.losses / np.array([len(zlib.compress(t.encode("utf-8"))) for t in read.encoded.decoded]))}
