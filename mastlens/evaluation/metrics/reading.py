"""What metrics read of a model, once for all of them: one forward pass over every text, and gradients if one asks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mastlens.errors import NotSupported
from mastlens.evaluation.metrics.items import ItemSet
from mastlens.evaluation.metrics.metric import ANSWERS, GRADIENTS, OPTIONS
from mastlens.models.batching import by_length
from mastlens.models.distributions import TokenStatistics, solution_statistics
from mastlens.models.likelihood import token_logprobs
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import EncodedProblem, check_tokenizer, encode_prompt
from mastlens.problems.thinking import answer_ids, decode_response
from mastlens.runs.files import sha256_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DIGITS = 16  # of a digest: enough to tell items apart


@dataclass(frozen=True)
class EncodedItems:
    """A split as token ids.

    Attributes:
        items: The items.
        texts: For each item its answer, the paraphrased one where there is one, and the wrong ones, each behind the
            item's prompt and with the end of sequence behind it, where the tokenizer has one.
        end: That end; None where there is none.
        decoded: Each item's answer as its tokens are decoded.
    """

    items: ItemSet
    texts: tuple[tuple[EncodedProblem, ...], ...]
    end: int | None
    decoded: tuple[str, ...]

    @property
    def text_digests(self) -> list[str]:
        """What tells an item from another: its prompt's problem and all answers, as text."""
        return [sha256_json([one.problem.problem, *one.texts])[:_DIGITS] for one in self.items.items]

    @property
    def token_digests(self) -> list[str]:
        """What tells whether two models read the same: an item's token ids."""
        return [sha256_json([[one.prompt, one.solution] for one in texts])[:_DIGITS] for texts in self.texts]


@dataclass(frozen=True)
class SplitReading:
    """What was read of a split.

    Attributes:
        encoded: The items.
        vocabulary: Number of tokens that the model chooses among.
        answers: What the model says of the tokens of each answer, its end included.
        others: Mean negative log-likelihood a token of each item's other answers, in their order; empty where they were
            not read.
        responses: What the model wrote; empty where that was not asked for.
        gradients: Mean over the model's parameters of the norm of the gradient of the answer's loss, its end left out;
            empty where it was not asked for.
        reference_losses: Mean negative log-likelihood a token of each answer under the reference model; empty where
            there is none.
    """

    encoded: EncodedItems
    vocabulary: int
    answers: tuple[TokenStatistics, ...]
    others: tuple[Float[np.ndarray, " texts"], ...] = ()
    responses: tuple[str, ...] = ()
    gradients: tuple[float, ...] = ()
    reference_losses: tuple[float, ...] = field(default=(), repr=False)

    @property
    def split(self) -> str:
        """The split's name."""
        return self.encoded.items.split

    @property
    def losses(self) -> Float[np.ndarray, " items"]:
        """Mean negative log-likelihood a token of each answer, its end included, in nats."""
        return np.array([_mean_loss(one.logprobs) for one in self.answers])

    @property
    def right_losses(self) -> Float[np.ndarray, " items"]:
        """That of the paraphrased answer where there is one, else of the answer itself."""
        pairs = zip(self.encoded.items.items, self.others, self.losses, strict=True)
        return np.array([others[0] if item.paraphrased else loss for item, others, loss in pairs])

    @property
    def wrong_losses(self) -> list[Float[np.ndarray, " texts"]]:
        """Those of each item's wrong answers."""
        pairs = zip(self.encoded.items.items, self.others, strict=True)
        return [others[1:] if item.paraphrased else others for item, others in pairs]

    def within(self, item: int) -> slice:
        """Return which tokens of an item's answer are text: all but the end of sequence."""
        solution = self.encoded.texts[item][0].solution
        ended = self.encoded.end is not None and bool(solution) and solution[-1] == self.encoded.end
        return slice(0, len(solution) - ended)

    @property
    def commonest(self) -> float:
        """Share of the commonest token among those of all answers: what always guessing it gets right."""
        tokens = [
            token for item, texts in enumerate(self.encoded.texts) for token in texts[0].solution[self.within(item)]
        ]
        return float(np.bincount(tokens).max() / len(tokens)) if tokens else float("nan")


def _mean_loss(logprobs: np.ndarray) -> float:
    return float(-logprobs.mean(dtype=np.float64)) if len(logprobs) else float("nan")


