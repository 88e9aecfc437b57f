"""``organism prm``: a small process reward model of a lineage's arithmetic steps, in the form of Qwen2.5-Math-PRM."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import BadSetting, StageRefused
from mastlens.evaluation.process.model import CUT as CUT_KEY
from mastlens.evaluation.process.model import MARKER, encode, marked
from mastlens.organisms import get_organism, rlvr_recipe
from mastlens.organisms.build import check_trainers, own_randomness
from mastlens.organisms.faults import CUT, Labelled, labelled_solutions
from mastlens.organisms.posttraining import quiet_training
from mastlens.organisms.settings import TrainPRMSettings
from mastlens.organisms.subjects import SUBJECTS
from mastlens.runs.calls import takes
from mastlens.runs.files import atomic_path, remove_leftovers, write_json, write_text
from mastlens.statistics import share_interval

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CARD = "prm.json"
"""In the model's folder: what it was made from, and how well it tells right steps from wrong ones."""

_LABEL = {0: "wrong", 1: "right"}


@takes(TrainPRMSettings)
def organism_prm(settings: TrainPRMSettings) -> Path:
    """Train a token classifier on a lineage's steps, from its SFT model, and write it, complete or not at all.

    Solutions come from the training region, half of them with a fault that is carried on; a step is right where it and
    all before it are. ``prm.json`` says how often it is right on the calibration and evaluation regions, beside what
    always naming the commoner class gives, with intervals over problems.

    Returns:
        The folder, in Hugging Face's format; ``--prm`` takes it.

    Raises:
        MastlensError: If the lineage has no arithmetic, ``out`` holds something, or TRL's extra is not installed.
    """
    numbers = rlvr_recipe(settings.name)
    if settings.out is None:
        raise BadSetting("Say where the process reward model is written to: --out DIR.")
    if settings.steps < 1 or settings.items < 1 or not settings.lr > 0:
        raise BadSetting("Steps and items are at least 1, and the learning rate is above 0.")
    check_trainers()
    out = Path(settings.out)
    remove_leftovers(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise StageRefused(f"{out} exists already. Choose another folder, or remove it first.")
    start = Checkpoint(f"organism:{settings.name}/{get_organism(settings.name).roles['sft']}")
    if settings.model is not None:
        start = Checkpoint(settings.model)
    subjects = [one.name for one in SUBJECTS]

    def draw(count: int, where: str) -> list[Labelled]:
        return labelled_solutions(subjects, count, where, settings.seed, guess_right=numbers.guess_right)

    with atomic_path(out) as folder, own_randomness():
        model, tokenizer = classifier(start, settings.seed)
        fit(model, tokenizer, draw(settings.steps * settings.batch_size, "train"), settings)
        regions = {where: draw(settings.items, where) for where in ("calibration", "eval")}
        rows = [{"region": where, **measured(model, tokenizer, given)} for where, given in regions.items()]
        with quiet_training():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        told = {
            "lineage": settings.name,
            "from": start.fingerprint,
            **{key: getattr(settings, key) for key in ("seed", "steps", "batch_size", "lr", "items")},
            "accuracy": rows,
        }
        write_json(folder / CARD, told)
        write_text(folder / "README.md", readme(told))
    return out


def classifier(start: Checkpoint, seed: int) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Return a token classifier with a checkpoint's body, and its tokenizer with the marker of steps added.

    Args:
        start: The checkpoint of a causal language model.
        seed: Of the head, which begins at random.
    """
    import torch
    from transformers import AutoModelForTokenClassification

    torch.manual_seed(seed)
    tokenizer = start.load_tokenizer()
    tokenizer.add_tokens([MARKER], special_tokens=True)
    with quiet_training():
        model = AutoModelForTokenClassification.from_pretrained(
            start.folder, num_labels=2, id2label=_LABEL, label2id={v: k for k, v in _LABEL.items()}, dtype=torch.float32
        )
        model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().weight.shape[0]))
    setattr(model.config, CUT_KEY, CUT)
    return model, tokenizer


def rows_of(tokenizer: "PreTrainedTokenizerBase", given: Sequence[Labelled]) -> list[dict[str, list[int]]]:
    """Return tokens and labels of solutions: a label stands at each marker, and nothing (-100) elsewhere."""
    marker, rows = tokenizer.convert_tokens_to_ids(MARKER), []
    for one in given:
        ids, said = encode(tokenizer, one.problem.problem, one.steps), iter(one.right)
        rows.append({"input_ids": ids, "labels": [int(next(said)) if each == marker else -100 for each in ids]})
    return rows


def fit(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    given: Sequence[Labelled],
    settings: TrainPRMSettings,
) -> None:
    """Train in place with transformers' ``Trainer``: cross-entropy at the markers; TRL 1.16 has none for PRMs."""
    import tempfile

    from datasets import Dataset
    from transformers import DataCollatorForTokenClassification, PrinterCallback, Trainer, TrainingArguments

    from mastlens.organisms.posttraining import _common_arguments, _progress, _save_nothing

    with quiet_training(), tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            **_common_arguments(Path(scratch), settings.seed, keep=False),
            per_device_train_batch_size=settings.batch_size,
            max_steps=settings.steps,
            learning_rate=settings.lr,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, settings.steps // 10),
            logging_steps=10,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows_of(tokenizer, given)),
            data_collator=DataCollatorForTokenClassification(tokenizer),
            callbacks=[_progress("prm", settings.steps, {}, _save_nothing)] if settings.progress else [],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()


