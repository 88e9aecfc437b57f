"""Multiple choice by the log-probability of each option after the question, as MMLU and WMDP are scored zero-shot.

A model near chance here may have lost the letters and not the knowledge: evaluate open answers beside it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.decoding.graders.choice import LETTERS
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadFile, BadSetting, NotFound, unknown
from mastlens.evaluation.settings import ASK, ChoicesSettings
from mastlens.models.likelihood import sequence_logprobs
from mastlens.plots.cards.carded import Carded
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import EncodedProblem, encode_prompt
from mastlens.problems.thinking import CUE, answer_ids
from mastlens.runs.calls import takes
from mastlens.runs.reading import read_lines
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tables import Kept, json_rows
from mastlens.statistics import wilson

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.plots.cards.card import Card

NEAR_CHANCE = "near chance by letter: letters may be broken and not the knowledge gone; see choices --ask text"
FILE = "choices.parquet"
SUMMARY = "choices.json"


@dataclass(frozen=True)
class Choice:
    """A question with options.

    Attributes:
        problem: What is asked.
        options: The options' texts.
        answer: Index of the right one, from 0.
        subject: The subject; empty where the file names none.
        person: Whom it asks about, in questions about people; empty where the file names none.
    """

    problem: str
    options: tuple[str, ...]
    answer: int
    subject: str = ""
    person: str = ""

    @property
    def letters(self) -> str:
        """The options' letters, in order."""
        return LETTERS[: len(self.options)]

    @property
    def listed(self) -> str:
        """The question with its options listed behind it and ``Answer:`` at the end, as MMLU and WMDP ask."""
        lines = [f"{letter}. {option}" for letter, option in zip(self.letters, self.options, strict=True)]
        return "\n".join([self.problem, *lines, CUE])


def read_choices(path: str | os.PathLike[str]) -> list[Choice]:
    """Read JSON lines with ``problem`` or ``question``, ``choices``, and ``answer``: an index from 0, or a letter.

    Raises:
        MastlensError: If the file is missing or empty, or a line is malformed (with its number).
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no file of questions {path}.")
    found = []
    for where, _, record in read_lines(path):
        try:
            found.append(_parse(record))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise BadFile(
                f"{where}: {error!r}. Expected are 'problem' or 'question', 'choices' (2 to 10 texts) and 'answer' (an "
                "index from 0, or a letter)."
            ) from error
    if not found:
        raise BadFile(f"{path} holds no questions. One JSON object a line is expected.")
    return found


def _parse(record: dict[str, Any]) -> Choice:
    asked = record["problem"] if "problem" in record else record["question"]
    options, answer = record["choices"], record["answer"]
    if not isinstance(asked, str) or not 2 <= len(options) <= len(LETTERS):
        raise ValueError("a question and 2 to 10 choices")
    place = int(answer) if not isinstance(answer, str) or answer.strip().isdigit() else LETTERS.index(answer.strip())
    if not 0 <= place < len(options):
        raise ValueError(f"answer {answer!r} is none of the {len(options)} choices")
    named = (str(record.get(key) or "") for key in ("subject", "person"))
    return Choice(asked, tuple(str(option) for option in options), place, *named)


def score_choices(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Choice],
    *,
    ask: str = "letter",
    think: str = "free",
    batch_size: int | str = 32,
    chat_template: Asked = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Return which option the model finds likeliest, item by item.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        questions: The questions.
        ask: ``letter`` lists the options behind the question and scores their letters; ``option`` lists them and scores
            their texts; ``text`` scores their texts behind the bare question.
        think: The think mode of the prompt (see ``mastlens.problems.thinking.THINK``): ``empty`` closes a thinking
            model's thinking before the answer, ``none`` asks as lm-evaluation-harness does.
        batch_size: Options a batch; it does not change the result beyond rounding.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        progress: Show a progress bar.

    Returns:
        One row a question: ``item``, ``subject``, ``person``, ``answer`` and ``chosen`` (indices), ``correct``;
        ``chosen_per_byte`` and ``correct_per_byte``, by log-probability over the option's length in bytes (the
        harness' ``acc_norm``); ``probability_answer``, p(answer) / sum over options of p(option); ``logprobs``, one
        an option, natural.

    Raises:
        MastlensError: For a way of asking that does not exist.
    """
    if ask not in ASK:
        raise unknown("way of asking", ask, ASK)
    encoded, sizes = [], []
    for question in questions:
        texts = list(question.letters) if ask == "letter" else list(question.options)
        asked = question.problem if ask == "text" else question.listed
        prompt = encode_prompt(asked, tokenizer, chat_template=chat_template, think=think)
        encoded += [EncodedProblem(prompt, answer_ids(text, tokenizer, think=think)) for text in texts]
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
                "person": question.person,
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


