"""The forward passes of an unlearning run, none longer than it must be.

What lies below the lowest edited layer does not change: where memory allows, what it gives is computed once for each
problem, and every later pass starts above it. What an objective wants to know of the weights before unlearning is read
from the same model with those few tensors swapped back, never from a second one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mastlens.errors import BadSetting, NotSupported
from mastlens.models.likelihood import Reading, read_solutions
from mastlens.models.sharding import in_step, ranks_of, row_snapshot, rows_swapped
from mastlens.models.suffix import PartialForward, largest_layers, same_computation
from mastlens.models.weights import owners, snapshot, swapped
from mastlens.problems.encoding import Batch, EncodedProblem, check_vocabulary, collate
from mastlens.unlearning.splitting import Splitting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TRIED = 16  # tokens on which a pass from the middle must give what the whole one gives


@dataclass(frozen=True)
class States:
    """What a decoder layer gives at the solution tokens of some problems, in reading order.

    Attributes:
        values: The states.
        rows: The place, among the problems that were read, of the one that each token belongs to.
        size: Number of problems.
    """

    values: Float[Tensor, "tokens hidden"]
    rows: Int[Tensor, " tokens"]
    size: int


class Passes:
    """Reads batches of problems off a model that is being edited.

    Args:
        model: The model, in evaluation mode.
        stored: Names of the parameters that will change.
        problems: Side to problems.
        uses: Side to the numbers of its problems, as often as each will be read.
        cache_mb: Most memory, in MB of 10^6 bytes, for what the unchanging layers give; 0 for none.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        stored: Sequence[str],
        problems: Mapping[str, Sequence[EncodedProblem]],
        uses: Mapping[str, Sequence[int]],
        *,
        cache_mb: float,
    ):
        self.model, self.stored, self.problems = model, list(stored), problems
        self.ranks = ranks_of(model)
        check_vocabulary(model, (ids.prompt + ids.solution for side in problems.values() for ids in side))
        self._before: dict[str, Tensor] | None = None
        self._rows_before: list[tuple[Tensor, Tensor]] | None = None
        self._known = False
        self.splitting = Splitting()
        """How the batches of a step are split; at first not at all."""
        self._lower: dict[str, dict[int, Tensor]] = {}
        self.own = False
        """Whether the state at each token itself is kept, too: some scorers of tokens read it."""
        self.reading: tuple[str, tuple[int, ...]] = ("", ())
        """The side and the problems of the latest ``read``."""
        self.held = 0
        """Bytes that are kept of what the unchanging layers give."""
        layers = largest_layers(model)
        self.partial = None if layers is None else PartialForward(layers)
        self.start = 0 if layers is None else _lowest(model, list(layers), owners(model, self.stored).values())
        sizes = [len(items) for items in uses.values()], [len(set(items)) for items in uses.values()]
        self._cut = self._can_cut()
        again = sum(sizes[0]) > sum(sizes[1])
        if self.start and (again if self.ranks is None else self.ranks.any(again)):
            needed = sum(
                len(problems[side][item].prompt) + len(problems[side][item].solution)
                for side, items in uses.items()
                for item in set(items)
            )
            # States are as wide as embeddings, and of their dtype.
            embeddings = next(model.get_input_embeddings().parameters())
            size = needed * embeddings.shape[1] * embeddings.element_size()
            fits = self._cut and size <= cache_mb * 1e6
            if fits if self.ranks is None else self.ranks.every(fits):
                self.held = size
                self._lower = {side: self._run_lower(side, sorted(set(items))) for side, items in uses.items()}

    @property
    def cached(self) -> bool:
        """Whether passes start above the layers that do not change."""
        return bool(self._lower)

    def remember_originals(self) -> None:
        """Keep the weights as they are now, for ``before``."""
        if self.ranks is None:
            self._before = snapshot(self.model, self.stored)
        else:
            self._rows_before = row_snapshot(self.model, self.stored)

    @contextmanager
    def before(self) -> Iterator[None]:
        """Within, the model has the weights of before unlearning, and no gradient is recorded."""
        if self._rows_before is not None:
            with torch.no_grad(), rows_swapped(self.model, self._rows_before):
                yield
            return
        assert self._before is not None
        with torch.no_grad(), swapped(self.model, self._before):
            yield

    def parts(self, side: str, rows: Sequence[int]) -> list[list[int]]:
        """Return the places, among ``rows``, of the problems of each micro-batch.

        Over ranks, those of this rank's share of the problems, and empty ones behind them: every pass takes all ranks,
        so that each has as many as the busiest.
        """
        lengths = [self.length(side, row) for row in rows]
        if self.ranks is None:
            return self.splitting.parts(lengths)
        size = self.ranks.size
        split = [self.splitting.parts(lengths[rank::size]) if lengths[rank::size] else [] for rank in range(size)]
        mine = [[self.ranks.rank + place * size for place in part] for part in split[self.ranks.rank]]
        return mine + [[] for _ in range(max(map(len, split)) - len(mine))]

    def length(self, side: str, row: int) -> int:
        """Return the number of a problem's tokens."""
        return len(self.problems[side][row].prompt) + len(self.problems[side][row].solution)

    def solutions(self, side: str, rows: Sequence[int]) -> list[int]:
        """Return the number of counted tokens of each problem."""
        return [len(self.problems[side][row].solution) for row in rows]

    def joined(self, side: str, rows: Sequence[int], parts: Sequence[Sequence[int]]) -> Reading:
        """Return what the model says of all problems of a step, read part by part, in the order of the parts."""
        if len(parts) == 1:
            return self.read(side, rows)
        readings = [self.read(side, [rows[place] for place in part]) for part in parts]
        starts = [0, *accumulate(reading.size for reading in readings)]
        return Reading(
            torch.cat([reading.hidden for reading in readings]),
            readings[0].head,
            torch.cat([reading.targets for reading in readings]),
            torch.cat([reading.rows + start for reading, start in zip(readings, starts, strict=False)]),
            starts[-1],
            None if readings[0].own is None else torch.cat([r.own for r in readings if r.own is not None]),
        )

    def logits_before(
        self, side: str, rows: Sequence[int], parts: Sequence[Sequence[int]] | None = None
    ) -> Callable[[slice], Float[Tensor, "tokens vocabulary"]]:
        """Return what gives the logits before unlearning of a slice of some problems' solution tokens.

        Where the head does not change, only the states are kept, and logits are made some tokens at a time.
        """
        with self.before():
            reading = self.joined(side, rows, [range(len(rows))] if parts is None else parts)
            if reading.head.frozen:
                return lambda part: reading.head(reading.hidden[part]).float()
            logits = reading.head(reading.hidden).float()
        return lambda part: logits[part]

    def read(self, side: str, rows: Sequence[int]) -> Reading:
        """Return what the model says at the solution tokens of some problems."""
        batch, self.reading = self._collate(side, rows), (side, tuple(rows))
        with self._recomputed(), self._above(side, rows, batch):
            reading = read_solutions(self.model, batch, known=self._known, own=self.own)
        self._known = reading.head.embedding is not None
        return reading

    def states(self, side: str, rows: Sequence[int], layer: int) -> States:
        """Return the output of a decoder layer at the solution tokens of some problems, each token's own.

        The layers above it are not run, where the architecture allows that.
        """
        batch = self._collate(side, rows)
        with self._recomputed(), self._above(side, rows, batch), self._through(layer, alone=self._cut) as outputs:
            # One row of the vocabulary is enough of the logits, and an output embedding needs at least that.
            read_solutions(self.model, batch, known=True)
        return self._states(outputs, batch)

    def states_and_reading(self, side: str, rows: Sequence[int], layer: int) -> tuple[States, Reading]:
        """Return the same, and what the model says at these tokens, from one pass through all layers."""
        batch = self._collate(side, rows)
        with self._recomputed(), self._above(side, rows, batch), self._through(layer, alone=False) as outputs:
            reading = read_solutions(self.model, batch, known=self._known)
        self._known = reading.head.embedding is not None
        return self._states(outputs, batch), reading

    def _through(self, layer: int, *, alone: bool):
        layers = self.layers
        if not 0 <= layer < len(layers):
            raise BadSetting(f"There is no layer {layer}: the model has {len(layers)}, counted from 0.")
        assert self.partial is not None
        return self.partial.through(layer, alone=alone)

    def _states(self, outputs: list[Tensor], batch: Batch) -> States:
        if outputs[-1].shape[:2] != batch.input_ids.shape or outputs[-1].ndim != 3:
            raise NotSupported(
                f"The layers of {type(self.model).__name__} give {tuple(outputs[-1].shape)} and not (batch, length, "
                "hidden): their activations cannot be steered."
            )
        counted = batch.is_solution
        return States(outputs[-1][counted], counted.nonzero()[:, 0], len(batch.input_ids))

    @property
    def layers(self) -> list[nn.Module]:
        """The model's decoder layers.

        Raises:
            MastlensError: If it keeps them in another way than all known architectures do.
        """
        if self.partial is None:
            raise NotSupported(f"The layers of {type(self.model).__name__} cannot be told: it has no list of modules.")
        return self.partial.layers

    def _recomputed(self):
        wanted = self.splitting.checkpointed and self.partial is not None and torch.is_grad_enabled()
        return self.partial.recomputed() if wanted and self.partial is not None else nullcontext()

    def _collate(self, side: str, rows: Sequence[int]) -> Batch:
        return collate([self.problems[side][row] for row in rows], device=str(self.model.device))

    def _above(self, side: str, rows: Sequence[int], batch: Batch):
        lower = self._lower.get(side, {})
        if self.partial is None or not all(row in lower for row in rows):
            return nullcontext()
        kept = [lower[row] for row in rows]
        states = kept[0].new_zeros(*batch.input_ids.shape, kept[0].shape[1])
        for into, row in zip(states, kept, strict=True):
            into[: len(row)] = row
        self.partial.hand_out(self.start - 1, states)
        return self.partial.above(self.start)

    def _can_cut(self) -> bool:
        """Return whether a pass that leaves layers out is the same computation; tried, not assumed."""
        if self.partial is None:
            return False
        ids = next(problem for problems in self.problems.values() for problem in problems)
        short = EncodedProblem(ids.prompt[:_TRIED], ids.solution[:_TRIED])
        batch = collate([short], device=str(self.model.device))
        same = same_computation(self.model, self.partial, batch, starts=[self.start])
        plain = self.partial.plain
        self.partial.clear()
        return same and plain

    @torch.no_grad()
    def _run_lower(self, side: str, items: Sequence[int]) -> dict[int, Tensor]:
        assert self.partial is not None
        states: dict[int, Tensor] = {}
        _, batches = in_step(self.model, self.problems[side], 32, None, mine=items)
        for where, batch in batches:
            with self.partial.through(self.start - 1) as outputs:
                read_solutions(self.model, batch, known=True)
            for row, item in enumerate(where):
                states[item] = outputs[0][row, batch.attention_mask[row]].clone()
        return states


def _lowest(model: "PreTrainedModel", layers: Sequence[nn.Module], parameters: Iterable[Tensor]) -> int:
    """Return the first layer that a change of the parameters can reach: as many as there are if none can be reached."""
    home = {id(p): number for number in reversed(range(len(layers))) for p in layers[number].parameters()}
    inputs = {id(p) for p in model.get_input_embeddings().parameters()}
    head = model.get_output_embeddings()
    last = {id(p) for p in head.parameters()} - inputs if head is not None else set()
    return min(home.get(id(p), len(layers) if id(p) in last else 0) for p in parameters)
