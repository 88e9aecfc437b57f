"""How an objective is recorded: under the same keys for all, so that records can be laid side by side.

What an objective does not have stands there as 0, or as nothing. The keys are those that earlier records have, so that
a run which was interrupted goes on and a finished one is recognised.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from mastlens.unlearning.token_weights import PRESETS

ABSENT: dict[str, Any] = {
    **{"beta": 0.0, "beta2": 0.0, "delta": 0.0, "gamma": 1.0, "alpha": 1.0, "retain": "nll"},
    **{"layer": -1, "steering": 0.0, "control_norm": 0.0},
    **{"unthink_weight": 0.0, "cot_weight": 0.0, "reflection_weight": 0.0, "reflection": "code", "texts": None},
    "token_weights": None,
}
"""Key to what stands there where an objective has no such coefficient."""
KEYS = {"retain_weight": "alpha", "retain_loss": "retain"}
"""Coefficient to its key, where that is another word."""
OF_STEERING = (
    *("control_norm", "unthink_weight", "cot_weight", "reflection_weight", "reflection", "texts"),
    *("needs_traces", "needs_cot"),
)
"""Keys that the record of a run has only where activations are steered."""
LATER = ("own_responses", "increment")
"""Needs that earlier records do not name: an objective without them is recorded as it was then."""
CODE = "code"
"""Key to the digest of an objective's own code, where it is none of ours."""


def recorded(name: str, values: Mapping[str, Any], needs: Mapping[str, bool], code: str | None) -> dict[str, Any]:
    """Return the record of an objective.

    Args:
        name: Its name.
        values: Coefficient to value.
        needs: Need to whether it has it.
        code: Digest of its code, where it is none of ours.
    """
    plain = {KEYS.get(key, key): asdict(v) if is_dataclass(v) else v for key, v in values.items()}  # pyright: ignore[reportArgumentType]
    weights = plain.get("token_weights")
    if weights and weights["preset"] == PRESETS[0]:  # as records of before there were presets
        del weights["preset"]
    own = {key: value for key, value in plain.items() if key not in ABSENT}
    return {
        "name": name,
        **{key: plain.get(key, value) for key, value in ABSENT.items()},
        **{f"needs_{need}": value for need, value in needs.items() if value or need not in LATER},
        **own,
        **({} if code is None else {CODE: code}),
    }
