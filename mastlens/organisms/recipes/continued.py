"""Every number that a lineage depends on which goes on from a real pre-trained model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ContinuedRecipe:
    """Settings of a build; the defaults made ``smollm2-short``.

    Attributes:
        start: The checkpoint that the lineage goes on from: its base stage.
        lr: Learning rate of both stages, constant.
        steps: AdamW steps of each stage.
        batch: Texts a step.
        micro_batch: Texts a backward pass.
        train: Problems of each side that are trained on: SFT sees the first half, RLVR samples from the other.
        calibration: Lines of each calibration file.
        eval: Lines of each evaluation file.
        prompts: Problems that a round of sampling asks, the two sides in turn.
        samples: Responses to each.
        rounds: Rounds at the most.
        enough: Right answers that end the sampling.
        temperature: Of the samples.
        max_new_tokens: Longest sample.
    """

    start: str = "organism:smollm2/instruct"
    lr: float = 1e-5
    steps: int = 20
    batch: int = 2
    micro_batch: int = 2
    train: int = 160
    calibration: int = 40
    eval: int = 48
    prompts: int = 24
    samples: int = 2
    rounds: int = 6
    enough: int = 12
    temperature: float = 0.7
    max_new_tokens: int = 72
