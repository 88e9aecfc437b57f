"""A model over ranks: each holds its rows of every weight, and a block is whole only while it is computed (FSDP2).

The model is made without memory, sharded block by block, and filled from the checkpoint tensor by tensor, of which each
rank reads its own rows: no rank ever holds all of it. Gradients are summed over ranks, not averaged: who divides the
work among them divides the loss once, as one process does.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mastlens.architectures.placement import Place, locate_tensors
from mastlens.architectures.rotation import rotate_rows_alone
from mastlens.checkpoints.loading import quiet
from mastlens.errors import BadFile, MissingPackage, NotSupported
from mastlens.models.batching import Batches, by_length
from mastlens.models.memory import let_go
from mastlens.models.suffix import largest_layers
from mastlens.models.weights import placed_weights
from mastlens.problems.encoding import Batch, EncodedProblem, collate
from mastlens.runs.ranks import Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.checkpoints.computing import Computing

_RANKS = "_mastlens_ranks"  # where a sharded model has its ranks


def ranks_of(model: nn.Module) -> Ranks | None:
    """Return the ranks that a model is sharded over; None for a whole one."""
    return getattr(model, _RANKS, None)


def load_sharded(
    checkpoint: "Checkpoint", computing: "Computing", ranks: Ranks, trained: Iterable[str]
) -> "PreTrainedModel":
    """Return a checkpoint's model over ranks, in evaluation mode.

    Args:
        checkpoint: The checkpoint.
        computing: In which type.
        ranks: All of them call this together.
        trained: Names, in the checkpoint, of the tensors whose gradients will be asked for: torch has to know before it
            shards.

    Raises:
        MastlensError: If the architecture has no list of blocks, or the checkpoint lacks a tensor.
    """
    from torch.distributed import fsdp

    if not hasattr(getattr(fsdp, "FSDPModule", None), "set_force_sum_reduction_for_comms"):
        raise MissingPackage(f"A model over ranks needs a newer torch, such as 2.10; this is {torch.__version__}.")
    let_go()  # of a model before this one: torch's hooks hold on to it in a circle
    dtype = getattr(torch, computing.dtype)
    with quiet():
        model = _without_memory(checkpoint, dtype)
    layers = largest_layers(model)
    if layers is None:
        raise NotSupported(f"{type(model).__name__} has no list of blocks to shard: run it without torchrun.")
    model.eval().requires_grad_(False)
    state = model.state_dict(keep_vars=True)
    places = locate_tensors(trained, {name: tuple(value.shape) for name, value in state.items()})
    for place in places.values():
        state[place.parameter].requires_grad_(True)
    _shard(model, list(layers), ranks)
    model.to_empty(device=ranks.device)
    for module in model.modules():
        if module._non_persistent_buffers_set:
            model._init_weights(module)  # rotary frequencies: they stand in no file
    _fill(checkpoint, model)
    rotate_rows_alone(model)
    setattr(model, _RANKS, ranks)
    with torch.no_grad():  # the first pass settles what torch does with each gradient, by the flags of this moment
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=ranks.device), use_cache=False)
    settle(model)
    return model.requires_grad_(False)


def _without_memory(checkpoint: "Checkpoint", dtype: torch.dtype) -> "PreTrainedModel":
    """Return the model on torch's meta device, its weights in the types that transformers loads them in."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.from_pretrained(checkpoint.folder)
        for part in (config, config.get_text_config()):
            vars(part).pop("quantization_config", None)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:  # transformers raises a dozen classes for what is one thing to the user
        raise NotSupported(f"transformers cannot load {checkpoint.spec}: {type(error).__name__}: {error}") from error
    kept = set(model._keep_in_fp32_modules_strict or ()) if dtype in (torch.float16, torch.bfloat16) else set()
    kept |= set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    for name, value in model.state_dict(keep_vars=True).items():
        if any(part in name for part in kept):
            value.data = value.data.float()
    return model


