"""Weights of another model put in place of a model's own, and what that does to the solutions' log-probability."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.architectures.placement import Place, locate_tensors
from mastlens.architectures.projections import Layout, Projection
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.answering import answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.graders import Grader
from mastlens.decoding.prompts import Prompt
from mastlens.errors import unknown
from mastlens.models.likelihood import counted_states
from mastlens.models.memory import float64_device
from mastlens.models.parts import local_part
from mastlens.models.sharding import Rows, in_step, ranks_of, rows_swapped
from mastlens.models.suffix import PartialForward, partial_forward
from mastlens.models.weights import named_weights, placed_weights, stored_parameters, swapped
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import Batch, EncodedProblem, check_tokenizer, context_length, encode_problems
from mastlens.problems.reading import Problem, read_problems

if TYPE_CHECKING:
    import os

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WHOLE = -1
"""The head of a patch that takes all heads of a projection."""


@dataclass(frozen=True)
class Patch:
    """A projection, or one head of it, that is taken from another model.

    Attributes:
        projection: Which projection.
        head: Which head (for k and v: which group), from 0; ``WHOLE`` for all of them.
    """

    projection: Projection
    head: int = WHOLE

    @property
    def layout(self) -> Layout:
        """How it lies in the stored tensor."""
        return (self.projection if self.head == WHOLE else self.projection.head(self.head)).layout

    def part(self, stored: Tensor) -> Tensor:
        """Return what is patched out of the stored tensor: (rows, cols), or one head's rows, of o columns."""
        whole = self.head == WHOLE
        return self.projection.read(stored) if whole else self.projection.head_of(stored, self.head)

    def put(self, stored: Tensor, other: Tensor) -> None:
        """Put the patch out of ``other`` into ``stored`` in place; nothing else of it changes."""
        if self.head == WHOLE:
            self.projection.write(stored, self.projection.read(other))
        else:
            self.part(stored).copy_(self.part(other))


def patches_of(projections: Sequence[Projection], *, heads: bool) -> list[Patch]:
    """Return a patch for every projection and, with ``heads``, one more for each of its heads."""
    found = []
    for projection in projections:
        found.append(Patch(projection))
        if heads:
            found += [Patch(projection, head) for head in range(projection.heads)]
    return found


