"""Checkpoints that store codes in place of weights: FP8 with scales is read as weights, all else is refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mastlens.checkpoints.shards import StoredTensor
from mastlens.errors import BadFile, MastlensError, NotSupported

SCALE = "_scale_inv"
"""What stands behind the name of a tensor of FP8 codes in that of its scales (DeepSeek-V3, Qwen3-FP8)."""

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_INPUT_SCALES = ("input_scale", "activation_scale")


@dataclass(frozen=True)
class Dequantised(StoredTensor):
    """A weight stored as FP8 codes and one scale a block, read as code * scale in float32.

    Attributes:
        codes: The codes.
        scales: Their scales: (block rows, block columns), or a single one.
        block: Rows and columns of a block.
    """

    codes: StoredTensor
    scales: StoredTensor
    block: tuple[int, int]

    @property
    def as_stored(self) -> bool:
        """Whether its file holds these very values: no."""
        return False

    @property
    def reads(self) -> tuple[StoredTensor, ...]:
        """The stored tensors that it is read from."""
        return (self.codes, self.scales)

    @property
    def coded(self) -> str:
        """What its file stores in place of the values."""
        return "FP8"

    def read(self, start: int = 0, stop: int | None = None, *, mapped: bool = False) -> torch.Tensor:
        """Read the rows ``start`` to ``stop``, in float32, as memory of its own."""
        return self._scaled(self.codes.read(start, stop, mapped=mapped).float(), start, stop)

    def spacing(self) -> torch.Tensor:
        """Return how far apart the numbers are that code and scale can hold, at each entry, in float32."""
        codes = self.codes.read()
        limits = torch.finfo(codes.dtype)
        mantissa, exponent = torch.frexp(codes.float())
        power = torch.exp2(exponent.float() - 1).clamp_min_(limits.smallest_normal)
        power[mantissa == 0] = limits.smallest_normal
        return self._scaled(power.mul_(limits.eps), 0, None).abs_()

    def _scaled(self, value: torch.Tensor, start: int, stop: int | None) -> torch.Tensor:
        """Multiply something at the rows ``start`` to ``stop`` with their scales, in place."""
        scales = self.scales.read().float()
        if scales.numel() == 1:
            return value.mul_(scales.reshape(()))
        if value.dim() > 2:  # a stack is cut between its matrices
            scales, start = scales[start:stop], 0
        rows = torch.arange(start, start + value.shape[-2]) // self.block[0]
        cols = torch.arange(value.shape[-1]) // self.block[1]
        return value.mul_(scales[..., rows, :][..., cols])


def as_weights(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return a checkpoint's tensors as the weights that they stand for.

    Args:
        folder: The folder, for messages.
        config: The parsed ``config.json``.
        tensors: Every stored tensor by name.

    Raises:
        MastlensError: If they are codes of another kind than FP8 with scales.
    """
    said = config.get("quantization_config") or _of_text(config).get("quantization_config")
    method = None
    if said is not None:
        method = said.get("quant_method") if isinstance(said, Mapping) else said
        if method != "fp8":
            raise _refused(folder, f"its config.json names the method {method!r}", tensors)
    scaled = {name for name in tensors if f"{name}{SCALE}" in tensors}
    if scaled and method is None:
        raise _refused(folder, "it holds scales of codes, which its config.json does not mention", tensors)
    block = _block(folder, said) if isinstance(said, Mapping) else (1, 1)
    found: dict[str, StoredTensor] = {}
    for name, stored in tensors.items():
        if (name.endswith(SCALE) and name.removesuffix(SCALE) in scaled) or name.endswith(_INPUT_SCALES):
            continue
        if name in scaled:
            found[name] = _dequantised(folder, stored, tensors[f"{name}{SCALE}"], block)
            continue
        matrix = len(stored.shape) >= 2 and (name.endswith("weight") or "expert" in name)
        if matrix and (not stored.dtype.is_floating_point or (method and stored.dtype in _FLOAT8)):
            raise _refused(folder, f"{name} holds {_short(stored.dtype)} codes and no scales that are known", tensors)
        found[name] = stored
    return found


def _dequantised(folder: Path, codes: StoredTensor, scales: StoredTensor, block: tuple[int, int]) -> Dequantised:
    per_tensor = torch.Size(scales.shape).numel() == 1
    grid = tuple(-(-size // length) for size, length in zip(codes.shape[-2:], block, strict=True))
    fits = per_tensor or scales.shape == (*codes.shape[:-2], *grid)
    if codes.dtype not in _FLOAT8 or not scales.dtype.is_floating_point or len(codes.shape) < 2 or not fits:
        raise BadFile(
            f"{codes.name} of {folder} holds {_short(codes.dtype)} codes of shape {codes.shape} and scales of shape "
            f"{scales.shape} in {_short(scales.dtype)}; blocks of {block[0]} x {block[1]}, as its config.json says, "
            f"would have FP8 codes and scales of shape {(*codes.shape[:-2], *grid)}. Use the checkpoint before "
            "quantisation."
        )
    return Dequantised(codes.name, codes.file, torch.float32, codes.shape, codes, scales, block)


def _block(folder: Path, said: Mapping[str, Any]) -> tuple[int, int]:
    block = said.get("weight_block_size")
    if block is None:
        return (1 << 62, 1 << 62)  # one scale a tensor
    if not isinstance(block, list) or len(block) != 2 or not all(type(size) is int and size > 0 for size in block):
        raise BadFile(f"config.json of {folder} gives weight_block_size as {block!r}; it is two whole numbers.")
    return block[0], block[1]


def _of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else {}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refused(folder: Path, why: str, tensors: Mapping[str, StoredTensor]) -> MastlensError:
    integers = sorted(n for n, s in tensors.items() if not s.dtype.is_floating_point and len(s.shape) >= 2)
    example = f" (e.g. {integers[0]}, {_short(tensors[integers[0]].dtype)})" if integers else ""
    return NotSupported(
        f"The checkpoint {folder} is quantised: {why}{example}. Codes are no weights: increments, gradients and edits "
        "of them mean nothing. Use the checkpoint before quantisation; of the quantised ones, FP8 with one scale a "
        "block or tensor (quant_method fp8) can be read."
    )
