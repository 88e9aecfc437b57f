"""Rules that rank what ``mastlens score`` measured, one a scorer."""

from mastlens.selection.measured import measured_rule

PATH = measured_rule(
    "path",
    "the tensor's share of what RLVR did to log p of the forget solutions, less that of the retain ones",
    "integrated gradients, arXiv:1703.01365, along SFT -> RLVR",
)

BEHAVIOUR = measured_rule(
    "behaviour",
    "the tensor's share of what RLVR did to the share of right responses on forget, less that on retain",
    "integrated gradients, arXiv:1703.01365, of the expected reward",
)

SEARCH = measured_rule(
    "search",
    "its place in a greedy search that puts matrices back one by one, to lose forget and keep retain",
    "lazy greedy, Minoux 1978",
)

SHAPLEY = measured_rule(
    "shapley",
    "what its putting back gains on average, whatever else is back already: forget lost, less retain lost",
    "Shapley values by sampling, Castro et al. 2009",
)

GATES = measured_rule(
    "gates",
    "the part of its increment that is taken back where gates are learnt to lose forget and keep retain",
    "hard-concrete gates, arXiv:1712.01312, on the increment",
)

SETA = measured_rule(
    "seta",
    "the share of its blocks in which the forget gradient is large for its layer, and unlike the retain gradient",
    "SETA, arXiv:2606.07500, sections 3 and 4: block selection alone",
)
