"""Responses against one prompt at a time, without cache and without padding; draws against numpy in float64."""

import inspect
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import mastlens as m
from mastlens.decoding.answering import respond
from mastlens.decoding.continuing import Continuations
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.generation import Response, generate
from mastlens.decoding.rolling import can_roll
from mastlens.decoding.sampling import Sampling, draw
from mastlens.models.likelihood import sequence_logprobs
from mastlens.problems.encoding import EncodedProblem

from .plain import encode_file, greedy, load_model, load_tokenizer, logprob

LIMIT = 10
COLUMNS = {
    "split", "item", "prompt", "response", "gold", "correct", "correct_strict", "logprob_solution",
    "solution_tokens", "logprob_answer", "answer_tokens", "truncated", "sample", "stopped", "response_tokens",
}  # fmt: skip


@pytest.fixture(scope="module")
def ending(tiny, tmp_path_factory):
    """The RLVR checkpoint with the end of sequence made likely, so that some responses end before the limit."""
    folder = tmp_path_factory.mktemp("ending") / "rlvr"
    shutil.copytree(tiny.rlvr, folder)
    tensors = load_file(folder / "model.safetensors")
    frequent = load_tokenizer(folder).encode("\x1d")[0]  # what these weights like to write after a while
    tensors["model.embed_tokens.weight"][0] = 1.05 * tensors["model.embed_tokens.weight"][frequent]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def expected(tiny, ending):
    model, tokenizer = load_model(ending), load_tokenizer(ending)
    return [
        greedy(model, tokenizer, prompt, LIMIT)
        for path in (tiny.forget, tiny.retain)
        for prompt, _ in encode_file(path, ending)
    ]


def responses(tiny, folder, **changes):
    settings = {"max_new_tokens": LIMIT, "progress": False} | changes
    return m.evaluate(model=folder, splits={"forget": tiny.forget, "retain": tiny.retain}, **settings).table


def test_responses_equal_a_loop_over_single_prompts(tiny, ending, expected):
    table = responses(tiny, ending)
    assert set(table.columns) >= COLUMNS
    assert list(table["response"]) == [text for text, _, _ in expected]
    assert list(table["truncated"]) == [cut for _, _, cut in expected]
    assert len({cut for _, _, cut in expected}) == 2  # both ways of ending occur
    assert len({tokens for _, tokens, _ in expected}) > 2  # at different lengths, within one batch
    assert list(table["split"]) == ["forget"] * 12 + ["retain"] * 10
    assert list(table["item"]) == [*range(12), *range(10)]


@pytest.mark.parametrize("batch_size", [1, 3, 22])
def test_batch_size_does_not_matter(tiny, ending, expected, batch_size):
    table = responses(tiny, ending, batch_size=batch_size)
    assert list(table["response"]) == [text for text, _, _ in expected]
    assert list(table["truncated"]) == [cut for _, _, cut in expected]


def test_accuracy_counts_the_table(tiny, ending):
    made = m.evaluate(
        model=ending, splits={"forget": tiny.forget, "retain": tiny.retain}, max_new_tokens=2, progress=False
    )
    accuracy = made.accuracy.set_index("split")
    for split, rows in made.table.groupby("split"):
        assert accuracy.loc[split, "n"] == len(rows)
        assert accuracy.loc[split, "correct"] == rows["correct"].sum()
        assert accuracy.loc[split, "truncated"] == rows["truncated"].sum()


def test_an_edit_changes_the_responses_and_not_the_checkpoint(tiny, ending):
    name = "model.layers.1.self_attn.o_proj.weight"
    before = load_file(ending / "model.safetensors")
    edit = m.unlearn(
        rlvr=ending, forget=tiny.forget, objective="ga", steps=1, lr=0.05, names=[name], progress=False
    ).edit
    plain, edited = responses(tiny, ending), responses(tiny, ending, edit=edit)
    assert list(plain["response"]) != list(edited["response"])
    model = load_model(ending)
    model.get_parameter(name).data.copy_(edit.after[name])
    tokenizer = load_tokenizer(ending)
    for row, (prompt, _) in zip(edited.itertuples(), encode_file(tiny.forget, ending), strict=False):
        assert row.response == greedy(model, tokenizer, prompt, LIMIT)[0]
    after = load_file(ending / "model.safetensors")
    assert all(before[n].equal(after[n]) for n in before)
    assert list(responses(tiny, ending)["response"]) == list(plain["response"])


