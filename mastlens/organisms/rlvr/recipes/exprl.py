"""ExpRL: a judge that sees the reference solution grades the policy's responses first; then the answer alone counts."""

from dataclasses import dataclass, replace
from typing import ClassVar

from mastlens.organisms.rlvr.stepwise import Stepwise


@dataclass(frozen=True, kw_only=True)
class ExpRL(Stepwise):
    """Priming by rubric rewards, then sparse GRPO, in one run.

    In the first half of the rounds a judge grades responses on five levels against the reference solution, which it
    alone sees. The paper primes for epochs of its own and starts sparse GRPO from the result; here both share the
    lineage's prompts, each asked once.
    """

    scored_by: ClassVar[str] = "judge"


EXPRL_OUTCOME = ExpRL(
    name="exprl-outcome",
    summary="ExpRL: a judge grades whole responses against the hidden reference solution; then sparse GRPO",
    source="ExpRL 2026, arXiv:2606.17024, outcome form",
    clip_high=0.28,
    beta=0.001,
    unbiased_kl=False,
    priming=0.5,
)

EXPRL_PROCESS = replace(
    EXPRL_OUTCOME,
    name="exprl-process",
    summary="ExpRL: each step is rewarded by what it adds to the judge's grade; then sparse GRPO",
    source="ExpRL 2026, arXiv:2606.17024, process form, delta mode",
    form="process",
    clip_high=0.26,
)
