"""What a model is asked, and where its response ends: templates, special tokens, days, and tokenizers with habits."""

import warnings
from datetime import datetime

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from mastlens.decoding.generation import end_tokens, generate
from mastlens.errors import MastlensError, MastlensWarning
from mastlens.evaluation.harness import _own_generation
from mastlens.models.likelihood import sequence_logprobs
from mastlens.problems.encoding import EncodedProblem, check_tokenizer, encode_problem, encode_prompt
from mastlens.problems.reading import Problem
from mastlens.problems.templates import dated_tokenizer, thinking_switches, turn_end
from mastlens.problems.thinking import decode_response, render_prompt

USER = "{% for m in messages %}<U>{{ m.content }}{% endfor %}"


def byte_tokenizer(*, special=(), template=None, eos_behind=False):
    """One token a byte; <pad> 0, <bos> 1, <eos> 2."""
    vocab = {"<pad>": 0, "<bos>": 1, "<eos>": 2}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[letter] = len(vocab)
    raw = Tokenizer(models.BPE(vocab, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if eos_behind:
        ends = [("<bos>", 1), ("<eos>", 2)]
        raw.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    if special:
        made.add_special_tokens({"additional_special_tokens": list(special)})
    made.chat_template = template
    return made


def small_llama(size, **settings):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=2,
        **settings,
    )
    return transformers.LlamaForCausalLM(config).eval()


SWITCHED = {
    "closed unless asked": (
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}" + USER + "<A>"
        "{% if thinking %}<think>{% else %}</think>{% endif %}",
        "thinking",
    ),
    "an empty trace unless asked": (
        USER + "<A>{% if not enable_reasoning %}<think>\n\n</think>\n\n{% endif %}",
        "enable_reasoning",
    ),
    "opened unless told": (USER + "<A>{% if think_on is not defined or think_on %}<think>\n{% endif %}", "think_on"),
    "always closed": (USER + "<A><think>\n\n</think>\n\n", None),
}


@pytest.mark.parametrize("kind", SWITCHED)
def test_thinking_is_switched_whatever_the_switch_is_called(kind):
    template, name = SWITCHED[kind]
    tokenizer = byte_tokenizer(template=template)
    assert thinking_switches(tokenizer) == (() if name is None else (name,))
    forced, empty, none = (render_prompt("Q?", tokenizer, think=mode) for mode in ("forced", "empty", "none"))
    assert forced.rstrip() == "<U>Q?<A><think>"
    assert empty.rstrip().startswith("<U>Q?<A>") and empty.rstrip().endswith("</think>")
    assert none == "<U>Q?<A>Answer:"


def test_a_name_that_is_written_is_no_switch():
    template = USER + "Reasoning: {{ reasoning_effort | default('low') }}<A>"
    tokenizer = byte_tokenizer(template=template)
    assert thinking_switches(tokenizer) == ()
    assert "low" in render_prompt("Q?", tokenizer, think="forced")


