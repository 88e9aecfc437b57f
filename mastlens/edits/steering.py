"""Steering written into a checkpoint: a direction that is added to every state is a bias, where there is room for one.

What the attention's last projection and the MLP's put out goes into the residual stream; a constant added behind either
is that projection's bias. So a direction can be written of

- ``out`` and ``resid_mid`` (o's bias), and ``z`` of a head (o's bias, the head's columns of o times the direction);
- ``mlp_out`` and ``resid_post`` (the bias of the MLP's last projection), and ``resid_pre`` (that of the layer below).

There is room where the architecture has that bias, or has it by a switch of its configuration (Llama's
``attention_bias`` and ``mlp_bias``); biases that the switch brings along are zero. It is proven before it is written
that a bias does what steering does. Where a norm or a scale stands between the projection and the stream (Gemma 2,
Granite), it does not, and it is refused. A direction that is taken out of states (``inside steer --project``) is
another vector in every state, and no bias.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mastlens.analysis.inside.steers import WHOLE, Direction, Steer, read_direction, steered
from mastlens.architectures.placement import locate_tensors
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import export, shelve_cards
from mastlens.checkpoints.loading import quiet
from mastlens.edits.model_card import write_steered_card
from mastlens.edits.settings import SteerEditSettings
from mastlens.errors import NotSupported
from mastlens.models.backends.sites import Anatomy
from mastlens.models.hooked import HookedModel
from mastlens.runs.calls import takes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HOLDERS = {"out": "o", "resid_mid": "o", "z": "o", "mlp_out": "mlp", "resid_post": "mlp", "resid_pre": "mlp"}
_SWITCHES = {"o": "attention_bias", "mlp": "mlp_bias"}
_TOKENS = 8  # that steered and written model are held against each other on
_FLOOR = 1e-5  # of the largest logit, float32
_ROUNDING = 1e-2  # of what steering changes: what is not the same is off by all of it


@dataclass(frozen=True)
class WrittenBias:
    """A steered model as a checkpoint.

    Attributes:
        out: Its folder.
        tensor: The bias that holds the direction.
        added: Biases that came with the switch, zero but for that one; empty where the model had them.
        switch: The setting of the configuration that was switched on; empty for none.
        error: How far its logits are from the steered model's, as a share of the largest, on eight tokens.
    """

    out: Path
    tensor: str
    added: tuple[str, ...]
    switch: str
    error: float


@takes(SteerEditSettings)
@torch.no_grad()
def steer_edit(settings: SteerEditSettings) -> WrittenBias:
    """Write a complete Hugging Face folder: the checkpoint with a direction added to its states, as a bias.

    Raises:
        MastlensError: If there is no such direction, no bias that could hold it, or a bias does not do what steering
            does; or if ``out`` exists.
    """
    checkpoint = Checkpoint(settings.to)
    direction = read_direction(settings.directions, settings.direction)
    holder = _HOLDERS.get(direction.site)
    if holder is None:
        raise NotSupported(
            f"What is added to {direction.site} is the bias of no module that writes to the stream; a direction can be "
            f"written of {', '.join(_HOLDERS)}. Take one there, or steer while the model runs: inside steer."
        )
    model = checkpoint.load_model(device=settings.device, dtype=torch.float32)
    hooked = HookedModel(model)
    module = _module(model, direction, holder, checkpoint.spec)
    there, weight = module + ".bias", _stored(checkpoint, model, f"{module}.weight")
    name, switch, added, config = weight.removesuffix("weight") + "bias", "", {}, None
    own = getattr(model.get_submodule(module), "bias", None)
    if own is None:
        switch, added = _room(model, there, _SWITCHES[holder], checkpoint.spec)
        config = {**checkpoint.config, switch: True}
    if not _proven(hooked, direction, module, own):
        raise NotSupported(
            f"{there} of {checkpoint.spec} does not do what steering {direction.site} in layer {direction.layer} does: "
            "a norm or a scale stands between the two (as in Gemma 2). Take a direction of out or mlp_out, which stand "
            "before it, or steer while the model runs: inside steer."
        )
    dtype = checkpoint.tensors[weight].dtype
    bias = _beside(own, _constant(hooked, direction) * settings.dose).to(dtype)
    wanted, found = _both(hooked, Steer(direction, settings.dose), module, bias)
    error = float((found - wanted).abs().max() / wanted.abs().max())
    prefix = name.removesuffix(there)
    tensors = {prefix + one: torch.zeros(shape, dtype=dtype) for one, shape in added.items()} | {name: bias}
    rows = {"direction": direction.name, "dose": f"{settings.dose:g}", "bias": name, "switched on": switch or "nothing"}
    out = export(
        checkpoint,
        tensors,
        settings.out,
        card=write_steered_card(checkpoint, rows),
        companions=shelve_cards(checkpoint.companions),
        config=config,
        overwrite=settings.overwrite,
    )
    return WrittenBias(out, name, tuple(prefix + one for one in added), switch, error)


def _module(model: "PreTrainedModel", direction: Direction, holder: str, spec: str) -> str:
    """Return the path of the projection whose bias it would be."""
    anatomy = Anatomy(model)
    layer = direction.layer - (direction.site == "resid_pre")
    if holder == "o" and ("o", layer) in anatomy.projections:
        return anatomy.projections["o", layer].module
    if layer < 0:
        raise NotSupported(
            f"Nothing stands below resid_pre of layer 0 of {spec} but the embedding, which has no bias: every row of "
            "it would have to move. Take a direction of another layer."
        )
    block = anatomy.blocks.get(layer)
    if block is None or not block.down:
        raise NotSupported(
            f"Layer {layer} of {spec} has no one projection that its MLP ends with (a mixture of experts has many), so "
            "there is no bias that could hold the direction. Take a direction of out, or steer while it runs."
        )
    return block.down


def _stored(checkpoint: Checkpoint, model: "PreTrainedModel", parameter: str) -> str:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    places = locate_tensors(checkpoint.tensors, shapes)
    found = next((name for name, place in places.items() if place.parameter == parameter and not place.shared), None)
    if found is None:
        raise NotSupported(f"{checkpoint.spec} has no tensor of its own for {parameter}, so none for its bias.")
    return found


def _constant(hooked: HookedModel, direction: Direction) -> Tensor:
    """Return what a dose of 1 adds to what the projection puts out, float64 on the CPU."""
    vector = direction.vector.double()
    if direction.site != "z":
        return vector
    weights = hooked.heads("o", direction.layer).double().cpu()
    if direction.head == WHOLE or direction.head >= len(weights):
        raise NotSupported(f"{direction.name}: z lies by heads, of which this model has {len(weights)} in a layer.")
    return weights[direction.head] @ vector


def _room(model: "PreTrainedModel", bias: str, switch: str, spec: str) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Return the switch that gives the model this bias, and all parameters that come with it, by shape."""
    from transformers import AutoModelForCausalLM

    config: Any = copy.deepcopy(model.config)
    added: dict[str, tuple[int, ...]] = {}
    if getattr(config, switch, None) is False:
        setattr(config, switch, True)
        with torch.device("meta"), quiet():
            wider = AutoModelForCausalLM.from_config(config)
        own = dict(model.named_parameters())
        added = {name: tuple(value.shape) for name, value in wider.named_parameters() if name not in own}
    if bias not in added:
        raise NotSupported(
            f"{spec} has no {bias}, and its architecture ({type(model).__name__}) no setting that would give it one: "
            "there is no room for the direction. Steer while the model runs instead: inside steer."
        )
    return switch, added


