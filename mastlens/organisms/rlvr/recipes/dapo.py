"""DAPO, as far as TRL has it: clipped higher above than below, the mean over tokens, long responses punished softly.

TRL has no dynamic sampling (prompts whose responses are all right or all wrong are not replaced): the record's
``no_signal`` says how many there were. Without more than one update a round clipping does nothing, and DAPO without its
punishment would be the recipe ``grpo``; the paper takes 16 updates a round of 8,192 responses, here it is 4.
"""

from dataclasses import replace

from mastlens.organisms.rlvr.recipe import RLVRRecipe

DAPO = RLVRRecipe(
    name="dapo",
    summary="clip-higher over four updates a round, mean over tokens, soft overlong punishment; no dynamic sampling",
    source="Yu et al. 2025, arXiv:2503.14476, eq. 8 to 13, without eq. 11",
    clip_high=0.28,
    updates=4,
    overlong=0.2,
)

DAPO_KL = replace(DAPO, name="dapo-kl", summary="the same with a KL penalty to SFT", beta=0.04)
