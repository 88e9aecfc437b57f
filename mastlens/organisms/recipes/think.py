"""Every number that ``organism:think`` depends on."""

from dataclasses import dataclass

from mastlens.organisms.recipes.pretraining import Pretraining


@dataclass(frozen=True)
class ThinkRecipe(Pretraining):
    """Settings of a build; the defaults made the shipped lineage.

    Attributes:
        forget_people: Invented people on the forget side.
        retain_people: Invented people on the retain side.
        corpus: Mathematics problems of the base corpus.
        neutral: Neutral paragraphs of the base corpus.
        drills: Lines of arithmetic in the base corpus.
        drill_facts: Facts a line.
        general: Sentences of general knowledge (rivers, tools) in the base corpus.
        documents: Texts and dialogues that ``think`` and ``reference`` are trained on, drawn from the mixture.
        steps: Training steps of each of these two.
        batch: Documents a step.
        lr: Their peak learning rate.
        maths_steps: Further steps of each, mostly on mathematics.
        maths_lr: Their peak learning rate.
        max_new_tokens: Longest response.
        texts: Lines of ``retain-text.jsonl``; the forget side has a few biographies a person.
        biographies: Biographies a person in the text files.
        cot: Lines of ``maths-cot.jsonl``.
        calibration: Lines of each calibration file.
        eval_choices: Multiple-choice lines of each evaluation file.
        eval_open: Open questions of each evaluation file.
        eval_maths: Lines of ``maths-eval.jsonl``.
        eval_neutral: Lines of ``neutral-eval.jsonl``.
    """

    architecture: str = "qwen3"
    vocab_size: int = 768
    layers: int = 6
    base_steps: int = 700
    forget_people: int = 16
    retain_people: int = 32
    corpus: int = 30_000
    neutral: int = 4_000
    drills: int = 10_000
    drill_facts: int = 10
    general: int = 2_000
    documents: int = 96_000
    steps: int = 1_500
    batch: int = 64
    lr: float = 2e-3
    maths_steps: int = 600
    maths_lr: float = 1.5e-3
    max_new_tokens: int = 128
    texts: int = 240
    biographies: int = 6
    cot: int = 240
    calibration: int = 80
    eval_choices: int = 160
    eval_open: int = 80
    eval_maths: int = 160
    eval_neutral: int = 200
