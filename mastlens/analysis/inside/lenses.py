"""Tuned lenses: an affine map a layer from the stream to what the final norm reads (Belrose et al., arXiv:2303.08112).

The logit lens reads a layer through final norm and output embedding as if it were the last one. A tuned lens first
makes of the state h what the model makes of it further up, as far as an affine map can: head(norm(h + A h + b)) are the
logits, A and b of the layer. With A = 0 and b = 0 it is the logit lens.

A lens is kept in the format of the package ``tuned-lens``: a folder with ``config.json`` (``base_model_name_or_path``,
``d_model``, ``num_hidden_layers``, ``bias``, ``lens_type``) and ``params.pt``, or ``params.safetensors``, with
``I.weight`` (width, width) and ``I.bias``. Translator I is of the stream that enters block I, from 0; the stream behind
the last block has none.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.checkpoints.shards import load_bin
from mastlens.errors import BadFile, NotFound, NotSupported, NotTogether
from mastlens.runs.reading import is_folder, is_plain_file, read_object, read_tensors

CONFIG, WEIGHTS, PICKLED = "config.json", "params.safetensors", "params.pt"
KIND = "linear_tuned_lens"
MODELS = ("sft", "rlvr")


@dataclass(frozen=True)
class TunedLens:
    """A tuned lens of one model.

    Attributes:
        path: Its folder; of one that was trained here, what it was trained on.
        model: The model that it was trained for, as its configuration names it.
        weights: A of each translator, [translators, width, width], (out, in); float32.
        biases: b of each, [translators, width]; float32.
    """

    path: str
    model: str
    weights: Tensor
    biases: Tensor

    def translate(self, states: Float[Tensor, "tokens width"], layer: int) -> Float[Tensor, "tokens width"]:
        """Return h + A h + b of the stream behind a layer, computed in float32, in the states' type.

        Args:
            states: The stream.
            layer: The layer that it comes from; -1: what enters the first. Behind the last one nothing is changed.
        """
        if layer + 1 >= len(self.weights):
            return states
        weight, bias = (part[layer + 1].to(states.device) for part in (self.weights, self.biases))
        wide = states.float()
        return (wide + torch.nn.functional.linear(wide, weight, bias)).to(states.dtype)

    def check(self, width: int, layers: int, model: str) -> None:
        """Refuse a model of another shape.

        Raises:
            MastlensError: If it has another width or number of blocks.
        """
        depth, own, _ = self.weights.shape
        if (own, depth) != (width, layers):
            raise NotTogether(
                f"{self.path} is a tuned lens of {self.model}: {depth} layers, {own} wide. {model} has {layers} layers "
                f"and is {width} wide. A lens reads the model that it was trained for: give one of this model, or let "
                "it be trained on the texts (--tuned-lens with nothing behind it)."
            )


def kept_lenses(lenses: Mapping[str, TunedLens]) -> dict[str, Tensor]:
    """Return lenses by their models as tensors of one file, MODEL/I.weight and MODEL/I.bias; see ``read_lenses``."""
    return {
        f"{model}/{layer}.{name}": part[layer]
        for model, lens in lenses.items()
        for name, part in (("weight", lens.weights), ("bias", lens.biases))
        for layer in range(len(part))
    }


def read_lenses(paths: Sequence[str | os.PathLike[str]]) -> list[TunedLens]:
    """Read a lens of SFT, or one of SFT and one of RLVR.

    Args:
        paths: Folders, SFT's first; or one file of both lenses that ``inside_depart`` kept.

    Raises:
        MastlensError: As ``read_lens``, or if the file holds no lenses.
    """
    if len(paths) != 1 or not is_plain_file(paths[0]):
        return [read_lens(path) for path in paths]
    kept, file = read_tensors(paths[0], "Tuned lenses"), Path(paths[0])
    found = []
    for model in MODELS:
        own = {name.removeprefix(f"{model}/"): tensor for name, tensor in kept.items() if name.startswith(f"{model}/")}
        first = own.get("0.weight")
        if first is None:
            raise BadFile(
                f"{file} has no lens of {model}: it holds {', '.join(sorted(kept)[:4]) or 'nothing'}. inside depart "
                "--tuned-lens writes a file of two lenses; one of another maker is given by its folder."
            )
        depth = sum(name.endswith("weight") for name in own)
        found.append(TunedLens(str(file), f"{model} of that run", *_parts(file, own, depth, len(first))))
    return found


def lens_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Return what to a file each a lens is read from: safetensors, where there are some."""
    folder = Path(path)
    if is_plain_file(folder):
        return {"tuned lenses": folder}
    weights = folder / (WEIGHTS if is_plain_file(folder / WEIGHTS) else PICKLED)
    return {"tuned lens": weights, "its configuration": folder / CONFIG}


