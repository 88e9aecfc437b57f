"""What each architecture calls its attention tensors, and how q, k, v and o lie in them: data, no code per model.

Where transformers keeps a map itself it is used: configurations are completed by its configuration classes, the layers
that have attention come from their ``layer_types``, and the names of separate projections from their tensor-parallel
plan. Written down here is what transformers keeps only as code: how a fused tensor is cut.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from mastlens.errors import BadFile, BadSetting, MastlensError, NotSupported, unknown
from mastlens.registry import from_packages
from mastlens.runs.reading import read_object

ORDER = ("q", "k", "v", "o", "gate", "q_a", "kv_a", "k_rope")
"""The order of projections everywhere: in tables, figures and ties. q, k, v and o are in every architecture, ``gate``
in one that gates the heads' outputs, the rest in latent attention only, where they lead into the latent space."""

PREFIXES = (
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.",
    "transformer.",
    "gpt_neox.",
    "",
)
"""What may stand before the names below: the same model is stored alone, inside a multimodal one, or bare."""

Sizes = Mapping[str, tuple[str, str]]
"""Projection to the configuration's keys for (number of heads, size of a head); sizes can be summed with ``+``. A
projection without heads has ``""`` for their number."""

HEADS: dict[str, tuple[str, str]] = {
    "q": ("num_attention_heads", "head_dim"),
    "k": ("num_key_value_heads", "head_dim"),
    "v": ("num_key_value_heads", "head_dim"),
    "o": ("num_attention_heads", "head_dim"),
    "gate": ("num_attention_heads", "head_dim"),
}
_UNGROUPED: Sizes = HEADS | dict.fromkeys(("k", "v"), HEADS["q"])
_LATENT: Sizes = {
    "q": ("num_attention_heads", "qk_nope_head_dim + qk_rope_head_dim"),
    "k": ("num_attention_heads", "qk_nope_head_dim"),
    "v": ("num_attention_heads", "v_head_dim"),
    "o": ("num_attention_heads", "v_head_dim"),
    "q_a": ("", "q_lora_rank"),
    "kv_a": ("", "kv_lora_rank"),
    "k_rope": ("1", "qk_rope_head_dim"),
}


@dataclass(frozen=True)
class Contents:
    """What one stored tensor holds, as its description says.

    A description names the parts in the order in which they lie along the outputs, then, after commas, what is special:

    - ``"q"``: one projection, stored (out, in);
    - ``"q k v"``: three, one after the other;
    - ``"q k v, per head"``: for every head its rows of q, then of k, then of v;
    - ``"q k v, per group"``: for every key-value group the rows of its queries, then its k, then its v;
    - ``"..., transposed"``: the file has it as (in, out);
    - ``"..., from KEY"``: its input is as wide as the configuration's KEY says, not ``hidden_size``.

    Attributes:
        parts: The projections.
        per: ``head`` or ``group`` where the sequence of parts repeats, else empty.
        transposed: Whether it is stored (in, out).
        inputs: The configuration's key for the width of the input.
    """

    parts: tuple[str, ...]
    per: str = ""
    transposed: bool = False
    inputs: str = "hidden_size"

    @classmethod
    def parse(cls, text: str) -> "Contents":
        """Read a description.

        Raises:
            MastlensError: If it is none.
        """
        first, *rest = (word.strip() for word in str(text).split(","))
        said: dict[str, Any] = {}
        for word in rest:
            if match := re.fullmatch(r"per (head|group)", word):
                said["per"] = match[1]
            elif match := re.fullmatch(r"from (\w+)", word):
                said["inputs"] = match[1]
            elif word == "transposed":
                said["transposed"] = True
            else:
                raise BadSetting(
                    f"{text!r} does not describe a tensor: after the projections may stand 'per head', 'per group', "
                    f"'transposed' and 'from KEY', separated by commas; {word!r} is none of them."
                )
        return cls(tuple(first.split()), **said)


