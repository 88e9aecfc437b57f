"""Texts in batches: of similar length, so many texts or tokens each, and half as many where memory runs out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from mastlens.models.memory import does_not_fit, first_tokens, let_go, out_of_memory, peak, tokens_that_fit
from mastlens.problems.encoding import (
    AUTO,
    Batch,
    EncodedProblem,
    check_batch_size,
    check_vocabulary,
    collate,
    pack,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Batches:
    """Batches of problems of similar length on a model's device; see ``by_length``.

    Args:
        model: Where the batches go.
        encoded: Problems as token ids.
        size: Problems a batch, or ``auto``.
        progress: Label of a progress bar; None for none.
        backward: Whether there is a way back, which takes more memory.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        encoded: Sequence[EncodedProblem],
        size: int | str,
        progress: str | None,
        *,
        backward: bool = False,
    ):
        check_batch_size(size)
        self.encoded, self.size, self.progress, self.backward = encoded, size, progress, backward
        self.device, self.model = model.device, model
        self.tokens = first_tokens() if size == AUTO else 0
        self.together = False
        """Whether other ranks take every batch at the same time: none can be taken again then."""
        self._measured: float | None = None  # bytes that the first batch took
        self._failed = self._anew = False

    def __iter__(self) -> Iterator[tuple[list[int], Batch]]:
        """Yield (which problems, batch)."""
        check_vocabulary(self.model, (ids.prompt + ids.solution for ids in self.encoded))
        waiting = sorted(range(len(self.encoded)), key=lambda item: self.encoded[item].length)
        if self.size == AUTO:
            waiting.reverse()  # what does not fit shows at once
        sizing, start = self.size == AUTO, 0
        with tqdm(total=len(waiting), desc=self.progress, disable=self.progress is None, unit="item") as bar:
            while start < len(waiting):
                lengths = (self.encoded[item].length for item in islice(waiting, start, None))
                chosen = next(pack(lengths, self.size, self.tokens))
                items = waiting[start : start + chosen.stop]
                batch = collate([self.encoded[item] for item in items], device=str(self.device))
                yield items, batch
                if self._failed:
                    self._halve(items, batch)
                    start = 0 if self._anew else start
                    bar.n = start
                    self._failed = self._anew = False
                    continue
                start += len(items)
                bar.update(len(items))
                if sizing:
                    each = None if self._measured is None else self._measured / batch.input_ids.numel()
                    self.tokens = tokens_that_fit(self.device, backward=self.backward, each=each)
                    sizing = False

    @contextmanager
    def fitting(self, *, anew: Callable[[], None] | None = None) -> Iterator[None]:
        """Within, work on the batch that was given last; where memory runs out, its halves are given next.

        What is noted of a batch is noted at the end of the block, or comes to the same when it is noted again.

        Args:
            anew: For what is added up while a batch is under way: forgets all sums. Where memory runs out it is called,
                and every batch is given again.
        """
        sized = self.size == AUTO and self._measured is None
        try:
            with peak(self.device) if sized else nullcontext() as cost:
                yield
        except Exception as error:
            if not out_of_memory(error):
                raise
            if self.together:
                raise does_not_fit("A batch over ranks", smaller=True) from error
            self._failed = True
            if anew is not None:
                anew()
                self._anew = True
        else:
            self._measured = cost.peak_mb * 1e6 if cost is not None and cost.peak_mb is not None else self._measured

    def _halve(self, items: Sequence[int], batch: Batch) -> None:
        """Make batches half as large from here on."""
        if len(items) == 1:
            raise does_not_fit(f"A text of {self.encoded[items[0]].length} tokens")
        let_go()
        if self.size == AUTO:
            self.tokens = batch.input_ids.numel() // 2
        else:
            self.size = len(items) // 2


def by_length(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    size: int | str,
    progress: str | None,
    *,
    backward: bool = False,
) -> Batches:
    """Return (which problems, batch), one after another; problems of similar length together: less padding.

    Args:
        model: Where the batches go.
        encoded: Problems as token ids.
        size: Problems a batch; ``auto`` for as many as fit, a tenth of each batch padding at most.
        progress: Label of a progress bar; None for none.
        backward: Whether there is a way back, which takes more memory.
    """
    return Batches(model, encoded, size, progress, backward=backward)
