"""The unlearning loop: AdamW on the selected tensors and on nothing else."""

import math
import os
import warnings
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mastlens.edit import FILE as EDIT_FILE
from mastlens.edit import Edit, named_weights, snapshot, write_weights
from mastlens.errors import MastlensError, MastlensWarning
from mastlens.files import sha256_json, write_table
from mastlens.likelihood import sequence_logprobs, token_logprobs
from mastlens.lineage import Checkpoint
from mastlens.problems import (
    EncodedProblem,
    Problem,
    check_tokenizer,
    collate,
    context_length,
    encode_problems,
    read_problems,
)
from mastlens.projections import Projection
from mastlens.runs import hash_inputs, remembered
from mastlens.unlearning.masters import Masters
from mastlens.unlearning.objectives import Objective, make_objective, retain_nll
from mastlens.unlearning.selecting import named_matrices, select_tensors

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel

FILE = "steps.parquet"
CLIP = 1.0


@dataclass(frozen=True)
class Step:
    """One unlearning step.

    Attributes:
        step: From 1.
        forget_loss: The forget term on this step's batch, before the update.
        retain_loss: Token-mean negative log-likelihood of the retain batch, before the update; NaN without one.
        grad_norm: Norm of the gradient over all selected tensors, before clipping.
        forget_logprob: Token-mean log-probability of the forget batch's solutions, before the update.
    """

    step: int
    forget_loss: float
    retain_loss: float
    grad_norm: float
    forget_logprob: float


@dataclass(frozen=True)
class Unlearning:
    """What an unlearning run made.

    Attributes:
        edit: The edit.
        table: One row a step, as ``steps.parquet``.
        settings: What made it.
        swallowed: Of the entries that changed in float32, the share that rounding to the checkpoint's dtype
            returned to what they were.
    """

    edit: Edit
    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    swallowed: float = 0.0

    def plot(self) -> "go.Figure":
        """Draw losses and gradient norm by step."""
        from mastlens.plots import plot_unlearning_curve

        return plot_unlearning_curve(self.table)


def batch_schedule(items: int, batch_size: int, steps: int, seed: int, side: int) -> list[list[int]]:
    """Return the item numbers of every step's batch: shuffled passes, from the seed alone.

    Args:
        items: Number of problems.
        batch_size: Problems a batch.
        steps: Number of batches.
        seed: Of the run.
        side: 0 for forget, 1 for retain: two streams that do not depend on each other.
    """
    generator = np.random.default_rng([seed, side])
    stream: list[int] = []
    while len(stream) < steps * batch_size:
        stream.extend(generator.permutation(items).tolist())
    return [stream[step * batch_size : (step + 1) * batch_size] for step in range(steps)]


