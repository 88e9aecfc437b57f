"""RA-RFT: GRPO with an analogous worked solution in the prompt, found by a retriever that was trained for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mastlens.errors import BadSetting, unknown
from mastlens.organisms.rlvr.recipe import RLVRRecipe, Run

_WAYS = ("learnt", "bm25", "random")


@dataclass(frozen=True, kw_only=True)
class RARFT(RLVRRecipe):
    """GRPO whose every prompt has one retrieved demonstration in front, when it is sampled and when it is trained.

    Demonstrations are worked problems of the methods that the stage is rewarded on, and never one that it is asked. The
    card says accuracy with and without retrieval, before and after, and how often what is retrieved shares the method.

    Attributes:
        retrieval: ``learnt`` (by InfoNCE, from nothing), ``bm25``, or ``random``.
        pool: How many demonstrations there are.
        retriever_steps: Training steps of the learnt retriever.
    """

    retrieval: str = "learnt"
    pool: int = 480
    retriever_steps: int = 200

    def __post_init__(self) -> None:
        """Check the retrieval, too."""
        super().__post_init__()
        if self.retrieval not in _WAYS:
            raise unknown("way to retrieve", self.retrieval, _WAYS, of=self.name)
        if self.pool < 1 or self.retriever_steps < 1:
            raise BadSetting(
                f"Of the recipe {self.name}, pool and retriever_steps are at least 1; they are {self.pool} and "
                f"{self.retriever_steps}."
            )

    def train(self, run: Run) -> Mapping[str, Any]:
        """Retrieve, train by GRPO on what is shown with a demonstration, and measure with and without."""
        from mastlens.organisms.rlvr import retrieval

        given = retrieval.demonstrations_for(run, self.pool)
        retriever = retrieval.make_retriever(self.retrieval, given, run, steps=self.retriever_steps)
        shown, same = retrieval.with_demonstrations(run.problems, given, retriever)
        retrieval.check_length(run, shown)
        before = retrieval.accuracies(run, given, retriever, f"{run.stage}: SFT")
        told = super().train(replace(run, problems=shown))
        after = retrieval.accuracies(run, given, retriever, run.stage)
        methods = len({one.subject for one in given})
        about = {"demonstrations": len(given), "same_method": same, "same_method_null": 1 / methods}
        return {**told, "retrieval": {**about, "sft": before, "after": after}}


RA_RFT = RARFT(
    name="ra-rft",
    summary="GRPO with a worked solution of the same method in the prompt, by a retriever trained on the methods",
    source="RA-RFT 2026, arXiv:2606.13680, sections 3 and 4",
)

RA_RFT_BM25 = replace(
    RA_RFT, name="ra-rft-bm25", summary="the same, retrieved by words (BM25): its control", retrieval="bm25"
)

RA_RFT_RANDOM = replace(
    RA_RFT, name="ra-rft-random", summary="the same, with any worked solution: its null", retrieval="random"
)
