"""LoRA adapters against PEFT's own merge in float32, on real adapters that PEFT wrote."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import mastlens as m
from mastlens.checkpoints.export import export
from tests.conftest import write_lineage, write_tokenizer

peft = pytest.importorskip("peft")

BASE = "sft"
ATTENTION = ["q_proj", "v_proj", "o_proj"]
SETTINGS = {
    "plain": {"target_modules": ATTENTION},
    "rank-stabilised": {"target_modules": ATTENTION, "use_rslora": True},
    "patterns": {
        "target_modules": [*ATTENTION, "up_proj"],
        "rank_pattern": {"q_proj": 2, r"layers\.1\..*\.v_proj": 5},
        "alpha_pattern": {"o_proj": 7, r"layers\.0\.mlp\.up_proj": 1},
    },
    "dora": {"target_modules": ATTENTION, "use_dora": True},
    "dora rank-stabilised": {"target_modules": ATTENTION, "use_dora": True, "use_rslora": True},
    "trained biases": {"target_modules": ["q_proj", "v_proj"], "bias": "all"},
    "biases in B": {"target_modules": ["q_proj", "k_proj"], "lora_bias": True},
    "whole modules": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
}


def write_adapter(base, folder, seed=0, size=0.2, merge=True, **settings):
    """Give a model an adapter of random numbers; save the adapter, and return PEFT's merge of it."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=5, task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(size * torch.randn(parameter.shape))
        model.save_pretrained(folder)
        return model.merge_and_unload() if merge else None


def assert_like(checkpoint, merged, *, atol=2e-6):
    """Every stored tensor is that of the merged model, to rounding in float32."""
    state = merged.state_dict()
    for name in checkpoint.tensors:
        torch.testing.assert_close(checkpoint.tensor(name), state[name], rtol=1e-6, atol=atol, msg=name)


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_every_tensor_is_that_of_pefts_merge(tiny, tmp_path, kind):
    merged = write_adapter(tiny.sft, tmp_path / "adapter", **SETTINGS[kind])
    checkpoint, base = m.Checkpoint(tmp_path / "adapter"), m.Checkpoint(tiny.sft)
    assert_like(checkpoint, merged)
    changed = {n for n in base.tensors if not torch.equal(base.tensor(n), checkpoint.tensor(n))}
    assert changed == checkpoint.added  # and no tensor beside these, bit for bit
    assert checkpoint.added
    loaded = checkpoint.load_model()
    ids = torch.arange(12).reshape(1, -1)
    torch.testing.assert_close(loaded(ids).logits, merged.eval()(ids).logits, rtol=1e-4, atol=1e-4)
    assert checkpoint.fingerprint != base.fingerprint


def test_an_embedding_of_its_own(tmp_path):
    """Of a base that does not tie it to the output; tests/reference/test_read_is_loaded.py has the tied ones."""
    base = write_lineage(tmp_path, tie_word_embeddings=False).sft
    merged = write_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens", "q_proj"])
    checkpoint = m.Checkpoint(tmp_path / "adapter")
    assert_like(checkpoint, merged)
    assert "model.embed_tokens.weight" in checkpoint.added and "lm_head.weight" not in checkpoint.added


