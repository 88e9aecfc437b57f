"""A judge that is a Hugging Face model on this machine, asked in the same words as one behind an endpoint."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.answering import answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.prompts import Prompt
from mastlens.evaluation.judges.interface import UNJUDGED, Judgement, Question
from mastlens.evaluation.judges.rubrics import AGAIN, TRACE_RUBRIC, Rubric
from mastlens.problems.encoding import context_length
from mastlens.problems.templates import apply_template
from mastlens.problems.thinking import has_template, ids_open

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LocalJudge:
    """A checkpoint that judges, greedily. It is loaded at the first judgement.

    Attributes:
        model: The checkpoint's path.
        rubric: What is judged.
        max_new_tokens: Where a reply is cut off; a judge that thinks needs more.
        batch_size: Texts at a time.
        device: Where to compute.
    """

    model: str | os.PathLike[str]
    rubric: Rubric = TRACE_RUBRIC
    max_new_tokens: int = 256
    batch_size: int = 8
    device: str = "cpu"

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.model)

    @cached_property
    def _loaded(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        return self._checkpoint.load_model(device=self.device), self._checkpoint.load_tokenizer()

    @property
    def settings(self) -> dict[str, Any]:
        """What the judgements depend on."""
        return {
            "judge": "local",
            "model": self._checkpoint.fingerprint,
            "behaviour": self._checkpoint.behaviour_digest,
            "rubric": self.rubric.fingerprint,
            "max_new_tokens": self.max_new_tokens,
        }

    def judge(self, question: Question, trace: str) -> Judgement:
        """Return the judgement of one text."""
        return self.judge_many([(question, trace)])[0]

    def judge_many(self, pairs: Sequence[tuple[Question, str]], *, progress: str | None = None) -> list[Judgement]:
        """Return the judgement of every text, in order; unreadable replies are asked for once more.

        A text that does not fit the judge's context with its question is not cut: it comes back unjudged.
        """
        chats = [self.rubric.messages(*pair) for pair in pairs]
        replies = self._replies(chats, progress)
        found = [_read(self.rubric, reply) for reply in replies]
        failed = [place for place, one in enumerate(found) if one.category == UNJUDGED and replies[place] is not None]
        again = [
            [
                *chats[place],
                {"role": "assistant", "content": str(replies[place])},
                {"role": "user", "content": AGAIN},
            ]
            for place in failed
        ]
        for place, reply in zip(failed, self._replies(again, progress and f"{progress}, again"), strict=True):
            second = _read(self.rubric, reply)
            found[place] = found[place] if reply is None else second
        return found

    def _replies(self, chats: Sequence[list[dict[str, str]]], progress: str | None) -> list[str | None]:
        """Return the reply to each chat; None where it does not fit the context."""
        model, tokenizer = self._loaded
        prompts = [self._prompt(tokenizer, chat) for chat in chats]
        limit = context_length(model.config)
        fitting = [place for place, ids in enumerate(prompts) if limit is None or len(ids) + 16 <= limit]
        answered = answer(
            HuggingFaceEngine(model, tokenizer),
            [Prompt(str(n), prompts[n], opened=ids_open(prompts[n], tokenizer)) for n in fitting],
            Decoding(self.max_new_tokens, self.batch_size),
            progress=progress,
        )
        replies: list[str | None] = [None] * len(chats)
        for place, one in zip(fitting, answered, strict=True):
            replies[place] = one.answer or one.response.text
        return replies

    @staticmethod
    def _prompt(tokenizer: "PreTrainedTokenizerBase", chat: Sequence[dict[str, str]]) -> list[int]:
        if not has_template(tokenizer):
            text = "\n\n".join(turn["content"] for turn in chat) + "\n"
            return list(tokenizer(text)["input_ids"])
        # Some templates know no system turn: what it says opens the first user turn instead.
        told, first, *rest = chat
        turns = [{"role": "user", "content": f"{told['content']}\n\n{first['content']}"}, *rest]
        rendered = apply_template(tokenizer, turns, add_generation_prompt=True)
        return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _read(rubric: Rubric, reply: str | None) -> Judgement:
    if reply is None:
        return Judgement(UNJUDGED, "the text does not fit the judge's context")
    return rubric.read(reply)
