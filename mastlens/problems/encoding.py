"""Problems as token ids: prompt and solution, checked against tokenizer and context, batched."""

import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mastlens.architectures.rotation import extended_length
from mastlens.errors import BadSetting, MastlensWarning, NotSupported, NotTogether
from mastlens.problems.asking import Asked
from mastlens.problems.reading import Problem
from mastlens.problems.thinking import decode_response, has_template, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedProblem:
    """Token ids of one problem: the prompt, and the solution that counts in a loss, end of sequence included."""

    prompt: tuple[int, ...]
    solution: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.prompt) + len(self.solution)


@dataclass(frozen=True)
class Batch:
    """Right-padded problems.

    Attributes:
        input_ids: Token ids.
        attention_mask: True where there is a token.
        is_solution: True at the tokens of the solution and its end: the ones that a loss counts.
    """

    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    is_solution: Bool[Tensor, "batch length"]


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", problems: Sequence[Problem], name: str) -> None:
    """Check that nothing of the problems is lost between encoding and decoding.

    A tokenizer class that does not fit its files drops characters in silence, and every number after that is
    about another text.

    Args:
        tokenizer: The tokenizer.
        problems: What will be read through it.
        name: What to call the tokenizer in a message, e.g. the checkpoint's path.

    Raises:
        MastlensError: If characters other than white space are lost.
    """
    if _appends_end(tokenizer):
        warnings.warn(
            f"The tokenizer of {name} appends the end of sequence to every text. It is left out behind prompts, where "
            "a response has to follow.",
            MastlensWarning,
            stacklevel=2,
        )
    for problem in problems:
        for text in (problem.problem, problem.solution):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            decoded = decode_response(ids, tokenizer)
            wanted, got = (unicodedata.normalize("NFC", t) for t in (text, decoded))
            if wanted == got:
                continue
            if "".join(wanted.split()) == "".join(got.split()):
                warnings.warn(
                    f"The tokenizer of {name} changes white space: {text[:60]!r} comes back as {got[:60]!r}.",
                    MastlensWarning,
                    stacklevel=2,
                )
                return
            lost = sorted(set(wanted) - set(got) - {" ", "\n", "\t"})
            raise NotTogether(
                f"The tokenizer of {name} ({type(tokenizer).__name__}) loses characters: {text[:80]!r} comes "
                f"back as {got[:80]!r}{f', without {lost}' if lost else ''}. Its class does not fit its files; "
                "copy the tokenizer files of the base model."
            )


def _appends_end(tokenizer: "PreTrainedTokenizerBase") -> bool:
    return len(ids := tokenizer("1")["input_ids"]) > 1 and ids[-1] == tokenizer.eos_token_id


def encode_prompt(
    problem: str, tokenizer: "PreTrainedTokenizerBase", *, chat_template: Asked = True, think: str = "free"
) -> tuple[int, ...]:
    """Return the prompt's token ids: the chat template's user turn, or the problem and a newline.

    Args:
        problem: The problem's text.
        tokenizer: The tokenizer.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        think: How the thinking begins: ``free`` (as the template has it), ``empty``, ``forced`` or ``none``; see
            ``mastlens.problems.thinking.THINK``.

    Raises:
        MastlensError: For a think mode that does not exist.
    """
    text = render_prompt(problem, tokenizer, think=think, chat_template=chat_template)
    # The template writes the special tokens itself, so the tokenizer must not add them once more.
    if has_template(tokenizer, chat_template):
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return open_ended(tokenizer(text)["input_ids"], tokenizer)


