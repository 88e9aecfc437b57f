"""Hidden states of one model put into another, one layer at a time, and what that does to the answers' log-probability.

The states at the positions from which the counted tokens are predicted are patched, as the depth score does it
(arXiv:2605.24614, "span"); all else the model that is patched computes itself. Layers below a patch give what they
gave, and are not run again where that is the same computation.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mastlens.errors import NotSupported
from mastlens.models.batching import by_length
from mastlens.models.likelihood import read_solutions
from mastlens.models.suffix import PartialForward, largest_layers, same_computation
from mastlens.problems.encoding import Batch, EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PatchedLogprobs:
    """What the source says of each text, unpatched and patched.

    Attributes:
        counts: Counted tokens of each text.
        unpatched: Summed log-probability of each, in nats.
        patched: Name of the model whose states were put in, to the same, layer by layer.
    """

    counts: Float[np.ndarray, " texts"]
    unpatched: Float[np.ndarray, " texts"]
    patched: Mapping[str, Float[np.ndarray, "layers _"]]


def layers_of(model: "PreTrainedModel") -> nn.ModuleList:
    """Return a model's decoder layers.

    Raises:
        MastlensError: If it keeps them in another way than all known architectures do.
    """
    layers = largest_layers(model)
    if layers is None:
        raise NotSupported(f"The layers of {type(model).__name__} cannot be told: it has no list of modules.")
    return layers


def predicting(batch: Batch) -> Bool[Tensor, "batch length"]:
    """Return where the positions are from which a batch's counted tokens are predicted."""
    return nn.functional.pad(batch.is_solution[:, 1:], (0, 1))


@torch.no_grad()
def states_of(model: "PreTrainedModel", batch: Batch) -> list[Float[Tensor, "tokens hidden"]]:
    """Return what every layer gives at the positions from which a batch's counted tokens are predicted."""
    places, found = predicting(batch), []

    def keep(_: nn.Module, args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[places])

    handles = [layer.register_forward_hook(keep) for layer in layers_of(model)]
    try:
        read_solutions(model, batch, known=True)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def patched(
    layer: nn.Module, places: Bool[Tensor, "batch length"], states: Float[Tensor, "tokens hidden"]
) -> Iterator[None]:
    """Within, a layer gives other states at some positions."""

    def put(_: nn.Module, args: Any, output: Any) -> Any:
        given = output[0] if isinstance(output, tuple) else output
        mixed = given.clone()
        mixed[places] = states.to(given)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    handle = layer.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def patched_logprobs(
    source: "PreTrainedModel",
    donors: "Mapping[str, tuple[PreTrainedModel, Any]]",
    encoded: Sequence[EncodedProblem],
    *,
    batch_size: int | str,
    progress: str | None = None,
) -> PatchedLogprobs:
    """Put the states of other models into the source, layer by layer, and read what it says then.

    Args:
        source: The model that is patched.
        donors: Name to a model of the same layers and width, and what makes the context in which it is that model, e.g.
            one that puts an edit into the source.
        encoded: Texts, of which the solution counts.
        batch_size: Texts a forward pass.
        progress: Label of a progress bar; None for none.
    """
    layers = list(layers_of(source))
    partial: PartialForward | None = PartialForward(layers)
    counts, unpatched = np.zeros(len(encoded)), np.zeros(len(encoded))
    found = {name: np.zeros((len(layers), len(encoded))) for name in donors}
    tried = False
    batches = by_length(source, encoded, batch_size, progress)
    for items, batch in batches:
        with batches.fitting():
            if partial is not None and not tried:
                partial, tried = partial if same_computation(source, partial, batch) else None, True
            given = {}
            for name, (model, context) in donors.items():
                with context():
                    given[name] = states_of(model, batch)
            with nullcontext() if partial is None else partial.recording():
                said = read_solutions(source, batch).logprobs
            unpatched[items], counts[items] = _numbers(said.sums), _numbers(said.counts)
            places = predicting(batch)
            for name, states in given.items():
                for number, layer in enumerate(layers):
                    above = nullcontext() if partial is None else partial.above(number)
                    with above, patched(layer, places, states[number]):
                        found[name][number, items] = _numbers(read_solutions(source, batch).logprobs.sums)
    return PatchedLogprobs(counts, unpatched, found)


def _numbers(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()
