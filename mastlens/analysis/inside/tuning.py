"""Training tuned lenses on part of the texts: one affine map a layer, by KL(what the model says || what is read off).

All numbers that are told of a pair are of the other part. What is trained is the format's A and b in units of the
states' spread, h + s (A' (h - m) / s + b') with m and s the mean and the standard deviation of each entry over the
tokens, so that one learning rate suits every layer of every model; it begins at the logit lens, A' = 0 and b' = 0. By
Adam, its rate falling to nothing. One model's states are held at a time, on the CPU: tokens x layers x width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from mastlens.analysis.inside.distances import divergence
from mastlens.analysis.inside.lenses import TunedLens
from mastlens.analysis.inside.looking import Texts
from mastlens.analysis.inside.reading import EMBED, batch_tokens, counted_tokens, read_states
from mastlens.errors import BadSetting, NotSupported
from mastlens.models.backends.recording import Point
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import Head
from mastlens.problems.encoding import EncodedProblem

HELD, SHARE = 2, 4
"""Prompts of a split that are held out at least, and one in so many of them."""
STEPS, BATCH = 250, 256
"""Steps of a translator, and tokens of each."""
_WEIGHTS, _BIAS = 1.0, 0.1
"""Learning rates: of A' over its width, so that a step moves a state alike at any width, and of b'."""


@dataclass(frozen=True)
class Lesson:
    """Texts that lenses are trained on, and those that are held out.

    Attributes:
        texts: Trained on, of all splits, in the order drawn.
        held: Split to the places of the texts that are held out.
        tokens: Solution tokens of ``texts``.
    """

    texts: Sequence[EncodedProblem]
    held: Mapping[str, list[int]]
    tokens: int


def lesson(texts: Texts, *, most: int, seed: int) -> Lesson:
    """Return texts to train lenses on, and texts to hold out: a quarter of each split's prompts, two at least.

    Texts of one prompt are on one side, in whichever split they stand.

    Args:
        texts: Split to its texts.
        most: Tokens that are trained on at most; one text is, however long.
        seed: Decides both.

    Raises:
        MastlensError: If a split has too few prompts, or all of them are held out.
    """
    every = sorted({ids.prompt for encoded in texts.values() for ids in encoded})
    drawn = np.random.default_rng([seed, len(every)]).permutation(len(every)).tolist()
    rank = dict(zip(every, drawn, strict=True))
    out: set[tuple[int, ...]] = set()
    for split, encoded in texts.items():
        own = sorted({ids.prompt for ids in encoded}, key=rank.__getitem__)
        if len(own) < 2 * HELD:
            raise _too_few(f"{split} has {len(own)}")
        out.update(own[: max(HELD, math.ceil(len(own) / SHARE))])
    if len(every) - len(out) < HELD:
        raise _too_few(f"of {len(every)} in all splits {len(every) - len(out)} are left to train on")
    held = {split: [i for i, ids in enumerate(encoded) if ids.prompt in out] for split, encoded in texts.items()}
    left = sorted({ids for encoded in texts.values() for ids in encoded if ids.prompt not in out}, key=_order(rank))
    ends = np.cumsum([counted_tokens(ids) for ids in left])
    count = max(1, int((ends <= most).sum()))
    return Lesson(left[:count], held, int(ends[count - 1]))


def _order(rank: Mapping[tuple[int, ...], int]) -> Callable[[EncodedProblem], tuple[int, tuple[int, ...]]]:
    return lambda ids: (rank[ids.prompt], ids.solution)


def _too_few(what: str) -> BadSetting:
    return BadSetting(
        f"Too few texts for a tuned lens: {what}, and each split needs {2 * HELD} texts of different prompts, of which "
        f"{HELD} at least are held out and the others trained on. Give more problems (or a higher --limit), or a lens "
        "that is trained already (--tuned-lens DIR)."
    )


def train_lens(
    hooked: HookedModel, taught: Lesson, name: str, *, batch_size: int | str, seed: int, progress: str | None
) -> TunedLens:
    """Train a tuned lens of a model.

    Args:
        hooked: The model; it stays as it is.
        taught: The texts.
        name: What the lens is called.
        batch_size: Texts a forward pass, or ``auto``; it does not change the result beyond rounding.
        seed: Decides which tokens each step sees; the same of every model and layer.
        progress: Label of a progress bar; None for none.

    Raises:
        MastlensError: If the model has no final norm and output embedding that a layer can be read through.
    """
    norm = hooked.final_norm
    states, final, head = _states(hooked, taught, batch_size, progress)
    if norm is None or head.embedding is None:
        raise NotSupported(f"{name} has no final norm and output embedding that a layer can be read through.")
    layers = int(hooked.model.config.get_text_config().num_hidden_layers)
    width = next(iter(states.values())).shape[1]
    weights, biases = torch.zeros(layers, width, width), torch.zeros(layers, width)
    generator = torch.Generator().manual_seed(seed)
    order = [torch.randint(len(final), (min(BATCH, len(final)),), generator=generator) for _ in range(STEPS)]
    for point in tqdm(list(states), desc=progress, disable=progress is None, unit="layer"):
        translator = train_translator(states.pop(point), final, norm, head, order)
        weights[point[1] + 1], biases[point[1] + 1] = translator
    return TunedLens(f"{taught.tokens} tokens", name, weights, biases)


@torch.no_grad()
def _states(
    hooked: HookedModel, taught: Lesson, batch_size: int | str, progress: str | None
) -> tuple[dict[Point, Tensor], Tensor, Head]:
    """Return what is translated, layer by layer, what the output embedding reads of the model itself, and that."""
    starts = np.cumsum([0, *(counted_tokens(ids) for ids in taught.texts)])
    kept: dict[Point, Tensor] = {}
    final, head = torch.empty(0), Head()
    last = int(hooked.model.config.get_text_config().num_hidden_layers) - 1
    batches = by_length(hooked.model, taught.texts, batch_size, progress)
    for items, batch in batches:
        with batches.fitting():
            read = read_states(hooked, batch, known=False)
            place = torch.from_numpy(batch_tokens(batch, items, starts).place)
            if not len(final):
                final, head = torch.empty(taught.tokens, read.final.shape[1], dtype=read.final.dtype), read.head
            final[place] = read.final.cpu()
            for point, value in read.stream.items():
                if point == EMBED or point[1] != last:
                    kept.setdefault(point, torch.empty(taught.tokens, value.shape[1], dtype=value.dtype))
                    kept[point][place] = value.cpu()
    return kept, final, head


def train_translator(
    states: Float[Tensor, "tokens width"],
    final: Float[Tensor, "tokens width"],
    norm: nn.Module,
    head: Head,
    order: Sequence[Tensor],
) -> tuple[Float[Tensor, "width width"], Float[Tensor, " width"]]:
    """Return A and b that make of a layer's states what final norm and output embedding read as the model does.

    Args:
        states: Of the layer.
        final: What the output embedding reads of the model itself, at the same tokens.
        norm: The final norm.
        head: From there to logits.
        order: The tokens of each step.
    """
    device = next(norm.parameters(), states).device
    mean, spread = states.float().mean(dim=0), states.float().std(dim=0, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    width, m, s = states.shape[1], mean.to(device), spread.to(device)
    linear = nn.Linear(width, width, device=device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    rates = ({"params": [linear.weight], "lr": _WEIGHTS / width}, {"params": [linear.bias], "lr": _BIAS})
    optimiser = torch.optim.Adam(rates)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / len(order))
    for places in order:
        target, wide = final[places].to(device), states[places].to(device).float()
        optimiser.zero_grad()
        for part in head.parts(target):
            made = wide[part] + s * linear((wide[part] - m) / s)
            seen = head(norm(made.to(states.dtype)[None])[0]).float().log_softmax(dim=1)
            with torch.no_grad():
                said = head(target[part]).float().log_softmax(dim=1)
            (divergence(said, seen).sum() / len(places)).backward()
        optimiser.step()
        schedule.step()
    weight = linear.weight.detach().cpu() * spread[:, None] / spread
    return weight, linear.bias.detach().cpu() * spread - weight @ mean
