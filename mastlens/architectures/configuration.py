"""What ``config.json`` says, with the defaults that it leaves out."""

import copy
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from mastlens.errors import BadFile, NotSupported


def complete_config(config: Mapping[str, Any]) -> Any:
    """Return the text model's configuration as an object, with the defaults that its file leaves out.

    Args:
        config: The parsed ``config.json``.

    Returns:
        The configuration class of transformers, under whose attributes ``num_attention_heads`` and so on are found
        whatever the file calls them; where transformers does not know the architecture, what the file says.

    Raises:
        MastlensError: If the class refuses the values.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = str(config.get("model_type", ""))
    if model_type not in CONFIG_MAPPING:
        text = config.get("text_config")
        return SimpleNamespace(**(text if isinstance(text, Mapping) else config))
    try:
        return CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(dict(config))).get_text_config()
    except Exception as error:  # configuration classes raise their own, which share no base
        raise BadFile(f"config.json is not that of a {model_type} model: {error}") from error


def has_attention(config: Any, layer: int) -> bool:
    """Return whether the configuration promises softmax attention in a layer; a hybrid's linear layers have none."""
    types = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    return layer >= len(types) or bool(re.search(r"(?<!linear_)attention", str(types[layer])))


def read_size(config: Any, key: str) -> int:
    """Return a whole number out of a completed configuration.

    Args:
        config: From ``complete_config``.
        key: A key, a number, or several keys to add up, with ``+`` between them. Where the file has none,
            ``num_key_value_heads`` is ``num_attention_heads``, and ``head_dim`` is hidden size / heads.

    Raises:
        MastlensError: If there is none, or it is no whole number above 0.
    """
    if "+" in key:
        return sum(read_size(config, one.strip()) for one in key.split("+"))
    if key.isdigit():
        return int(key)
    try:
        value = getattr(config, key, None)
    except Exception as error:  # configurations with values of their own for each layer raise, by a class of their own
        raise NotSupported(
            f"config.json gives {key} layer by layer, which mastlens cannot read yet: {error}"
        ) from error
    if value is None and key == "num_key_value_heads":
        return read_size(config, "num_attention_heads")
    if value is None and key == "head_dim":
        return read_size(config, "hidden_size") // read_size(config, "num_attention_heads")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadFile(f"config.json gives {key} as {value!r}; it must be a whole number above 0.")
    return value
