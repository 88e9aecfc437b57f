"""Direct logit attribution: what each part of a model writes to a logit difference, exactly, the norm's scale frozen.

The residual stream behind the last block is a sum: the embedding, and what each head and MLP wrote. The final norm
divides it by its size and the output embedding reads it, both linear once that size is taken as it is (Elhage et al.
2021, A Mathematical Framework for Transformer Circuits). So the difference of two logits is the sum of what each part
wrote, times one direction a token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mastlens.errors import NotSupported
from mastlens.models.backends.recording import Point
from mastlens.models.backends.stream import OUTSIDE
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import Head, counted_states
from mastlens.models.memory import float64_device
from mastlens.problems.encoding import Batch

Part = tuple[str, int, int]
"""Site, layer and head (-1 where it is none) of what writes to the stream."""

_FAR = 1e3  # a vector of this in every entry has a size that no norm's epsilon reaches


@dataclass(frozen=True)
class Readout:
    """The way from the stream to a logit difference, token by token.

    Attributes:
        direction: What the stream is multiplied with.
        constant: What is added to it: of biases of the final norm and of the output embedding.
    """

    direction: Float[Tensor, "tokens width"]
    constant: Float[Tensor, " tokens"]


@dataclass(frozen=True)
class Writes:
    """What a model made of a batch, at the tokens that are looked at; float64.

    Attributes:
        embed: The stream before the first block.
        attention: Layer to what its attention wrote.
        heads: Layer to what each head's mix of values is; without a layer where a norm stands behind the attention.
        mlp: Layer to what its MLP wrote.
        last: The stream behind the last block.
        inputs: (name, layer) to the stream at all positions, as it is handed from model to model.
        final: What the output embedding reads.
        head: The output embedding.
    """

    embed: Tensor
    attention: Mapping[int, Tensor]
    heads: Mapping[int, Tensor]
    mlp: Mapping[int, Tensor]
    last: Tensor
    inputs: Mapping[Point, Tensor]
    final: Tensor
    head: Head


class Writer:
    """A model, and what its parts write.

    Args:
        hooked: The model.
        name: What to call it in a message.

    Raises:
        MastlensError: If it has no final norm to be frozen, or a block that cannot be watched.
    """

    def __init__(self, hooked: HookedModel, name: str):
        self.hooked, self.name = hooked, name
        if hooked.final_norm is None:
            raise NotSupported(f"{name} has no final norm that its output embedding reads: what writes to its logits "
                               "cannot be told apart.")  # fmt: skip
        self.between = "resid_mid" in hooked.names(hooked.layers[0])
        lacking = [
            name for name in ("resid_pre", "resid_post", "mlp_out") if name not in hooked.names(hooked.layers[0])
        ]
        if lacking:
            raise NotSupported(f"{name} has no {lacking[0]} that can be watched: `HookedModel.names` says what it has.")
        self._known = False

    @torch.no_grad()
    def run(self, batch: Batch, at: Tensor, given: Mapping[Point, Tensor] | None = None) -> Writes:
        """Return what every part writes.

        Args:
            batch: The batch.
            at: True at the positions that are looked at.
            given: (name, layer) to the stream of another model: each block reads this, and not what its own model
                made below it. What it writes is then its own weights' answer to the other's input.
        """
        own: dict[Point, Tensor] = {}

        def handed(point: Point, value: Tensor) -> Callable[[Tensor], Tensor]:
            def replace(old: Tensor) -> Tensor:
                own[point] = old[at]
                return value

            return replace

        names = ["resid_pre", "z", "out", "mlp_out", "resid_post", *(["resid_mid"] if self.between else [])]
        replace = {point: handed(point, value) for point, value in (given or {}).items()}
        layers, wide = self.hooked.layers, float64_device(batch.input_ids.device)
        with self.hooked.watch(*names, replace=replace) as view:
            final, head = counted_states(self.hooked.model, batch, known=self._known, counted=at)
        self._known = head.embedding is not None

        def of(name: str, layer: int) -> Tensor:
            return view[name, layer][at].to(wide).double()

        def added(layer: int) -> Tensor:
            if not self.between:
                return of("out", layer)
            middle = own["resid_mid", layer] if ("resid_mid", layer) in own else view["resid_mid", layer][at]
            return middle.to(wide).double() - of("resid_pre", layer)

        attention = {layer: added(layer) for layer in layers}
        mlp = {
            layer: of("resid_post", layer) - of("resid_mid", layer) if self.between else of("mlp_out", layer)
            for layer in layers
        }
        heads = {layer: of("z", layer) for layer in layers if _same(attention[layer], of("out", layer))}
        first = own["resid_pre", layers[0]] if own else view["resid_pre", layers[0]][at]
        points = [
            (name, layer) for layer in layers for name in ("resid_pre", *(("resid_mid",) if self.between else ()))
        ]
        inputs = {} if given else {point: view[point] for point in points}
        return Writes(first.to(wide).double(), attention, heads, mlp, of("resid_post", layers[-1]), inputs, final, head)

    @torch.no_grad()
    def readout(self, writes: Writes, target: Int[Tensor, " tokens"], other: Int[Tensor, " tokens"]) -> Readout:
        """Return the way from the stream to logit(target) - logit(other), before a cap where the model has one."""
        embedding = writes.head.embedding
        if embedding is None:
            raise NotSupported(f"{self.name} does something of its own behind its last block: what writes to its "
                               "logits cannot be told apart.")  # fmt: skip
        wide = writes.last.device
        table = next(embedding.parameters()).detach()
        difference = (table[target].to(wide).double() - table[other].to(wide).double()) * self._factor(writes.head)
        scale, weight, bias, centred = _frozen(self.hooked.final_norm, writes.last)
        direction = scale[:, None] * weight * difference
        if centred:  # (r - mean of r) . g is r . (g - mean of g)
            direction = direction - direction.mean(dim=1, keepdim=True)
        constant = difference @ bias
        of_embedding = getattr(embedding, "bias", None)
        if of_embedding is not None:
            shift = of_embedding.detach().to(wide).double()
            constant = constant + (shift[target] - shift[other]) * self._factor(writes.head)
        return Readout(direction, constant)

    @torch.no_grad()
    def parts(self, writes: Writes, direction: Float[Tensor, "tokens width"]) -> dict[Part, Tensor]:
        """Return what each part writes along a direction, a number a token; together they are the stream along it."""
        found: dict[Part, Tensor] = {("embed", OUTSIDE, -1): (writes.embed * direction).sum(dim=1)}
        for layer, written in writes.attention.items():
            rest = (written * direction).sum(dim=1)
            if layer in writes.heads:
                weights = self.hooked.heads("o", layer).detach().to(direction.device).double()
                along = torch.einsum("td,hdi->thi", direction, weights)
                for head, value in enumerate((writes.heads[layer] * along).sum(dim=2).T):
                    found["z", layer, head] = value
                    rest = rest - value
            if layer not in writes.heads or self.hooked.has_bias("o", layer):  # else it is rounding
                found["out", layer, -1] = rest
            found["mlp_out", layer, -1] = (writes.mlp[layer] * direction).sum(dim=1)
        return found

    @staticmethod
    def _factor(head: Head) -> float:
        return (1.0 if head.factor is None else head.factor) / (1.0 if head.divisor is None else head.divisor)


def _frozen(norm: nn.Module | None, stream: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Return a norm as scale (a token), weight and bias (an entry), and whether it takes the mean out first."""
    assert norm is not None
    parameter = next(norm.parameters())
    width = stream.shape[1]
    if isinstance(norm, nn.LayerNorm):
        scale = (stream.var(dim=1, unbiased=False) + norm.eps).rsqrt()
        bias = stream.new_zeros(width) if norm.bias is None else norm.bias.detach().to(stream)
        return scale, norm.weight.detach().to(stream), bias, True
    # Some norms multiply by their weight and some by one more: what it makes of equal entries says which.
    weight = norm(torch.full((1, 1, width), _FAR, dtype=parameter.dtype, device=parameter.device))[0, 0].to(stream)
    epsilon = float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)))
    return (stream.square().mean(dim=1) + epsilon).rsqrt(), weight, stream.new_zeros(width), False


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether the stream moved by what a module gave, as far as rounding tells, in bfloat16 too."""
    return bool(torch.linalg.vector_norm(a - b) <= 1e-2 * torch.linalg.vector_norm(b))


def logit_difference(
    writes: Writes, target: Int[Tensor, " tokens"], other: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Return logit(target) - logit(other) as the model's own output embedding gives it, before a cap; float64."""
    head = Head(writes.head.embedding)
    head.divisor, head.factor = writes.head.divisor, writes.head.factor
    found = []
    for part in head.parts(writes.final):
        logits = head(writes.final[part]).float()
        pair = (logits.gather(1, ids[part, None])[:, 0].to(writes.last.device).double() for ids in (target, other))
        found.append(next(pair) - next(pair))
    return torch.cat(found)


@torch.no_grad()
def strongest_other(writes: Writes, target: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
    """Return the most probable token of each place beside the target."""
    found: list[Tensor] = []
    for part in writes.head.parts(writes.final):
        logits = writes.head(writes.final[part]).float()
        found.append(logits.scatter(1, target[part, None], -torch.inf).argmax(dim=1))
    return torch.cat(found)


def summed(parts: Sequence[Tensor] | Mapping[Part, Tensor]) -> Tensor:
    """Return the sum of what all parts write."""
    values = list(parts.values()) if isinstance(parts, Mapping) else list(parts)
    return torch.stack(values).sum(dim=0)
