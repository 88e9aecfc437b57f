"""A live model's parameters by the names of its checkpoint: written in place, swapped, put back bit for bit."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mastlens.architectures.placement import Place, locate_tensors
from mastlens.errors import NotTogether, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same in dtype, shape and every bit."""
    # By bytes, not by value: 0.0 equals -0.0, and they are not the same bits.
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)))


def stored_parameters(model: "PreTrainedModel") -> dict[str, Tensor]:
    """Return name to each floating parameter and buffer that a checkpoint keeps; a tied one by each of its names."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if value.is_floating_point()}


def placed_weights(model: "PreTrainedModel", names: Iterable[str]) -> dict[str, tuple[Tensor, Place]]:
    """Return name in the checkpoint to the parameter or buffer that holds the tensor, and its place there, in order.

    A parameter may hold many: transformers stacks experts that are stored one by one.

    Raises:
        MastlensError: For a name that the model does not have.
    """
    names = list(names)
    parameters = stored_parameters(model)
    where = locate_tensors(names, {name: tuple(parameter.shape) for name, parameter in parameters.items()})
    for name in names:
        if name not in where:
            raise unknown("parameter in the model", name, parameters)
    return {name: (parameters[where[name].parameter], where[name]) for name in names}


def owners(model: "PreTrainedModel", names: Iterable[str]) -> dict[str, Tensor]:
    """Return name in the checkpoint to the model's parameter that holds the tensor, or holds it among others.

    Raises:
        MastlensError: For a name that the model does not have.
    """
    return {name: parameter for name, (parameter, _) in placed_weights(model, names).items()}


@torch.no_grad()
def named_weights(model: "PreTrainedModel", names: Iterable[str]) -> dict[str, Tensor]:
    """Return a model's weights by their names in its checkpoint, in the order given: parameters, or views of one.

    Raises:
        MastlensError: For a name that the model does not have.
    """
    return {name: place.of(parameter) for name, (parameter, place) in placed_weights(model, names).items()}


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
