"""Forget gradients taken where forgetting is worst: at moved weights, or with disturbed hidden states.

What a step reports of its losses is always that of the weights and states as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mastlens.errors import BadSetting
from mastlens.unlearning.masters import Masters
from mastlens.unlearning.objectives import Objective, OutputObjective
from mastlens.unlearning.orthogonal import gradients_of
from mastlens.unlearning.passes import Passes
from mastlens.unlearning.robustness import Robustness

T = TypeVar("T")
_LEAST = 1e-12  # a gradient or state smaller than this has no direction


def check_robust(objective: Objective, robust: Robustness | None) -> None:
    """Raise unless an objective can be hardened like this."""
    if robust is None:
        return
    robust.check()
    if objective.token_weights is not None:
        raise BadSetting(
            "Token weights are learnt from each pass of the forget side, and a hardened step takes several: leave "
            "--token-weights out, or --sharpness, --smoothing and --latent-noise."
        )
    if robust.latent_noise and not isinstance(objective, OutputObjective):
        raise BadSetting(
            f"{objective.name} steers the hidden states that --latent-noise would disturb. Use --sharpness or "
            "--smoothing, or an objective on the model's output."
        )


class Hardening:
    """Adds the gradients of a forget term as ``Robustness`` says.

    Of an objective on the model's output the retain term is left alone, as in Fan et al. (2025); one that steers
    activations has one term, and it is hardened as a whole.

    Args:
        robust: How.
        masters: What is learnt.
        passes: What reads the texts.
        seed: With the number of the step, decides what is drawn.
    """

    def __init__(self, robust: Robustness, masters: Masters, passes: Passes, seed: int):
        self.robust, self.masters, self.seed = robust, masters, seed
        self.latent: LatentNoise | None = None
        if robust.latent_noise:
            layers = passes.layers
            layer = len(layers) // 2 if robust.latent_layer is None else robust.latent_layer
            if not 0 <= layer < len(layers):
                raise BadSetting(f"There is no layer {layer}: the model has {len(layers)}, counted from 0.")
            self.latent = LatentNoise(passes, layers[layer], robust.latent_noise)

    def __call__(self, step: int, term: Callable[[], T]) -> T:
        """Add the hardened gradients of a term; return what it gives for the weights and states as they are.

        Args:
            step: Number of the step.
            term: Adds the gradients of the term to the masters, where so far there are none.
        """
        generator = torch.Generator().manual_seed(_seed(self.seed, step))
        if self.latent is not None:
            return self._disturbed(self.latent, generator, term)
        value = term()
        if self.robust.sharpness:
            self._sharpest(term)
        else:
            self._smoothed(generator, term)
        return value

    def _sharpest(self, term: Callable[[], Any]) -> None:
        gradient = gradients_of(self.masters.parameters)
        size = norm_of(gradient)
        if size < _LEAST:
            return
        with self._moved([part * (self.robust.sharpness / size) for part in gradient]):
            self.masters.drop_gradients()
            term()

    def _smoothed(self, generator: torch.Generator, term: Callable[[], Any]) -> None:
        parameters = self.masters.parameters
        mean = [torch.zeros_like(parameter) for parameter in parameters]
        for _ in range(self.robust.draws):
            noise = [torch.randn(p.shape, generator=generator).to(p) * self.robust.smoothing for p in parameters]
            with self._moved(noise):
                self.masters.drop_gradients()
                term()
            for into, part in zip(mean, gradients_of(parameters), strict=True):
                into.add_(part, alpha=1 / self.robust.draws)
        for parameter, gradient in zip(parameters, mean, strict=True):
            parameter.grad = gradient

    @contextmanager
    def _moved(self, by: Sequence[Tensor]) -> Iterator[None]:
        """Within, the selected tensors lie elsewhere; they come back from a copy, bit for bit."""
        parameters = self.masters.parameters
        kept = [parameter.detach().clone() for parameter in parameters]
        try:
            self.masters.restore([here + there for here, there in zip(kept, by, strict=True)])
            yield
        finally:
            self.masters.restore(kept)

    def _disturbed(self, latent: "LatentNoise", generator: torch.Generator, term: Callable[[], T]) -> T:
        fitting = self.robust.latent_steps
        with latent.active(None if fitting else generator):
            if not fitting:
                with latent.still():
                    value = term()
            else:
                value = term()  # nothing is disturbed yet, and this pass says whereto
                for number in range(fitting):
                    if number:
                        self.masters.drop_gradients()
                        term()
                    latent.climb(2 / fitting if fitting > 1 else 1.0)
            self.masters.drop_gradients()
            term()
        return value


class LatentNoise:
    """A disturbance of the states that a layer gives for the forget texts, token by token inside a ball.

    Args:
        passes: What reads the texts.
        layer: The layer.
        share: Radius of the ball, in shares of the size of each token's own state.
    """

    def __init__(self, passes: Passes, layer: nn.Module, share: float):
        self.passes, self.layer, self.share = passes, layer, share
        self.by_rows: dict[tuple[int, ...], Tensor] = {}
        """The disturbance of each batch of the step, by the numbers of its texts."""
        self._radii: dict[tuple[int, ...], Tensor] = {}
        self._resting = False

    @contextmanager
    def active(self, generator: torch.Generator | None) -> Iterator[None]:
        """Within, states are disturbed: in directions that are drawn, or not at all until it has climbed."""
        self.by_rows, self._radii = {}, {}

        def disturb(_: nn.Module, args: Any, output: Any) -> Any:
            side, rows = self.passes.reading
            if side != "forget" or self._resting or not torch.is_grad_enabled():
                return output
            states = output[0] if isinstance(output, tuple) else output
            if rows not in self.by_rows:
                self._begin(rows, states.detach().float(), generator)
            moved = states + self.by_rows[rows].to(states.dtype)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        handle = self.layer.register_forward_hook(disturb)
        try:
            yield
        finally:
            handle.remove()
            self.by_rows, self._radii = {}, {}

    def _begin(self, rows: tuple[int, ...], states: Tensor, generator: torch.Generator | None) -> None:
        self._radii[rows] = self.share * states.norm(dim=-1, keepdim=True)
        if generator is None:
            self.by_rows[rows] = torch.zeros_like(states).requires_grad_(True)
            return
        drawn = torch.randn(states.shape, generator=generator).to(states)
        self.by_rows[rows] = drawn / drawn.norm(dim=-1, keepdim=True).clamp_min(_LEAST) * self._radii[rows]

    @contextmanager
    def still(self) -> Iterator[None]:
        """Within, nothing is disturbed."""
        self._resting = True
        try:
            yield
        finally:
            self._resting = False

    @torch.no_grad()
    def climb(self, share: float) -> None:
        """Move each token's disturbance up the forget loss, by a share of its radius, and back into the ball."""
        for rows, noise in self.by_rows.items():
            if noise.grad is None:
                continue
            radius = self._radii[rows]
            along = noise.grad / noise.grad.norm(dim=-1, keepdim=True).clamp_min(_LEAST)
            moved = noise + share * radius * along
            size = moved.norm(dim=-1, keepdim=True).clamp_min(_LEAST)
            self.by_rows[rows] = (moved * (radius / size).clamp_max(1.0)).requires_grad_(True)


def norm_of(tensors: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of several tensors together, summed in float64."""
    return float(np.sqrt(sum(float(torch.linalg.vector_norm(each.detach().float())) ** 2 for each in tensors)))


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step, 4]).generate_state(1, np.uint64)[0] >> np.uint64(1))
