"""Tokens, time, memory and disk of a command, from running it small before anything is written."""

import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from mastlens.errors import BadSetting, MastlensError, NotSupported
from mastlens.estimating.plans import PLANS, Plan, lines_of
from mastlens.estimating.settings import EstimateSettings
from mastlens.estimating.sizing import Shape, sizing
from mastlens.models.memory import free_bytes
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import make, takes
from mastlens.runs.cost import measured
from mastlens.runs.devices import device_of
from mastlens.runs.settings import Settings
from mastlens.runs.words import typed

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.plots.cards.card import Card

_COLUMNS = ["quantity", "value", "unit", "note"]
_STATE = 16  # bytes a selected parameter that a run in progress keeps: master, its copy, and two moments in float32


@dataclass(frozen=True, repr=False)
class Estimate(Carded):
    """What a command will need.

    Attributes:
        table: One row a quantity: ``quantity``, ``value``, ``unit``, ``note``.
        command: The command line that was estimated; empty where Python alone can give it.
        settings: What the probes were.
    """

    table: pd.DataFrame
    command: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def value(self, quantity: str) -> float:
        """Return a quantity; NaN where it is not known."""
        found = self.table.loc[self.table["quantity"] == quantity, "value"]
        return float(found.iloc[0]) if len(found) else float("nan")

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.estimates import estimate_card

        return estimate_card(self.table, self.command)


@takes(EstimateSettings)
def estimate(settings: EstimateSettings) -> Estimate:
    """Return how many tokens a command will read and write, and the time, memory and disk that it will take.

    With ``ranks`` nothing is run: a model may be larger than what is here. What each rank takes follows from the
    model's shapes (``sizing``), without what texts take, which depends on the batch. Otherwise the command runs small,
    on a few of its own texts (steps, matrices), the longest among them, and writes nothing; the whole is extrapolated
    from that. Where a model writes, the time is the most: as if every response ran to its end.

    Raises:
        MastlensError: If the command cannot be estimated, or fails as it would fail.
    """
    asked = _asked(settings)
    if asked.command not in PLANS:
        raise NotSupported(
            f"What {asked.command} will need cannot be estimated. These can be: {', '.join(PLANS)}. "
            "Try it with --limit 2 where it has that."
        )
    if settings.ranks < 1:
        raise BadSetting(f"There is at least 1 rank (--ranks), not {settings.ranks}.")
    if settings.ranks > 1:
        rows = over_ranks(asked, settings.ranks)
        return Estimate(pd.DataFrame(rows, columns=_COLUMNS), _line(asked), {"ranks": settings.ranks})
    with tempfile.TemporaryDirectory(prefix="mastlens-estimate-") as scratch:
        plan = PLANS[asked.command](asked, Path(scratch))
        took, peak, on_gpu = _tried(plan, _function(asked), asked, settings.progress)
    rows = [*_work(asked, plan)]
    rows.append(("time", plan.seconds(took), "s", f"from {len(took)} probes that took {sum(took):.1f} s in all"))
    if peak is not None:
        free = free_bytes(torch.device("cpu"))
        rows.append(("memory", peak, "MB", "" if free is None else f"{free / 1e6:,.0f} MB are free"))
    if on_gpu:
        rows.append(("GPU memory", on_gpu, "MB", "allocated at the most"))
    rows += _disk(asked)
    table = pd.DataFrame(rows, columns=_COLUMNS)
    probes = {"unit": plan.unit, "work": plan.work, "probed": [probe.work for probe in plan.probes], "seconds": took}
    return Estimate(table, _line(asked), probes)


def _line(asked: Settings) -> str:
    try:
        return typed(asked)
    except MastlensError:
        return ""


def _asked(settings: EstimateSettings) -> Settings:
    """Return the settings of the command that is estimated."""
    what = settings.what
    if isinstance(what, list | tuple) and len(what) == 1:
        (what,) = what
    if isinstance(what, Settings):
        return what
    kind = getattr(what, "settings", None)
    if kind is None:
        raise BadSetting(
            "What is estimated is a command's function with its settings, e.g. mastlens.estimate(mastlens.couple, "
            "given={'sft': ..., 'rlvr': ..., 'forget': ...}), or a settings object."
        )
    return make(kind, (), settings.given)


def over_ranks(asked: Any, ranks: int) -> list[tuple[str, int | float, str, str]]:
    """Return the rows about what each rank takes.

    Raises:
        MastlensError: If the command does not run over ranks.
    """
    from transformers import AutoConfig

    if not asked.over_ranks:
        raise NotSupported(f"{asked.command} does not run over ranks: leave --ranks out.")
    checkpoint = _checkpoint(asked)
    shape = Shape.of(AutoConfig.from_pretrained(checkpoint.folder))
    itemsize = getattr(torch, asked.computing(checkpoint).dtype).itemsize
    names = _selected(asked, checkpoint)
    selected = sum(prod(checkpoint.tensors[name].shape) for name in names)
    sides = 1 + (getattr(asked, "retain", None) is not None)
    lines = lines_of(asked)
    means = {name: mean for name in lines if (mean := _mean_tokens(asked, lines[name])) is not None}
    count = {name: asked.steps * asked.batch_size if hasattr(asked, "steps") else len(lines[name]) for name in means}
    tokens = sum(mean * count[name] for name, mean in means.items())
    found = sizing(asked.command, shape, ranks=ranks, itemsize=itemsize, selected=selected, sides=sides, tokens=tokens)
    return [
        ("parameters", shape.parameters, "", f"{shape.active:,} of them for a token, {selected:,} selected"),
        ("tokens of the texts", round(tokens), "", f"divided among {ranks} ranks"),
        ("weights", found.weights / 1e6, "MB", "a rank's rows of all"),
        ("whole at a time", found.gathered / 1e6, "MB", "blocks while they are computed, and what is outside them"),
        ("gradients and states", found.states / 1e6, "MB", "a rank's rows of what is selected"),
        ("memory a rank", found.memory / 1e6, "MB", "without what texts take"),
        ("read a rank", found.read / 1e6, "MB", "of the checkpoints that run; hashing them reads all, once a machine"),
        ("received a pass", found.received / 1e6, "MB", "from the other ranks, each time a batch goes through"),
        ("arithmetic a rank", found.arithmetic / 1e12, "TFLOP", "with weights; what texts attend to is not in it"),
    ]


