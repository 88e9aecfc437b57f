"""What ``adapter_config.json`` says, read as PEFT reads it; where it says more than is supported, refused by name."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastlens.errors import BadFile, MastlensError, NotFound, NotSupported, NotTogether
from mastlens.runs.reading import is_folder, read_object

CONFIG = "adapter_config.json"

# What does not change the weights that PEFT runs with, or is read below; anything else that is set is refused.
_KNOWN = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    ]
)
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Settings:
    """The configuration of a LoRA adapter.

    Attributes:
        folder: Where the adapter lies.
        config: The parsed file.
    """

    folder: Path
    config: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        """Read the file.

        Raises:
            MastlensError: If it is no JSON object.
        """
        return cls(folder, read_object(folder / CONFIG))

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / CONFIG

    def check_kind(self) -> None:
        """Raise if the adapter is anything but base + scale * B A, whole modules, and DoRA's magnitudes."""
        kind, advice = self.config.get("peft_type"), "Merge it with PEFT first."
        if kind != "LORA":
            raise NotSupported(f"The adapter {self.folder} is of type {kind!r}; LORA is supported. {advice}")
        if used := sorted(key for key, value in self.config.items() if key not in _KNOWN and value):
            raise NotSupported(
                f"The adapter {self.folder} uses {', '.join(used)}, which may not be base + scale * B A. {advice}"
            )
        start = self.config.get("init_lora_weights", True)
        if not any(start is plain or (isinstance(start, str) and start == plain) for plain in _PLAIN_STARTS):
            raise NotSupported(
                f"The adapter {self.folder} was initialised by {start!r}, which changed the base weights too. Convert "
                "it to plain LoRA when saving (PEFT's path_initial_model_for_weight_conversion), or merge it first."
            )
        self._rank(self.config.get("r", 8), "r")
        self._alpha(self.config.get("lora_alpha", 8), "lora_alpha")
        for key, check in (("rank_pattern", self._rank), ("alpha_pattern", self._alpha)):
            patterns = self.config.get(key) or {}
            if not isinstance(patterns, Mapping):
                raise self._wrong(key, patterns, "patterns to numbers")
            for pattern, value in patterns.items():
                _compiled(self.path, key, pattern)
                check(value, f"{key}[{pattern!r}]")

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Return the rank and the scale of a module's product, by its path in the model."""
        rank = self._rank(self._by_pattern("rank_pattern", module, self.config.get("r", 8)), "r")
        alpha = self._alpha(self._by_pattern("alpha_pattern", module, self.config.get("lora_alpha", 8)), "lora_alpha")
        return rank, alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def check_targeted(self, module: str) -> None:
        """Raise if PEFT would leave out what the file holds for a module, because its settings do not name it."""
        if not self._targeted(module):
            raise NotTogether(
                f"The adapter {self.folder} holds a change of {module}, which its {CONFIG} does not name "
                "(target_modules, exclude_modules, layers_to_transform): PEFT would leave it out. File and settings "
                "are of two adapters."
            )

    def _targeted(self, module: str) -> bool:
        targets, excluded = self.config.get("target_modules"), self.config.get("exclude_modules")
        if excluded and self._named("exclude_modules", excluded, module):
            return False
        if targets is None or targets == "all-linear":  # PEFT's own choice for the architecture
            return True
        if self.config.get("ensure_weight_tying") and module.rpartition(".")[2] in ("lm_head", "embed_tokens"):
            return True  # the other end of what is named
        if isinstance(targets, list) and module in targets:
            return True
        return self._named("target_modules", targets, module) and self._in_layers(module)

    def _named(self, key: str, names: Any, module: str) -> bool:
        if isinstance(names, str):
            return _compiled(self.path, key, names).fullmatch(module) is not None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._wrong(key, names, "a pattern or a list of names")
        return module in names or any(module.endswith(f".{name}") for name in names)

    def _in_layers(self, module: str) -> bool:
        layers, patterns = self.config.get("layers_to_transform"), self.config.get("layers_pattern") or r"[^.]*"
        if layers is None or layers == [] or isinstance(self.config.get("target_modules"), str):
            return True
        layers = layers if isinstance(layers, list) else [layers]
        if not all(type(layer) is int for layer in layers):
            raise self._wrong("layers_to_transform", layers, "numbers of layers")
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            if match := _compiled(self.path, "layers_pattern", rf".*\.{pattern}\.(\d+)\.").match(module):
                return int(match[1]) in layers
        return False

    def _by_pattern(self, key: str, module: str, default: Any) -> Any:
        for pattern, value in (self.config.get(key) or {}).items():
            if _compiled(self.path, key, rf"(.*\.)?({pattern})$").match(module):
                return value
        return default

    def _rank(self, value: Any, key: str) -> int:
        if type(value) is not int or value < 1:
            raise self._wrong(key, value, "a whole number above 0")
        return value

    def _alpha(self, value: Any, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(key, value, "a number")
        return float(value)

    def _wrong(self, key: str, value: Any, what: str) -> MastlensError:
        return BadFile(f"{self.path} gives {key} as {str(value)[:80]!r}; it must be {what}.")


def base_of(folder: Path) -> str:
    """Return what an adapter says its base is: an existing path, or else a hub id with its revision.

    A relative path is looked for from the working folder, then from the adapter's own.

    Raises:
        MastlensError: If it names none.
    """
    config = Settings.read(folder).config
    named, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not named or not isinstance(named, str):
        raise NotFound(f"The adapter {folder} does not say what its base is. Name it: BASE+{folder}.")
    if is_folder(named) or named.startswith("organism:"):
        return named
    if is_folder(folder / named):
        return str(folder / named)
    return f"{named}@{revision}" if revision else named


_REPEATS = 8  # unbounded ones in a pattern; real patterns have two or three


def _compiled(path: Path, key: str, pattern: Any) -> re.Pattern[str]:
    """Return a stranger's pattern, unless matching it could take for ever."""
    try:
        tree = re._parser.parse(pattern)  # pyright: ignore[reportAttributeAccessIssue]
        inner = _repeats(tree, inside=False)
        if inner > _REPEATS:
            raise BadFile(
                f"{path}: {key} holds {str(pattern)[:80]!r}, in which repetitions are nested or too many: matching it "
                "could take for ever. Say it without."
            )
        return re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise BadFile(f"{path}: {key} holds {str(pattern)[:80]!r}, which is no regular expression ({error}).") from None


def _repeats(tree: Any, *, inside: bool) -> int:
    """Return how many unbounded repetitions a parsed pattern has; one inside another counts as too many."""
    found = 0
    for operation, argument in tree:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            unbounded = argument[1] > 64
            found += unbounded + _repeats(argument[2], inside=inside or unbounded) + _REPEATS * (inside and unbounded)
        elif name == "SUBPATTERN":
            found += _repeats(argument[-1], inside=inside)
        elif name == "BRANCH":
            found += sum(_repeats(branch, inside=inside) for branch in argument[1])
        elif name in ("ASSERT", "ASSERT_NOT"):
            found += _repeats(argument[1], inside=inside)
        elif name in ("ATOMIC_GROUP",):
            found += _repeats(argument, inside=inside)
        elif name == "GROUPREF":
            found += _REPEATS * inside
    return found
