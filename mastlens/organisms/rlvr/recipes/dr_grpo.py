"""Dr. GRPO: no division by the group's spread, and none by the response's length."""

from dataclasses import replace

from mastlens.organisms.rlvr.recipe import RLVRRecipe

DR_GRPO = RLVRRecipe(
    name="dr-grpo",
    summary="GRPO without its biases: centred rewards, tokens summed over a constant length",
    source="Liu et al. 2025, arXiv:2503.20783, section 3.2",
    advantage="none",
    loss="dr_grpo",
)
"""The constant is the longest response allowed. Gradients are smaller than GRPO's, which Adam does not mind."""

DR_GRPO_KL = replace(DR_GRPO, name="dr-grpo-kl", summary="the same with a KL penalty to SFT", beta=0.04)
