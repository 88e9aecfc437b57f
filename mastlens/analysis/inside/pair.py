"""A pair of models on the same texts: opened, checked to belong together, and one of them changed at will.

The null of what is said of a pair is a random change of the size of RLVR's, put into the SFT model: of each tensor the
increment with the signs of its rows and columns redrawn (``increments.signs``). It has the increment's entries in
their places but for the sign, its singular values and its norm, and it goes through the same storage. What it does to
the computation, any change of that size and kind does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mastlens.analysis.increments.signs import turned_signs
from mastlens.architectures.placement import locate_tensors
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.checkpoints.lineage import Lineage
from mastlens.errors import NotTogether
from mastlens.models.weights import named_weights, stored_parameters
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import (
    EncodedProblem,
    check_tokenizer,
    context_length,
    encode_problems,
    encode_verbatim,
)
from mastlens.problems.reading import Problem, read_problems

if TYPE_CHECKING:
    import os

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RLVR = 0
"""The turn in which the changed model is the RLVR model; the random changes have the turns from 1 on."""


@dataclass
class Pair:
    """Two models of one lineage.

    Attributes:
        sft: What RLVR started from.
        rlvr: After RLVR.
        computing: Where they are computed, and in which type.
        draws: Random changes beside RLVR's.
        seed: Of these.
    """

    sft: Checkpoint
    rlvr: Checkpoint
    computing: Computing
    draws: int
    seed: int
    _turn: int = field(default=RLVR, init=False)

    @classmethod
    def of(cls, lineage: Lineage, computing: Computing, *, draws: int, seed: int) -> "Pair":
        """Return the pair that an increment of RLVR lies between."""
        return cls(*lineage.increments["rlvr"], computing, draws, seed)

    def texts(
        self, splits: "Mapping[str, str | os.PathLike[str]]", *, limit: int | None, asking: Asked
    ) -> dict[str, list[EncodedProblem]]:
        """Return split to its problems as token ids, which both models read alike.

        Raises:
            MastlensError: If the models or their tokenizers differ in shape, or a text is longer than a context.
        """
        return {split: self.encoded(read_problems(path, limit), str(path), asking) for split, path in splits.items()}

    def encoded(
        self, problems: Sequence[Problem], source: str, asking: Asked, *, verbatim: bool = False
    ) -> list[EncodedProblem]:
        """Return problems as token ids, which both models read alike.

        Args:
            problems: The problems.
            source: What to call them in a message, e.g. their file.
            asking: How they are asked.
            verbatim: Whether what is asked is a rendered prompt already, which is read as it stands.

        Raises:
            MastlensError: If the models or their tokenizers differ in shape, or a text is longer than a context.
        """
        self._check_shapes()
        lengths = [context_length(model.config) for model in (self.source, self.changed)]
        context = min((length for length in lengths if length is not None), default=None)
        encode = encode_verbatim if verbatim else partial(encode_problems, chat_template=asking)
        # A rendered prompt has special tokens, which are lost between encoding and decoding by design.
        shown = [replace(one, problem=one.solution) for one in problems] if verbatim else problems
        check_tokenizer(self._tokenizers[0], shown, self.rlvr.spec)
        read = [encode(problems, tokenizer, context=context, source=source) for tokenizer in self._tokenizers]
        apart = next((p.line for p, a, b in zip(problems, *read, strict=True) if a != b), None)
        if apart is not None:
            raise NotTogether(
                f"{source}, line {apart}: the tokenizers (or chat templates) of {self.sft.spec} and {self.rlvr.spec} "
                "make other tokens of it, so there is no token at which both could be compared. Give both "
                "checkpoints the same tokenizer files, or take --no-chat-template."
            )
        return read[0]

    @cached_property
    def _tokenizers(self) -> "tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]":
        return self.rlvr.load_tokenizer(), self.sft.load_tokenizer()

    @cached_property
    def source(self) -> "PreTrainedModel":
        """The SFT model."""
        return self.computing.load(self.sft)

    @cached_property
    def changed(self) -> "PreTrainedModel":
        """The model that ``take`` changes."""
        return self.computing.load(self.rlvr)

    @cached_property
    def moved(self) -> tuple[str, ...]:
        """The tensors that RLVR changed, by their names in its checkpoint, as far as the model has them."""
        pairs = ((name, *self._stored(name)) for name in self._names())
        return tuple(name for name, before, after in pairs if not torch.equal(before.float(), after.float()))

    def _names(self) -> list[str]:
        shapes = {name: tuple(value.shape) for name, value in stored_parameters(self.changed).items()}
        return list(locate_tensors(self.rlvr.tensors, shapes))

    def _check_shapes(self) -> None:
        for name in self._names():
            if name not in self.sft.tensors:
                raise NotTogether(f"{name} stands in {self.rlvr.spec} only, not in {self.sft.spec}.")
            mine, theirs = (tuple(one.tensors[name].shape) for one in (self.sft, self.rlvr))
            if mine != theirs:
                raise NotTogether(
                    f"{name} is {mine} in {self.sft.spec} and {theirs} in {self.rlvr.spec}: activations can be "
                    "compared only of models of one shape and one vocabulary."
                )

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return named_weights(self.changed, self.moved)  # found once: a turn is taken for every batch

    @torch.no_grad()
    def take(self, turn: int) -> None:
        """Give the changed model the weights of a turn: ``RLVR``, or the n-th random change."""
        if turn == self._turn:
            return
        for name, weight in self._weights.items():
            before, after = self._stored(name)
            weight.copy_(after if turn == RLVR else self._drawn(name, before, after, turn))
        self._turn = turn

    def _stored(self, name: str) -> tuple[Tensor, Tensor]:
        return self.sft.rows(name, 0, None, mapped=True), self.rlvr.rows(name, 0, None, mapped=True)

    def _drawn(self, name: str, before: Tensor, after: Tensor, turn: int) -> Tensor:
        start = before.float()
        wide = (after.float() - start).reshape(len(start) if start.dim() else 1, -1)
        rows, cols = turned_signs(wide, draws=self.draws, seed=self.seed, name=name)[turn - 1]
        return (start + (wide.mul_(rows).mul_(cols)).reshape(start.shape)).to(after.dtype)
