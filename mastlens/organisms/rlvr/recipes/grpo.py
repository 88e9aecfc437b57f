"""GRPO: a response's advantage is its reward against those of the other responses to its prompt."""

from dataclasses import replace

from mastlens.organisms.rlvr.recipe import RLVRRecipe

GRPO = RLVRRecipe(
    name="grpo",
    summary="GRPO with the mean over the batch's tokens, TRL's default: what the shipped lineage was made by",
    source="Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4; the mean over tokens: arXiv:2503.14476, eq. 8",
)
"""The lineage's own: with the same numbers and seed it gives the same bits as a build without ``--recipe``."""

GRPO_KL = replace(
    GRPO,
    name="grpo-kl",
    summary="the same with a KL penalty to SFT",
    source="Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4, beta of section 4.2; the KL term: arXiv:2512.02556",
    beta=0.04,
)

GRPO_SEQUENCE = replace(
    GRPO,
    name="grpo-sequence",
    summary="GRPO as published: the mean over each response's tokens, then over responses",
    source="Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4",
    loss="grpo",
)
"""What the paper's eq. 3 says: a token of a long response counts for less than one of a short response."""
