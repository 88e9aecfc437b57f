"""One attack on one edit: the edited model, the source and a control under the same attack, measured alike."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from mastlens.attacks.codes import predict_codes
from mastlens.attacks.measuring import restored
from mastlens.attacks.prompting import PREFILLS
from mastlens.attacks.quantising import DEFAULT_FORMATS, find_format
from mastlens.attacks.recovery import CONTROL, EDITED, SOURCE, summarise_attack
from mastlens.attacks.relearning import check_training, halves
from mastlens.attacks.trials import Trial, try_prompts, try_quantising, try_relearning
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.generation import check_generation
from mastlens.edits.edit import Edit
from mastlens.errors import BadSetting, NotTogether, unknown
from mastlens.models.weights import swapped
from mastlens.problems.encoding import check_tokenizer
from mastlens.problems.reading import Problem, read_problems
from mastlens.runs.files import sha256_json, sha256_tensor, write_table
from mastlens.runs.stages import hash_inputs, remembered

if TYPE_CHECKING:
    import plotly.graph_objects as go

FILE, ITEMS, TENSORS = "attack.parquet", "attack_items.parquet", "attack_tensors.parquet"
RELEARN = ("relearn-forget", "relearn-retain", "relearn-rlvr")
ATTACKS = (*RELEARN, "quantise", "prompts")
HELD_OUT = "train-held-out"
"""The split of those --train problems that ``relearn-forget`` does not train on."""
DEFAULT_LR = {"relearn-forget": 1e-5, "relearn-retain": 1e-5, "relearn-rlvr": 1e-6}


@dataclass(frozen=True)
class Attack:
    """What an attack brought back.

    Attributes:
        table: One row a variant, model, step and split; the columns are described at ``summarise_attack``.
        items: One row an item of these: ``attack``, ``variant``, ``model``, ``step``, ``split``, ``baseline``, and
            what ``measure`` returns.
        tensors: For ``quantise`` with an edit, what ``code_changes`` returns; else empty.
        settings: What made it.
    """

    table: pd.DataFrame
    items: pd.DataFrame
    tensors: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def plot(self) -> "go.Figure":
        """Draw a curve over the steps, or accuracy by variant."""
        from mastlens.plots.attacks import plot_attack_variants, plot_relearning

        curve = self.settings["attack"] in RELEARN
        return plot_relearning(self.table) if curve else plot_attack_variants(self.table)

    def plot_tensors(self) -> "go.Figure":
        """Draw the share of edited entries whose quantised code differs, tensor by tensor."""
        from mastlens.plots.attacks import plot_code_changes

        return plot_code_changes(self.tensors)


@dataclass(frozen=True)
class _Target:
    """A model under attack: its part in the comparison, its checkpoint, and what is put into it."""

    role: str
    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]


def attack(
    name: str,
    *,
    model: "str | os.PathLike[str] | Checkpoint",
    splits: Mapping[str, str | os.PathLike[str]],
    edit: "str | os.PathLike[str] | Edit | None" = None,
    source: "str | os.PathLike[str] | Checkpoint | None" = None,
    control: "str | os.PathLike[str] | Checkpoint | None" = None,
    train: str | os.PathLike[str] | None = None,
    retain: str | os.PathLike[str] | None = None,
    steps: int = 64,
    lr: float | None = None,
    train_batch_size: int = 8,
    formats: Sequence[str] = DEFAULT_FORMATS,
    embeddings: bool = False,
    shots: Sequence[int] = (1, 4),
    prefills: Sequence[float] = PREFILLS,
    limit: int | None = None,
    max_new_tokens: int = 1024,
    batch_size: int = 32,
    chat_template: bool = True,
    seed: int = 0,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Attack:
    """Attack an edited model and see how much of what it forgot comes back.

    The same attack is run on the edited model, on the model before the edit, and on a control that was never trained
    on the skill, so that what the attack teaches is told from what it uncovers: a control that gains as much shows
    that the attack hands the skill over, as the beginning of a solution can. No checkpoint or edit is written to.

    Args:
        name: ``relearn-forget`` fine-tunes on one half of ``train`` and tests the other half too, as the split
            ``train-held-out``; ``relearn-retain`` on all of ``train`` (benign problems); ``relearn-rlvr`` rewards right
            answers to ``train`` by GRPO, solutions unseen; ``quantise`` rounds the weights; ``prompts`` asks otherwise.
        model: The checkpoint that the edit was made for; without ``edit``, the edited model itself.
        splits: Name to problem file: what is tested.
        edit: The edit to attack.
        source: Without ``edit``, the model before it was edited; None to compare with none.
        control: A model without the skill, e.g. the SFT checkpoint.
        train: Problems that the attacker has; for ``prompts`` they are shown as examples, if given.
        retain: For ``prompts``, harmless problems to show as examples, if given.
        steps: Steps of relearning; measured at 0, 1, 2, 4, 8, ... and the last.
        lr: Learning rate of relearning; 1e-5, for ``relearn-rlvr`` 1e-6, where none is given.
        train_batch_size: Problems a step of relearning.
        formats: Formats of ``quantise``, keys of ``FORMATS``.
        embeddings: Whether ``quantise`` also rounds token embeddings and output head.
        shots: Numbers of examples that ``prompts`` shows.
        prefills: Shares of the reference solution that ``prompts`` begins the response with.
        limit: Test only the first problems of each split; None for all.
        max_new_tokens: Where a response is cut off.
        batch_size: Items a batch when testing.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        seed: Decides halves, batches, samples and the bootstrap.
        device: Where to compute.
        out: Folder for ``attack.parquet``, ``attack_items.parquet`` and, for ``quantise``, ``attack_tensors.parquet``;
            None to write nothing. One folder holds one attack.
        overwrite: Replace an attack with other inputs or settings.
        progress: Show a progress bar.

    Raises:
        MastlensError: If there is no such attack, what it needs is missing, or a problem is both trained on and tested.
    """
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    if not splits:
        raise BadSetting("There is nothing to test the attack on: give --split NAME=FILE at least once.")
    check_generation(max_new_tokens, batch_size)
    if limit is not None and limit < 1:
        raise BadSetting(f"--limit is at least 1, it is {limit}.")
    settings: dict[str, Any] = {"attack": name, "limit": limit, "max_new_tokens": max_new_tokens}
    settings |= {"chat_template": chat_template, "seed": seed}
    if name in RELEARN:
        if train is None:
            raise BadSetting(f"{name} needs problems to train on: --train FILE.")
        lr = DEFAULT_LR[name] if lr is None else lr
        check_training(lr=lr, steps=steps, batch_size=train_batch_size)
        settings |= {"steps": steps, "lr": lr, "train_batch_size": train_batch_size}
    elif name == "quantise":
        settings |= {"formats": [find_format(one).name for one in formats], "embeddings": embeddings}
    else:
        settings |= {"shots": list(shots), "prefills": list(prefills)}
    targets = _targets(model, edit, source, control)
    used = {"train": train if name != "quantise" else None, "retain": retain if name == "prompts" else None}
    inputs: dict[str, Any] = hash_inputs({**{f"split {k}": v for k, v in splits.items()}, **used})
    inputs["edit"] = sha256_json({n: sha256_tensor(t) for one in targets for n, t in one.tensors.items()})

    outputs = [FILE, ITEMS, *([TENSORS] if name == "quantise" and targets[0].tensors else [])]

    def compute() -> Attack:
        tested = {split: read_problems(path)[:limit] for split, path in splits.items()}
        shown = {key: read_problems(path) for key, path in used.items() if path is not None}
        if name == "relearn-forget":
            shown["train"], other = halves(shown["train"], seed)
            tested[HELD_OUT] = other[:limit]
        for key, problems in shown.items():
            _check_untested(key, problems, tested)
        sources = {split: str(path) for split, path in splits.items()} | {HELD_OUT: str(train)}
        tables: list[pd.DataFrame] = []
        with tqdm(desc=name, unit="test", disable=not progress) as bar:
            for _, group in groupby(targets, key=lambda one: one.checkpoint.fingerprint):
                alike = list(group)  # the edited model and its source are one model, loaded once
                checkpoint = alike[0].checkpoint
                loaded, tokenizer = checkpoint.load_model(device=device), checkpoint.load_tokenizer()
                for problems in (*tested.values(), *shown.values()):
                    check_tokenizer(tokenizer, problems, checkpoint.spec)
                for target in alike:
                    trial = Trial(
                        name, target.role, loaded, tokenizer, tested, sources, settings, batch_size, bar, tables
                    )
                    kept = restored(loaded) if name in RELEARN else nullcontext()
                    with kept, swapped(loaded, target.tensors):
                        if name in RELEARN:
                            try_relearning(trial, shown["train"])
                        elif name == "quantise":
                            try_quantising(trial, checkpoint)
                        else:
                            try_prompts(trial, shown)
        items = pd.concat(tables, ignore_index=True)
        tensors = pd.DataFrame()
        if TENSORS in outputs:
            chosen = [find_format(one) for one in formats]
            tensors = predict_codes(targets[0].checkpoint, targets[0].tensors, chosen, embeddings=embeddings)
        return Attack(summarise_attack(items, seed=seed), items, tensors, settings)

    def write(result: Attack, folder: Path) -> None:
        for file, table in zip(outputs, (result.table, result.items, result.tensors), strict=False):
            write_table(folder / file, table)

    def read(folder: Path) -> Attack:
        tables = [pd.read_parquet(folder / file) for file in outputs]
        return Attack(tables[0], tables[1], tables[2] if len(tables) > 2 else pd.DataFrame(), settings)

    return remembered(
        out,
        "attack",
        outputs=outputs,
        lineage={("model" if one.role == EDITED else one.role): one.checkpoint.fingerprint for one in targets},
        inputs=inputs,
        settings=settings,
        device=device,
        overwrite=overwrite,
        compute=compute,
        write=write,
        read=read,
    )


def _targets(
    model: "str | os.PathLike[str] | Checkpoint",
    edit: "str | os.PathLike[str] | Edit | None",
    source: "str | os.PathLike[str] | Checkpoint | None",
    control: "str | os.PathLike[str] | Checkpoint | None",
) -> list[_Target]:
    """Return the edited model, the source and the control, those that there are."""
    checkpoint = Checkpoint(model)
    targets = [_Target(EDITED, checkpoint, {})]
    if edit is not None:
        if source is not None:
            raise BadSetting("Give --edit, whose source is --model, or --source with an edited --model; not both.")
        edit = Edit.load(edit) if isinstance(edit, str | os.PathLike) else edit
        edit.check_source(checkpoint)
        targets = [_Target(EDITED, checkpoint, edit.after), _Target(SOURCE, checkpoint, {})]
    elif source is not None:
        targets.append(_Target(SOURCE, Checkpoint(source), {}))
    if control is not None:
        targets.append(_Target(CONTROL, Checkpoint(control), {}))
    return targets


def _check_untested(key: str, problems: Sequence[Problem], tested: Mapping[str, Sequence[Problem]]) -> None:
    for split, others in tested.items():
        shared = {p.problem for p in problems} & {p.problem for p in others}
        if shared:
            raise NotTogether(
                f"{len(shared)} problems of --{key} are also in the split {split!r}, e.g. {min(shared)[:80]!r}: what "
                "the attacker was shown proves nothing. Test on others."
            )