@dataclass(frozen=True)
class Architecture:
    """Where an architecture keeps its attention projections.

    Attributes:
        tensors: Name with ``{layer}``, without the prefix, to what the tensor holds (see ``Contents``). A tensor that a
            layer does not have is passed over, as long as the layer has q, k, v and o.
        sizes: How large each projection is.
        others: The same as ``tensors`` for weights outside attention that are fused (into equal parts) or transposed.
        examples: Models of this architecture.
        note: What a user should know.
    """

    tensors: Mapping[str, str]
    sizes: Sizes = field(default_factory=lambda: HEADS)
    others: Mapping[str, str] = field(default_factory=dict)
    examples: str = ""
    note: str = ""

    @property
    def contents(self) -> dict[str, Contents]:
        """The descriptions of ``tensors``, read."""
        return {name: Contents.parse(text) for name, text in self.tensors.items()}


SEPARATE = {f"layers.{{layer}}.self_attn.{p}_proj.weight": p for p in ("q", "k", "v", "o")}
_GATED = SEPARATE | {"layers.{layer}.self_attn.q_proj.weight": "q gate, per head"}
_LATENT_TENSORS = {
    "layers.{layer}.self_attn.q_proj.weight": "q",
    "layers.{layer}.self_attn.q_b_proj.weight": "q, from q_lora_rank",
    "layers.{layer}.self_attn.kv_b_proj.weight": "k v, per head, from kv_lora_rank",
    "layers.{layer}.self_attn.o_proj.weight": "o",
    "layers.{layer}.self_attn.q_a_proj.weight": "q_a",
    "layers.{layer}.self_attn.kv_a_proj_with_mqa.weight": "kv_a k_rope",
}
_QK_NORM = "a norm on each head of q and k"

ARCHITECTURES: dict[str, Architecture] = {
    "qwen2": Architecture(SEPARATE, examples="Qwen2, Qwen2.5", note="biases on q, k and v"),
    "qwen3": Architecture(SEPARATE, examples="Qwen3", note=f"head size is not hidden / heads; {_QK_NORM}"),
    "qwen3_moe": Architecture(SEPARATE, examples="Qwen3-MoE", note=f"mixture of experts; {_QK_NORM}"),
    "qwen3_next": Architecture(
        _GATED,
        examples="Qwen3-Next",
        note="hybrid: linear-attention layers have no such projections; `gate` gates the heads' outputs",
    ),
    "qwen3_5_text": Architecture(_GATED, examples="Qwen3.5", note="hybrid"),
    "qwen3_5_moe_text": Architecture(_GATED, examples="Qwen3.5-MoE", note="mixture of experts; hybrid"),
    "llama": Architecture(SEPARATE, examples="Llama 2 and 3, SmolLM2, DeepSeek-R1-Distill-Llama"),
    "mistral": Architecture(SEPARATE, examples="Mistral 7B, Mathstral"),
    "mixtral": Architecture(SEPARATE, examples="Mixtral", note="mixture of experts"),
    "gemma2": Architecture(SEPARATE, examples="Gemma 2", note="head size is not hidden / heads"),
    "gemma3_text": Architecture(
        SEPARATE, examples="Gemma 3, alone or inside the multimodal model", note=f"head size as in Gemma 2; {_QK_NORM}"
    ),
    "olmo2": Architecture(SEPARATE, examples="OLMo-2", note="a norm on all of q and on all of k"),
    "phi3": Architecture(
        {"layers.{layer}.self_attn.qkv_proj.weight": "q k v", "layers.{layer}.self_attn.o_proj.weight": "o"},
        others={"layers.{layer}.mlp.gate_up_proj.weight": "mlp_gate mlp_up"},
        examples="Phi-3, Phi-4",
    ),
    "gpt2": Architecture(
        {
            "h.{layer}.attn.c_attn.weight": "q k v, transposed",
            "h.{layer}.attn.c_proj.weight": "o, transposed",
        },
        sizes=_UNGROUPED,
        others={
            "h.{layer}.mlp.c_fc.weight": "mlp_up, transposed",
            "h.{layer}.mlp.c_proj.weight": "mlp_down, transposed",
        },
        examples="GPT-2",
        note="biases on all",
    ),
    "gpt_neox": Architecture(
        {
            "layers.{layer}.attention.query_key_value.weight": "q k v, per head",
            "layers.{layer}.attention.dense.weight": "o",
        },
        sizes=_UNGROUPED,
        examples="GPT-NeoX, Pythia",
        note="biases on all",
    ),
    "deepseek_v3": Architecture(
        _LATENT_TENSORS,
        sizes=_LATENT,
        examples="DeepSeek-V3, DeepSeek-R1, Moonlight",
        note="latent attention: q, k and v are the matrices that make the heads; `q_a` and `kv_a` lead into the latent "
        "space they read from; `k_rope` is the one key part with positions, shared by all heads; `q_proj` stands in a "
        "model without a latent q",
    ),
    "deepseek_v2": Architecture(
        _LATENT_TENSORS, sizes=_LATENT, examples="DeepSeek-V2, DeepSeek-V2-Lite", note="latent attention"
    ),
    "glm4_moe_lite": Architecture(_LATENT_TENSORS, sizes=_LATENT, examples="GLM-4.7-Flash", note="latent attention"),
}
"""The architectures that are tested, by the ``model_type`` of the (text) configuration."""

