"""How much of the reference answer stands in what the model writes: ROUGE, by the field's own library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mastlens.errors import MissingPackage
from mastlens.evaluation.degeneration import repeated_ngrams
from mastlens.evaluation.metrics.metric import RESPONSES, MeanMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading

_ROUNDS = 0.5  # share of repeated 4-grams above which a response goes round in circles
PARTS = ("rouge1_recall", "rougeL_recall", "rougeL_f1")


def rouge_scorer() -> Any:
    """Return the scorer, as TOFU, MUSE and open-unlearning set it: words stemmed.

    Raises:
        MastlensError: If the library is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingPackage(
            "ROUGE needs the package 'rouge-score', with which its published numbers were made: "
            "pip install 'mastlens[metrics]'."
        ) from error
    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def rouge(responses: Sequence[str], answers: Sequence[str]) -> Mapping[str, list[float]]:
    """Return each of ``PARTS`` for responses to items with these reference answers."""
    scorer = rouge_scorer()
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for response, answer in zip(responses, answers, strict=True):
        scores = scorer.score(answer, response)
        found["rouge1_recall"].append(float(scores["rouge1"].recall))
        found["rougeL_recall"].append(float(scores["rougeL"].recall))
        found["rougeL_f1"].append(float(scores["rougeL"].fmeasure))
    return found


@dataclass(frozen=True, kw_only=True)
class Rouge(MeanMetric):
    """ROUGE-1 and ROUGE-L of the response to the reference answer."""

    name: ClassVar[str] = "rouge"
    summary: ClassVar[str] = "how much of the reference answer is in the response (ROUGE-1, ROUGE-L)"
    formula: ClassVar[str] = (
        "rouge1_recall: share of the answer's words that are in the response; rougeL_recall: length of their longest "
        "common subsequence / words of the answer; rougeL_f1: harmonic mean of it and the same / words of the response"
    )
    range: ClassVar[str] = "0 to 1"
    direction: ClassVar[str] = "lower is forgotten"
    null: ClassVar[str] = "the same of the response to another item of the split: what two answers of it share anyway"
    source: ClassVar[str] = "TOFU (ROUGE-L recall), MUSE (ROUGE-L), by Google's rouge-score with stemming"
    traps: ClassVar[tuple[str, ...]] = (
        "An empty response has 0 and looks forgotten; one that goes round in circles, or recites, can have a high "
        "recall. Both are counted in the note.",
        "Common words are shared by any two answers: the null says how many.",
        "A thinking model's trace is part of its response: what it reveals there counts, and so does its length.",
    )
    differs: ClassVar[str] = (
        "the same function; of responses that are cut at its stop words, and tokenised and decoded otherwise, it sees "
        "another text"
    )
    needs: ClassVar[tuple[str, ...]] = (RESPONSES,)

    def means(self, split: str) -> Mapping[str, str]:
        """Return all three."""
        return {part: part for part in PARTS}

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the scores of each response; the null is that of the response to the item before it."""
        import numpy as np

        answers, said = read.encoded.decoded, list(read.responses)
        found = rouge(said, answers)
        others = rouge([*said[-1:], *said[:-1]], answers) if len(said) > 1 else {part: [np.nan] for part in PARTS}
        return {part: Part(np.array(found[part]), np.array(others[part])) for part in PARTS}

    def note(self, read: "SplitReading") -> str:
        """Return how many responses are empty, and how many go round in circles."""
        empty = sum(not response.strip() for response in read.responses)
        rounds = sum(repeated_ngrams(response) > _ROUNDS for response in read.responses)
        said = [f"{empty} of {len(read.responses)} responses are empty"] * bool(empty)
        return "; ".join([*said, *[f"{rounds} of {len(read.responses)} repeat themselves"] * bool(rounds)])
