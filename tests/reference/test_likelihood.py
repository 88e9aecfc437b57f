"""Log-probabilities against plain logits and log_softmax, one problem at a time."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import mastlens as m
from mastlens.models import likelihood
from mastlens.models.likelihood import sequence_logprobs, token_logprobs
from mastlens.problems.encoding import EncodedProblem, collate

from ..conftest import tiny_config
from .plain import encode, encode_file, load_model, load_tokenizer, logprob, read_records


@pytest.fixture(scope="module")
def model(tiny):
    return load_model(tiny.rlvr)


@pytest.fixture(scope="module")
def uneven():
    """Prompts and solutions of very different length, so that padding matters where it should not."""
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return torch.randint(1, 300, (n,), generator=generator).tolist()

    return [(draw(p), [*draw(s), 0]) for p, s in ((1, 1), (30, 2), (3, 40), (12, 12), (2, 7))]


def as_encoded(pairs):
    return [EncodedProblem(prompt=tuple(p), solution=tuple(s)) for p, s in pairs]


@pytest.fixture(scope="module")
def expected(model, uneven):
    with torch.no_grad():
        return [float(logprob(model, p, s)) for p, s in uneven]


def test_sums_and_counts_agree_with_plain_logits(model, uneven, expected):
    with torch.no_grad():
        found = token_logprobs(model, collate(as_encoded(uneven)))
    assert found.sums.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.counts.tolist() == [len(s) for _, s in uneven]


def test_every_token_agrees_in_reading_order(model, uneven):
    with torch.no_grad():
        found = token_logprobs(model, collate(as_encoded(uneven)))
        for row, (prompt, solution) in enumerate(uneven):
            logits = model(input_ids=torch.tensor([prompt + solution])).logits[0]
            table = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
            tokens = table.gather(1, torch.tensor(solution)[:, None])[:, 0]
            assert torch.allclose(found.values[found.rows == row], tokens, atol=2e-5)


def test_padding_does_not_matter(model, uneven, expected):
    with torch.no_grad():
        for pad in (0, 5, 299):
            found = token_logprobs(model, collate(as_encoded(uneven), pad=pad))
            assert found.sums.tolist() == pytest.approx(expected, rel=1e-5)
        for item, value in zip(as_encoded(uneven), expected, strict=True):
            assert float(token_logprobs(model, collate([item])).sums) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
def test_sequence_logprobs_keep_the_order(model, uneven, expected, batch_size):
    sums, counts = sequence_logprobs(model, as_encoded(uneven), batch_size=batch_size)
    assert sums.tolist() == pytest.approx(expected, rel=1e-5)
    assert counts.tolist() == [len(s) for _, s in uneven]
    assert sums.dtype == np.float64


def test_gradients_flow_and_agree(tiny, uneven):
    name = "model.layers.0.self_attn.v_proj.weight"
    found = []
    for ours in (True, False):
        model = load_model(tiny.rlvr)
        if ours:
            total = token_logprobs(model, collate(as_encoded(uneven))).sums.sum()
        else:
            total = sum(logprob(model, p, s) for p, s in uneven)
        total.backward()
        found.append(dict(model.named_parameters())[name].grad)
    assert float((found[0] - found[1]).norm()) <= 1e-5 * float(found[1].norm())
    assert float(found[1].norm()) > 0


def test_evaluate_reports_solution_and_answer(tiny, model):
    table = m.evaluate(model=tiny.rlvr, splits={"f": tiny.forget, "r": tiny.retain}, max_new_tokens=1, batch_size=7)
    tokenizer = load_tokenizer(tiny.rlvr)
    for split, path in (("f", tiny.forget), ("r", tiny.retain)):
        rows = table.table[table.table["split"] == split].sort_values("item")
        for row, record in zip(rows.itertuples(), read_records(path), strict=True):
            prompt, solution = encode(record, tokenizer)
            answer = tokenizer(f"\\boxed{{{record['answer']}}}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                assert row.logprob_solution == pytest.approx(float(logprob(model, prompt, solution)), rel=1e-5)
                assert row.logprob_answer == pytest.approx(float(logprob(model, prompt, answer)), rel=1e-5)
            assert (row.solution_tokens, row.answer_tokens) == (len(solution), len(answer))
            assert row.prompt == record["problem"] + "\n"
            assert row.gold == record["answer"]


def test_evaluate_reads_gsm8k_without_calculator_marks(tiny, model, tmp_path):
    path = tmp_path / "gsm.jsonl"
    marked = "3 + 4 = <<3+4=7>>7 in all.\n#### 7"
    path.write_text(json.dumps({"question": "What is 3 + 4?", "answer": marked}) + "\n")
    row = m.evaluate(model=tiny.rlvr, splits={"gsm": path}, max_new_tokens=1).table.iloc[0]
    tokenizer = load_tokenizer(tiny.rlvr)
    clean = {"problem": "What is 3 + 4?", "solution": "3 + 4 = 7 in all.\n#### 7"}
    with torch.no_grad():
        expected = float(logprob(model, *encode(clean, tokenizer)))
        other = float(logprob(model, *encode(clean | {"solution": marked}, tokenizer)))
    assert row["logprob_solution"] == pytest.approx(expected, rel=1e-5)
    assert row["logprob_solution"] != pytest.approx(other, rel=1e-3)
    assert row["gold"] == "7"


def test_the_oracle_knows_the_contract(tiny):
    """Prompt and solution are tokenised apart: never one text cut in two."""
    prompt, solution = encode_file(tiny.forget, tiny.rlvr)[0]
    tokenizer = load_tokenizer(tiny.rlvr)
    assert tokenizer.decode(prompt) == "What is 10 + 2?\n"
    assert tokenizer.decode(solution[:-1]) == r"10 + 2 = 12. \boxed{12}"
    assert solution[-1] == tokenizer.eos_token_id == 0


@pytest.mark.parametrize(
    ("model_type", "extra"),
    [
        ("gemma2", {"final_logit_softcapping": 3.0, "head_dim": 8}),
        ("granite", {"logits_scaling": 4.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("llama", {"tie_word_embeddings": False}),
    ],
)
def test_what_an_architecture_does_to_its_logits_is_done(uneven, model_type, extra, monkeypatch):
    """Also in small parts, and with the gradient: against the model's own logits at all positions."""
    monkeypatch.setattr(likelihood, "_LOGITS", {"cpu": 384 * 5})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **extra)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    calls = []
    handle = model.model.register_forward_hook(lambda *_: calls.append(0))
    model.requires_grad_(False)
    weight = model.model.layers[0].self_attn.v_proj.weight.requires_grad_(True)
    found = token_logprobs(model, collate(as_encoded(uneven)))
    assert len(calls) == 1  # the head alone was equal, so no second pass
    handle.remove()
    (gradient,) = torch.autograd.grad(found.sums.square().sum(), weight)
    sums = [logprob(model, p, s) for p, s in uneven]
    (expected,) = torch.autograd.grad(torch.stack(sums).square().sum(), weight)
    assert found.sums.tolist() == pytest.approx([float(s.detach()) for s in sums], rel=1e-5)
    assert float((gradient - expected).norm()) <= 1e-5 * float(expected.norm())
    assert float(expected.norm()) > 0


