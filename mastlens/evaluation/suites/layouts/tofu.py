"""TOFU: made-up authors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mastlens.evaluation.suites.sources import Place, Row, Source
from mastlens.evaluation.suites.suite import Record, SplitFile, Suite, text_of, texts_of

_RETAINED = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}


@dataclass(frozen=True, kw_only=True)
class Tofu(Suite):
    """Task of Fictitious Unlearning."""

    name: ClassVar[str] = "tofu"
    summary: ClassVar[str] = "questions about 200 authors who do not exist, of which 1, 5 or 10 % are to be forgotten"
    hub: ClassVar[tuple[str, ...]] = ("locuslab/TOFU",)
    licence: ClassVar[str] = "MIT (earlier revisions of its card: Apache-2.0)"
    size: ClassVar[str] = "4,000 questions, 20 an author; real authors 100, world facts 117"
    asks: ClassVar[str] = "probability rouge truth-ratio forget-quality model-utility"
    parts: ClassVar[tuple[str, ...]] = ("forget10", "forget05", "forget01")
    source: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121"
    note: ClassVar[str] = (
        "It is made for a model that was fine-tuned on all of it; forget quality needs one that was fine-tuned on "
        "retain alone."
    )

    def read(self, source: Source, part: str) -> Iterator[SplitFile]:
        """Yield what is evaluated, with paraphrased and perturbed answers, and what is trained on."""
        sides = {
            "forget": f"{part}_perturbed",
            "retain": "retain_perturbed",
            "real-authors": "real_authors_perturbed",
            "world-facts": "world_facts_perturbed",
        }
        for name, table in sides.items():
            made_up = name in ("forget", "retain")
            rows = source.table(Place(table, "train", (table,)))
            yield SplitFile(name, [_record(row, perturbed=True, paraphrased=made_up) for row in rows])
        holdout = part.replace("forget", "holdout")
        for name, table in (("holdout", holdout), ("forget-train", part), ("retain-train", _RETAINED[part])):
            rows = source.optional_table(Place(table, "train", (table,)))
            if rows is not None:
                option = "--split" if name == "holdout" else "unlearn --" + name.partition("-")[0]
                yield SplitFile(name, [_record(row) for row in rows], option)


def _record(row: Row, *, perturbed: bool = False, paraphrased: bool = False) -> Record:
    answer = text_of(row, "answer")
    record: dict[str, object] = {"problem": text_of(row, "question"), "solution": answer, "answer": answer}
    if paraphrased:
        record["paraphrased"] = text_of(row, "paraphrased_answer")
    if perturbed:
        record["perturbed"] = texts_of(row, "perturbed_answer")
    return record
