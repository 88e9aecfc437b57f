"""Causal map: what one projection's weights do, shown by putting back those of the checkpoint before or after."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.analysis.causal.measuring import measure_patches
from mastlens.analysis.causal.patching import patches_of
from mastlens.analysis.causal.settings import DIRECTIONS, CausalMapSettings
from mastlens.analysis.causal.tables import group_table, patch_table, rows_of
from mastlens.checkpoints.lineage import Lineage
from mastlens.decoding.graders import find_grader
from mastlens.decoding.graders import recorded as recorded_grader
from mastlens.errors import NotSupported
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table
from mastlens.runs.ranks import ahead, ranks_for, remembered
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs
from mastlens.statistics import spearman

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "causal_map.parquet"
GROUPS = "causal_groups.parquet"


@dataclass(frozen=True, repr=False)
class CausalMap(Carded):
    """The effect of every projection's weights, measured and predicted.

    Attributes:
        table: One row a direction, projection and head; the columns are described at ``causal_map``.
        groups: One row a direction and group of parameters, all of them put in together: what attention as a whole
            does, beside the rest of the model.
        settings: What made it.
    """

    table: pd.DataFrame
    groups: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import causal_card

        return causal_card(self.table, self.groups, self.settings)

    @property
    def correlation(self) -> pd.DataFrame:
        """Rank correlation of measured effect and first-order prediction, one row a direction, part and side.

        Columns: ``direction``, ``part`` (``projection`` or ``head``), ``side``, ``n``, ``spearman``, ``p_value``
        (permutation), ``sign_agreement`` (share of parts in which both have the same sign).
        """
        rows = []
        for direction in self.table["direction"].unique():
            for part in ("projection", "head"):
                for side in ("forget", "retain"):
                    chosen = rows_of(self.table, direction, part)
                    if f"{side}_effect" not in chosen or len(chosen) < 2:
                        continue
                    effect = chosen[f"{side}_effect"].to_numpy()
                    predicted = chosen[f"{side}_first_order"].to_numpy()
                    rows.append(
                        {
                            "direction": direction,
                            "part": part,
                            "side": side,
                            **spearman(effect, predicted),
                            "sign_agreement": float(np.mean(np.sign(effect) == np.sign(predicted))),
                        }
                    )
        return pd.DataFrame(rows)

    def plot(self, direction: str = "restore", *, heads: bool = False) -> "go.Figure":
        """Draw the effects of one direction by layer and projection (or head), forget and retain in equal colours."""
        from mastlens.plots.causal import plot_causal_map

        return plot_causal_map(self.table, direction=direction, heads=heads)

    def plot_groups(self, direction: str = "restore") -> "go.Figure":
        """Draw what attention does as a whole, beside the rest of the model."""
        from mastlens.plots.causal import plot_causal_groups

        return plot_causal_groups(self.groups, direction=direction)

    def plot_first_order(self, direction: str = "restore") -> "go.Figure":
        """Draw the measured effects against their first-order prediction."""
        from mastlens.plots.causal import plot_first_order

        return plot_first_order(self.table, direction=direction)


@takes(CausalMapSettings)
def causal_map(settings: CausalMapSettings) -> CausalMap:
    """Put each projection's weights of one checkpoint into the other, one at a time, and measure what changes.

    Layers below the patched one are not run again. Columns: ``direction`` (``restore``: the SFT weights in the RLVR
    model; ``insert``: the RLVR weights in the SFT model), ``layer``, ``projection``, ``name``, ``head`` (from 0; -1 is
    the whole projection; of k and v a head is a group), ``delta_norm`` (Frobenius norm of what changed), and for each
    side, here ``forget``:

    - ``forget_effect``: log-probability with the patch minus without it, summed over all solution tokens and
      divided by their count; nats per token; ``forget_effect_low`` and ``forget_effect_high``: its paired 95 %
      interval over problems;
    - ``forget_first_order``: the same change as the gradient at the unpatched model predicts it;
    - ``forget_null_sd``: standard deviation of that prediction for a change of the same size in a random direction,
      |gradient| |change| / sqrt(entries): an effect within two of them is one that any change could have;
    - ``forget_exact_change``: change of the share of problems whose every solution token is the most probable one
      after the reference solution so far (teacher forcing), so that greedy decoding would write exactly it;
    - ``forget_unpatched`` (log-probability a token without a patch) and ``forget_total`` (effect of putting in all
      weights of the other checkpoint, not only attention's);
    - with ``accuracy``, ``forget_accuracy_change``: change of the share of right greedy responses, with its
      interval ``_low`` and ``_high``. This generates anew for every patch, which takes long.

    A map of attention says nothing of what lies outside it. So ``groups`` has the same columns, as far as they apply,
    for whole groups of parameters put in together: ``group`` is ``projections`` (the matrices of the map),
    ``attention`` (these with biases and norms of heads), ``mlp``, ``embeddings``, ``norms``, or ``all``.
    """
    ranks = ranks_for(settings.device)
    if ranks is not None and settings.accuracy:
        raise NotSupported("Over ranks nothing is generated: leave --accuracy out, or run it without torchrun.")
    lineage = Lineage.open(settings.rlvr, sft=settings.sft)
    before, after = lineage.increments["rlvr"]
    computing = settings.computing(before, after)
    chosen = after.projections if settings.where is None else after.matrices(settings.where)
    grader = find_grader(settings.grader) if settings.accuracy else None
    asking = settings.asking
    recorded = {
        "dtype": computing.dtype,
        "where": settings.where,
        "heads": settings.heads,
        "both_directions": settings.both_directions,
        "accuracy": settings.accuracy,
        "limit": settings.limit,
        "seed": settings.seed,
        **asking.record(),
        **({} if grader is None else {"max_new_tokens": settings.max_new_tokens, **recorded_grader(grader)}),
    }

    def compute() -> CausalMap:
        found = {
            direction: measure_patches(
                *pair,
                files={"forget": settings.forget, "retain": settings.retain},
                patches=patches_of(chosen, heads=settings.heads) if direction in wanted else [],
                grader=grader if direction in wanted else None,
                max_new_tokens=settings.max_new_tokens,
                limit=settings.limit,
                batch_size=settings.batch_size,
                chat_template=asking,
                computing=computing,
                progress=direction if settings.progress else None,
                ranks=ranks,
            )
            for direction, pair in {"restore": (after, before), "insert": (before, after)}.items()
        }
        tables = [
            patch_table(direction, found[direction], opposite)
            for direction, opposite in (("restore", found["insert"]), ("insert", found["restore"]))
            if direction in wanted
        ]
        groups = [
            group_table(direction, found[direction], opposite)
            for direction, opposite in (("restore", found["insert"]), ("insert", found["restore"]))
            if direction in wanted
        ]
        return CausalMap(pd.concat(tables, ignore_index=True), pd.concat(groups, ignore_index=True), recorded)

    def write(result: CausalMap, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        write_table(folder / GROUPS, result.groups)

    wanted = DIRECTIONS if settings.both_directions else DIRECTIONS[:1]
    with ahead(ranks):
        fingerprints = lineage.fingerprints
    return remembered(
        ranks,
        settings.out,
        "causal-map",
        outputs=[FILE, GROUPS],
        lineage=fingerprints,
        behaviour=lineage.behaviour(),
        inputs=hash_inputs({"forget": settings.forget, "retain": settings.retain}),
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=lambda folder: CausalMap(read_table(folder / FILE), read_table(folder / GROUPS), recorded),
    )