def test_an_unknown_end_of_the_model_is_left_to_the_model(tiny, uneven):
    """Logits that are not what the output embedding gives: then the model's own are taken, at all positions."""
    model = load_model(tiny.rlvr)
    with torch.no_grad():
        usual = token_logprobs(model, collate(as_encoded(uneven))).sums
    forward = type(model).forward

    class Odd(type(model)):
        def forward(self, *args, **kwargs):
            output = forward(self, *args, **kwargs)
            output.logits = output.logits.clamp(-1, 1)
            return output

    model.__class__ = Odd
    found = token_logprobs(model, collate(as_encoded(uneven)))
    expected = [float(logprob(model, p, s).detach()) for p, s in uneven]
    assert found.sums.tolist() == pytest.approx(expected, rel=1e-5)
    assert not torch.allclose(found.sums, usual, rtol=1e-2)
    assert found.values.requires_grad
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_a_trained_head_has_its_gradient(tiny, uneven):
    """Nothing is frozen: the tied embedding is read at both ends, and gets both parts."""
    found = []
    for ours in (True, False):
        model = load_model(tiny.rlvr)
        batch = collate(as_encoded(uneven))
        total = token_logprobs(model, batch).values.sum() if ours else sum(logprob(model, p, s) for p, s in uneven)
        total.backward()
        found.append(model.get_output_embeddings().weight.grad)
    assert float((found[0] - found[1]).norm()) <= 1e-5 * float(found[1].norm())