@pytest.mark.parametrize("think", ["free", "forced", "empty", "none"])
def test_a_prompt_is_the_same_tomorrow(monkeypatch, think):
    """Llama 3's way to write the date, and the one that has no way around it."""
    import transformers.utils.chat_template_utils as utils

    template = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}" + USER + "<A>"
    seen = []
    for day in (1, 2):

        class Clock(datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return datetime(2031, 5, day)

        monkeypatch.setattr(utils, "datetime", Clock)
        tokenizer = byte_tokenizer(template=template)
        plain = tokenizer.apply_chat_template([{"role": "user", "content": "Q?"}], tokenize=False)
        seen.append((plain, render_prompt("Q?", tokenizer, think=think)))
    (first, ours), (second, again) = seen
    assert first != second  # transformers alone writes what day it is
    assert ours == again and "<U>Q?<A>" in ours and "2024" in ours


def test_the_harness_generates_without_the_checkpoints_penalties():
    tokenizer = byte_tokenizer()
    model = small_llama(len(tokenizer))
    model.generation_config.repetition_penalty = 3.0
    stated, ends = model.generation_config, end_tokens(model, tokenizer)
    with _own_generation(model, tokenizer):
        assert model.generation_config.repetition_penalty in (None, 1.0)
        assert model.generation_config.eos_token_id == ends
    assert model.generation_config is stated
    assert stated.repetition_penalty == 3.0


def test_a_library_that_renders_prompts_itself_writes_the_same_date(monkeypatch):
    """TRL's trainer takes the tokenizer, not the prompt: what it renders is what ``render_prompt`` does."""
    template = "{{ strftime_now('%d %b %Y') }}" + USER + "<A>"
    tokenizer = byte_tokenizer(template=template)
    turn = [{"role": "user", "content": "Q?"}]
    dated = dated_tokenizer(tokenizer)
    assert dated.apply_chat_template(turn, tokenize=False) == render_prompt("Q?", tokenizer, think="free")
    assert "2024" not in tokenizer.apply_chat_template(turn, tokenize=False)  # the original is as it was
    assert tokenizer.chat_template == template
    timeless = byte_tokenizer(template=USER + "<A>")
    assert dated_tokenizer(timeless) is timeless
    assert dated_tokenizer(plain := byte_tokenizer()) is plain


def test_a_turn_ends_where_the_template_ends_it():
    turns = "{% for m in messages %}<|s|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}<|s|>assistant\n"
    tokenizer = byte_tokenizer(special=("<|s|>", "<|end|>"), template=turns)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert turn_end(tokenizer) == end
    model = small_llama(len(tokenizer))
    assert end_tokens(model, tokenizer) == [2, end]
    tokenizer.chat_template = USER + "<A>"  # nothing, or text, behind an answer
    assert turn_end(tokenizer) is None
    assert end_tokens(model, tokenizer) == [2]
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert turn_end(tokenizer) is None


def test_tags_of_thinking_are_kept_where_they_are_special_tokens():
    text = "<think>a b</think> c<eos>"
    tagged, plain = byte_tokenizer(special=("<think>", "</think>")), byte_tokenizer()
    for tokenizer in (tagged, plain):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert decode_response(ids, tokenizer) == "<think>a b</think> c"
    assert tagged.decode(tagged(text)["input_ids"], skip_special_tokens=True) == "a b c"  # what was graded before
    check_tokenizer(tagged, [Problem("Q?", "<think>x</think> 4", "4")], "it")  # and nothing of a solution is lost


def test_an_end_of_sequence_that_the_tokenizer_appends_is_no_part_of_a_prompt():
    problem = Problem("2+2?", "4", "4")
    tokenizer, plain = byte_tokenizer(eos_behind=True), byte_tokenizer()
    with pytest.warns(MastlensWarning, match="appends the end of sequence"):
        check_tokenizer(tokenizer, [problem], "it")
    ids, as_usual = encode_problem(problem, tokenizer), encode_problem(problem, plain)
    assert ids.prompt == (1, *as_usual.prompt)  # its beginning stays
    assert ids.solution == as_usual.solution
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_tokenizer(plain, [problem], "it")
    assert encode_prompt("x", plain)[-1] != 2


def test_a_token_beyond_the_embedding_is_told():
    tokenizer = byte_tokenizer(special=("<|u|>",))
    model = small_llama(len(tokenizer) - 1)
    beyond = len(tokenizer) - 1
    with pytest.raises(MastlensError, match=f"token id {beyond}.*{beyond} rows"):
        generate(model, tokenizer, [[1, beyond]], max_new_tokens=2)
    with pytest.raises(MastlensError, match=f"token id {beyond}"):
        sequence_logprobs(model, [EncodedProblem((1,), (beyond,))])
    assert len(generate(model, tokenizer, [[1, beyond - 1]], max_new_tokens=2)) == 1
