"""RWKU: real people."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mastlens.evaluation.suites.sources import Place, Source
from mastlens.evaluation.suites.suite import SplitFile, Suite, text_of

_PROBES = {
    "forget-fill": ("forget_level1", "fill in the blank"),
    "forget-qa": ("forget_level2", "questions"),
    "forget-adversarial": ("forget_level3", "adversarial probes"),
    "retain-fill": ("neighbor_level1", "fill in the blank, of neighbours"),
    "retain-qa": ("neighbor_level2", "questions, of neighbours"),
}
_TEXTS = {"forget-text": ("mia_forget", "forget_mia"), "holdout-text": ("mia_retain", "retain_mia")}


@dataclass(frozen=True, kw_only=True)
class Rwku(Suite):
    """Real-World Knowledge Unlearning."""

    name: ClassVar[str] = "rwku"
    summary: ClassVar[str] = "what a pre-trained model knows of 200 famous people, and of their neighbours"
    hub: ClassVar[tuple[str, ...]] = ("jinzhuoran/RWKU",)
    licence: ClassVar[str] = "CC-BY-4.0"
    size: ClassVar[str] = "13,131 probes: 3,268 to fill in, 2,879 questions, 6,984 adversarial; neighbours beside"
    asks: ClassVar[str] = "rouge mia-loss min-k min-k++ mia-zlib"
    source: ClassVar[str] = "Jin et al. 2024, arXiv:2406.10890"
    note: ClassVar[str] = (
        "It has no retain text, and what membership is held against are texts about other people, not a holdout of the "
        "same: read these areas beside those of the model before."
    )

    def read(self, source: Source, part: str) -> Iterator[SplitFile]:
        """Yield the probes by kind, and the texts of the membership sets where they are there."""
        for name, (table, _) in _PROBES.items():
            rows = source.table(Place(table, "test", (f"All/{table}", table)))
            yield SplitFile(
                name,
                [
                    {
                        "problem": text_of(row, "query"),
                        "solution": text_of(row, "answer"),
                        "answer": text_of(row, "answer"),
                        "subject": str(row.record.get("type") or ""),
                        "person": text_of(row, "subject"),
                    }
                    for row in rows
                ],
            )
        for name, (table, file) in _TEXTS.items():
            rows = source.optional_table(Place(table, "test", (f"All/{file}", file)))
            if rows is not None:
                yield SplitFile(name, [{"text": text_of(row, "text")} for row in rows], "--metrics-texts")
