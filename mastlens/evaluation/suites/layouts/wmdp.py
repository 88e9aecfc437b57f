"""WMDP: hazardous knowledge, by proxy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mastlens.evaluation.suites.sources import Place, Row, Source
from mastlens.evaluation.suites.suite import SplitFile, Suite, choice_of, right_of, text_of

_SUBJECTS = ("bio", "cyber", "chem")


@dataclass(frozen=True, kw_only=True)
class Wmdp(Suite):
    """Weapons of Mass Destruction Proxy."""

    name: ClassVar[str] = "wmdp"
    summary: ClassVar[str] = "four-choice questions of biology, cybersecurity and chemistry"
    hub: ClassVar[tuple[str, ...]] = ("cais/wmdp",)
    licence: ClassVar[str] = "MIT"
    size: ClassVar[str] = "3,668 questions: bio 1,273, cyber 1,987, chem 408"
    asks: ClassVar[str] = "probability-with-options rouge; and `choices`, by letter and by text"
    parts: ClassVar[tuple[str, ...]] = ("all", *_SUBJECTS)
    source: ClassVar[str] = "Li et al. 2024, arXiv:2403.03218"
    note: ClassVar[str] = (
        "Accuracy near 25 % can mean that letters were broken and not that knowledge went: each subject is written as "
        "multiple choice and as an open question, too. The texts to forget are gated and not part of it."
    )

    def read(self, source: Source, part: str) -> Iterator[SplitFile]:
        """Yield every subject as open questions and as multiple choice; of all, those that are there."""
        asked = _SUBJECTS if part == "all" else (part,)
        missing = 0
        for subject in asked:
            place = Place(f"wmdp-{subject}", "test", (f"wmdp-{subject}/test",))
            last = missing == len(asked) - 1
            rows = source.table(place) if len(asked) == 1 or last else source.optional_table(place)
            if rows is None:
                missing += 1
                continue
            yield SplitFile(f"forget-{subject}", [_open(row, subject) for row in rows])
            yield SplitFile(
                f"forget-{subject}-choices", [choice_of(row, subject=subject) for row in rows], "choices --questions"
            )


def _open(row: Row, subject: str) -> dict[str, Any]:
    options, answer = right_of(row)
    wrong = [option for place, option in enumerate(options) if place != answer]
    right = options[answer]
    asked = text_of(row, "question")
    return {"problem": asked, "solution": right, "answer": right, "perturbed": wrong, "subject": subject}
