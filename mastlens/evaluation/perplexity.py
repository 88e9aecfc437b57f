"""Perplexity on neutral text: collateral that no accuracy shows."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mastlens.errors import MastlensError
from mastlens.likelihood import sequence_logprobs
from mastlens.problems import EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def read_texts(path: str | os.PathLike[str]) -> list[str]:
    """Read JSON lines with a ``text`` each."""
    path = Path(path)
    if not path.is_file():
        raise MastlensError(f"There is no text file {path}.")
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            texts.append(str(json.loads(line)["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise MastlensError(f"{path}, line {number}: a JSON object with 'text' is expected.") from error
    if not texts:
        raise MastlensError(f"{path} holds no text.")
    return texts


def neutral_perplexity(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    *,
    batch_size: int = 32,
) -> float:
    """Return exp(-sum log p / tokens) over all texts; the first token of each is context only."""
    encoded = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        if len(ids) > 1:
            encoded.append(EncodedProblem(tuple(ids[:1]), tuple(ids[1:])))
    sums, counts = sequence_logprobs(model, encoded, batch_size=batch_size)
    return float(np.exp(-sums.sum() / counts.sum()))