class Letters:
    """A tokenizer of one character a token, as far as decoding asks."""

    alphabet = "$abcdefghijk<>/notx{}\\7 "

    def __init__(self, eos_token_id=0):
        self.eos_token_id = eos_token_id

    def decode(self, ids, skip_special_tokens=False, clean_up_tokenization_spaces=False):
        return "".join(self.alphabet[i] for i in ids if not (skip_special_tokens and i == self.eos_token_id))

    def get_vocab(self):
        return {character: token for token, character in enumerate(self.alphabet)}

    all_special_ids, unk_token_id = (0,), None

    def convert_tokens_to_ids(self, token):
        return self.get_vocab().get(token)


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
SIZES |= {"intermediate_size": 32, "max_position_embeddings": 40, "initializer_range": 0.6, "head_dim": 8}
SLIDING = {"sliding_window": 4}
ARCHITECTURES = {
    "gpt2": (
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=40, initializer_range=0.6, vocab_size=24),
        True,
    ),
    "llama": (transformers.LlamaConfig(vocab_size=24, **SIZES), True),
    "gemma": (transformers.GemmaConfig(vocab_size=24, **SIZES), True),
    "qwen3": (transformers.Qwen3Config(vocab_size=24, **SIZES), True),
    "gpt_neox": (
        transformers.GPTNeoXConfig(
            vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=40, initializer_range=0.6,
        ),
        True,
    ),
    "mistral, sliding": (transformers.MistralConfig(vocab_size=24, **SIZES, **SLIDING), False),
    "gemma2, sliding": (transformers.Gemma2Config(vocab_size=24, **SIZES, **SLIDING), False),
}  # fmt: skip


def random_model(name, seed=0):
    config, _ = ARCHITECTURES[name]
    config.eos_token_id = config.bos_token_id = config.pad_token_id = None
    transformers.set_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def some_prompts(count=9):
    rng = np.random.default_rng(3)
    return [rng.integers(1, 24, size).tolist() for size in rng.integers(1, 14, count)]


@torch.no_grad()
def one_by_one(model, prompt, limit):
    """Return the greedy continuation: no batch, no padding, no cache, no end."""
    ids = list(prompt)
    for _ in range(limit):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def end_for(texts):
    """Return the token that, as the end, gives these texts the most different lengths, and not all of them an end."""
    places = {token: {text.index(token) for text in texts if token in text} for text in texts for token in text}
    some = [token for token in places if not all(token in text for text in texts)]
    return max(some, key=lambda token: (len(places[token]), -token))


def expectation(text, tokenizer):
    end = tokenizer.eos_token_id
    if end in text:
        return Response(tokenizer.decode(text[: text.index(end)]), text.index(end) + 1, "end")
    return Response(tokenizer.decode(text), len(text), "length")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_writes_what_it_writes_alone(name):
    model, prompts = random_model(name), some_prompts()
    model.generation_config.repetition_penalty = 3.0  # what a checkpoint asks for is no part of a greedy response
    model.generation_config.no_repeat_ngram_size = 2
    assert can_roll(model) == ARCHITECTURES[name][1]
    limit = 36  # more than the context of 40 has room for behind most prompts
    texts = [one_by_one(model, prompt, min(limit, 40 - len(prompt))) for prompt in prompts]
    tokenizer = Letters(end_for(texts))
    expected = [expectation(text, tokenizer) for text in texts]
    assert len({r.stopped for r in expected}) == 2
    assert len({r.tokens for r in expected}) > 3
    for size in (1, 4, 9):
        assert generate(model, tokenizer, prompts, max_new_tokens=limit, batch_size=size) == expected
    assert model.generation_config.repetition_penalty == 3.0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_prompt_is_read_once_for_its_response_and_for_what_follows_it(name, monkeypatch):
    model, prompts, rng = random_model(name), some_prompts(), np.random.default_rng(4)
    alone = generate(model, Letters(), prompts, max_new_tokens=12, batch_size=4)
    texts = {
        f"some/{place}": {
            kind: EncodedProblem(tuple(prompt), tuple(rng.integers(1, 24, size).tolist()))
            for kind, size in (("solution", int(rng.integers(1, 26))), ("answer", int(rng.integers(1, 4))))
        }
        for place, prompt in enumerate(prompts)
    }
    with torch.no_grad():
        expected = {
            (key, kind): float(logprob(model, list(one.prompt), list(one.solution)))
            for key, kinds in texts.items()
            for kind, one in kinds.items()
        }
    again = []

    def read_again(*given, **settings):
        again.append(len(given[1]))
        return sequence_logprobs(*given, **settings)

    monkeypatch.setattr("mastlens.decoding.engines.huggingface.sequence_logprobs", read_again)
    following, rest, short = (
        Continuations(HuggingFaceEngine(model, Letters()), texts),
        Continuations._rest,
        [MemoryError()],
    )

    def runs_out_once(*given):
        if short:
            raise short.pop()
        return rest(*given)

    monkeypatch.setattr(Continuations, "_rest", runs_out_once)
    asked = {f"some/{place}/{sample}": prompts[place] for sample in (0, 1) for place in range(len(prompts))}
    responses = respond(following.watched, asked, Decoding(12, 4))
    assert responses == alone * 2
    for kind in ("solution", "answer"):
        found = following.logprobs(kind, batch_size="auto")
        assert found == pytest.approx({key: expected[key, kind] for key in texts}, rel=1e-5)
    assert again == ([] if ARCHITECTURES[name][1] else [9, 9])  # from the beginning, where the cache is of another kind


