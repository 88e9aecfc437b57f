"""Attacks on an edit: does what was forgotten come back by relearning, by quantisation, by other prompts?

Each is one frozen dataclass in one file of ``methods/``; ``register_attack`` adds one's own.
"""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.attacks.catalogue import ATTACKS, describe_attacks, register_attack
    from mastlens.attacks.codes import code_changes
    from mastlens.attacks.formats import FORMATS, Format
    from mastlens.attacks.method import AttackMethod
    from mastlens.attacks.prompting import prompt_variants
    from mastlens.attacks.quantising import Quantised, quantise
    from mastlens.attacks.recovery import summarise_attack
    from mastlens.attacks.relearning import relearning_steps
    from mastlens.attacks.running import Attack, attack
    from mastlens.attacks.trials import Trial

__all__ = [
    "ATTACKS",
    "FORMATS",
    "Attack",
    "AttackMethod",
    "Format",
    "Quantised",
    "Trial",
    "attack",
    "code_changes",
    "describe_attacks",
    "prompt_variants",
    "quantise",
    "register_attack",
    "relearning_steps",
    "summarise_attack",
]

_PUBLIC = {
    "ATTACKS": "catalogue",
    "FORMATS": "formats",
    "Attack": "running",
    "AttackMethod": "method",
    "Format": "formats",
    "Quantised": "quantising",
    "Trial": "trials",
    "attack": "running",
    "code_changes": "codes",
    "describe_attacks": "catalogue",
    "prompt_variants": "prompting",
    "quantise": "quantising",
    "register_attack": "catalogue",
    "relearning_steps": "relearning",
    "summarise_attack": "recovery",
}

__getattr__, __dir__ = attach("mastlens.attacks", _PUBLIC)
