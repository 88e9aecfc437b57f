"""A live model's parameters by the names of its checkpoint: written in place, swapped, put back bit for bit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mastlens.architectures.catalogue import locate_parameters
from mastlens.errors import NotTogether, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same in dtype, shape and every bit."""
    # By bytes, not by value: 0.0 equals -0.0, and they are not the same bits.
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)))


def named_weights(model: "PreTrainedModel", names: list[str]) -> dict[str, torch.nn.Parameter]:
    """Return the parameters of a model by their names in its checkpoint, in the order of ``names``.

    Raises:
        MastlensError: For a name that the model does not have.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied one goes by each of its names
    where = locate_parameters(names, parameters)
    for name in names:
        if name not in where:
            raise unknown("parameter in the model", name, parameters)
    return {name: parameters[where[name]] for name in names}


@contextmanager
def swapped(model: "PreTrainedModel", tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put ``tensors`` into the model's parameters in place; on leaving, restore the old ones bit for bit.

    The old values come back from a copy, never by subtraction, and also after an exception.
    """
    parameters = named_weights(model, list(tensors))
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            raise NotTogether(
                f"{name} is {tuple(parameters[name].shape)} in the model and {tuple(tensor.shape)} in the edit."
            )
    kept = snapshot(model, list(tensors))
    try:
        write_weights(model, tensors)
        yield
    finally:
        write_weights(model, kept)


def snapshot(model: "PreTrainedModel", names: list[str]) -> dict[str, Tensor]:
    """Return copies of the named parameters."""
    return {name: parameter.detach().clone() for name, parameter in named_weights(model, names).items()}


@torch.no_grad()
def write_weights(model: "PreTrainedModel", tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors`` into the model's parameters in place."""
    for name, parameter in named_weights(model, list(tensors)).items():
        parameter.copy_(tensors[name])
