"""A tiny llama in a GGUF file, and what its blocks stand for."""

import numpy as np

HIDDEN, HEADS, GROUPS, WIDE, LAYERS = 64, 4, 2, 96, 2


def interleaved(matrix, heads):
    """Return rows in the order in which llama.cpp's files keep those of queries and keys."""
    return matrix.reshape(heads, 2, len(matrix) // heads // 2, -1).swapaxes(1, 2).reshape(matrix.shape)


def write_gguf(file, kind="Q4_1", *, moved=0.0):
    """Write it; return name of each parameter to what gguf itself reads out of the blocks.

    Args:
        file: Where to.
        kind: What matrices are stored as.
        moved: Size of the noise that is added to every matrix beforehand, of entries of size one.
    """
    import gguf
    from gguf.quants import dequantize, quantize

    draw, noise = np.random.default_rng(0), np.random.default_rng(1)
    stored = gguf.GGMLQuantizationType[kind]
    alphabet = [*(chr(code) for code in range(33, 127)), "Ġ", "Ċ"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "ab"]
    writer = gguf.GGUFWriter(file, "llama")
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
        matrix = matrix + np.float32(moved) * noise.normal(size=matrix.shape).astype(np.float32)
        blocks = quantize(interleaved(matrix, heads) if heads else matrix, stored)
        writer.add_tensor(there, blocks, raw_dtype=stored)
        read = dequantize(blocks, stored)
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
    return expected
