"""The contract once more in plain transformers and torch, one problem at a time, without a line of the package.

What is tested must agree with this; it is slow and simple on purpose.
"""

import json
import math
import re
from pathlib import Path

import torch
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

ONE_THREAD = 1  # the models are so small that a second thread only costs


def load_model(folder):
    """Return the model in float32 and evaluation mode."""
    torch.set_num_threads(ONE_THREAD)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def load_tokenizer(folder):
    """Return the tokenizer."""
    return AutoTokenizer.from_pretrained(folder)


def read_records(path):
    """Return MATH-style records as dictionaries."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def encode(record, tokenizer):
    """Return (prompt ids, solution ids): problem + newline; solution without special tokens, then the end."""
    prompt = tokenizer(record["problem"] + "\n")["input_ids"]
    solution = tokenizer(record["solution"], add_special_tokens=False)["input_ids"]
    return list(prompt), [*solution, tokenizer.eos_token_id]


def encode_file(path, folder):
    """Return the encoded problems of a file."""
    tokenizer = load_tokenizer(folder)
    return [encode(record, tokenizer) for record in read_records(path)]


def logprob(model, prompt, solution):
    """Return the summed log-probability of the solution's tokens, as a tensor; no batch, no padding."""
    ids = torch.tensor([prompt + solution])
    table = log_softmax(model(input_ids=ids).logits[0].float(), dim=-1)
    picked = [table[len(prompt) + i - 1, token] for i, token in enumerate(solution)]
    return torch.stack(picked).sum()


def token_mean_nll(model, encoded):
    """Return the negative log-likelihood summed over all solution tokens, divided by their count."""
    return -sum(logprob(model, p, s) for p, s in encoded) / sum(len(s) for _, s in encoded)


def gradients(model, encoded, names):
    """Return the gradient of ``token_mean_nll`` for the named parameters, by plain autograd."""
    weights = dict(model.named_parameters())
    found = torch.autograd.grad(token_mean_nll(model, encoded), [weights[name] for name in names])
    return dict(zip(names, found, strict=True))


def npo_loss(sums, reference, beta):
    """Return -(2/beta) mean log sigma(-beta (log p - log p_ref)), written with softplus."""
    terms = [torch.nn.functional.softplus(beta * (s - r)) for s, r in zip(sums, reference, strict=True)]
    return 2 / beta * sum(terms) / len(terms)


def simnpo_loss(sums, counts, beta, delta):
    """Return -(2/beta) mean log sigma(beta (NLL / tokens - delta))."""
    terms = [torch.nn.functional.softplus(-beta * (-s / n - delta)) for s, n in zip(sums, counts, strict=True)]
    return 2 / beta * sum(terms) / len(terms)


def unlearn(model, names, forget, schedule, loss, *, lr, retain=None, retain_schedule=None, weight=1.0):
    """Train the named parameters in place: AdamW without decay, constant rate, clip at 1. Return the losses."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    weights = dict(model.named_parameters())
    chosen = [weights[name].requires_grad_(True) for name in names]
    optimiser = torch.optim.AdamW(chosen, lr=lr, betas=(0.9, 0.999), weight_decay=0.0)
    losses = []
    for step, items in enumerate(schedule):
        sums = [logprob(model, *forget[i]) for i in items]
        counts = [len(forget[i][1]) for i in items]
        total = forget_loss = loss(sums, counts, items)
        if retain is not None:
            total = forget_loss + weight * token_mean_nll(model, [retain[i] for i in retain_schedule[step]])
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(chosen, 1.0)
        optimiser.step()
        losses.append(float(forget_loss.detach()))
    return losses


@torch.no_grad()
def greedy(model, tokenizer, prompt, limit):
    """Return (text, tokens, truncated) of the greedy response: no batch, no cache."""
    ids = list(prompt)
    for count in range(1, limit + 1):
        token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float().argmax())
        ids.append(token)
        if token == tokenizer.eos_token_id:
            return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True), count, False
    return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True), limit, True


def sigmoid(x):
    """Return 1 / (1 + exp(-x)) with the math module."""
    return 1 / (1 + math.exp(-x))


PROJECTION = re.compile(r"model\.layers\.(\d+)\.self_attn\.([qkvo])_proj\.weight$")


def projection_names(layers=2):
    """Return the attention projections of the tiny Qwen2 by layer, then q < k < v < o."""
    return [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(layers) for p in "qkvo"]
