"""What one writes in the place of a command with plain Hugging Face: loaded first, then measured."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mastlens.problems.encoding import EncodedProblem, collate, encode_problems
from mastlens.problems.reading import Problem, read_problems

Block = Callable[[], Any]
LR, BETA, BATCH, MICRO = 1e-6, 0.1, 8, 4


def opened(folder: str | Path, dtype: Any = torch.float32) -> tuple[Any, Any]:
    """Return a model, on a GPU where there is one, and its tokenizer, as a user loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def token_sums(model: Any, chosen: Sequence[EncodedProblem]) -> tuple[Tensor, Tensor]:
    """Return log p of each solution and its tokens, as one writes it: logits at every position."""
    batch = collate(chosen, device=str(model.device))
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), use_cache=False).logits
    logprobs = logits[:, :-1].float().log_softmax(-1).gather(2, batch.input_ids[:, 1:, None])[..., 0]
    counted = batch.is_solution[:, 1:]
    return (logprobs * counted).sum(1), counted.sum(1)


def chat_prompts(tokenizer: Any, problems: Sequence[Problem]) -> list[str]:
    """Return the prompts' texts."""
    if not tokenizer.chat_template:
        return [f"{problem.problem}\n" for problem in problems]
    turns = [[{"role": "user", "content": problem.problem}] for problem in problems]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


def generate(model: Any, tokenizer: Any, texts: Sequence[str], size: int, new_tokens: int) -> list[str]:
    """Generate greedily in left-padded batches."""
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    responses = []
    for start in range(0, len(texts), size):
        inputs = tokenizer(texts[start : start + size], return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = {key: inputs[key].to(model.device) for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            written = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        responses += tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return responses


def npo_step(model: Any, reference: Any, optimiser: Any, forget: Sequence[Any], retain: Sequence[Any]) -> None:
    """Take a step of NPO with a retain term on everything that the optimiser moves, some texts at a time."""
    optimiser.zero_grad()
    tokens = sum(len(ids.solution) for ids in retain)
    for start in range(0, len(forget), MICRO):
        sums, _ = token_sums(model, forget[start : start + MICRO])
        with torch.no_grad():
            before, _ = token_sums(reference, forget[start : start + MICRO])
        loss = -(2 / BETA) * logsigmoid(-BETA * (sums - before)).sum() / len(forget)
        loss.backward()
        kept, _ = token_sums(model, retain[start : start + MICRO])
        (-kept.sum() / tokens).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


# The commands, by their names. Each takes what ``benchmarks.gpu`` has and returns the block that is measured.


def _sides(tokenizer: Any, files: Mapping[str, str]) -> list[list[EncodedProblem]]:
    return [encode_problems(read_problems(files[side]), tokenizer) for side in ("forget", "retain")]


def _stored(folder: str) -> Any:
    """Return the type that a checkpoint is stored in."""
    from mastlens.checkpoints.checkpoint import Checkpoint

    return Checkpoint(folder).plain_dtype


def evaluate(stages: Mapping[str, str], files: Mapping[str, str], new_tokens: int, **_: Any) -> Block:
    """Generate, and read log p of solutions and answers, each in passes of its own."""
    model, tokenizer = opened(stages["rlvr"], _stored(stages["rlvr"]))
    problems = [p for side in ("forget", "retain") for p in read_problems(files[side])]
    answers = [Problem(p.problem, f"\\boxed{{{p.answer}}}", p.answer) for p in problems]

    def run() -> None:
        generate(model, tokenizer, chat_prompts(tokenizer, problems), 32, new_tokens)
        with torch.no_grad():
            for side in (problems, answers):
                ids = encode_problems(side, tokenizer)
                for start in range(0, len(ids), 8):
                    token_sums(model, ids[start : start + 8])

    return run


def couple(stages: Mapping[str, str], files: Mapping[str, str], **_: Any) -> Block:
    """Take the gradients of all parameters, one text at a time."""
    model, tokenizer = opened(stages["rlvr"], _stored(stages["rlvr"]))
    sides = _sides(tokenizer, files)

    def run() -> None:
        for side in sides:
            for problem in side:
                (-token_sums(model, [problem])[0].sum()).backward()
            model.zero_grad(set_to_none=True)

    return run


def unlearn(stages: Mapping[str, str], files: Mapping[str, str], steps: int, **_: Any) -> Block:
    """Take steps of NPO on all parameters beside a second, frozen model."""
    dtype = _stored(stages["rlvr"])
    model, tokenizer = opened(stages["rlvr"], dtype)
    reference = opened(stages["rlvr"], dtype)[0].requires_grad_(False)
    forget, retain = _sides(tokenizer, files)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)

    def run() -> None:
        for step in range(steps):
            first = step * BATCH % max(len(forget) - BATCH + 1, 1)
            npo_step(model, reference, optimiser, forget[first : first + BATCH], retain[first : first + BATCH])

    return run


def causal_map(stages: Mapping[str, str], files: Mapping[str, str], where: str, **_: Any) -> Block:
    """Put each named weight back and forth between two models, with a pass through all layers for each."""
    dtype = _stored(stages["rlvr"])
    model, tokenizer = opened(stages["rlvr"], dtype)
    other = opened(stages["sft"], dtype)[0]
    forget = _sides(tokenizer, files)[0]
    theirs = dict(other.named_parameters())
    names = [name for name in theirs if name.endswith("_proj.weight") and re.search(where, name)]

    def run() -> None:
        with torch.no_grad():
            for into, source in ((model, theirs), (other, dict(model.named_parameters()))):
                mine = dict(into.named_parameters())
                for name in names:
                    kept = mine[name].clone()
                    mine[name].copy_(source[name])
                    for start in range(0, len(forget), 8):
                        token_sums(into, forget[start : start + 8])
                    mine[name].copy_(kept)

    return run


PLAIN: dict[str, Callable[..., Block]] = {
    "evaluate": evaluate,
    "couple": couple,
    "unlearn": unlearn,
    "causal-map": causal_map,
}
"""Command to what is written in its place."""
