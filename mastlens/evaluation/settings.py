"""Settings of the commands that judge what a model answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mastlens.decoding.settings import Serving, grading
from mastlens.evaluation.metrics.settings import MetricChoice
from mastlens.problems.settings import Reading
from mastlens.problems.thinking import PARTS, THINK
from mastlens.runs.settings import JUDGE, CheckpointPath, FilePath, Settings, Writing, path_to, setting
from mastlens.runs.tracking import TRACKERS

if TYPE_CHECKING:
    from mastlens.decoding.engines import Decoding

ASK = ("letter", "option", "text")
"""How multiple choice is asked and scored: options listed, scored by letter or by text; or their texts, unlisted."""

LONGEST = 1024
JUDGES = ("rule", "endpoint", "local")
OFF = "off"
STYLES = ("plain", "boxed")
_SOURCE = "a file, a folder, or a dataset of the hub (OWNER/NAME[:CONFIG][@REVISION])"


@dataclass(frozen=True, kw_only=True)
class OnModel(Reading):
    """Settings of a command that runs a model, with or without an edit, on problems."""

    model: CheckpointPath = setting(path_to("the model"), metavar="PATH")
    edit: FilePath | Any | None = setting(
        "an edit to apply in memory first; OWNER/NAME[@REVISION] is one of the hub", None, metavar="EDIT"
    )


@dataclass(frozen=True, kw_only=True)
class Answering(OnModel):
    """Settings of a command that lets a model answer."""

    think: str = setting("free, empty, forced or none", "free", choices=THINK, kind="think mode", metavar="MODE")
    max_new_tokens: int | None = setting("where a response is cut off", LONGEST, unit="tokens")
    samples: int = setting("responses an item", 1, metavar="K")
    temperature: float = setting("of sampling; 0 is greedy", 0.0)
    top_p: float = setting("nucleus of sampling; 1 is everything", 1.0)

    def decoding(self, **more: Any) -> "Decoding":
        """Return how responses are written.

        Raises:
            MastlensError: If the numbers make no sense.
        """
        from mastlens.decoding.engines import Decoding
        from mastlens.decoding.generation import sampling_of

        sampling = sampling_of(self.samples, self.temperature, self.top_p, self.seed)
        longest = LONGEST if self.max_new_tokens is None else self.max_new_tokens
        return Decoding(longest, self.batch_size, sampling, **more)


@dataclass(frozen=True, kw_only=True)
class HarnessTasks:
    """Tasks of lm-evaluation-harness.

    Attributes:
        tasks: Names of tasks or groups.
        task_folder: Folder of task files (YAML) beside the harness' own.
        shots: Worked examples; each task's own number by default.
        limit: Only the first items of each task: to try things out.
        think_end: What ends the thinking, e.g. ``</think>``: only what follows it is graded.
    """

    tasks: Sequence[str] = setting("tasks of lm-evaluation-harness", metavar="TASK")
    task_folder: FilePath | None = setting("task files (YAML) beside the harness' own", None, metavar="DIR")
    shots: int | None = setting("worked examples of its tasks (each task's own)", None)
    limit: int | None = setting("only the first items of each of its tasks", None)
    think_end: str | None = setting("grade only what follows it, e.g. '</think>'", None)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Serving, Answering):
    """Settings of ``evaluate``."""

    command, group = "evaluate", JUDGE
    summary = "responses, accuracy and log-probabilities on problems"
    example = (
        "evaluate --model organism:qwen2/rlvr --split forget=mastlens/organisms/lineages/qwen2/forget-eval.jsonl "
        "--out evaluation"
    )
    function = "mastlens.evaluation.responses:evaluate"
    then = "compare {out} AFTER"

    splits: Mapping[str, FilePath] | None = setting("problems, JSON lines", None, flag="--split", metavar="NAME=FILE")
    max_new_tokens: int | None = setting(
        "where a response is cut off", None, unit="tokens", shown_default=f"{LONGEST}; a harness task's own"
    )
    track: str | None = setting(
        "send accuracies to a tracker, which decides nothing", None, choices=TRACKERS, metavar="NAME"
    )
    stop_at_answer: bool = setting("end a response at its first complete box", False)
    solution_logprob: bool = setting("leave out the reference solution's log-probability", True)
    own_texts: bool = setting(
        "also write own-SPLIT.jsonl: the problems with what the model answers where it is right, to measure on", False
    )
    grader: str | Any = grading()
    harness: HarnessTasks | None = setting(
        "tasks of lm-evaluation-harness, evaluated too",
        None,
        flag="--harness",
        options={
            "tasks": "--harness",
            "task_folder": "--task-folder",
            "shots": "--shots",
            "think_end": "--think-end",
        },
    )
    metrics: MetricChoice | None = setting(
        "the field's metrics of unlearning, measured too",
        None,
        flag="--metrics",
        options={"names": "--metrics", "reference": "--metrics-reference", "texts": "--metrics-texts"},
    )


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """Settings of ``compare``."""

    command, group = "compare", JUDGE
    summary = "what changed between two evaluations of the same items"
    example = "compare evaluation-before evaluation-after"
    function = "mastlens.evaluation.comparison:compare"
    then = "report {after} --before {before}"

    before: FilePath = setting("folder of the evaluation before", positional=True, metavar="BEFORE_DIR")
    after: FilePath = setting("folder of the evaluation after", positional=True, metavar="AFTER_DIR")
    clusters: str | None = setting(
        "rows that share this column are one unit of evidence, e.g. subject; items by default", None, metavar="COLUMN"
    )
    smallest: float = setting(
        "smallest difference of interest, a fraction: a change told to be nearer to 0 is too small to matter", 0.02
    )


@dataclass(frozen=True, kw_only=True)
class CollateralSettings(OnModel):
    """Settings of ``measure-collateral``."""

    command, group = "measure-collateral", JUDGE
    summary = "what an edit does to texts it was not meant to touch"
    example = (
        "measure-collateral --model organism:qwen2/rlvr --edit run/edit.safetensors "
        "--split retain=mastlens/organisms/lineages/qwen2/retain-math-eval.jsonl --out collateral"
    )
    function = "mastlens.evaluation.collateral:measure_collateral"
    then = "report {out}"

    edit: FilePath | Any = setting("the edit, an edit.safetensors", metavar="EDIT")
    splits: Mapping[str, FilePath] = setting(
        "problems, e.g. to retain: the divergence is taken on their solutions", flag="--split", metavar="NAME=FILE"
    )
    neutral: FilePath | None = setting("JSON lines with a 'text' each, for perplexity", None, metavar="FILE")
    before: FilePath | None = setting("evaluation of the source, to compare its responses", None, metavar="DIR")
    after: FilePath | None = setting("evaluation of the edited model", None, metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class CompareEditsSettings(Writing):
    """Settings of ``compare-edits``."""

    command, group = "compare-edits", JUDGE
    summary = "forgetting against collateral, for any number of edits"
    example = "compare-edits evaluation mast=evaluation-mast random=evaluation-random"
    function = "mastlens.evaluation.forgetting:compare_edits"
    then = "report {out}"

    source: FilePath = setting("evaluation folder of the source", positional=True, metavar="SOURCE_DIR")
    edits: Sequence[FilePath] | Mapping[str, FilePath] = setting(
        "evaluation folders of its edits; in Python a mapping labels them", positional=True, metavar="[LABEL=]EDIT_DIR"
    )
    forget: Sequence[str] | None = setting("splits to forget (by default those called forget...)", None, metavar="NAME")
    retain: Sequence[str] | None = setting("splits to keep (by default all others)", None, metavar="NAME")
    out: FilePath | None = setting(
        "folder for edits.parquet, edit_contrasts.parquet and edit_attacks.parquet", None, metavar="DIR"
    )

    def __post_init__(self) -> None:
        if isinstance(self.edits, Mapping):
            labelled = tuple(f"{label}={folder}" for label, folder in self.edits.items())
            object.__setattr__(self, "edits", labelled)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ChoicesSettings(OnModel):
    """Settings of ``choices``."""

    command, group = "choices", JUDGE
    summary = "multiple choice by the options' log-probabilities (FA-UA)"
    example = (
        "choices --model organism:think/think "
        "--questions forget=mastlens/organisms/lineages/think/forget-choices-eval.jsonl --out choices"
    )
    function = "mastlens.evaluation.multiple_choice:choices"
    then = "report {out}"

    questions: Mapping[str, FilePath] = setting("questions with options, JSON lines", metavar="NAME=FILE")
    ask: str = setting(
        "options listed, scored by letter or by text (option); or bare (text)",
        "letter",
        choices=ASK,
        kind="way of asking",
        metavar="|".join(ASK),
    )
    think: str = setting("free, empty, forced or none", "empty", choices=THINK, kind="think mode", metavar="MODE")


@dataclass(frozen=True, kw_only=True)
class JudgeChoice:
    """A judge, as it is asked for on the command line.

    Attributes:
        name: ``rule``, ``endpoint``, ``local``, or a judge of your own: registered, or ``path/to/file.py:NAME``.
        model: The model's name at the endpoint, or a path.
        url: The endpoint's base address.
        key_variable: The environment variable that holds its key.
        cache: Folder that keeps replies; by default ``judge-cache`` in the output folder.
        tokens: Where a judge's reply ends; the judge's own default by default.
        workers: Requests at a time.
        facts: Of the rule judge of traces: ``facts.json`` of the lineage.
    """

    name: str = setting("rule, endpoint, local or your own (path/to/file.py:NAME)", "rule", metavar="JUDGE")
    model: str | None = setting("endpoint: the model's name there; local: a PATH", None, metavar="NAME")
    url: str | None = setting("endpoint: base address, e.g. http://127.0.0.1:8000/v1", None, metavar="URL")
    key_variable: str = setting("variable that holds its key", "OPENAI_API_KEY", metavar="VARIABLE")
    cache: FilePath | None = setting("endpoint: keeps replies (default OUT/judge-cache)", None, metavar="DIR")
    tokens: int | None = setting("where a judge's reply ends", None)
    workers: int = setting("requests at a time", 4)
    facts: FilePath | None = setting("judge rule: facts.json of the lineage", None, metavar="FILE")

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "name": "--judge",
        "model": "--judge-model",
        "url": "--judge-url",
        "key_variable": "--judge-key",
        "cache": "--judge-cache",
        "tokens": "--judge-tokens",
        "workers": "--judge-workers",
    }


@dataclass(frozen=True, kw_only=True)
class PRMChoice:
    """A process reward model, as it is asked for on the command line.

    Attributes:
        path: Where it is.
        remote_code: Whether code that comes with it may run.
    """

    path: CheckpointPath = setting(
        "a process reward model that scores each step: a folder or a hub id (Qwen2.5-Math-PRM, mastlens organism prm)",
        metavar="PATH",
    )
    remote_code: bool = setting("let code run that comes with it (Qwen2.5-Math-PRM needs that)", False)

    OPTIONS: ClassVar[Mapping[str, str]] = {"path": "--prm", "remote_code": "--prm-remote-code"}


@dataclass(frozen=True, kw_only=True)
class EvaluateTracesSettings(Answering):
    """Settings of ``evaluate-traces``."""

    command, group = "evaluate-traces", JUDGE
    summary = "traces in the categories C1 to C4 (RT-UA, Avg-UA)"
    example = (
        "evaluate-traces --model organism:think/think "
        "--questions forget=mastlens/organisms/lineages/think/forget-choices-eval.jsonl "
        "--facts mastlens/organisms/lineages/think/facts.json --out traces"
    )
    function = "mastlens.evaluation.traces.evaluating:evaluate_traces"
    then = "compare-traces {out} AFTER"

    questions: Mapping[str, FilePath] = setting("questions, with options or open, JSON lines", metavar="NAME=FILE")
    judge: Any = setting("what judges: a RuleJudge, EndpointJudge, LocalJudge or your own", None, python_only=True)
    judged_by: JudgeChoice | None = setting(
        "what judges",
        None,
        flag="--judge",
        options={**JudgeChoice.OPTIONS, "facts": "--facts"},
    )
    prm: PRMChoice | None = setting(
        "what scores each step of the part that is judged", None, flag="--prm", options=PRMChoice.OPTIONS
    )
    choices_think: str | None = setting(
        "think mode in which options are scored without reasoning (FA-UA); off: not at all",
        "empty",
        choices=(*THINK, OFF),
        kind="think mode",
        metavar="MODE",
    )
    choices_ask: str = setting(
        "how FA-UA scores options: letter, option or text; see mastlens choices",
        "letter",
        choices=ASK,
        kind="way of asking",
        flag="--ask",
        metavar="|".join(ASK),
    )
    judged: str = setting(
        "what is judged: reasoning, trace, answer or response",
        "reasoning",
        choices=PARTS,
        kind="part to judge",
        flag="--part",
        metavar="PART",
    )
    reflection: float = setting("taken off reflection tokens' logits while decoding (RTP without training)", 0.0)
    reflection_window: int | None = setting("for so many tokens of each thought (the whole response)", None)

    def __post_init__(self) -> None:
        if self.choices_think is None:
            object.__setattr__(self, "choices_think", OFF)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class CompareTracesSettings(Settings):
    """Settings of ``compare-traces``."""

    command, group = "compare-traces", JUDGE
    summary = "two models' traces, paired: leak or no leak"
    example = "compare-traces traces-before traces-after"
    function = "mastlens.evaluation.traces.comparing:compare_traces"
    then = "report {after}"

    before: FilePath | Any = setting("folder of judged traces before", positional=True, metavar="BEFORE_DIR")
    after: FilePath | Any = setting("folder of judged traces after", positional=True, metavar="AFTER_DIR")


@dataclass(frozen=True, kw_only=True)
class EvaluateSafetySettings(Answering):
    """Settings of ``evaluate-safety``."""

    command, group = "evaluate-safety", JUDGE
    summary = "refusals of harmful requests, from files that you bring"
    example = "evaluate-safety --model organism:think/think --data strongreject=strongreject.csv --out safety"
    function = "mastlens.evaluation.safety.evaluating:evaluate_safety"
    then = "report {out}"

    data: Mapping[str, FilePath] = setting(
        "star1, strongreject, jailbreakbench or wildjailbreak, and your file of it", metavar="NAME=FILE"
    )
    judge: Any = setting("what judges: RefusalPhrases, or a judge with REFUSAL_RUBRIC", None, python_only=True)
    judged_by: JudgeChoice | None = setting("what judges", None, flag="--judge", options=JudgeChoice.OPTIONS)
    judged: str = setting(
        "what is judged: answer, trace, reasoning or response",
        "answer",
        choices=PARTS,
        kind="part to judge",
        flag="--part",
        metavar="PART",
    )
    limit: int | None = setting("draw at most so many requests of each kind by the seed", None)


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """Settings of how benchmarks are asked."""

    style: str = setting(
        "prompts: boxed asks for a box; plain asks nothing", "boxed", choices=STYLES, kind="style of prompt"
    )
    shots: int = setting("worked examples a prompt", 0, flag="--prompt-shots", metavar="K")


@dataclass(frozen=True, kw_only=True)
class MastBenchmarksSettings(Prompting, Writing):
    """Settings of ``benchmarks mast``."""

    command, group = "benchmarks mast", JUDGE
    summary = "the forget and retain sets of MAST's protocol"
    example = "benchmarks mast --math MATH/test --gsm8k gsm8k/test.jsonl --out sets"
    function = "mastlens.evaluation.protocol:mast_benchmarks"
    then = "evaluate --model MODEL --split forget={out}/forget-eval.jsonl --out before"

    math: FilePath = setting(f"MATH's test set: {_SOURCE}", metavar="SOURCE")
    gsm8k: FilePath = setting("GSM8K's test set", metavar="SOURCE")
    math_train: FilePath | None = setting(
        "MATH's training set: train and calibration files too", None, metavar="SOURCE"
    )
    gsm8k_train: FilePath | None = setting("GSM8K's training set", None, metavar="SOURCE")
    forget: int = setting("forget problems", 150)
    retain_math: int = setting("retain problems of MATH's other subjects", 200)
    retain_gsm: int = setting("retain problems of GSM8K", 256)
    calibration: int = setting("problems of each calibration file", 150)


@dataclass(frozen=True, kw_only=True)
class TakeBenchmarkSettings(Prompting, Settings):
    """Settings of ``benchmarks take``."""

    command, group = "benchmarks take", JUDGE
    summary = "one benchmark, whole or in part"
    example = "benchmarks take gsm8k/test.jsonl --count 50 --out problems.jsonl"
    function = "mastlens.evaluation.benchmarks:take_benchmark"
    then = "evaluate --model MODEL --split problems={out} --out before"

    source: FilePath = setting(_SOURCE, positional=True, metavar="SOURCE")
    hub_split: str = setting("split of a hub dataset", "test", metavar="NAME")
    subjects: Sequence[str] = setting(
        "only this subject; repeatable", (), flag="--subject", metavar="NAME", repeated=True
    )
    levels: Sequence[int] = setting("only this level; repeatable", (), flag="--level", metavar="N", repeated=True)
    count: int | None = setting("draw so many (all by default)", None)
    examples: FilePath | None = setting(
        "where worked examples come from, e.g. the training set", None, metavar="SOURCE"
    )
    out: FilePath = setting("the problem file to write, JSON lines", metavar="FILE")
