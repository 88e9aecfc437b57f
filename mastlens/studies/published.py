"""Published protocols as their files have them: what is measured, what is unlearned by, and the numbers of others."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mastlens.errors import unknown
from mastlens.runs.reading import read_toml
from mastlens.studies.reading import from_table

FOLDER = Path(__file__).parent / "protocols"


@dataclass(frozen=True)
class ProtocolArm:
    """What is unlearned by.

    Attributes:
        label: Its name in the table.
        objective: The objective.
        preset: Whose coefficients; empty for the objective's own.
        where: Which weight matrices are edited, a regular expression; empty for all.
        rule: The rule or control that selects matrices instead; it needs the checkpoints before the model.
        share: Of the candidates, how many it selects.
    """

    label: str
    objective: str
    preset: str = ""
    where: str = ""
    rule: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class ReasoningProtocol:
    """How a protocol of reasoning models goes on: by ``reasoning_table``, on the files that the benchmark becomes.

    Attributes:
        methods: Its methods, of ``METHODS``.
        preset: Whose coefficients and texts.
        where: Which matrices are edited, a regular expression.
        layer: The layer that is steered.
        ask: How options are scored without thinking.
    """

    methods: tuple[str, ...]
    preset: str
    where: str
    layer: int
    ask: str = "letter"


@dataclass(frozen=True)
class Published:
    """Numbers of somebody else's, on another model.

    Attributes:
        model: The model.
        method: What was done to it.
        source: Where they stand.
        values: Each metric, as it is called here, and its number.
    """

    model: str
    method: str
    source: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class ProtocolSettings:
    """A protocol, as its file has it.

    Attributes:
        title: What it is.
        benchmark: The benchmark (``mastlens benchmarks list``).
        max_new_tokens: Where a response is cut off.
        steps: Of unlearning.
        batch_size: Problems a step and side.
        lr: Learning rate.
        splits: Its problems that are measured.
        metrics: What is measured.
        answers: Whether responses are graded and log-probabilities of solution and answer compared, too.
        forget: Its problems that are unlearned.
        retain: Its problems that are kept; empty for none.
        arms: What is unlearned by, each for itself.
        part: Its part; empty for the first.
        optional: Further splits, where the benchmark has them.
        choices: Its files of multiple choice that are measured, where it has them.
        texts: Its bare texts that are measured.
        optional_texts: Further ones, where it has them.
        optional_metrics: Metrics that need these.
        reference_metrics: Metrics that need a reference model.
        reasoning: What a protocol of reasoning models has in place of splits, metrics and arms.
        published: Numbers of others.
        note: What is to be known of it.
    """

    title: str
    benchmark: str
    max_new_tokens: int
    steps: int
    batch_size: int
    lr: float
    splits: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    answers: bool = False
    forget: str = ""
    retain: str = ""
    arms: tuple[ProtocolArm, ...] = ()
    part: str = ""
    optional: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    optional_texts: tuple[str, ...] = ()
    optional_metrics: tuple[str, ...] = ()
    reference_metrics: tuple[str, ...] = ()
    reasoning: ReasoningProtocol | None = None
    published: tuple[Published, ...] = field(default=(), repr=False)
    note: str = ""

    @property
    def ranked(self) -> bool:
        """Whether an arm edits what a rule selects, for which the checkpoints before the model are needed."""
        return any(arm.rule for arm in self.arms)

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """One row a published number."""
        return [
            {"model": one.model, "method": one.method, "metric": metric, "value": value, "source": one.source}
            for one in self.published
            for metric, value in one.values.items()
        ]

    def record(self) -> dict[str, Any]:
        """Return what is done, without the numbers of others."""
        return {key: value for key, value in asdict(self).items() if key not in ("published", "note")}


def protocol_names() -> list[str]:
    """Return the protocols that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_protocol(name: str) -> ProtocolSettings:
    """Return a protocol.

    Raises:
        MastlensError: If there is none of that name.
    """
    if name not in protocol_names():
        raise unknown("protocol", name, protocol_names())
    return from_table(ProtocolSettings, read_toml(FOLDER / f"{name}.toml"), f"protocol {name}")
