"""Every command with a line of it at toy size: a command without one fails a test."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mastlens.evaluation.protocol import MATH_SUBJECTS
from tests.lineages import write_crosscoder, write_direction, write_identity, write_lineage, write_problems

READ_ONLY = ("inspect", "edit show", "compare", "compare-traces", "organism list", "estimate", "benchmarks list")
"""Commands that write nothing of their own."""

FETCHING = ("organism fetch", "edit push")
"""Commands that need a network; ``test_organism_fetch.py`` and ``test_sharing.py`` say what a failure leaves."""


def _every_step() -> None:
    """Let an unfinished run of ``unlearn`` keep its state after each step, not every half minute."""
    from mastlens.unlearning import resuming

    resuming.SECONDS = resuming._SHARE = 0


def _small_demo() -> None:
    from mastlens.reporting import demonstration
    from mastlens.unlearning.matching import Grid

    settings = demonstration.DemoSettings(
        rank=2, top=2, grid=Grid(learning_rates=(1e-3,), steps=1, every=1, batch_size=2), draws=1, max_new_tokens=2
    )
    demonstration.DemoSettings = lambda: settings  # type: ignore[assignment, misc]
    _short_report()


def _short_report() -> None:
    """Draw the figures of one chapter only: the page is one file, however much stands in it."""
    from mastlens.reporting import writing

    weight = max(chapter.weight for chapter in writing.CHAPTERS)
    writing.CHAPTERS = tuple(chapter for chapter in writing.CHAPTERS if chapter.weight == weight)  # type: ignore[misc]


def _small_organism() -> None:
    from mastlens.organisms import get_organism, register_organism
    from tests.unit.test_organism_build import MINIATURE

    small = {"corpus": 40, "neutral": 10, "base_steps": 1, "sft_steps": 1, "eval_neutral": 2}
    recipe = replace(MINIATURE, **small, grpo_retain=4, grpo_forget=4)
    register_organism(replace(get_organism("qwen2"), name="miniature", recipe=recipe))


@dataclass(frozen=True)
class Row:
    """A command at toy size.

    Attributes:
        line: What is typed; ``{i}`` stands for the folder of inputs, ``{o}`` for where it writes.
        start: The folder of inputs that is at ``{o}`` before it runs; empty where it makes its own.
        before: What makes it small where no option does; it runs in the child.
        cheap: Whether the tests take every k of it.
    """

    line: str
    start: str = ""
    before: Callable[[], None] = lambda: None
    cheap: bool = False

    @property
    def words(self) -> list[str]:
        """The line, word by word."""
        return shlex.split(self.line)

    def action(self, inputs: Path, out: Path) -> Callable[[], int]:
        """Return what runs it."""
        words = [word.format(i=inputs, o=out) for word in self.words]

        def run() -> int:
            from mastlens.cli import main

            self.before()
            return main(words)

        return run


LINEAGE = "--sft {i}/sft --rlvr {i}/rlvr"
PAIR = "--forget {i}/forget.jsonl --retain {i}/retain.jsonl --batch-size 4"
SPLITS = "--split forget={i}/forget-eval.jsonl retain={i}/retain-eval.jsonl --max-new-tokens 2"
EDIT = "{i}/run/edit.safetensors"
DIRECTION = "--directions {i}/directions.safetensors --direction sft/mean/out/1/-1/0"
TOP = "'layers.1.self_attn.[qk]'"
SHARD = f"geometry --base {{i}}/base {LINEAGE} --rank 2 --workers 1"
THINK = "--model {i}/rlvr --max-new-tokens 4 --batch-size 4"

ROWS = (
    Row("geometry --base {i}/base " + LINEAGE + " --rank 2 --full --heads --workers 1 --out {o}"),
    Row(f"{SHARD} --shard 1/2 --out {{o}}"),
    Row("merge {i}/shard-1 {i}/shard-2 --out {o}", cheap=True),
    Row("mask-agreement {i}/base {i}/sft {i}/rlvr --out {o}"),
    Row("trajectory {i}/base {i}/sft {i}/rlvr --steps 1,2 --rank 2 --extrapolate 3 --out {o}"),
    Row("token-differences --base {i}/base " + LINEAGE + " --split forget={i}/forget.jsonl --out {o}"),
    Row(f"couple {LINEAGE} {PAIR} --fisher --out {{o}}", start="measured"),
    Row("rank {o} --top 2 --anyway", start="tables", cheap=True),
    Row(f"causal-map {LINEAGE} {PAIR} --limit 1 --accuracy --max-new-tokens 1 --out {{o}}"),
    Row(
        f"cumulative-curves {LINEAGE} {PAIR} --limit 1 --draws 1 --points 1 --ranking "
        f"{{i}}/run/ranking.parquet --out {{o}}"
    ),
    Row(f"score path {LINEAGE} {PAIR} --limit 2 --parameter points=1 --out {{o}}"),
    Row("inside depart " + LINEAGE + " --split forget={i}/forget.jsonl --limit 2 --draws 2 --out {o}"),
    Row("inside write " + LINEAGE + " --split forget={i}/forget.jsonl --limit 2 --draws 2 --out {o}"),
    Row("inside patch " + LINEAGE + " --split f={i}/forget.jsonl --limit 1 --draws 2 --sites z --layers 1 --out {o}"),
    Row(
        "inside direct " + LINEAGE + " --texts {i}/labelled.jsonl --label subject=Algebra --draws 2 --shuffles 2 "
        "--layers 1 --sites resid_post --probes mean --out {o}"
    ),
    Row(
        "inside steer " + LINEAGE + f" {DIRECTION} --doses=-1 --split f={{i}}/forget.jsonl --limit 1 --draws 2 "
        "--max-new-tokens 1 --out {o}"
    ),
    Row(
        "inside path " + LINEAGE + " --senders z.0.1 --receivers logits --split f={i}/forget.jsonl --limit 1 --draws 2 "
        "--out {o}"
    ),
    Row(
        "inside crosscoder " + LINEAGE + " --crosscoder {i}/crosscoder --layer 1 --split f={i}/forget.jsonl --limit 2 "
        "--draws 2 --out {o}"
    ),
    Row(
        "inside undo " + LINEAGE + " --edited {i}/edited --split f={i}/forget.jsonl --limit 1 --draws 2 --sites z "
        "--layers 1 --out {o}"
    ),
    Row(
        "inside dictionary " + LINEAGE + " --dictionary {i}/sae --split f={i}/forget.jsonl --limit 2 --draws 2 "
        "--out {o}"
    ),
    Row("traces --model {i}/rlvr --forget {i}/forget.jsonl --max-new-tokens 4 --segment-tokens 8 --out {o}"),
    Row(
        f"unlearn --rlvr {{i}}/rlvr --where {TOP} {PAIR} --objective npo --steps 2 --lr 1e-4 "
        f"--token-weights --max-repetition 1 --probe-tokens 4 "
        "--probe-forget {i}/forget-eval.jsonl --probe-retain {i}/retain-eval.jsonl --probe-every 1 --out {o}",
        start="tables",
        before=_every_step,
    ),
    Row(f"negate {LINEAGE} --where {TOP} --out {{o}}"),
    Row(f"edit apply {EDIT} --to {{i}}/rlvr --out {{o}}"),
    Row(f"edit apply {EDIT} --to {{i}}/rlvr --out {{o}} --overwrite", start="edited"),
    Row(f"edit revert {EDIT} --from {{i}}/edited --out {{o}}"),
    Row(f"edit scale {EDIT} --by 0.5 --out {{o}}/half.safetensors", cheap=True),
    Row(f"edit compose {EDIT} {{i}}/second --out {{o}}/both.safetensors"),
    Row(f"edit steer --to {{i}}/qwen3/rlvr {DIRECTION} --dose=-1 --out {{o}}", cheap=True),
    Row(f"edit lora {EDIT} --to {{i}}/rlvr --rank 1 --out {{o}}", cheap=True),
    Row("evaluate --model {i}/rlvr " + SPLITS + " --batch-size 4 --out {o}"),
    Row("evaluate --model {i}/rlvr " + SPLITS + " --metrics probability --batch-size 4 --out {o}", start="before"),
    Row("compare-metrics {i}/measured-before {i}/measured-before --out {o}", cheap=True),
    Row(
        f"measure-collateral --model {{i}}/rlvr --edit {EDIT} --split retain={{i}}/retain-eval.jsonl "
        "--neutral {i}/neutral.jsonl --before {i}/before --after {i}/after --out {o}",
        start="after",
    ),
    Row(
        f"depth-score --model {{i}}/rlvr --edit {EDIT} --reference {{i}}/sft --split forget={{i}}/forget-eval.jsonl "
        "--batch-size 4 --out {o}"
    ),
    Row("compare-edits {i}/before edited={i}/after none={i}/before --out {o}"),
    Row("choices --model {i}/rlvr --questions forget={i}/choices.jsonl --batch-size 4 --out {o}"),
    Row(
        f"evaluate-traces {THINK} --questions forget={{i}}/choices.jsonl --judge rule --facts "
        f"{{i}}/facts.json --out {{o}}"
    ),
    Row(f"evaluate-safety {THINK} --data star1={{i}}/requests.json --judge rule --out {{o}}"),
    Row(
        "benchmarks mast --math {i}/math.jsonl --gsm8k {i}/gsm.jsonl --forget 2 --retain-math 2 "
        "--retain-gsm 2 --out {o}"
    ),
    Row("benchmarks take {i}/gsm.jsonl --count 2 --out {o}/few.jsonl", cheap=True),
    Row("benchmarks convert wmdp {i}/wmdp --out {o}", cheap=True),
    Row(f"attack quantise --model {{i}}/rlvr --edit {EDIT} {SPLITS} --format int8 --out {{o}}"),
    Row(f"attack prompts --model {{i}}/rlvr --edit {EDIT} {SPLITS} --shots 1 --prefill 0.5 --limit 1 --out {{o}}"),
    Row(
        f"attack relearn-forget --model {{i}}/rlvr --edit {EDIT} {SPLITS} --train "
        f"{{i}}/forget.jsonl --steps 2 --out {{o}}"
    ),
    Row(f"attack samples --model {{i}}/rlvr --edit {EDIT} {SPLITS} --k 2 --limit 1 --out {{o}}"),
    Row("run {i}/study.toml --out {o}"),
    Row(
        "reasoning-table --model {i}/rlvr --reference {i}/sft --forget {i}/texts.jsonl --retain {i}/texts.jsonl "
        "--cot {i}/retain.jsonl --questions {i}/choices.jsonl --utility {i}/choices.jsonl --maths {i}/retain.jsonl "
        "--facts {i}/facts.json --where 'layers.0.mlp.down_proj' --layer 1 --steps 1 --lr 1e-3 --methods original rmu "
        "--seeds 1 --out {o}"
    ),
    Row("demo --lineage {i}/lineage --out {o}", before=_small_demo),
    Row("figures --demo {i}/demo --only outcome --images --out {o}"),
    Row("report {o}", start="run"),
    Row("organism build miniature --out {o}", before=_small_organism),
    Row(
        "organism prm miniature --model {i}/rlvr --steps 1 --batch-size 4 --items 4 --out {o}",
        before=_small_organism,
    ),
    Row("organism trajectory miniature --lineage {i}/built --cache {o}", before=_small_organism),
)
"""Every command that writes; one that has several ways of writing has several rows."""

STUDY = """
seeds = [0]
draws = 1
top = 2
rank = 2
neutral = "neutral.jsonl"
lineage = {{ rlvr = "{i}/rlvr", sft = "{i}/sft", base = "{i}/base", reference = "{i}/sft" }}
train = {{ forget = "forget.jsonl", retain = "retain.jsonl" }}
calibration = {{ forget = "forget-calibration.jsonl", sums = "retain-calibration.jsonl" }}
eval = {{ forget = "forget-eval.jsonl", sums = "retain-eval.jsonl" }}
decoding = {{ max_new_tokens = 2, batch_size = 4 }}
grid = {{ learning_rates = [1e-3], steps = 1, every = 1, batch_size = 2 }}
[[compare]]
objectives = ["ga"]
selections = ["mast"]
[[negate]]
selections = ["mast"]
"""


def _write_lines(path: Path, records: list) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _write_texts(folder: Path) -> None:
    """Write the files beside the problems."""
    from tests.fuzz.bases import CHOICE, FACTS

    _write_lines(folder / "neutral.jsonl", [{"text": "Nothing here is about numbers."}, {"text": "Some more words."}])
    _write_lines(folder / "texts.jsonl", [{"text": "The area of a square of side 7 is found."}] * 2)
    # Of one world with the facts: the rule that judges looks both up.
    asked = {**CHOICE, "subject": "town", "person": "Ann", "choices": ["Orsk", "Tavi", "Rill"]}
    _write_lines(folder / "choices.jsonl", [asked, {**asked, "question": "Who?"}])
    (folder / "facts.json").write_text(json.dumps(FACTS))
    (folder / "requests.json").write_text(json.dumps([{"question": "How do I bake bread?", "category": "baking"}]))
    (folder / "wmdp" / "wmdp-bio").mkdir(parents=True)
    _write_lines(folder / "wmdp" / "wmdp-bio" / "test.jsonl", [{**asked, "answer": 1}] * 2)
    subjects = MATH_SUBJECTS
    _write_lines(
        folder / "math.jsonl",
        [
            {
                "problem": f"What is {n} + 1?",
                "level": "Level 3",
                "type": subjects[n % len(subjects)],
                "solution": rf"$\boxed{{{n + 1}}}$.",
            }
            for n in range(70)
        ],
    )
    _write_lines(folder / "gsm.jsonl", [{"question": f"Had {n}, got 2?", "answer": f"#### {n + 2}"} for n in range(30)])


def write_inputs(folder: Path) -> None:
    """Write what the rows read, with the commands themselves where a command makes it."""
    tiny = write_lineage(folder)
    for path in (tiny.forget, tiny.retain):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    for number, side in enumerate(("forget", "retain")):
        for kind, first in (("calibration", 200), ("eval", 300)):
            write_problems(folder / f"{side}-{kind}.jsonl", first=first + 50 * number, count=2)
    write_problems(folder / "labelled.jsonl", first=100, count=14)
    write_identity(folder / "sae", 32, layer=1)
    write_crosscoder(folder / "crosscoder", 32)
    (folder / "qwen3").mkdir()
    write_lineage(folder / "qwen3", "qwen3")
    write_direction(folder / "directions.safetensors", "sft/mean/out/1/-1/0", 32)
    _write_texts(folder)
    toml = STUDY.format(i=folder)
    (folder / "study.toml").write_text(toml)
    lineage = folder / "lineage"
    lineage.mkdir()
    for stage, of in (("base", "base"), ("sft", "sft"), ("rlvr", "rlvr"), ("rlvr-retain", "sft")):
        (lineage / stage).symlink_to(folder / of)
    sides = {"forget": ("train", "calibration", "eval"), "retain": ("train",)}
    sides |= dict.fromkeys(("retain-math", "retain-gsm"), ("calibration", "eval"))
    for side, regions in sides.items():
        for region in regions:
            own = side.partition("-")[0] + ("" if region == "train" else f"-{region}")
            shutil.copyfile(folder / f"{own}.jsonl", lineage / f"{side}-{region}.jsonl")
    shutil.copyfile(folder / "neutral.jsonl", lineage / "neutral-eval.jsonl")


def make_inputs(folder: Path, rows: Iterable[Row], run: Callable[[Callable[[], int]], None]) -> None:
    """Make what some rows read and other commands make.

    Args:
        folder: The folder of inputs, with what ``write_inputs`` writes.
        rows: The rows.
        run: Runs an action in a child, and fails where it fails.
    """
    needed = {part for row in rows for part in _folders(row.line, row.start)}
    for name, line, start in reversed(MADE):
        if name in needed:
            needed |= _folders(line, start)
    for name, line, start in MADE:
        if name not in needed:
            continue
        if start:
            shutil.copytree(folder / start, folder / name)
        row = next((row for row in ROWS if row.line == line), Row(line))
        run(row.action(folder, folder / name))
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


def _folders(line: str, start: str) -> set[str]:
    """Return the folders of inputs that a line reads."""
    return {start, *re.findall(r"\{i\}/([\w-]+)", line)}


def _row(name: str) -> str:
    return next(row.line for row in ROWS if row.line.startswith(name))


MADE = (
    ("measured", _row("geometry"), ""),
    *((f"shard-{place}", f"{SHARD} --shard {place}/2 --out {{o}}", "") for place in (1, 2)),
    ("tables", _row("couple"), "measured"),
    ("run", _row("rank"), "tables"),
    ("run", _row("unlearn"), ""),
    ("edited", _row("edit apply"), ""),
    ("second", f"unlearn --rlvr {{i}}/edited --where {TOP} {PAIR} --objective ga --steps 1 --lr 1e-3 --out {{o}}", ""),
    ("before", _row("evaluate"), ""),
    ("measured-before", _row("evaluate") + " --metrics probability", ""),
    ("after", f"evaluate --model {{i}}/rlvr --edit {EDIT} {SPLITS} --out {{o}}", ""),
    ("demo", _row("demo"), ""),
    ("built", _row("organism build"), ""),
)
"""Folder of inputs, the line that writes it, and what stands there before."""
