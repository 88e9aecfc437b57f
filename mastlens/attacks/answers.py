"""What an attack is measured by: greedy responses, grades and log-probabilities of one model, item by item."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from mastlens.decoding.answering import answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.graders import Grader
from mastlens.decoding.prompts import Prompt, items_of
from mastlens.models.likelihood import sequence_logprobs
from mastlens.problems.encoding import EncodedProblem
from mastlens.problems.reading import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompted:
    """A problem as an attack puts it.

    Attributes:
        ids: The prompt with whatever is put before the response, and the rest of the reference solution.
        given: The beginning of the response that the attack writes itself; empty where it writes none.
    """

    ids: EncodedProblem
    given: str = ""


def measure(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    splits: Mapping[str, Sequence[Problem]],
    prompted: Mapping[str, Sequence[Prompted]],
    *,
    max_new_tokens: int,
    batch_size: int | str,
    grader: Grader | None = None,
) -> pd.DataFrame:
    """Generate, grade and score every item.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        splits: Name to problems.
        prompted: The same splits and items as the attack puts them.
        max_new_tokens: Where a response is cut off.
        batch_size: Items a batch.
        grader: What is right; mathematics by default.

    Returns:
        One row an item: ``split``, ``item`` (from 0 in its file), ``correct`` (the grader says so),
        ``correct_strict``, ``logprob_solution`` (natural, summed over what the attack has not given),
        ``solution_tokens``, ``truncated``, ``given``, ``response`` (what the model wrote after it). What is graded is
        ``given`` and ``response`` together.
    """
    keys = items_of(splits)
    asked = [one for split in splits for one in prompted[split]]
    prompts = [
        Prompt(f"{split}/{item}", one.ids.prompt, problem.answer, given=one.given)
        for (split, item, problem), one in zip(keys, asked, strict=True)
    ]
    answered = answer(HuggingFaceEngine(model, tokenizer), prompts, Decoding(max_new_tokens, batch_size), grader=grader)
    sums, counts = sequence_logprobs(model, [one.ids for one in asked], batch_size=batch_size)
    return pd.DataFrame(
        {
            "split": [split for split, _, _ in keys],
            "item": [item for _, item, _ in keys],
            "correct": [one.correct for one in answered],
            "correct_strict": [one.correct_strict for one in answered],
            "logprob_solution": sums,
            "solution_tokens": counts,
            "truncated": [one.response.truncated for one in answered],
            "given": [one.given for one in asked],
            "response": [one.response.text for one in answered],
        }
    )


@contextmanager
def restored(model: "PreTrainedModel") -> Iterator[None]:
    """Put a model back as it was, bit for bit, when the block ends: weights, gradients, mode, configuration.

    The weights come back from a copy, never by undoing what was done to them, and also after an exception.
    """
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    graded = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = model.training
    # Their contents, not the objects: parts of the model hold the same configuration.
    settings = [(s, copy.deepcopy(vars(s))) for s in (model.config, model.generation_config) if s is not None]
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(kept[name])
                parameter.requires_grad_(graded[name])
        model.zero_grad(set_to_none=True)
        model.train(training)
        for setting, was in settings:
            vars(setting).clear()
            vars(setting).update(was)
