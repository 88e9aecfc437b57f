"""The lineage base -> SFT -> RLVR: checkpoints of one line of training, checked to belong together."""

import os
import warnings
from dataclasses import dataclass
from itertools import pairwise

import torch

from mastlens.architectures.projections import Projection
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensWarning, NotTogether

__all__ = ["RELATED_COSINE", "Checkpoint", "Lineage", "check_pair", "paired"]

# Fine-tunes of one model keep a cosine near 1 with it; separately initialised models have one near 0.
RELATED_COSINE = 0.5
_CHUNK = 1 << 18  # entries in one product


@dataclass(frozen=True)
class Lineage:
    """Checkpoints of one line of training, checked to belong together.

    Attributes:
        rlvr: The checkpoint after RLVR.
        sft: The checkpoint that RLVR started from; None where RLVR started from the base.
        base: The pre-trained checkpoint; None where an analysis needs no base.
    """

    rlvr: Checkpoint
    sft: Checkpoint | None = None
    base: Checkpoint | None = None

    @classmethod
    def open(
        cls,
        rlvr: "str | os.PathLike[str] | Checkpoint",
        *,
        sft: "str | os.PathLike[str] | Checkpoint | None" = None,
        base: "str | os.PathLike[str] | Checkpoint | None" = None,
    ) -> "Lineage":
        """Open the checkpoints and check that they are one line of training.

        Tensors go by the names that they have in the RLVR checkpoint, where an earlier one has another prefix.

        Raises:
            MastlensError: If they differ in architecture or shape, are the same, or are not related.
        """
        last = Checkpoint(rlvr)
        lineage = cls(
            rlvr=last,
            sft=None if sft is None else Checkpoint(sft).named_as(last),
            base=None if base is None else Checkpoint(base).named_as(last),
        )
        stages = list(lineage.stages.items())
        for (role, before), (after_role, after) in pairwise(stages):
            check_pair(role, before, after_role, after)
        for role, checkpoint in stages:
            _warn_of_codes(role, checkpoint)
        return lineage

    @property
    def stages(self) -> dict[str, Checkpoint]:
        """The checkpoints that are there, by role, oldest first."""
        roles = {"base": self.base, "sft": self.sft, "rlvr": self.rlvr}
        return {role: checkpoint for role, checkpoint in roles.items() if checkpoint is not None}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Role to fingerprint, for the run record."""
        return {role: checkpoint.fingerprint for role, checkpoint in self.stages.items()}

    def behaviour(self, *roles: str) -> dict[str, dict[str, str]]:
        """Return role to behaviour, for the run record, of the stages that are run; all of them where none is named."""
        return {role: one.behaviour for role, one in self.stages.items() if not roles or role in roles}

    @property
    def increments(self) -> dict[str, tuple[Checkpoint, Checkpoint]]:
        """Increment to (before, after): ``sft`` = SFT - base and ``rlvr`` = RLVR - SFT, or RLVR - base."""
        pairs: dict[str, tuple[Checkpoint, Checkpoint]] = {}
        if self.sft is not None:
            if self.base is not None:
                pairs["sft"] = (self.base, self.sft)
            pairs["rlvr"] = (self.sft, self.rlvr)
        elif self.base is not None:
            pairs["rlvr"] = (self.base, self.rlvr)
        return pairs


def _check_shapes(role: str, before: Checkpoint, after_role: str, after: Checkpoint) -> None:
    if before.model_type != after.model_type:
        raise NotTogether(
            f"The {role} checkpoint {before.spec} is a {before.model_type} model, the {after_role} checkpoint "
            f"{after.spec} a {after.model_type} model. A lineage has one architecture."
        )
    old, new = {p.name: p for p in before.projections}, {p.name: p for p in after.projections}
    if alone := sorted(set(old) ^ set(new)):
        where = role if alone[0] in old else after_role
        raise NotTogether(f"{alone[0]} stands in the {where} checkpoint only ({len(alone)} such tensors).")
    for name, projection in old.items():
        if (projection.rows, projection.cols) != (new[name].rows, new[name].cols):
            raise NotTogether(
                f"{name} is {projection.rows} x {projection.cols} in the {role} checkpoint and "
                f"{new[name].rows} x {new[name].cols} in the {after_role} checkpoint. These are two models."
            )


def check_pair(role: str, before: Checkpoint, after_role: str, after: Checkpoint) -> None:
    """Raise unless ``after`` can have been trained from ``before``.

    Cheap at any size: shapes come from the headers, equality is settled by the first tensor that differs, and
    relatedness is measured on the attention projections of the first, the middle and the last layer.

    Raises:
        MastlensError: If they differ in architecture or shape, are the same, or are not related.
    """
    _check_shapes(role, before, after_role, after)
    if _same_values(before, after):
        raise NotTogether(
            f"The {role} checkpoint {before.spec} and the {after_role} checkpoint {after.spec} are the same, "
            "tensor for tensor: there is no increment to look at."
        )
    cosine = _related_cosine(before, after)
    if cosine < RELATED_COSINE:
        raise NotTogether(
            f"The {role} checkpoint {before.spec} and the {after_role} checkpoint {after.spec} are not related: "
            f"the cosine between their attention weights is {cosine:.3f}, where a fine-tune of the same model "
            f"has one near 1. Their difference would say nothing. Check which base the model was trained from."
        )


def spacings(before: Checkpoint, after: Checkpoint, projection: Projection) -> tuple[torch.Tensor | None, ...]:
    """Return ``Checkpoint.spacing`` of a matrix before and after.

    None twice where ``after`` is an adapter: the codes under it are there before and after, and their difference exact.
    """
    if after.base is not None:
        return None, None
    return before.spacing(projection), after.spacing(projection)


def _warn_of_codes(role: str, checkpoint: Checkpoint) -> None:
    if checkpoint.coded:
        kinds = ", ".join(f"{count} as {kind} codes" for kind, count in checkpoint.coded.items())
        warnings.warn(
            f"The {role} checkpoint {checkpoint.spec} stores tensors as codes ({kinds}). The precision floor is that "
            "of the codes, and few increments reach it. Of single entries (masks, agreement of masks) and of "
            "trajectories only float32's rounding is known, far finer: what is called beyond chance there may be the "
            "codes'. A 16-bit or 32-bit checkpoint says more.",
            MastlensWarning,
            stacklevel=4,
        )


def _same_values(before: Checkpoint, after: Checkpoint) -> bool:
    """Return whether no tensor differs in any value, whatever it is stored in; the first difference ends it."""
    if {n: s.shape for n, s in before.tensors.items()} != {n: s.shape for n, s in after.tensors.items()}:
        return False
    attention = list(dict.fromkeys(projection.stored for projection in before.projections))
    return all(
        _equal(before.rows(name, 0, None, mapped=True), after.rows(name, 0, None, mapped=True))
        for name in (*attention, *(name for name in before.tensors if name not in set(attention)))
    )


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return torch.equal(a.to(dtype), b.to(dtype))


def _related_cosine(before: Checkpoint, after: Checkpoint) -> float:
    layers = sorted({projection.layer for projection in before.projections})
    looked_at = {layers[0], layers[len(layers) // 2], layers[-1]}
    sums = torch.zeros(3, dtype=torch.float64)
    for projection in before.projections:
        if projection.layer not in looked_at:
            continue
        flat = (before.matrix(projection, mapped=True).reshape(-1), after.matrix(projection, mapped=True).reshape(-1))
        for a, b in zip(*(part.split(_CHUNK) for part in flat), strict=True):
            a, b = a.float(), b.float()  # held against 0.5: single precision within a chunk is plenty
            sums += torch.stack([a @ b, a @ a, b @ b]).double()
    inner, *squares = sums.tolist()
    return inner / max((squares[0] * squares[1]) ** 0.5, 1e-300)


def paired(before: Checkpoint, after: Checkpoint, projection: Projection) -> tuple[torch.Tensor, torch.Tensor]:
    """Read one matrix (rows, cols) of two checkpoints so that their difference is an increment.

    Where both have one row a token and one vocabulary is padded, the rows that both have are returned, with a
    warning.

    Args:
        before: The earlier checkpoint.
        after: The later checkpoint.
        projection: The matrix, found in either.

    Returns:
        The matrix before and after, each in its stored dtype, of equal shape.

    Raises:
        MastlensError: If one of them lacks it, or the shapes differ otherwise.
    """
    for checkpoint, other in ((before, after), (after, before)):
        if projection.stored not in checkpoint.tensors:
            raise NotTogether(f"{projection.stored} stands in {other.spec} only, not in {checkpoint.spec}.")
    a, b = before.matrix(projection), after.matrix(projection)
    if a.shape == b.shape:
        return a, b
    sizes = f"{a.shape[0]} x {a.shape[1]} in {before.spec} and {b.shape[0]} x {b.shape[1]} in {after.spec}"
    if a.shape[1] != b.shape[1] or (a.shape[0], b.shape[0]) != (_vocabulary(before), _vocabulary(after)):
        raise NotTogether(f"{projection.name} is {sizes}. These are two models.")
    common = min(a.shape[0], b.shape[0])
    warnings.warn(
        f"{projection.name} is {sizes}: one vocabulary is padded. The first {common} rows are compared.",
        MastlensWarning,
        stacklevel=2,
    )
    return a[:common], b[:common]


def _vocabulary(checkpoint: Checkpoint) -> int | None:
    config = checkpoint.config
    return config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
