"""The base stage: next-token prediction on a noisy mixture, in a plain loop."""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from mastlens.organisms.drills import draw_drills
from mastlens.organisms.neutral import draw_neutral
from mastlens.organisms.partial import keep_state, take_state
from mastlens.organisms.problems import draw_corpus
from mastlens.organisms.recipes.pretraining import Pretraining
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.subjects import BY_NAME

_EVERY = 100  # steps between two states that an interrupted stage goes on from
_WINDOW = 32  # batches that are sorted by length together: little padding, still well mixed


def base_corpus(recipe: Recipe, seed: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the base corpus: problem/solution pairs of all subjects, and texts (arithmetic, neutral)."""
    pairs = draw_corpus(BY_NAME, recipe.corpus, lambda name: recipe.base_worked, recipe.guess_right, seed)
    drills = draw_drills(recipe.drills, recipe.drill_facts, seed)
    return pairs, drills + draw_neutral(recipe.neutral, held_out=False, seed=seed)


def encode_documents(tokenizer, pairs: Sequence[tuple[str, str]], texts: Sequence[str]) -> list[list[int]]:
    """Return token ids per document: prompt, solution and end tokenised apart, as they are everywhere."""

    def ids(batch: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(batch), add_special_tokens=False)["input_ids"] if batch else []

    end = [tokenizer.eos_token_id]
    prompts = ids([f"{problem}\n" for problem, _ in pairs])
    solutions = ids([solution for _, solution in pairs])
    documents = [prompt + solution + end for prompt, solution in zip(prompts, solutions, strict=True)]
    return documents + [text + end for text in ids(texts)]


def new_model(recipe: Pretraining, tokenizer, seed: int):
    """Return a freshly initialised model of the recipe's architecture, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.intermediate,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "max_position_embeddings": recipe.context,
        "tie_word_embeddings": recipe.tied,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    if recipe.architecture == "qwen3":
        config = Qwen3Config(**settings, head_dim=recipe.hidden // recipe.heads)
    else:
        config = {"qwen2": Qwen2Config, "llama": LlamaConfig}[recipe.architecture](**settings)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _batches(documents: Sequence[list[int]], size: int, rng: random.Random) -> Iterator[list[int]]:
    """Yield the numbers of documents of similar length, a batch at a time, for ever."""
    while True:
        order = list(range(len(documents)))
        rng.shuffle(order)
        for start in range(0, len(order), size * _WINDOW):
            window = sorted(order[start : start + size * _WINDOW], key=lambda i: len(documents[i]))
            batches = [window[i : i + size] for i in range(0, len(window), size)]
            rng.shuffle(batches)
            yield from batches


def _rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: a short warm-up, then a cosine down to a twentieth."""
    warm = max(1, min(100, steps // 10))
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def pretrain(
    model, documents: Sequence[list[int]], recipe: Pretraining, seed: int, *, kept: Path | None = None
) -> float:
    """Train the base stage in place and return the mean loss (nats a token) over the last fiftieth of the steps."""
    return train_documents(
        model,
        documents,
        [0] * len(documents),
        steps=recipe.base_steps,
        batch=recipe.base_batch,
        lr=recipe.base_lr,
        seed=seed,
        label="base",
        kept=kept,
    )


def train_documents(
    model,
    documents: Sequence[list[int]],
    uncounted: Sequence[int],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    label: str,
    kept: Path | None = None,
) -> float:
    """Train in place on the next token of each document and return the mean loss of the last fiftieth of the steps.

    Args:
        model: The model; its weights are changed.
        documents: Token ids.
        uncounted: How many tokens at a document's beginning are read and not learnt: its prompt.
        steps: Number of steps.
        batch: Documents a step.
        lr: Peak learning rate: a short warm-up, then a cosine.
        seed: Of the batches.
        label: Of the progress bar.
        kept: Folder for the state that an interrupted run goes on from, bit for bit; None for no such state.

    Returns:
        Nats a counted token.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from tqdm.auto import tqdm

    rng = random.Random(f"pretrain {seed}")
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
    )
    model.train()
    batches = _batches(documents, batch, rng)
    usual = batch * (sum(map(len, documents)) - sum(uncounted)) / len(documents)
    done, losses = take_state(kept, model, optimizer)
    for _ in range(done):
        next(batches)
    bar = tqdm(range(done, steps), desc=label, unit="step", initial=done, total=steps)
    for step in bar:
        rows = next(batches)
        longest = max(len(documents[row]) for row in rows)
        ids = torch.full((len(rows), longest), model.config.pad_token_id)
        labels = torch.full((len(rows), longest), -100)
        for place, row in enumerate(rows):
            document = torch.tensor(documents[row])
            ids[place, : len(document)] = document
            labels[place, uncounted[row] : len(document)] = document[uncounted[row] :]
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps, lr)
        # padding stands on the right and the model is causal, so no mask is needed
        logits = model(input_ids=ids).logits[:, :-1]
        # Divided by what a batch holds on average: batches are sorted by length, and a mean of its own for
        # each would give the first word of a short guess several times the weight of that of a long working.
        total = cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="sum")
        loss = total / usual
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(total.item() / int((labels[:, 1:] >= 0).sum()))
        if step % 20 == 0:
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
        if kept is not None and (step + 1) % _EVERY == 0:
            keep_state(kept, step + 1, model, optimizer, losses)
    last = losses[-max(1, len(losses) // 50) :]
    return sum(last) / len(last)
