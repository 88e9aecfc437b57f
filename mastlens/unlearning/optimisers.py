"""The optimiser of an unlearning run: AdamW, with a state in float32, in 8 bits, or in pages that can leave the GPU.

The state of torch's AdamW is twice the float32 masters. In 8 bits it is about a quarter of that, block by block with a
scale each; bitsandbytes and torchao both keep it, and which one did is part of the record, because they round
differently. Paged state is bitsandbytes' alone: what does not fit on the GPU waits in the machine's memory.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from mastlens.errors import MissingPackage, NotSupported, unknown
from mastlens.unlearning.settings import OPTIMIZERS

BETAS = (0.9, 0.999)
BITSANDBYTES, TORCHAO = "bitsandbytes", "torchao"
_PARTS = ("codes", "scale", "qmap")  # of a quantised state of torchao's
_EIGHT_BITS = "adamw-8bit"


def library_of(optimizer: str, device: str) -> str:
    """Return the library that an optimiser comes from; empty for torch's own.

    Args:
        optimizer: One of ``OPTIMIZERS``.
        device: Where the model is.

    Raises:
        MastlensError: If there is no such optimiser, the library is not installed, or it does not work there.
    """
    if optimizer not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS)
    if optimizer == OPTIMIZERS[0]:
        return ""
    gpu = torch.device(device).type == "cuda"
    fitting = [BITSANDBYTES] if gpu else []
    if optimizer == _EIGHT_BITS:
        fitting.append(TORCHAO)
    if not fitting:
        raise NotSupported(
            f"--optimizer {optimizer} keeps its state in pages between a CUDA GPU and the machine's memory, and the "
            f"model is on {device}. Use --optimizer {_EIGHT_BITS}, which torchao has on a CPU too, or leave it out."
        )
    found = next((name for name in fitting if importlib.util.find_spec(name) is not None), None)
    if found is None:
        raise MissingPackage(
            f"--optimizer {optimizer} needs {' or '.join(fitting)}. Install the extra: pip install 'mastlens[8bit]'; "
            f"or leave it out: AdamW's own state is 8 bytes a selected parameter."
        )
    return found


def recorded_optimiser(optimizer: str, device: str) -> dict[str, str]:
    """Return what the record of a run says of its optimiser: nothing of torch's own, which earlier records have."""
    library = library_of(optimizer, device)
    return {"optimizer": optimizer, "optimizer_library": f"{library} {version(library)}"} if library else {}


def make_optimiser(optimizer: str, parameters: Sequence[Tensor], lr: float) -> torch.optim.Optimizer:
    """Return AdamW over the parameters, betas (0.9, 0.999), without weight decay.

    Args:
        optimizer: One of ``OPTIMIZERS``.
        parameters: What it moves, all on one device.
        lr: Learning rate.

    Raises:
        MastlensError: As ``library_of``.
    """
    library = library_of(optimizer, str(parameters[0].device))
    if not library:
        return torch.optim.AdamW(parameters, lr=lr, betas=BETAS, weight_decay=0.0)
    made: Callable[..., torch.optim.Optimizer]
    if library == TORCHAO:
        from torchao.optim import AdamW8bit as made  # pyright: ignore[reportMissingImports] - an extra
    else:
        import bitsandbytes  # pyright: ignore[reportMissingImports] - an extra

        names = {_EIGHT_BITS: "AdamW8bit", "paged-adamw": "PagedAdamW32bit", "paged-adamw-8bit": "PagedAdamW8bit"}
        made = getattr(bitsandbytes.optim, names[optimizer])
    return made(parameters, lr=lr, betas=BETAS, weight_decay=0.0)


def take_step(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Take a step at a learning rate."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao compiles its step, and a number would be compiled in
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
    on_cpu = all(p.device.type == "cpu" for group in optimiser.param_groups for p in group["params"])
    compiled = type(optimiser).__module__.startswith(TORCHAO)
    # Compiling takes a compiler and a minute; on a CPU the step is no bottleneck.
    with torch.compiler.set_stance("force_eager") if compiled and on_cpu else nullcontext():
        optimiser.step()


def moments(label: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named plain tensors.

    Args:
        label: What their names begin with.
        optimiser: Any of those made here, or any whose state is tensors and whole numbers.
    """
    found: dict[str, Tensor] = {}
    for number, values in optimiser.state_dict()["state"].items():
        for key, value in values.items():
            name = f"{label}.{number}.{key}"
            if _is_quantised(value):
                found |= {f"{name}.{part}": getattr(value, part) for part in _PARTS}
            else:
                found[name] = value if isinstance(value, Tensor) else torch.tensor(value)
    return found


def load_moments(label: str, optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Set the optimiser to the state that ``moments`` returned, bit for bit."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in state.items():
        if name.startswith(f"{label}."):
            number, key, *part = name.removeprefix(f"{label}.").split(".")
            of = found.setdefault(int(number), {})
            if part:
                of.setdefault(key, {})[part[0]] = value
            else:
                of[key] = value
    if type(optimiser).__module__.startswith(BITSANDBYTES):
        for values in found.values():  # it counts in Python
            values["step"] = int(values["step"])
    elif any(isinstance(value, dict) for values in found.values() for value in values.values()):
        _fill(optimiser, found)
        return
    optimiser.load_state_dict({**optimiser.state_dict(), "state": found})


def _is_quantised(value: Any) -> bool:
    return isinstance(value, Tensor) and all(hasattr(value, part) for part in _PARTS)


@torch.no_grad()
def _fill(optimiser: torch.optim.Optimizer, found: Mapping[int, Mapping[str, Any]]) -> None:
    """Set quantised states of torchao's, which torch's own loading would cast."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, values in found.items():
        parameter = parameters[number]
        state = optimiser.state[parameter]
        for key, value in values.items():
            if not isinstance(value, dict):
                state[key] = value if key == "step" else value.to(parameter.device)
                continue
            # Its own way of making a fresh state, filled with the bits that were kept.
            state[key] = optimiser._new_buffer(parameter, key == "exp_avg")  # pyright: ignore[reportAttributeAccessIssue]
            for part, kept in value.items():
                getattr(state[key], part).copy_(kept)
