"""Tasks of lm-evaluation-harness on a model in memory, with an edit swapped in: no edited checkpoint is written.

Its limits are its own: generation ends at 256 tokens where a task sets nothing, and ``hendrycks_math`` reads the text
between the first and the last dollar sign, which is near 0 for models that box their answers
(EleutherAI/lm-evaluation-harness #3475); ``minerva_math`` grades with math-verify.
"""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.errors import BadSetting, MissingPackage, unknown
from mastlens.models.weights import swapped
from mastlens.runs.files import sha256_file, sha256_json, sha256_tensor, write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import remembered

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "harness.parquet"
ITEMS = "harness_items.parquet"


@dataclass(frozen=True)
class HarnessScores:
    """What the harness measured.

    Attributes:
        table: One row a task, metric and filter: ``task``, ``metric``, ``filter``, ``value``, ``n`` items, ``version``
            of the task.
        items: One row an item, metric and filter: ``task``, ``item``, ``metric``, ``filter``, ``value``, ``response``;
            what a paired test needs.
        settings: What made them.
    """

    table: pd.DataFrame
    items: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)


def harness_scores(
    *,
    model: "str | os.PathLike[str] | Checkpoint",
    tasks: Sequence[str],
    edit: "str | os.PathLike[str] | Edit | None" = None,
    task_folder: str | os.PathLike[str] | None = None,
    shots: int | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    think_end: str | None = None,
    batch_size: int = 8,
    chat_template: bool = True,
    seed: int = 0,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> HarnessScores:
    """Run tasks of lm-evaluation-harness.

    Args:
        model: The checkpoint.
        tasks: Names of tasks or groups.
        edit: An edit to apply in memory first.
        task_folder: Folder of task files (YAML) beside the harness' own.
        shots: Worked examples; each task's own number by default.
        limit: Only the first items of each task: to try things out.
        max_new_tokens: Where a response is cut off; each task's own by default.
        think_end: What ends the thinking, e.g. ``</think>``: only what follows it is graded.
        batch_size: Items a batch.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        seed: Of the draw of worked examples.
        device: Where to compute.
        out: Folder for ``harness.parquet`` and ``harness_items.parquet``; None to write nothing.
        overwrite: Replace scores of something else.

    Raises:
        MastlensError: If lm-eval is not installed, or a task does not exist.
    """
    if not tasks:
        raise BadSetting("There is nothing to run: name at least one task of lm-evaluation-harness (--harness).")
    checkpoint = Checkpoint(model)
    if isinstance(edit, str | os.PathLike):
        edit = Edit.load(edit)
    if edit is not None:
        edit.check_source(checkpoint)
    settings: dict[str, Any] = {
        "tasks": list(tasks),
        "shots": shots,
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "think_end": think_end,
        "chat_template": chat_template,
        "seed": seed,
    }
    inputs = {}
    if edit is not None:
        inputs["edit"] = sha256_json({name: sha256_tensor(t) for name, t in edit.after.items()})
    if task_folder is not None:
        inputs["task_folder"] = sha256_json({p.name: sha256_file(p) for p in sorted(Path(task_folder).rglob("*.y*ml"))})

    def compute() -> HarnessScores:
        loaded, tokenizer = checkpoint.load_model(device=device), checkpoint.load_tokenizer()
        with swapped(loaded, edit.after if edit is not None else {}):
            found = run_tasks(loaded, tokenizer, settings, task_folder=task_folder, batch_size=batch_size)
        return HarnessScores(*_tables(found), settings)

    def write(result: HarnessScores, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        write_table(folder / ITEMS, result.items)

    return remembered(
        out,
        "harness",
        outputs=[FILE, ITEMS],
        lineage={"model": checkpoint.fingerprint},
        behaviour={"model": checkpoint.behaviour},
        inputs=inputs,
        settings=settings,
        device=device,
        overwrite=overwrite,
        compute=compute,
        write=write,
        read=lambda folder: HarnessScores(read_table(folder / FILE), read_table(folder / ITEMS), settings),
    )


def run_tasks(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    settings: dict[str, Any],
    *,
    task_folder: str | os.PathLike[str] | None,
    batch_size: int,
) -> dict[str, Any]:
    """Return what ``lm_eval.simple_evaluate`` returns for a model in memory; ``settings`` as in ``harness_scores``."""
    try:
        lm_eval: Any = importlib.import_module("lm_eval")
        wrapper: Any = importlib.import_module("lm_eval.models.huggingface").HFLM
        manager: Any = importlib.import_module("lm_eval.tasks").TaskManager(
            include_path=None if task_folder is None else str(task_folder)
        )
    except ImportError as error:
        raise MissingPackage(
            "Tasks of lm-evaluation-harness (--harness) need it installed: pip install 'mastlens[lm-eval]'."
        ) from error
    for task in settings["tasks"]:
        if not manager.match_tasks([task]):
            raise unknown("task of lm-evaluation-harness", task, manager.all_tasks)
    wrapped = wrapper(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, think_end_token=settings["think_end"]
    )
    most = settings["max_new_tokens"]
    found = lm_eval.simple_evaluate(
        model=wrapped,
        tasks=list(settings["tasks"]),
        num_fewshot=settings["shots"],
        limit=settings["limit"],
        gen_kwargs=None if most is None else {"max_gen_toks": most},
        apply_chat_template=bool(settings["chat_template"] and tokenizer.chat_template),
        task_manager=manager,
        bootstrap_iters=0,  # the items are kept: intervals come from them, paired
        log_samples=True,
        random_seed=settings["seed"],
        numpy_random_seed=settings["seed"],
        torch_random_seed=settings["seed"],
        fewshot_random_seed=settings["seed"],
    )
    return dict(found)


def _tables(found: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores and the items as tidy tables."""
    scores, items = [], []
    for task, metrics in found["results"].items():
        counted = found["n-samples"].get(task, {}).get("effective")
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            row = {"task": task, "metric": metric, "filter": filtered, "value": float(value), "n": counted}
            scores.append(row | {"version": str(found["versions"].get(task, ""))})
    for task, samples in found["samples"].items():
        for sample in samples:
            for metric in sample["metrics"]:
                value = sample[metric]
                if isinstance(value, bool | int | float):
                    row = {"task": task, "item": sample["doc_id"], "metric": metric, "filter": sample["filter"]}
                    items.append(row | {"value": float(value), "response": str(sample["filtered_resps"])})
    return pd.DataFrame(scores), pd.DataFrame(items)