def encode_items(
    sets: Iterable[ItemSet],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    context: int | None = None,
    chat_template: Asked = True,
    think: str = "free",
    spec: str = "the model",
) -> list[EncodedItems]:
    """Return splits as token ids; prompts and answers are encoded as ``evaluate`` does.

    Args:
        sets: The splits.
        tokenizer: The tokenizer.
        context: The model's context length in tokens; None for no limit.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        think: The think mode of the prompts.
        spec: What to call the model in a message.

    Raises:
        MastlensError: If a text is longer than the context (with its line), or the tokenizer loses characters.
    """
    stated = tokenizer.eos_token_id
    end = None if stated is None else int(stated)  # pyright: ignore[reportArgumentType] - one id, whatever its type says
    found = []
    for one in sets:
        check_tokenizer(tokenizer, [item.problem for item in one.items], spec)
        rows, decoded = [], []
        for item in one.items:
            if one.texts:
                ids = tuple(tokenizer(item.problem.solution)["input_ids"])
                texts = (EncodedProblem(ids[:1], ids[1:]),)  # nothing predicts the first token, and no end is added
                solutions = [ids]
            else:
                prompt = encode_prompt(item.problem.problem, tokenizer, chat_template=chat_template, think=think)
                solutions = [answer_ids(text, tokenizer, think=think) for text in item.texts]
                closing = () if end is None else (end,)
                texts = tuple(EncodedProblem(prompt, solution + closing) for solution in solutions)
            longest = max(text.length for text in texts)
            if context is not None and longest > context:
                raise NotSupported(
                    f"{one.where(item)}: {longest} tokens with its longest answer, and the model's context is "
                    f"{context}. Shorten or remove it; it is not cut in silence."
                )
            rows.append(texts)
            decoded.append(decode_response(solutions[0], tokenizer))
        found.append(EncodedItems(one, tuple(rows), end, tuple(decoded)))
    return found


def read_splits(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedItems],
    needs: Mapping[str, Iterable[str]],
    *,
    responses: Mapping[str, Sequence[str]] | None = None,
    reference_losses: Mapping[str, Sequence[float]] | None = None,
    batch_size: int | str = 32,
    progress: bool = True,
) -> list[SplitReading]:
    """Return what the metrics need of every split; each text is read once.

    Args:
        model: The model, in evaluation mode.
        encoded: The splits.
        needs: Split to what is needed of it (see ``metric.NEEDS``).
        responses: Split to what the model wrote, where that is known.
        reference_losses: Split to the loss of each answer under the reference model, where that is known.
        batch_size: Texts a forward pass, or ``auto``; it does not change the result beyond rounding.
        progress: Show progress bars.
    """
    wanted = {one.items.split: set(needs.get(one.items.split, ())) for one in encoded}
    places, texts = [], []
    for row, one in enumerate(encoded):
        asked = wanted[one.items.split]
        for item, all_texts in enumerate(one.texts):
            kept = all_texts if OPTIONS in asked else all_texts[:1] if asked & {ANSWERS, GRADIENTS} else ()
            places += [(row, item)] * len(kept)
            texts += kept
    said = solution_statistics(model, texts, batch_size=batch_size, progress="log p(answers)" if progress else None)
    by_item: dict[tuple[int, int], list[TokenStatistics]] = {}
    for place, one in zip(places, said, strict=True):
        by_item.setdefault(place, []).append(one)
    head = model.get_output_embeddings() or model.get_input_embeddings()  # a model may give only its logits away
    vocabulary = len(next(head.parameters()))
    found = []
    for row, one in enumerate(encoded):
        split = one.items.split
        items = [by_item.get((row, item), []) for item in range(len(one.texts))]
        read = SplitReading(
            one,
            vocabulary,
            answers=tuple(texts[0] for texts in items if texts),
            others=tuple(np.array([_mean_loss(text.logprobs) for text in texts[1:]]) for texts in items if texts),
            responses=tuple((responses or {}).get(split, ())),
            reference_losses=tuple((reference_losses or {}).get(split, ())),
        )
        if GRADIENTS in wanted[split]:
            answers = [
                EncodedProblem(texts[0].prompt, texts[0].solution[read.within(item)])
                for item, texts in enumerate(one.texts)
            ]
            norms = gradient_norms(model, answers, progress=f"gradients of {split}" if progress else None)
            read = SplitReading(**{**vars(read), "gradients": tuple(norms)})
        found.append(read)
    return found


def gradient_norms(
    model: "PreTrainedModel", encoded: Sequence[EncodedProblem], *, progress: str | None = None
) -> list[float]:
    """Return for each text the mean over the model's parameters of the norm of the gradient of its mean loss.

    One text a backward pass. The model's ``requires_grad`` flags are as before when it returns, or fails; no gradient
    is left behind.

    Args:
        model: The model, in evaluation mode.
        encoded: The texts.
        progress: Label of a progress bar; None for none.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    floats = [parameter for parameter, _ in flags if parameter.is_floating_point()]
    norms = [float("nan")] * len(encoded)
    reached = [item for item, text in enumerate(encoded) if text.solution]
    try:
        for parameter in floats:
            parameter.requires_grad_(True)
        batches = by_length(model, [encoded[item] for item in reached], 1, progress, backward=True)
        for items, batch in batches:
            with batches.fitting(), torch.enable_grad():
                loss = -token_logprobs(model, batch).values.mean()
                gradients = torch.autograd.grad(loss, floats, allow_unused=True)
                each = [gradient.float().norm() for gradient in gradients if gradient is not None]
                norms[reached[items[0]]] = float(torch.stack(each).double().mean())
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    return norms
