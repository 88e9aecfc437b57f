"""A model whose attention, MLPs and residual stream can be watched, differentiated and changed.

    >>> hooked = HookedModel(model)
    >>> with hooked.watch("q", "k_rot", "pattern", "z", layers=[3, 5], gradients=True) as view:
    ...     view.loss(input_ids).backward()
    >>> view["pattern", 3], view.grad("q", 5), hooked.heads("q", 3)

The names are the same in every architecture and through every backend (see ``mastlens.models.backends``):

| name | what | shape |
|---|---|---|
| ``x`` | what enters the attention layer: the input of q, k and v | [batch, pos, hidden] |
| ``q``, ``k``, ``v`` | straight out of the projection, bias included | [batch, pos, heads, head_dim] |
| ``q_normed``, ``k_normed`` | after the q or k norm, where there is one | [batch, pos, heads, head_dim] |
| ``q_rot``, ``k_rot`` | what enters the scores: after RoPE, behind a cache's | [batch, pos, heads, head_dim] |
| ``scores`` | what the softmax sees: scaled, capped, masked | [batch, heads, query, key] |
| ``pattern`` | what the softmax gives, before dropout | [batch, heads, query, key] |
| ``z`` | each head's mix of values: the input of o | [batch, pos, heads, head_dim] |
| ``out`` | the output of o | [batch, pos, hidden] |
| ``resid_pre``, ``resid_post`` | the residual stream before and behind the block | [batch, pos, hidden] |
| ``resid_mid`` | the stream between attention and MLP, where they follow each other | [batch, pos, hidden] |
| ``mlp_in``, ``mlp_out`` | what the MLP reads (behind a norm, if there is one) and gives | [batch, pos, hidden] |
| ``mlp_hidden`` | the MLP's hidden layer, behind its nonlinearity and gate | [batch, pos, mlp hidden] |
| ``embed`` | what the embedding gives; of layer -1, as the next two | [batch, pos, hidden] |
| ``ln_final`` | what the output embedding reads: the stream behind the final norm | [batch, pos, hidden] |
| ``logits`` | what the model returns | [batch, pos, vocab] |

k and v have as many heads as there are key-value heads; scores, pattern and z have the query heads. Latent and gated
attention have more (``q_a``, ``kv_a``, ``k_rope``, ``gate``): what these projections put out. Scores are exactly the
softmax's input: a model with attention sinks has taken a constant from each row. ``names`` lists what a layer has.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mastlens.architectures.rotation import positions_of
from mastlens.errors import BadSetting, NotFound, NotSupported, UnknownName, unknown
from mastlens.models.backends import Backend, open_backend
from mastlens.models.backends.recording import Point, Recorder, Seen
from mastlens.models.backends.sites import Anatomy
from mastlens.models.backends.stream import OF_MODEL, OUTSIDE
from mastlens.problems.encoding import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_IGNORED = -100  # a target that no loss counts


class View:
    """What was seen in the last forward pass inside a ``watch`` block; it stays readable after the block.

    ``view["q", 3]`` is the activation q of layer 3. With ``gradients=True`` it is part of the graph, else detached.
    """

    def __init__(self, backend: Backend, recorder: Recorder):
        self._backend, self._recorder = backend, recorder

    @property
    def points(self) -> tuple[Point, ...]:
        """What is watched: (name, layer), by layer."""
        return self._recorder.points

    def __getitem__(self, point: Point) -> Tensor:
        return self._seen(point).value

    def grad(self, name: str, layer: int) -> Tensor:
        """Return the gradient that the last backward pass brought to an activation, in the activation's shape.

        Raises:
            MastlensError: If gradients are not watched, or none has come yet.
        """
        seen = self._seen((name, layer))
        if not seen.gradient:
            why = (
                "call loss.backward() or view.gradients(loss) first"
                if self._recorder.gradients
                else "watch with gradients=True"
            )
            raise NotFound(f"There is no gradient of {name} in layer {layer}: {why}.")
        return seen.placement.read(seen.gradient[0])

    def gradients(self, loss: Float[Tensor, ""], *, retain_graph: bool = False) -> dict[Point, Tensor]:
        """Differentiate ``loss`` with respect to everything that is watched, and nothing else.

        No parameter's ``.grad`` is touched. What the loss does not depend on has gradient zero. ``grad`` gives the
        same tensors afterwards.

        Args:
            loss: A number that came out of a forward pass inside the block.
            retain_graph: Keep the graph for another backward pass.

        Raises:
            MastlensError: If gradients are not watched, or nothing has been seen yet.
        """
        if not self._recorder.gradients:
            raise BadSetting("There are no gradients here: watch with gradients=True.")
        seen = {id(one.raw): one for one in map(self._seen, self.points)}
        found = torch.autograd.grad(
            loss,
            [one.raw for one in seen.values()],
            retain_graph=retain_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        for one, gradient in zip(seen.values(), found, strict=True):
            one.gradient[:] = [gradient]
        return {point: self.grad(*point) for point in self.points}

    def logits(
        self, input_ids: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos vocab"]:
        """Run the model and return its logits. With the plain backend, calling the model itself is as good.

        Args:
            input_ids: Token ids.
            attention_mask: 1 where there is a token. Where padding stands in front, positions count from the first
                token of each row, as they do without padding.
        """
        inputs = {"input_ids": input_ids}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
            takes = "position_ids" in inspect.signature(self._backend.model.forward).parameters
            if takes and not bool(attention_mask[:, 0].all()):
                inputs["position_ids"] = positions_of(attention_mask)
        return self._backend.forward(self._recorder, inputs)

    def loss(self, batch: Batch | Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
        """Run the model and return the mean negative log-likelihood a token, in nats and float32.

        Args:
            batch: Problems, of which the solution's tokens count; or token ids, of which all but the first do.
        """
        if isinstance(batch, Batch):
            logits = self.logits(batch.input_ids, batch.attention_mask.long())
            targets = batch.input_ids.masked_fill(~batch.is_solution, _IGNORED)
        else:
            logits, targets = self.logits(batch), batch
        # The targets move, not the logits: cutting off the last logits would copy all of them.
        targets = torch.nn.functional.pad(targets, (0, 1), value=_IGNORED)[:, 1:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_IGNORED)

    @property
    def table(self) -> pd.DataFrame:
        """One row a watched activation: layer, name, shape, norm, and the gradient's norm where there is one."""
        rows = []
        for name, layer in self.points:
            seen = self._seen((name, layer))
            value = seen.value.detach()
            finite = value[value > torch.finfo(value.dtype).min]  # masked scores say nothing about size
            row = {"layer": layer, "name": name, "shape": " x ".join(map(str, value.shape))}
            row["norm"] = float(torch.linalg.vector_norm(finite.double()))
            if seen.gradient:
                row["grad_norm"] = float(torch.linalg.vector_norm(self.grad(name, layer).double()))
            rows.append(row)
        return pd.DataFrame(rows)

    def _seen(self, point: Point) -> Seen:
        if point not in self._recorder.points:
            raise unknown("watched activation", str(point), map(str, self._recorder.points))
        if point not in self._recorder.seen:
            why = (
                "the forward pass did not come by it"
                if self._recorder.seen
                else "no forward pass ran inside the block. Call view.loss(...) or view.logits(...) there; with the "
                "plain backend the model itself will do"
            )
            raise NotFound(f"{point[0]} of layer {point[1]} has not been seen: {why}.")
        return self._recorder.seen[point]


