"""What putting a set of matrices back to SFT does to the solutions, measured and not estimated."""

from collections.abc import Iterable

from mastlens.analysis.scores.scorer import Scoring, increments
from mastlens.models.likelihood import sequence_logprobs
from mastlens.models.weights import write_weights


class PuttingBack:
    """The gain of any set of matrices put back: forget solutions lost, less retain solutions lost, nats a token.

    Args:
        scoring: What is scored; its model is left as RLVR.

    Attributes:
        asked: How many sets were measured; one that was is not measured again.
        moved: Places of the matrices whose increment is not zero.
    """

    def __init__(self, scoring: Scoring):
        self._scoring = scoring
        self._found = increments(scoring, {matrix.stored for matrix in scoring.chosen})
        self.moved = [
            place
            for place, matrix in enumerate(scoring.chosen)
            if matrix.stored in self._found and bool(matrix.read(self._found[matrix.stored][1]).any())
        ]
        self._known: dict[frozenset[int], float] = {}
        self._likely = self._read()
        self._known[frozenset()] = 0.0
        self.asked = 0

    def __call__(self, places: Iterable[int]) -> float:
        """Return the gain of putting back the matrices at these places, all at once."""
        chosen = frozenset(places)
        if chosen not in self._known:
            back = {}
            for place in sorted(chosen):
                matrix = self._scoring.chosen[place]
                start, delta = self._found[matrix.stored]
                back.setdefault(matrix.stored, start + delta)
                matrix.write(back[matrix.stored], matrix.read(start))
            write_weights(self._scoring.model, back)
            now = self._read()
            own = {name: start + delta for name, (start, delta) in self._found.items() if name in back}
            write_weights(self._scoring.model, own)
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
