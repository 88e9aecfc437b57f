"""The view through plain Hugging Face: hooks on the user's own model, gone when the block ends."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mastlens.architectures.rotation import rows_alone
from mastlens.models.backends.attention import tapped
from mastlens.models.backends.placements import Placement
from mastlens.models.backends.recording import Recorder
from mastlens.models.backends.sites import Anatomy, Site, first_argument, opened

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PlainBackend:
    """Hooks on the modules, and a look into the attention function.

    Args:
        model: The user's model. Nothing of it is changed outside of ``watching``; inside, hooks are on its modules
            and, for activations inside the attention function, another function's name in its configuration.
    """

    def __init__(self, model: "PreTrainedModel", anatomy: Anatomy):
        self.model, self.anatomy = model, anatomy

    def names(self, layer: int) -> tuple[str, ...]:
        """Return the activations that can be watched in a layer."""
        return self.anatomy.names(layer)

    @contextmanager
    def watching(self, recorder: Recorder) -> Iterator[None]:
        """Record in every forward pass of the model inside the block, whoever calls it."""
        with ExitStack() as stack:
            inside = {}
            for site in self.anatomy.sites(recorder.wanted):
                module = self.model.get_submodule(site.path)
                if site.side == "inside":
                    inside[site.path] = _tap(site, recorder)
                elif site.side == "stream":
                    hook = module.register_forward_pre_hook(partial(_stream, site, recorder), with_kwargs=True)
                    stack.callback(hook.remove)
                elif site.side == "output":
                    hook = module.register_forward_hook(partial(_output, site, recorder))
                    stack.callback(hook.remove)
                else:
                    hook = module.register_forward_pre_hook(partial(_input, site, recorder), with_kwargs=True)
                    stack.callback(hook.remove)
            if inside:
                stack.enter_context(tapped(self.model, inside))
            yield

    def forward(self, recorder: Recorder, inputs: dict[str, Any]) -> Tensor:
        """Run the model and return its logits."""
        with rows_alone(self.model):
            return self.model(**inputs, use_cache=False).logits

    def weight(self, name: str, layer: int) -> Tensor:
        """Return the stored parameter that holds a projection."""
        return self.anatomy.weight(name, layer)


def _output(site: Site, recorder: Recorder, module: nn.Module, args: tuple, output: Any) -> Any:
    value, closed = opened(output)
    return closed(recorder.take(value, site.lie(value, args[0] if args else value)))


def _stream(site: Site, recorder: Recorder, module: nn.Module, args: tuple, kwargs: dict) -> None:
    for point in site.placements:
        recorder.take_in_place(first_argument(args, kwargs, site.path), point)


def _input(site: Site, recorder: Recorder, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    value = recorder.take(first_argument(args, kwargs, site.path), site.placements)
    return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": value})


def _tap(site: Site, recorder: Recorder) -> tuple[frozenset[str], Any]:
    points = {name: (name, layer) for name, layer in site.placements}

    def tap(name: str, raw: Tensor, placement: Placement) -> Tensor:
        return recorder.take(raw, {points[name]: placement})

    return frozenset(points), tap