class HookedModel:
    """A causal language model of transformers, to be watched.

    Args:
        model: The model. It is never changed: outside of a ``watch`` block it is exactly what it was.
        backend: ``plain``, ``transformer_lens`` or ``nnsight``.

    Raises:
        MastlensError: For an architecture or a backend that is not known, or whose package is missing.
    """

    def __init__(self, model: "PreTrainedModel", backend: str = "plain"):
        self.model = model
        self._anatomy = Anatomy(model)
        self._backend = open_backend(backend, model, self._anatomy)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have attention."""
        return self._anatomy.layers

    @property
    def final_norm(self) -> torch.nn.Module | None:
        """The norm behind the last block, whose output the output embedding reads; None where there is no such one."""
        path = self._anatomy.passages.final
        return self.model.get_submodule(path) if path else None

    def names(self, layer: int) -> tuple[str, ...]:
        """Return the names of the activations of a layer, in the order in which they arise; -1 is outside of them."""
        self._check_layer(layer)
        return self._backend.names(layer)

    def weight(self, name: str, layer: int) -> Float[Tensor, "rows cols"]:
        """Return a projection's matrix, (out, in): a view of the model's parameter wherever its layout allows one."""
        return self._projection(name, layer).read(self._backend.weight(name, layer))

    def has_bias(self, name: str, layer: int) -> bool:
        """Return whether a projection adds a bias."""
        return bool(self._projection(name, layer).bias)

    def heads(self, name: str, layer: int) -> Float[Tensor, "heads _ _"]:
        """Return a projection by heads: [heads, head_dim, in] for q, k and v; [heads, out, head_dim] for o."""
        return self._projection(name, layer).heads_of(self._backend.weight(name, layer))

    @contextmanager
    def watch(
        self,
        *names: str,
        layers: int | Iterable[int] | None = None,
        gradients: bool = False,
        replace: Mapping[Point, Callable[[Tensor], Tensor]] | None = None,
    ) -> Iterator[View]:
        """Watch activations in every forward pass inside the block; hooks are gone when it ends, however it ends.

        The model computes with its own attention function, except while ``scores`` or ``pattern`` are watched:
        these exist only in the eager one.

        Args:
            names: What to watch; without any, everything that the layer has.
            layers: Where; without it all layers, and -1 for what stands outside of them.
            gradients: Keep the activations in the graph, so that ``grad`` and ``gradients`` can be asked. It works
                with frozen parameters too, and needs no change to them.
            replace: (name, layer) -> function of the activation; the model goes on with what it returns.
                Activations are seen after their replacement.

        Raises:
            MastlensError: For a name or a layer that the model or the backend does not have.
        """
        checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())
        if gradients and self.model.training and checkpointed:
            raise NotSupported(
                "Gradients of activations cannot be watched under gradient checkpointing, which computes them twice. "
                "Switch it off, or call model.eval() first."
            )
        chosen = (*self.layers, OUTSIDE) if layers is None else (layers,) if isinstance(layers, int) else tuple(layers)
        points = []
        for layer in sorted(set(chosen)):
            available = self.names(layer)
            for name in names:
                if layers is not None or (name in OF_MODEL) == (layer == OUTSIDE):
                    self._check_point(name, layer)
            points += [(name, layer) for name in available if not names or name in names]
        for point in replace or {}:
            self._check_point(*point)
        recorder = Recorder(tuple(points), gradients, dict(replace or {}))
        with self._backend.watching(recorder):
            yield View(self._backend, recorder)

    def _check_layer(self, layer: int) -> None:
        if layer not in (*self.layers, OUTSIDE):
            shown = ", ".join(map(str, self.layers))
            raise UnknownName(
                f"There is no layer {layer} with attention. Layers with attention: {shown}; -1 is outside of them."
            )

    def _check_point(self, name: str, layer: int) -> None:
        if name not in self.names(layer):
            raise unknown(f"activation in layer {layer} through this backend", name, self.names(layer))

    def _projection(self, name: str, layer: int):
        self._check_layer(layer)
        if (name, layer) not in self._anatomy.projections:
            here = [n for n, at in self._anatomy.projections if at == layer]
            raise unknown(f"projection in layer {layer}", name, here)
        return self._anatomy.projections[name, layer]