_USUAL = Architecture(SEPARATE | {f"layers.{{layer}}.self_attn.{o}.weight": "o" for o in ("out_proj", "dense")})
_registered: dict[str, Architecture] = {}

GROUP = "mastlens.architectures"
"""Entry points of installed packages: ``model_type`` to a mapping of tensor names to what they hold."""


def register_architecture(model_type: str, tensors: Mapping[str, str], *, sizes: Sizes | None = None) -> None:
    """Say how an architecture that mastlens does not know stores its attention projections.

    It holds for this process, and goes before what mastlens knows itself.

    Args:
        model_type: As in ``config.json``; of a multimodal model, that of its text configuration.
        tensors: Name of a stored tensor, with ``{layer}`` for the layer's number, to what it holds, e.g.
            ``{"h.{layer}.attn.c_attn.weight": "q k v, transposed", "h.{layer}.attn.c_proj.weight": "o"}``;
            see ``Contents`` for what can be said. The prefixes in ``PREFIXES`` may be left out.
        sizes: Projection to the configuration's keys for (number of heads, size of a head), where they are not
            ``num_attention_heads``, ``num_key_value_heads`` and ``head_dim``.

    Raises:
        MastlensError: If the mapping is not complete or cannot be understood. Shapes are checked when a checkpoint is
            opened.
    """
    _registered[model_type] = _understood(model_type, tensors, sizes)


def _understood(model_type: str, tensors: Mapping[str, str], sizes: Sizes | None = None) -> Architecture:
    """Return the architecture that a mapping describes.

    Raises:
        MastlensError: As ``register_architecture``.
    """
    if not isinstance(tensors, Mapping) or not tensors:
        raise BadSetting(f"The mapping of {model_type} is empty. It maps tensor names to what they hold.")
    sizes = {**HEADS, **(sizes or {})}
    labels: set[str] = set()
    for name, text in tensors.items():
        if "{layer}" not in name:
            raise BadSetting(f"{name!r} has no {{layer}} in it, which stands for the layer's number, from 0.")
        contents = Contents.parse(text)
        for label in contents.parts:
            if label not in ORDER:
                raise unknown("projection", label, ORDER)
            if label not in sizes:
                raise BadSetting(f"Say how large {label} is: sizes={{{label!r}: (KEY OF HEADS, KEY OF HEAD SIZE)}}.")
        if not contents.parts or len(set(contents.parts)) < len(contents.parts):
            raise BadSetting(f"{name!r} holds {text!r}: it must hold at least one projection, and none twice.")
        if "o" in contents.parts and len(contents.parts) > 1:
            raise BadSetting(f"{name!r} holds {text!r}: o reads what the others make, so it is a tensor of its own.")
        labels |= set(contents.parts)
    if absent := [label for label in ORDER[:4] if label not in labels]:
        raise BadSetting(f"The mapping of {model_type} does not say where {' and '.join(absent)} is.")
    bare = {name.removeprefix(next(p for p in PREFIXES if name.startswith(p))): text for name, text in tensors.items()}
    return Architecture(bare, sizes)


@cache
def _installed() -> dict[str, Architecture]:
    """Return what installed packages describe: an entry point is named as the ``model_type``, and holds the map."""
    return dict(from_packages(GROUP, "architecture", lambda entry, one: (entry.name, _understood(entry.name, one))))


