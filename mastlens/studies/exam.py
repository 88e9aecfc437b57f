"""The evaluation files, opened once for each arm: what it answers, and how far it is from the reference."""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.prompts import Prompt, items_of
from mastlens.evaluation import compare_tables
from mastlens.problems.reading import read_problems
from mastlens.runs.stages import hash_inputs
from mastlens.studies.bench import Bench
from mastlens.studies.distance import TeacherForced, divergence, teacher_forced
from mastlens.studies.settings import FORGET, RETAIN

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Exam:
    """Evaluation problems and the reference's word on them.

    Args:
        bench: Tokenizer and decoding.
        files: Split to file.
        reference: The model that never learnt it; None for no distance to one.
    """

    def __init__(self, bench: Bench, files: Mapping[str, str | Path], reference: Checkpoint | None = None):
        self.bench, self.reference = bench, reference
        self.inputs = hash_inputs({f"{split}-eval": path for split, path in files.items()})
        """Hashes of the evaluation files."""
        self._files = files

    @cached_property
    def _problems(self) -> dict[str, list]:
        return {split: read_problems(path) for split, path in self._files.items()}

    @cached_property
    def _encoded(self) -> list:
        return [ids for split, ps in self._problems.items() for ids in self.bench.encode(ps, str(self._files[split]))]

    @cached_property
    def _said(self) -> TeacherForced:
        """What the reference says; without one, what the source says, of which only the problems are used."""
        model = self.bench.model if self.reference is None else self.reference.load_model(device=self.bench.device)
        return teacher_forced(model, self._encoded, batch_size=self.bench.decoding.batch_size)

    def answers(self, model: "PreTrainedModel") -> pd.DataFrame:
        """Return one row an item of what a model answers.

        Columns: ``split``, ``item`` (from 0 in its file), ``subject``, ``prompt``, ``response``, ``gold``, ``answer``,
        ``correct`` (tolerant), ``correct_strict``, ``truncated``, ``logprob_solution`` (natural, summed),
        ``solution_tokens``, ``kl_reference`` (summed over the solution's tokens, in nats; NaN without a reference).
        """
        rows, tokenizer = items_of(self._problems), self.bench.tokenizer
        prompts = [
            Prompt(f"{split}/{item}", ids.prompt, p.answer)
            for (split, item, p), ids in zip(rows, self._encoded, strict=True)
        ]
        answered = self.bench.answer(model, prompts)
        divergences, logprobs, counts = divergence(model, self._said)
        return pd.DataFrame(
            {
                "split": [split for split, _, _ in rows],
                "item": [item for _, item, _ in rows],
                "subject": [p.subject for _, _, p in rows],
                "prompt": [str(tokenizer.decode(list(ids.prompt))) for ids in self._encoded],
                "response": [one.response.text for one in answered],
                "gold": [p.answer for _, _, p in rows],
                "answer": [one.grade.answer if one.grade else None for one in answered],
                "correct": [one.correct for one in answered],
                "correct_strict": [one.correct_strict for one in answered],
                "truncated": [one.response.truncated for one in answered],
                "logprob_solution": logprobs,
                "solution_tokens": counts,
                "kl_reference": divergences if self.reference is not None else np.full(len(rows), math.nan),
            }
        )


def with_pooled_retain(table: pd.DataFrame) -> pd.DataFrame:
    """Return the answers with every retain split once more, together as the split ``retain``."""
    kept = table[table["split"] != FORGET]
    return pd.concat([table, kept.assign(split=RETAIN, item=range(len(kept)))], ignore_index=True)


def measure_answers(
    answers: pd.DataFrame,
    source: pd.DataFrame,
    reference: pd.DataFrame | None,
    *,
    perplexity: float,
) -> pd.DataFrame:
    """Return one row a split, ``retain`` being all but ``forget``, of an arm against the source and the reference.

    Columns: ``split``, ``n``, ``accuracy``, ``difference`` to the source with its paired interval ``ci_low`` and
    ``ci_high``, ``lost``, ``gained``, ``mcnemar_p``, ``truncated`` (a share), ``logprob`` (of a solution token),
    ``kl`` (KL(reference || arm) of a solution token, in nats), ``agreement`` (share of items with the reference's
    answer, two without any not agreeing), ``perplexity`` (the same in each row).

    Args:
        answers: Of the arm, as ``Exam.answers``.
        source: Of the checkpoint that was edited.
        reference: Of the model that never learnt it.
        perplexity: On neutral texts.
    """
    pooled = with_pooled_retain(answers)
    paired = compare_tables(with_pooled_retain(source), pooled).table
    if reference is None:
        pooled["agrees"] = math.nan
    else:
        pooled["agrees"] = _same_answer(pooled["answer"], with_pooled_retain(reference)["answer"])
    rows: list[dict[str, Any]] = []
    for row in paired.to_dict("records"):
        part = pooled[pooled["split"] == row["split"]]
        tokens = int(part["solution_tokens"].sum())
        rows.append(
            {
                "split": row["split"],
                "n": row["n"],
                "accuracy": row["after"],
                "difference": row["difference"],
                "ci_low": row["ci_low"],
                "ci_high": row["ci_high"],
                "lost": row["b"],
                "gained": row["c"],
                "mcnemar_p": row["mcnemar_p"],
                "truncated": float(part["truncated"].mean()),
                "logprob": float(part["logprob_solution"].sum()) / tokens,
                "kl": float(part["kl_reference"].sum(skipna=False)) / tokens,
                "agreement": float(part["agrees"].mean()),
                "perplexity": perplexity,
            }
        )
    return pd.DataFrame(rows)


def _same_answer(ours: pd.Series, theirs: pd.Series) -> np.ndarray:
    a, b = (series.fillna("").str.replace(r"\s", "", regex=True) for series in (ours, theirs))
    return ((a == b) & (a != "")).to_numpy(float)
