"""From files to an edit: the whole of ``mastlens unlearn``."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.reflection import reflection_tokens
from mastlens.edits.edit import FILE as EDIT_FILE
from mastlens.edits.edit import Edit
from mastlens.edits.making import make_edit
from mastlens.errors import BadSetting, MastlensWarning, NotTogether, unknown
from mastlens.problems.encoding import EncodedProblem
from mastlens.problems.reading import Problem, read_problems
from mastlens.runs.files import sha256_json, write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, remembered
from mastlens.selection.tensors import named_matrices, select_tensors
from mastlens.unlearning.control import CONTROL
from mastlens.unlearning.documents import Encoder, read_documents
from mastlens.unlearning.learnt import learnt_weights
from mastlens.unlearning.loop import CACHE_MB, Step, Unlearner
from mastlens.unlearning.objectives import OBJECTIVES, Objective, SteeringObjective, make_objective
from mastlens.unlearning.probes import COLUMNS, Prober, ProbeSettings, choose_step
from mastlens.unlearning.refusals import REFUSALS, read_refusals, with_refusals
from mastlens.unlearning.resuming import Partial, interruptible
from mastlens.unlearning.sides import check_arguments
from mastlens.unlearning.token_weights import TokenWeights
from mastlens.unlearning.traces import read_traces
from mastlens.unlearning.vanishing import warn_of_vanishing

if TYPE_CHECKING:
    import plotly.graph_objects as go

FILE = "steps.parquet"
WEIGHTS_FILE = "token_weights.parquet"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Unlearning:
    """What an unlearning run made.

    Attributes:
        edit: The edit.
        table: One row a step, as ``steps.parquet``.
        settings: What made it.
        swallowed: Of the entries that changed in float32, the share that rounding to the checkpoint's dtype
            returned to what they were.
        chosen: The step whose weights the edit holds.
        token_weights: One row a forget token, see ``learnt_weights``; None without token weights.
    """

    edit: Edit
    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    swallowed: float = 0.0
    chosen: int = 0
    token_weights: pd.DataFrame | None = None

    def plot(self) -> "go.Figure":
        """Draw losses, gradient norm and probes by step."""
        from mastlens.plots import plot_unlearning_curve

        return plot_unlearning_curve(self.table)


def check_disjoint(sides: Mapping[str, Sequence[Problem]]) -> None:
    """Raise if a problem is on both of two sides: it would be pushed both ways, or judged by what it was taught.

    Args:
        sides: Role to problems, two of them.
    """
    (one, first), (other, second) = sides.items()
    shared = {p.problem for p in first} & {p.problem for p in second}
    if shared:
        raise NotTogether(
            f"{len(shared)} problems are in both the {one} and the {other} file, e.g. {min(shared)[:80]!r}. "
            "Remove them from one, or pass --allow-overlap."
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
    beta2: float | None = None,
    delta: float | None = None,
    gamma: float | None = None,
    retain_loss: str | None = None,
    layer: int | None = None,
    steering: float | None = None,
    control_norm: float | None = None,
    traces: str | os.PathLike[str] | None = None,
    cot: str | os.PathLike[str] | None = None,
    unthink_weight: float | None = None,
    cot_weight: float | None = None,
    reflection_weight: float | None = None,
    reflection: str | None = None,
    text_tokens: int | None = None,
    trace_tokens: int | None = None,
    cot_tokens: int | None = None,
    in_context: bool | None = None,
    token_weights: TokenWeights | bool | None = None,
    refusals: str | os.PathLike[str] | None = None,
    allow_overlap: bool = False,
    probes: ProbeSettings | None = None,
    precision: str = "float32",
    cache_mb: float = CACHE_MB,
    chat_template: bool = True,
    seed: int = 0,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Unlearning:
    """Unlearn the forget problems by editing the selected tensors of a checkpoint, and return the edit.

    With ``retain`` the loss is gamma * forget + retain_weight * retain. Weights that are learnt are held in float32
    and rounded once to the checkpoint's dtype. A run that was interrupted goes on from its last kept step, to the
    same bits, when it is called again with the same ``out``.

    Args:
        rlvr: The checkpoint to edit; it is never written to.
        forget: File of the problems to forget; objectives that steer activations also take texts (``text``).
        objective: One of ``OBJECTIVES``.
        steps: Number of steps.
        lr: Learning rate.
        retain: File of the problems to keep, or of texts likewise.
        ranking: A ``ranking.parquet``: edit its selected tensors.
        where: Regular expression over tensor names: edit the weight matrices that match.
        all_parameters: Edit every weight matrix.
        names: Edit these matrices.
        batch_size: Problems a step and side.
        retain_weight: Weight of the retain term (alpha); 1 where nothing else says so.
        preset: ``mast`` or ``open-unlearning``: the coefficients that these use; for RMU and R2MU ``paper`` or
            ``release`` (see ``presets``).
        beta: Inverse temperature of NPO, SimNPO and DPO; exponent of WGA and SatImp; UNDIAL's strength.
        beta2: Second exponent of SatImp.
        delta: Margin of SimNPO, inside beta.
        gamma: Weight of the forget term.
        retain_loss: ``nll`` or ``kl``, forward from the source.
        layer: The decoder layer that RMU and R2MU steer.
        steering: Their c, in median norms of the retain activations.
        control_norm: Their c as a number, in place of ``steering``.
        traces: A ``traces.parquet`` of the forget file, for R2MU (``generate_traces``).
        cot: File of chains of thought to keep, for R2MU: problems, LIMO's records, or texts.
        unthink_weight: Weight of R2MU's trace term (the paper's alpha).
        cot_weight: Weight of R2MU's chain-of-thought term (the paper's beta).
        reflection_weight: Weight of the reflection token penalty (rmu-rtp).
        reflection: Whose list of reflection words: ``code``, ``paper`` or ``tip``.
        text_tokens: Cut forget and retain texts to so many tokens.
        trace_tokens: Cut traces to so many tokens.
        cot_tokens: Cut chains of thought to so many tokens.
        in_context: Read traces and chains of thought behind their prompts (default), or as texts of their own (False,
            as both presets have it).
        token_weights: Learn weights of the forget tokens (ATWU), with R2MU of the trace tokens; True for the
            defaults.
        refusals: Text file of refusals for DPO, one a line; None for our own.
        allow_overlap: Let problems stand on both sides.
        probes: What to look at while it runs, when to stop, and which step to take.
        precision: Dtype of the model in memory, ``float32`` or ``bfloat16``; what is learnt is float32 in both.
        cache_mb: Most memory, in MB, for what the layers below the selection give.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        seed: Decides the batches.
        device: Where to compute.
        out: Folder for ``edit.safetensors``, ``steps.parquet`` and, with token weights,
            ``token_weights.parquet``; None to write nothing.
        overwrite: Replace an edit made from other inputs or settings.
        progress: Show a progress bar.

    Raises:
        MastlensError: If files, selection or settings do not fit.
    """
    if retain is None and retain_weight is not None:
        raise BadSetting("A retain weight without retain problems does nothing: give --retain, or leave it out.")
    if precision not in DTYPES:
        raise unknown("precision", precision, DTYPES)
    chosen = make_objective(
        objective,
        preset=preset,
        beta=beta,
        beta2=beta2,
        delta=delta,
        gamma=gamma,
        retain_weight=retain_weight,
        retain_loss=retain_loss,
        layer=layer,
        steering=steering,
        control_norm=control_norm,
        unthink_weight=unthink_weight,
        cot_weight=cot_weight,
        reflection_weight=reflection_weight,
        reflection=reflection,
        text_tokens=text_tokens,
        trace_tokens=trace_tokens,
        cot_tokens=cot_tokens,
        in_context=in_context,
        token_weights=TokenWeights() if token_weights is True else token_weights or None,
    )
    if refusals is not None and not chosen.needs.alternatives:
        preferring = [name for name, kind in OBJECTIVES.items() if kind.needs.alternatives]
        raise BadSetting(f"{objective} prefers no refusals; {', '.join(preferring)} does. Leave --refusals out.")
    _check_files(chosen, traces, cot)
    checkpoint = Checkpoint(rlvr)
    selection = select_tensors(checkpoint, ranking=ranking, where=where, all_parameters=all_parameters, names=names)
    check_arguments(chosen, selection, [] if retain else None, lr=lr, steps=steps, batch_size=batch_size)
    settings: dict[str, Any] = {
        "objective": chosen.settings(),
        "selection": selection,
        "steps": steps,
        "lr": lr,
        "batch_size": batch_size,
        "seed": seed,
        "chat_template": chat_template,
        "precision": precision,
        "cache_mb": cache_mb,
        "probes": None if probes is None else probes.settings(),
    }
    files = {"forget": forget, "retain": retain, "refusals": refusals, "traces": traces, "cot": cot}
    files |= {} if probes is None else probes.files
    inputs = hash_inputs(files)
    recorded = {**settings, "selection": sha256_json(selection), "tensors": len(selection)}
    versions = [torch.__version__, device]  # a run that goes on elsewhere would not end in the same bits
    unfinished = Partial(
        out, sha256_json([checkpoint.behaviour_digest, inputs, recorded, versions]), overwrite=overwrite
    )

    def compute() -> Unlearning:
        with interruptible() as interrupted:
            return edited(interrupted)

    def edited(interrupted: Event) -> Unlearning:
        warn_of_vanishing(checkpoint, selection, lr=lr, steps=steps)
        model = checkpoint.load_model(device=device, dtype=DTYPES[precision])
        tokenizer = checkpoint.load_tokenizer()
        read = Encoder(checkpoint, tokenizer, model.config, chat_template)
        load_side = read_documents if isinstance(chosen, SteeringObjective) else read_problems
        problems = {"forget": load_side(forget), "retain": [] if retain is None else load_side(retain)}
        if not allow_overlap:
            check_disjoint({"forget": problems["forget"], "retain": problems["retain"]})
            for role, path in ({} if probes is None else probes.files).items():
                seen = read_problems(path)
                for side in problems:
                    check_disjoint({role: seen, side: problems[side]})
        more: dict[str, Any] = {}
        if chosen.needs.alternatives:
            wanted = REFUSALS if refusals is None else read_refusals(refusals)
            more["alternatives"] = read(with_refusals(problems["forget"], wanted, seed=seed), "the refusals")
        encode: Callable[[Sequence[Problem], str], list[EncodedProblem]] = read
        if isinstance(chosen, SteeringObjective):
            texts = chosen.texts
            encode = partial(read.documents, texts=texts)
            if traces is not None:
                table = read_traces(traces, forget=forget, fingerprint=checkpoint.fingerprint)
                more["traces"] = read.traces(table, len(problems["forget"]), texts)
            if cot is not None:
                more["cot"] = read.chains(read_documents(cot), str(cot), texts=texts)
            if words := chosen.reflection_words:
                more["reflection"] = reflection_tokens(tokenizer, words).ids
        run = Unlearner(
            model,
            named_matrices(checkpoint, selection),
            chosen,
            encode(problems["forget"], str(forget)),
            encode(problems["retain"], str(retain)) if retain is not None else None,
            lr=lr,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            originals=_originals(checkpoint, selection) if precision != "float32" else None,
            cache_mb=cache_mb,
            **more,
        )
        prober = None if probes is None else Prober(run, probes, tokenizer, read)
        records = unfinished.resume(run, prober)
        with tqdm(initial=run.done, total=steps, desc="unlearn", unit="step", disable=not progress) as bar:
            for record in _steps(run, prober):
                records.append(record)
                bar.update()
                unfinished.keep(run, prober, records)
                if not interrupted.is_set():
                    continue
                if unfinished.path is not None:
                    unfinished.keep(run, prober, records, now=True)
                    raise KeyboardInterrupt
                warnings.warn(f"Interrupted: the edit holds step {run.held}.", MastlensWarning, stacklevel=2)
                break
        taken = run.held if prober is None else choose_step(prober)
        run.close()
        made = {**settings, "inputs": inputs, "step": taken}
        if run.control is not None:
            made[CONTROL] = run.control.tolist()  # float32 comes back from JSON bit for bit
        edit, swallowed = make_edit(checkpoint, model, selection, made, masters=run.masters.tensors())
        edit = replace(edit, settings={**edit.settings, "swallowed": swallowed})
        columns = list(Step.__dataclass_fields__) + ([] if prober is None else list(COLUMNS))
        learnt = None if run.scorer is None else learnt_weights(run, tokenizer)
        return Unlearning(edit, pd.DataFrame(records, columns=columns), settings, swallowed, taken, learnt)

    def write(result: Unlearning, folder: Path) -> None:
        result.edit.save(folder / EDIT_FILE)
        write_table(folder / FILE, result.table)
        if result.token_weights is not None:
            write_table(folder / WEIGHTS_FILE, result.token_weights)

    def load(folder: Path) -> Unlearning:
        edit = Edit.load(folder / EDIT_FILE)
        table = read_table(folder / FILE)
        learnt = read_table(folder / WEIGHTS_FILE) if chosen.token_weights else None
        swallowed, step = float(edit.settings["swallowed"]), int(edit.settings["step"])
        return Unlearning(edit, table, settings, swallowed, step, learnt)

    result = remembered(
        out,
        "unlearn",
        outputs=[EDIT_FILE, FILE, *([WEIGHTS_FILE] if chosen.token_weights else [])],
        lineage={"rlvr": checkpoint.fingerprint},
        behaviour={"rlvr": checkpoint.behaviour},
        inputs=inputs,
        settings=recorded,
        device=device,
        overwrite=overwrite,
        compute=compute,
        write=write,
        read=load,
    )
    unfinished.remove()  # only now: until the record is written, the run is not finished
    return result


def _originals(checkpoint: Checkpoint, selection: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the stored tensors of a selection: a model in bfloat16 holds them rounded."""
    return {name: checkpoint.tensor(name) for name in dict.fromkeys(n.partition("#")[0] for n in selection)}


def _check_files(objective: Objective, traces: Any, cot: Any) -> None:
    """Raise, before anything is loaded, unless the files of traces and chains of thought are those that are needed."""
    for option, path, needed, taken in (
        ("--traces", traces, objective.needs.traces, objective.needs.traces),
        ("--cot", cot, objective.needs.cot, objective.needs.traces),
    ):
        if needed and path is None:
            how = " (mastlens traces writes it)" if option == "--traces" else ""
            raise BadSetting(f"The objective {objective.name} needs {option} FILE{how}.")
        if path is not None and not taken:
            raise BadSetting(f"The objective {objective.name} does nothing with {option}: leave it out.")


def _steps(run: Unlearner, prober: Prober | None) -> Iterator[dict[str, Any]]:
    """Yield the record of each step, with its probes, until the end or a guard."""
    if prober is not None and not run.done:
        prober.begin()
    while (prober is None or not prober.stopped) and (step := run.step()) is not None:
        yield {**asdict(step), **({} if prober is None else prober.after(step.step))}
