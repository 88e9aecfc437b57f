"""One attack on one edit: the edited model, the source and a control under the same attack, measured alike."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from mastlens.attacks.answers import restored
from mastlens.attacks.catalogue import is_curve
from mastlens.attacks.halves import half_sentences, steps_to_half
from mastlens.attacks.method import AttackMethod
from mastlens.attacks.probing import probe_sentences
from mastlens.attacks.recovery import EDITED, summarise_attack
from mastlens.attacks.settings import AttackSettings, method_of, spelled_out
from mastlens.attacks.targets import check_targets, open_targets, originals_of
from mastlens.attacks.trials import Trial
from mastlens.decoding.generation import check_generation
from mastlens.decoding.graders import find_grader
from mastlens.decoding.graders import recorded as recorded_grader
from mastlens.errors import BadSetting, NotTogether
from mastlens.models.weights import swapped
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import check_tokenizer
from mastlens.problems.reading import Problem, read_problems
from mastlens.runs.calls import takes
from mastlens.runs.files import sha256_json, sha256_tensor, write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, remembered

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE, ITEMS, TENSORS = "attack.parquet", "attack_items.parquet", "attack_tensors.parquet"
HAS = ("train", "retain")
"""What an attacker can have."""


@dataclass(frozen=True, repr=False)
class Attack(Carded):
    """What an attack brought back.

    Attributes:
        table: One row a variant, model, step and split; the columns are described at ``summarise_attack``.
        items: One row an item of these: ``attack``, ``variant``, ``model``, ``step``, ``split``, ``baseline``, and
            what ``measure`` returns.
        tensors: What the attack says of the edit's tensors alone; of ``quantise``, what ``code_changes`` returns. Else
            empty.
        settings: What made it.
    """

    table: pd.DataFrame
    items: pd.DataFrame
    tensors: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import attack_card

        answered = bool(self.table["baseline"].any())
        told = half_sentences(self.halves) if answered else probe_sentences(self.table)
        return attack_card(self.table, self.settings, told)

    @property
    def halves(self) -> pd.DataFrame:
        """Of a curve, the step at which each model has half of the way back behind it; see ``steps_to_half``."""
        return steps_to_half(self.table)

    def plot(self) -> "go.Figure":
        """Draw a curve over the steps, or accuracy by variant."""
        from mastlens.plots.attacks import plot_attack_variants, plot_relearning

        curve = is_curve(self.settings["attack"], self.table)
        return plot_relearning(self.table) if curve else plot_attack_variants(self.table)

    def plot_tensors(self) -> "go.Figure":
        """Draw the share of edited entries whose quantised code differs, tensor by tensor."""
        from mastlens.plots.attacks import plot_code_changes

        return plot_code_changes(self.tensors)


@takes(AttackSettings)
def attack(settings: AttackSettings) -> Attack:
    """Attack an edited model and see how much of what it forgot comes back.

    The same attack is run on the edited model, on the model before the edit, and on a control that was never trained
    on the skill, so that what the attack teaches is told from what it uncovers: a control that gains as much shows
    that the attack hands the skill over, as the beginning of a solution can. A reference, retrained without what was
    to be forgotten, says how fast a model learns it that never knew it. No checkpoint or edit is written to.

    Writes ``attack.parquet``, ``attack_items.parquet`` and, for ``quantise``, ``attack_tensors.parquet``. One folder
    holds one attack. An attack is given by its name, as ``path/to/file.py:Name``, or as an object with its settings;
    ``describe_attacks`` lists those that there are.

    Raises:
        MastlensError: If there is no such attack, what it needs is missing, or a problem is both trained on and tested.
    """
    method = method_of(settings)
    settings = spelled_out(settings, method)
    splits, seed, limit = settings.splits, settings.seed, settings.limit
    if not splits:
        raise BadSetting("There is nothing to test the attack on: give --split NAME=FILE at least once.")
    check_generation(settings.max_new_tokens, settings.batch_size)
    used = {key: getattr(settings, key) if key in method.uses else None for key in HAS}
    for key in method.needs:
        if used[key] is None:
            raise BadSetting(f"{method.name} needs {method.uses[key]}: --{key} FILE.")
    recorded: dict[str, Any] = {"attack": method.name, "limit": limit, "max_new_tokens": settings.max_new_tokens}
    asking, grader = settings.asking, find_grader(settings.grader)
    recorded |= {**asking.record(), "seed": seed, **method.record(), **recorded_grader(grader)}
    targets = open_targets(settings.model, settings.edit, settings.source, settings.control, settings.reference)
    check_targets(method, targets)
    computing = settings.computing(*(one.checkpoint for one in targets))
    recorded["dtype"] = computing.dtype
    inputs: dict[str, Any] = hash_inputs({**{f"split {k}": v for k, v in splits.items()}, **used})
    inputs["edit"] = sha256_json({n: sha256_tensor(t) for one in targets for n, t in one.tensors.items()})

    with_tensors = bool(targets[0].tensors) and type(method).describe_edit is not AttackMethod.describe_edit
    outputs = [FILE, ITEMS, *([TENSORS] if with_tensors else [])]

    def compute() -> Attack:
        tested = {split: read_problems(path)[:limit] for split, path in splits.items()}
        has = {key: read_problems(path) for key, path in used.items() if path is not None}
        shown, held_out = method.hold_out(has, seed)
        tested |= {split: list(problems)[:limit] for split, problems in held_out.items()}
        for key, problems in shown.items():
            _check_untested(key, problems, tested)
        sources = {split: str(path) for split, path in splits.items()} | dict.fromkeys(held_out, str(settings.train))
        tables: list[pd.DataFrame] = []
        originals = originals_of(targets) if method.needs_source else {}
        with tqdm(desc=method.name, unit="test", disable=not settings.progress) as bar:
            for _, group in groupby(targets, key=lambda one: one.checkpoint.fingerprint):
                alike = list(group)  # the edited model and its source are one model, loaded once
                checkpoint = alike[0].checkpoint
                loaded, tokenizer = computing.load(checkpoint), checkpoint.load_tokenizer()
                for problems in (*tested.values(), *shown.values()):
                    check_tokenizer(tokenizer, problems, checkpoint.spec)
                for target in alike:
                    trial = Trial(
                        attack=method.name,
                        role=target.role,
                        checkpoint=checkpoint,
                        model=loaded,
                        tokenizer=tokenizer,
                        tested=tested,
                        sources=sources,
                        shown=shown,
                        max_new_tokens=settings.max_new_tokens,
                        grader=grader,
                        chat_template=asking,
                        seed=seed,
                        batch_size=settings.batch_size,
                        bar=bar,
                        tables=tables,
                        edited=tuple(targets[0].tensors),
                        originals=originals,
                    )
                    kept = restored(loaded) if method.trains else nullcontext()
                    with kept, swapped(loaded, target.tensors):
                        method.run(trial)
        items = pd.concat(tables, ignore_index=True)
        tensors = method.describe_edit(targets[0].checkpoint, targets[0].tensors) if with_tensors else None
        return Attack(summarise_attack(items), items, pd.DataFrame() if tensors is None else tensors, recorded)

    def write(result: Attack, folder: Path) -> None:
        for file, table in zip(outputs, (result.table, result.items, result.tensors), strict=False):
            write_table(folder / file, table)

    def read(folder: Path) -> Attack:
        tables = [read_table(folder / file) for file in outputs]
        return Attack(tables[0], tables[1], tables[2] if len(tables) > 2 else pd.DataFrame(), recorded)

    return remembered(
        settings.out,
        "attack",
        outputs=outputs,
        lineage={("model" if one.role == EDITED else one.role): one.checkpoint.fingerprint for one in targets},
        behaviour={("model" if one.role == EDITED else one.role): one.checkpoint.behaviour for one in targets},
        inputs=inputs,
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=read,
    )


def _check_untested(key: str, problems: Sequence[Problem], tested: Mapping[str, Sequence[Problem]]) -> None:
    for split, others in tested.items():
        shared = {p.problem for p in problems} & {p.problem for p in others}
        if shared:
            raise NotTogether(
                f"{len(shared)} problems of --{key} are also in the split {split!r}, e.g. {min(shared)[:80]!r}: what "
                "the attacker was shown proves nothing. Test on others."
            )
