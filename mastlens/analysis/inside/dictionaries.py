"""Sparse autoencoders in SAELens' folder format: ``cfg.json`` and ``sae_weights.safetensors``, read by our own code.

With W_enc [width, features], W_dec [features, width] and their biases: of a state x (less b_dec, where the encoder was
trained so) the encoder makes pre-activations p = x W_enc + b_enc, and features

- ``standard``: max(p, 0) (Bricken et al. 2023);
- ``jumprelu``: max(p, 0) where p is above the feature's threshold (Rajamanoharan et al., arXiv:2407.14435);
- ``topk``: the k largest p, where they are above 0 (Gao et al., arXiv:2406.04093); with
  ``rescale_acts_by_decoder_norm`` p is taken times the length of the feature's row of W_dec;
- ``gated``: max(x (W_enc exp(r_mag)) + b_mag, 0) where x W_enc + b_gate is above 0 (arXiv:2404.16014);

and the decoder x' = features W_dec + b_dec. States may be scaled before and back behind: to length sqrt(width)
(``constant_norm_rescale``), or to mean 0 and spread 1 (``layer_norm``).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.errors import BadFile, NotFound, NotSupported
from mastlens.models.backends.stream import OUTSIDE
from mastlens.runs.reading import is_folder, read_object, read_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "standard": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "topk": ("b_enc",),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
"""Architecture to the tensors it has beside W_enc, W_dec and b_dec."""
SCALINGS = ("none", "constant_norm_rescale", "layer_norm")
_LEGACY = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
_HOOKS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "z",
    "mlp.hook_post": "mlp_hidden",
}
_EPSILON = 1e-5  # of layer_norm: beside the spread, not under its root


@dataclass(frozen=True)
class Dictionary:
    """A dictionary of features of one activation.

    Attributes:
        path: Its folder.
        architecture: One of ``ARCHITECTURES``.
        site: The activation, by its name in ``HookedModel``.
        layer: Its layer.
        model: What it was trained on, as its configuration says; empty where it does not.
        tensors: Its weights, float32.
        k: Of ``topk``.
        centred: Whether b_dec is taken from what is read.
        rescaled: Whether features are in units of the length of their rows of W_dec (``topk``).
        scaling: One of ``SCALINGS``.
    """

    path: str
    architecture: str
    site: str
    layer: int
    model: str
    tensors: Mapping[str, Tensor]
    k: int
    centred: bool
    rescaled: bool
    scaling: str

    @property
    def width(self) -> int:
        """Entries of a state."""
        return self.tensors["W_dec"].shape[1]

    @property
    def features(self) -> int:
        """How many features there are."""
        return self.tensors["W_dec"].shape[0]

    def to(self, device: torch.device) -> "Dictionary":
        """Return the same on a device."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def read(
        self, states: Float[Tensor, "tokens width"]
    ) -> tuple[Float[Tensor, "tokens features"], Float[Tensor, "tokens width"]]:
        """Return the features of states, and what the decoder makes of these; float32."""
        own, scale, shift = self._scaled(states.float())
        weights = self.tensors
        read = own - weights["b_dec"] if self.centred else own
        lengths = torch.linalg.vector_norm(weights["W_dec"], dim=1) if self.rescaled else 1.0
        if self.architecture == "gated":
            open_ = read @ weights["W_enc"] + weights["b_gate"] > 0
            found = (read @ (weights["W_enc"] * weights["r_mag"].exp()) + weights["b_mag"]).relu() * open_
        else:
            before = (read @ weights["W_enc"] + weights["b_enc"]) * lengths
            found = before.relu()
            if self.architecture == "jumprelu":
                found = found * (before > weights["threshold"])
            elif self.architecture == "topk":
                largest, at = found.topk(self.k, dim=1)
                found = torch.zeros_like(found).scatter_(1, at, largest)
        made = found / lengths @ weights["W_dec"] + weights["b_dec"]
        return found, made * scale + shift

    def _scaled(self, states: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        if self.scaling == "constant_norm_rescale":
            scale = torch.linalg.vector_norm(states, dim=1, keepdim=True) / states.shape[1] ** 0.5
            return states / scale, scale, 0.0
        if self.scaling == "layer_norm":
            shift, spread = states.mean(dim=1, keepdim=True), states.std(dim=1, keepdim=True)
            return (states - shift) / (spread + _EPSILON), spread, shift
        return states, 1.0, 0.0


def read_dictionary(path: str | os.PathLike[str], *, site: str | None = None, layer: int | None = None) -> Dictionary:
    """Read a sparse autoencoder.

    Args:
        path: Its folder.
        site: The activation it reads, where its configuration does not say.
        layer: The layer of that, likewise.

    Raises:
        MastlensError: If the folder holds none, or one of a kind that is not read here, or its configuration names
            another activation.
    """
    folder = Path(path)
    if not is_folder(folder):
        raise NotFound(f"There is no folder {folder}. A dictionary is a folder with {CONFIG} and {WEIGHTS}.")
    config = read_object(folder / CONFIG, "a dictionary's configuration")
    config = {_LEGACY.get(key, key): value for key, value in config.items()}
    metadata = config.get("metadata")
    said = {**config, **(metadata if isinstance(metadata, dict) else {})}
    architecture, k = _architecture(folder, config)
    tensors = {name: value.float() for name, value in read_tensors(folder / WEIGHTS, "A dictionary's weights").items()}
    if "log_threshold" in tensors and architecture == "jumprelu":
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    _check_shapes(folder, architecture, tensors, k)
    here = _place(folder, said.get("hook_name"), site, layer)
    return Dictionary(
        str(folder),
        architecture,
        *here,
        str(said.get("model_name") or ""),
        tensors,
        k,
        bool(config.get("apply_b_dec_to_input", True)),
        architecture == "topk" and bool(config.get("rescale_acts_by_decoder_norm", False)),
        _scaling(folder, config.get("normalize_activations", "none")),
    )


def _architecture(folder: Path, config: Mapping[str, Any]) -> tuple[str, int]:
    named, kwargs = config.get("architecture", "standard"), config.get("activation_fn_kwargs") or {}
    k = config.get("k", kwargs.get("k") if isinstance(kwargs, dict) else None)
    if config.get("activation_fn") == "topk":  # what SAELens wrote before 6.0
        named = "topk"
    if named not in ARCHITECTURES:
        raise NotSupported(
            f"{folder} is a dictionary of the architecture {str(named)[:40]!r}; read are {', '.join(ARCHITECTURES)}. "
            "SAELens writes a trained batchtopk as jumprelu, where it saves it for inference."
        )
    if config.get("activation_fn", "relu") not in ("relu", "topk") or config.get("finetuning_scaling_factor"):
        raise NotSupported(f"{folder}: neither other activation functions than ReLU nor fine-tuned scales are read.")
    if named == "topk" and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
        raise BadFile(f"{folder / CONFIG}: a topk dictionary needs k, a whole number from 1 on; it has {k!r}.")
    return str(named), int(k) if named == "topk" and isinstance(k, int) else 0


def _scaling(folder: Path, named: Any) -> str:
    named = {None: "none", False: "none", True: "expected_average_only_in"}.get(named, named)
    if named not in SCALINGS:
        raise NotSupported(
            f"{folder} normalises what it reads by {str(named)[:40]!r}; read are {', '.join(SCALINGS)}. Of "
            "expected_average_only_in, fold the factor into the weights first (SAELens: "
            "fold_activation_norm_scaling_factor) and save it anew."
        )
    return str(named)


def _place(folder: Path, hook: Any, site: str | None, layer: int | None) -> tuple[str, int]:
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook) if isinstance(hook, str) else None
    told: tuple[str, int] | None = None
    if found and found[2] in _HOOKS:
        told = _HOOKS[found[2]], int(found[1])
    elif isinstance(hook, str) and (block := re.fullmatch(r"(?:model|transformer)\.(?:layers|h)\.(\d+)", hook)):
        told = "resid_post", int(block[1])
    elif hook == "hook_embed":
        told = "embed", OUTSIDE
    asked = site or (told[0] if told else None), layer if layer is not None else (told[1] if told else None)
    if asked[0] is None or asked[1] is None:
        raise NotSupported(
            f"{folder / CONFIG} names {str(hook)[:60]!r} as what the dictionary reads, which is no activation that is "
            "known here. Say which it is: --site resid_post --layer 12."
        )
    if told is not None and told != asked:
        raise NotSupported(
            f"{folder} is a dictionary of {told[0]} in layer {told[1]} ({hook}), not of {asked[0]} in layer {asked[1]}."
        )
    return asked[0], asked[1]


def _check_shapes(folder: Path, architecture: str, tensors: Mapping[str, Tensor], k: int) -> None:
    names = ("W_enc", "W_dec", "b_dec", *ARCHITECTURES[architecture])
    if lacking := [name for name in names if name not in tensors]:
        raise BadFile(
            f"{folder / WEIGHTS} lacks {', '.join(lacking)}, which a dictionary of the architecture {architecture} "
            f"has; it has {', '.join(sorted(tensors)[:12])}."
        )
    shapes = {name: tuple(tensors[name].shape) for name in names}
    features, width = shapes["W_dec"] if len(shapes["W_dec"]) == 2 else (0, 0)
    wanted = {"W_enc": (width, features), "W_dec": (features, width), "b_dec": (width,)}
    wanted |= dict.fromkeys(ARCHITECTURES[architecture], (features,))
    if not features or wanted != shapes or k > features:
        raise BadFile(
            f"{folder / WEIGHTS}: the shapes {shapes} are not those of one dictionary: W_enc is (width, features), "
            "W_dec (features, width), b_dec (width,), all else (features,), and k no more than there are features."
        )
