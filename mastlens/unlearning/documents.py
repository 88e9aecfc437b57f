"""The texts of an unlearning run as token ids: documents, chains of thought, and reasoning traces."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import BadFile, NotFound, NotSupported, NotTogether
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import EncodedProblem, check_tokenizer, context_length, encode_problem, encode_problems
from mastlens.problems.reading import Problem, parse_problem
from mastlens.problems.thinking import CLOSER, has_template
from mastlens.runs.reading import read_lines
from mastlens.unlearning.objectives.steering import SteeringTexts

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase


def read_documents(path: str | os.PathLike[str]) -> list[Problem]:
    """Read JSON lines that are problems, or texts under ``text``: a text is a problem without solution and answer.

    LIMO's names (``question``, ``solution``, ``answer``) are read too.

    Raises:
        MastlensError: If the file is missing or empty, or a line is malformed (with its number).
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no file of texts or problems {path}.")
    documents = [_document(where, number, record) for where, number, record in read_lines(path)]
    if not documents:
        raise BadFile(f"{path} holds no texts. One JSON object a line is expected, a problem or one with 'text'.")
    return documents


def _document(where: str, number: int, record: Any) -> Problem:
    if isinstance(record, dict) and not {"problem", "question"} & set(record) and "text" in record:
        if not isinstance(record["text"], str) or not record["text"].strip():
            raise BadFile(f"{where}: 'text' is no text, or blank.")
        return Problem(record["text"], "", "", str(record.get("subject") or ""), number)
    if isinstance(record, dict) and isinstance(record.get("solution"), str) and "question" in record:
        record = {**record, "problem": record.get("problem", record["question"])}
    return parse_problem(where, number, record)


def is_text(document: Problem) -> bool:
    """Return whether a document is a text and not a problem."""
    return not document.solution


class Encoder:
    """Problems, documents and traces to token ids, checked against the tokenizer and the context.

    Args:
        checkpoint: For messages.
        tokenizer: Its tokenizer.
        config: Its configuration, for the length of the context.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
    """

    def __init__(self, checkpoint: Checkpoint, tokenizer: "PreTrainedTokenizerBase", config: Any, chat_template: Asked):
        self.checkpoint, self.tokenizer, self.chat = checkpoint, tokenizer, chat_template
        self.context = context_length(config)

    def __call__(self, problems: Sequence[Problem], source: str) -> list[EncodedProblem]:
        """Return problems as prompts and solutions."""
        check_tokenizer(self.tokenizer, problems, self.checkpoint.spec)
        return encode_problems(problems, self.tokenizer, context=self.context, chat_template=self.chat, source=source)

    def documents(self, documents: Sequence[Problem], source: str, *, texts: SteeringTexts) -> list[EncodedProblem]:
        """Return documents as texts all of whose tokens count: of a problem, prompt, solution and end.

        Args:
            documents: Texts and problems.
            source: What to call them in a message.
            texts: Where they are cut.
        """
        check_tokenizer(self.tokenizer, documents, self.checkpoint.spec)
        encoded = []
        for document in documents:
            if is_text(document):
                ids = tuple(self.tokenizer(document.problem)["input_ids"])
            else:
                problem = encode_problem(document, self.tokenizer, chat_template=self.chat)
                ids = problem.prompt + problem.solution
            ids = ids[: texts.text_tokens]
            self._check(len(ids), f"{source}, line {document.line}", "--text-tokens")
            encoded.append(EncodedProblem((), ids))
        return encoded

    def chains(self, documents: Sequence[Problem], source: str, *, texts: SteeringTexts) -> list[EncodedProblem]:
        """Return chains of thought: of a problem its solution, behind its prompt where texts are read in context."""
        check_tokenizer(self.tokenizer, documents, self.checkpoint.spec)
        encoded = []
        for document in documents:
            said = document.problem if is_text(document) else document.solution
            if texts.close_cot and CLOSER not in said:
                said += CLOSER
            if texts.in_context and not is_text(document):
                problem = encode_problem(document, self.tokenizer, chat_template=self.chat)
            else:
                problem = EncodedProblem((), tuple(self.tokenizer(said)["input_ids"]))
            problem = EncodedProblem(problem.prompt, problem.solution[: texts.cot_tokens])
            length = len(problem.prompt) + len(problem.solution)
            self._check(length, f"{source}, line {document.line}", "--cot-tokens")
            encoded.append(problem)
        return encoded

    def traces(self, traces: "pd.DataFrame", documents: int, texts: SteeringTexts) -> list[list[EncodedProblem]]:
        """Return each document's traces; empty ones are left out.

        Args:
            traces: ``traces.parquet``.
            documents: Number of forget documents.
            texts: Where traces are cut, and what stands in front.

        Raises:
            MastlensError: If a document has no line in the table, or a trace does not fit the context.
        """
        wanted = set(range(documents))
        if (items := set(traces["item"].astype(int))) != wanted:
            odd = min(items ^ wanted)
            raise NotTogether(
                f"The traces are of {len(items)} documents and there are {documents} to forget; item {odd} is only in "
                "one of the two. Generate traces of the same file: mastlens traces --forget FILE."
            )
        traced: list[list[EncodedProblem]] = [[] for _ in range(documents)]
        for row in traces.sort_values(["item", "segment"], kind="stable").to_dict("records"):
            own = traced[int(row["item"])]
            if not str(row["trace"]).strip() or (texts.traces is not None and len(own) >= texts.traces):
                continue
            encoded = self._trace(str(row["prompt"]), str(row["trace"]), texts)
            where = f"The trace of item {row['item']}, segment {row['segment']}"
            self._check(len(encoded.prompt) + len(encoded.solution), where, "--trace-tokens")
            own.append(encoded)
        return traced

    def _trace(self, prompt: str, trace: str, texts: SteeringTexts) -> EncodedProblem:
        own = tuple(self.tokenizer(trace, add_special_tokens=False)["input_ids"])[: texts.trace_tokens]
        if texts.in_context:
            # A rendered template holds the special tokens already.
            special = not has_template(self.tokenizer, self.chat)
            return EncodedProblem(tuple(self.tokenizer(prompt, add_special_tokens=special)["input_ids"]), own)
        if texts.trigger:
            return EncodedProblem((), tuple(self.tokenizer(texts.trigger)["input_ids"]) + own)
        return EncodedProblem((), tuple(self.tokenizer(trace)["input_ids"])[: texts.trace_tokens])

    def _check(self, length: int, where: str, option: str) -> None:
        if not length:
            raise BadFile(f"{where}: no token in it.")
        if self.context is not None and length > self.context:
            raise NotSupported(
                f"{where}: {length} tokens, and the model's context is {self.context}. Say where to cut "
                f"({option}), or shorten it; it is not cut in silence."
            )
