"""Chat templates: rendered the same on every day, asked for their thinking switches, and for how a turn ends.

Templates are programs of strangers. What one does is seen from what it writes, not from the model's name.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mastlens.errors import BadFile, MastlensError
from mastlens.runs.limits import bounded, check_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TODAY = datetime(2024, 7, 26)
"""What day it is in every prompt. Llama 3's template writes today's date into the system turn; this is the one that it
falls back on. Numbers that are measured tomorrow must come from the prompts of today."""

_DATE = re.compile(r"""\bstrftime_now\s*\(\s*(['"])(.*?)\1\s*\)""")
_SWITCH = re.compile(r"(?<![\w.'\"\[])(?:\w*think\w*|\w*reason\w*)(?![\w(])", re.IGNORECASE)
_MOST_SWITCHES = 16  # names that are tried: each is rendered twice, and real templates have one or two
_WHAT = "The chat template"
_SWITCHES: dict[str, tuple[str, ...]] = {}  # template to its switches: every prompt asks
_MARK = "Thus-it-is"


def dated_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the chat template with ``TODAY`` in the place of every date that it asks the clock for."""
    return _DATE.sub(lambda found: repr(TODAY.strftime(found[2])), tokenizer.get_chat_template())


def dated_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """Return a tokenizer for a library that renders prompts by itself: it writes ``TODAY`` where ours do.

    Where the template asks no clock, it is the same object; else a copy, and the original stays as it is.
    """
    if not getattr(tokenizer, "chat_template", None) or dated_template(tokenizer) == tokenizer.get_chat_template():
        return tokenizer
    dated = copy.deepcopy(tokenizer)
    dated.chat_template = dated_template(tokenizer)
    return dated


class TemplateRefused(BadFile):
    """A chat template that cannot be read, or refuses what it is given."""


def apply_template(tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Mapping[str, str]], **given: Any) -> str:
    """Return the text of some turns, the same on every day.

    Args:
        tokenizer: One with a chat template.
        turns: ``role`` and ``content`` of each.
        given: What else the template is given, e.g. ``add_generation_prompt`` or a switch of its own.

    Raises:
        MastlensError: If it does not come to an end, or writes without one; if it is broken, or refuses the turns.
    """
    template = dated_template(tokenizer)
    try:
        with bounded(_WHAT):
            text = tokenizer.apply_chat_template(list(turns), chat_template=template, tokenize=False, **given)  # pyright: ignore[reportArgumentType]
    except MastlensError:
        raise
    except Exception as error:  # a template is a program of somebody else's: it can raise anything
        raise TemplateRefused(
            f"{_WHAT} cannot be used ({type(error).__name__}: {str(error)[:200]}). Mend it in tokenizer_config.json or "
            "chat_template.jinja, or leave it out with --no-chat-template."
        ) from error
    return check_length(str(text), _WHAT)


def thinking_switches(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Return the template's names that switch thinking on and off: ``enable_thinking``, ``thinking`` and the like.

    A name is one if the prompt differs by whether it is true or false, without the value itself being written.
    """
    template = str(tokenizer.chat_template or "")
    if template not in _SWITCHES:
        _SWITCHES[template] = _find_switches(template, tokenizer)
    return _SWITCHES[template]


def _find_switches(template: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    turns = [{"role": "user", "content": "?"}]
    found = []
    for name in list(dict.fromkeys(_SWITCH.findall(template)))[:_MOST_SWITCHES]:
        try:
            on, off = (
                apply_template(tokenizer, turns, add_generation_prompt=True, **{name: value}) for value in (True, False)
            )
        except TemplateRefused:  # no name that takes true and false
            continue
        if on != off and not any(word in text for text in (on, off) for word in ("True", "False")):
            found.append(name)
    return tuple(found)


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Return the special token that the template puts behind an answer; None where it puts none there.

    Fine-tuned base models often end a turn by a token that is not the tokenizer's end of sequence.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    try:
        _, said, rest = apply_template(tokenizer, turns).rpartition(_MARK)
    except TemplateRefused:  # a template without answers
        return None
    ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"] if said else []
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return int(ids[0]) if ids and (ids[0] in special or ids[0] in tokenizer.all_special_ids) else None
