"""What is measured of one projection when it is opened: computed once, kept, and the model left as it was."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.causal.first_order import first_order
from mastlens.analysis.causal.patching import (
    Patch,
    ProblemSet,
    located,
    patched_tensors,
    read_patched,
    read_sides,
)
from mastlens.analysis.increments.angles import angle_nulls
from mastlens.analysis.increments.measures import Options, measure_projection, resolve_rank
from mastlens.analysis.increments.ranks import RankRule
from mastlens.analysis.increments.subspaces import principal_angles, principal_subspaces
from mastlens.analysis.increments.weight_basis import weight_basis
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.lineage import Lineage, paired
from mastlens.errors import BadSetting, NotSupported, UnknownName
from mastlens.explorer.patterns import AttentionPatterns, attention_patterns
from mastlens.explorer.sources import RunSources
from mastlens.models.gradients import mean_gradients
from mastlens.models.weights import named_weights, swapped
from mastlens.statistics import ratio_intervals

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")
_BATCH = 8  # problems a forward pass: patterns of long texts are large


@dataclass(frozen=True)
class PutBack:
    """What putting one projection's weights back into the RLVR model does.

    Attributes:
        items: One row a side and problem: ``side``, ``item`` (from 0), ``tokens`` (of the solution), ``before`` and
            ``after`` (summed log-probability of the solution, nats), ``change`` (nats per token).
        table: One row a side: ``side``, ``problems``, ``before`` and ``after`` (log-probability a token over all
            solution tokens), ``effect`` (their difference) with ``effect_low`` and ``effect_high`` (paired 95 %
            interval over problems), ``first_order`` (as the gradient predicts it) and ``null_sd`` (of that
            prediction for a change of the same size in a random direction).
        stage: Whose weights were put back: ``sft``, or ``base`` where the run has no SFT.
    """

    items: pd.DataFrame
    table: pd.DataFrame
    stage: str


class PatchBench:
    """Measures projections of one lineage; the model is loaded when it is first needed.

    Args:
        sources: Checkpoints, problems and edit.
        limit: How many problems of each file are read.
        device: Where to compute.
        rank: The rule for k of the principal subspaces.
    """

    def __init__(self, sources: RunSources, *, limit: int, device: str, rank: str):
        self.sources, self.limit, self.device, self.rank = sources, limit, device, rank
        self._kept: dict[tuple[Any, ...], Any] = {}

    def _once(self, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    @property
    def measured(self) -> list[str]:
        """The projections that were put back, in the order in which they were."""
        return [key[1] for key in self._kept if key[0] == "put back"]

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The RLVR model, loaded here and seen by nobody else."""
        return self.sources.lineage.rlvr.load_model(device=self.device)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its tokenizer."""
        return self.sources.lineage.rlvr.load_tokenizer()

    @cached_property
    def problems(self) -> dict[str, ProblemSet]:
        """Side to its first problems."""
        files = self.sources.need_problems()
        return read_sides(
            self.sources.lineage.rlvr, self.model, self.tokenizer, files, limit=self.limit, chat_template=True
        )

    def projection(self, name: str) -> Projection:
        """Return the projection of that name."""
        return next(p for p in self.sources.lineage.rlvr.projections if p.name == name)

    def geometry(self, name: str) -> dict[str, pd.DataFrame]:
        """Return ``heads`` and ``spectra`` of one projection's increments, as ``geometry`` measures them.

        Raises:
            MastlensError: If the base checkpoint is not known.
        """

        def compute() -> dict[str, pd.DataFrame]:
            options = Options(rank=self.rank, heads=True, spectra=True, device=self.device)
            found = measure_projection(self.with_base(), self.projection(name), options)
            return {part: pd.DataFrame(found[part]) for part in ("heads", "spectra")}

        return self._once(("geometry", name), compute)

    def with_base(self) -> Lineage:
        """Return the lineage.

        Raises:
            MastlensError: If the base checkpoint is not known.
        """
        if self.sources.lineage.base is None:
            raise BadSetting("This needs the base checkpoint. Say: explore(study, base=PATH).")
        return self.sources.lineage

    def angles(self, name: str) -> pd.DataFrame:
        """Return the principal angles between the top-k subspaces before and after each increment.

        Columns: ``increment``, ``side`` (left or right), ``index`` (1 for the smallest), ``degrees``, ``chance_max``
        (the largest angle that a random increment of the same size gives, on average).
        """
        return self._once(("angles", name), lambda: _angles(self, self.projection(name)))

    def put_back(self, name: str) -> PutBack:
        """Put the weights of the stage before into the RLVR model, of this projection alone, and measure.

        Raises:
            MastlensError: If checkpoints or problems are not known.
        """
        return self._once(("put back", name), lambda: _put_back(self, self.projection(name)))

    def attention(self, name: str, *, problem: int | None = None) -> AttentionPatterns:
        """Return the attention patterns of the projection's layer before and after a change, on forget problems.

        The change is the run's edit; without one, this projection put back. v and o act on what was attended to, not
        on the pattern: what putting them back does to patterns begins in the next layer, and that one is shown.

        Args:
            name: The projection.
            problem: One problem, from 0; None for the mean over all of them.
        """
        return self._once(("attention", name, problem), lambda: self._attention(self.projection(name), problem))

    def _attention(self, projection: Projection, problem: int | None) -> AttentionPatterns:
        edit, encoded = self.sources.opened_edit, self.problems["forget"].encoded
        if problem is not None and not 0 <= problem < len(encoded):
            raise UnknownName(f"There is no forget problem {problem}; there are {len(encoded)}, counted from 0.")
        chosen = encoded if problem is None else encoded[problem : problem + 1]
        layer = projection.layer
        if edit is None:
            layer = self._first_moved(projection)
            stage, tensors = self.before(projection)
            change = f"{projection.projection} of layer {projection.layer} put back to its {stage.upper()} weights"
        else:
            tensors, change = dict(edit.after), f"the edit of {len(edit.after)} tensors"
        words = None
        if problem is not None:
            ids = [*chosen[0].prompt, *chosen[0].solution]
            words = [str(self.tokenizer.decode([token])) for token in ids]
        model = self.model
        before = attention_patterns(model, chosen, layer, batch_size=_BATCH)
        with swapped(model, tensors):
            after = attention_patterns(model, chosen, layer, batch_size=_BATCH)
        return AttentionPatterns.of(before, after, layer=layer, problems=len(chosen), change=change, words=words)

    def _first_moved(self, projection: Projection) -> int:
        """Return the lowest layer whose pattern can change when this projection does."""
        if projection.projection not in ("v", "o"):
            return projection.layer
        above = [p.layer for p in self.sources.lineage.rlvr.projections if p.layer > projection.layer]
        if not above:
            raise NotSupported(
                f"{projection.projection} of the last layer acts after all attention patterns: putting it back moves "
                "none. Give an edit to see what that does: explore(study, edit=FILE)."
            )
        return min(above)

    def before(self, projection: Projection) -> tuple[str, dict[str, Tensor]]:
        """Return the stage before RLVR, and the tensor that holds the projection with that stage's weights in it."""
        lineage = self.sources.lineage
        other, _ = lineage.increments["rlvr"]
        stage = "sft" if lineage.sft is not None else "base"
        place = located([projection.stored], self.model)[projection.stored]
        own = named_weights(self.model, [place])[place]
        taken = other.tensor(projection.stored).to(device=own.device, dtype=own.dtype)
        tensors = patched_tensors([Patch(projection)], {projection.stored: own}, {projection.stored: taken})
        return stage, tensors


