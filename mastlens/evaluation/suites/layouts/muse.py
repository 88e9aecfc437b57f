"""MUSE: news and books."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mastlens.evaluation.suites.sources import Place, Source
from mastlens.evaluation.suites.suite import SplitFile, Suite, text_of


@dataclass(frozen=True, kw_only=True)
class Muse(Suite):
    """Machine Unlearning Six-way Evaluation, of which four ways are of one model."""

    name: ClassVar[str] = "muse"
    summary: ClassVar[str] = "news articles or novels: verbatim memory, knowledge and privacy"
    hub: ClassVar[tuple[str, ...]] = ("muse-bench/MUSE-News", "muse-bench/MUSE-Books")
    licence: ClassVar[str] = "CC-BY-4.0"
    size: ClassVar[str] = "100 questions a side, 100 passages, 100 texts of each privacy set (news)"
    asks: ClassVar[str] = "rouge privleak extraction-strength"
    source: ClassVar[str] = "Shi et al. 2024, arXiv:2407.06460"
    note: ClassVar[str] = (
        "Knowledge is asked after ten worked examples (`knowledge-examples`, --few-shot) with 32 new tokens, passages "
        "with 128. Privacy texts of the whole context length are not cut here."
    )

    def read(self, source: Source, part: str) -> Iterator[SplitFile]:
        """Yield knowledge, passages and the texts of the privacy sets."""
        for name, split in (("forget-knowledge", "forget_qa"), ("retain-knowledge", "retain_qa")):
            yield SplitFile(name, _questions(source, split))
        examples = source.optional_table(Place("knowmem", "forget_qa_icl"))
        if examples is not None:
            yield SplitFile("knowledge-examples", _questions(source, "forget_qa_icl"), "--few-shot")
        passages = source.table(Place("verbmem", "forget"))
        yield SplitFile(
            "forget-verbatim",
            [
                {"problem": text_of(row, "prompt"), "solution": text_of(row, "gt"), "answer": text_of(row, "gt")}
                for row in passages
            ],
        )
        for side in ("forget", "holdout", "retain"):
            rows = source.table(Place("privleak", side))
            yield SplitFile(f"{side}-text", [{"text": text_of(row, "text")} for row in rows], "--metrics-texts")


def _questions(source: Source, split: str) -> list[dict[str, str]]:
    return [
        {"problem": text_of(row, "question"), "solution": text_of(row, "answer"), "answer": text_of(row, "answer")}
        for row in source.table(Place("knowmem", split))
    ]
