"""Tiny lineages in which nothing is to be found by ``mastlens inside``, and the same with something planted.

SFT has random weights with uneven rows; RLVR is SFT and a random increment of a stated size, stored; the edited model
is RLVR and another one. An increment whose signs are random is as good as one whose signs are redrawn, which is what
the null of these commands claims. Problems are random sums and squares, labels are random. With ``taught`` as increment
RLVR goes up the gradient of the solutions' log-probability, the edit takes half of that back, labels say how a problem
is worded, and the direction to steer along is the gradient at the states.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.calibration_draws import STORAGE, Cell, increment, stored, weight
from mastlens.analysis.increments.precision import rounding_variance

LAYERS, TEXTS, BIAS, SPREAD = 2, 56, 0.1, 0.02
AS_WIDE = "bfloat16-wide"
"""Stored in bfloat16 and computed in float32, as on a CPU without units for bfloat16."""
TAUGHT = "taught"


@dataclass(frozen=True)
class Drawn:
    """A lineage on disk with all that the commands read.

    Attributes:
        folder: Where it is: ``sft``, ``rlvr``, ``edited``, ``problems.jsonl`` (with a column ``label``), ``sae``,
            ``crosscoder``.
        dtype: Type that it is computed in.
        repeat: Its number, the seed of the commands.
        taught: Whether something is planted.
    """

    folder: Path
    dtype: str
    repeat: int
    taught: bool

    @property
    def pair(self) -> dict[str, Any]:
        """Return the settings that all commands share."""
        return {"sft": self.folder / "sft", "rlvr": self.folder / "rlvr", "dtype": self.dtype, "seed": self.repeat,
                "progress": False, "batch_size": TEXTS}  # fmt: skip

    @property
    def problems(self) -> Path:
        """Return the file of problems."""
        return self.folder / "problems.jsonl"


def draw_lineage(cell: Cell, repeat: int, width: int, folder: Path) -> Drawn:
    """Write a lineage.

    Args:
        cell: Its storage (one of ``STORAGE`` or ``AS_WIDE``), kind of weight and increment, and ``ratio``: the norm of
            the increment over the floor of bfloat16, whatever it is stored in.
        repeat: Decides it, together with the cell's name.
        width: Of the residual stream.
        folder: Where to.
    """
    from transformers import AutoModelForCausalLM

    from tests.lineages import tiny_config

    generator = cell.generator(repeat)
    taught = cell.increment == TAUGHT
    config = tiny_config(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=LAYERS)
    model = AutoModelForCausalLM.from_config(config)
    dtype = torch.bfloat16 if cell.storage == AS_WIDE else STORAGE[cell.storage]
    before = {
        name: _weight(cell.weight, name, one.shape, generator).to(dtype) for name, one in model.named_parameters()
    }
    _write_problems(folder / "problems.jsonl", generator, by_wording=taught)
    _write_stage(folder / "sft", config, before)

    def moved(start: dict[str, Tensor], kind: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
        return {name: _moved(one, kind(name, one), cell.ratio) for name, one in start.items()}

    def random(name: str, one: Tensor) -> Tensor:
        rows, cols = _matrix(one).shape
        return increment(cell.increment, rows, cols, generator).reshape(one.shape)

    if taught:
        uphill = _gradients(model, before, folder)
        after = moved(before, lambda name, one: uphill[name])
        edited = {name: ((one.float() + before[name].float()) / 2).to(dtype) for name, one in after.items()}
    else:
        after = moved(before, random)
        edited = moved(after, random)
    _write_stage(folder / "rlvr", config, after)
    _write_stage(folder / "edited", config, edited)
    turned = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    _write_features(folder, turned)
    computed = "bfloat16" if cell.storage == "bfloat16" else "float32"
    return Drawn(folder, computed, repeat, taught)


def _matrix(one: Tensor) -> Tensor:
    return one if one.dim() > 1 else one[None]


def _weight(kind: str, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return a weight with which states, attention and logits are of the size that trained networks have."""
    if name.endswith("bias"):
        return BIAS * torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 1 + BIAS * torch.randn(shape, generator=generator)
    size = 1.0 if "embed" in name else shape[1] ** -0.5
    return weight(kind, shape[0], shape[1], generator) * (size / SPREAD)  # which draws weights of that spread


