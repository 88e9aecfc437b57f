"""Everything a report can tell: one chapter a kind of table, in the order of the method."""

from collections.abc import Callable
from dataclasses import dataclass

from mastlens.reporting.chapters import answers, demo, edits, geometry, mechanism, selection, study, traces
from mastlens.reporting.folder import Findings, RunFolder


@dataclass(frozen=True)
class Chapter:
    """One chapter of the report.

    Attributes:
        build: Makes it from a folder; None where the folder lacks its tables.
        tables: The tables it tells, for the list of data at the end.
        question: What it answers.
        title: The report's title where this chapter has the last word.
        weight: Which chapter has the last word: the one whose finding stands first in the verdict has the most.
    """

    build: Callable[[RunFolder], Findings | None]
    tables: tuple[str, ...]
    question: str = ""
    title: str = ""
    weight: int = 0


CHAPTERS = (
    Chapter(
        demo.outcome,
        ("summary.parquet", "arms.parquet"),
        "A small model was pre-trained, fine-tuned (SFT) and then rewarded for right answers (RLVR). Where in its "
        "attention projections did the reward put the skill on the forget side, and can exactly that be taken out "
        "again?",
        "What RLVR put where, and what taking it out again costs",
        100,
    ),
    Chapter(
        study.study,
        ("study.parquet", "summary.parquet"),
        "At matched forgetting, which selection of tensors and which objective cost least?",
        "What unlearning costs, by selection and objective",
        80,
    ),
    Chapter(
        geometry.geometry,
        ("geometry.parquet", "geometry_heads.parquet", "spectra.parquet"),
        "Where in the weights does the RLVR increment lie?",
        "Where the increment lies",
        10,
    ),
    Chapter(
        geometry.agreement,
        ("agreement.parquet", "agreement-runs.parquet", "agreement-consensus.parquet"),
        "Do several runs from one checkpoint change the same entries?",
        "Whether runs change the same entries",
        12,
    ),
    Chapter(
        geometry.trajectory,
        ("trajectory.parquet", "trajectory_steps.parquet"),
        "Did the run move along one line, and could its end have been foretold?",
        "How the run moved",
        14,
    ),
    Chapter(
        mechanism.coupling,
        ("coupling.parquet", "coupling_heads.parquet", "coupling_spectrum.parquet"),
        "How does the forget gradient couple to the increment?",
        "How the forget gradient couples to the increment",
        20,
    ),
    Chapter(
        mechanism.tokens,
        ("tokens.parquet", "token_summary.parquet"),
        "Which tokens did training make more likely?",
        "Which tokens training changed",
        22,
    ),
    Chapter(
        mechanism.causal_map,
        ("causal_map.parquet", "causal_groups.parquet"),
        "What changes when weights are put back?",
        "What matters, and not only what moved",
        40,
    ),
    Chapter(
        selection.selection,
        ("ranking.parquet",),
        "Which projections are selected, and what decided it?",
        "Which projections were selected",
        5,
    ),
    Chapter(
        mechanism.cumulative,
        ("cumulative.parquet", "cumulative_areas.parquet"),
        "Does the ranking find what matters sooner than chance?",
        "Whether the ranking finds what matters",
        42,
    ),
    Chapter(
        selection.steps,
        ("steps.parquet",),
        "How did the edit go, step by step?",
        "The edit, step by step",
        30,
    ),
    Chapter(selection.token_weights, ("token_weights.parquet",)),
    Chapter(
        traces.generated,
        ("traces.parquet",),
        "Which traces does the model write about what it is to forget?",
        "The traces to be unlearned",
        8,
    ),
    Chapter(demo.accuracy, ("summary.parquet",)),
    Chapter(
        answers.comparison,
        ("responses.parquet",),
        "What did the edit change in what the model answers?",
        "What the edit changed",
        70,
    ),
    Chapter(
        answers.evaluation,
        ("responses.parquet",),
        "What does the model answer?",
        "What the model answers",
        50,
    ),
    Chapter(
        traces.traces,
        ("trace_judgements.parquet",),
        "Do the model's traces still show what it should have forgotten?",
        "What the traces still show",
        72,
    ),
    Chapter(
        traces.choices,
        ("choices.parquet",),
        "Which option does the model find the likeliest, without thinking?",
        "Multiple choice without thinking",
        52,
    ),
    Chapter(answers.harness, ("harness.parquet", "harness_items.parquet"), "How does it do on public tasks?", "", 1),
    Chapter(answers.demo_items, ("arms/rlvr/responses.parquet", "arms/selected/responses.parquet")),
    Chapter(
        edits.compared,
        ("edits.parquet", "edit_contrasts.parquet"),
        "What did each edit forget, and what did that cost?",
        "Edits beside each other",
        75,
    ),
    Chapter(
        edits.collateral,
        ("collateral.parquet", "collateral_items.parquet"),
        "What did the edit do beside its purpose?",
        "What the edit did beside its purpose",
        60,
    ),
    Chapter(
        edits.attacks,
        ("attack.parquet", "attack_items.parquet", "attack_tensors.parquet"),
        "Does what was forgotten come back?",
        "Whether what was forgotten comes back",
        65,
    ),
    Chapter(demo.controls, ("summary.parquet", "arms.parquet")),
    Chapter(
        study.contrasts,
        ("contrasts.parquet",),
        "Is a selection better than random ones of its size?",
        "Whether a selection beats random ones",
        90,
    ),
)
"""In the order in which the page tells them."""