def _shard(model: Any, layers: Sequence[nn.Module], ranks: Ranks) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh(ranks.device, (ranks.size,))
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=exact)
    fully_shard(model, mesh=mesh, mp_policy=exact)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    if hasattr(model, "set_reduce_scatter_unused_params"):
        model.set_reduce_scatter_unused_params(True)  # experts that no token of a rank went to
    head = model.get_output_embeddings()
    if head is not None:

        def make_whole(module: nn.Module, args: Any) -> None:
            if isinstance(next(module.parameters()), DTensor):  # called by itself, for the rows that count
                model.unshard()

        head.register_forward_pre_hook(make_whole)


@torch.no_grad()
def _fill(checkpoint: "Checkpoint", model: nn.Module) -> None:
    """Read this rank's rows of every weight."""
    state = model.state_dict(keep_vars=True)
    places = locate_tensors(checkpoint.tensors, {name: tuple(value.shape) for name, value in state.items()})
    filled: dict[int, int] = {}
    for name, place in places.items():
        value, shape = state[place.parameter], checkpoint.tensors[name].shape
        here = Rows.of(value)
        if place.expert is None:
            if tuple(value.shape) != tuple(shape):
                raise NotSupported(
                    f"{name} of {checkpoint.spec} is {tuple(shape)}, and {tuple(value.shape)} in the model that "
                    "transformers makes of it. Please report the architecture."
                )
            if here.count or not value.dim():
                here.local.copy_(checkpoint.rows(name, here.start, here.start + here.count))
        elif len(here.stored(place)):
            here.stored(place).copy_(checkpoint.tensor(name))
        filled[id(value)] = filled.get(id(value), 0) + (value.numel() if place.expert is None else _size(shape))
    missing = [name for name, value in state.items() if filled.get(id(value), 0) < value.numel()]
    if missing:
        raise BadFile(
            f"{checkpoint.spec} lacks {len(missing)} tensors that its model needs, first {missing[0]}. They would be "
            "random numbers. Complete the checkpoint."
        )


