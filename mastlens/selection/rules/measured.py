"""Rules that rank what ``mastlens score`` measured, one a scorer."""

from mastlens.selection.measured import measured_rule

PATH = measured_rule(
    "path",
    "the tensor's share of what RLVR did to log p of the forget solutions, less that of the retain ones",
    "integrated gradients, arXiv:1703.01365, along SFT -> RLVR",
)

GATES = measured_rule(
    "gates",
    "the part of its increment that is taken back where gates are learnt to lose forget and keep retain",
    "hard-concrete gates, arXiv:1712.01312, on the increment",
)
