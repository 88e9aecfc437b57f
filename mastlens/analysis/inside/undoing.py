"""What of RLVR's change an edit takes back: of the states, layer by layer and head by head, and of the answer.

An edit that takes a mechanism back moves the states to where they were in the reference, from the layer on in which
RLVR moved them; one that hides the answer leaves them and turns the last of them aside. Of states s of the RLVR model,
e of the edited one and r of the reference, ``back`` is the regression of e - s on r - s.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.inside.distances import next_token
from mastlens.analysis.inside.looking import Texts, looked_inside
from mastlens.analysis.inside.nulls import beside_null
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.reading import LOGITS
from mastlens.analysis.inside.settings import InsideUndoSettings
from mastlens.analysis.inside.tally import ALL
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import NotTogether
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import Head, counted_states
from mastlens.models.memory import float64_device
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import Batch, EncodedProblem
from mastlens.runs.calls import takes
from mastlens.statistics import ratio_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "inside_undo.parquet"
Place = tuple[str, int, int]
"""Site, layer and head (-1: the whole activation)."""
_WHOLE = -1
_ANSWER = (*LOGITS, _WHOLE)
_BY_HEAD = 3  # dimensions of the states of an activation that lies by heads: token, head, entry


@dataclass(frozen=True, repr=False)
class Undoing(Carded):
    """What an edit takes back.

    Attributes:
        table: One row a split and activation, and one a split for the answer; the columns are described at
            ``inside_undo``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.inside import undoing_card

        return undoing_card(self.table, self.settings)

    def plot(self, site: str = "resid_post", measure: str = "back") -> "go.Figure":
        """Draw what is taken back of an activation by layer, a line a split, beside random changes; or ``left``."""
        from mastlens.plots.undoing import plot_undoing

        return plot_undoing(self.table, site, measure)


@takes(InsideUndoSettings)
def inside_undo(settings: InsideUndoSettings) -> Undoing:
    """Hold an edited model between its source and a reference: what of RLVR's change does the edit take back?

    Source (``rlvr``), reference (``sft``; or any model that has not learnt what is to be forgotten) and edited model
    read the same texts; looked at are the states that each solution token is predicted from. Columns: ``split``,
    ``layer``, ``site``, ``head`` (-1: the whole activation), ``position`` (-1), ``tokens``; of the states

    - ``back``: sum of (edited - source) . (reference - source) over that of |reference - source|^2: 1 where the edit
      puts them where the reference has them, 0 where it leaves them or moves them elsewhere, with its 95 % interval
      over problems (``_low``, ``_high``);
    - ``left``: distance of edited and reference over that of source and reference, root mean squares over tokens: 0
      where all is taken back, 1 as before the edit, more where the edit moves them away;

    and of the answer (``logits``) ``said_back``, the same share of the solutions' log-probability, and ``kl_left``,
    KL(reference || edited) over KL(reference || source) of the next token. Each X stands beside what random changes of
    the edit's size do, put into the source (``X_null`` ...; see ``inside.pair``). Where RLVR changed nothing, a share
    of it is NaN.

    Raises:
        MastlensError: If the checkpoints are not one lineage, cannot read the same texts, or lack a site or a layer.
    """
    edited = Checkpoint(settings.edited)

    def look(pair: Pair, texts: Texts) -> tuple[pd.DataFrame]:
        edit = Pair(pair.rlvr, edited, pair.computing, settings.draws, settings.seed)
        edit.source = pair.changed  # it is loaded already
        if edit.texts(settings.splits, limit=settings.limit, asking=settings.asking) != texts:
            raise NotTogether(
                f"{edited.spec} reads the texts as other tokens than {pair.rlvr.spec} does: give it the same tokenizer "
                "files (edit apply copies them)."
            )
        undoing = _Undoing(pair, edit, settings)
        rows = []
        for split, encoded in texts.items():
            found = undoing.read(encoded, f"inside undo: {split}" if settings.progress else None)
            rows += [_row(split, place, found, one) for place, one in found.sums.items()]
        return (pd.DataFrame(rows),)

    layers = None if settings.layers is None else list(settings.layers)
    deciding = {"sites": list(settings.sites), "layers": layers, "edited": edited.fingerprint}
    return looked_inside(settings, Undoing, {"table": FILE}, look, **deciding)


@dataclass
class _Sums:
    """Of one place: sums over tokens, text by text, and over all texts under each random change.

    Attributes:
        whole: |reference - source|^2, or KL(reference || source) of the answer; [texts].
        along: The edit's change along it, or of the answer the change of log-probability; [texts].
        off: |edited - reference|^2, or KL(reference || edited); [texts].
        wanted: What ``along`` is a share of: ``whole``, or of the answer the reference's change of log-probability.
        drawn: ``along`` and ``off`` of each random change, [2, draws].
    """

    whole: np.ndarray
    along: np.ndarray
    off: np.ndarray
    wanted: np.ndarray
    drawn: np.ndarray


@dataclass
class _Read:
    tokens: int
    sums: dict[Place, _Sums]


Compared = dict[Place, tuple[Tensor, Tensor, Tensor, Tensor]]
"""Place to ``whole``, ``along``, ``off`` and ``wanted``, a number a token."""


