"""A small byte-level BPE in Qwen2's form, trained on the organism's own corpus."""

import json
from collections.abc import Iterable
from pathlib import Path

END = "<|endoftext|>"
"""End of sequence."""

PAD = "<|pad|>"
"""Padding; another token than the end, so that a mask can be told from a text that stops."""


def train_tokenizer(texts: Iterable[str], vocab_size: int):
    """Train the merges with the very pre-tokenizer that Transformers will use on the folder.

    Transformers 5 gives every Qwen2 folder the class ``Qwen2Tokenizer`` with its own pre-tokenizer, whatever
    the files say. Merges learnt with another one would cut texts differently, so that class's is taken.

    Args:
        texts: The corpus.
        vocab_size: Tokens in all: the two special ones, 256 bytes, and merges.

    Returns:
        A ``transformers.Qwen2Tokenizer`` with end and padding, without a begin token or a chat template.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    blank = Qwen2Tokenizer()._tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer = blank.normalizer
    trained.pre_tokenizer = blank.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,  # pyright: ignore[reportArgumentType] - pairs are what the tokenizer takes
        unk_token=END,
        eos_token=END,
        pad_token=PAD,
        bos_token=None,
        model_max_length=256,
    )


def save_tokenizer(tokenizer, folder: Path) -> None:
    """Write the tokenizer's files into a folder."""
    tokenizer.save_pretrained(folder)
