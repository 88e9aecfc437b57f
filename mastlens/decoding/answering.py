"""Responses to prompts in a think mode, split into trace and answer, kept as they are finished."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastlens.decoding.generation import Response, generate
from mastlens.decoding.sampling import Sampling
from mastlens.problems.encoding import encode_prompt
from mastlens.problems.thinking import prompt_opens, render_prompt, split_trace
from mastlens.runs.ledger import Ledger

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.decoding.reflection import TokenPenalty

PARTS = ("reasoning", "trace", "answer", "response")
"""Which part of a response is judged.

``reasoning``: the trace, or the answer where there is no trace (ZeroThink reasons there, if anywhere); ``trace``: the
trace alone, nothing where there is none; ``answer``: what follows the trace; ``response``: all of it.
"""


@dataclass(frozen=True)
class Answered:
    """A response to a prompt.

    Attributes:
        prompt: The prompt's text.
        response: What the model wrote.
        trace: Its trace.
        answer: Its answer.
    """

    prompt: str
    response: Response
    trace: str
    answer: str

    def part(self, which: str) -> tuple[str, str]:
        """Return the name and the text of the part to judge (see ``PARTS``)."""
        if which == "response":
            return "response", self.response.text
        if which == "trace" or (which == "reasoning" and self.trace):
            return "trace", self.trace
        return "answer", self.answer


Keep = Callable[[int, Response], None]
"""Takes a finished response and the place of its prompt among those that were asked."""


def remembered_responses(
    prompts: Mapping[str, Sequence[int]],
    ledger: Ledger | None,
    respond: Callable[[list[str], list[Sequence[int]], Keep], None],
) -> list[Response]:
    """Return the response to each named prompt, in order; those that the ledger holds are not asked for again.

    Args:
        prompts: Name to token ids.
        ledger: Keeps responses as they are finished, and knows those of an interrupted run; None for neither.
        respond: Called once, unless all are there, with the names and the prompts that are missing; it hands over every
            response as soon as it is finished.
    """
    kept = ledger or Ledger(None, "")
    missing = [name for name in prompts if name not in kept]

    def keep(place: int, response: Response) -> None:
        kept.add(missing[place], [response.text, response.tokens, response.stopped])

    if missing:
        respond(missing, [prompts[name] for name in missing], keep)
    return [Response(*kept[name]) for name in prompts]


def answer_prompts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    contents: Mapping[str, str],
    *,
    think: str = "free",
    max_new_tokens: int = 1024,
    batch_size: int = 32,
    samples: int = 1,
    sampling: Sampling | None = None,
    penalty: "TokenPenalty | None" = None,
    chat_template: bool = True,
    ledger: Ledger | None = None,
    progress: str | None = None,
) -> dict[tuple[str, int], Answered]:
    """Return (name, sample) to response.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        contents: Name to what the user's turn holds.
        think: The think mode.
        max_new_tokens: Where a response is cut off.
        batch_size: Prompts at a time.
        samples: Responses a prompt.
        sampling: How to draw; None for greedy.
        penalty: Taken off some tokens' logits before each choice (see ``reflection_penalty``); None for none.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        ledger: Keeps responses as they are finished, and knows those of an interrupted run.
        progress: Label of a progress bar; None for none.
    """
    template = {"think": think, "chat_template": chat_template}
    prompts = {name: encode_prompt(content, tokenizer, **template) for name, content in contents.items()}
    # A sampled response depends on its name and the seed alone.
    names = {f"{name}/{sample}": (name, sample) for name in contents for sample in range(samples)}

    def respond(missing: list[str], asked: list[Sequence[int]], keep: Keep) -> None:
        generate(
            model,
            tokenizer,
            asked,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            sampling=sampling,
            penalty=penalty,
            names=missing,
            progress=progress,
            finished=keep,
        )

    responses = remembered_responses({key: prompts[name] for key, (name, _) in names.items()}, ledger, respond)
    answered = {}
    for (name, sample), response in zip(names.values(), responses, strict=True):
        text = render_prompt(contents[name], tokenizer, **template)
        parts = split_trace(response.text, opened=prompt_opens(text))
        answered[name, sample] = Answered(text, response, *parts)
    return answered