def near_chance(row: Mapping[Any, Any]) -> bool:
    """Return whether the interval of a split's accuracy holds what chance gives."""
    return row["ci_low"] <= row["chance"] <= row["ci_high"]


@dataclass(frozen=True, repr=False)
class ChoiceScores(Carded):
    """What a model finds likeliest among the options of every question.

    Attributes:
        table: One row a question: ``split``, and the columns of ``score_choices``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import evaluation_card

        return evaluation_card(self.accuracy, self.settings)

    @property
    def accuracy(self) -> pd.DataFrame:
        """One row a split: ``n``, ``correct``, ``accuracy``, ``ci_low``, ``ci_high`` (Wilson), ``chance``.

        On forget questions the accuracy is R2MU's FA-UA; ``chance`` is one over the number of options, on average.
        """
        rows = []
        for split, part in self.table.groupby("split", sort=False):
            n, correct = len(part), int(part["correct"].sum())
            interval = wilson(correct, n)
            chance = float(np.mean([1 / len(logprobs) for logprobs in part["logprobs"]]))
            row = {"split": split, "n": n, "correct": correct, "accuracy": correct / n}
            rows.append(row | {"ci_low": interval.low, "ci_high": interval.high, "chance": chance})
        return pd.DataFrame(rows)

    @property
    def hints(self) -> list[str]:
        """What is to be asked beside it where letters do not tell a split from chance."""
        if self.settings.get("ask", ASK[0]) != ASK[0]:
            return []
        return [f"{row['split']}: {NEAR_CHANCE}." for row in self.accuracy.to_dict("records") if near_chance(row)]

    def plot(self) -> "go.Figure":
        """Draw accuracy by split with Wilson intervals."""
        from mastlens.plots import plot_accuracy

        return plot_accuracy(self.accuracy.assign(arm="model"))


@takes(ChoicesSettings)
def choices(settings: ChoicesSettings) -> ChoiceScores:
    """Score multiple choice by the options' log-probabilities: R2MU's final-answer accuracy (FA-UA).

    See ``read_choices`` for the files and ``score_choices`` for the ways of asking; by default the thinking is closed
    before the answer. With ``out`` the folder holds ``choices.parquet`` and ``choices.json``.

    Raises:
        MastlensError: If there are no questions, a setting does not exist, or a file does not fit.
    """
    if not settings.questions:
        raise BadSetting("There are no questions: give --questions NAME=FILE at least once.")
    tested = EditedCheckpoint.open(settings.model, settings.edit)
    computing = settings.computing(tested.checkpoint)
    scoring = {"ask": settings.ask, "think": settings.think}
    recorded = {**scoring, **settings.asking.record(), "dtype": computing.dtype, "limit": settings.limit}

    def compute() -> ChoiceScores:
        read = {name: read_choices(path)[: settings.limit] for name, path in settings.questions.items()}
        asked = {**scoring, "batch_size": settings.batch_size, "progress": settings.progress}
        asked["chat_template"] = settings.asking
        with tested.loaded(computing) as (loaded, tokenizer):
            tables = [
                score_choices(loaded, tokenizer, found, **asked).assign(split=name) for name, found in read.items()
            ]
        table = pd.concat(tables, ignore_index=True)
        return ChoiceScores(table[["split", *(column for column in table if column != "split")]], recorded)

    kept = Kept(ChoiceScores, {"table": FILE}, (SUMMARY, lambda scores: {"splits": json_rows(scores.accuracy)}))
    return tested.remembered(
        "choices", kept, settings, settings=recorded, inputs=hash_inputs(settings.questions), compute=compute
    )
