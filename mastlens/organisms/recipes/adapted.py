"""Every number that ``organism:smollm2-grpo`` depends on, in one frozen place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptedRecipe:
    """Settings of a lineage that goes on from a real pre-trained model, stage by stage with adapters that are merged.

    Attributes:
        start: The checkpoint that the lineage goes on from: its base stage.
        layers: Blocks of that model.
        rank: Of the adapters of ``continued`` and ``sft``; 0 trains all parameters instead, in every stage.
        grpo_rank: Of the adapters of the two GRPO stages.
        induced: Retain subjects that RLVR has to bring the working out in.
        context: Longest text in tokens.
        guess_right: Chance that a guessed solution in a corpus is right.
        continued_steps: Steps of continued training, in which the model learns to work the problems.
        continued_batch: Pairs a step of it.
        continued_lr: Peak learning rate of it.
        continued_worked: Share of worked solutions in it.
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
        micro_batch: Samples a backward pass of GRPO.
        max_new_tokens: Longest response.
        train: Lines of each training file.
        calibration: Lines of each calibration file.
        eval: Lines of each evaluation file.
        neutral: Neutral texts.
        gain: Least gain in forget accuracy, as a fraction, by which RLVR has taken.
    """

    start: str = "organism:smollm2/instruct"
    layers: int = 30
    rank: int = 32
    grpo_rank: int = 16
    induced: tuple[str, ...] = ("Algebra", "Sharing")
    context: int = 256
    guess_right: float = 0.3
    continued_steps: int = 250
    continued_batch: int = 12
    continued_lr: float = 1e-3
    continued_worked: float = 0.6
    sft_steps: int = 40
    sft_batch: int = 8
    sft_lr: float = 5e-4
    sft_worked_induced: float = 0.1
    sft_worked_solved: float = 1.0
    grpo_prompts: int = 6
    grpo_samples: int = 8
    grpo_lr: float = 2e-4
    grpo_forget: int = 144
    grpo_retain: int = 96
    micro_batch: int = 16
    max_new_tokens: int = 48
    train: int = 96
    calibration: int = 60
    eval: int = 150
    neutral: int = 60
    gain: float = 0.15
