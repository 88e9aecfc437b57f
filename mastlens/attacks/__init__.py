"""Attacks on an edit: does what was forgotten come back by relearning, by quantisation, by other prompts?"""

from mastlens.attacks.codes import code_changes
from mastlens.attacks.prompting import prompt_variants
from mastlens.attacks.quantising import FORMATS, Format, Quantised, quantise
from mastlens.attacks.recovery import summarise_attack
from mastlens.attacks.relearning import relearning_steps
from mastlens.attacks.running import ATTACKS, Attack, attack

__all__ = [
    "ATTACKS",
    "FORMATS",
    "Attack",
    "Format",
    "Quantised",
    "attack",
    "code_changes",
    "prompt_variants",
    "quantise",
    "relearning_steps",
    "summarise_attack",
]