@pytest.mark.parametrize("name", ["llama", "mistral, sliding"])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")])
def test_responses_go_on_with_half_the_rows_where_memory_runs_out(name, error, monkeypatch):
    model, prompts, rows = random_model(name), some_prompts(), []
    alone = generate(model, Letters(), prompts, max_new_tokens=12, batch_size=1)
    plain = type(model).forward

    def short(self, *given, **settings):
        rows.append(len(settings["input_ids"]))
        if rows[-1] > 2 and len(rows) > 2:
            raise error
        return plain(self, *given, **settings)

    short.__signature__ = inspect.signature(plain)
    monkeypatch.setattr(type(model), "forward", short)
    handed = []
    made = generate(
        model, Letters(), prompts, max_new_tokens=12, batch_size="auto", finished=lambda item, _: handed.append(item)
    )
    assert made == alone
    assert sorted(handed) == list(range(9))
    assert max(rows) > 2
    assert max(rows[-20:]) <= 2

    def never(self, *given, **settings):
        raise error

    never.__signature__ = inspect.signature(plain)
    monkeypatch.setattr(type(model), "forward", never)
    with pytest.raises(m.NotSupported, match="does not fit into the memory that is free"):
        generate(model, Letters(), prompts, max_new_tokens=12)


def test_each_response_is_handed_over_once_as_it_ends():
    model, prompts, seen = random_model("llama"), some_prompts(), {}
    made = generate(
        model,
        Letters(),
        prompts,
        max_new_tokens=20,
        batch_size=3,
        finished=lambda i, r: seen.setdefault(i, []).append(r),
    )
    assert seen == {place: [response] for place, response in enumerate(made)}
    assert list(seen) != sorted(seen)


@pytest.mark.parametrize("name", ["llama", "mistral, sliding"])
def test_a_sampled_response_depends_on_seed_and_name_alone(name):
    model, prompts = random_model(name), some_prompts()
    names = [f"forget/{place}/0" for place in range(len(prompts))]

    def sampled(chosen=slice(None), seed=1, temperature=3.0, **changes):
        return generate(
            model, Letters(), prompts[chosen], max_new_tokens=20, names=names[chosen],
            sampling=Sampling(temperature, 0.9, seed), **changes,
        )  # fmt: skip

    together = sampled(batch_size=9)
    assert sampled(batch_size=2) == together
    assert sampled(slice(4, 7), batch_size=2) == together[4:7]
    assert sampled(seed=2) != together
    assert sampled(temperature=1e-4) == generate(model, Letters(), prompts, max_new_tokens=20)
    twice = generate(
        model, Letters(), [prompts[0]] * 2, max_new_tokens=20, names=["forget/0/0", "forget/0/1"],
        sampling=Sampling(3.0, 0.9, 1),
    )  # fmt: skip
    assert twice[0] == together[0]
    assert twice[1] != twice[0]


@pytest.mark.parametrize("top_p", [1.0, 0.7, 0.05])
def test_draws_follow_the_nucleus(top_p):
    logits = np.random.default_rng(0).normal(0, 1.5, 12).round(1)
    chances = np.exp(logits / 0.8) / np.exp(logits / 0.8).sum()
    order = np.argsort(-chances, kind="stable")
    size = int(np.searchsorted(np.cumsum(chances[order]), top_p - 1e-12) + 1)
    wanted = np.zeros(12)
    wanted[order[: min(size, 12)]] = chances[order[: min(size, 12)]]
    wanted /= wanted.sum()
    count = 20_000
    uniforms = torch.arange(count, dtype=torch.float64) / count
    drawn = draw(torch.tensor(logits).float().expand(count, -1), uniforms, Sampling(0.8, top_p))
    found = np.bincount(drawn.numpy(), minlength=12) / count
    np.testing.assert_allclose(found, wanted, atol=2 / count * 12)
    assert ((found == 0) == (wanted == 0)).all()


