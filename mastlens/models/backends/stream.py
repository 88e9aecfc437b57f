"""The residual stream: the blocks of a model, their MLPs, and where the stream passes between the two.

Where blocks and MLPs are, their names say. Where the stream between attention and MLP can be taken hold of, names do
not say: ``post_attention_layernorm`` reads it in Llama, and the attention's output in Gemma 2. So two tokens are sent
through a copy of the module tree, once, and only what was proven there is offered.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OUTSIDE = -1
"""The layer of what stands before and behind the blocks."""
OF_MODEL = ("embed", "ln_final", "logits")
"""The activations of the model as a whole, at layer ``OUTSIDE``."""

_MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")
_DOWN = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2")
_MOVE = 1.0  # what is added to the stream to see whether the block goes on with it


@dataclass(frozen=True)
class Block:
    """Paths of the modules of one block; empty where it has none.

    Attributes:
        path: The block.
        attention: Its child that holds the attention.
        mlp: Its MLP, or mixture of experts.
        down: The MLP's last projection, which reads the hidden layer; a mixture of experts has none of its own.
    """

    path: str
    attention: str
    mlp: str = ""
    down: str = ""

    @classmethod
    def around(cls, model: nn.Module, attention: str) -> "Block | None":
        """Return the block that an attention module stands in; None where it stands in no list of them."""
        parts = attention.split(".")
        for end in range(len(parts) - 1, 0, -1):
            if isinstance(model.get_submodule(".".join(parts[: end - 1])), nn.ModuleList):
                path = ".".join(parts[:end])
                block = model.get_submodule(path)
                mlp = next((name for name in _MLPS if isinstance(getattr(block, name, None), nn.Module)), "")
                inner = getattr(block, mlp) if mlp else block
                down = next((name for name in _DOWN if mlp and isinstance(getattr(inner, name, None), nn.Module)), "")
                paths = f"{path}.{mlp}" if mlp else "", f"{path}.{mlp}.{down}" if down else ""
                return cls(path, ".".join(parts[: end + 1]), *paths)
        return None


@dataclass(frozen=True)
class Passages:
    """What one pass has proven.

    Attributes:
        between: Layer to the module that is called with the stream between attention and MLP, where there is one: a
            block that lets both read the same stream has none.
        final: The norm whose output the output embedding reads; empty where that is something else.
    """

    between: Mapping[int, str] = field(default_factory=dict)
    final: str = ""


def same_weights(model: "PreTrainedModel") -> Any:
    """Return a second module tree around the same parameters and buffers, and with hooks of its own.

    Whoever changes modules changes these; the user's stay as they are, no weight is copied, and a weight edited in the
    one is edited in the other.
    """
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


def find_passages(model: "PreTrainedModel", blocks: Mapping[int, Block]) -> Passages:
    """Return where the stream passes between attention and MLP, and the final norm, each of them proven.

    A block's own arithmetic makes the stream in between: the first of its modules behind the attention that is called
    with a tensor which no module gave reads it. A second pass moves that tensor in place; if what the block gives has
    moved with it, the block goes on with this very tensor.

    Args:
        model: The model; it is not touched.
        blocks: Layer to block.
    """
    tree = same_weights(model).eval()
    found = {layer: _candidate(calls, blocks[layer]) for layer, calls in _calls(tree, blocks, {}).items()}
    moving = {layer: name for layer, name in found.items() if name}
    moved = _calls(tree, blocks, moving)
    between = {layer: name for layer, name in moving.items() if layer in moved and _goes_on(moved[layer], name)}
    return Passages(between, _final_norm(tree, [block.path for block in blocks.values()]))


@dataclass
class _Call:
    name: str
    given: Tensor | None
    output: Tensor | None


def _calls(tree: Any, blocks: Mapping[int, Block], moving: Mapping[int, str]) -> dict[int, list[_Call]]:
    """Return layer to the calls of the block's modules in their order, the block's own as the last."""
    calls: dict[int, list[_Call]] = {layer: [] for layer in blocks}
    with ExitStack() as stack:
        for layer, block in blocks.items():
            module = tree.get_submodule(block.path)
            children = [(f"{block.path}.{name}", child) for name, child in module.named_children()]
            if layer in moving:
                handle = tree.get_submodule(moving[layer]).register_forward_pre_hook(_move, with_kwargs=True)
                stack.callback(handle.remove)
            for name, child in (*children, (block.path, module)):
                hook = _noting(calls[layer], name)
                stack.callback(child.register_forward_hook(hook, with_kwargs=True).remove)
        return calls if _run(tree) else {}


def _noting(calls: list[_Call], name: str) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any) -> None:
        calls.append(_Call(name, _tensor((*args, kwargs.get("hidden_states"))), _tensor(output)))

    return note


def _move(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
    value = _tensor((*args, kwargs.get("hidden_states")))
    if value is not None:
        value.add_(_MOVE)


def _tensor(values: Any) -> Tensor | None:
    """Return a tensor, or the first one of several values."""
    if isinstance(values, Tensor):
        return values
    return next((value for value in values if isinstance(value, Tensor)), None) if isinstance(values, tuple) else None


def _candidate(calls: list[_Call], block: Block) -> str:
    """Return the first module behind the attention that reads what no module gave; empty where there is none."""
    if not calls:
        return ""
    *inner, whole = calls
    known, behind = [whole.given], False
    for call in inner:
        if behind and not any(call.given is tensor for tensor in known):
            return call.name
        known += [call.given, call.output]
        behind = behind or call.name == block.attention
    return ""


def _goes_on(calls: list[_Call], name: str) -> bool:
    """Return whether the block's output is the moved stream and what its last module adds to it."""
    *inner, whole = calls
    stream = next((call.given for call in inner if call.name == name), None)
    added = inner[-1].output
    if stream is None or added is None or whole.output is None or added.shape != stream.shape:
        return False
    eps = torch.finfo(stream.dtype).eps
    return torch.allclose(stream + added, whole.output, rtol=8 * eps, atol=8 * eps * float(stream.abs().max()))


def _final_norm(tree: Any, blocks: list[str]) -> str:
    """Return the module outside of the blocks that gives what the output embedding reads; empty where none does."""
    head = tree.get_output_embeddings()
    given: list[_Call] = []
    with ExitStack() as stack:
        for path, module in tree.named_modules():
            if path and module is not head and not any(f"{path}.".startswith(f"{block}.") for block in blocks):
                stack.callback(module.register_forward_hook(_noting(given, path), with_kwargs=True).remove)
        if head is not None:
            stack.callback(head.register_forward_hook(_noting(given, ""), with_kwargs=True).remove)
        if head is None or not _run(tree) or "" not in [call.name for call in given]:
            return ""
    place = [call.name for call in given].index("")
    read = given[place].given
    before = [call for call in given[:place] if call.output is not None]
    if not before or read is None or before[-1].output is None or not torch.equal(before[-1].output, read):
        return ""
    return before[-1].name


@torch.no_grad()
def _run(tree: Any) -> bool:
    """Send two tokens through; return whether the model could do with them."""
    try:
        tree(input_ids=torch.tensor([[0, 1]], device=tree.device), use_cache=False)
    except Exception:  # a model that wants more than token ids may raise anything
        return False
    return True
