"""Two models and random changes of one of them, read on the same texts batch by batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mastlens.analysis.inside.distances import angles, divergence, next_token, relative_difference
from mastlens.analysis.inside.lenses import TunedLens
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
STREAM = ("difference", "angle_deg", "cka_distance", "procrustes", "lens_kl", "tuned_kl")
NEXT = ("kl", "js", "entropy_change", "top_differs")
"""Measures of a stream, and of what is said next."""
WHEN = ("before", "after")
ERRORS = ("lens_error", "tuned_error")
"""How far what a lens reads off a layer is from what the model itself says, of the logit lens and the tuned one."""


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


def read_states(hooked: HookedModel, batch: Batch, *, known: bool) -> States:
    """Return what a model makes of the tokens of a batch; see ``counted_states`` for what is known."""
    with hooked.watch("embed", "resid_post") as view:
        final, head = counted_states(hooked.model, batch, known=known)
    counted = torch.nn.functional.pad(batch.is_solution[:, 1:], (0, 1))
    return States({point: view[point][counted] for point in view.points}, final, head)


class PairReading:
    """Both models on one batch after another.

    Args:
        pair: The models.
        lens: Whether layers are read through the logit lens.
        tuned: Tuned lenses to read them through as well: of SFT, of RLVR, and of each random change; of the first two
            alone, random changes are not read so.
        entering: Whether the embedding is what enters the first block, which is what the first translator reads.
    """

    def __init__(self, pair: Pair, *, lens: bool, tuned: Sequence[TunedLens] = (), entering: bool = True):
        self.pair, self.tuned, self.entering = pair, tuned, entering
        self.lens = lens or bool(tuned)
        self.models = HookedModel(pair.source), HookedModel(pair.changed)
        self.points: list[Point] = [EMBED, *(("resid_post", layer) for layer in self.models[0].layers), LOGITS]
        self._known = [False, False]
        self._norms = [model.final_norm for model in self.models if model.final_norm is not None]
        if self.lens and len(self._norms) < len(self.models):
            raise NotSupported(
                f"{pair.rlvr.spec} has no final norm that its output embedding reads, so no layer can be read through "
                "it. Leave --lens and --tuned-lens out."
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """Return what is measured, in the order of the table."""
        left_out = {"lens_kl": not self.lens, "tuned_kl": not self.tuned}
        return (*(measure for measure in STREAM if not left_out.get(measure)), *NEXT)

    @property
    def errors(self) -> tuple[str, ...]:
        """Return what is told of the lenses themselves, of SFT and RLVR alone."""
        return tuple(f"{error}_{when}" for error in ERRORS for when in WHEN) if self.tuned else ()

    def judged(self, measure: str) -> bool:
        """Return whether random changes are measured alike."""
        return measure != "tuned_kl" or len(self.tuned) == len(self.models) + self.pair.draws

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
                tokens = batch_tokens(batch, items, starts)
                before = self._states(0, batch)
                found, at, seen = [], {}, {}
                tally.sample(BEFORE, before.stream, tokens)
                for turn in range(1 + self.pair.draws):
                    self.pair.take(turn)
                    after = self._states(1, batch)
                    values = self._compared(before, after, turn)
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
        found = read_states(self.models[which], batch, known=self._known[which])
        self._known[which] = found.head.embedding is not None
        if self.lens and not self._known[which]:
            raise NotSupported(
                f"What {self.pair.rlvr.spec} makes of its final states is more than its output embedding, so no layer "
                "can be read through it. Leave --lens and --tuned-lens out."
            )
        return found

    def _compared(self, before: States, after: States, turn: int) -> dict[tuple[str, Point], Tensor]:
        found: dict[tuple[str, Point], Tensor] = {}
        wide = float64_device(before.final.device)
        for point, stream in before.stream.items():
            old, new = (value.to(wide).double() for value in (stream, after.stream[point]))
            found["difference", point] = relative_difference(old, new).cpu()
            found["angle_deg", point] = angles(old, new).cpu()
            if self.lens:
                found |= {
                    (name, point): value.cpu() for name, value in self._lensed(before, after, point, turn).items()
                }
        parts = [next_token(before.logits(part, wide), after.logits(part, wide)) for part in _parts(before)]
        for measure in NEXT:
            found[measure, LOGITS] = torch.cat([part[measure] for part in parts]).cpu()
        return found

    def _lensed(self, before: States, after: States, point: Point, turn: int) -> dict[str, Tensor]:
        """Return what is read off a layer of both models: how far apart that is, and how far from what they say."""
        states = (before, after)
        plain = [self._through(which, one.stream[point], one.head) for which, one in enumerate(states)]
        found = {"lens_kl": _apart(*plain)}
        if 1 + turn >= len(self.tuned) or (point == EMBED and not self.entering):
            return found
        layer = point[1]
        lensed = [
            self._through(which, lens.translate(one.stream[point], layer), one.head)
            for which, (one, lens) in enumerate(zip(states, (self.tuned[0], self.tuned[1 + turn]), strict=True))
        ]
        found["tuned_kl"] = _apart(*lensed)
        if turn == RLVR:
            for error, seen in zip(ERRORS, (plain, lensed), strict=True):
                apart = [_apart(own, one) for own, one in zip(states, seen, strict=True)]
                found |= {f"{error}_{when}": value for when, value in zip(WHEN, apart, strict=True)}
        return found

    def _through(self, which: int, stream: Tensor, head: Head) -> States:
        return States({}, self._norms[which](stream[None])[0], head)

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


def _apart(one: States, other: States) -> Tensor:
    """Return KL(one || other) of each token."""
    wide = float64_device(one.final.device)
    found = [
        divergence(*(states.logits(part, wide).log_softmax(dim=1) for states in (one, other))) for part in _parts(one)
    ]
    return torch.cat(found)


def counted_tokens(ids: EncodedProblem) -> int:
    """Return how many tokens of a solution are predicted from something: without a prompt, the first is not."""
    return len(ids.solution) - (not ids.prompt)


def batch_tokens(batch: Batch, items: Sequence[int], starts: np.ndarray) -> Tokens:
    """Return the tokens of a batch that are looked at; ``starts`` says how many stand in front of each text's."""
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