def test_the_last_number_below_one_draws_a_token_that_has_a_chance():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert draw(logits, torch.tensor([1 - 2**-53]).double(), Sampling()).item() == 1


@pytest.mark.parametrize(
    ("text", "kept", "stopped"),
    [
        (r"a\bo{7}b$", r"a\bo{7}b", "end"),  # no box
        (r"a{7}\boxed{7}b$", r"a{7}\boxed{7}", "answer"),
        (r"\boxed{\abc{7}{7}}b$", r"\boxed{\abc{7}{7}}", "answer"),  # braces balance
        (r"<think>\boxed{7}</think>a\boxed{77}b$", r"<think>\boxed{7}</think>a\boxed{77}", "answer"),
        (r"<think>\boxed{7}b$", r"<think>\boxed{7}b", "end"),  # still thinking
        (r"\boxed{7$", r"\boxed{7", "end"),
    ],
)
def test_stopping_at_the_answer(text, kept, stopped, monkeypatch):
    tokens = Letters()
    vocabulary = tokens.get_vocab()
    model = random_model("llama")

    def scripted(logits, items, steps):
        return torch.tensor([vocabulary[text[min(step, len(text) - 1)]] for step in steps])

    monkeypatch.setattr("mastlens.decoding.generation._chooser", lambda *_: scripted)
    prompts = [[3, 4, 5], [5]]
    for response in generate(model, tokens, prompts, max_new_tokens=37, batch_size=2, stop_at_answer=True):
        assert response == Response(kept, len(kept) + (stopped == "end"), stopped)
    whole = generate(model, tokens, prompts, max_new_tokens=37, batch_size=2)
    assert {(r.text, r.stopped) for r in whole} == {(text[:-1], "end")}


KILLED = """
import os, signal, sys
import mastlens as m
from mastlens.runs.ledger import Ledger

plain, count = Ledger.add, 0

def add(self, name, value):
    global count
    plain(self, name, value)
    count += 1
    if count == 7:
        os.kill(os.getpid(), signal.SIGKILL)

Ledger.add = add
folder, forget, retain, out = sys.argv[1:]
m.evaluate(
    model=folder, splits={"forget": forget, "retain": retain}, max_new_tokens=10, batch_size=4, out=out, progress=False
)
"""


def test_a_killed_evaluation_goes_on_with_the_missing_items(tiny, ending, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    script = [sys.executable, "-c", KILLED, *map(str, (ending, tiny.forget, tiny.retain, out))]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    assert not (out / "responses.parquet").exists()
    (partial,) = out.glob("*.partial.jsonl")
    with partial.open("ab") as stream:
        stream.write(b'["retain/9/0", ["torn')  # as a kill in the middle of a line leaves it
    asked = []

    def counting(model, tokenizer, prompts, **settings):
        asked.append(len(prompts))
        return generate(model, tokenizer, prompts, **settings)

    monkeypatch.setattr("mastlens.decoding.engines.huggingface.generate", counting)
    responses(tiny, ending, batch_size=4, out=out)
    responses(tiny, ending, batch_size=4, out=whole)
    assert asked == [22 - 7, 22]
    assert not partial.exists()
    assert (out / "accuracy.json").read_bytes() == (whole / "accuracy.json").read_bytes()
    both = [pd.read_parquet(folder / "responses.parquet") for folder in (out, whole)]
    # A response that was finished before is not written again, so its prompt is read in another batch: to rounding.
    pd.testing.assert_frame_equal(*both, rtol=1e-5)
    assert both[0]["response"].equals(both[1]["response"])
    responses(tiny, ending, batch_size=4, out=out)  # and a third time there is nothing to do
    assert len(asked) == 2


def test_samples_of_an_item_stand_side_by_side(tiny, ending):
    settings = {"temperature": 0.9, "top_p": 0.95, "seed": 5}
    made = responses(tiny, ending, samples=3, **settings)
    assert list(zip(made["item"], made["sample"], strict=True))[:6] == [(i, k) for i in range(2) for k in range(3)]
    assert len(made) == 3 * 22
    first = responses(tiny, ending, batch_size=5, **settings)
    assert list(first["response"]) == list(made[made["sample"] == 0]["response"])
    assert (made.groupby(["split", "item"])["response"].nunique() > 1).any()
    retain = m.evaluate(model=ending, splits={"retain": tiny.retain}, max_new_tokens=LIMIT, progress=False, **settings)
    assert list(retain.table["response"]) == list(first[first["split"] == "retain"]["response"])
    with pytest.raises(m.MastlensError, match="temperature"):
        responses(tiny, ending, samples=3)
    with pytest.raises(m.MastlensError, match="vllm"):
        responses(tiny, ending, engine="vlm")
