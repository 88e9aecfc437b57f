"""A small byte-level BPE in Qwen2's form, trained on the organism's own corpus."""

import json
from collections.abc import Iterable

END = "<|endoftext|>"
"""End of sequence."""

PAD = "<|pad|>"
"""Padding; another token than the end, so that a mask can be told from a text that stops."""


TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
"""Around a turn of a dialogue, as in Qwen's models."""

THINK, END_OF_THOUGHT = "<think>", "</think>"
"""Around a reasoning trace; not special, so that decoding keeps them, as in Qwen3."""

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
"""Qwen3's template without tools and system turns."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, chat: bool = False):
    """Train the merges with the very pre-tokenizer that Transformers will use on the folder.

    Transformers 5 gives every Qwen2 folder the class ``Qwen2Tokenizer`` with its own pre-tokenizer, whatever
    the files say. Merges learnt with another one would cut texts differently, so that class's is taken.

    Args:
        texts: The corpus.
        vocab_size: Tokens in all: the special ones, 256 bytes, and merges.
        chat: Whether to add turns, a chat template and the tokens around a reasoning trace, as Qwen3 has them; a turn's
            end is then the end of sequence, and the end of text the padding.

    Returns:
        A ``transformers.Qwen2Tokenizer`` with end and padding, without a begin token.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    blank = Qwen2Tokenizer()._tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer = blank.normalizer
    trained.pre_tokenizer = blank.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, TURN, END_OF_TURN, THINK, END_OF_THOUGHT] if chat else [END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,  # pyright: ignore[reportArgumentType] - pairs are what the tokenizer takes
        unk_token=END,
        eos_token=END_OF_TURN if chat else END,
        pad_token=END if chat else PAD,
        bos_token=None,
        model_max_length=256,
    )
    if chat:
        tokenizer.add_special_tokens({"additional_special_tokens": [TURN]})
        for token in (THINK, END_OF_THOUGHT):
            tokenizer.add_tokens(AddedToken(token, special=False, normalized=False))  # pyright: ignore[reportArgumentType]
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