def open_ended(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Return a prompt's token ids without the end of sequence that some tokenizers append: a response follows."""
    end = len(ids)
    while end > 1 and ids[end - 1] == tokenizer.eos_token_id:
        end -= 1
    return tuple(ids[:end])


def encode_problem(
    problem: Problem, tokenizer: "PreTrainedTokenizerBase", *, chat_template: Asked = True
) -> EncodedProblem:
    """Return the token ids of a problem: prompt, then solution and end of sequence."""
    solution = tuple(tokenizer(problem.solution, add_special_tokens=False)["input_ids"])
    eos: Any = tokenizer.eos_token_id
    end = () if eos is None else (int(eos),)
    return EncodedProblem(encode_prompt(problem.problem, tokenizer, chat_template=chat_template), solution + end)


def encode_problems(
    problems: Sequence[Problem],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    context: int | None = None,
    chat_template: Asked = True,
    source: str = "the problems",
) -> list[EncodedProblem]:
    """Return the token ids of every problem.

    Args:
        problems: The problems.
        tokenizer: The tokenizer.
        context: The model's context length in tokens; None for no limit.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        source: What to call the problems in a message, e.g. their file.

    Raises:
        MastlensError: If a problem is longer than the context (with its line).
    """
    ids = [encode_problem(problem, tokenizer, chat_template=chat_template) for problem in problems]
    return _within(ids, problems, context, source)


def encode_verbatim(
    problems: Sequence[Problem],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    context: int | None = None,
    source: str = "the problems",
) -> list[EncodedProblem]:
    """Return the token ids of problems whose prompt is rendered already: its special tokens stand in its text.

    Args and errors as ``encode_problems``; behind a response stands the end of sequence, too.
    """
    eos: Any = tokenizer.eos_token_id
    end = () if eos is None else (int(eos),)
    ids = []
    for problem in problems:
        prompt, response = (
            tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in (problem.problem, problem.solution)
        )
        ids.append(EncodedProblem(prompt, response + end))
    return _within(ids, problems, context, source)


def _within(
    encoded: list[EncodedProblem], problems: Sequence[Problem], context: int | None, source: str
) -> list[EncodedProblem]:
    for ids, problem in zip(encoded, problems, strict=True):
        if context is not None and ids.length > context:
            raise NotSupported(
                f"{source}, line {problem.line}: {ids.length} tokens with its solution, and the model's context is "
                f"{context}. Shorten or remove it; it is not cut in silence."
            )
    return encoded


def check_vocabulary(model: "PreTrainedModel", rows: Iterable[Sequence[int]]) -> None:
    """Check that the model has a row of its embedding for every token id.

    Raises:
        MastlensError: If a tokenizer knows tokens that the model does not.
    """
    most = max((max(ids) for ids in rows if ids), default=0)
    size = len(next(model.get_input_embeddings().parameters()))
    if most >= size:
        raise NotTogether(
            f"The tokenizer gives the token id {most}, and the model's embedding has {size} rows: it was trained with "
            "another tokenizer, or tokens were added and the embedding was not resized. Use the tokenizer that the "
            "model was trained with."
        )


def context_length(config: Any) -> int | None:
    """Return the context length in tokens that a transformers config states, or None."""
    length = getattr(config, "max_position_embeddings", None)
    return extended_length(config, int(length)) if length else None


def collate(encoded: Sequence[EncodedProblem], *, pad: int = 0, device: str = "cpu") -> Batch:
    """Return right-padded tensors. Padding is masked, so any ``pad`` id gives the same numbers."""
    length = max(ids.length for ids in encoded)
    input_ids = torch.full((len(encoded), length), pad, dtype=torch.long)
    attention = torch.zeros((len(encoded), length), dtype=torch.bool)
    solution = torch.zeros((len(encoded), length), dtype=torch.bool)
    for row, ids in enumerate(encoded):
        end = ids.length
        input_ids[row, :end] = torch.tensor(ids.prompt + ids.solution)
        attention[row, :end] = True
        solution[row, len(ids.prompt) : end] = True
    return Batch(input_ids.to(device), attention.to(device), solution.to(device))


AUTO = "auto"
"""The batch size that packs by tokens."""

MOST_PADDING = 0.1
"""Share of a packed batch that may be padding."""


def check_batch_size(size: int | str) -> None:
    """Raise unless a batch size is a number from 1, or ``auto``."""
    if size != AUTO and (isinstance(size, str) or size < 1):
        raise BadSetting(f"A batch size (--batch-size) of {size} makes no sense; it is at least 1, or {AUTO}.")


def pack(lengths: Iterable[int], size: int | str, tokens: int) -> Iterator[slice]:
    """Yield slices that cover texts in their order, one a batch.

    Args:
        lengths: Tokens of each text.
        size: Texts a batch; ``auto`` for as many as have no more than ``tokens`` in all, padding included, a tenth
            of them padding at most. A text longer than that has a batch of its own.
        tokens: Tokens a batch, with ``auto``.
    """
    check_batch_size(size)
    start = stop = widest = held = 0
    for place, length in enumerate(lengths):
        texts, width = place + 1 - start, max(widest, length)
        if isinstance(size, str):
            full = width * texts > tokens or held + length < (1 - MOST_PADDING) * width * texts
        else:
            full = texts > size
        if full and texts > 1:
            yield slice(start, place)
            start, widest, held = place, 0, 0
        stop, widest, held = place + 1, max(widest, length), held + length
    if stop:
        yield slice(start, stop)


def batches(
    encoded: Sequence[EncodedProblem], size: int | str, *, tokens: int = 2048, device: str = "cpu"
) -> Iterator[tuple[slice, Batch]]:
    """Yield ``(slice of encoded, batch)`` in order; ``size`` and ``tokens`` as in ``pack``."""
    for chosen in pack([ids.length for ids in encoded], size, tokens):
        yield chosen, collate(encoded[chosen], device=device)
