"""Where the data of the paper's figures comes from: the demo's tables, the organism itself, and the committed study."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mastlens.errors import NotFound
from mastlens.evaluation import compare_tables
from mastlens.organisms import get_organism
from mastlens.runs.reading import read_table
from mastlens.selection import select, selection_overlap
from mastlens.statistics import paired_interval, ratio_interval
from mastlens.studies.verdict import SPLITS

RULES = ("mast", "magnitude", "rms", "off-principal", "coupling", "mast-without-magnitude", "grad-norm")
"""Rules whose selections are compared: those that geometry and coupling alone can rank by."""

TOKEN_MEASURES = {"mean Δ log p (nats a token)": "difference", "tokens with Δ log p > 0 (share)": "up"}
"""Measure of tokens to the column that is averaged."""

SOURCE, EDITED = "rlvr", "selected"
_VIEWS = {
    "accuracy (percentage points)": ("correct", None, 100.0),
    "log p(solution) (nats a token)": ("logprob_solution", "solution_tokens", 1.0),
    "log p(answer | prompt) (nats a token)": ("logprob_answer", "answer_tokens", 1.0),
}


@dataclass(frozen=True)
class PaperSources:
    """Tables that the figures are drawn from, each read or computed when it is asked for, once.

    Attributes:
        demo: The folder of a finished ``mastlens demo``.
        study: The folder of the study's tables, ``study-study.csv`` and ``study-summary.csv`` and
            ``study-contrasts.csv``, or of a finished study (``study.parquet`` ...).
    """

    demo: Path
    study: Path

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of the demo.

        Raises:
            MastlensError: If it is not there.
        """
        path = self.demo / name
        if not path.is_file():
            raise NotFound(f"{path} is missing. Run the demo first: mastlens demo --out {self.demo}")
        return read_table(path)

    def studied(self, name: str) -> pd.DataFrame | None:
        """Return a table of the study (``study``, ``summary``, ``contrasts``); None where there is no study."""
        finished, kept = self.study / f"{name}.parquet", self.study / f"study-{name}.csv"
        if finished.is_file():
            return read_table(finished)
        return pd.read_csv(kept) if kept.is_file() else None

    @cached_property
    def geometry(self) -> pd.DataFrame:
        """The demo's ``geometry.parquet``, of ``--full``."""
        return self.table("geometry.parquet")

    @cached_property
    def coupling(self) -> pd.DataFrame:
        """The demo's ``coupling.parquet``."""
        return self.table("coupling.parquet")

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """What each increment did to every token of the organism's training solutions; computed here, in seconds."""
        return organism_tokens()

    @cached_property
    def labels(self) -> dict[str, str]:
        """Every arm's name to what it is called, in the demo's order."""
        arms = self.table("arms.parquet")
        return dict(zip(arms["arm"], arms["label"], strict=True))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row an arm and split."""
        return self.table("summary.parquet")

    @cached_property
    def items(self) -> pd.DataFrame:
        """The items of the selected edit against its source."""
        names = (f"arms/{arm}/responses.parquet" for arm in (SOURCE, EDITED))
        return compare_tables(*(self.table(name) for name in names)).items

    @cached_property
    def overlap(self) -> pd.DataFrame:
        """How far the selections of the rules agree, at the demo's number of tensors."""
        top = int(self.table("ranking.parquet")["selected"].sum())
        return selection_overlap({rule: ranked(self.geometry, self.coupling, rule, top) for rule in RULES})

    @cached_property
    def searches(self) -> pd.DataFrame:
        """Forget accuracy on the calibration items at every saved step of every matched arm."""
        parts = []
        for arm, label in self.labels.items():
            path = self.demo / "arms" / arm / "search.parquet"
            if path.is_file():
                parts.append(read_table(path).assign(arm=label))
        if not parts:
            raise NotFound(f"{self.demo} has no matched arm. Run the demo first: mastlens demo --out {self.demo}")
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def views(self) -> pd.DataFrame:
        """Three views of forgetting on the forget items, as changes to the source, with paired intervals."""
        before = _forget(self.table(f"arms/{SOURCE}/responses.parquet"))
        rows = []
        for arm, label in self.labels.items():
            if arm == SOURCE:
                continue
            after = _forget(self.table(f"arms/{arm}/responses.parquet"))
            for measure, (column, tokens, scale) in _VIEWS.items():
                rows.append({"arm": label, "measure": measure, **_change(before, after, column, tokens, scale)})
        return pd.DataFrame(rows)


def ranked(geometry: pd.DataFrame, coupling: pd.DataFrame, rule: str, top: int) -> pd.DataFrame:
    """Return a rule's ranking from the two tables, the first ``top`` selected."""
    return select({"geometry": geometry, "coupling": coupling}, rule=rule, top=top).table


