"""What models say themselves, in the place of reference solutions: sampled once, kept, and learnt from token by token.

Of the SFT model on the forget side, of the model that is edited on the retain side. Token ids are kept beside the text:
a text need not come back as the tokens that were drawn.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.generation import Response
from mastlens.decoding.sampling import Sampling
from mastlens.errors import BadSetting, NotTogether
from mastlens.models.batching import by_length
from mastlens.models.likelihood import Head, counted_states
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import EncodedProblem, encode_prompt
from mastlens.problems.reading import Problem
from mastlens.runs.files import sha256_json
from mastlens.runs.ledger import Ledger
from mastlens.runs.reading import read_table
from mastlens.unlearning.objectives import Objective
from mastlens.unlearning.settings import OPTIMIZERS, OwnResponses, UnlearnSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "rewind.parquet"
PARTIAL = ".rewind.partial.jsonl"
COLUMNS = ("side", "item", "sample", "prompt", "response", "ids", "stopped", "digest")


@dataclass(frozen=True)
class Imitated:
    """What a model says at the tokens of some texts, as the states that its logits come from.

    Attributes:
        head: From states to logits; all that stays in memory of the model.
        states: For each text, the state that each of its counted tokens is predicted from, (tokens, hidden).
    """

    head: Head
    states: Sequence[Tensor]

    def logits(self, rows: Sequence[int]) -> Callable[[slice], Tensor]:
        """Return what gives the float32 logits of a slice of the counted tokens of some texts, in reading order."""
        states = torch.cat([self.states[row] for row in rows])

        @torch.no_grad()
        def of(part: slice) -> Tensor:
            return self.head(states[part]).float()

        return of


@dataclass(frozen=True)
class Said:
    """Responses of one model to the problems of one side.

    Attributes:
        encoded: Prompt and response as token ids, ``samples`` for each problem, side by side.
        rows: One row a response (``COLUMNS``).
    """

    encoded: list[EncodedProblem]
    rows: list[dict[str, Any]]


class Responses:
    """Responses sampled once under a seed; an interrupted run finds those that were finished.

    Args:
        tokenizer: Of the model that is edited.
        drawn: How they are drawn.
        seed: Decides them.
        chat: Whether prompts take the chat template, where there is one.
        out: The run's folder; None keeps nothing.
        key: All else that they hang on.
        given: ``rewind.parquet`` of an earlier run, whose responses are taken instead; None to draw them.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        drawn: OwnResponses,
        *,
        seed: int,
        chat: Asked,
        out: str | os.PathLike[str] | None,
        key: Any,
        given: str | os.PathLike[str] | None = None,
    ):
        self._given = None if given is None else (given, read_table(given, COLUMNS, maker="mastlens unlearn"))
        self.tokenizer, self.drawn, self.chat = tokenizer, drawn, chat
        self.decoding = Decoding(drawn.max_new_tokens, sampling=Sampling(drawn.temperature, seed=seed))
        self._path = None if out is None else Path(out) / PARTIAL
        self._key = sha256_json(key)

    def of(
        self,
        side: str,
        checkpoint: Checkpoint,
        problems: Sequence[Problem],
        load: "Callable[[], PreTrainedModel]",
        progress: bool,
    ) -> Said:
        """Return a model's responses to problems.

        Args:
            side: Which side they are for.
            checkpoint: The model.
            problems: What is asked.
            load: Brings the model to life, where there is something left to ask.
            progress: Whether to show how far it is.

        Raises:
            MastlensError: If its tokenizer is another: its responses would be other text.
        """
        self._check(checkpoint)
        if self._given is not None:
            return self._taken(side, checkpoint, problems)
        samples = range(self.drawn.samples)
        asked = {f"{side}/{item}/{sample}": (item, sample) for item in range(len(problems)) for sample in samples}
        prompts = [encode_prompt(problem.problem, self.tokenizer, chat_template=self.chat) for problem in problems]
        with Ledger(self._path, self._key) as ledger:
            kept = {name: ledger[name] for name in asked if name in ledger}
            missing = [name for name in asked if name not in kept]

            def keep(place: int, said: Response) -> None:
                kept[missing[place]] = [said.text, said.stopped, list(said.ids)]
                ledger.add(missing[place], kept[missing[place]])

            if missing:
                HuggingFaceEngine(load(), self.tokenizer).respond(
                    [prompts[asked[name][0]] for name in missing],
                    self.decoding,
                    names=missing,
                    finished=keep,
                    progress=f"{side} responses" if progress else None,
                )
        encoded, rows = [], []
        for name, (item, sample) in asked.items():
            text, stopped, ids = kept[name]
            encoded.append(EncodedProblem(prompts[item], tuple(ids)))
            values = (side, item, sample, self._shown(prompts[item]), text, ids, stopped, checkpoint.behaviour_digest)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        return Said(encoded, rows)

    def _taken(self, side: str, checkpoint: Checkpoint, problems: Sequence[Problem]) -> Said:
        """Return the responses of an earlier run, if they are this model's to these problems."""
        assert self._given is not None
        path, table = self._given
        rows = table[table["side"] == side].sort_values(["item", "sample"], kind="stable").to_dict("records")
        prompts = [encode_prompt(problem.problem, self.tokenizer, chat_template=self.chat) for problem in problems]
        shown = {item: self._shown(prompt) for item, prompt in enumerate(prompts)}
        if {row["item"]: row["prompt"] for row in rows} != shown:
            raise NotTogether(
                f"{path} holds responses to other {side} problems than those given. Draw them anew: leave "
                "--responses out."
            )
        if any(row["digest"] != checkpoint.behaviour_digest for row in rows):
            raise NotTogether(
                f"The {side} responses in {path} are another model's than {checkpoint.spec}. Draw them anew: leave "
                "--responses out."
            )
        encoded = [EncodedProblem(prompts[row["item"]], tuple(map(int, row["ids"]))) for row in rows]
        return Said(encoded, [{str(key): value for key, value in row.items()} for row in rows])

    def _shown(self, prompt: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(prompt)))

    def _check(self, checkpoint: Checkpoint) -> None:
        own, other = self.tokenizer.get_vocab(), checkpoint.load_tokenizer().get_vocab()
        if own != other:
            raise NotTogether(
                f"{checkpoint.spec} has another tokenizer than the model that is edited ({len(other)} and {len(own)} "
                "tokens, or others): its responses cannot be learnt token by token. Give --sft a checkpoint of the "
                "same lineage."
            )