def unlearning_steps(
    model: "PreTrainedModel",
    matrices: Sequence[str | Projection],
    objective: Objective,
    forget: Sequence[EncodedProblem],
    retain: Sequence[EncodedProblem] | None = None,
    *,
    lr: float,
    steps: int,
    batch_size: int = 8,
    seed: int = 0,
) -> Generator[Step, None, None]:
    """Edit some matrices of ``model`` in place, one step for each item of the iteration.

    AdamW, betas (0.9, 0.999), no weight decay, constant learning rate, gradient norm clipped at 1, evaluation
    mode. All other parameters have ``requires_grad=False``, so that they have neither gradient nor optimiser
    state, and the backward pass ends at the lowest selected tensor.

    If the loss or gradient is not finite, the iteration ends with a warning and the model holds the weights
    of the last step whose loss was finite.

    Args:
        model: The model; its weights are changed.
        matrices: Parameters to edit, by name, and slices of fused ones as projections (``named_matrices``).
        objective: The forget objective and its coefficients.
        forget: Problems to forget, as token ids.
        retain: Problems to keep; None for no retain term.
        lr: Learning rate.
        steps: Number of steps.
        batch_size: Problems a step and side.
        seed: Decides the batches.
    """
    _check_arguments(objective, matrices, retain, lr=lr, steps=steps, batch_size=batch_size)
    model.eval().requires_grad_(False)
    reference = None
    if objective.needs_reference:  # before the first step: no second model is ever needed
        reference = torch.tensor(sequence_logprobs(model, forget)[0], dtype=torch.float32)
    masters = Masters(model, matrices)
    optimiser = torch.optim.AdamW(masters.parameters, lr=lr, betas=(0.9, 0.999), weight_decay=0.0)
    schedules = [batch_schedule(len(forget), batch_size, steps, seed, side=0)]
    if retain is not None:
        schedules.append(batch_schedule(len(retain), batch_size, steps, seed, side=1))
    device = str(model.device)
    good = snapshot(model, masters.stored)
    try:
        for step in range(1, steps + 1):
            optimiser.zero_grad(set_to_none=True)
            forget_rows = schedules[0][step - 1]
            logprobs = token_logprobs(model, collate([forget[i] for i in forget_rows], device=device))
            wanted = None if reference is None else reference[forget_rows].to(device)
            forget_loss = objective.forget_loss(logprobs.sums, logprobs.counts, wanted)
            # Each side goes back on its own: the graph of one batch is in memory at a time.
            (objective.gamma * forget_loss).backward()
            retain_loss = math.nan
            if retain is not None:
                batch = collate([retain[i] for i in schedules[1][step - 1]], device=device)
                kept = token_logprobs(model, batch)
                loss = retain_nll(kept.sums, kept.counts)
                (objective.alpha * loss).backward()
                retain_loss = float(loss.detach())
            masters.take_gradients()
            norm = float(torch.nn.utils.clip_grad_norm_(masters.parameters, CLIP))
            record = Step(
                step=step,
                forget_loss=float(forget_loss.detach()),
                retain_loss=retain_loss,
                grad_norm=norm,
                forget_logprob=float(logprobs.values.detach().mean()),
            )
            watched = (record.forget_loss, norm, *(() if retain is None else (retain_loss,)))
            if not all(map(math.isfinite, watched)):
                write_weights(model, good)
                warnings.warn(
                    f"Step {step}: the loss or its gradient is not finite (forget loss {record.forget_loss}, "
                    f"gradient norm {norm}). The edit holds the last good step, {max(step - 2, 0)}. "
                    f"Use a smaller learning rate than {lr}.",
                    MastlensWarning,
                    stacklevel=2,
                )
                return
            good = snapshot(model, masters.stored)
            optimiser.step()
            masters.write_back()
            yield record
    finally:
        model.requires_grad_(False)
        model.zero_grad(set_to_none=True)


def _check_arguments(
    objective: Objective,
    matrices: Sequence[str | Projection],
    retain: Sequence[EncodedProblem] | None,
    *,
    lr: float,
    steps: int,
    batch_size: int,
) -> None:
    if not matrices:
        raise MastlensError("The selection is empty: there is nothing to edit.")
    if objective.needs_retain and retain is None:
        raise MastlensError(f"The objective {objective.name} needs retain problems (--retain).")
    if not (math.isfinite(lr) and lr > 0):
        raise MastlensError(f"The learning rate must be a number above 0, it is {lr}.")
    if steps < 1 or batch_size < 1:
        raise MastlensError(f"Steps and batch size are at least 1; they are {steps} and {batch_size}.")


def make_edit(
    checkpoint: Checkpoint, model: "PreTrainedModel", names: Sequence[str], settings: dict[str, Any]
) -> tuple[Edit, float]:
    """Round the model's tensors once to the checkpoint's dtype and return the edit, with the share swallowed.

    Tensors that rounding returned to what they were are left out.
    """
    before, after = {}, {}
    moved = swallowed = 0
    stored = list(dict.fromkeys(name.partition("#")[0] for name in names))
    for name, parameter in named_weights(model, stored).items():
        old = checkpoint.tensor(name)
        # A copy: on the CPU in float32 everything else would be the parameter itself, and move with it.
        master = parameter.detach().to("cpu", torch.float32, copy=True)
        new = master.to(old.dtype)
        in_master, in_stored = master != old.float(), new != old
        moved += int(in_master.sum())
        swallowed += int((in_master & ~in_stored).sum())
        if bool(in_stored.any()):
            before[name], after[name] = old, new
    return Edit(before, after, checkpoint.fingerprint, settings), swallowed / moved if moved else 0.0


def check_disjoint(forget: Sequence[Problem], retain: Sequence[Problem]) -> None:
    """Raise if a problem is on both sides: it would be pushed both ways at once."""
    shared = {p.problem for p in forget} & {p.problem for p in retain}
    if shared:
        raise MastlensError(
            f"{len(shared)} problems are in both the forget and the retain file, e.g. {min(shared)[:80]!r}. "
            "Remove them from one."
        )