def _size(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


@dataclass(frozen=True)
class Rows:
    """This rank's rows of a weight.

    Attributes:
        local: The memory itself.
        start: The number of the first row; 0 of a weight that is whole everywhere.
        total: Rows of the whole weight.
    """

    local: Tensor
    start: int
    total: int

    @property
    def count(self) -> int:
        """Rows that are here."""
        return len(self.local) if self.local.dim() else 0

    @classmethod
    def of(cls, weight: Tensor) -> "Rows":
        """Return what this rank has of a parameter, a buffer or a gradient."""
        from torch.distributed.tensor import DTensor

        if not isinstance(weight, DTensor):
            return cls(weight.detach(), 0, len(weight) if weight.dim() else 1)
        each = -(-weight.shape[0] // weight.device_mesh.size())
        start = min(weight.device_mesh.get_local_rank() * each, weight.shape[0])
        return cls(weight.to_local().detach(), start, weight.shape[0])

    def stored(self, place: Place) -> Tensor:
        """Return this rank's rows of a stored tensor that the weight holds, alone or in a stack: a view."""
        if place.expert is None:
            return self.local
        if self.start <= place.expert < self.start + self.count:
            return place.of(self.local, self.start)
        return self.local.new_empty(0, *self.local.shape[2:])


@dataclass(frozen=True)
class Spread:
    """A stored tensor that lies over ranks.

    Attributes:
        stored: This rank's rows of it.
        weight: This rank's rows of the weight that holds it.
        place: The tensor's place in the weight.
        ranks: All of them.
    """

    stored: Tensor
    weight: Rows
    place: Place
    ranks: Ranks

    def whole(self, owner: int) -> Tensor | None:
        """Return the stored tensor on the rank that owns it, on the CPU; None on the others. All call it together."""
        if self.place.expert is None:
            found = self.ranks.gather_rows(self.stored, self.weight.total, owner)
        else:  # a matrix of a stack lies on one rank
            holder = self.place.expert // -(-self.weight.total // self.ranks.size)
            rows = self.weight.local.shape[1] // (1 if self.place.half is None else 2)
            found = self.ranks.sent(self.stored, (rows, *self.weight.local.shape[2:]), holder, owner)
        return None if found is None else found.cpu()


def in_step(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    size: int | str,
    progress: str | None,
    *,
    mine: Sequence[int] | None = None,
    backward: bool = False,
) -> tuple[Batches, Iterator[tuple[list[int], Batch]]]:
    """Return batches as ``by_length`` has them; over ranks, of this rank's share of the problems.

    Every pass takes all ranks: while others have more, a batch of nobody's comes, without items, which must not count.

    Args:
        model: Where the batches go.
        encoded: Problems as token ids.
        size: Problems a batch, or ``auto``.
        progress: Label of a progress bar; None for none.
        mine: Which of the problems are read here; None for all, and over ranks for an even share.
        backward: Whether there is a way back.

    Returns:
        The batches, for ``fitting``, and which problems and batch, one after another.
    """
    ranks = ranks_of(model)
    if mine is None and ranks is not None:  # by length, so that the ranks' batches are alike
        ordered = sorted(range(len(encoded)), key=lambda item: encoded[item].length)
        mine = ordered[ranks.rank :: ranks.size]
    chosen = list(range(len(encoded)) if mine is None else mine)
    shown = progress if ranks is None or ranks.first else None
    batches = by_length(model, [encoded[item] for item in chosen], size, shown, backward=backward)
    batches.together = ranks is not None

    def stepping() -> Iterator[tuple[list[int], Batch]]:
        own = iter(batches)
        while True:
            given = next(own, None)
            if given is None if ranks is None else not ranks.any(given is not None):
                return
            if given is None:
                spare = min(encoded, key=lambda problem: problem.length)
                yield [], collate([spare], device=str(batches.device))
            else:
                yield [chosen[item] for item in given[0]], given[1]

    return batches, stepping()


@contextmanager
def weight_storages(model: nn.Module) -> Iterator[set[int]]:
    """Yield the addresses of a model's weights; of a sharded one, of each block from when it is whole."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    found = set() if ranks_of(model) else {value.untyped_storage().data_ptr() for value in model.parameters()}

    def note(module: nn.Module, args: Any) -> None:
        whole = (value for value in module.parameters() if not isinstance(value, DTensor))
        found.update(value.untyped_storage().data_ptr() for value in whole)

    blocks = [module for module in model.modules() if isinstance(module, FSDPModule)]
    handles = [module.register_forward_pre_hook(note) for module in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def settle(model: nn.Module) -> None:
    """Let go of weights of a model over ranks that are whole, before their rows are read or written."""
    if ranks_of(model) is None:
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def row_snapshot(model: "PreTrainedModel", names: Iterable[str]) -> list[tuple[Tensor, Tensor]]:
    """Return this rank's rows of each weight that holds a named tensor: the memory itself, and a copy."""
    settle(model)
    weights = {id(weight): weight for weight, _ in placed_weights(model, names).values()}
    rows = [Rows.of(weight).local for weight in weights.values()]
    return [(there, there.clone()) for there in rows]


@contextmanager
def rows_swapped(model: nn.Module, kept: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Put a snapshot's rows into the weights; on leaving, those of now are back bit for bit."""
    now = [there.clone() for there, _ in kept]
    try:
        settle(model)
        for there, before in kept:
            there.copy_(before)
        yield
    finally:
        settle(model)
        for (there, _), held in zip(kept, now, strict=True):
            there.copy_(held)


@torch.no_grad()
def other_rows(checkpoint: "Checkpoint", model: "PreTrainedModel", names: Iterable[str]) -> list[tuple[Tensor, Tensor]]:
    """Return, for ``rows_swapped``, this rank's rows of the weights of these names, and another checkpoint's."""
    found = []
    for name, (weight, place) in placed_weights(model, names).items():
        rows = Rows.of(weight)
        there = rows.stored(place)
        if place.expert is not None:
            value = checkpoint.tensor(name) if len(there) else there
        else:
            value = (
                checkpoint.rows(name, rows.start, rows.start + rows.count) if rows.count or not there.dim() else there
            )
        found.append((there, value.to(there.device, there.dtype)))
    return found
