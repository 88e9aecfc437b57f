"""Multiple choice by the log-probability of each option after the question, as MMLU and WMDP are scored zero-shot.

A model near chance here may have lost the letters and not the knowledge: evaluate open answers beside it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.errors import MastlensError, unknown
from mastlens.likelihood import sequence_logprobs
from mastlens.problems import EncodedProblem, encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ASK = ("text", "letter")
_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Choice:
    """A question with options.

    Attributes:
        problem: What is asked.
        options: The options' texts.
        answer: Index of the right one, from 0.
        subject: The subject; empty where the file names none.
    """

    problem: str
    options: tuple[str, ...]
    answer: int
    subject: str = ""


def read_choices(path: str | os.PathLike[str]) -> list[Choice]:
    """Read JSON lines with ``problem`` or ``question``, ``choices``, and ``answer``: an index from 0, or a letter.

    Raises:
        MastlensError: If the file is missing or empty, or a line is malformed (with its number).
    """
    path = Path(path)
    if not path.is_file():
        raise MastlensError(f"There is no file of questions {path}.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(_parse(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MastlensError(
                f"{path}, line {number}: {error!r}. Expected are 'problem' or 'question', 'choices' (2 to 10 texts) "
                "and 'answer' (an index from 0, or a letter)."
            ) from error
    if not found:
        raise MastlensError(f"{path} holds no questions. One JSON object a line is expected.")
    return found


def _parse(record: dict[str, Any]) -> Choice:
    asked = record["problem"] if "problem" in record else record["question"]
    options, answer = record["choices"], record["answer"]
    if not isinstance(asked, str) or not 2 <= len(options) <= len(_LETTERS):
        raise ValueError("a question and 2 to 10 choices")
    place = int(answer) if not isinstance(answer, str) or answer.strip().isdigit() else _LETTERS.index(answer.strip())
    if not 0 <= place < len(options):
        raise ValueError(f"answer {answer!r} is none of the {len(options)} choices")
    return Choice(asked, tuple(str(option) for option in options), place, str(record.get("subject") or ""))


def score_choices(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Choice],
    *,
    ask: str = "letter",
    batch_size: int = 32,
    chat_template: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Return which option the model finds likeliest, item by item.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        questions: The questions.
        ask: ``letter`` lists the options behind the question and scores their letters; ``text`` scores the options'
            own texts.
        batch_size: Options a batch; it does not change the result beyond rounding.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        progress: Show a progress bar.

    Returns:
        One row a question: ``item``, ``subject``, ``answer`` and ``chosen`` (indices), ``correct``; ``chosen_per_byte``
        and ``correct_per_byte``, by log-probability over the option's length in bytes (the harness' ``acc_norm``);
        ``probability_answer``, p(answer) / sum over options of p(option); ``logprobs``, one an option, natural.

    Raises:
        MastlensError: For a way of asking that does not exist.
    """
    if ask not in ASK:
        raise unknown("way of asking", ask, ASK)
    encoded, sizes = [], []
    for question in questions:
        letters = [_LETTERS[i] for i in range(len(question.options))]
        texts = letters if ask == "letter" else list(question.options)
        listed = [f"{letter}. {option}" for letter, option in zip(letters, question.options, strict=True)]
        asked = question.problem if ask == "text" else "\n".join([question.problem, *listed, "Answer:"])
        prompt = encode_prompt(asked, tokenizer, chat_template=chat_template)
        encoded += [EncodedProblem(prompt, tuple(tokenizer(t, add_special_tokens=False)["input_ids"])) for t in texts]
        sizes.append([len(text.encode()) for text in texts])
    sums, _ = sequence_logprobs(model, encoded, batch_size=batch_size, progress="log p(option)" if progress else None)
    rows, start = [], 0
    for item, (question, lengths) in enumerate(zip(questions, sizes, strict=True)):
        logprobs = sums[start : start + len(lengths)]
        start += len(lengths)
        chosen, per_byte = int(logprobs.argmax()), int((logprobs / np.array(lengths)).argmax())
        rows.append(
            {
                "item": item,
                "subject": question.subject,
                "answer": question.answer,
                "chosen": chosen,
                "correct": chosen == question.answer,
                "chosen_per_byte": per_byte,
                "correct_per_byte": per_byte == question.answer,
                "probability_answer": float(np.exp(logprobs[question.answer] - np.logaddexp.reduce(logprobs))),
                "logprobs": logprobs.tolist(),
            }
        )
    return pd.DataFrame(rows)
