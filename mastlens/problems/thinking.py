"""Think modes: how a prompt opens, closes or leaves out the thinking, and where a response's trace ends.

Templates differ. Qwen3's knows ``enable_thinking`` and lets the model open its own ``<think>``; those of the R1
distillations write the opener themselves; others, and models without a template, know nothing of it. What a mode does
is decided by the prompt that the template really writes, not by the model's name.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mastlens.errors import unknown
from mastlens.problems.asking import Asked, Asking
from mastlens.problems.templates import apply_template, thinking_switches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK = ("free", "empty", "forced", "none")
"""The think modes.

``free``: the template's generation prompt as it is. ``empty``: the thinking is closed before it begins, by the template
where it has a switch for that, whatever its name, else by ``<think></think>`` in front of the response (ZeroThink;
Jiang et al. 2025, arXiv:2502.12025). ``forced``: the response begins inside an open ``<think>``. ``none``: no tags at
all; the response begins behind ``Answer:``, as multiple choice is asked zero-shot.
"""

PARTS = ("reasoning", "trace", "answer", "response")
"""The parts of a response that can be judged or graded.

``reasoning``: the trace, or the answer where there is no trace (ZeroThink reasons there, if anywhere); ``trace``: the
trace alone, nothing where there is none; ``answer``: what follows the trace; ``response``: all of it.
"""

OPENER, CLOSER, CUE = "<think>", "</think>", "Answer:"
# Thinking at the end of a prompt: opened, closed, or both at once.
_NO_THINKING = re.compile(rf"(?:{OPENER}\s*)?{CLOSER}\s*$|{OPENER}\s*$")
_TAIL = 16  # tokens: a tag and the white space behind it, whatever the tokenizer makes of them


class SplitResponse(NamedTuple):
    """A response in two parts, neither with its tags, white space at the ends taken off."""

    trace: str
    answer: str


def split_trace(response: str, *, opened: bool = False) -> SplitResponse:
    """Return the trace and the answer of a response.

    The answer is what follows the last closer, as for grading. A trace that was cut off has an opener, here or in the
    prompt, and no closer: then there is no answer. Without any tag all of it is the answer. What stands in front of an
    opener is part of the trace: it was said before the answer.

    Args:
        response: What the model wrote.
        opened: Whether the prompt ended inside an open ``<think>`` (see ``prompt_opens``).
    """
    before, closed, after = response.rpartition(CLOSER)
    if not closed:
        if opened or OPENER in response:
            return SplitResponse(_without_tags(response), "")
        return SplitResponse("", response.strip())
    answer, reopened, more = after.partition(OPENER)
    parts = [before, more] if reopened else [before]
    return SplitResponse("\n".join(filter(None, map(_without_tags, parts))), answer.strip())


def _without_tags(text: str) -> str:
    return text.replace(OPENER, "").replace(CLOSER, "").strip()


def prompt_opens(prompt: str) -> bool:
    """Return whether a prompt's text ends inside an open ``<think>``: then the response begins with its trace."""
    return prompt.rfind(OPENER) > prompt.rfind(CLOSER) and not prompt.rpartition(OPENER)[2].strip()


def ids_open(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return what ``prompt_opens`` says of a prompt that is there as token ids."""
    return prompt_opens(str(tokenizer.decode(list(ids[-_TAIL:]))))


def render_prompt(
    problem: str, tokenizer: "PreTrainedTokenizerBase", *, think: str = "free", chat_template: Asked = True
) -> str:
    """Return a prompt's text: the chat template's user turn and generation prompt, or the problem and a newline.

    Args:
        problem: The problem's text.
        tokenizer: The tokenizer.
        think: The think mode (see ``THINK``).
        chat_template: Whether to use the tokenizer's chat template, where it has one; or how problems are asked
            (``mastlens.problems.asking.Asking``), which says that and more.

    Raises:
        MastlensError: For a think mode that does not exist.
    """
    if think not in THINK:
        raise unknown("think mode", think, THINK)
    asking = Asking.of(chat_template)
    if not has_template(tokenizer, chat_template):
        problem = asking.text(problem)
        # Without a template the cue closes the question itself, in the form that multiple choice has it.
        if think == "none":
            return problem.rstrip() if problem.rstrip().endswith(CUE) else f"{problem}\n{CUE}"
        return problem + "\n" + {"free": "", "empty": f"{OPENER}{CLOSER}\n\n", "forced": f"{OPENER}\n"}[think]
    turns = asking.turns(problem)
    if think == "free":
        return apply_template(tokenizer, turns, add_generation_prompt=True)
    switches = dict.fromkeys(thinking_switches(tokenizer), think != "empty")
    text = apply_template(tokenizer, turns, add_generation_prompt=True, **switches)
    if think == "empty" and text.rstrip().endswith(CLOSER):
        return text
    if think == "empty":
        return f"{text}{CLOSER}\n\n" if prompt_opens(text) else f"{text}{OPENER}{CLOSER}\n\n"
    if think == "forced":
        return text if prompt_opens(text) else f"{_NO_THINKING.sub('', text)}{OPENER}\n"
    return _NO_THINKING.sub("", text) + CUE


def special_tags(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """Return the tags of thinking that are special tokens of a tokenizer, by their ids."""
    return {
        token: tag
        for token, tag in ((tokenizer.convert_tokens_to_ids(tag), tag) for tag in (OPENER, CLOSER))
        if token in tokenizer.all_special_ids and token != tokenizer.unk_token_id
    }


def decode_response(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the text of a response without special tokens, but for the tags of its thinking, which may be such."""
    tags = special_tags(tokenizer)
    if tags.keys().isdisjoint(ids):
        return _plain_text(ids, tokenizer)
    text, part = "", []
    for token in ids:
        if token in tags:
            text, part = text + _plain_text(part, tokenizer) + tags[token], []
        else:
            part.append(token)
    return text + _plain_text(part, tokenizer)


def _plain_text(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def has_template(tokenizer: "PreTrainedTokenizerBase", chat_template: Asked = True) -> bool:
    """Return whether prompts are written by the tokenizer's chat template."""
    return bool(chat_template and getattr(tokenizer, "chat_template", None))


def answer_ids(text: str, tokenizer: "PreTrainedTokenizerBase", *, think: str = "free") -> tuple[int, ...]:
    """Return the token ids of an answer that follows a prompt of this think mode.

    Behind the cue of ``none`` an answer has a space in front; it is tokenised together with the cue, because some
    tokenizers put a space in front of every text of their own.
    """
    if think != "none":
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    cue = tokenizer(CUE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{CUE} {text}", add_special_tokens=False)["input_ids"]
    if list(whole[: len(cue)]) == list(cue):
        return tuple(whole[len(cue) :])
    return tuple(tokenizer(f" {text}", add_special_tokens=False)["input_ids"])
