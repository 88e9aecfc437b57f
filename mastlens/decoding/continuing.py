"""Log-probabilities of texts that follow a prompt, taken while the prompt is in the cache for a response anyway.

A prompt is read once: its response, the reference solution and the answer all go on from the same keys and values.
What cannot be read so (a model whose cache is no keys and values of every position, or whose frequencies turn at some
length; another engine; a response that was known already) is read from the beginning, as a text of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from mastlens.decoding.engines import Engine, HuggingFaceEngine
from mastlens.decoding.rolling import Prefill
from mastlens.models.likelihood import Reading, states_at
from mastlens.models.memory import tokens_that_fit
from mastlens.problems.encoding import AUTO, EncodedProblem, pack


class Continuations:
    """Texts behind prompts, and their log-probabilities as far as they are known.

    Args:
        engine: What reads them.
        texts: Name of a prompt to the texts that follow it, by kind: prompt and continuation as token ids.
    """

    def __init__(self, engine: Engine, texts: Mapping[str, Mapping[str, EncodedProblem]]):
        self.engine, self.texts = engine, texts
        self._sums: dict[tuple[str, str], float] = {}

    @property
    def watched(self) -> Engine:
        """The engine with an eye on the prompts that it reads; as it is, if it keeps them to itself."""
        engine = self.engine
        return replace(engine, prefilled=self.read) if isinstance(engine, HuggingFaceEngine) else engine

    def read(self, names: Sequence[str], prefill: Prefill) -> None:
        """Take what follows the prompts of some responses, whose names end in ``/`` and the number of the sample."""
        asked = [
            _Asked(row, (name, kind), one.solution)
            for row, response in enumerate(names)
            for name in [response.rpartition("/")[0]]
            for kind, one in self.texts.get(name, {}).items()
            if (name, kind) not in self._sums and one.solution
        ]
        # Of several samples of a prompt, one will do.
        asked = sorted({one.key: one for one in asked}.values(), key=lambda one: -len(one.ids))
        first = prefill.logits.log_softmax(dim=-1)
        most = tokens_that_fit(prefill.lengths.device, backward=False, each=None)
        for part in pack((len(one.ids) for one in asked), AUTO, most):
            together = asked[part]
            sums = torch.stack([first[one.row, one.ids[0]] for one in together])
            if len(together[0].ids) > 1:  # the longest
                sums = sums + self._rest(together, prefill)
            self._sums |= dict(zip((one.key for one in together), sums.cpu().double().tolist(), strict=True))

    def _rest(self, asked: "Sequence[_Asked]", prefill: Prefill) -> Tensor:
        """Return the summed log-probability of each text behind its first token."""
        assert isinstance(self.engine, HuggingFaceEngine)  # no other shows what it has read
        model, width = self.engine.model, prefill.layers[0].get_seq_length()
        device = model.device
        rows = torch.tensor([one.row for one in asked], device=device)
        sizes = torch.tensor([len(one.ids) - 1 for one in asked], device=device)
        tokens = torch.zeros((len(asked), int(sizes.max()) + 1), dtype=torch.long)
        for row, one in zip(tokens, asked, strict=True):
            row[: len(one.ids)] = torch.tensor(one.ids)
        tokens = tokens.to(device)
        places = torch.arange(tokens.shape[1] - 1, device=device)
        counted = places < sizes[:, None]
        before = torch.arange(width, device=device) >= width - prefill.lengths[rows, None]
        inputs = {
            "input_ids": tokens[:, :-1],
            "attention_mask": torch.cat([before, counted], dim=1).long(),
            # Behind a text's end there is padding; it must not run out of the context.
            "position_ids": prefill.lengths[rows, None] + places.minimum(sizes[:, None] - 1),
        }

        def run() -> Tensor:
            cache = Cache(layers=[layer.rows(rows) for layer in prefill.layers])
            return model(**inputs, past_key_values=cache, use_cache=True).logits

        hidden, head = states_at(model, counted, run)
        reading = Reading(hidden, head, tokens[:, 1:][counted], counted.nonzero()[:, 0], len(asked))
        return reading.logprobs.sums

    def logprobs(self, kind: str, *, batch_size: int | str, progress: str | None = None) -> dict[str, float]:
        """Return name of each prompt to the summed log-probability of its text of a kind.

        Those that no engine has shown are read now.

        Args:
            kind: Which texts.
            batch_size: Texts a forward pass, or ``auto``.
            progress: Label of a progress bar; None for none.
        """
        missing = [name for name in self.texts if (name, kind) not in self._sums]
        if missing:
            encoded = [self.texts[name][kind] for name in missing]
            sums = self.engine.logprobs(encoded, batch_size=batch_size, progress=progress)
            self._sums |= {(name, kind): float(total) for name, total in zip(missing, sums, strict=True)}
        return {name: self._sums[name, kind] for name in self.texts}


@dataclass(frozen=True)
class _Asked:
    """A text behind a prompt in a prefill: the prompt's row, what it is called, its token ids."""

    row: int
    key: tuple[str, str]
    ids: tuple[int, ...]
