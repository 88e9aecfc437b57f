"""From files to an edit: the whole of ``mastlens unlearn``."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
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
from mastlens.errors import BadSetting, MastlensWarning, NotTogether
from mastlens.models.sharding import load_sharded
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import EncodedProblem
from mastlens.problems.reading import Problem, read_problems
from mastlens.runs.calls import takes
from mastlens.runs.files import sha256_json, write_table
from mastlens.runs.ranks import ahead, ranks_for, remembered
from mastlens.runs.reading import read_table
from mastlens.runs.settings import at_default
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tracking import check_tracker, tracking
from mastlens.selection.tensors import named_matrices, select_tensors
from mastlens.unlearning.control import CONTROL
from mastlens.unlearning.documents import Encoder, read_documents
from mastlens.unlearning.gating import taken_back
from mastlens.unlearning.hardening import check_robust
from mastlens.unlearning.learnt import learnt_weights
from mastlens.unlearning.loop import Step, Unlearner
from mastlens.unlearning.masters import Originals
from mastlens.unlearning.objectives import (
    OBJECTIVES,
    Objective,
    OutputObjective,
    SteeringObjective,
    make_objective,
)
from mastlens.unlearning.optimisers import recorded_optimiser
from mastlens.unlearning.probes import COLUMNS, Prober, choose_step
from mastlens.unlearning.refusals import REFUSALS, read_refusals, with_refusals
from mastlens.unlearning.resuming import Partial, interruptible
from mastlens.unlearning.rewinding import FILE as RESPONSES_FILE
from mastlens.unlearning.rewinding import (
    PARTIAL,
    Responses,
    Said,
    before_rlvr,
    check_before,
    imitated,
    starting_values,
    table_of,
)
from mastlens.unlearning.schedules import check_schedule
from mastlens.unlearning.settings import UnlearnSettings
from mastlens.unlearning.sharded import check_over_ranks
from mastlens.unlearning.sides import check_arguments, check_orthogonal
from mastlens.unlearning.splitting import check_splitting
from mastlens.unlearning.traces import read_traces
from mastlens.unlearning.vanishing import warn_of_vanishing

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "steps.parquet"
WEIGHTS_FILE = "token_weights.parquet"
_NEWER = ("micro_batch", "checkpoint_activations", "schedule", "warmup", "orthogonal_to_retain")


@dataclass(frozen=True, repr=False)
class Unlearning(Carded):
    """What an unlearning run made.

    Attributes:
        edit: The edit.
        table: One row a step, as ``steps.parquet``.
        settings: What made it.
        swallowed: Of the entries that changed in float32, the share that rounding to the checkpoint's dtype
            returned to what they were.
        chosen: The step whose weights the edit holds.
        token_weights: One row a forget token, see ``learnt_weights``; None without token weights.
        responses: One row a response that a model gave itself, as ``rewind.parquet``; None where none is learnt from.
    """

    edit: Edit
    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    swallowed: float = 0.0
    chosen: int = 0
    token_weights: pd.DataFrame | None = None
    responses: pd.DataFrame | None = None

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.edits import unlearning_card

        return unlearning_card(self.table, self.edit.names, self.chosen, self.swallowed)

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
            "Remove them from one, or pass --allow-overlap (in Python allow_overlap=True)."
        )


@takes(UnlearnSettings)
def unlearn(settings: UnlearnSettings) -> Unlearning:
    """Unlearn the forget problems by editing the selected tensors of a checkpoint, and return the edit.

    With ``retain`` the loss is gamma * forget + retain_weight * retain. Weights that are learnt are held in float32
    and rounded once to the checkpoint's dtype. The source is never written to. A run that was interrupted goes on from
    its last kept step, to the same bits, when it is called again with the same ``out``.

    ``out`` gets ``edit.safetensors``, ``steps.parquet``, with token weights ``token_weights.parquet``, and where models
    imitate themselves ``rewind.parquet``: their responses.

    Raises:
        MastlensError: If files, selection or settings do not fit.
    """
    forget, retain, traces, cot = settings.forget, settings.retain, settings.traces, settings.cot
    probes, out = settings.probes, settings.out
    coefficients = settings.given_coefficients
    if retain is None and coefficients["retain_weight"] is not None:
        raise BadSetting("A retain weight without retain problems does nothing: give --retain, or leave it out.")
    chosen = make_objective(settings.objective, preset=settings.preset, **coefficients)
    if settings.refusals is not None and not chosen.needs.alternatives:
        preferring = [name for name, kind in OBJECTIVES.items() if kind.needs.alternatives]
        raise BadSetting(f"{chosen.name} prefers no refusals; {', '.join(preferring)} does. Leave --refusals out.")
    _check_files(chosen, traces, cot)
    drawn = check_before(settings, chosen)
    ranks = ranks_for(settings.device)
    if ranks is not None:
        check_over_ranks(settings, chosen)
    checkpoint = Checkpoint(settings.rlvr)
    sft = None if settings.sft is None else Checkpoint(settings.sft)
    models = {"rlvr": checkpoint, **({} if sft is None else {"sft": sft})}
    selection = select_tensors(
        checkpoint,
        ranking=settings.ranking,
        where=settings.where,
        all_parameters=settings.all_parameters,
        names=settings.names,
    )
    check_arguments(
        chosen,
        selection,
        [] if retain else None,
        lr=settings.lr,
        steps=settings.steps,
        batch_size=settings.batch_size,
    )
    check_splitting(chosen, settings.micro_batch, settings.checkpoint_activations, settings.batch_size)
    check_orthogonal(chosen, settings.orthogonal_to_retain, [] if retain else None)
    check_robust(chosen, settings.robust)
    if settings.anchor is not None:
        settings.anchor.check()
    check_schedule(settings.schedule, settings.warmup, settings.steps)
    check_tracker(settings.track)
    computing = settings.computing(*models.values())
    device, precision = computing.device, computing.dtype
    computing_dtype = getattr(torch, precision)
    shared = ("steps", "lr", "batch_size", "seed")
    asking = settings.asking
    # What earlier records do not have stands in a record where it says something: they are still recognised.
    newer = {each.name: each for each in fields(settings) if each.name in _NEWER}
    differing = {key: getattr(settings, key) for key, each in newer.items() if not at_default(settings, each)}
    deciding: dict[str, Any] = {
        "objective": chosen.settings(),
        "selection": selection,
        **{key: getattr(settings, key) for key in shared},
        **asking.record(),
        "precision": precision,
        "cache_mb": settings.cache_mb,
        **({} if settings.limit is None else {"limit": settings.limit}),
        **differing,
        **recorded_optimiser(settings.optimizer, device),
        "probes": None if probes is None else probes.settings(),
    }
    # Only where they decide: a run without them is the same run as before there were any.
    if drawn is not None:
        deciding["own_responses"] = asdict(drawn) if settings.responses is None else None
    if settings.robust is not None:
        deciding["robust"] = asdict(settings.robust)
    if settings.anchor is not None:
        deciding["anchor"] = asdict(settings.anchor)
    if settings.start != "source":
        deciding["start"] = {"at": settings.start, **({"noise": settings.noise} if settings.start == "noise" else {})}
    files = {"forget": forget, "retain": retain, "refusals": settings.refusals, "traces": traces, "cot": cot}
    files |= {} if settings.responses is None else {"responses": settings.responses}
    files |= {} if probes is None else probes.files
    inputs = hash_inputs(files)
    recorded = {**deciding, "selection": sha256_json(selection), "tensors": len(selection)}
    with ahead(ranks):
        fingerprints = {stage: model.fingerprint for stage, model in models.items()}
    # A run that goes on elsewhere would not end in the same bits.
    versions = [torch.__version__, device, *([] if ranks is None else [f"{ranks.size} ranks"])]
    key_of_run = sha256_json([*(model.behaviour_digest for model in models.values()), inputs, recorded, versions])
    unfinished = Partial(out, key_of_run, overwrite=settings.overwrite, ranks=ranks)
    progress = settings.progress and (ranks is None or ranks.first)

    def originals(stored: Iterable[str]) -> Mapping[str, torch.Tensor]:
        """Return the stored tensors of a selection: a model in fewer bits holds them rounded."""
        if ranks is None:
            return {name: checkpoint.tensor(name) for name in stored}
        return Originals(checkpoint, [name for name in stored if checkpoint.tensors[name].dtype != computing_dtype])

    def compute() -> Unlearning:
        with interruptible() as interrupted:
            return edited(interrupted)

    def edited(interrupted: Event) -> Unlearning:
        if ranks is None or ranks.first:
            warn_of_vanishing(checkpoint, selection, lr=settings.lr, steps=settings.steps)
        tokenizer = checkpoint.load_tokenizer()
        load_side = read_documents if isinstance(chosen, SteeringObjective) else read_problems
        problems = {"forget": load_side(forget), "retain": [] if retain is None else load_side(retain)}
        problems = {side: found[: settings.limit] for side, found in problems.items()}
        if not settings.allow_overlap:
            check_disjoint({"forget": problems["forget"], "retain": problems["retain"]})
            for role, path in ({} if probes is None else probes.files).items():
                seen = read_problems(path)
                for side in problems:
                    check_disjoint({role: seen, side: problems[side]})
        own: dict[str, Said] = {}
        responses = None
        more: dict[str, Any] = {}
        if drawn is not None and sft is not None:  # one model after the other: never both in memory
            key = [key_of_run, *asking.record().values()]
            responses = Responses(
                tokenizer,
                drawn,
                seed=settings.seed,
                chat=asking,
                out=out,
                key=key,
                given=settings.responses,
            )
            own["forget"] = responses.of(
                "forget", sft, problems["forget"], partial(computing.load, sft), settings.progress
            )
            if isinstance(chosen, OutputObjective) and chosen.imitates_distributions:
                more["imitated"] = imitated(computing.load(sft), own["forget"].encoded)
        stored = dict.fromkeys(name.partition("#")[0] for name in selection)
        model = computing.load(checkpoint) if ranks is None else load_sharded(checkpoint, computing, ranks, stored)
        if chosen.needs.increment and sft is not None:
            more["before"] = before_rlvr(checkpoint, sft, selection)
        if responses is not None and retain is not None:
            own["retain"] = responses.of("retain", checkpoint, problems["retain"], lambda: model, settings.progress)
        read = Encoder(checkpoint, tokenizer, model.config, asking)
        if chosen.needs.alternatives:
            wanted = REFUSALS if settings.refusals is None else read_refusals(settings.refusals)
            more["alternatives"] = read(with_refusals(problems["forget"], wanted, seed=settings.seed), "the refusals")
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
        sides = {
            side: own[side].encoded if side in own else encode(problems[side], str(path))
            for side, path in (("forget", forget), ("retain", retain))
            if path is not None
        }
        run = Unlearner(
            model,
            named_matrices(checkpoint, selection),
            chosen,
            sides["forget"],
            sides.get("retain"),
            lr=settings.lr,
            steps=settings.steps,
            batch_size=settings.batch_size,
            seed=settings.seed,
            originals=None if precision == "float32" else originals(stored),
            cache_mb=settings.cache_mb,
            **{key: getattr(settings, key) for key in (*_NEWER, "optimizer")},
            begin_at=starting_values(checkpoint, sft, selection, settings),
            robust=settings.robust,
            anchor=settings.anchor,
            **more,
        )
        prober = None if probes is None else Prober(run, probes, tokenizer, read)
        records = unfinished.resume(run, prober)
        with (
            tracking(settings.track, deciding, out) as log,
            tqdm(initial=run.done, total=settings.steps, desc="unlearn", unit="step", disable=not progress) as bar,
        ):
            for record in _steps(run, prober):
                records.append(record)
                log(record, len(records))
                bar.update()
                unfinished.keep(run, prober, records)
                if not (interrupted.is_set() if ranks is None else ranks.any(interrupted.is_set())):
                    continue
                if unfinished.kept:
                    unfinished.keep(run, prober, records, now=True)
                    raise KeyboardInterrupt
                warnings.warn(f"Interrupted: the edit holds step {run.held}.", MastlensWarning, stacklevel=2)
                break
        taken = run.held if prober is None else choose_step(prober)
        run.close()
        made = {**deciding, "inputs": inputs, "step": taken}
        if run.control is not None:
            made[CONTROL] = run.control.tolist()  # float32 comes back from JSON bit for bit
        if run.anchoring is not None:
            made["anchored"] = run.anchoring.record()
        if "before" in more:
            made["taken_back"] = taken_back(run.masters, Originals(checkpoint, list(stored)), more["before"])
        edit, swallowed = make_edit(checkpoint, model, selection, made, masters=run.masters.whole)
        edit = replace(edit, settings={**edit.settings, "swallowed": swallowed})
        columns = list(Step.__dataclass_fields__) + ([] if prober is None else list(COLUMNS))
        learnt = None if run.scorer is None else learnt_weights(run, tokenizer)
        table = pd.DataFrame(records, columns=columns)
        return Unlearning(edit, table, deciding, swallowed, taken, learnt, table_of(own.values()) if own else None)

    def write(result: Unlearning, folder: Path) -> None:
        result.edit.save(folder / EDIT_FILE)
        write_table(folder / FILE, result.table)
        if result.token_weights is not None:
            write_table(folder / WEIGHTS_FILE, result.token_weights)
        if result.responses is not None:
            write_table(folder / RESPONSES_FILE, result.responses)

    def load(folder: Path) -> Unlearning:
        edit = Edit.load(folder / EDIT_FILE)
        table = read_table(folder / FILE)
        learnt = read_table(folder / WEIGHTS_FILE) if chosen.token_weights else None
        swallowed, step = float(edit.settings["swallowed"]), int(edit.settings["step"])
        said = read_table(folder / RESPONSES_FILE) if drawn is not None else None
        return Unlearning(edit, table, deciding, swallowed, step, learnt, said)

    result = remembered(
        ranks,
        out,
        "unlearn",
        partial=PARTIAL if drawn is not None else None,
        outputs=[
            *(EDIT_FILE, FILE),
            *([WEIGHTS_FILE] if chosen.token_weights else []),
            *([] if drawn is None else [RESPONSES_FILE]),
        ],
        lineage=fingerprints,
        behaviour={stage: model.behaviour for stage, model in models.items()},
        inputs=inputs,
        settings=recorded,
        command=settings,
        device=device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=load,
    )
    unfinished.remove()  # only now: until the record is written, the run is not finished
    return result


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