class _Undoing:
    """Reference, source and edited model on the same texts."""

    def __init__(self, pair: Pair, edit: Pair, settings: InsideUndoSettings):
        self.edit, self.settings = edit, settings
        self.models = HookedModel(pair.source), HookedModel(edit.source), HookedModel(edit.changed)

    @torch.no_grad()
    def read(self, encoded: Sequence[EncodedProblem], progress: str | None) -> _Read:
        found = _Read(0, {})
        batches = by_length(self.edit.source, encoded, self.settings.batch_size, progress)
        for items, batch in batches:
            with batches.fitting():
                rows = batch.is_solution[:, 1:].nonzero()[:, 0].cpu().numpy()
                reference, source = (self._seen(which, batch) for which in (0, 1))
                noted: list[dict[Place, list[np.ndarray]]] = []
                for turn in range(1 + self.edit.draws):
                    self.edit.take(turn)
                    told = _compared(reference, source, self._seen(2, batch), batch)
                    noted.append(
                        {
                            place: [np.bincount(rows, weights=one.cpu().numpy(), minlength=len(items)) for one in parts]
                            for place, parts in told.items()
                        }
                    )
                self.edit.take(RLVR)
                # Noted at the end: a batch that does not fit memory is given again in halves.
                found.tokens += len(rows)
                for place, parts in noted[0].items():
                    if place not in found.sums:
                        one, two, three, four = (np.zeros(len(encoded)) for _ in range(4))
                        found.sums[place] = _Sums(one, two, three, four, np.zeros((2, self.edit.draws)))
                    sums = found.sums[place]
                    sums.whole[items], sums.along[items], sums.off[items], sums.wanted[items] = parts
                    for number, drawn in enumerate(noted[1:]):
                        sums.drawn[:, number] += [drawn[place][1].sum(), drawn[place][2].sum()]
        return found

    def _seen(self, which: int, batch: Batch) -> "_Seen":
        hooked, counted = self.models[which], torch.nn.functional.pad(batch.is_solution[:, 1:], (0, 1))
        with hooked.watch(*dict.fromkeys(self.settings.sites), layers=self.settings.layers) as view:
            final, head = counted_states(hooked.model, batch)
        states: dict[Place, Tensor] = {}
        for point in view.points:
            value = view[point][counted]
            heads = range(value.shape[1]) if value.dim() == _BY_HEAD else [_WHOLE]
            states |= {(*point, one): value if one == _WHOLE else value[:, one] for one in heads}
        return _Seen(states, final, head)


@dataclass(frozen=True)
class _Seen:
    states: dict[Place, Tensor]
    final: Tensor
    head: Head

    def logits(self, part: slice, wide: torch.device) -> Tensor:
        return self.head(self.final[part]).float().to(wide).double()


def _compared(reference: _Seen, source: _Seen, edited: _Seen, batch: Batch) -> Compared:
    found: Compared = {}
    wide = float64_device(source.final.device)
    for place, own in source.states.items():
        s, e, r = (value.to(wide).double() for value in (own, edited.states[place], reference.states[place]))
        whole = (r - s).square().sum(dim=1)
        found[place] = whole, ((e - s) * (r - s)).sum(dim=1), (e - r).square().sum(dim=1), whole
    target = batch.input_ids[:, 1:][batch.is_solution[:, 1:]].to(wide)
    parts = []
    for part in source.head.parts(source.final):
        r, s, e = (one.logits(part, wide) for one in (reference, source, edited))
        lr, ls, le = (one.log_softmax(dim=1).gather(1, target[part, None])[:, 0] for one in (r, s, e))
        parts.append((next_token(r, s)["kl"], le - ls, next_token(r, e)["kl"], lr - ls))
    whole, along, off, wanted = (torch.cat(one) for one in zip(*parts, strict=True))
    found[_ANSWER] = whole, along, off, wanted
    return found


def _row(split: str, place: Place, read: _Read, sums: _Sums) -> dict[str, Any]:
    site, layer, head = place
    row: dict[str, Any] = {"split": split, "layer": layer, "site": site, "head": head, "position": ALL}
    row["tokens"] = read.tokens
    answer = place == _ANSWER
    root: Callable[[Any], Any] = (lambda value: value) if answer else np.sqrt
    share, back = (_shares(one, sums.wanted.sum()) for one in (sums.along.sum(), sums.drawn[0]))
    rest, left = (_shares(one, sums.whole.sum()) for one in (sums.off.sum(), sums.drawn[1]))
    for name, value, drawn in (("back", share, back), ("left", root(rest), root(left))):
        own = {"back": "said_back", "left": "kl_left"}[name]
        row |= beside_null(name, math.nan if answer else float(value), drawn.tolist())
        row |= beside_null(own, float(value) if answer else math.nan, drawn.tolist())
    ends = (math.nan, math.nan)
    if not answer and (sums.wanted > 0).all():
        found = ratio_interval(sums.along, sums.wanted)
        ends = found.low, found.high
    return row | dict(zip(("back_low", "back_high"), ends, strict=True))


def _shares(values: Any, of: float) -> Any:
    return np.divide(values, of) if of else np.full(np.shape(values), np.nan)
