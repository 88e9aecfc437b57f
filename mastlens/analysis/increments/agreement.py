"""Do several runs change the same entries? Agreement of update masks, beside what masks give that know nothing of it.

Two nulls, and agreement is beyond chance where it is beyond both: one run's changed entries at other places of the
matrix, and the same among entries that rounding treats alike: of one spacing of the stored type, since more is let
through where entries are small, and as far from where the mask's view rounds to another number, since an entry that
lies on the edge is seen to change by almost anything, in every run (``view_cells``). In both whole rows and columns may
be hot together (see ``placement``): runs that happen to change some rows more than others do not agree by that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from mastlens.analysis.increments.masks import count, update_mask, view_cells
from mastlens.analysis.increments.nulls import LEVEL, Null
from mastlens.analysis.increments.placement import Rounding, placed_null
from mastlens.analysis.increments.precision import coarser, precision_floor, rounding_variance
from mastlens.analysis.increments.settings import MaskAgreementSettings
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.lineage import Lineage, spacings
from mastlens.errors import BadSetting
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import remembered

if TYPE_CHECKING:
    from mastlens.plots.cards.card import Card

FILES = {"table": "agreement.parquet", "runs": "agreement-runs.parquet", "consensus": "agreement-consensus.parquet"}


@dataclass(frozen=True, repr=False)
class Agreement(Carded):
    """How far the update masks of several runs agree.

    Attributes:
        table: One row a projection and pair of runs; the columns are described at ``mask_agreement``.
        runs: One row a projection and run.
        consensus: One row a projection and number of runs.
        settings: What made it.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    consensus: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import agreement_card

        return agreement_card(self.table, self.settings)

    def summary(self) -> pd.DataFrame:
        """Return the mean over pairs for each projection: ``jaccard``, ``jaccard_null``, ``jaccard_matched_null``."""
        keys = ["layer", "projection", "name"]
        values = ["jaccard", "jaccard_null", "jaccard_matched_null"]
        return self.table.groupby(keys, sort=False)[values].mean().reset_index()


@dataclass(frozen=True)
class Jaccard:
    """Agreement of two masks.

    Attributes:
        jaccard: |A and B| / |A or B|; NaN where both are empty.
        share_a: Density of A, p.
        share_b: Density of B, q.
        independent: p q / (p + q - p q), what independent masks give.
        matched: The same where the masks are independent within each stratum only; NaN without ``rounding``.
        overlap: |A and B| / |A|, which the nulls are of; NaN where A is empty.
        null: A's entries at random places.
        matched_null: The same within each stratum; None without ``rounding``.
    """

    jaccard: float
    share_a: float
    share_b: float
    independent: float
    matched: float
    overlap: float
    null: Null
    matched_null: Null | None = None


def mask_jaccard(
    a: Bool[Tensor, "rows cols"], b: Bool[Tensor, "rows cols"], rounding: Rounding | None = None
) -> Jaccard:
    """Return the Jaccard agreement of two masks beside independent ones (arXiv:2511.08567). O(numel).

    Args:
        a: A mask.
        b: Another.
        rounding: Which entries of the weight that both runs started from rounding treats alike.
    """
    numel, size_a, size_b = a.numel(), count(a), count(b)
    both = int(np.count_nonzero(a.numpy() & b.numpy()))
    null = placed_null(a, b)
    matched = None if rounding is None else placed_null(a, b, rounding)

    def share(intersection: int | float) -> float:
        union = size_a + size_b - intersection
        return intersection / union if union else float("nan")

    return Jaccard(
        jaccard=share(both),
        share_a=size_a / numel,
        share_b=size_b / numel,
        independent=share(size_a * size_b / numel),
        matched=float("nan") if matched is None else share(size_a * matched.mean) if size_a else share(0),
        overlap=both / size_a if size_a else float("nan"),
        null=null,
        matched_null=matched,
    )


def consensus_counts(masks: Sequence[Bool[Tensor, "rows cols"]]) -> NDArray[np.int64]:
    """Return how many entries were changed by exactly 0, 1, ..., R of the R runs."""
    return np.bincount(_votes(masks).ravel(), minlength=len(masks) + 1)


