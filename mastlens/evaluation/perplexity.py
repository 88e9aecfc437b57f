"""Perplexity on neutral text: collateral that no accuracy shows."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mastlens.errors import BadFile, NotFound, NotSupported
from mastlens.models.likelihood import sequence_logprobs
from mastlens.problems.encoding import EncodedProblem, context_length
from mastlens.runs.reading import read_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def read_texts(path: str | os.PathLike[str]) -> list[str]:
    """Read JSON lines with a ``text`` each."""
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no text file {path}.")
    texts = []
    for where, _, record in read_lines(path, "a JSON object with 'text'"):
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise BadFile(f"{where}: a JSON object with 'text' is expected.")
        texts.append(record["text"])
    if not texts:
        raise BadFile(f"{path} holds no text.")
    return texts


def neutral_logprobs(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    *,
    batch_size: int | str = 32,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the summed log-probability and the number of tokens of each text; its first token is context only.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        texts: The texts; those of a single token say nothing and are left out.
        batch_size: Texts a forward pass; it does not change the result beyond rounding.
        progress: Label of a progress bar; None for none.

    Raises:
        MastlensError: If a text is longer than the model's context, or none has two tokens.
    """
    context = context_length(model.config)
    encoded = []
    for number, text in enumerate(texts, start=1):
        ids = tokenizer(text)["input_ids"]
        if context is not None and len(ids) > context:
            raise NotSupported(
                f"Neutral text {number} has {len(ids)} tokens and the model's context is {context}. Split it; it is "
                "not cut in silence."
            )
        if len(ids) > 1:
            encoded.append(EncodedProblem(tuple(ids[:1]), tuple(ids[1:])))
    if not encoded:
        raise BadFile("No neutral text has two tokens, so there is nothing to predict.")
    return sequence_logprobs(model, encoded, batch_size=batch_size, progress=progress)


def neutral_perplexity(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    *,
    batch_size: int | str = 32,
) -> float:
    """Return exp(-sum log p / tokens) over all texts; arguments as in ``neutral_logprobs``."""
    sums, counts = neutral_logprobs(model, tokenizer, texts, batch_size=batch_size)
    return float(np.exp(-sums.sum() / counts.sum()))
