"""A process reward model beside the verifiable reward."""

from dataclasses import dataclass, replace
from typing import ClassVar

from mastlens.organisms.rlvr.stepwise import Stepwise


@dataclass(frozen=True, kw_only=True)
class PRM(Stepwise):
    """GRPO whose reward is the verifiable one and that of the process reward model named by ``--prm``."""

    scored_by: ClassVar[str] = "prm"


PRM_OUTCOME = PRM(
    name="prm",
    summary="GRPO with the verifiable reward and the score of the worst step, by a process reward model (--prm)",
    source="Zhang et al. 2025, arXiv:2501.07301 (the scores); Cheng et al. 2025, arXiv:2504.15275 (their minimum)",
    form="outcome",
    verifiable=1.0,
)

PRM_PROCESS = replace(
    PRM_OUTCOME,
    name="prm-process",
    summary="each step is rewarded by what it adds to the process reward model's score (--prm)",
    source="Zhang et al. 2025, arXiv:2501.07301 (the scores); ExpRL 2026, arXiv:2606.17024 (their differences)",
    form="process",
    verifiable=0.0,
)
