"""The view through TransformerLens' TransformerBridge. Importing it patches numeric code of transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module

from mastlens.errors import NotSupported
from mastlens.models.backends import Backend, placements, same_weights
from mastlens.models.backends.placements import Placement
from mastlens.models.backends.plain import PlainBackend
from mastlens.models.backends.recording import Point, Recorder
from mastlens.models.backends.sites import Anatomy
from mastlens.models.backends.stream import OUTSIDE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HOOKS = {
    "x": "attn.hook_in",
    "q": "attn.q.hook_out",
    "k": "attn.k.hook_out",
    "v": "attn.v.hook_out",
    "q_normed": "attn.hook_q_normed",
    "k_normed": "attn.hook_k_normed",
    "q_rot": "attn.hook_rot_q",
    "k_rot": "attn.hook_rot_k",
    "scores": "attn.hook_attn_scores",
    "pattern": "attn.hook_pattern",
    "z": "attn.o.hook_in",
    "out": "attn.o.hook_out",
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "mlp_in": "mlp.hook_in",
    "mlp_hidden": "mlp.out.hook_in",
    "mlp_out": "mlp.hook_out",
}
_OUTSIDE = {"embed": "embed.hook_out", "ln_final": "ln_final.hook_out", "logits": "unembed.hook_out"}


class BridgeBackend:
    """A bridge without weight processing, around the same parameters as the user's model.

    Booting a bridge replaces modules of what it is given, so it is given a tree of its own.

    Raises:
        MastlensError: If TransformerLens has no adapter for the architecture.
    """

    def __init__(self, model: "PreTrainedModel", anatomy: Anatomy):
        self.model, self.anatomy = model, anatomy
        tree = same_weights(model).eval()
        tree.set_attn_implementation("eager")  # the only one with scores and pattern
        truth = self._probe(PlainBackend(tree, anatomy))
        try:
            self.bridge = build_bridge_from_module(tree, type(model).__name__, hf_config=tree.config)
        except ValueError as error:
            raise NotSupported(
                f"TransformerLens cannot wrap a {type(model).__name__} ({error}). Use the plain backend."
            ) from error
        hooks = self.bridge.hook_dict
        self._shown = frozenset(point for point in truth if _hook(point) in hooks)
        seen = self._probe(self)
        # Some hooks never fire, and where TransformerLens cuts a fused output otherwise (a gate left in q) the same
        # name means something else: only what was proven equal is offered.
        self._shown = frozenset(point for point, value in seen.items() if _same(value, truth[point]))

    def names(self, layer: int) -> tuple[str, ...]:
        """Return the activations that can be watched in a layer: those that agree with plain Hugging Face."""
        return tuple(name for name in self.anatomy.names(layer) if (name, layer) in self._shown)

    @contextmanager
    def watching(self, recorder: Recorder) -> Iterator[None]:
        """Prepare the bridge; its hooks are on modules of its own, and only while it runs."""
        self.bridge.train(self.model.training)
        yield

    def forward(self, recorder: Recorder, inputs: dict[str, Any]) -> Tensor:
        """Run the bridge and return its logits."""

        def record(point: Point) -> Any:
            def hook(value: Tensor, hook: Any) -> Tensor:
                if point[0] == "resid_mid":
                    return recorder.take_in_place(value, point)
                return recorder.take(value, {point: self._placement(point, value)})

            return _hook(point), hook

        inputs = dict(inputs)
        ids = inputs.pop("input_ids")
        # Left to itself the bridge counts positions from the first token that is not padding, and the model does not.
        positions = inputs.pop("position_ids", torch.arange(ids.shape[1], device=ids.device)[None])
        # The stream first: where the MLP reads it without a norm, both have one hook.
        hooks = [record(point) for point in sorted(recorder.wanted, key=lambda point: point[0] != "resid_mid")]
        return self.bridge.run_with_hooks(ids, return_type="logits", fwd_hooks=hooks, position_ids=positions, **inputs)

    def weight(self, name: str, layer: int) -> Tensor:
        """Return the stored parameter that holds a projection, as the bridge has it."""
        stored = self.anatomy.projections[name, layer].stored
        for bridged, parameter in self.bridge.named_parameters():
            if bridged.replace("._original_component", "") == stored:
                return parameter
        raise NotSupported(f"TransformerLens does not keep {stored} as it is stored. Use the plain backend's weights.")

    @torch.no_grad()
    def _probe(self, backend: Backend) -> dict[Point, Tensor]:
        """Return what passes by in a backend, in evaluation mode, when two tokens are sent through."""
        layers = (*self.anatomy.layers, OUTSIDE)
        points = [(name, layer) for layer in layers for name in backend.names(layer)]
        recorder = Recorder(tuple(points), gradients=False, replacements={})
        inputs = {"input_ids": torch.tensor([[0, 1]], device=self.model.device)}
        if backend is self:
            self.bridge.eval()
            self.forward(recorder, inputs)
        else:
            with backend.watching(recorder):
                backend.forward(recorder, inputs)
        return {point: seen.value for point, seen in recorder.seen.items()}

    def _placement(self, point: Point, value: Tensor) -> Placement:
        name, layer = point
        if name in ("q_normed", "k_normed") and value.dim() == 4:
            return placements.TRANSPOSED
        if name in ("q", "k", "v", "q_normed", "k_normed", "z") and value.dim() == 3:
            return placements.split(self.anatomy.projections["o" if name == "z" else name[0], layer].heads)
        return placements.WHOLE


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree to rounding, apart from scores that are masked away."""
    if a.shape != b.shape:
        return False
    kept = b > torch.finfo(b.dtype).min / 2
    a, b, eps = a[kept].double(), b[kept].double(), torch.finfo(b.dtype).eps
    return bool(torch.linalg.vector_norm(a - b) <= eps**0.5 * torch.linalg.vector_norm(b))


def _hook(point: Point) -> str:
    """Return the name of the hook; of what TransformerLens does not have, a name that it does not have either."""
    name, layer = point
    return _OUTSIDE[name] if layer == OUTSIDE else f"blocks.{layer}.{_HOOKS.get(name, name)}"
