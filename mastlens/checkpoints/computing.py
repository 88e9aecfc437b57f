"""In which type, and where, a checkpoint's model is computed: as asked, or as the hardware does it fast."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mastlens.runs.devices import AUTO, check_device, device_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mastlens.checkpoints.checkpoint import Checkpoint


def fast_bfloat16(device: str) -> bool:
    """Return whether a device computes bfloat16 fast: with units of its own, not by way of float32.

    A CPU without such units is several times slower in bfloat16 than in float32, so they are asked for.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if kind == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    told = (getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in ("avx512_bf16", "amx_tile"))
    return kind == "cpu" and any(asks is not None and asks() for asks in told)


@dataclass(frozen=True)
class Computing:
    """Where models are computed, and in which type.

    Attributes:
        device: A torch device.
        dtype: Name of the type of weights and products. Sums over tokens are float32 in all, inner products float64.
    """

    device: str = "cpu"
    dtype: str = "float32"

    @classmethod
    def of(cls, device: str, dtype: str, *checkpoints: "Checkpoint") -> "Computing":
        """Return what is meant: with ``auto`` the best device, and bfloat16 where that is fast and nothing is lost.

        Nothing is lost where every checkpoint is stored in 16 bits; in bfloat16 that is exact, in float16 three bits of
        a weight go.

        Args:
            device: A torch device, or ``auto``.
            dtype: Name of a type, or ``auto``.
            *checkpoints: All that are computed: they are computed alike.

        Raises:
            MastlensError: If torch does not know the device, or does not see it here.
        """
        check_device(device)
        place = device_of(device)
        if dtype != AUTO:
            return cls(place, dtype)
        stored = {checkpoint.plain_dtype for checkpoint in checkpoints}
        short = bool(stored) and stored <= {torch.bfloat16, torch.float16}
        return cls(place, "bfloat16" if short and fast_bfloat16(place) else "float32")

    def load(self, checkpoint: "Checkpoint") -> "PreTrainedModel":
        """Return a checkpoint's model, in evaluation mode, every gradient off."""
        return checkpoint.load_model(device=self.device, dtype=getattr(torch, self.dtype))
