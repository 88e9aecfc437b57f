"""The demo: the whole method on the shipped organism, beside everything it should be compared with."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from mastlens.analysis.coupling.coupling import couple
from mastlens.analysis.increments.geometry import geometry
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.edits.negation import negate
from mastlens.evaluation import Evaluation, compare_tables, evaluate
from mastlens.models.weights import snapshot, swapped
from mastlens.organisms import lineage_folder
from mastlens.problems.answers import response_style
from mastlens.reporting import report
from mastlens.reporting.settings import DemoCommandSettings
from mastlens.runs.calls import takes
from mastlens.runs.cost import measured
from mastlens.runs.files import sha256_json, write_table
from mastlens.selection import random_matched, rank
from mastlens.selection.tensors import weight_matrices
from mastlens.studies.arms import EditWithSteps, edit_without_gradient, kept_edit, matched_edit
from mastlens.studies.bench import Bench
from mastlens.studies.settings import DecodingSettings
from mastlens.studies.verdict import PARTS, SPLITS, summary_text, verdict_sentence
from mastlens.unlearning.loop import make_edit, unlearning_steps
from mastlens.unlearning.matching import Grid
from mastlens.unlearning.objectives import make_objective

SUMMARY = "summary.parquet"
ARMS = "arms.parquet"


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo: chosen on the calibration split, the grid's size by the demo's time limit.

    Attributes:
        rank: k of the principal subspaces.
        top: Projections that MAST selects, of 32.
        objective: The forget objective.
        retain_weight: Weight of the retain term.
        grid: Learning rates and saved steps that every arm gets.
        draws: Random selections.
        max_new_tokens: Where a response ends.
        evaluation_batch: Items a batch of generation.
    """

    rank: int = 16
    top: int = 12
    objective: str = "graddiff"
    retain_weight: float = 4.0
    grid: Grid = field(default_factory=lambda: Grid(learning_rates=(3e-4, 1e-3), steps=56, every=8, batch_size=8))
    draws: int = 3
    max_new_tokens: int = 56
    evaluation_batch: int = 152