def patched_tensors(
    patches: Sequence[Patch], own: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the stored tensors that these patches together change, in full.

    Args:
        patches: What is taken from the other model.
        own: Name to stored tensor of the model that is patched.
        other: Name to stored tensor of the other one.
    """
    tensors: dict[str, Tensor] = {}
    for patch in patches:
        name = patch.projection.stored
        if name not in tensors:
            tensors[name] = own[name].detach().clone()
        patch.put(tensors[name], other[name])
    return tensors


def stored_tensors(
    checkpoint: Checkpoint, like: "PreTrainedModel", matrices: Sequence[Projection]
) -> dict[str, Tensor]:
    """Read every tensor that holds one of the matrices, in the dtype and on the device of a loaded model.

    Of a model over ranks, only the rows of each that this rank has.
    """
    names = dict.fromkeys(matrix.stored for matrix in matrices)
    if ranks_of(like) is not None:
        here = weight_rows(like, names)
        found = {name: checkpoint.rows(name, rows.start, rows.start + rows.count) for name, rows in here.items()}
        return {name: rows.to(device=like.device, dtype=like.dtype) for name, rows in found.items()}
    return {name: checkpoint.tensor(name).to(device=like.device, dtype=like.dtype) for name in names}


def weight_rows(model: "PreTrainedModel", names: Iterable[str]) -> dict[str, Rows]:
    """Return name in the checkpoint to this rank's rows of the parameter that is the tensor.

    Raises:
        MastlensError: As ``located``.
    """
    places = located(names, model)
    placed = placed_weights(model, places.values())
    return {name: Rows.of(placed[place][0]) for name, place in places.items()}


def located(names: Iterable[str], model: "PreTrainedModel") -> dict[str, str]:
    """Return name in the checkpoint to name in the model, for all the names.

    Raises:
        MastlensError: If the model has no parameter for one of them.
    """
    names, shapes = list(names), {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = locate_tensors(names, shapes)
    if lost := [name for name in names if name not in found or found[name].expert is not None]:
        raise unknown("parameter in the model", lost[0], shapes)
    return {name: place.parameter for name, place in found.items()}


def parameter_groups(model: "PreTrainedModel", projections: Sequence[Projection]) -> dict[str, list[str]]:
    """Return what a model consists of: ``attention``, ``mlp``, ``embeddings``, ``norms`` to names of parameters.

    Attention is everything in the modules that hold the projections, biases and norms of heads included, and a hybrid's
    linear attention; ``mlp`` is what else the layers have, experts and routers included, but for norms. What is stored
    and not trained by gradient (a router's balancing bias) counts too. Groups without parameters are left out.
    """
    holders = located((projection.stored for projection in projections), model).values()
    attention = {name.removesuffix(".weight").rpartition(".")[0] for name in holders}
    stacks = {module.rpartition(".")[0].rpartition(".")[0] for module in attention}  # of all layers, model.layers
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    embeddings = {id(parameter) for module in ends if module is not None for parameter in module.parameters()}
    groups: dict[str, list[str]] = {"attention": [], "mlp": [], "embeddings": [], "norms": []}
    seen: set[int] = set()
    for name, parameter in stored_parameters(model).items():
        if id(parameter) in seen:
            continue  # a tied matrix goes by the first of its names
        seen.add(id(parameter))
        owner = name.split(".")[-2] if "." in name else name
        within = next((name.removeprefix(f"{stack}.") for stack in stacks if name.startswith(f"{stack}.")), "")
        if any(name.startswith(f"{module}.") for module in attention) or ".linear_attn." in f".{within}":
            groups["attention"].append(name)
        elif id(parameter) in embeddings:
            groups["embeddings"].append(name)
        elif "norm" in owner or owner.startswith("ln_"):
            groups["norms"].append(name)
        elif within:
            groups["mlp"].append(name)
    return {group: names for group, names in groups.items() if names}


@dataclass(frozen=True)
class ProblemSet:
    """The problems of one side, as text and as token ids.

    Attributes:
        problems: The problems.
        encoded: The same as token ids.
    """

    problems: Sequence[Problem]
    encoded: Sequence[EncodedProblem]


def read_sides(
    checkpoint: Checkpoint,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    files: "Mapping[str, str | os.PathLike[str] | None]",
    *,
    limit: int | None,
    chat_template: Asked,
) -> dict[str, ProblemSet]:
    """Read side to problems (the first ``limit`` of each file), for the sides that have a file."""
    sides = {}
    for side, path in files.items():
        if path is None:
            continue
        problems = read_problems(path, limit)
        check_tokenizer(tokenizer, problems, checkpoint.spec)
        encoded = encode_problems(
            problems,
            tokenizer,
            context=context_length(model.config),
            chat_template=chat_template,
            source=str(path),
        )
        sides[side] = ProblemSet(problems, encoded)
    return sides


@dataclass(frozen=True)
class Readings:
    """What was read off a model, unpatched and patched, on every problem.

    Attributes:
        unpatched: Summed log-probability of each solution, in nats.
        patched: The same with each patch in place.
        exact: Whether each solution token was the most probable one, so that greedy decoding would write the
            reference solution word for word; unpatched.
        patched_exact: The same with each patch in place.
        counts: Solution tokens of each problem.
    """

    unpatched: Float[np.ndarray, " items"]
    patched: Float[np.ndarray, "patches items"]
    exact: Float[np.ndarray, " items"]
    patched_exact: Float[np.ndarray, "patches items"]
    counts: Float[np.ndarray, " items"]

    @property
    def differences(self) -> Float[np.ndarray, "patches items"]:
        """Change of each solution's summed log-probability by each patch."""
        return self.patched - self.unpatched


@torch.no_grad()
def read_patched(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    patches: Sequence[Sequence[Patch]],
    other: Mapping[str, Tensor],
    *,
    batch_size: int | str = 32,
    progress: str | None = None,
) -> Readings:
    """Measure a model with each of many sets of patches in place, running only the layers that a set can change.

    Args:
        model: The model, in evaluation mode; it is left as it was, bit for bit.
        encoded: Problems as token ids; over ranks each takes a share of them.
        patches: Sets of patches, one measurement each; none of them empty. Without any, the model alone is measured.
        other: Name to stored tensor (``stored_tensors``) of the model that the patches are taken from.
        batch_size: Problems a forward pass, or ``auto``; it does not change the result beyond rounding.
        progress: Label of a progress bar; None for none.
    """
    sums = np.zeros((1 + len(patches), len(encoded)))
    exact = np.zeros_like(sums)
    counts = np.zeros(len(encoded))
    places = located(other, model)
    put_in = _putting(model, places, other)
    # A model whose layers cannot be run apart takes every pass whole.
    partial = (partial_forward(model, list(places.values()), encoded) if patches else None) or PartialForward([])
    known = False
    batches, given = in_step(model, encoded, batch_size, progress)
    for items, batch in given:
        size = len(items)  # none of a batch of nobody's
        with batches.fitting():
            with partial.recording():
                found, same, known = read_batch(model, batch, known)
            sums[0, items], exact[0, items] = found[:size], same[:size]
            counts[items] = batch.is_solution[:, 1:].sum(dim=1).cpu().numpy()[:size]
            for row, together in enumerate(patches, start=1):
                lowest = min(patch.projection.layer for patch in together)
                with partial.above(lowest), put_in(together):
                    found, same, _ = read_batch(model, batch, known)
                sums[row, items], exact[row, items] = found[:size], same[:size]
    partial.clear()
    if (ranks := ranks_of(model)) is not None:
        sums, exact, counts = (ranks.summed(array) for array in (sums, exact, counts))
    return Readings(sums[0], sums[1:], exact[0], exact[1:], counts)


def _putting(
    model: "PreTrainedModel", places: Mapping[str, str], other: Mapping[str, Tensor]
) -> Callable[[Sequence[Patch]], AbstractContextManager[None]]:
    """Return what puts a set of patches into the model while its context lasts."""
    if ranks_of(model) is None:
        weights = named_weights(model, list(places.values()))
        own = {name: weights[place] for name, place in places.items()}

        def whole(together: Sequence[Patch]) -> AbstractContextManager[None]:
            tensors = {places[name]: tensor for name, tensor in patched_tensors(together, own, other).items()}
            return swapped(model, tensors)

        return whole
    here, plain = weight_rows(model, places), Place("")

    def rows(together: Sequence[Patch]) -> AbstractContextManager[None]:
        changed: dict[str, Tensor] = {}
        for patch in together:
            name = patch.projection.stored
            part = local_part(here[name], plain, patch.layout)
            part.write(changed.setdefault(name, here[name].local.clone()), part.read(other[name]))
        return rows_swapped(model, [(here[name].local, tensor) for name, tensor in changed.items()])

    return rows


def read_batch(model: "PreTrainedModel", batch: Batch, known: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return summed log-probability and exactness of each solution of a batch, and whether the head is known."""
    targets = batch.input_ids[:, 1:][batch.is_solution[:, 1:]]
    rows = batch.is_solution[:, 1:].nonzero()[:, 0]
    hidden, head = counted_states(model, batch, known=known)
    # In float64 from the token on: an effect is a small difference of these sums.
    values = torch.empty(len(targets), dtype=torch.float64, device=float64_device(targets.device))
    missed = torch.empty_like(values)
    for part in head.parts(hidden):
        logits = head(hidden[part]).float()
        values[part] = -torch.nn.functional.cross_entropy(logits, targets[part], reduction="none")
        missed[part] = logits.argmax(dim=-1) != targets[part]
    empty = values.new_zeros(len(batch.input_ids))
    sums, misses = (empty.index_add(0, rows.to(found.device), found).cpu().numpy() for found in (values, missed))
    return sums, (misses == 0).astype(float), head.embedding is not None


def greedy_correct(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    side: ProblemSet,
    decoding: Decoding,
    grader: Grader,
) -> Float[np.ndarray, " items"]:
    """Return 1 for each problem that the grader finds the model's greedy response right on, else 0."""
    items = enumerate(zip(side.encoded, side.problems, strict=True))
    prompts = [Prompt(str(item), ids.prompt, problem.answer) for item, (ids, problem) in items]
    answered = answer(HuggingFaceEngine(model, tokenizer), prompts, decoding, grader=grader)
    return np.array([float(one.correct) for one in answered])