def read_lens(path: str | os.PathLike[str]) -> TunedLens:
    """Read a tuned lens; pickled weights as plain tensors only.

    Args:
        path: Its folder.

    Raises:
        MastlensError: If the folder holds none, or one of another kind: what it has that is not read is named.
    """
    folder = Path(path)
    if not is_folder(folder):
        raise NotFound(
            f"There is no folder {folder}. A tuned lens is a folder with {CONFIG} and {PICKLED} or {WEIGHTS}, as the "
            "package tuned-lens writes it."
        )
    weights, place = lens_files(folder).values()
    config = read_object(place, "a tuned lens' configuration")
    if (kind := str(config.get("lens_type", KIND))) != KIND:
        raise NotSupported(f"{place}: a lens of the type {kind[:40]!r}; read is {KIND}, one affine map a layer.")
    if not is_plain_file(weights):
        raise NotFound(f"{folder} has neither {WEIGHTS} nor {PICKLED}: a tuned lens' weights are missing.")
    read = read_tensors(weights, "A tuned lens' weights") if weights.name == WEIGHTS else load_bin(weights)
    depth, width = _shape(place, config)
    return TunedLens(
        str(folder),
        str(config.get("base_model_name_or_path", "no named model"))[:200],
        *_parts(weights, read, depth, width),
    )


def _shape(place: Path, config: Mapping[str, Any]) -> tuple[int, int]:
    found = [config.get(name) for name in ("num_hidden_layers", "d_model")]
    for name, value in zip(("num_hidden_layers", "d_model"), found, strict=True):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadFile(f"{place}: {name} is {str(value)[:40]}, where a tuned lens has a whole number above 0.")
    return found[0], found[1]  # type: ignore[return-value]


def _parts(file: Path, read: Mapping[str, Tensor], depth: int, width: int) -> tuple[Tensor, Tensor]:
    if depth > len(read):
        raise BadFile(f"{file} holds {len(read)} tensors, too few for the {depth:,} layers of a lens.")
    names = [f"{layer}.{part}" for layer in range(depth) for part in ("weight", "bias")]
    lacking = [name for name in names if name.endswith("weight") and name not in read]
    further = [name for name in read if name not in names]
    if lacking or further:
        raise BadFile(
            f"{file} is no tuned lens of {depth} layers: it "
            + (f"lacks {', '.join(lacking[:4])}" if lacking else f"has {', '.join(map(str, further[:4]))} besides")
            + ". A tuned lens has I.weight and I.bias for each layer I from 0."
        )
    for name, tensor in read.items():
        wanted = (width, width) if name.endswith("weight") else (width,)
        if tuple(tensor.shape) != wanted or not tensor.is_floating_point():
            raise BadFile(
                f"{file}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, where a lens {width} wide has {wanted} of "
                "floating point."
            )
    none = torch.zeros(width)
    weights = torch.stack([read[f"{layer}.weight"].float() for layer in range(depth)])
    return weights, torch.stack([read.get(f"{layer}.bias", none).float() for layer in range(depth)])
