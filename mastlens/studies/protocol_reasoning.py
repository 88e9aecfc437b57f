"""A protocol of reasoning models: R2MU's table on files of one's own, as rows of a protocol's table."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mastlens.errors import BadSetting
from mastlens.evaluation.judges import Judge
from mastlens.evaluation.multiple_choice import read_choices
from mastlens.evaluation.settings import EvaluateTracesSettings, JudgeChoice
from mastlens.evaluation.traces.evaluating import FILE, traces_judge
from mastlens.runs.reading import read_table
from mastlens.studies.commands import RunSettings
from mastlens.studies.protocol_items import ItemMeans, paired_rows
from mastlens.studies.published import ProtocolSettings
from mastlens.studies.reasoning import SOLVED, reasoning_table
from mastlens.studies.reasoning_methods import METHODS, ReasoningStudy

FACTS = "facts.json"
ORIGINAL, REFERENCE = "original", "reference"


def run_reasoning(
    asked: RunSettings, protocol: ProtocolSettings, sets: Mapping[str, Path], out: Path, *, before: str
) -> pd.DataFrame:
    """Return the rows of every method, one seed each.

    Args:
        asked: What was asked for.
        protocol: The protocol.
        sets: The benchmark's files.
        out: Its folder.
        before: What the model as it is is called.

    Raises:
        MastlensError: If no judge is named, or something that a method needs is missing.
    """
    settings = protocol.reasoning
    assert settings is not None
    judge, folder = _judge(asked, out), out / "reasoning"
    reference = None if asked.reference is None else os.fspath(asked.reference)
    study = ReasoningStudy(
        model=str(asked.model),
        reference=reference,
        forget=str(sets["forget-text"]),
        retain=str(sets["retain-text"]),
        cot=str(sets["cot"]),
        questions=str(sets["forget-choices"]),
        utility=str(sets["utility-choices"]),
        maths=str(sets["maths"]),
        where=settings.where,
        layer=settings.layer,
        steps=protocol.steps,
        lr=protocol.lr,
        batch_size=protocol.batch_size,
        max_new_tokens=protocol.max_new_tokens,
        ask=settings.ask,
        preset=settings.preset,
    )
    shared = {key: getattr(asked, key) for key in ("seed", "device", "overwrite", "progress")}
    reasoning_table(study=study, methods=settings.methods, seeds=1, judge=judge, out=folder, **shared)
    chance = {split: _chance(sets[f"{split}-choices"]) for split in ("forget", "utility")}
    labels = {
        name: {ORIGINAL: before, REFERENCE: REFERENCE}.get(name, METHODS[name].label) for name in settings.methods
    }
    first = [REFERENCE] if reference is not None and REFERENCE in labels else []
    rest = [name for name in labels if name not in (ORIGINAL, REFERENCE)]
    means = {
        labels[name]: [*_means(folder / "exams" / f"{name}-{asked.seed}", chance)] for name in (*first, ORIGINAL, *rest)
    }
    return paired_rows(means, before, [REFERENCE])


def _judge(asked: RunSettings, out: Path) -> Judge:
    """Return what judges traces: as asked for, or the rule judge where the source has its facts."""
    facts = Path(os.fspath(asked.source or "")) / FACTS
    chosen = asked.judged_by or (JudgeChoice(facts=facts) if facts.is_file() else None)
    if chosen is None:
        raise BadSetting(
            f"Traces need a judge. The paper's is a model behind an endpoint: --judge endpoint --judge-model NAME "
            f"--judge-url URL; one on this machine: --judge local --judge-model PATH; or put {FACTS}, which the rule "
            f"judge reads, into {asked.source}."
        )
    return traces_judge(
        EvaluateTracesSettings(model=asked.model, questions={}, judged_by=chosen, device=asked.device, out=out)
    )


def _chance(path: Path) -> float:
    return float(np.mean([1 / len(one.options) for one in read_choices(path)]))


def _means(folder: Path, chance: Mapping[str, float]) -> Iterator[ItemMeans]:
    """Yield what R2MU reports of a model: lower is forgotten but of what is kept."""
    judged = read_table(folder / FILE)
    parts = {str(split): rows for split, rows in judged.groupby("split", sort=False)}
    forget, kept = parts["forget"], parts["utility"]
    option, leak = (forget[column].to_numpy(float) for column in ("choice_correct", "leak"))
    yield ItemMeans("FA-UA", "forget", "letter", option, chance["forget"], options=True)
    yield ItemMeans("RT-UA", "forget", "trace", leak)
    yield ItemMeans("Avg-UA", "forget", "mean", (option + leak) / 2)
    yield ItemMeans("accuracy", "forget", "answer", forget["correct"].to_numpy(float), chance["forget"])
    yield ItemMeans(
        "accuracy", "utility", "letter", kept["choice_correct"].to_numpy(float), chance["utility"], options=True
    )
    yield ItemMeans("accuracy", "maths", "tolerant", read_table(folder / SOLVED)["correct"].to_numpy(float))