def _beside(own: Tensor | None, constant: Tensor) -> Tensor:
    return constant if own is None else constant + own.double().cpu()


def _proven(hooked: HookedModel, direction: Direction, module: str, own: Tensor | None) -> bool:
    """Return whether a bias does what the direction does, at a length that is of the size of states, to rounding."""
    dose = float(len(direction.vector) ** 0.5 / torch.linalg.vector_norm(direction.vector))
    wanted, found = _both(hooked, Steer(direction, dose), module, _beside(own, _constant(hooked, direction) * dose))
    plain = hooked.model(input_ids=_tokens(hooked), use_cache=False).logits
    # A norm that takes the mean out may leave nothing of a direction: what changes nothing is off by rounding alone.
    most = torch.maximum(_ROUNDING * (wanted - plain).abs().max(), _FLOOR * wanted.abs().max())
    return bool((found - wanted).abs().max() <= most)


def _both(hooked: HookedModel, steer: Steer, module: str, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of the steered model, and those of the model with this bias."""
    model, linear = hooked.model, hooked.model.get_submodule(module)
    with steered(hooked, steer):
        wanted = model(input_ids=_tokens(hooked), use_cache=False).logits
    own = linear.bias
    linear.bias = nn.Parameter(bias.to(device=model.device, dtype=torch.float32), requires_grad=False)
    try:
        return wanted, model(input_ids=_tokens(hooked), use_cache=False).logits
    finally:
        linear.bias = own


def _tokens(hooked: HookedModel) -> Tensor:
    model = hooked.model
    return torch.arange(_TOKENS, device=model.device)[None] % model.config.get_text_config().vocab_size