def register_architectures(path: str | os.PathLike[str]) -> list[str]:
    """Register every architecture of a JSON file, ``{model_type: {tensor name: what it holds}}``; return their names.

    Raises:
        MastlensError: If the file is missing or no such mapping.
    """
    mappings = read_object(path, "a mapping {model_type: {name: what it holds}}")
    for model_type, tensors in mappings.items():
        if not isinstance(tensors, dict) or not all(isinstance(held, str) for held in tensors.values()):
            raise BadFile(f"{path}: {model_type!r} is no mapping of tensor names to what they hold.")
        register_architecture(model_type, tensors)
    return list(mappings)


def find_architecture(config: Any, names: Iterable[str]) -> Architecture | None:
    """Return where the architecture of a completed configuration keeps its projections; None if that is not known.

    What is registered goes first, then the table, then what installed packages describe; else, if transformers has the
    architecture, the separate projections of its tensor-parallel plan or those with the usual names.

    Args:
        config: From ``complete_config``.
        names: Of all stored tensors.
    """
    model_type = str(getattr(config, "model_type", ""))
    for known in (_registered, ARCHITECTURES):
        if model_type in known:
            return known[model_type]
    if model_type in _installed():  # entry points cost some milliseconds: last
        return _installed()[model_type]
    if isinstance(config, SimpleNamespace):
        return None
    planned = {}
    for module in getattr(config, "base_model_tp_plan", None) or {}:
        if match := re.fullmatch(r"(.+\.\*\..+)\.(?:([qkvo])_proj|(out_proj))", module):
            planned[f"{module.replace('*', '{layer}')}.weight"] = match[2] or "o"
    architecture = Architecture(planned) if sorted(planned.values()) == sorted("qkvo") else _USUAL
    return architecture if find_prefix(architecture, names) is not None else None


def find_prefix(architecture: Architecture, names: Iterable[str]) -> str | None:
    """Return what stands before the architecture's names in this checkpoint; None if it has none of them."""
    names = set(names)
    for prefix in PREFIXES:
        for tensor in architecture.tensors:
            pattern = re.compile(re.escape(prefix + tensor).replace(r"\{layer\}", r"\d+"))
            if any(map(pattern.fullmatch, names)):
                return prefix
    return None


def not_known(model_type: str, shapes: Mapping[str, tuple[int, ...]]) -> MastlensError:
    """Return the error for an architecture without a map: what its attention looks like, and how to pass one."""
    found = dict(_describe(shapes))
    shown = [f'    "{name}": "{_guess(name)}",  # {shape}' for name, shape in list(found.items())[:12]]
    error = unknown("known architecture", model_type, sorted({*ARCHITECTURES, *_registered, *_installed()}))
    if not shown:
        names = ", ".join(list(shapes)[:6]) or "none"
        return NotSupported(f"{error}\nThe checkpoint has no attention tensors by name; its tensors: {names}.")
    return BadSetting(
        f"{error}\nIts attention tensors, with their shapes, are those below. Say what each holds, and leave out those "
        f"that are no projection:\nmastlens.register_architecture({model_type!r}, {{\n" + "\n".join(shown) + "\n})\n"
        'In place of the dots: "q", "k", "v" or "o" for a tensor that holds one; "q k v" for one after the other; '
        '"q k v, per head" where they alternate by head, "q k v, per group" by key-value group; and behind it '
        '", transposed" for a tensor stored (in, out).'
    )


def _guess(name: str) -> str:
    match = re.search(r"\.([qkvo])_proj\.", name)
    return match[1] if match else "..."


def _describe(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    for name, shape in shapes.items():
        if re.search(r"attn|attention", name, re.IGNORECASE) and len(shape) >= 2:
            yield re.sub(r"\.\d+\.", ".{layer}.", name, count=1), " x ".join(map(str, shape))


def architecture_table() -> str:
    """Render the tested architectures as a Markdown table, for the documentation."""
    lines = ["| `model_type` | models | stored tensor: what it holds | notes |", "|---|---|---|---|"]
    first = {str(dict(SEPARATE)): "q, k, v and o apart"}
    for model_type, architecture in ARCHITECTURES.items():
        tensors = "<br>".join(f"`{_module(name)}`: {text}" for name, text in architecture.tensors.items())
        said = first.get(str(dict(architecture.tensors)), tensors)
        first.setdefault(str(dict(architecture.tensors)), f"as `{model_type}`")
        lines.append(f"| `{model_type}` | {architecture.examples} | {said} | {architecture.note} |")
    return "\n".join(lines)


def _module(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]
