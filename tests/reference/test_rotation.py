"""Rotary frequencies that depend on a text's length: every number must be the model's own for that text alone."""

import contextlib

import pytest
import torch
import transformers

from mastlens.architectures.rotation import rotate_rows_alone, turning_length
from mastlens.decoding.generation import generate
from mastlens.models import likelihood
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import sequence_logprobs
from mastlens.problems.encoding import EncodedProblem, context_length
from tests.unit.test_asking import byte_tokenizer

TURN = 32
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [1.0 + 3 * i for i in range(4)],
    "original_max_position_embeddings": TURN,
    "rope_theta": 10000.0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = {
    "llama, LongRoPE": (transformers.LlamaConfig, {"rope_parameters": LONG, "max_position_embeddings": 128}),
    "phi3, LongRoPE": (
        transformers.Phi3Config,
        {"rope_parameters": LONG, "max_position_embeddings": 128, "original_max_position_embeddings": TURN},
    ),
    "qwen2, dynamic NTK": (transformers.Qwen2Config, {"rope_parameters": DYNAMIC, "max_position_embeddings": TURN}),
}


def turning(kind):
    """A model with the rows of its batches kept apart, and one of the same weights as transformers made it."""
    config, settings = KINDS[kind]
    pair = []
    for _ in range(2):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config(vocab_size=259, **SMALL, **settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(4)
        pair.append(model)
    rotate_rows_alone(pair[0])
    return pair


def draw(count, seed):
    return tuple(torch.randint(3, 259, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


def forget(model):
    """Set a plain model's dynamic frequencies back, as a fresh one has them."""
    with torch.no_grad():
        model(input_ids=torch.ones((1, 2), dtype=torch.long))


@torch.no_grad()
def alone(model, ids):
    forget(model)
    logits = model(input_ids=torch.tensor([ids.prompt + ids.solution]), use_cache=False).logits[0, :-1]
    start = len(ids.prompt)
    targets = torch.tensor(ids.solution)
    return float(torch.log_softmax(logits[start - 1 :], -1).gather(1, targets[:, None]).sum())


@torch.no_grad()
def written_alone(model, prompt, count):
    text = list(prompt)
    while len(text) < len(prompt) + count and text[-1] != 2:
        forget(model)
        text.append(int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_probability_does_not_depend_on_the_batch(kind):
    model, plain = turning(kind)
    assert turning_length(model.config) == TURN
    texts = [EncodedProblem(draw(5, n), draw(length - 5, n + 50)) for n, length in enumerate((15, 31, 32, 33, 48, 90))]
    expected = [alone(plain, text) for text in texts]
    assert sequence_logprobs(model, texts, batch_size=6)[0] == pytest.approx(expected, abs=1e-3)
    for order in (texts, texts[::-1]):  # nor on what was read before
        found = [float(sequence_logprobs(model, [text])[0][0]) for text in order]
        assert found == pytest.approx([expected[texts.index(text)] for text in order], abs=1e-3)
    # A model that somebody else opened is asked in the same way, and given back as it was.
    assert sequence_logprobs(plain, texts, batch_size=6)[0] == pytest.approx(expected, abs=1e-3)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.modules())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "rows_alone", contextlib.nullcontext)
        batch = sequence_logprobs(plain, texts, batch_size=6)[0]
    assert max(abs(batch - expected)) > 1e-2  # which is what transformers gives


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_does_not_depend_on_the_batch_and_may_cross_the_turn(kind):
    model, plain = turning(kind)
    tokenizer = byte_tokenizer()
    prompts = [draw(10, 1), draw(24, 2), draw(32, 3), draw(33, 4), draw(60, 5)]
    expected = [written_alone(plain, prompt, 16) for prompt in prompts]
    for one, size in ((model, 5), (model, 1), (plain, 5)):  # the last as somebody else opened it
        found = generate(one, tokenizer, prompts, max_new_tokens=16, batch_size=size)
        texts = [tokenizer.decode([i for i in ids if i != 2], skip_special_tokens=True) for ids in expected]
        assert [response.text for response in found] == texts
        assert [response.tokens for response in found] == [len(ids) for ids in expected]


def test_other_models_are_left_as_they_are():
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=259, **SMALL)).eval()
    rotate_rows_alone(model)
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in model.modules()]
    assert not any(hooks)
    assert turning_length(model.config) is None


@pytest.mark.parametrize(
    ("rope", "stated", "length"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 64, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, 64, 128),
        ({"rope_type": "linear", "factor": 2.0}, 64, 64),
        ({"rope_type": "default"}, 64, 64),
    ],
)
def test_a_context_goes_as_far_as_its_scaling(rope, stated, length):
    rope = {"rope_theta": 10000.0, **rope}
    config = transformers.LlamaConfig(vocab_size=259, **SMALL, max_position_embeddings=stated, rope_parameters=rope)
    assert context_length(config) == length
    assert context_length(transformers.GPT2Config(n_positions=77)) == 77


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_padding_in_front_changes_no_logit(kind):
    """Whatever the positions are: learnt (GPT-2) or rotary."""
    torch.manual_seed(0)
    config = {
        "gpt2": transformers.GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        "gpt_neox": transformers.GPTNeoXConfig(
            vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
        ),
        "llama": transformers.LlamaConfig(vocab_size=259, **SMALL),
    }[kind]
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    ids, pad = torch.tensor([draw(10, 1)]), torch.zeros((1, 4), dtype=torch.long)
    with torch.no_grad(), HookedModel(model).watch("z", layers=1) as view:
        plain, z = view.logits(ids), view["z", 1]
        mask = torch.cat([pad, torch.ones_like(ids)], dim=1)
        padded, behind = view.logits(torch.cat([pad, ids], dim=1), mask), view["z", 1]
        right = view.logits(torch.cat([ids, pad], dim=1), mask.flip(1))
    assert torch.allclose(plain, padded[:, 4:], atol=1e-3)
    assert torch.allclose(plain, right[:, :10], atol=1e-3)
    assert torch.allclose(z, behind[:, 4:], atol=1e-3)
