"""Rule ``causal``: what the causal map measured, as a ranking."""

from mastlens.selection.rule import Rule

CAUSAL = Rule(
    "causal",
    "how far log p of the forget solutions falls when the tensor gets its SFT weights back, nats a token",
    "the causal map, restore direction, whole projections",
    {"causal": ("forget_effect", "delta_norm")},
    lambda table: -table["forget_effect"],
    of_increment=True,
)