@dataclass(frozen=True)
class DemoArm:
    """One model of the comparison.

    Attributes:
        name: Its folder.
        label: What tables and figures call it.
        stage: The lineage stage that it starts from.
        edit: The edit, if it is one.
        details: ``lr``, ``step``, ``reached``, ``tensors``, ``parameters``, ``seconds``, ``peak_mb``.
    """

    name: str
    label: str
    stage: str = "rlvr"
    edit: Edit | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Demonstration:
    """What the demo found.

    Attributes:
        table: One row an arm and split: accuracy with interval, and the paired comparison with the RLVR source.
        arms: One row an arm: what was edited, at what cost, perplexity on neutral text, and ``forget_worked``, the
            share of forget responses that work the problem out, rightly or wrongly.
        report: The page.
        verdict: One sentence with its numbers.
        settings: What made it.
    """

    table: pd.DataFrame
    arms: pd.DataFrame
    report: Path
    verdict: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The one table, for a terminal."""
        return f"{summary_text(self.table, self.arms)}\n\n{self.verdict}\n\nThe page with every figure: {self.report}"

    @property
    def summary(self) -> dict[str, Any]:
        """The same, for a machine."""
        return {
            "verdict": self.verdict,
            "table": self.table.to_dict("records"),
            "arms": self.arms.to_dict("records"),
            "report": str(self.report),
        }


@takes(DemoCommandSettings)
def demo(settings: DemoCommandSettings) -> Demonstration:
    """Run the whole method on the shipped organism and write every table, the edits, and ``report.html``.

    Coupling, ranking and unlearning read the train files only; the strength of each arm is chosen on the
    calibration files; the eval files are read once at the end, to report. Run again, it continues where it stopped.
    """
    return _demonstrate(settings, settings.settings or DemoSettings())


def _demonstrate(asked: DemoCommandSettings, settings: DemoSettings) -> Demonstration:
    out, seed, device, overwrite, progress = Path(asked.out), asked.seed, asked.device, asked.overwrite, asked.progress
    folder = Path(asked.lineage) if asked.lineage is not None else lineage_folder("qwen2")
    run = _Run(out, folder, settings, seed=seed, device=device, overwrite=overwrite, progress=progress)
    source = folder / "rlvr"
    files = {side: folder / f"{side}-train.jsonl" for side in ("forget", "retain")}
    common: dict[str, Any] = {"out": out, "overwrite": overwrite, "progress": progress}
    geometry(
        base=folder / "base", sft=folder / "sft", rlvr=source, rank=settings.rank, full=True, spectra=True, **common
    )
    couple(sft=folder / "sft", rlvr=source, **files, batch_size=32, device=device, dtype="float32", **common)
    ranking = rank(out, top=settings.top, overwrite=overwrite)
    sizes = dict(zip(ranking.table["name"], ranking.table["numel"].astype(int), strict=True))

    target = run.target(folder / "rlvr-retain")
    selected = run.matched("selected", f"MAST top {settings.top}", ranking.selected, target)
    everything = weight_matrices(run.checkpoint)
    arms = [
        DemoArm("rlvr", "RLVR (source)"),
        DemoArm("sft", "SFT", stage="sft"),
        DemoArm("rlvr-retain", "RLVR on retain only", stage="rlvr-retain"),
        selected,
        run.same_strength("all-same-strength", "all parameters, same strength", everything, selected),
        run.matched("all-matched", "all parameters, matched", everything, target),
        *(
            run.matched(
                f"random-{draw}",
                f"random, same size #{draw}",
                random_matched(sizes, ranking.selected, seed=seed * 1000 + draw),
                target,
            )
            for draw in range(1, settings.draws + 1)
        ),
        run.negated("negated", "increment negated", ranking.selected),
    ]
    evaluations = {arm.name: run.evaluate(arm) for arm in tqdm(arms, desc="evaluate", disable=not progress)}
    table = _compare_arms(arms, evaluations)
    details = pd.DataFrame([_describe(arm, run.perplexity(arm), evaluations[arm.name]) for arm in arms])
    write_table(out / SUMMARY, table)
    write_table(out / ARMS, details.drop(columns=["seconds", "peak_mb"]))
    return Demonstration(table, details, report(out), verdict_sentence(table, details), asdict(settings))


class _Run:
    """What all arms of a demo share: the model in memory, the encoded problems, the folder."""

    def __init__(
        self,
        out: Path,
        folder: Path,
        settings: DemoSettings,
        *,
        seed: int,
        device: str,
        overwrite: bool,
        progress: bool,
    ):
        self.out, self.folder, self.settings = out, folder, settings
        self.seed, self.device, self.overwrite, self.progress = seed, device, overwrite, progress
        self.bench = Bench(
            folder / "rlvr",
            train={side: folder / f"{side}-train.jsonl" for side in ("forget", "retain")},
            calibration={split: folder / f"{split}-calibration.jsonl" for split in SPLITS},
            decoding=DecodingSettings(settings.max_new_tokens, settings.evaluation_batch),
            neutral=folder / "neutral-eval.jsonl",
            device=device,
        )
        self.objective = make_objective(settings.objective, retain_weight=settings.retain_weight)

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that every arm edits."""
        return self.bench.checkpoint

    def target(self, path: Path) -> float:
        """Return the calibration forget accuracy of another stage: what unlearning aims at."""
        return self.bench.forget_accuracy(Checkpoint(path).load_model(device=self.device))

    def matched(self, name: str, label: str, names: list[str], target: float) -> DemoArm:
        """Return the arm at matched forgetting, from its folder if it is there already."""

        def compute() -> EditWithSteps:
            return matched_edit(
                self.bench,
                self.out / "arms" / name,
                names,
                self.objective,
                grid=self.settings.grid,
                target=target,
                retain=True,
                seed=self.seed,
                settings={"arm": name},
            )

        return self._edited(name, label, names, {"target": target}, compute)

    def same_strength(self, name: str, label: str, names: list[str], like: DemoArm) -> DemoArm:
        """Return the arm with the learning rate and number of steps of another."""
        lr, steps = float(like.details["lr"]), int(like.details["step"])

        def compute() -> EditWithSteps:
            model = self.bench.model
            with swapped(model, snapshot(model, names)):
                with measured() as cost:
                    records = list(
                        unlearning_steps(
                            model,
                            names,
                            self.objective,
                            self.bench.forget,
                            self.bench.retain,
                            lr=lr,
                            steps=steps,
                            batch_size=self.settings.grid.batch_size,
                            seed=self.seed,
                        )
                    )
                edit, _ = make_edit(self.checkpoint, model, names, {"arm": name, "lr": lr, "steps": steps})
            notes = {"lr": lr, "step": steps, "seconds": cost.seconds, "peak_mb": cost.peak_mb}
            return edit, pd.DataFrame([{"lr": lr, **asdict(record)} for record in records]), notes

        return self._edited(name, label, names, {"lr": lr, "steps": steps}, compute)

    def negated(self, name: str, label: str, names: list[str]) -> DemoArm:
        """Return the arm whose selected tensors are SFT's again."""

        def compute() -> EditWithSteps:
            return edit_without_gradient(
                negate(sft=self.folder / "sft", rlvr=self.checkpoint, names=names, progress=False)
            )

        return self._edited(name, label, names, {"scale": 1.0}, compute)

    def _edited(
        self, name: str, label: str, names: list[str], settings: dict[str, Any], compute: Callable[[], EditWithSteps]
    ) -> DemoArm:
        if self.progress:
            tqdm.write(f"{label} ...")
        edit, details = kept_edit(
            self.out / "arms" / name,
            compute,
            checkpoint=self.checkpoint,
            inputs=self.bench.inputs,
            settings={**asdict(self.settings), **settings, "seed": self.seed, "names": sha256_json(names)},
            device=self.device,
            overwrite=self.overwrite,
        )
        return DemoArm(name, label, edit=edit, details=details)

    def evaluate(self, arm: DemoArm) -> Evaluation:
        """Open the eval files for this arm."""
        return evaluate(
            model=self.folder / arm.stage,
            edit=arm.edit,
            splits={split: self.folder / f"{split}-eval.jsonl" for split in SPLITS},
            max_new_tokens=self.settings.max_new_tokens,
            batch_size=self.settings.evaluation_batch,
            device=self.device,
            dtype="float32",
            out=self.out / "arms" / arm.name,
            overwrite=self.overwrite,
            progress=False,
        )

    def perplexity(self, arm: DemoArm) -> float:
        """Return perplexity on neutral text."""
        model = self.bench.model
        if arm.stage != "rlvr":
            model = Checkpoint(self.folder / arm.stage).load_model(device=self.device)
        with swapped(model, arm.edit.after if arm.edit else {}):
            return self.bench.perplexity(model)