def organism_tokens(organism: str = "qwen2", *, progress: bool = False) -> pd.DataFrame:
    """Return the token differences of a shipped lineage on its training solutions, as ``token_differences`` does.

    Args:
        organism: Which lineage.
        progress: Show a progress bar.
    """
    from mastlens.analysis.tokens import token_differences

    lineage = get_organism(organism)
    files = {side: lineage.folder / file for side, file in lineage.problems.items()}
    base, sft, rlvr = (lineage.spec(role) for role in ("base", "sft", "rlvr"))
    return token_differences(splits=files, base=base, sft=sft, rlvr=rlvr, progress=progress).table


def diagnostics(tokens: pd.DataFrame, geometry: pd.DataFrame, coupling: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's diagnostics of both increments: what each did to tokens, and how it lies in the weights.

    Off-principal energy and the cosine are of all attention projections together: shares of their summed energy, and
    summed inner products over the product of the norms. The cosine is known for the RLVR increment alone.

    Args:
        tokens: ``tokens.parquet``; intervals resample its items whole.
        geometry: ``geometry.parquet``.
        coupling: ``coupling.parquet``.
    """
    rows = []
    names = {"sft": "SFT − base", "rlvr": "RLVR − SFT"}
    for increment, arm in names.items():
        part = tokens[tokens["increment"] == increment]
        per_item = part.assign(up=part["difference"] > 0).groupby(["split", "item"], sort=False)
        counts = per_item.size().to_numpy(float)
        for measure, column in TOKEN_MEASURES.items():
            sums = per_item[column].sum().to_numpy(float)
            interval = ratio_interval(sums, counts)
            value = sums.sum() / counts.sum()
            rows.append((arm, measure, value, interval.low, interval.high, int(counts.sum())))
        own = geometry[geometry["increment"] == increment]
        energy = own["delta_norm"].to_numpy(float) ** 2
        for who, column in ((arm, "off_principal"), (f"random increment ({increment.upper()})", "off_principal_null")):
            value = float((energy * own[column].to_numpy(float)).sum() / energy.sum())
            rows.append((who, "energy outside the principal subspaces (share)", value, np.nan, np.nan, len(own)))
    norms = [float(np.sqrt((coupling[c].to_numpy(float) ** 2).sum())) for c in ("forget_grad_norm", "delta_norm")]
    cosine = float(coupling["forget_inner"].sum()) / (norms[0] * norms[1])
    rows.append(
        (names["rlvr"], "cosine of forget gradient and increment (−1 to 1)", cosine, np.nan, np.nan, len(coupling))
    )
    return pd.DataFrame(rows, columns=["arm", "measure", "value", "ci_low", "ci_high", "n"])


def measures_of(
    summary: pd.DataFrame, arm: str, chosen: Callable[[pd.DataFrame], pd.Series], measures: dict[str, tuple[str, float]]
) -> pd.DataFrame:
    """Return rows of a study's summary as ``plot_measures`` takes them.

    Args:
        summary: The study's summary.
        arm: The column that names the rows.
        chosen: Which rows.
        measures: What a measure is called, with its unit, to its name in the summary and what it is multiplied by.
    """
    rows = summary[chosen(summary)]
    parts = []
    for label, (measure, scale) in measures.items():
        part = rows[rows["measure"] == measure]
        values = {end: scale * part[end].to_numpy(float) for end in ("mean", "ci_low", "ci_high")}
        shown = {"value": values["mean"], "ci_low": values["ci_low"], "ci_high": values["ci_high"]}
        parts.append(
            pd.DataFrame({"arm": part[arm].to_numpy(), "measure": label, **shown, "n": part["seeds"].to_numpy()})
        )
    return pd.concat(parts, ignore_index=True)


def main_splits(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the evaluation splits."""
    return summary[summary["split"].isin(SPLITS)]


def _forget(responses: pd.DataFrame) -> pd.DataFrame:
    part = responses[responses["split"] == "forget"]
    return part.sort_values(["item", "sample"] if "sample" in part else ["item"], ignore_index=True)


def _change(
    before: pd.DataFrame, after: pd.DataFrame, column: str, tokens: str | None, scale: float
) -> dict[str, float | int]:
    old, new = (scale * part[column].to_numpy(float) for part in (before, after))
    if tokens is None:
        interval = paired_interval(old, new)
        value = float((new - old).mean())
    else:
        counts = before[tokens].to_numpy(float)
        interval = ratio_interval(new - old, counts)
        value = float((new - old).sum() / counts.sum())
    return {"value": value, "ci_low": interval.low, "ci_high": interval.high, "n": len(old)}
