"""Part of a forward pass: the layers below a changed one give what they gave before, and are not run again.

The model's own forward does everything else (masks, rotary positions, norms, head), so nothing here knows an
architecture: a skipped layer hands out the output that was recorded when it last ran.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mastlens.architectures.rotation import rows_alone
from mastlens.problems.encoding import Batch, EncodedProblem, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_PROBE = 8  # tokens of prompt and of solution


class PartialForward:
    """Runs a model from any layer upwards on a batch whose lower layers are recorded.

    What is recorded are all layers' outputs for one batch: layers x batch x length x hidden size numbers.

    Args:
        layers: The model's decoder layers, in the order in which they run.
    """

    def __init__(self, layers: Iterable[nn.Module]):
        self.layers = list(layers)
        self._outputs: list[Any] = [None] * len(self.layers)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the layers' outputs of the forward pass inside."""

        def hook(index: int) -> Any:
            def record(module: nn.Module, args: Any, output: Any) -> None:
                self._outputs[index] = output

            return record

        handles = [layer.register_forward_hook(hook(index)) for index, layer in enumerate(self.layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def above(self, layer: int) -> Iterator[None]:
        """Within, a forward pass over the recorded batch runs only the layers from ``layer`` on."""
        with _replaced({module: self._handing_out(index) for index, module in enumerate(self.layers[:layer])}):
            yield

    @contextmanager
    def through(self, layer: int, *, alone: bool = True) -> Iterator[list[torch.Tensor]]:
        """Within, a forward pass appends the output states of ``layer`` to what is yielded.

        Args:
            layer: The layer.
            alone: Run none of the layers above it.
        """
        found: list[torch.Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        def passing_on(*args: Any, **kwargs: Any) -> Any:
            return args[0] if args else kwargs["hidden_states"]

        handle = self.layers[layer].register_forward_hook(keep)
        try:
            with _replaced(dict.fromkeys(self.layers[layer + 1 :] if alone else [], passing_on)):
                yield found
        finally:
            handle.remove()

    def hand_out(self, layer: int, states: torch.Tensor) -> None:
        """Let ``layer`` and those below give these states (batch, length, hidden) when they are skipped."""
        self._outputs[: layer + 1] = [states] * (layer + 1)

    def _handing_out(self, index: int) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._outputs[index]

        return forward

    @contextmanager
    def recomputed(self) -> Iterator[None]:
        """Within, a pass keeps each layer's input alone; what happens inside is computed again on the way back."""

        def twice(forward: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

            return run

        with _replaced({layer: twice(layer.forward) for layer in self.layers}):
            yield

    def versions(self) -> list[int]:
        """Return how often each recorded tensor was changed in place since it was made."""
        outputs = [output if isinstance(output, tuple) else (output,) for output in self._outputs]
        return [part._version for output in outputs for part in output if isinstance(part, torch.Tensor)]

    @property
    def plain(self) -> bool:
        """Whether every layer gave its states and nothing beside them when it was last recorded."""
        return all(isinstance(output, torch.Tensor) for output in self._outputs)

    def clear(self) -> None:
        """Let go of what was recorded."""
        self._outputs = [None] * len(self.layers)


@contextmanager
def _replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Within, each module does something else when it is called.

    A forward of the instance, not of the class, and the module stays where it is: its attributes, which some models
    read in their loop, are still there, and so are hooks.
    """
    kept = [module.__dict__.get("forward") for module in forwards]
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward in zip(forwards, kept, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


def partial_forward(
    model: "PreTrainedModel",
    names: Sequence[str],
    encoded: Sequence[EncodedProblem],
    *,
    starts: Iterable[int] | None = None,
) -> PartialForward | None:
    """Return the partial forward pass of a model, if it is one and the same computation as the full one.

    That is tried, not assumed: on the beginning of a problem, from every layer asked for, after the model has run on
    another one. A model in which upper layers use more of the lower ones than their last output fails this.

    Args:
        model: The model, in evaluation mode.
        names: Names of parameters in every layer that counts, e.g. of all attention projections.
        encoded: At least one problem to try it on; the first two are used.
        starts: The layers that it will start from; None for all.

    Returns:
        None where the model's layers cannot be told from the names, or the results differ.
    """
    layers = decoder_layers(model, names)
    if layers is None:
        return None
    # A few tokens show it as well as many, and a forward pass for every layer is not free.
    short = [EncodedProblem(ids.prompt[:_PROBE], ids.solution[:_PROBE]) for ids in encoded[:2]]
    first, *other = (collate([ids], device=str(model.device)) for ids in short)
    partial = PartialForward(layers)
    return partial if same_computation(model, partial, first, *other, starts=starts) else None


def largest_layers(model: nn.Module) -> nn.ModuleList | None:
    """Return the list of modules that holds most of the model: its decoder layers; None where it has no list."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=None)


def decoder_layers(model: nn.Module, names: Sequence[str]) -> nn.ModuleList | None:
    """Return the list of layers in which all the named parameters stand; None where there is no such list."""
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        numbers = [name.removeprefix(f"{path}.").partition(".")[0] for name in names]
        if all(name.startswith(f"{path}.") for name in names) and all(n.isdecimal() for n in numbers):
            return module
    return None


@torch.no_grad()
def same_computation(
    model: "PreTrainedModel",
    partial: PartialForward,
    batch: Batch,
    other: Batch | None = None,
    *,
    starts: Iterable[int] | None = None,
) -> bool:
    """Return whether the passes from each layer on give the logits of the whole pass; ``batch`` stays recorded.

    Args:
        model: The model, in evaluation mode.
        partial: Its layers.
        batch: What it is tried on.
        other: What the model runs on in between.
        starts: The layers to start from; None for all.
    """

    def logits(of: Batch) -> torch.Tensor:
        with rows_alone(model):
            return model(input_ids=of.input_ids, attention_mask=of.attention_mask.long(), use_cache=False).logits

    with partial.recording():
        whole = logits(batch)
    logits(batch if other is None else other)
    versions = partial.versions()  # were a layer to change its input in place, it would spoil the recording
    for layer in range(len(partial.layers) + 1) if starts is None else starts:
        try:
            with partial.above(layer):
                part = logits(batch)
        except Exception:  # a model that needs more than its layers' outputs may raise anything
            return False
        if not torch.allclose(part, whole, rtol=1e-4, atol=1e-5):
            return False
    return partial.versions() == versions