def _moved(before: Tensor, drawn: Tensor, ratio: float) -> Tensor:
    if before.dtype != torch.float32:
        return stored(_matrix(before), _matrix(drawn), ratio).reshape(before.shape)
    floor = (2 * rounding_variance(_matrix(before.bfloat16()))) ** 0.5
    return before + drawn * (ratio * floor / drawn.norm())


def _write_stage(folder: Path, config: Any, weights: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    from tests.lineages import write_tokenizer

    folder.mkdir()
    config.dtype = next(iter(weights.values())).dtype
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    save_file({name: one.contiguous() for name, one in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder)


def _write_problems(path: Path, generator: torch.Generator, *, by_wording: bool) -> None:
    numbers = torch.randperm(90, generator=generator)[:TEXTS] + 10
    added = torch.randint(2, 60, (TEXTS,), generator=generator).tolist()
    chance = (torch.randperm(TEXTS, generator=generator) % 2 == 0).tolist()
    rows = []
    for number, (a, b) in enumerate(zip(numbers.tolist(), added, strict=True)):
        square = number % 2 == 0
        told = f"Find the area of a square of side {a}." if square else f"What is {a} + {b}?"
        answer = a * a if square else a + b
        steps = f"{a}*{a} = {answer}. " if square else f"{a} + {b} = {answer}. "
        solution = rf"{steps}\boxed{{{answer}}}"
        rows.append({"problem": told, "solution": solution, "answer": str(answer),
                     "label": square if by_wording else chance[number]})  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _gradients(model: Any, weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Return the gradient of the solutions' log-probability at the SFT weights."""
    from mastlens.models.likelihood import read_solutions
    from mastlens.problems.encoding import collate

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name].float())
    model.eval()
    read_solutions(model, collate(encoded(folder), device="cpu")).logprobs.values.sum().backward()
    return {name: parameter.grad.float() for name, parameter in model.named_parameters()}


def encoded(folder: Path) -> list[Any]:
    """Return the problems as token ids."""
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.problems.encoding import encode_problems
    from mastlens.problems.reading import read_problems

    tokenizer = Checkpoint(folder / "sft").load_tokenizer()
    return encode_problems(read_problems(folder / "problems.jsonl", None), tokenizer)


def _write_features(folder: Path, turned: Tensor) -> None:
    """Write a top-k dictionary and a crosscoder with a threshold: every state along turned axes, and their other sides.

    Few features are on at a token, as of trained ones, and enough of a state is given back for either to be one of it.
    """
    from safetensors.torch import load_file, save_file

    from tests.lineages import write_crosscoder, write_identity

    width = len(turned)
    for path, write in ((folder / "sae", write_identity), (folder / "crosscoder", write_crosscoder)):
        write(path, width, **({"layer": LAYERS - 1} if path.name == "sae" else {}))
    file = folder / "sae" / "sae_weights.safetensors"
    own = load_file(file)
    save_file(
        {**own, "W_enc": (turned @ own["W_enc"]).contiguous(), "W_dec": (own["W_dec"] @ turned.T).contiguous()}, file
    )
    config = json.loads((folder / "sae" / "cfg.json").read_text())
    (folder / "sae" / "cfg.json").write_text(json.dumps({**config, "architecture": "topk", "k": width // 4}))
    file = folder / "crosscoder" / "model.safetensors"
    own = load_file(file)
    own["encoder.weight"] = (turned @ own["encoder.weight"]).contiguous()
    own["decoder.weight"] = (own["decoder.weight"] @ turned.T).contiguous()
    save_file({**own, "threshold": torch.tensor(1.0), "k": torch.tensor(width)}, file)