def _angles(bench: PatchBench, projection: Projection) -> pd.DataFrame:
    lineage = bench.with_base()
    rows: list[dict[str, Any]] = []
    for increment, (before, after) in lineage.increments.items():
        old, new = (matrix.float() for matrix in paired(before, after, projection))
        spectrum = torch.linalg.svdvals(old.double())
        rank = resolve_rank(RankRule.parse(bench.rank), projection, spectrum)
        a, b = (principal_subspaces(matrix, rank) for matrix in (old, new))
        nulls = angle_nulls(old, weight_basis(old), a, new - old, name=f"{increment}/{projection.name}")
        for side in ("left", "right"):
            degrees = torch.rad2deg(principal_angles(getattr(a, side), getattr(b, side))).tolist()
            chance = nulls[f"angle_{side}_max_deg"].mean
            rows += [
                {"increment": increment, "side": side, "index": i, "degrees": angle, "chance_max": chance}
                for i, angle in enumerate(degrees, start=1)
            ]
    return pd.DataFrame(rows)


def _put_back(bench: PatchBench, projection: Projection) -> PutBack:
    stored, patch = projection.stored, Patch(projection)
    stage, changed = bench.before(projection)
    place = located([stored], bench.model)[stored]
    own: Mapping[str, Tensor] = {stored: named_weights(bench.model, [place])[place].detach()}
    items, table = [], []
    for side, problems in bench.problems.items():
        effects = read_patched(bench.model, problems.encoded, [[patch]], changed, batch_size=_BATCH)
        gradients = mean_gradients(bench.model, problems.encoded, [place], batch_size=_BATCH)
        predicted = first_order([patch], {stored: gradients[place]}, own, changed)
        low, high = ratio_intervals(effects.differences, effects.counts)
        tokens = effects.counts.sum()
        items.append(
            pd.DataFrame(
                {
                    "side": side,
                    "item": np.arange(len(effects.counts)),
                    "tokens": effects.counts.astype(int),
                    "before": effects.unpatched,
                    "after": effects.patched[0],
                    "change": effects.differences[0] / effects.counts,
                }
            )
        )
        table.append(
            {
                "side": side,
                "problems": len(effects.counts),
                "before": float(effects.unpatched.sum() / tokens),
                "after": float(effects.patched[0].sum() / tokens),
                "effect": float(effects.differences[0].sum() / tokens),
                "effect_low": float(low[0]),
                "effect_high": float(high[0]),
                "first_order": float(predicted["first_order"].iloc[0]),
                "null_sd": float(predicted["null_sd"].iloc[0]),
            }
        )
    return PutBack(pd.concat(items, ignore_index=True), pd.DataFrame(table), stage)
