"""Rotary positions whose frequencies depend on how long the text is: LongRoPE and dynamic NTK.

transformers picks them by the longest text of a batch, and for dynamic NTK by the longest one before too. Here each row
is rotated as if it were alone, so that no number depends on the batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BY_LENGTH = ("longrope", "dynamic")
_EXTENDED = ("yarn", "dynamic")


def rope_settings(config: Any) -> list[Mapping[str, Any]]:
    """Return the rotary settings of a configuration: one, or one for each type of layer."""
    stated = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not isinstance(stated, Mapping):
        return []
    nested = [value for value in stated.values() if isinstance(value, Mapping)]
    return nested or [stated]


def _kind(settings: Mapping[str, Any]) -> str:
    return str(settings.get("rope_type") or settings.get("type") or "default")


def extended_length(config: Any, length: int) -> int:
    """Return the context length of a model that states ``length``.

    YaRN and dynamic NTK carry a model beyond it where it still is the length that the model was pre-trained on.
    """
    lengths = [length]
    for settings in rope_settings(config):
        if any(kind in _kind(settings) for kind in _EXTENDED) and settings.get("factor"):
            lengths.append(int((settings.get("original_max_position_embeddings") or length) * settings["factor"]))
    return max(lengths)


def turning_length(config: Any) -> int | None:
    """Return the longest text in tokens up to which all texts have the same frequencies; None where all texts do."""
    turns = []
    for settings in rope_settings(config):
        if "dynamic" in _kind(settings):
            turns.append(config.max_position_embeddings)
        elif _kind(settings) == "longrope":
            stated = settings.get("original_max_position_embeddings")
            turns.append(stated or getattr(config, "original_max_position_embeddings", config.max_position_embeddings))
    return min(map(int, turns)) if turns else None


def depends_on_every_token(config: Any) -> bool:
    """Return whether beyond ``turning_length`` each further token changes the frequencies: in dynamic NTK."""
    return any("dynamic" in _kind(settings) for settings in rope_settings(config))


def rotate_rows_alone(model: "PreTrainedModel") -> list[RemovableHandle]:
    """Let each row of a batch have the frequencies that it has alone, from now on; other models stay as they are.

    Returns:
        What takes it back; nothing where there is nothing to take back, or it was done before.
    """
    config = getattr(model, "config", None)
    if config is None or turning_length(config.get_text_config()) is None:
        return []
    if _own_positions in model._forward_pre_hooks.values():
        return []
    handles = [model.register_forward_pre_hook(_own_positions, with_kwargs=True)]
    for module in model.modules():
        if any(kind in str(getattr(module, "rope_type", "")) for kind in _BY_LENGTH):
            handles.append(module.register_forward_hook(_row_by_row, with_kwargs=True))
    return handles


@contextmanager
def rows_alone(model: "PreTrainedModel") -> Iterator[None]:
    """Within, rows are rotated as if alone, also by a model that somebody else opened; it is given back as it was."""
    handles = rotate_rows_alone(model)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def positions_of(attention_mask: Tensor) -> Tensor:
    """Return each token's place among the tokens of its row; padding has its neighbour's."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def _own_positions(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Tell the model where the tokens of each row are, where it would count padding too."""
    ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
    if kwargs.get("position_ids") is None and isinstance(ids, Tensor) and isinstance(mask, Tensor):
        whole = mask.shape != ids.shape or bool(mask.all())
        kwargs = kwargs if whole else {**kwargs, "position_ids": positions_of(mask)}
    return args, kwargs


def _row_by_row(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Compute each row's rotation alone where lengths differ, and forget the longest length afterwards."""
    x, positions, *rest = [*args, *(kwargs[name] for name in ("x", "position_ids", "layer_type") if name in kwargs)]
    turn = turning_length(module.config)
    assert turn is not None
    lengths = (positions.amax(dim=-1) + 1).tolist()
    every = depends_on_every_token(module.config)
    regimes = [max(length, turn) if every else length > turn for length in lengths]
    if len(set(regimes)) > 1:
        rows = []
        for row in positions:
            _forget(module)
            rows.append(module.forward(x[:1], row[None], *rest))
        output = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    _forget(module)
    return output


def _forget(module: Any) -> None:
    """Set a module of dynamic NTK back to the frequencies of short texts."""
    prefixes = [f"{name}_" for name in module.rope_type] if isinstance(module.rope_type, Mapping) else [""]
    for prefix in prefixes:
        kind = module.rope_type[prefix[:-1]] if prefix else module.rope_type
        if "dynamic" in kind:
            original, used = (getattr(module, f"{prefix}{name}") for name in ("original_inv_freq", "inv_freq"))
            module.register_buffer(f"{prefix}inv_freq", original.to(used.device), persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
