"""Tiny lineages of random weights that stand in for real ones, and problem files that go with them."""

import json
from dataclasses import dataclass
from pathlib import Path

TEXTS = [
    "What is 3 + 4?",
    "How many ways are there to pick 2 of 5?",
    "Find the area of a square of side 7.",
    r"3 + 4 = 7. \boxed{7}",
    r"\boxed{10}",
    "Nothing here is about numbers at all.",
]


@dataclass(frozen=True)
class TinyLineage:
    """Three related random checkpoints with a tokenizer, and problem files that go with them."""

    base: Path
    sft: Path
    rlvr: Path
    forget: Path
    retain: Path


def write_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE on a few sentences and save it where a Qwen2 folder expects it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)


def write_problems(path: Path, *, first: int, count: int) -> Path:
    """Write sums ``a + b`` as problems; files with different ``first`` share none."""
    with path.open("w") as stream:
        for i in range(count):
            a, b = first + i, 2 + i % 5
            record = {
                "problem": f"What is {a} + {b}?",
                "solution": rf"{a} + {b} = {a + b}. \boxed{{{a + b}}}",
                "answer": str(a + b),
                "subject": "Prealgebra" if i % 2 else "Algebra",
            }
            stream.write(json.dumps(record) + "\n")
    return path


def write_identity(folder: Path, width: int, *, layer: int) -> Path:
    """Write a dictionary in SAELens' format that gives every state back: each entry of it, and its other side."""
    import torch
    from safetensors.torch import save_file

    both = torch.cat([torch.eye(width), -torch.eye(width)])
    weights = {
        "W_enc": both.T.contiguous(),
        "W_dec": both,
        "b_enc": torch.zeros(2 * width),
        "b_dec": torch.zeros(width),
    }
    config = {"architecture": "standard", "d_in": width, "d_sae": 2 * width}
    metadata = {"hook_name": f"blocks.{layer}.hook_resid_post", "model_name": "tiny", "sae_lens_version": "6.12.0"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({**config, "metadata": metadata}))
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def write_crosscoder(folder: Path, width: int) -> Path:
    """Write a crosscoder that gives both models' states back: two features for each entry of either."""
    import torch
    from safetensors.torch import save_file

    both, none = torch.cat([torch.eye(width), -torch.eye(width)]), torch.zeros(2 * width, width)
    decoder = torch.stack([torch.cat([both, none]), torch.cat([none, both])])
    weights = {
        "encoder.weight": decoder.transpose(1, 2).contiguous(),
        "encoder.bias": torch.zeros(4 * width),
        "decoder.weight": decoder,
        "decoder.bias": torch.zeros(2, width),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"activation_dim": width, "dict_size": 4 * width, "num_layers": 2}))
    save_file(weights, folder / "model.safetensors")
    return folder


def write_direction(path: Path, name: str, width: int) -> Path:
    """Write a direction as ``inside direct`` does, no two entries of it alike."""
    import torch
    from safetensors.torch import save_file

    save_file({name: torch.linspace(-0.2, 0.3, width)}, path)
    return path


def tiny_config(model_type: str = "qwen2", **changes):
    """Return the configuration of a two-layer model with grouped queries."""
    from transformers import AutoConfig

    settings = {
        "vocab_size": 384,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    return AutoConfig.for_model(model_type, **(settings | changes))


def write_lineage(root: Path, model_type: str = "qwen2", dtype: str = "float32", **changes) -> TinyLineage:
    """Write base, SFT and RLVR checkpoints whose weights differ by small random steps."""
    import torch
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes))
    with torch.no_grad():  # biases start at zero; make them count
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            elif parameter.dim() == 2:
                parameter.normal_(0, 0.15, generator=generator)
    for stage, step in (("base", 0.0), ("sft", 0.02), ("rlvr", 0.005)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=step)
        folder = root / stage
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        model.float()
        write_tokenizer(folder)
    return TinyLineage(
        root / "base",
        root / "sft",
        root / "rlvr",
        write_problems(root / "forget.jsonl", first=10, count=12),
        write_problems(root / "retain.jsonl", first=60, count=10),
    )
