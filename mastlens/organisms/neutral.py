"""Plain sentences without any mathematics: perplexity on them shows damage beyond the benchmarks."""

import hashlib
import random
from itertools import product

_WHO = ("the old man", "a cat", "the cook", "a bird", "the child", "a friend", "the dog", "the queen")
_HOW = ("often", "never", "gladly", "slowly", "always", "seldom")
_DOES = ("sings", "sleeps", "walks", "waits", "reads", "rests", "plays", "works")
_WHERE = ("by the lake", "in the garden", "under a tree", "near the river", "at home", "on the hill")
_WHEN = ("in the morning", "at night", "when it rains", "in winter", "after lunch", "before dawn")

EVAL_HUNDREDTHS = 15
"""Share of all sentences, in hundredths, that never enters a corpus."""


def _held_out(sentence: str) -> bool:
    digest = hashlib.sha256(sentence.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < EVAL_HUNDREDTHS


def neutral_sentences(held_out: bool) -> list[str]:
    """Return every sentence of the grammar on one side of the split, in a fixed order."""
    made = (
        f"{when[0].upper()}{when[1:]} {who} {how} {does} {where}."
        for who, how, does, where, when in product(_WHO, _HOW, _DOES, _WHERE, _WHEN)
    )
    return [sentence for sentence in made if _held_out(sentence) == held_out]


def draw_neutral(count: int, held_out: bool, seed: int) -> list[str]:
    """Draw short paragraphs of one to three sentences from one side of the split.

    Args:
        count: How many paragraphs.
        held_out: Whether they are made of sentences that no corpus contains.
        seed: What the draw depends on.
    """
    rng = random.Random(f"neutral {held_out} {seed}")
    sentences = neutral_sentences(held_out)
    return [" ".join(rng.sample(sentences, rng.randint(1, 3))) for _ in range(count)]