def measured(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", given: Sequence[Labelled]
) -> dict[str, Any]:
    """Return how well steps are told apart, with the null beside it.

    ``solutions``, ``steps``, ``accuracy`` at a half with ``low`` and ``high`` (over problems), ``null`` (always naming
    the commoner class), ``auc`` (0.5 by chance), ``first_fault`` (of faulty solutions the share whose first wrong step
    is the first that scores below a half) and ``first_fault_null`` (one step named at random).
    """
    scores: list[list[float]] = []
    for start in range(0, len(given), 32):
        rows = [encode(tokenizer, one.problem.problem, one.steps) for one in given[start : start + 32]]
        scores += marked(model, tokenizer, rows)
    said, right = np.concatenate([np.array(one) for one in scores]), np.concatenate([one.right for one in given])
    units = np.repeat(np.arange(len(given)), [len(one.steps) for one in given])
    correct = (said >= 0.5) == right
    interval = share_interval(correct, clusters=units)
    worked = [
        (one, score) for one, score in zip(given, scores, strict=True) if len(one.steps) > 1 and not all(one.right)
    ]
    found = [_first([each < 0.5 for each in score]) == one.right.index(False) for one, score in worked]
    return {
        "solutions": len(given),
        "steps": len(right),
        "accuracy": float(correct.mean()),
        "low": interval.low,
        "high": interval.high,
        "null": float(max(right.mean(), 1 - right.mean())),
        "auc": area(said, right),
        "first_fault": float(np.mean(found)) if found else float("nan"),
        "first_fault_null": float(np.mean([1 / len(one.steps) for one, _ in worked])) if worked else float("nan"),
    }


def _first(places: Sequence[bool]) -> int:
    return next((number for number, there in enumerate(places) if there), -1)


def area(scores: np.ndarray, right: np.ndarray) -> float:
    """Return the chance that a right step scores above a wrong one, ties half; NaN where there is only one kind."""
    from scipy.stats import rankdata

    many, few = int(right.sum()), int((~right.astype(bool)).sum())
    if not many or not few:
        return float("nan")
    return float((rankdata(scores)[right.astype(bool)].sum() - many * (many + 1) / 2) / (many * few))


def readme(told: dict[str, Any]) -> str:
    """Return the folder's card."""
    lines = [
        f"# Process reward model of organism:{told['lineage']}",
        "",
        f"A token classifier on the lineage's SFT model, trained {told['steps']} steps of {told['batch_size']} worked "
        f"solutions, half of them with a fault. The score of a step is the probability of the positive class at "
        f"`{MARKER}` behind it (Qwen2.5-Math-PRM's form); a step is right where it and all before it are.",
        "",
        "| region | steps | right % | commoner class % | AUC | first fault % | at random % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in told["accuracy"]:
        shares = " | ".join(f"{100 * row[key]:.1f}" for key in ("accuracy", "null"))
        faults = " | ".join(f"{100 * row[key]:.1f}" for key in ("first_fault", "first_fault_null"))
        lines.append(f"| {row['region']} | {row['steps']:,} | {shares} | {row['auc']:.3f} | {faults} |")
    return "\n".join([*lines, "", "Faults are drawn, not a model's own: those of a policy may be told less well.", ""])
