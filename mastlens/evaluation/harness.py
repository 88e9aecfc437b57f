"""Tasks of lm-evaluation-harness on a model in memory, with an edit swapped in: no edited checkpoint is written.

Its limits are its own: generation ends at 256 tokens where a task sets nothing, and ``hendrycks_math`` reads the text
between the first and the last dollar sign, which is near 0 for models that box their answers
(EleutherAI/lm-evaluation-harness #3475); ``minerva_math`` grades with math-verify.
"""

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.decoding.generation import end_tokens
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting, MissingPackage, unknown
from mastlens.evaluation.settings import EvaluateSettings, HarnessTasks
from mastlens.problems.templates import dated_template
from mastlens.runs.calls import make
from mastlens.runs.files import sha256_file, sha256_json
from mastlens.runs.settings import FilePath
from mastlens.runs.tables import Kept

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
    tasks: Sequence[str],
    task_folder: FilePath | None = None,
    shots: int | None = None,
    limit: int | None = None,
    think_end: str | None = None,
    batch_size: int = 8,
    **settings: Any,
) -> HarnessScores:
    """Run tasks of lm-evaluation-harness: ``evaluate`` with nothing else to evaluate on.

    Args:
        tasks: Names of tasks or groups.
        task_folder: Folder of task files (YAML) beside the harness' own.
        shots: Worked examples; each task's own number by default.
        limit: Only the first items of each task: to try things out.
        think_end: What ends the thinking, e.g. ``</think>``: only what follows it is graded.
        batch_size: Items a batch.
        **settings: Of ``evaluate``: ``model``, ``edit``, ``max_new_tokens`` (each task's own by default),
            ``chat_template``, ``seed``, ``device``, ``out``, ``overwrite``.

    Raises:
        MastlensError: If lm-eval is not installed, or a task does not exist.
    """
    chosen = HarnessTasks(tasks=tuple(tasks), task_folder=task_folder, shots=shots, limit=limit, think_end=think_end)
    return run_harness(make(EvaluateSettings, (), {**settings, "batch_size": batch_size, "harness": chosen}), chosen)


def run_harness(asked: EvaluateSettings, chosen: HarnessTasks) -> HarnessScores:
    """Run the harness' tasks of an evaluation; raises as ``harness_scores``."""
    if not chosen.tasks:
        raise BadSetting("There is nothing to run: name at least one task of lm-evaluation-harness (--harness).")
    tested = EditedCheckpoint.open(asked.model, asked.edit)
    folder = chosen.task_folder
    computing = asked.computing(tested.checkpoint)
    settings: dict[str, Any] = {
        "dtype": computing.dtype,
        "tasks": list(chosen.tasks),
        "shots": chosen.shots,
        "limit": asked.limit if chosen.limit is None else chosen.limit,
        "max_new_tokens": asked.max_new_tokens,
        "think_end": chosen.think_end,
        "chat_template": asked.chat_template,
        "seed": asked.seed,
        **({"system_prompt": asked.system_prompt} if asked.system_prompt else {}),
    }
    inputs = {}
    if folder is not None:
        inputs["task_folder"] = sha256_json({p.name: sha256_file(p) for p in sorted(Path(folder).rglob("*.y*ml"))})

    def compute() -> HarnessScores:
        with tested.loaded(computing) as (loaded, tokenizer):
            found = run_tasks(loaded, tokenizer, settings, task_folder=folder, batch_size=asked.batch_size)
        return HarnessScores(*_tables(found), settings)

    kept = Kept(HarnessScores, {"table": FILE, "items": ITEMS})
    return tested.remembered("harness", kept, asked, settings=settings, inputs=inputs, compute=compute)


def run_tasks(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    settings: dict[str, Any],
    *,
    task_folder: str | os.PathLike[str] | None,
    batch_size: int | str,
) -> dict[str, Any]:
    """Return what ``lm_eval.simple_evaluate`` returns for a model in memory; ``settings`` as in ``harness_scores``."""
    try:
        lm_eval: Any = importlib.import_module("lm_eval")
        wrapper: Any = importlib.import_module("lm_eval.models.huggingface").HFLM
        manager = _task_manager(tuple(settings["tasks"]), None if task_folder is None else str(task_folder))
    except ImportError as error:
        raise MissingPackage(
            "Tasks of lm-evaluation-harness (--harness) need it installed: pip install 'mastlens[lm-eval]'."
        ) from error
    for task in settings["tasks"]:
        if not manager.match_tasks([task]):
            raise unknown("task of lm-evaluation-harness", task, manager.all_tasks)
    templated = bool(settings["chat_template"] and tokenizer.chat_template)
    wrapped = wrapper(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        think_end_token=settings["think_end"],
        chat_template_args={"chat_template": dated_template(tokenizer)} if templated else None,
    )
    most = settings["max_new_tokens"]
    with _own_generation(model, tokenizer):
        found = lm_eval.simple_evaluate(
            model=wrapped,
            tasks=list(settings["tasks"]),
            num_fewshot=settings["shots"],
            limit=settings["limit"],
            gen_kwargs=None if most is None else {"max_gen_toks": most},
            apply_chat_template=templated,
            system_instruction=settings.get("system_prompt"),
            task_manager=manager,
            bootstrap_iters=0,  # the items are kept: intervals come from them, paired
            log_samples=True,
            random_seed=settings["seed"],
            numpy_random_seed=settings["seed"],
            torch_random_seed=settings["seed"],
            fewshot_random_seed=settings["seed"],
        )
    return dict(found)


def _task_manager(tasks: tuple[str, ...], folder: str | None) -> Any:
    """Return what finds these tasks. The harness' own thousands are read, in 20 s, only where they are asked for."""
    manager = importlib.import_module("lm_eval.tasks").TaskManager
    if folder is not None:
        own = manager(include_path=folder, include_defaults=False)
        if set(tasks) <= set(own.all_subtasks):  # a group may name tasks of the harness
            return own
    return manager(include_path=folder)


@contextmanager
def _own_generation(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> Iterator[None]:
    """Leave out what the checkpoint's generation config asks for besides its ends: penalties would change greedy text.

    A task's own generation settings still count: they are part of the task.
    """
    from transformers import GenerationConfig

    stated = model.generation_config
    pad = getattr(stated, "pad_token_id", None)
    model.generation_config = GenerationConfig(
        bos_token_id=getattr(stated, "bos_token_id", None),
        eos_token_id=end_tokens(model, tokenizer),
        pad_token_id=tokenizer.pad_token_id if pad is None else pad,
    )
    try:
        yield
    finally:
        model.generation_config = stated


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