def independent_consensus(shares: Sequence[float]) -> Float[NDArray[np.float64], " runs_and_one"]:
    """Return the share of entries changed by exactly 0, 1, ..., R runs if the runs were independent.

    The Poisson-binomial law of the masks' densities.
    """
    law = np.ones(1)
    for p in shares:
        law = np.convolve(law, [1 - p, p])
    return law


def update_ratios(
    mask: Bool[Tensor, "rows cols"],
) -> tuple[Float[NDArray[np.float64], " rows"], Float[NDArray[np.float64], " cols"]]:
    """Return the share of changed entries in each row and in each column; stripes show there."""
    dense = mask.numpy()
    return np.count_nonzero(dense, axis=1) / dense.shape[1], np.count_nonzero(dense, axis=0) / dense.shape[0]


def stripe_index(ratios: Float[NDArray[np.float64], " lines"], across: int) -> tuple[float, Null]:
    """Return the variance of update ratios over the binomial one, and its null: 1 for no stripes.

    Args:
        ratios: Of the rows (or columns).
        across: Entries in each of them.
    """
    p, lines = float(ratios.mean()), len(ratios)
    null = Null(1.0, (2 / max(lines - 1, 1)) ** 0.5, "normal", "asymptotic")
    if lines < 2 or p in (0.0, 1.0):
        return float("nan"), null
    return float(ratios.var(ddof=1) / (p * (1 - p) / across)), null


@takes(MaskAgreementSettings)
def mask_agreement(settings: MaskAgreementSettings) -> Agreement:
    """Compare where several runs from one checkpoint changed it, per attention projection (arXiv:2511.08567, 4).

    ``where`` takes other weight matrices, by name.

    ``table``, one row a projection and pair of runs: ``layer``, ``projection``, ``name``, ``rows``, ``cols``,
    ``run_a``, ``run_b``, ``share_a``, ``share_b`` (of entries changed), ``jaccard`` (|A and B| / |A or B|; NaN where
    neither run changed anything), ``jaccard_null`` (independent masks, pq / (p + q - pq)), ``z``, ``p`` (two-sided, of
    one mask's entries at random places); the same for masks that share only what rounding does to the weight that all
    runs started from: ``jaccard_matched_null``, ``z_matched``, ``p_matched``, ``distinguishable_matched`` (p < 0.001);
    ``judged_by``, the null of the larger p, and ``distinguishable``, beyond both; ``note``, where one of the two
    increments is zero or below the precision floor, and then nothing is distinguishable.

    ``runs``, one row a projection and run: ``run``, ``note``, ``changed_fraction``, ``row_stripes``, ``col_stripes``
    (variance of the share changed per row or column over the binomial one; 1 = no stripes), ``row_stripes_z``,
    ``col_stripes_z``.

    ``consensus``, one row a projection and r = 0 ... R: ``runs_changed`` (r), ``entries``, ``share``, ``share_null``.

    Raises:
        MastlensError: For fewer than two runs, a run named twice, or one that is not of the reference's lineage.
    """
    start = Checkpoint(settings.reference)
    named = {name: run.named_as(start) for name, run in _named(settings.runs).items()}
    for checkpoint in named.values():
        Lineage.open(checkpoint, sft=start)  # shapes, relation, and that they differ
    recorded: dict[str, Any] = {"view": settings.view, "tolerance": settings.tolerance, "runs": list(named)}
    if settings.where is not None:
        recorded["where"] = settings.where
    chosen = start.projections if settings.where is None else start.matrices(settings.where)
    files = [FILES[part] for part in FILES]

    def write(result: Agreement, folder: Path) -> None:
        for part, file in FILES.items():
            write_table(folder / file, getattr(result, part))

    def read(folder: Path) -> Agreement:
        return Agreement(**{part: read_table(folder / file) for part, file in FILES.items()}, settings=recorded)

    return remembered(
        settings.out,
        "agreement",
        outputs=files,
        lineage={"reference": start.fingerprint},
        inputs={name: checkpoint.fingerprint for name, checkpoint in named.items()},
        settings=recorded,
        command=settings,
        overwrite=settings.overwrite,
        compute=lambda: _compare(start, chosen, named, recorded, progress=settings.progress),
        write=write,
        read=read,
    )


