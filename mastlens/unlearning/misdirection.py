"""RMU's side of a run: where activations are steered to (representation misdirection, arXiv:2403.03218)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.errors import MastlensError
from mastlens.unlearning.passes import Passes


def unit_direction(hidden_size: int, seed: int) -> Float[Tensor, " hidden"]:
    """Return u: uniform on [0, 1) in every dimension, divided by its norm, as RMU's code draws it.

    All entries are positive, so u is not uniform on the sphere. It hangs on the seed alone, not on the device.
    """
    drawn = torch.rand(hidden_size, generator=torch.Generator().manual_seed(seed))
    return drawn / torch.linalg.vector_norm(drawn)


def control_vector(states: Float[Tensor, "tokens hidden"], steering: float, seed: int) -> Float[Tensor, " hidden"]:
    """Return c u, with c = ``steering`` times the median norm of retain activations.

    RMU states c as a number (6.5, 20), which fits one model and one layer; activations' norms differ a hundredfold
    between models.

    Args:
        states: Activations of retain problems at the steering layer, before unlearning.
        steering: c in units of their median norm.
        seed: Of u.
    """
    norm = torch.linalg.vector_norm(states.float(), dim=1).median()
    return steering * norm * unit_direction(states.shape[1], seed).to(states.device)


def check_reach(passes: Passes, layer: int, reached: set[int]) -> None:
    """Raise if steering ``layer`` gives no gradient to some selected tensor.

    Args:
        passes: Of the run.
        layer: The steering layer.
        reached: The parameters' ids that are selected.
    """
    below = {id(p) for module in passes.layers[: layer + 1] for p in module.parameters()}
    below |= {id(p) for p in passes.model.get_input_embeddings().parameters()}
    if lost := len(reached - below):
        raise MastlensError(
            f"{lost} selected tensors lie above layer {layer}, which rmu steers: no gradient reaches them. Select "
            f"tensors in layers 0 to {layer} (RMU: mlp.down_proj of layers {max(layer - 2, 0)} to {layer})."
        )