def check_before(settings: UnlearnSettings, objective: Objective) -> OwnResponses | None:
    """Return how models' own responses are drawn, None where none are; before anything is loaded.

    Raises:
        MastlensError: If what is said of the model before RLVR does not fit the rest.
    """
    needed, increment = objective.needs.own_responses, objective.needs.increment
    wants_sft = needed or increment
    for why, wanted in ((f"The objective {objective.name}", wants_sft), ("--start sft", settings.start == "sft")):
        if wanted and settings.sft is None:
            raise BadSetting(
                f"{why} needs --sft PATH: the checkpoint before RLVR, or any model of the same architecture and "
                "tokenizer whose behaviour is wanted back."
            )
    if increment and settings.start != "source":
        raise BadSetting(f"{objective.name} begins at the source: leave --start {settings.start} out.")
    if increment and settings.optimizer != OPTIMIZERS[0]:
        raise BadSetting(f"{objective.name} moves a few gates with Adam: leave --optimizer {settings.optimizer} out.")
    if settings.sft is not None and not wants_sft and settings.start != "sft":
        raise BadSetting(f"{objective.name} does nothing with --sft: leave it out, or add --start sft.")
    if (settings.own_responses is not None or settings.responses is not None) and not needed:
        raise BadSetting(f"{objective.name} learns from no responses of models' own: leave --own-..., --responses out.")
    if settings.own_responses is not None and settings.responses is not None:
        raise BadSetting("Responses are taken from --responses or drawn as --own-... says, not both.")
    if settings.start == "noise" and not 0 < settings.noise <= 1:
        raise BadSetting(f"The share of noise (--start-noise) is above 0 and at most 1, it is {settings.noise:g}.")
    return settings.own_responses or OwnResponses() if needed else None


def starting_values(
    checkpoint: Checkpoint, sft: Checkpoint | None, selection: Sequence[str], settings: UnlearnSettings
) -> dict[str, Tensor] | None:
    """Return name to stored tensor that the selected ones begin at; None for those of the source.

    Noise is the first half of UNDO (arXiv:2506.06278): (1 - share) W + share * rms(W) * N(0, 1), from the seed and the
    tensor's name alone.

    Raises:
        MastlensError: If the SFT model has no such tensor of that shape.
    """
    if settings.start == "source":
        return None
    if settings.start == "noise":
        names = dict.fromkeys(name.partition("#")[0] for name in selection)
        return {name: _noised(checkpoint.tensor(name), name, settings) for name in names}
    assert sft is not None
    return before_rlvr(checkpoint, sft, selection)


def before_rlvr(checkpoint: Checkpoint, sft: Checkpoint, selection: Sequence[str]) -> dict[str, Tensor]:
    """Return name to stored tensor of the SFT model, for each stored tensor of a selection.

    Raises:
        MastlensError: If the SFT model has no such tensor of that shape.
    """
    names = list(dict.fromkeys(name.partition("#")[0] for name in selection))
    known = sft.named_as(checkpoint)
    for name in names:
        here, there = checkpoint.tensors[name].shape, known.tensors[name].shape if name in known.tensors else None
        if here != there:
            raise NotTogether(
                f"{name} is {tuple(here)} in {checkpoint.spec} and {'missing' if there is None else tuple(there)} in "
                f"{sft.spec}: nothing can be put back. Give --sft a checkpoint of the same lineage."
            )
    return {name: known.tensor(name) for name in names}


def _noised(tensor: Tensor, name: str, settings: UnlearnSettings) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(f"{settings.seed}\n{name}".encode()).digest()[:8], "little")
    weight = tensor.float()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed % 2**63))
    return (1 - settings.noise) * weight + settings.noise * weight.square().mean().sqrt() * noise


@torch.no_grad()
def imitated(model: "PreTrainedModel", texts: Sequence[EncodedProblem], *, batch_size: int = 32) -> Imitated:
    """Return what a model says at the counted tokens of texts; of the model, only its head stays in memory.

    Args:
        model: The model, in evaluation mode.
        texts: Token ids.
        batch_size: Texts a forward pass.
    """
    states: list[Tensor] = [torch.empty(0)] * len(texts)
    head = Head()
    for items, batch in by_length(model, texts, batch_size, None):
        found, head = counted_states(model, batch)
        lengths = [len(texts[item].solution) for item in items]
        for item, own in zip(items, found.split(lengths), strict=True):
            states[item] = own.clone()
    return Imitated(head, states)


def table_of(sides: Iterable[Said]) -> pd.DataFrame:
    """Return the table of all responses, as ``rewind.parquet`` has it."""
    return pd.DataFrame([row for side in sides for row in side.rows], columns=list(COLUMNS))
