"""Crosscoders of a pair of models, in the folder format of dictionary_learning: read here, trained elsewhere.

A crosscoder has one set of features for both models (Lindsey et al. 2024; Minder et al. 2025, arXiv:2504.02922). With
W_enc [2, width, features] and W_dec [2, features, width], of the states x_0 of the first model (SFT) and x_1 of the
second (RLVR) at the same token it makes f = max(x_0 W_enc_0 + x_1 W_enc_1 + b_enc, 0), and of these x'_m = f W_dec_m +
b_dec_m. One that was trained as batch top-k has a threshold: a feature stays where f n is above it, n the length of its
rows of the decoder, by ``code_normalization`` that of both added up (``CROSSCODER``), of both as one vector (``SAE``),
or 1 (``NONE``).

The folder has ``config.json`` and ``model.safetensors`` with ``encoder.weight``, ``encoder.bias``, ``decoder.weight``,
``decoder.bias``, and of batch top-k ``k`` and ``threshold``.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.errors import BadFile, NotFound, NotSupported
from mastlens.runs.reading import is_folder, read_object, read_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODELS = 2
_NAMES = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_BESIDE = ("k", "threshold", "code_normalization_id")
NORMALISATIONS = ("CROSSCODER", "SAE", "NONE")


@dataclass(frozen=True)
class Crosscoder:
    """One set of features for the states of two models.

    Attributes:
        path: Its folder.
        encoder: W_enc, [2, width, features]; float32, as all of it.
        encoder_bias: b_enc, [features].
        decoder: W_dec, [2, features, width].
        decoder_bias: b_dec, [2, width].
        threshold: Of batch top-k; None for none.
        normalisation: One of ``NORMALISATIONS``.
    """

    path: str
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    threshold: float | None
    normalisation: str

    @property
    def width(self) -> int:
        """Entries of a state."""
        return self.encoder.shape[1]

    @property
    def features(self) -> int:
        """How many features there are."""
        return self.encoder.shape[2]

    @property
    def lengths(self) -> Float[Tensor, "2 features"]:
        """Length of each feature's row of the decoder, in either model."""
        return torch.linalg.vector_norm(self.decoder, dim=2)

    def to(self, device: torch.device) -> "Crosscoder":
        """Return the same on a device."""
        names = ("encoder", "encoder_bias", "decoder", "decoder_bias")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def read(
        self, states: Float[Tensor, "2 tokens width"]
    ) -> tuple[Float[Tensor, "tokens features"], Float[Tensor, "2 tokens width"]]:
        """Return the features of both models' states at the same tokens, and what the decoder makes of these."""
        found = (torch.einsum("mtd,mdf->tf", states.float(), self.encoder) + self.encoder_bias).relu()
        if self.threshold is not None:
            found = found * (found * self._scale() > self.threshold)
        return found, torch.einsum("tf,mfd->mtd", found, self.decoder) + self.decoder_bias[:, None]

    @property
    def least(self) -> Float[Tensor, " features"]:
        """Return how active a feature is at least where it is on, in units of ``read``: 0 without a threshold."""
        zero = torch.zeros_like(self.encoder_bias)
        return zero if self.threshold is None else (zero + self.threshold) / self._scale()

    def _scale(self) -> Tensor:
        if self.normalisation == "CROSSCODER":
            return self.lengths.sum(dim=0)
        if self.normalisation == "SAE":
            return self.lengths.square().sum(dim=0).sqrt()
        return torch.ones_like(self.encoder_bias)


def read_crosscoder(path: str | os.PathLike[str]) -> Crosscoder:
    """Read a crosscoder of two models.

    Args:
        path: Its folder.

    Raises:
        MastlensError: If the folder holds none, or one of another kind: what it has that is not read is named.
    """
    folder = Path(path)
    if not is_folder(folder):
        raise NotFound(f"There is no folder {folder}. A crosscoder is a folder with {CONFIG} and {WEIGHTS}.")
    config = read_object(folder / CONFIG, "a crosscoder's configuration")
    tensors = read_tensors(folder / WEIGHTS, "A crosscoder's weights")
    if lacking := [name for name in _NAMES if name not in tensors]:
        raise BadFile(
            f"{folder / WEIGHTS} lacks {', '.join(lacking)}, which a crosscoder with a linear decoder has; it has "
            f"{', '.join(sorted(tensors)[:12])}."
        )
    if further := [name for name in tensors if name not in (*_NAMES, *_BESIDE)]:
        raise NotSupported(
            f"{folder / WEIGHTS} has {', '.join(sorted(further)[:6])}, of which nothing is known here: what it gives "
            f"would be another crosscoder's. Read are {', '.join((*_NAMES, *_BESIDE))}."
        )
    _check_shapes(folder, tensors)
    threshold = _threshold(folder, tensors)
    named = str(config.get("code_normalization", NORMALISATIONS[0])).rpartition(".")[2].upper()
    if threshold is not None and named not in NORMALISATIONS:
        raise NotSupported(
            f"{folder} measures its features by the normalisation {named[:40]!r}; read are {', '.join(NORMALISATIONS)}."
        )
    encoder, encoder_bias, decoder, decoder_bias = (tensors[name].float() for name in _NAMES)
    return Crosscoder(str(folder), encoder, encoder_bias, decoder, decoder_bias, threshold, named)


def _check_shapes(folder: Path, tensors: dict[str, Tensor]) -> None:
    shapes = {name: tuple(tensors[name].shape) for name in _NAMES}
    models, width, features = shapes["encoder.weight"] if len(shapes["encoder.weight"]) == 3 else (0, 0, 0)
    wanted = ((models, width, features), (features,), (models, features, width), (models, width))
    if not features or tuple(shapes.values()) != wanted:
        raise BadFile(
            f"{folder / WEIGHTS}: the shapes {shapes} are not those of one crosscoder: encoder.weight is (models, "
            "width, features), encoder.bias (features,), decoder.weight (models, features, width), decoder.bias "
            "(models, width)."
        )
    if models != MODELS:
        raise NotSupported(
            f"{folder} is a crosscoder of {models} models or layers; read is one of two models, the first of which is "
            "what RLVR started from."
        )


def _threshold(folder: Path, tensors: dict[str, Tensor]) -> float | None:
    given: Any = tensors.get("threshold")
    if given is None:
        if "k" not in tensors:
            return None
        given = torch.tensor(-1.0)  # not set
    if given.numel() != 1:
        raise NotSupported(f"{folder} has a threshold for each model (DECOUPLED); read is one threshold for both.")
    if not float(given) >= 0:
        raise NotSupported(
            f"{folder} is a batch top-k crosscoder whose threshold was not set: which features are on would depend on "
            "the batch. Train it to its end, or set the threshold, and save it anew."
        )
    return float(given)
