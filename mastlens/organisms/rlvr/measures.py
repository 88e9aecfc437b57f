"""What is measured of a round of responses over the whole vocabulary: divergence from a reference, and entropy."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 64  # responses whose distributions over the vocabulary are held at once


def whole(batch: dict[str, Any]) -> "tuple[Tensor, Tensor, int]":
    """Return prompts with responses, their attention mask, and how many of the positions are the responses'."""
    import torch

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    return ids, attention, batch["completion_ids"].size(1)


def divergence(model: Any, reference: Any, batch: dict[str, Any]) -> float:
    """Return the mean over the responses' tokens of KL(model || reference), each over the whole vocabulary, in nats.

    Args:
        model: The policy.
        reference: What it is held against; None for the model without its adapters.
        batch: Prompts and responses, as TRL keeps them.
    """
    from mastlens.models.divergence import reverse_kl

    def without_adapters(**inputs: Any) -> Any:
        with model.disable_adapter():
            return model(**inputs)

    return _mean_over_tokens(reverse_kl, batch, model, without_adapters if reference is None else reference)


def mean_entropy(model: Any, batch: dict[str, Any]) -> float:
    """Return the mean over the responses' tokens of the next-token distribution's entropy, in nats."""
    from torch.distributions import Categorical

    return _mean_over_tokens(lambda logits: Categorical(logits=logits).entropy(), batch, model)


def _mean_over_tokens(measure: "Callable[..., Tensor]", batch: dict[str, Any], model: Any, *others: Any) -> float:
    """Return the mean, over responses' tokens, of what is measured of models' logits, (tokens, vocabulary) each."""
    import torch

    ids, attention, keep = whole(batch)
    total, training = 0.0, model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(ids), CHUNK):
            rows = slice(start, start + CHUNK)
            counted = batch["completion_mask"][rows].bool()
            asked = {"input_ids": ids[rows], "attention_mask": attention[rows], "logits_to_keep": keep + 1}
            logits = [one(**asked).logits[:, :-1][counted].float() for one in (model, *others)]
            total += float(measure(*logits).double().sum())
    model.train(training)
    return total / max(int(batch["completion_mask"].sum()), 1)
