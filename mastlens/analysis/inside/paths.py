"""Path patching: what one component hands to another, directly, put in place of what the model's own hands there.

Of a sender and a receiver behind it (Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969):
the model runs with the sender's activation exchanged and every attention and MLP behind it held at its own output, so
that the change goes along the residual stream alone; what then reaches the receiver is put there in a run of its own.
With ``logits`` as receiver, that first run's answer is what the sender tells the output directly.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mastlens.analysis.causal.patching import read_batch
from mastlens.errors import BadSetting, NotSupported
from mastlens.models.backends.recording import Point
from mastlens.models.backends.stream import OUTSIDE
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import counted_states
from mastlens.problems.encoding import Batch, EncodedProblem, collate

WHOLE = -1
SENDERS, RECEIVERS = ("z", "out", "mlp_out"), ("q", "k", "v", "x", "mlp_in", "logits")
"""What may send, and what may receive."""
LOGITS = "logits"
_OF_ATTENTION = ("z", "out")
_Replacements = dict[Point, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Component:
    """A component: an activation, or one head of it.

    Attributes:
        site: Its name in ``HookedModel``.
        layer: Its layer; -1 of ``logits``.
        head: Its head; -1 for all of it.
    """

    site: str
    layer: int
    head: int = WHOLE

    @classmethod
    def of(cls, text: str, sites: Sequence[str], role: str) -> "Component":
        """Return the component that ``SITE.LAYER`` or ``SITE.LAYER.HEAD`` names.

        Raises:
            MastlensError: If it names none, or a site that has not this role.
        """
        if text == LOGITS and LOGITS in sites:
            return cls(LOGITS, OUTSIDE)
        found = re.fullmatch(r"([a-z_]+)\.(\d+)(?:\.(\d+))?", text)
        if not found or found[1] not in sites or (found[3] and found[1] in ("out", "x", "mlp_in", "mlp_out")):
            raise BadSetting(
                f"{text!r} is no {role}: it is SITE.LAYER, or SITE.LAYER.HEAD of what lies by heads, with a site of "
                f"{', '.join(sites)}; e.g. {sites[0]}.3.1."
            )
        return cls(found[1], int(found[2]), int(found[3]) if found[3] else WHOLE)

    @property
    def point(self) -> Point:
        """Return where it is, as ``HookedModel`` has it."""
        return self.site, self.layer

    def put(self, value: Tensor) -> _Replacements:
        """Return the replacement that puts another activation here."""

        def replace(old: Tensor) -> Tensor:
            if self.head == WHOLE:
                return value
            new = old.clone()
            new[:, :, self.head] = value[:, :, self.head]
            return new

        return {self.point: replace}

    def __str__(self) -> str:
        """Return it as it is typed."""
        if self.site == LOGITS:
            return self.site
        return f"{self.site}.{self.layer}" + (f".{self.head}" if self.head != WHOLE else "")


def check_path(hooked: HookedModel, sender: Component, receiver: Component) -> None:
    """Check that the model has both, and that the receiver reads the stream behind the sender.

    Raises:
        MastlensError: If it has not, or does not.
    """
    for one in (sender, receiver):
        with hooked.watch(one.site, layers=one.layer):
            pass  # says what there is
        heads = _heads(hooked, one)
        if one.head >= heads > 0:
            raise BadSetting(f"{one} does not exist: {one.site} in layer {one.layer} has {heads} heads, from 0.")
    if "mlp_out" not in hooked.names(sender.layer):
        raise NotSupported("Of this model no MLP can be held still, so no path can be told from another.")
    inside = sender.site in _OF_ATTENTION and receiver.site == "mlp_in" and "resid_mid" in hooked.names(sender.layer)
    if receiver.site != LOGITS and not (receiver.layer > sender.layer or (inside and receiver.layer == sender.layer)):
        raise BadSetting(f"{receiver} does not read what {sender} writes: it stands before it, or beside it.")


def _heads(hooked: HookedModel, component: Component) -> int:
    name = {"z": "o"}.get(component.site, component.site)
    if component.site in ("z", "q", "k", "v"):
        return int(hooked.heads(name, component.layer).shape[0])
    return 0


@torch.no_grad()
def path_effects(
    hooked: HookedModel,
    batch: Batch,
    given: Mapping[Component, Tensor],
    receivers: Sequence[Component],
) -> tuple[np.ndarray, dict[tuple[Component, Component], np.ndarray]]:
    """Return the solutions' summed log-probability, and (sender, receiver) to its change, item by item, float64.

    Args:
        hooked: The model.
        batch: The texts.
        given: Sender to the activation put there.
        receivers: What receives.
    """
    model, found = hooked.model, {}
    with hooked.watch("out", "mlp_out") as view:
        base, _, _ = read_batch(model, batch, known=False)
    own = {point: view[point] for point in view.points}
    for sender, value in given.items():
        held: _Replacements = {
            point: (lambda old, still=still: still) for point, still in own.items() if _behind(point, sender)
        }
        reached = [one for one in receivers if one.site != LOGITS]
        names = dict.fromkeys(one.site for one in reached)
        layers = sorted({one.layer for one in reached})
        with hooked.watch(*(names or ["out"]), layers=layers, replace={**held, **sender.put(value)}) as view:
            direct, _, _ = read_batch(model, batch, known=False)
        for receiver in receivers:
            sums = direct
            if receiver.site != LOGITS:
                with hooked.watch("out", layers=(), replace=receiver.put(view[receiver.point])):
                    sums, _, _ = read_batch(model, batch, known=False)
            found[sender, receiver] = sums - base
    return base, found


def _behind(point: Point, sender: Component) -> bool:
    """Return whether an attention's or MLP's output comes behind the sender."""
    site, layer = point
    return layer > sender.layer or (layer == sender.layer and site == "mlp_out" and sender.site in _OF_ATTENTION)


@torch.no_grad()
def sent(hooked: HookedModel, batch: Batch, senders: Sequence[Component]) -> dict[Component, Tensor]:
    """Return what each sender gives in a model's own run."""
    with hooked.watch(
        *dict.fromkeys(one.site for one in senders), layers=sorted({one.layer for one in senders})
    ) as view:
        counted_states(hooked.model, batch)
    return {one: view[one.point] for one in senders}


@torch.no_grad()
def resampled(
    hooked: HookedModel,
    encoded: Sequence[EncodedProblem],
    items: Sequence[int],
    batch: Batch,
    senders: Sequence[Component],
) -> dict[Component, Tensor]:
    """Return what each sender gives where the same model reads another text: the next one of the split.

    Positions are counted from the beginning of the solution; where the other text has none there, its nearest is taken.

    Args:
        hooked: The model.
        encoded: All texts of the split.
        items: Those of the batch.
        batch: These, as the model reads them.
        senders: What is looked at.
    """
    others = [encoded[(item + 1) % len(encoded)] for item in items]
    given = sent(hooked, collate(others, device=str(batch.input_ids.device)), senders)
    places = torch.arange(batch.input_ids.shape[1])
    at = torch.stack(
        [
            (places - len(encoded[item].prompt) + len(other.prompt)).clamp(0, other.length - 1)
            for item, other in zip(items, others, strict=True)
        ]
    ).to(batch.input_ids.device)
    rows = torch.arange(len(others), device=at.device)[:, None]
    return {one: value[rows, at] for one, value in given.items()}