def _selected(asked: Any, checkpoint: "Checkpoint") -> list[str]:
    """Return the stored tensors whose gradients a command wants."""
    if asked.command == "token-differences":
        return []
    if asked.command != "unlearn":
        chosen = checkpoint.projections if asked.where is None else checkpoint.matrices(asked.where)
        return list(dict.fromkeys(matrix.stored for matrix in chosen))
    return _edited(asked, checkpoint)


def _edited(asked: Any, checkpoint: "Checkpoint") -> list[str]:
    from mastlens.selection.tensors import select_tensors

    names = select_tensors(
        checkpoint,
        ranking=asked.ranking,
        where=asked.where,
        all_parameters=asked.all_parameters,
        names=asked.names,
    )
    return list(dict.fromkeys(name.partition("#")[0] for name in names))


def _function(asked: Settings) -> Callable[..., Any]:
    module, _, name = asked.function.partition(":")
    return getattr(import_module(module), name)


def _tried(
    plan: Plan, function: Callable[..., Any], asked: Settings, progress: bool
) -> tuple[list[float], float | None, float]:
    """Return the seconds of each probe, and the most memory, of the machine and of a GPU, in MB."""
    gpu = device_of(asked.device).startswith("cuda")
    took, peaks = [], []
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    for probe in tqdm(plan.probes, desc="probe", unit="run", disable=not progress):
        with measured() as cost, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the few texts and steps of a probe, not of the whole
            function(probe.settings)
            if gpu:
                torch.cuda.synchronize()
        took.append(cost.seconds)
        peaks.append(cost.peak_mb)
    known = [peak for peak in peaks if peak is not None]
    return took, max(known, default=None), torch.cuda.max_memory_allocated() / 1e6 if gpu else 0.0


def _checkpoint(asked: Any) -> "Checkpoint":
    from mastlens.checkpoints.checkpoint import Checkpoint

    return Checkpoint(asked.model if hasattr(asked, "model") else asked.rlvr)


def _work(asked: Any, plan: Plan) -> list[tuple[str, int | float, str, str]]:
    """Return the rows about how much there is to do."""
    rows: list[tuple[str, int | float, str, str]] = []
    lines = lines_of(asked)
    if asked.command == "geometry":
        return [("matrices", plan.work, "", "")]
    rows.append(("texts", sum(map(len, lines.values())), "", ", ".join(f"{k} {len(v)}" for k, v in lines.items())))
    means = {name: mean for name in lines if (mean := _mean_tokens(asked, lines[name])) is not None}
    if hasattr(asked, "steps"):
        rows.append(("steps", asked.steps, "", f"{asked.batch_size} texts of each side"))
        read = sum(means.values()) * asked.steps * asked.batch_size
    else:
        read = sum(mean * len(lines[name]) for name, mean in means.items())
    if means:
        rows.append(("tokens of the texts", round(read), "", "with their prompts"))
    if plan.longer is not None:
        note = f"{plan.work:,.0f} responses of {plan.new_tokens:,}"
        rows.append(("tokens written, at most", plan.work * plan.new_tokens, "", note))
    return rows


def _mean_tokens(asked: Any, lines: list[str]) -> float | None:
    """Return the mean length of texts in tokens, prompt and solution; None where they are no problems."""
    import json

    from mastlens.problems.encoding import encode_problems
    from mastlens.problems.reading import parse_problem

    try:
        problems = [parse_problem("", number, json.loads(line)) for number, line in enumerate(lines)]
    except (MastlensError, ValueError):
        return None
    encoded = encode_problems(problems, _checkpoint(asked).load_tokenizer(), chat_template=asked.asking)
    return sum(ids.length for ids in encoded) / max(len(encoded), 1)


def _disk(asked: Any) -> list[tuple[str, int | float, str, str]]:
    """Return the rows about what is written; tables are small, and not counted."""
    if asked.command != "unlearn":
        return []
    checkpoint = _checkpoint(asked)
    stored = _edited(asked, checkpoint)
    entries = {name: prod(checkpoint.tensors[name].shape) for name in stored}
    edit = sum(2 * entries[name] * checkpoint.tensors[name].dtype.itemsize for name in stored)
    out = Path(asked.out) if asked.out is not None else Path()
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free / 1e6
    return [
        ("disk", edit / 1e6, "MB", f"the edit; {free:,.0f} MB are free"),
        ("disk while it runs", _STATE * sum(entries.values()) / 1e6, "MB", "what an interrupted run goes on from"),
    ]
