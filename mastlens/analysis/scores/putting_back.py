"""What putting a set of matrices back to SFT does to the solutions, measured and not estimated."""

from collections.abc import Iterable

import torch

from mastlens.analysis.causal.patching import Patch, patched_tensors, stored_tensors
from mastlens.analysis.scores.scorer import Scoring, increments
from mastlens.models.likelihood import sequence_logprobs
from mastlens.models.weights import swapped


class PuttingBack:
    """The gain of any set of matrices put back: forget solutions lost, less retain solutions lost, nats a token.

    Args:
        scoring: What is scored; its model is as it was after each set, bit for bit.

    Attributes:
        asked: How many sets were measured; one that was is not measured again.
        moved: Places of the matrices whose increment is not zero.
    """

    def __init__(self, scoring: Scoring):
        self._scoring = scoring
        before, after = scoring.lineage.increments["rlvr"]
        known = increments(scoring, {matrix.stored for matrix in scoring.chosen})
        same = [matrix for matrix in scoring.chosen if matrix.stored in known]
        self._sft, self._rlvr = (stored_tensors(stage, scoring.model, same) for stage in (before, after))
        self.moved = [
            place
            for place, matrix in enumerate(scoring.chosen)
            if matrix.stored in self._sft
            and not torch.equal(matrix.read(self._sft[matrix.stored]), matrix.read(self._rlvr[matrix.stored]))
        ]
        self._known: dict[frozenset[int], float] = {frozenset(): 0.0}
        self._likely = self._read()
        self.asked = 0

    def __call__(self, places: Iterable[int]) -> float:
        """Return the gain of putting back the matrices at these places, all at once."""
        chosen = frozenset(places)
        if chosen not in self._known:
            patches = [Patch(self._scoring.chosen[place]) for place in sorted(chosen)]
            with swapped(self._scoring.model, patched_tensors(patches, self._rlvr, self._sft)):
                now = self._read()
            signs = {"forget": 1.0, "retain": -self._scoring.settings.retain_weight}
            self._known[chosen] = sum(signs[side] * (self._likely[side] - now[side]) for side in now)
            self.asked += 1
        return self._known[chosen]

    def _read(self) -> dict[str, float]:
        found = {}
        for side, problems in self._scoring.sides.items():
            size = self._scoring.settings.batch_size
            sums, counts = sequence_logprobs(self._scoring.model, problems.encoded, batch_size=size)
            found[side] = float(sums.sum() / counts.sum())
        return found
