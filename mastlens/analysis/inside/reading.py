"""Two models and random changes of one of them, read on the same texts batch by batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mastlens.analysis.inside.distances import angles, next_token, relative_difference
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.tally import BEFORE, Tally, Tokens
from mastlens.errors import NotSupported
from mastlens.models.backends.recording import Point
from mastlens.models.backends.stream import OUTSIDE
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import Head, counted_states
from mastlens.models.memory import float64_device
from mastlens.problems.encoding import Batch, EncodedProblem

EMBED, LOGITS = ("embed", OUTSIDE), ("logits", OUTSIDE)
STREAM = ("difference", "angle_deg", "cka_distance", "procrustes", "lens_kl")
NEXT = ("kl", "js", "entropy_change", "top_differs")
"""Measures of a stream, and of what is said next."""


@dataclass(frozen=True)
class Fork:
    """The first token of a text at which the two models would have gone on with another one.

    Attributes:
        item: The text.
        position: In its solution, from 0.
        tops: The most probable token, before and after.
        chances: Probability of the text's token and of both tops, [before or after, token].
        kl: KL(before || after) there, and under each random change.
        entropy: Of what the model before says there.
    """

    item: int
    position: int
    tops: tuple[int, int]
    chances: np.ndarray
    kl: list[float]
    entropy: float


@dataclass(frozen=True)
class States:
    """What a model made of the tokens of a batch: the stream at each point, and the way to logits."""

    stream: Mapping[Point, Tensor]
    final: Tensor
    head: Head

    def logits(self, part: slice, wide: torch.device) -> Tensor:
        """Return the logits of some of the tokens, in float64."""
        return self.head(self.final[part]).float().to(wide).double()


class PairReading:
    """Both models on one batch after another."""

    def __init__(self, pair: Pair, *, lens: bool):
        self.pair, self.lens = pair, lens
        self.models = HookedModel(pair.source), HookedModel(pair.changed)
        self.points: list[Point] = [EMBED, *(("resid_post", layer) for layer in self.models[0].layers), LOGITS]
        self._known = [False, False]
        self._norms = [model.final_norm for model in self.models if model.final_norm is not None]
        if lens and len(self._norms) < len(self.models):
            raise NotSupported(
                f"{pair.rlvr.spec} has no final norm that its output embedding reads, so no layer can be read through "
                "it. Leave --lens out."
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """Return what is measured, in the order of the table."""
        return (*(measure for measure in STREAM if self.lens or measure != "lens_kl"), *NEXT)

    @torch.no_grad()
    def read(
        self, encoded: Sequence[EncodedProblem], tally: Tally, *, batch_size: int | str, progress: str | None
    ) -> dict[int, Fork]:
        """Fill the tally with every text; return the forks by text."""
        forks: dict[int, Fork] = {}
        starts = np.cumsum([0, *(counted_tokens(ids) for ids in encoded)])
        batches = by_length(self.pair.source, encoded, batch_size, progress)
        for items, batch in batches:
            with batches.fitting():
                tokens = _tokens(batch, items, starts)
                before = self._states(0, batch)
                found, at, seen = [], {}, {}
                tally.sample(BEFORE, before.stream, tokens)
                for turn in range(1 + self.pair.draws):
                    self.pair.take(turn)
                    after = self._states(1, batch)
                    values = self._compared(before, after)
                    if turn == RLVR:
                        at = _first(values["top_differs", LOGITS], tokens)
                        seen = {item: self._fork(item, place, tokens, before, after) for item, place in at.items()}
                    for item, place in at.items():
                        seen[item].kl.append(float(values["kl", LOGITS][place]))
                    found.append(values)
                    tally.sample(turn, after.stream, tokens)
                tally.count(tokens)
                for turn, values in enumerate(found):
                    tally.add(turn, values, tokens)
                forks |= seen
        return forks

    def _states(self, which: int, batch: Batch) -> States:
        hooked = self.models[which]
        with hooked.watch("embed", "resid_post") as view:
            final, head = counted_states(hooked.model, batch, known=self._known[which])
        self._known[which] = head.embedding is not None
        counted = torch.nn.functional.pad(batch.is_solution[:, 1:], (0, 1))
        return States({point: view[point][counted] for point in view.points}, final, head)

    def _compared(self, before: States, after: States) -> dict[tuple[str, Point], Tensor]:
        found: dict[tuple[str, Point], Tensor] = {}
        wide = float64_device(before.final.device)
        for point, stream in before.stream.items():
            old, new = (value.to(wide).double() for value in (stream, after.stream[point]))
            found["difference", point] = relative_difference(old, new).cpu()
            found["angle_deg", point] = angles(old, new).cpu()
            if self.lens:
                found["lens_kl", point] = self._lens(before, after, point, wide).cpu()
        parts = [next_token(before.logits(part, wide), after.logits(part, wide)) for part in _parts(before)]
        for measure in NEXT:
            found[measure, LOGITS] = torch.cat([part[measure] for part in parts]).cpu()
        return found

    def _lens(self, before: States, after: States, point: Point, wide: torch.device) -> Tensor:
        seen = []
        for states, norm in zip((before, after), self._norms, strict=True):
            seen.append(States({}, norm(states.stream[point][None])[0], states.head))
        return torch.cat([next_token(seen[0].logits(p, wide), seen[1].logits(p, wide))["kl"] for p in _parts(seen[0])])

    def _fork(self, item: int, place: int, tokens: Tokens, before: States, after: States) -> Fork:
        part, wide = slice(place, place + 1), float64_device(before.final.device)
        old, new = (states.logits(part, wide).log_softmax(dim=1)[0].cpu() for states in (before, after))
        tops = int(old.argmax()), int(new.argmax())
        given = int(tokens.target[place])
        chances = np.array([[float(said[token].exp()) for token in (given, *tops)] for said in (old, new)])
        entropy = float(-(old.exp() * old.clamp_min(torch.finfo(old.dtype).min)).sum())
        return Fork(item, int(tokens.position[place]), tops, chances, [], entropy)


def _parts(states: States) -> list[slice]:
    return states.head.parts(states.final)


def counted_tokens(ids: EncodedProblem) -> int:
    """Return how many tokens of a solution are predicted from something: without a prompt, the first is not."""
    return len(ids.solution) - (not ids.prompt)


def _tokens(batch: Batch, items: Sequence[int], starts: np.ndarray) -> Tokens:
    counted = batch.is_solution[:, 1:]
    rows = counted.nonzero()[:, 0].cpu().numpy()
    position = (batch.is_solution.cumsum(dim=1)[:, 1:][counted] - 1).cpu().numpy()
    order = np.concatenate([np.arange(count) for count in np.bincount(rows, minlength=len(items))])
    of = np.asarray(items)[rows]
    return Tokens(position, starts[of] + order, of, batch.input_ids[:, 1:][counted].cpu().numpy())


def _first(differs: Tensor, tokens: Tokens) -> dict[int, int]:
    """Return text to the place in the batch of the first token at which something differs, where any does."""
    found: dict[int, int] = {}
    for place in torch.nonzero(differs)[:, 0].tolist():
        found.setdefault(int(tokens.item[place]), place)
    return found
