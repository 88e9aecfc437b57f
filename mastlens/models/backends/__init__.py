"""One view of a model, three ways to it: plain Hugging Face, TransformerLens' TransformerBridge, nnsight.

What each can show:

| name | plain | transformer_lens | nnsight |
|---|---|---|---|
| x, q, k, v, q_normed, k_normed, z, out | yes | yes | yes |
| resid_pre, resid_mid, resid_post, mlp_in, mlp_hidden, mlp_out | yes | yes | yes |
| embed, ln_final, logits (layer -1) | yes | yes, logits unless they are scaled or capped behind the embedding | yes |
| q_rot, k_rot, scores, pattern | where the model chooses its attention function by name | most | as plain |
| the user's own ``model(...)`` inside the block | yes | no: ``view.logits``, ``view.loss`` | no: the same |
| runs on | the user's model | a second module tree around the same parameters | as transformer_lens |
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from mastlens.errors import MissingPackage, unknown
from mastlens.models.backends.recording import Recorder
from mastlens.models.backends.sites import Anatomy
from mastlens.models.backends.stream import same_weights as same_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BACKENDS = ("plain", "transformer_lens", "nnsight")
"""The ways to watch a model."""


@runtime_checkable
class Backend(Protocol):
    """A way to watch a model.

    Attributes:
        model: The user's model.
    """

    model: Any

    def names(self, layer: int) -> tuple[str, ...]:
        """Return the activations that can be watched in a layer."""
        ...

    def watching(self, recorder: Recorder) -> AbstractContextManager[None]:
        """Be ready to record; whatever that needs is gone when the block ends."""
        ...

    def forward(self, recorder: Recorder, inputs: dict[str, Any]) -> Tensor:
        """Run the model, record, and return the logits."""
        ...

    def weight(self, name: str, layer: int) -> Tensor:
        """Return the stored parameter that holds a projection."""
        ...


def open_backend(name: str, model: "PreTrainedModel", anatomy: Anatomy) -> Backend:
    """Return a way to watch ``model``; only the package that it needs is imported.

    Raises:
        MastlensError: If there is no such backend, or its package is missing.
    """
    try:
        if name == "plain":
            from mastlens.models.backends.plain import PlainBackend

            return PlainBackend(model, anatomy)
        if name == "transformer_lens":
            from mastlens.models.backends.bridge import BridgeBackend

            return BridgeBackend(model, anatomy)
        if name == "nnsight":
            from mastlens.models.backends.traces import TraceBackend

            return TraceBackend(model, anatomy)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        extra = "lens" if name == "transformer_lens" else name
        raise MissingPackage(f'The backend {name} needs a package: pip install "mastlens[{extra}]".') from error
    raise unknown("backend", name, BACKENDS)
