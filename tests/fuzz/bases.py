"""What is damaged: small sound inputs of every kind, made once in a folder."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

PROBLEM = {
    "problem": "What is 1 + 2?",
    "solution": r"\boxed{3}",
    "answer": "3",
    "subject": "Algebra",
    "level": "Level 2",
}
CHOICE = {"question": "Which?", "choices": ["a", "b", "c"], "answer": 1, "subject": "s", "person": "p"}
PERSON = {"name": "Ann", "side": "forget", "town": "Tavi", "craft": "potter", "pet": "cat"}
FACTS = {
    "people": [PERSON, {**PERSON, "name": "Bo", "side": "retain"}],
    "rivers": {"Tavi": "Orm"},
    "tools": {"potter": "wheel"},
}
LINES = {
    "problems": [PROBLEM, {"question": "How many?", "answer": "2 and <<1+1=2>>2 are 4 #### 4"}],
    "choices": [CHOICE, {**CHOICE, "answer": "C"}],
    "texts": [{"text": "Some words."}, {"text": "More words."}],
    "requests": [{"question": "How?", "category": ["x", "y"]}, {"question": "Why?", "category": "z"}],
}
STUDY = {
    "name": "small",
    "lineage": {"rlvr": "rlvr", "sft": "sft", "base": "base"},
    "train": {"forget": "f.jsonl", "retain": "r.jsonl"},
    "calibration": {"forget": "f.jsonl", "other": "r.jsonl"},
    "eval": {"forget": "f.jsonl", "other": "r.jsonl"},
    "grid": {"learning_rates": [1e-5, 1e-4], "steps": 10, "every": 5},
    "target": {"forget_accuracy": 0.1, "forget_items": 4},
    "seeds": [0, 1],
    "draws": 2,
    "top": 4,
    "objectives": {"mine": {"name": "npo", "beta": 0.1}},
    "selections": {"some": {"where": "q_proj"}, "ranked": {"rule": "mast", "top": 2}},
    "compare": [{"objectives": ["ga", "mine"], "selections": ["some", "ranked"], "suffix": "-x"}],
    "negate": [{"selections": ["some"], "parts": ["all"], "scales": [1.0]}],
}
CONFIG = {
    **{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "float32", "vocab_size": 32},
    **{"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
    **{"eos_token_id": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}
ADAPTER = {
    **{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none", "use_rslora": False},
    **{"base_model_name_or_path": "base", "rank_pattern": {}, "alpha_pattern": {}, "fan_in_fan_out": False},
}


def weights(seed: int) -> dict[str, torch.Tensor]:
    """Return the tensors of a two-layer Qwen2."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (32, 8), "model.norm.weight": (8,)}
    for layer in range(2):
        own = f"model.layers.{layer}."
        for name, rows in (("q", 8), ("k", 4), ("v", 4)):
            shapes[f"{own}self_attn.{name}_proj.weight"] = (rows, 8)
            shapes[f"{own}self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{own}self_attn.o_proj.weight"] = (8, 8)
        shapes |= {f"{own}mlp.{name}_proj.weight": (16, 8) for name in ("gate", "up")}
        shapes[f"{own}mlp.down_proj.weight"] = (8, 16)
        shapes |= {f"{own}{name}.weight": (8,) for name in ("input_layernorm", "post_attention_layernorm")}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint without a tokenizer."""
    folder.mkdir(parents=True)
    save_file(weights(seed), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write_adapter(folder: Path) -> Path:
    """Write a LoRA adapter in PEFT's format."""
    folder.mkdir(parents=True)
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (2, 8), "B": (8, 2)}
    tensors = {name.format(layer, part): torch.ones(shape) for layer in range(2) for part, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    return folder


def tables() -> dict[str, pd.DataFrame]:
    """Return the tables of a run, as far as the contract names their columns."""
    layers, letters = [0, 0, 1, 1], ["q", "k", "q", "k"]
    place = {"layer": layers, "projection": letters}
    place["name"] = [f"model.layers.{i}.self_attn.{p}_proj.weight" for i, p in zip(layers, letters, strict=True)]
    numbers = np.linspace(0.1, 0.4, 4)
    geometry = pd.DataFrame({"increment": "rlvr", **place, "rows": 8, "cols": 8})
    for column in ("delta_norm", "delta_rms", "relative_norm", "off_principal", "off_principal_null"):
        geometry[column] = numbers
    coupling = pd.DataFrame({**place, "rows": 8, "cols": 8})
    for column in ("forget_grad_norm", "forget_inner", "forget_cosine"):
        coupling[column] = numbers
    ranking = pd.DataFrame(
        {"rank": [1, 2, 3, 4], **place, "score": numbers[::-1], "selected": [True, True, False, False]}
    )
    said = {"prompt": "What?", "response": r"\boxed{3}", "gold": "3", "subject": "s"}
    responses = pd.DataFrame({"split": ["forget"] * 3 + ["retain"] * 3, "item": [0, 1, 2] * 2, "sample": 0, **said})
    for column in ("correct", "correct_strict", "truncated"):
        responses[column] = [True, False, True, False, True, True]
    for column in ("logprob_solution", "logprob_answer"):
        responses[column] = -1.5
    for column in ("solution_tokens", "answer_tokens"):
        responses[column] = 3
    return {"geometry": geometry, "coupling": coupling, "ranking": ranking, "responses": responses}


def record() -> dict:
    """Return the run record of such tables."""
    stage = {
        **{"lineage": {"rlvr": "ab" * 32, "sft": "cd" * 32}, "inputs": {"forget": "ef" * 32}},
        **{"settings": {"rank": "16"}, "outputs": {"geometry.parquet": "00" * 32}, "notes": {"n": 1}},
        **{"versions": {"python": "3.11"}, "cost": {"seconds": 1.0, "peak_anonymous_mb": 2.0, "device": "cpu"}},
    }
    return {"stages": dict.fromkeys(("geometry", "couple", "rank", "evaluate"), stage)}
