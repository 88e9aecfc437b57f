"""Sequential LoRA-GRPO: tasks reinforced one after another, each by adapters of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mastlens.errors import BadSetting, unknown
from mastlens.organisms.rlvr.recipe import RLVRRecipe, Run
from mastlens.organisms.splits import SPLITS

KEPT = ("merged", "apart")


@dataclass(frozen=True, kw_only=True)
class SequentialLoRA(RLVRRecipe):
    """GRPO with adapters on one task after the other, on-policy throughout.

    ``merged``: each task's adapters are merged before the next task begins, which goes on from there. ``apart``: each
    task's adapters are trained on SFT by themselves, and are merged by their sum. The card says how accurate each task
    is after each, on calibration problems, and what it had forgotten at the end, item by item.

    Attributes:
        tasks: Names of splits, in the order in which they are learnt; several of one task joined by ``+``. A stage
            leaves out those that it has no prompts of.
        adapters_kept: ``merged`` or ``apart``.
    """

    tasks: tuple[str, ...] = ("forget", "retain-math", "retain-gsm")
    adapters_kept: str = "merged"

    def __post_init__(self) -> None:
        """Check the tasks, too."""
        super().__post_init__()
        if self.adapters_kept not in KEPT:
            raise unknown("way to keep adapters", self.adapters_kept, KEPT, of=self.name)
        splits = [split for task in self.tasks for split in task.split("+")]
        if wrong := [split for split in splits if split not in SPLITS]:
            raise unknown("task", wrong[0], SPLITS, of=self.name)
        if len(set(splits)) < len(splits) or not self.adapters:
            raise BadSetting(f"The recipe {self.name} learns each split once, with adapters of a rank above 0.")

    def train(self, run: Run) -> Mapping[str, Any]:
        """Train the model of a run in place, task after task."""
        from mastlens.organisms.rlvr.tasks import train_tasks

        return train_tasks(self, run)


SEQUENTIAL_LORA = SequentialLoRA(
    name="sequential-lora",
    summary="GRPO with adapters on one task after the other, each merged before the next; what each forgets",
    source="Hu et al. 2021, arXiv:2106.09685, eq. 3 (adapters); RL's Razor 2025, arXiv:2509.04259 (RL forgets less)",
    adapters=16,
)

SEQUENTIAL_LORA_APART = replace(
    SEQUENTIAL_LORA,
    name="sequential-lora-apart",
    summary="GRPO with adapters on each task by itself, merged by their sum",
    adapters_kept="apart",
)
