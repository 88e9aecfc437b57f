"""The tables of a study: one row an arm, means over seeds and draws, and selections against random ones."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mastlens.runs.reading import read_table
from mastlens.runs.stages import read_record
from mastlens.statistics import permutation_p, seed_interval
from mastlens.studies.arms import ARMS, Arm
from mastlens.studies.settings import FORGET, RETAIN
from mastlens.studies.working import MEASURES

OF_A_SPLIT = {
    "accuracy": "accuracy",
    "difference": "difference",
    "low": "ci_low",
    "high": "ci_high",
    "mcnemar_p": "mcnemar_p",
    "logprob": "logprob",
    "kl": "kl",
    "agreement": "agreement",
}
"""What a column of ``study.parquet`` is called behind its split, and where it is in an arm's measures."""

BETTER = {
    "retain_accuracy": 1,
    "forget_kl": -1,
    "retain_kl": -1,
    "forget_agreement": 1,
    "retain_agreement": 1,
    "perplexity": -1,
}
"""Measures with a good side: 1 where more is better, -1 where less is."""

SUMMARISED = (FORGET + "_accuracy", *BETTER)
"""Measures that are averaged over seeds."""


def gather_arms(arms: Sequence[Arm], out: Path) -> pd.DataFrame:
    """Return one row an arm, from the arms' folders.

    Columns: ``arm`` (its folder), ``kind``, ``objective``, ``selection``, ``rule``, ``draw`` (0 where nothing was
    drawn), ``seed``, ``lr``, ``step``, ``reached``, ``diverged`` (number of learning rates), ``tensors``,
    ``parameters``; for forget, retain (all retain splits together) and every retain split, after its name and an
    underscore, what ``OF_A_SPLIT`` lists: accuracy, its difference to the source with the paired interval ``low`` to
    ``high``, McNemar's p, log-probability of a solution token, KL(reference || arm) of a solution token, agreement
    with the reference's answers; ``perplexity``.

    Args:
        arms: The study's arms, finished.
        out: The study's folder.
    """
    rows = []
    for arm in arms:
        folder = out / ARMS / arm.name
        measures = read_table(folder / MEASURES).set_index("split")
        notes = read_record(folder)["stages"]["evaluate"]["notes"]
        row: dict[str, Any] = {
            "arm": arm.name,
            **{key: getattr(arm, key) for key in ("kind", "objective", "selection", "rule", "draw", "seed")},
            "lr": notes.get("lr", math.nan),
            "step": notes.get("step"),
            "reached": notes.get("reached"),
            "diverged": len(notes.get("diverged", [])),
            "tensors": notes.get("tensors", 0),
            "parameters": notes.get("parameters", 0),
        }
        for split in sorted(measures.index, key=lambda name: (name != FORGET, name != RETAIN)):
            row |= {f"{split}_{column}": measures.loc[split, measure] for column, measure in OF_A_SPLIT.items()}
        rows.append({**row, "perplexity": measures["perplexity"].iloc[0]})
    return pd.DataFrame(rows).astype({"step": "Int64", "reached": "boolean"})


