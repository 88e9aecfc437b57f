"""GRPO on low-rank adapters, merged at the end: what RLVR can do within a subspace of small rank."""

from dataclasses import replace

from mastlens.organisms.rlvr.recipes.grpo import GRPO

LORA_GRPO = replace(
    GRPO,
    name="lora-grpo",
    summary="GRPO on LoRA adapters of rank 16 on all linear layers of the blocks, merged at the end",
    source="Hu et al. 2021, arXiv:2106.09685, eq. 3; GRPO as the recipe grpo",
    adapters=16,
)
"""No increment has a rank above 16, by construction: a known answer for the geometry of increments."""
