"""Columns of lineages that a recipe reinforced."""

from mastlens.columns.column import Column, Table

_STARE = "--recipe stare-o1"
_TASKS = "--recipe sequential-lora"
_SCORED = "--recipe exprl-outcome"

TRAINING = Table(
    "training.parquet",
    "mastlens organism build --recipe",
    "a stage and a round of sampled responses",
    (
        Column("stage", "`rlvr`, or `rlvr-retain`, which sees no forget prompt"),
        Column("step", "optimiser steps before the round's first update"),
        Column("responses", "sampled responses"),
        Column("reward", "mean; with the punishment of long responses, where the recipe has one"),
        Column("accuracy", "share of right responses, at temperature 1; each prompt is asked for the first time"),
        Column("accuracy_forget", "the same of forget prompts", kind="number"),
        Column("accuracy_retain", "the same of retain prompts", kind="number"),
        Column("calibration_accuracy", "share of calibration problems solved greedily (matched-sft)", kind="number"),
        Column("no_signal", "share of prompts whose responses all earned the same reward", kind="number"),
        Column("response_tokens", "mean length", "tokens"),
        Column("truncated", "share of responses cut off"),
        Column("entropy", "of the next-token distribution, mean over the responses' tokens", "nat per token"),
        Column(
            "kl_sft",
            "KL(policy || SFT) over the whole vocabulary, mean over the responses' tokens; measured in some rounds",
            "nat per token",
            null="0",
            kind="number",
        ),
        Column("clipped", "share of tokens whose ratio was clipped", kind="number"),
        Column("grad_norm", "before it is clipped at 1", kind="number"),
        Column("task", "the task that is trained, from 1", when=_TASKS, kind="number"),
        Column("unread", "share of responses of which a judge said nothing readable", when=_SCORED, kind="number"),
        Column("gate", "whether entropy was below the target, so that tokens were re-weighted", when=_STARE),
        Column("weight_raised", "W, of surprising tokens in good responses", when=_STARE),
        Column("weight_lowered", "M, of surprising tokens in bad responses", when=_STARE),
    ),
)

TABLES = (TRAINING,)