def unlearn(
    *,
    rlvr: "str | os.PathLike[str] | Checkpoint",
    forget: str | os.PathLike[str],
    objective: str,
    steps: int,
    lr: float,
    retain: str | os.PathLike[str] | None = None,
    ranking: str | os.PathLike[str] | None = None,
    where: str | None = None,
    all_parameters: bool = False,
    names: Sequence[str] | None = None,
    batch_size: int = 8,
    retain_weight: float | None = None,
    preset: str | None = None,
    beta: float | None = None,
    delta: float | None = None,
    gamma: float | None = None,
    chat_template: bool = True,
    seed: int = 0,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Unlearning:
    """Unlearn the forget problems by editing the selected tensors of a checkpoint, and return the edit.

    With ``retain`` the loss is gamma * forget + retain_weight * NLL(retain). Computed with float32 masters,
    rounded once to the checkpoint's dtype.

    Args:
        rlvr: The checkpoint to edit; it is never written to.
        forget: File of the problems to forget.
        objective: ``ga``, ``graddiff``, ``npo`` or ``simnpo``.
        steps: Number of steps.
        lr: Learning rate.
        retain: File of the problems to keep.
        ranking: A ``ranking.parquet``: edit its selected tensors.
        where: Regular expression over tensor names: edit the weight matrices that match.
        all_parameters: Edit every weight matrix.
        names: Edit these matrices.
        batch_size: Problems a step and side.
        retain_weight: Weight of the retain term (alpha); 1 where nothing else says so.
        preset: ``mast`` or ``open-unlearning``: the coefficients that these use.
        beta: Inverse temperature of NPO and SimNPO.
        delta: Margin of SimNPO, inside beta.
        gamma: Weight of the forget term.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        seed: Decides the batches.
        device: Where to compute.
        out: Folder for ``edit.safetensors`` and ``steps.parquet``; None to write nothing.
        overwrite: Replace an edit made from other inputs or settings.
        progress: Show a progress bar.
    """
    chosen = make_objective(objective, preset=preset, beta=beta, delta=delta, gamma=gamma, retain_weight=retain_weight)
    checkpoint = Checkpoint(rlvr)
    selection = select_tensors(checkpoint, ranking=ranking, where=where, all_parameters=all_parameters, names=names)
    _check_arguments(chosen, selection, [] if retain else None, lr=lr, steps=steps, batch_size=batch_size)
    settings: dict[str, Any] = {
        "objective": asdict(chosen),
        "selection": selection,
        "steps": steps,
        "lr": lr,
        "batch_size": batch_size,
        "seed": seed,
        "chat_template": chat_template,
    }
    inputs = hash_inputs({"forget": forget, "retain": retain})

    def compute() -> Unlearning:
        model = checkpoint.load_model(device=device)
        tokenizer = checkpoint.load_tokenizer()
        problems = {"forget": read_problems(forget)}
        if retain is not None:
            problems["retain"] = read_problems(retain)
            check_disjoint(problems["forget"], problems["retain"])
        encoded: dict[str, list[EncodedProblem]] = {}
        for side, path in (("forget", forget), ("retain", retain)):
            if side in problems:
                check_tokenizer(tokenizer, problems[side], checkpoint.spec)
                encoded[side] = encode_problems(
                    problems[side],
                    tokenizer,
                    context=context_length(model.config),
                    chat_template=chat_template,
                    source=str(path),
                )
        iteration = unlearning_steps(
            model,
            named_matrices(checkpoint, selection),
            chosen,
            encoded["forget"],
            encoded.get("retain"),
            lr=lr,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
        )
        records = [
            asdict(step) for step in tqdm(iteration, total=steps, desc="unlearn", unit="step", disable=not progress)
        ]
        edit, swallowed = make_edit(checkpoint, model, selection, {**settings, "inputs": inputs})
        table = pd.DataFrame(records, columns=list(Step.__dataclass_fields__))
        return Unlearning(edit, table, settings, swallowed)

    def write(result: Unlearning, folder: Path) -> None:
        result.edit.save(folder / EDIT_FILE)
        write_table(folder / FILE, result.table)

    def read(folder: Path) -> Unlearning:
        edit = Edit.load(folder / EDIT_FILE)
        return Unlearning(edit, pd.read_parquet(folder / FILE), settings)

    recorded = {**settings, "selection": sha256_json(selection), "tensors": len(selection)}
    return remembered(
        out,
        "unlearn",
        outputs=[EDIT_FILE, FILE],
        lineage={"rlvr": checkpoint.fingerprint},
        inputs=inputs,
        settings=recorded,
        device=device,
        overwrite=overwrite,
        compute=compute,
        write=write,
        read=read,
    )