def _named(runs: Any) -> dict[str, Checkpoint]:
    pairs = list(runs.items()) if isinstance(runs, Mapping) else [(None, run) for run in runs]
    opened = [(name, Checkpoint(run)) for name, run in pairs]
    named = {name or checkpoint.spec: checkpoint for name, checkpoint in opened}
    if len(named) < len(opened):
        raise BadSetting("A run is named twice. Agreement compares different runs; give each path once.")
    if len(named) < 2:
        raise BadSetting(f"Agreement needs at least two runs from the same checkpoint; there are {len(named)}.")
    return named


def _compare(
    start: Checkpoint,
    chosen: Sequence[Projection],
    runs: Mapping[str, Checkpoint],
    settings: Mapping[str, Any],
    *,
    progress: bool,
) -> Agreement:
    pairs, single, consensus = [], [], []
    for projection in tqdm(chosen, desc="agreement", unit="tensor", disable=not progress):
        before = start.matrix(projection)
        dtype = before.dtype
        masks, notes = {}, {}
        for name, run in runs.items():
            after = run.matrix(projection)
            masks[name] = update_mask(before, after, view=settings["view"], tolerance=settings["tolerance"])
            codes = zip((before, after), spacings(start, run, projection), strict=True)
            variance = sum(rounding_variance(stored, spacing) for stored, spacing in codes)
            floor = precision_floor(variance, projection.rows, projection.cols)
            notes[name] = floor.note(float((after.float() - before.float()).norm()))
            dtype = coarser(dtype, after.dtype)
        where = _describe(projection)
        cells = view_cells(before, view=settings["view"], tolerance=settings["tolerance"])
        rounding = replace(Rounding.of(before, dtype), cells=cells)
        for a, b in combinations(masks, 2):
            note = notes[a] or notes[b]
            pairs.append({**where, "run_a": a, "run_b": b, "note": note, **_pair(masks[a], masks[b], rounding, note)})
        for name, mask in masks.items():
            single.append({**where, "run": name, "note": notes[name], **_single(mask)})
        counts = consensus_counts(list(masks.values()))
        law = independent_consensus([count(mask) / mask.numel() for mask in masks.values()])
        consensus.extend(
            {
                **where,
                "runs_changed": r,
                "entries": int(entries),
                "share": entries / projection.numel,
                "share_null": float(law[r]),
            }
            for r, entries in enumerate(counts)
        )
    return Agreement(pd.DataFrame(pairs), pd.DataFrame(single), pd.DataFrame(consensus), dict(settings))


def _describe(projection: Projection) -> dict[str, Any]:
    return {
        "layer": projection.layer,
        "projection": projection.projection,
        "name": projection.name,
        "rows": projection.rows,
        "cols": projection.cols,
    }


def _pair(a: Tensor, b: Tensor, rounding: Rounding, note: str) -> dict[str, Any]:
    found = mask_jaccard(a, b, rounding)
    assert found.matched_null is not None
    row: dict[str, Any] = {"share_a": found.share_a, "share_b": found.share_b, "jaccard": found.jaccard}
    laws = (("", found.independent, found.null), ("_matched", found.matched, found.matched_null))
    for suffix, mean, null in laws:
        p = float("nan") if note else null.p_value(found.overlap)
        row |= {f"jaccard{suffix}_null": mean, f"z{suffix}": null.z(found.overlap), f"p{suffix}": p}
        row[f"distinguishable{suffix}"] = p < LEVEL
    row["distinguishable"] &= row["distinguishable_matched"]
    row["judged_by"] = laws[int(row["p_matched"] > row["p"])][2].source
    return row


def _single(mask: Tensor) -> dict[str, Any]:
    rows, cols = update_ratios(mask)
    row: dict[str, Any] = {"changed_fraction": count(mask) / mask.numel()}
    for side, ratios, across in (("row", rows, len(cols)), ("col", cols, len(rows))):
        value, null = stripe_index(ratios, across)
        row |= {f"{side}_stripes": value, f"{side}_stripes_z": null.z(value)}
    return row


def _votes(masks: Sequence[Tensor]) -> NDArray[np.int16]:
    votes = np.zeros(masks[0].shape, dtype=np.int16)
    for mask in masks:
        votes += mask.numpy()
    return votes
