"""The view through nnsight. Importing it puts ``.save`` on every Python object and wraps ``torch.Tensor.backward``."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from nnsight import NNsight
from torch import Tensor, nn

from mastlens.models.backends import placements, same_weights
from mastlens.models.backends.recording import Recorder
from mastlens.models.backends.sites import INSIDE, Anatomy, Site, opened
from mastlens.models.backends.stream import OUTSIDE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CALL = "attention_interface_1"
"""How nnsight names the call of the attention function in a layer's forward (its choice is ..._0)."""


class TraceBackend:
    """Traces of nnsight, around the same parameters as the user's model.

    Wrapping a module gives it another ``forward`` for good, so a tree of its own is wrapped.
    """

    def __init__(self, model: "PreTrainedModel", anatomy: Anatomy):
        self.model, self.anatomy = model, anatomy
        self.tree = same_weights(model)
        self.wrapped = NNsight(self.tree)
        self._order: dict[tuple[str, str], float] = {}

    def names(self, layer: int) -> tuple[str, ...]:
        """Return the activations that can be watched in a layer."""
        names = self.anatomy.names(layer)
        if layer == OUTSIDE:
            return names
        traced = _CALL in self._envoy(self.anatomy.attention_path(layer)).source.names
        return names if traced else tuple(name for name in names if name not in INSIDE)

    @contextmanager
    def watching(self, recorder: Recorder) -> Iterator[None]:
        """Choose the attention function of the wrapped tree, as the plain backend does."""
        eager = any(name in ("scores", "pattern") for name, _ in recorder.wanted)
        self.tree.set_attn_implementation("eager" if eager else self.model.config._attn_implementation)
        yield

    def forward(self, recorder: Recorder, inputs: dict[str, Any]) -> Tensor:
        """Trace the model and return its logits."""
        self.tree.train(self.model.training)
        sites = self._in_order(self.anatomy.sites(recorder.wanted), inputs)
        kept: dict[str, Tensor] = {}
        # Everything but the with line itself is in a method: nnsight compiles the block's source anew.
        with self.wrapped.trace(**inputs, use_cache=False):
            self._record(sites, recorder, kept)
        return kept["logits"]

    def weight(self, name: str, layer: int) -> Tensor:
        """Return the stored parameter that holds a projection, as nnsight has it."""
        return self._envoy(self.anatomy.projections[name, layer].module).weight

    def _envoy(self, path: str) -> Any:
        return self.wrapped.get(path) if path else self.wrapped

    def _record(self, sites: list[Site], recorder: Recorder, kept: dict[str, Tensor]) -> None:
        for site in sites:
            envoy = self._envoy(site.path)
            if site.side == "inside":
                self._record_inside(site, envoy, recorder)
            elif site.side == "stream":
                for point in site.placements:
                    recorder.take_in_place(envoy.input, point)
            elif site.side == "input":
                envoy.input = recorder.take(envoy.input, site.placements)
            else:
                given = envoy.input if site.normed is not None else None  # a block's has long gone by
                value, closed = opened(envoy.output)
                envoy.output = closed(recorder.take(value, site.lie(value, value if given is None else given)))
        kept["logits"] = self.wrapped.output.logits

    def _record_inside(self, site: Site, envoy: Any, recorder: Recorder) -> None:
        points = {name: (name, layer) for name, layer in site.placements}
        call = envoy.source.__getattr__(_CALL)
        (module, query, key, *rest), options = call.inputs
        if "q_rot" in points:
            query = recorder.take(query, {points["q_rot"]: placements.TRANSPOSED})
        if "k_rot" in points:
            key = recorder.take(key, {points["k_rot"]: placements.TRANSPOSED})
        call.inputs = ((module, query, key, *rest), options)
        if not points.keys() & {"scores", "pattern"}:
            return
        softmax = next(name for name in call.source.names if "softmax" in name)
        placement = placements.keys(key.shape[-2])
        operation = call.source.__getattr__(softmax)
        if "scores" in points:
            operation.input = recorder.take(operation.input, {points["scores"]: placement})
        if "pattern" in points:
            operation.output = recorder.take(operation.output, {points["pattern"]: placement})

    def _in_order(self, sites: list[Site], inputs: dict[str, Any]) -> list[Site]:
        """Sort the sites as the model comes by: nnsight reads in the order of the forward pass and in no other.

        Whether a layer norms q before it projects k is written nowhere, so one token is sent through, once.
        """
        if not self._order:
            self._order = _calls(self.tree, {name: value[:1, :1] for name, value in inputs.items()})

        def moment(site: Site) -> float:
            if site.side == "stream":
                return self._order[site.path, "input"] - 0.25  # before the module's input, where that is one of its own
            if site.side != "inside":
                return self._order[site.path, site.side]
            layer = next(layer for _, layer in site.placements)
            return self._order[self.anatomy.projections["o", layer].module, "input"] - 0.5

        return sorted(sites, key=moment)


@torch.no_grad()
def _calls(model: nn.Module, inputs: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Return when in a forward pass each module's input and output come by: (path, side) -> a rising number."""
    order: dict[tuple[str, str], float] = {}

    def note(key: tuple[str, str]) -> None:
        order.setdefault(key, float(len(order)))

    with ExitStack() as stack:
        for path, module in model.named_modules():
            before = module.register_forward_pre_hook(lambda *_, key=(path, "input"): note(key))
            after = module.register_forward_hook(lambda *_, key=(path, "output"): note(key))
            stack.callback(before.remove)
            stack.callback(after.remove)
        model(**inputs, use_cache=False)
    return order
