"""GGUF files: read by transformers, once, into an ordinary folder in the cache, with what each tensor was stored as.

What stands in the folder are the values that the file's blocks stand for, in float32; tensors that the file has in 16
bits stay in them. How far apart the numbers lie that a block can hold is read off its values (``Gridded``): it is what
an increment has to be larger than before anything can be told of it.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from mastlens.checkpoints.shards import StoredTensor
from mastlens.errors import BadFile, MissingPackage, NotSupported
from mastlens.runs.files import atomic_path, cache_folder, sha256_file, sha256_json, stands, write_json
from mastlens.runs.locks import held
from mastlens.runs.reading import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECORD = "gguf.json"
"""In the folder that a GGUF file was read into: the file, and the type of each tensor in it."""
_PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SUBBLOCK = {"Q2_K": 16, "Q3_K": 16, "Q6_K": 16}  # entries that share a scale
_BLOCK = 32  # of all other types
_ALIKE = 1e-5  # relative to the largest of a block: entries closer than this are one number, rounded twice


def unpacked(file: Path) -> Path:
    """Return the folder that a GGUF file stands for, in the user's cache; the file is read where it is not there yet.

    Args:
        file: The file. Written anew, it has another folder.

    Raises:
        MastlensError: If ``gguf`` is not installed, or transformers cannot read the file.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackage("Reading a GGUF file needs gguf. Install the extra: pip install 'mastlens[gguf]'")
    state = file.stat()
    key = sha256_json([str(file.resolve()), state.st_size, state.st_mtime_ns])[:16]
    folder = cache_folder() / "gguf" / f"{file.stem}-{key}"
    if not stands(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder.parent):
            if not stands(folder):
                with atomic_path(folder) as temporary:
                    _unpack(file, temporary)
    return folder


def _unpack(file: Path, folder: Path) -> None:
    found: dict[str, str] = {}

    def stored_as(model: "PreTrainedModel") -> Mapping[str, torch.dtype]:
        found.update(stored_types(file, model))
        return {name: _PLAIN.get(kind, torch.float32) for name, kind in found.items()}

    try:
        convert(file, folder, stored_as)
    except Exception as error:  # transformers and gguf raise anything, from KeyError to struct.error
        reason = (str(error).splitlines() or [""])[0][:300]
        raise NotSupported(
            f"transformers cannot read {file} ({type(error).__name__}: {reason}). It knows some architectures and "
            "types of GGUF files; take the checkpoint that the file was made from."
        ) from error
    write_json(folder / RECORD, {"file": file.name, "sha256": sha256_file(file), "tensors": found})


def convert(gguf: Path, folder: Path, dtypes: "Callable[[PreTrainedModel], Mapping[str, torch.dtype]]") -> int:
    """Write the model in a GGUF file as an ordinary folder; return its number of parameters.

    Weights are what the file's blocks stand for, dequantised by transformers in float32. The object that transformers
    returns calls itself quantised and refuses to be saved: its state goes into a fresh one.

    Args:
        gguf: The file.
        folder: Where to.
        dtypes: From the model, name of a parameter to what it is rounded to; without one it stays float32.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        read: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
        config.name_or_path = ""  # the file's own name for the run that trained it
        model = type(read)(config)
        model.load_state_dict(read.state_dict())
        wanted = dtypes(model)
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(wanted.get(name, torch.float32))
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()
    return model.num_parameters()


def stored_types(gguf: Path, model: "PreTrainedModel") -> dict[str, str]:
    """Return name of a model's parameter to the type that a GGUF file has it in, e.g. ``Q4_1``."""
    from gguf import GGUFReader
    from transformers import modeling_gguf_pytorch_utils as of_transformers

    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(gguf).tensors}
    processor: Any = of_transformers.TENSOR_PROCESSORS.get(model.config.model_type, of_transformers.TensorProcessor)
    names = of_transformers.get_gguf_hf_weights_map(model, processor(config={}))
    return {names[name]: kind for name, kind in sorted(kinds.items()) if name in names}


@dataclass(frozen=True)
class Gridded(StoredTensor):
    """A matrix out of a GGUF file whose entries are whole multiples of a block's scale, in float32.

    Attributes:
        kind: The file's name for how it stores the matrix.
        block: Neighbouring entries of a row that share a scale.
    """

    kind: str
    block: int

    @property
    def coded(self) -> str:
        """What the file stores in place of the values."""
        return f"GGUF {self.kind}"

    def spacing(self) -> Float[torch.Tensor, "*shape"]:
        """Return the least distance between two different entries of each block, at every entry; 0 in even blocks."""
        values = self.read().float()
        width = values.shape[-1]
        rest = -width % self.block
        blocks = torch.nn.functional.pad(values, (0, rest), mode="constant", value=float("nan"))
        blocks = blocks.reshape(*values.shape[:-1], -1, self.block)
        steps = blocks.sort(dim=-1).values.diff(dim=-1)
        alike = _ALIKE * blocks.abs().nan_to_num().amax(dim=-1, keepdim=True)
        steps = torch.where(steps > alike, steps, torch.inf).amin(dim=-1)  # NaN, of the padding, is larger than nothing
        steps = torch.where(steps.isinf(), 0.0, steps)
        return steps.repeat_interleave(self.block, dim=-1)[..., :width]


def as_gridded(folder: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return a checkpoint's tensors; those that came out of blocks of a GGUF file know of it.

    Args:
        folder: The folder.
        tensors: Every tensor by name.

    Raises:
        MastlensError: If the folder's record of the file cannot be read.
    """
    record = folder / RECORD
    if not record.is_file():
        return dict(tensors)
    kinds = read_object(record).get("tensors")
    if not isinstance(kinds, Mapping):
        raise BadFile(
            f"{record} does not say what its tensors were stored as. Remove the folder, and read the file again."
        )
    return {
        name: one
        if (kind := str(kinds.get(name, "F32"))) in _PLAIN or len(one.shape) < 2
        else Gridded(one.name, one.file, one.dtype, one.shape, kind, _SUBBLOCK.get(kind, _BLOCK))
        for name, one in tensors.items()
    }
