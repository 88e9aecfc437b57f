"""How a command is tried small: which runs, how much work each is, and how much all of it is.

A command runs as it would, on a few of its own texts: of a file the ones at even places in the order of length, the
longest among them, because memory follows that one. Its time is a start, and so much for each unit of work.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mastlens.errors import NotFound, NotSupported
from mastlens.runs.settings import Settings

FILES = ("forget", "retain", "splits", "questions")
"""Settings that are files of texts, or names of such files; a line is a text."""

ROWS, TEXTS = 16, 4  # texts that a probe writes responses to, and that one reads
SHORT, LONG = 2, 18  # new tokens of two probes: what a token costs is the difference
STEPS = 3
LAYERS = 2


@dataclass(frozen=True)
class Probe:
    """One small run.

    Attributes:
        settings: What is run.
        work: Units of work in it: texts, characters, tensors or steps.
    """

    settings: Settings
    work: int | float


@dataclass(frozen=True)
class Plan:
    """What is run small, and how the whole follows from it.

    Attributes:
        small: Hardly any work: what is left is the start.
        larger: More of it.
        work: Of the whole.
        unit: What work is counted in.
        longer: A probe with more new tokens, where the command writes responses; None where it does not.
        new_tokens: Most new tokens of a response of the whole.
    """

    small: Probe
    larger: Probe
    work: int | float
    unit: str
    longer: Probe | None = None
    new_tokens: int = 0

    @property
    def probes(self) -> list[Probe]:
        """Every run in its order; the first one is run twice, because imports are paid once."""
        return [self.small, self.small, self.larger, *([] if self.longer is None else [self.longer])]

    def seconds(self, took: Sequence[float]) -> float:
        """Return the time of the whole from those of ``probes``.

        Args:
            took: Seconds of each.
        """
        first, start, more = took[:3]
        work = self.larger.work - self.small.work
        one = (more - start) / work if work > 0 else start / self.small.work
        whole = max(first, start) + max(one, 0.0) * max(self.work - self.small.work, 0.0)
        if self.longer is not None:
            token = max(took[3] - more, 0.0) / (LONG - SHORT) / self.longer.work
            whole += token * self.work * max(self.new_tokens - SHORT, 0)
        return whole


Planner = Callable[[Any, Path], Plan]


def lines_of(settings: Settings) -> dict[str, list[str]]:
    """Return the lines of every file of texts that the settings name, as many as ``limit`` leaves.

    Raises:
        MastlensError: If a file is missing.
    """
    found = {}
    for name, path in _files(settings):
        if not Path(path).is_file():
            raise NotFound(f"There is no file {path} (for {name}).")
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        found[name] = lines[: getattr(settings, "limit", None)]
    return found


def _files(settings: Settings) -> Iterator[tuple[str, Any]]:
    for name in FILES:
        value = getattr(settings, name, None)
        if isinstance(value, Mapping):
            yield from value.items()
        elif value is not None:
            yield name, value


def spread(lines: Sequence[str], count: int) -> list[str]:
    """Return so many of the lines, at even places in the order of their length, the longest among them."""
    ordered = sorted(lines, key=len)
    if count >= len(ordered):
        return ordered
    return [ordered[round((place + 1) * len(ordered) / count) - 1] for place in range(count)]


def sampled(settings: Any, count: int, scratch: Path, **changed: Any) -> Any:
    """Return settings that read ``count`` of the texts of each file, and write nothing.

    Args:
        settings: Of the whole.
        count: Texts of each file.
        scratch: A folder for the smaller files.
        **changed: What else differs.
    """
    chosen = {}
    lines = lines_of(settings)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name not in FILES or value is None:
            continue
        names = {name: _write(scratch, name, spread(lines[name], count)) for name in (
            value if isinstance(value, Mapping) else (field.name,)
        )}  # fmt: skip
        chosen[field.name] = names if isinstance(value, Mapping) else names[field.name]
    if hasattr(settings, "limit"):
        chosen["limit"] = None  # what it leaves was taken into account above
    return unwritten(settings, **chosen, **changed)


def unwritten(settings: Any, **changed: Any) -> Any:
    """Return settings of a run that writes nothing, tracks nothing and shows no progress."""
    silent = {"out": None, "progress": False, "overwrite": False, "track": None}
    return replace(settings, **{key: value for key, value in silent.items() if hasattr(settings, key)}, **changed)


def _write(scratch: Path, name: str, lines: Sequence[str]) -> str:
    path = scratch / f"{re.sub(r'[^A-Za-z0-9]', '-', name)}-{len(lines)}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def characters(settings: Settings) -> int:
    """Return the characters of all lines: what reading them costs follows that."""
    return sum(len(line) for lines in lines_of(settings).values() for line in lines)


def reading(settings: Any, scratch: Path) -> Plan:
    """Plan a command that reads texts."""
    small, larger = (sampled(settings, count, scratch) for count in (1, TEXTS))
    return Plan(Probe(small, characters(small)), Probe(larger, characters(larger)), characters(settings), "characters")


def writing(settings: Any, scratch: Path) -> Plan:
    """Plan a command that lets a model write responses: at most, as if every response ran to its end."""
    from mastlens.evaluation.settings import LONGEST

    texts = sum(map(len, lines_of(settings).values()))
    if not texts or getattr(settings, "harness", None) is not None:
        raise NotSupported("Only responses to problem files can be estimated: give --split, and leave --harness out.")
    samples, longest = getattr(settings, "samples", 1), settings.max_new_tokens or LONGEST

    def probe(count: int, new_tokens: int) -> Probe:
        chosen = sampled(settings, count, scratch, max_new_tokens=min(new_tokens, longest))
        return Probe(chosen, samples * sum(map(len, lines_of(chosen).values())))

    few = max(1, min(ROWS, texts) // max(len(lines_of(settings)), 1))
    return Plan(probe(1, SHORT), probe(few, SHORT), samples * texts, "responses", probe(few, LONG), longest)


def patching(settings: Any, scratch: Path) -> Plan:
    """Plan a causal map: the patches of its middle layer, for a few texts."""
    from mastlens.checkpoints.checkpoint import Checkpoint

    if settings.accuracy or settings.heads:
        raise NotSupported("A causal map with --accuracy or --heads cannot be estimated; without them it can.")
    checkpoint = Checkpoint(settings.rlvr)
    names = matrices_of(checkpoint, settings.where)
    middle = names[len(names) // 2]
    layer = [name for name in names if name[0] == middle[0]]
    where = _exactly(stored for _, stored in layer)
    small, larger = (sampled(settings, count, scratch, where=where) for count in (1, TEXTS))
    share = len(names) / len(layer)
    return Plan(
        Probe(small, characters(small)),
        Probe(larger, characters(larger)),
        characters(settings) * share,
        "characters and patches",
    )


def _exactly(names: Iterable[str]) -> str:
    """Return the regular expression of these stored matrices, whole or in slices, and of no others."""
    return "|".join(f"^{re.escape(name)}(#|$)" for name in names)


def matrices_of(checkpoint: Any, where: str | None) -> list[tuple[int, str]]:
    """Return layer and stored name of the attention projections, or of the matrices that are named.

    Raises:
        MastlensError: If there are none.
    """
    if where is None:
        found = [(one.layer, one.stored) for one in checkpoint.projections]
    else:
        found = [(one.layer, one.stored) for one in checkpoint.matrices(where)]
    if not found:
        raise NotSupported(f"No weight matrix of {checkpoint.spec} has a name like {where!r}.")
    return sorted(set(found))


def stepping(settings: Any, scratch: Path) -> Plan:
    """Plan an unlearning run: a few of its steps, on as many of its texts as they take."""

    def probe(steps: int) -> Any:
        changed: dict[str, Any] = {"probes": None, "warmup": 0, "steps": steps}
        if settings.traces is not None or settings.responses is not None:  # they belong to these very files
            return unwritten(settings, **changed)
        return sampled(settings, STEPS * settings.batch_size, scratch, **changed)

    small, larger = probe(1), probe(STEPS)
    return Plan(Probe(small, 1), Probe(larger, STEPS), settings.steps, "steps")


def measuring(settings: Any, scratch: Path) -> Plan:
    """Plan a measurement of increments: the matrices of one layer, and of two."""
    from mastlens.checkpoints.checkpoint import Checkpoint

    names = matrices_of(Checkpoint(settings.rlvr), settings.where)
    layers = sorted({layer for layer, _ in names})
    middle = len(layers) // 2

    def probe(count: int) -> Probe:
        some = layers[max(middle - count // 2, 0) :][:count]
        chosen = [name for layer, name in names if layer in some]
        return Probe(unwritten(settings, where=_exactly(chosen)), len(chosen))

    return Plan(probe(1), probe(min(LAYERS, len(layers))), len(names), "matrices")


PLANS: dict[str, Planner] = {
    "geometry": measuring,
    "couple": reading,
    "token-differences": reading,
    "causal-map": patching,
    "unlearn": stepping,
    "measure-collateral": reading,
    "evaluate": writing,
    "choices": reading,
    "evaluate-traces": writing,
}
"""Command to what plans its probes."""