def _describe(arm: DemoArm, perplexity: float, evaluation: Evaluation) -> dict[str, Any]:
    responses = evaluation.table.loc[evaluation.table["split"] == "forget", "response"]
    keys = ("tensors", "parameters", "lr", "step", "reached", "seconds", "peak_mb")
    return {
        "arm": arm.name,
        "label": arm.label,
        "perplexity": perplexity,
        "forget_worked": float((responses.map(response_style) == "worked").mean()),
        **{key: arm.details.get(key) for key in keys},
    }


def _compare_arms(arms: list[DemoArm], evaluations: dict[str, Evaluation]) -> pd.DataFrame:
    """Return one row an arm and split, ``retain`` being the two retain splits together."""
    tables = []
    for arm in arms:
        pooled = [_with_pooled_retain(evaluations[name].table) for name in ("rlvr", arm.name)]
        paired = compare_tables(pooled[0], pooled[1]).table
        accuracy = Evaluation(pooled[1]).accuracy.set_index("split").loc[paired["split"]].reset_index()
        tables.append(
            pd.DataFrame(
                {
                    "arm": arm.name,
                    "label": arm.label,
                    "split": paired["split"],
                    "n": paired["n"],
                    "accuracy": paired["after"],
                    "accuracy_low": accuracy["ci_low"],
                    "accuracy_high": accuracy["ci_high"],
                    "b": paired["b"],
                    "c": paired["c"],
                    "mcnemar_p": paired["mcnemar_p"],
                    "difference": paired["difference"],
                    "ci_low": paired["ci_low"],
                    "ci_high": paired["ci_high"],
                    "truncated": accuracy["truncated"],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _with_pooled_retain(table: pd.DataFrame) -> pd.DataFrame:
    """Add the split ``retain``: both retain splits, and its parts by whether SFT already solved the subject."""
    from mastlens.organisms.subjects import SOLVED_BY_SFT

    kept = table[table["split"].isin(["retain-math", "retain-gsm"])]
    kept = kept.assign(item=range(len(kept)))
    solved = kept["subject"].isin(SOLVED_BY_SFT)
    parts = dict(zip(("retain", *PARTS), (kept, kept[solved], kept[~solved]), strict=True))
    return pd.concat([table, *(part.assign(split=name) for name, part in parts.items())], ignore_index=True)