def summarise_study(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row an objective, selection and measure.

    Columns: ``objective``, ``selection``, ``rule``, ``measure``, ``arms``, ``reached`` (share of the arms), ``mean``
    over seeds of the means over draws, ``ci_low`` and ``ci_high`` (Student's t over the seeds' means; NaN for one
    seed), ``seeds``; of random selections ``draws`` and, over the draws' means, ``draw_min``, ``draw_low``,
    ``draw_high`` (2.5 and 97.5 percentiles), ``draw_max``; NaN for others.

    Args:
        table: As ``gather_arms`` returns it.
    """
    rows = []
    for (objective, selection), group in _edited(table).groupby(["objective", "selection"], sort=False):
        drawn = bool((group["draw"] > 0).any())
        for measure in _present(table):
            seeds = group.groupby("seed")[measure].mean()
            low, high = (math.nan, math.nan)
            if len(seeds) > 1 and seeds.notna().all():
                interval = seed_interval(seeds)
                low, high = interval.low, interval.high
            spread = dict.fromkeys(("draw_min", "draw_low", "draw_high", "draw_max"), math.nan)
            draws = group.groupby("draw")[measure].mean()
            if drawn:
                spread = dict(zip(spread, np.percentile(draws, [0, 2.5, 97.5, 100]), strict=True))
            rows.append(
                {
                    "objective": objective,
                    "selection": selection,
                    "rule": group["rule"].iloc[0],
                    "measure": measure,
                    "arms": len(group),
                    "reached": group["reached"].astype(float).mean(),
                    "mean": seeds.mean(),
                    "ci_low": low,
                    "ci_high": high,
                    "seeds": len(seeds),
                    "draws": len(draws) if drawn else 0,
                    **spread,
                }
            )
    return pd.DataFrame(rows)


def contrast_draws(table: pd.DataFrame) -> pd.DataFrame:
    """Return every selection against every random one with the same objective.

    Columns: ``objective``, ``selection``, ``control``, ``measure``, ``mean``: over seeds of the selection minus the
    mean of the control's draws at the same seed, ``ci_low`` and ``ci_high`` (Student's t over seeds), ``seeds``,
    ``low_seed`` and ``high_seed`` (the smallest and the largest of the seeds' differences), ``draws``, ``as_good``:
    draws at least as good as the selection at the draw's own seeds, and ``permutation_p`` = (as_good + 1) /
    (draws + 1), one-sided: the chance that a draw would stand as high as the selection does, were it one of them.
    Measures without a good side are not in it.

    Args:
        table: As ``gather_arms`` returns it.
    """
    columns = ["objective", "selection", "control", "measure", "mean", "ci_low", "ci_high", "seeds"]
    columns += ["low_seed", "high_seed", "draws", "as_good", "permutation_p"]
    edited = _edited(table)
    return pd.DataFrame(
        [
            {**keys, **_contrast(fixed, random, measure)}
            for keys, fixed, random in _pairs(edited)
            for measure in _present(table)
            if measure in BETTER
        ],
        columns=columns,
    )


def _pairs(edited: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    for objective, group in edited.groupby("objective", sort=False):
        selections = dict(list(group.groupby("selection", sort=False)))
        random = {name: part for name, part in selections.items() if (part["draw"] > 0).any()}
        for name, part in selections.items():
            if name not in random:
                for control, draws in random.items():
                    yield {"objective": objective, "selection": name, "control": control}, part, draws


def _contrast(fixed: pd.DataFrame, random: pd.DataFrame, measure: str) -> dict[str, Any]:
    ours = fixed.groupby("seed")[measure].mean()
    by_seed = (ours - random.groupby("seed")[measure].mean()).dropna()
    low, high = (math.nan, math.nan)
    if len(by_seed) > 1:
        interval = seed_interval(by_seed)
        low, high = interval.low, interval.high
    # A draw is held against the selection at the seeds that the draw has: all of them, or one.
    gaps = random.assign(gap=random[measure] - random["seed"].map(ours)).groupby("draw")["gap"].mean().dropna()
    as_good = int((BETTER[measure] * gaps >= 0).sum())
    return {
        "measure": measure,
        "mean": by_seed.mean(),
        "ci_low": low,
        "ci_high": high,
        "seeds": len(by_seed),
        "low_seed": by_seed.min(),
        "high_seed": by_seed.max(),
        "draws": len(gaps),
        "as_good": as_good,
        "permutation_p": permutation_p(as_good, len(gaps)),
    }


def _edited(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["kind"] != "model"]


def _present(table: pd.DataFrame) -> list[str]:
    """Return the measures that the study has: none of a reference or of neutral text where there is no such thing."""
    return [measure for measure in SUMMARISED if table[measure].notna().any()]
