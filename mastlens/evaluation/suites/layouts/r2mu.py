"""R2MU: what a reasoning model unlearns, what it keeps, and what it is asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mastlens.evaluation.suites.sources import Place, Source
from mastlens.evaluation.suites.suite import SplitFile, Suite, choice_of, text_of

_TEXTS = {
    "forget-text": (Place("wmdp-bio-forget-corpus", "train", ("forget", "bio_remove_dataset")), "unlearn --forget"),
    "retain-text": (Place("wikitext-2-raw-v1", "test", ("retain", "wikitext")), "unlearn --retain"),
}
_PROBLEMS = {
    "cot": (Place("limo", "train", ("limo",)), "unlearn --cot"),
    "maths": (Place("math500", "test", ("math500/test", "MATH-500/test")), "--split"),
}
_CHOICES = {
    "forget-choices": Place("wmdp-bio", "test", ("wmdp-bio/test",)),
    "utility-choices": Place("mmlu", "test", ("mmlu/test",)),
}


@dataclass(frozen=True, kw_only=True)
class R2mu(Suite):
    """Reasoning-aware representation misdirection."""

    name: ClassVar[str] = "r2mu"
    summary: ClassVar[str] = "hazardous biology in answers and in traces, beside mathematics and general knowledge"
    hub: ClassVar[tuple[str, ...]] = (
        "cais/wmdp",
        "GAIR/LIMO",
        "HuggingFaceH4/MATH-500",
        "cais/mmlu",
        "Salesforce/wikitext",
    )
    licence: ClassVar[str] = "of each dataset its own, as its card says"
    size: ClassVar[str] = "1,273 questions; 24,441 texts to forget, of which the released code reads 2,000"
    asks: ClassVar[str] = "`choices` (FA-UA), `evaluate-traces` (RT-UA), accuracy in mathematics"
    source: ClassVar[str] = "arXiv:2506.12963; OPTML-Group/Unlearn-R2MU dc2d6c5"
    note: ClassVar[str] = (
        "A folder with forget and retain (texts), limo, wmdp-bio/test, mmlu/test and math500/test. The paper's texts "
        "to forget are gated (cais/wmdp-bio-forget-corpus, on request): texts of yours may stand in their place. A "
        "facts.json there, as organism:think has it, lets the rule judge judge."
    )

    def read(self, source: Source, part: str) -> Iterator[SplitFile]:
        """Yield texts, chains of thought, questions and mathematics."""
        source.folder("R2MU reads several")
        for name, (place, option) in _TEXTS.items():
            rows = [row for row in source.table(place) if str(row.record.get("text") or "x").strip()]
            yield SplitFile(name, [{"text": text_of(row, "text")} for row in rows], option)
        for name, (place, option) in _PROBLEMS.items():
            asked = [("question" if "question" in row.record else "problem", row) for row in source.table(place)]
            records = [
                {"problem": text_of(row, key), "solution": text_of(row, "solution"), "answer": text_of(row, "answer")}
                for key, row in asked
            ]
            yield SplitFile(name, records, option)
        for name, place in _CHOICES.items():
            yield SplitFile(name, [choice_of(row) for row in source.table(place)], "choices --questions")
