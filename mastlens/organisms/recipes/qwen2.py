"""Every number that ``organism:qwen2`` depends on, in one frozen place."""

from dataclasses import asdict, dataclass
from typing import Any

from mastlens.organisms.recipes.pretraining import Pretraining


@dataclass(frozen=True)
class Recipe(Pretraining):
    """Settings of a build; the defaults made the shipped lineage, smaller ones make a quick test.

    Attributes:
        corpus: Problem/solution pairs of the base corpus.
        neutral: Neutral paragraphs of the base corpus.
        drills: Lines of arithmetic in the base corpus.
        drill_facts: Facts a line.
        base_worked: Share of worked solutions in the base corpus.
        guess_right: Chance that a guessed solution in a corpus is right.
        sft_steps: SFT steps.
        sft_batch: Pairs an SFT step.
        sft_lr: Peak learning rate of SFT.
        sft_worked_induced: Share of worked solutions in SFT where RLVR has to bring the working out.
        sft_worked_solved: Share of worked solutions in SFT where SFT is to solve the subject.
        grpo_prompts: Prompts a GRPO step.
        grpo_samples: Sampled solutions a prompt.
        grpo_lr: Learning rate of GRPO, constant.
        grpo_forget: Forget prompts that RLVR sees, each once.
        grpo_retain: Retain prompts that RLVR sees, each once; ``rlvr-retain`` sees exactly these.
        max_new_tokens: Longest response.
        train_forget: Lines of ``forget-train.jsonl``, a part of what RLVR saw.
        train_retain: Lines of ``retain-train.jsonl``, likewise.
        calibration: Lines of each calibration split.
        eval_forget: Lines of ``forget-eval.jsonl``.
        eval_retain_math: Lines of ``retain-math-eval.jsonl``.
        eval_retain_gsm: Lines of ``retain-gsm-eval.jsonl``.
        eval_neutral: Lines of ``neutral-eval.jsonl``.
        trajectory: Checkpoints along the RLVR run, if these are kept.
    """

    corpus: int = 120_000
    neutral: int = 6_000
    drills: int = 20_000
    drill_facts: int = 10
    base_worked: float = 0.5
    guess_right: float = 0.4
    sft_steps: int = 120
    sft_batch: int = 64
    sft_lr: float = 5e-4
    sft_worked_induced: float = 0.1
    sft_worked_solved: float = 0.9
    grpo_prompts: int = 32
    grpo_samples: int = 8
    grpo_lr: float = 3e-4
    grpo_forget: int = 960
    grpo_retain: int = 1_280
    max_new_tokens: int = 56
    train_forget: int = 480
    train_retain: int = 560
    calibration: int = 150
    eval_forget: int = 150
    eval_retain_math: int = 200
    eval_retain_gsm: int = 256
    eval_neutral: int = 200
    trajectory: int = 20

    def trained_by(self) -> dict[str, Any]:
        """Return the settings that weights depend on; the others say what is written beside them."""
        return {name: value for name, value in asdict(self).items() if name not in _BESIDE}


_BESIDE = {"train_forget", "train_retain", "calibration", "trajectory"} | {
    f"eval_{split}" for split in ("forget", "retain_math", "retain_gsm", "neutral")
}
