"""A checkpoint brought to life by transformers, and held against what the checkpoint says: tensor for tensor."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from mastlens.architectures.placement import Place, locate_tensors
from mastlens.architectures.rotation import rotate_rows_alone
from mastlens.errors import BadFile, NotSupported, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mastlens.checkpoints.checkpoint import Checkpoint


def load_model(
    checkpoint: "Checkpoint", *, device: str, dtype: torch.dtype | None, trust_remote_code: bool
) -> "PreTrainedModel":
    """Load the model with transformers, in evaluation mode, every gradient off (see ``Checkpoint.load_model``)."""
    with quiet():
        try:
            model, info = _loaded(checkpoint, dtype, trust_remote_code)
        except Exception as error:  # transformers raises a dozen classes for what is one thing to the user
            raise NotSupported(
                f"transformers cannot load {checkpoint.spec}: {type(error).__name__}: {error}"
            ) from error
    if missing := sorted(info["missing_keys"]):
        raise BadFile(
            f"{checkpoint.spec} lacks {len(missing)} tensors that a {checkpoint.model_type} model needs, first "
            f"{missing[0]}. They would be random numbers. Complete the checkpoint."
        )
    _settle(checkpoint, model)
    rotate_rows_alone(model)
    return model.to(device).eval().requires_grad_(False)


def _loaded(checkpoint: "Checkpoint", dtype: torch.dtype | None, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    settings: dict[str, Any] = {
        "dtype": dtype or "auto",
        "output_loading_info": True,
        "trust_remote_code": trust_remote_code,
    }
    if not checkpoint.dequantised and not checkpoint.remote:
        loaded: Any = AutoModelForCausalLM.from_pretrained(checkpoint.folder, **settings)
        return loaded
    # Read as everything here reads it: transformers would take other kernels, or other blocks, on other machines, and
    # fetch whole files from an address.
    config: Any = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=trust_remote_code)
    for part in (config, config.get_text_config()):
        vars(part).pop("quantization_config", None)
    with torch.device("meta"):
        kind: Any = type(AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code))
    stored = checkpoint.plain_dtype
    weights = {name: _in(checkpoint.tensor(name), dtype or stored) for name in checkpoint.tensors}
    settings |= {"dtype": dtype or stored}
    model, info = kind.from_pretrained(None, config=config, state_dict=weights, **settings)
    if checkpoint.remote and (checkpoint.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(checkpoint.folder)
    return model, info


def _in(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.to(dtype) if value.is_floating_point() else value


@torch.no_grad()
def _settle(checkpoint: "Checkpoint", model: "PreTrainedModel") -> None:
    """Put in what an adapter changes, and check that all else in the model is what the checkpoint says.

    A tensor that the model has no place for (of a further head, of positions) is left out by transformers.

    Raises:
        MastlensError: If a tensor is damaged, or the model has another one than its checkpoint.
    """
    state = model.state_dict()
    places = locate_tensors(checkpoint.tensors, {name: tuple(value.shape) for name, value in state.items()})
    for name, stored in checkpoint.tensors.items():
        if not stored.dtype.is_floating_point:
            continue
        value = checkpoint.rows(name, 0, None, mapped=True)  # names a damaged tensor
        if name in checkpoint.added:
            _part(checkpoint, name, places, state).copy_(value)
        elif name in places:
            there = _part(checkpoint, name, places, state)
            if there.shape != value.shape or not torch.equal(there, value.to(there.dtype)):
                raise NotSupported(
                    f"{name} of {checkpoint.spec} is not what transformers runs with as {places[name].parameter}: it "
                    "was overwritten, tied or converted while loading. Nothing could be said about this model. Please "
                    "report the architecture."
                )


def _part(
    checkpoint: "Checkpoint", name: str, places: dict[str, Place], state: dict[str, torch.Tensor]
) -> torch.Tensor:
    if name not in places:
        raise unknown(f"parameter in the model of {checkpoint.spec}", name, state)
    return places[name].of(state[places[name].parameter])


@contextmanager
def quiet() -> Iterator[None]:
    """Within, transformers shows no progress bars and only errors."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
