"""Reflection tokens: the words with which a trace turns back on itself, and a penalty on them while decoding."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastlens.errors import BadSetting, unknown

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from mastlens.decoding.rolling import Choose

WORDS: dict[str, tuple[str, ...]] = {
    "code": (
        "<think>",
        *("Wait", "wait", "but", "Okay", "Hmm", "Albeit", "However", "But"),
        *("Yet", "Still", "Nevertheless", "Though", "Meanwhile", "Whereas"),
    ),
    "paper": (
        "<think>",
        *("wait", "but", "okay", "hmm", "albeit", "however", "yet", "still"),
        *("nevertheless", "though", "meanwhile", "whereas", "alternatively"),
    ),
    "tip": ("wait", "Wait", "but", "But", "Alternatively"),
}
"""Lists of reflection words: of R2MU's released code, of its paper (arXiv:2506.12963, appendix A.2), and of the
thought-switching penalty as CyclicReflex's code has it."""


@dataclass(frozen=True)
class ReflectionTokens:
    """The tokens of a list of words, in one tokenizer.

    Attributes:
        ids: Token ids, ascending.
        texts: What each of them is, in the same order.
        absent: Words that are no single token, with or without a space in front: they are left out.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    absent: tuple[str, ...]


def reflection_tokens(tokenizer: "PreTrainedTokenizerBase", words: str | Sequence[str] = "code") -> ReflectionTokens:
    """Return the tokens that write a word whole: as it is, and with a space in front.

    Looking words up in the vocabulary, as the released code does, gives the unknown token for words of several tokens
    and misses those with a space in front. Here a word is encoded both ways, and counts where that is one token that
    decodes to the word.

    Args:
        tokenizer: The tokenizer.
        words: A list by name (see ``WORDS``), or the words.

    Raises:
        MastlensError: For an unknown list, or if no word is a single token.
    """
    if isinstance(words, str):
        if words not in WORDS:
            raise unknown("list of reflection words", words, WORDS)
        words = WORDS[words]
    found: dict[int, str] = {}
    absent = []
    for word in words:
        hits = {}
        for text in (word, f" {word}"):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) == 1 and str(tokenizer.decode(ids)).strip() == word:
                hits[int(ids[0])] = str(tokenizer.decode(ids))
        found |= hits
        if not hits:
            absent.append(word)
    if not found:
        raise BadSetting(
            f"None of the {len(words)} reflection words ({', '.join(words[:5])}, ...) is a single token of this "
            "tokenizer: there is nothing to penalise. Give words that are, or leave the penalty out."
        )
    ids = sorted(found)
    return ReflectionTokens(tuple(ids), tuple(found[i] for i in ids), tuple(absent))


@dataclass(frozen=True)
class TokenPenalty:
    """A constant that is taken off some tokens' logits before a token is chosen, greedily or by a draw.

    Attributes:
        tokens: Token ids.
        amount: What is taken off; below 0 it is added. CyclicReflex's comparison takes 3.
        window: Only for so many tokens from the beginning of the response, and again from each listed token that it
            writes (a new thought begins there); None for the whole response.
    """

    tokens: tuple[int, ...]
    amount: float = 3.0
    window: int | None = None

    def __post_init__(self) -> None:
        if not self.tokens:
            raise BadSetting("A penalty needs tokens to penalise: see reflection_tokens.")
        if not math.isfinite(self.amount):
            raise BadSetting(f"The penalty is taken off logits: it must be a finite number, it is {self.amount}.")
        if self.window is not None and self.window < 1:
            raise BadSetting(f"The window of a penalty is at least 1 token, it is {self.window}.")

    def before(self, choose: "Choose") -> "Choose":
        """Return what picks the next tokens after the penalty; it follows one run of the decoding loop."""
        import torch

        tokens, listed = torch.tensor(self.tokens), frozenset(self.tokens)
        begun: dict[int, int] = {}  # item to the step at which its present thought began

        def penalised(logits: "Tensor", items: Sequence[int], steps: Sequence[int]) -> "Tensor":
            rows = [
                row
                for row, (item, step) in enumerate(zip(items, steps, strict=True))
                if self.window is None or step < begun.get(item, 0) + self.window
            ]
            if rows:
                places = torch.tensor(rows, device=logits.device)[:, None], tokens.to(logits.device)[None]
                logits = logits.index_put(places, logits[places] - self.amount)
            chosen = choose(logits, items, steps)
            if self.window is not None:
                for item, step, token in zip(items, steps, chosen.tolist(), strict=True):
                    if token in listed:
                        begun[item] = step + 1
            return chosen

        return penalised


def reflection_penalty(
    tokenizer: "PreTrainedTokenizerBase",
    amount: float = 3.0,
    *,
    words: str | Sequence[str] = "code",
    window: int | None = None,
) -> TokenPenalty:
    """Return the penalty on a list of reflection words, for ``generate``.

    Args:
        tokenizer: The model's tokenizer.
        amount: What is taken off their logits.
        words: A list by name (see ``WORDS``), or the words.
        window: Tokens for which it lasts; None for the whole response.
    """
    return TokenPenalty(reflection_tokens(tokenizer, words).ids, amount, window)