def test_a_transposed_architecture(tmp_path):
    """GPT-2 stores its matrices as (in, out), and some of its checkpoints lack the prefix of the headless model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=32, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    merged = write_adapter(tmp_path / "gpt2", tmp_path / "adapter", target_modules=["c_attn", "c_proj"])
    assert_like(m.Checkpoint(tmp_path / "adapter"), merged)
    bare = shutil.copytree(tmp_path / "gpt2", tmp_path / "bare")
    tensors = load_file(bare / "model.safetensors")
    save_file(
        {n.removeprefix("transformer."): t for n, t in tensors.items()}, bare / "model.safetensors", {"format": "pt"}
    )
    checkpoint = m.Checkpoint(tmp_path / "adapter", base=bare)
    assert len(checkpoint.added) == 6  # c_attn and two kinds of c_proj in two layers
    state = merged.state_dict()
    for name in checkpoint.tensors:
        torch.testing.assert_close(checkpoint.tensor(name), state[f"transformer.{name}"], rtol=1e-6, atol=2e-6)
    ids = torch.arange(12).reshape(1, -1)
    torch.testing.assert_close(checkpoint.load_model()(ids).logits, merged.eval()(ids).logits, rtol=1e-4, atol=1e-4)


def test_fused_modules(tmp_path):
    lineage = write_lineage(tmp_path / "phi3", "phi3")
    merged = write_adapter(lineage.sft, tmp_path / "adapter", target_modules=["qkv_proj", "o_proj"])
    assert_like(m.Checkpoint(tmp_path / "adapter"), merged)


def test_a_base_in_bfloat16_is_not_rounded_to(tmp_path):
    """A step below bfloat16's spacing survives here; merging into the base's dtype swallows most of it."""
    lineage = write_lineage(tmp_path / "bf16", dtype="bfloat16")
    write_adapter(lineage.sft, tmp_path / "adapter", merge=False, size=5e-4, target_modules=ATTENTION)
    name = "model.layers.0.self_attn.q_proj.weight"
    base, checkpoint = m.Checkpoint(lineage.sft), m.Checkpoint(tmp_path / "adapter")
    parts = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
    exact = base.tensor(name).double() + 5 / 3 * parts[f"{key}B.weight"].double() @ parts[f"{key}A.weight"].double()
    assert torch.equal(checkpoint.tensor(name), exact.float())  # rounded once
    assert checkpoint.tensors[name].dtype == torch.float32
    assert checkpoint.tensor("model.norm.weight").dtype == torch.bfloat16
    swallowed = (exact.bfloat16() == base.tensor(name)).double().mean()
    assert swallowed > 0.5 and (checkpoint.tensor(name) != base.tensor(name)).double().mean() > 0.95


def test_the_base_is_found(tiny, tmp_path, monkeypatch):
    adapter = tmp_path / "runs" / "adapter"
    write_adapter(tiny.sft, adapter, merge=False, target_modules=ATTENTION)
    asked = m.Checkpoint(adapter).fingerprint
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())

    def name_base(base):
        path.write_text(json.dumps(config | {"base_model_name_or_path": base}))

    copy = shutil.copytree(tiny.sft, tmp_path / "runs" / "base")
    monkeypatch.chdir(tmp_path)  # where no other folder is called as the base
    name_base("../base")  # from the adapter's folder
    assert m.Checkpoint(adapter).fingerprint == asked
    name_base("runs/base")  # from the working folder
    assert m.Checkpoint(adapter).fingerprint == asked
    for lost in ("nobody/no-such-base", str(tmp_path / "gone"), None, str(adapter)):
        name_base(lost)
        with pytest.raises(m.MastlensError, match=r"BASE\+"):
            m.Checkpoint(adapter)
        assert m.Checkpoint(f"{copy}+{adapter}").fingerprint == asked
        assert m.Checkpoint(adapter, base=copy).fingerprint == asked
    with pytest.raises(m.MastlensError, match="takes no base"):
        m.Checkpoint(tiny.rlvr, base=tiny.sft)


def test_adapters_stack(tiny, tmp_path):
    """An RLVR adapter on an SFT adapter: base, then both, in order."""
    first, second = tmp_path / "first", tmp_path / "second"
    write_adapter(tiny.base, first, target_modules=ATTENTION).save_pretrained(tmp_path / "merged")
    write_tokenizer(tmp_path / "merged")
    merged = write_adapter(tmp_path / "merged", second, seed=1, target_modules=["q_proj", "k_proj"])
    stacked = m.Checkpoint(f"{tiny.base}+{first}+{second}")
    assert_like(stacked, merged)
    assert len(stacked.added) == 8
    assert stacked.load_tokenizer() is not None


def test_the_chain_takes_an_adapter(tiny, tmp_path):
    """Geometry, unlearning, export and undo on an adapter equal those on its merged folder."""
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    write_adapter(tiny.sft, adapter, size=0.05, merge=False, target_modules=ATTENTION)
    export(m.Checkpoint(adapter), {}, out)
    assert m.Checkpoint(out).fingerprint == m.Checkpoint(adapter).fingerprint  # merged on the way out
    tables = [
        m.geometry(base=tiny.base, sft=tiny.sft, rlvr=rlvr, rank=2, progress=False).table for rlvr in (adapter, out)
    ]
    assert tables[0].equals(tables[1])
    increment = tables[0][tables[0]["increment"] == "rlvr"]
    assert (increment["delta_norm"] == 0).tolist() == [p == "k" for p in increment["projection"]]

    settings = {"forget": tiny.forget, "objective": "ga", "steps": 2, "lr": 1e-3, "where": "q_proj", "progress": False}
    edits = [m.unlearn(rlvr=rlvr, **settings).edit for rlvr in (adapter, out)]
    for name in edits[0].names:
        assert torch.equal(edits[0].after[name], edits[1].after[name])
    m.apply_edit(edits[0], to=adapter, out=tmp_path / "edited")
    m.revert_edit(edits[0], source=tmp_path / "edited", out=tmp_path / "reverted")
    assert m.Checkpoint(tmp_path / "reverted").fingerprint == m.Checkpoint(adapter).fingerprint
    before = {p.name: p.read_bytes() for p in adapter.iterdir()}
    with pytest.raises(m.MastlensError, match="never written to"):
        m.apply_edit(edits[0], to=adapter, out=adapter, overwrite=True)
    assert {p.name: p.read_bytes() for p in adapter.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_qalora": True}, "use_qalora"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"r": 4}, "rank"),
    ],
)
def test_what_is_no_sum_is_refused(tiny, tmp_path, change, words):
    write_adapter(tiny.sft, tmp_path / "adapter", merge=False, target_modules=ATTENTION)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(m.MastlensError, match=words):
        m.Checkpoint(tmp_path / "adapter")


def test_the_wrong_base_is_refused(tiny, tmp_path):
    write_adapter(tiny.sft, tmp_path / "adapter", merge=False, target_modules=ATTENTION)
    other = write_lineage(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(m.MastlensError, match="no counterpart"):
        m.Checkpoint(tmp_path / "adapter", base=other.sft)
    other = write_lineage(tmp_path / "wide", hidden_size=48)
    with pytest.raises(m.MastlensError, match="its base has"):
        m.Checkpoint(tmp_path / "adapter", base=other.sft)


def test_a_tied_output_is_not_untied_silently(tiny, tmp_path):
    write_adapter(tiny.sft, tmp_path / "adapter", merge=False, target_modules=["q_proj", "lm_head"])
    with pytest.raises(m.MastlensError, match=r"lm_head|output"):
        m.Checkpoint(tmp_path / "adapter")
