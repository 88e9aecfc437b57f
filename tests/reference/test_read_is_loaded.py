"""What is read is what is loaded: each tensor against the weights that transformers, or PEFT, runs with."""

import json
import random
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

import mastlens as m
from mastlens.architectures.catalogue import ARCHITECTURES
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import export
from mastlens.models.weights import named_weights, placed_weights
from tests.conftest import write_tokenizer
from tests.unit.test_architectures import CHANGES, write_model

peft = pytest.importorskip("peft")

IDS = torch.arange(3, 23).reshape(2, 10)
UNTIED = {"tie_word_embeddings": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that gives the folder of a tiny model of each architecture, made once."""
    made = {}

    def folder(model_type):
        if model_type not in made:
            made[model_type] = write_model(
                tmp_path_factory.mktemp(model_type), model_type, CHANGES[model_type] | UNTIED
            )
        return made[model_type]

    return folder


def saved_again(folder, out):
    """Return the tensors that transformers writes of the model that it loads: its own way back to the file's names."""
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(out)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_every_tensor_is_the_one_that_runs(folders, tmp_path, model_type):
    checkpoint, written = Checkpoint(folders(model_type)), saved_again(folders(model_type), tmp_path / "again")
    assert written.keys() == checkpoint.tensors.keys()
    for name, tensor in written.items():
        assert torch.equal(checkpoint.tensor(name), tensor), name
    model = checkpoint.load_model()
    # And each weight of the model is some tensor's place, once: what is swapped, edited or measured is all of it.
    shares = {name: torch.zeros(p.shape, dtype=torch.int64) for name, p in model.named_parameters()}
    names = [name for name in checkpoint.tensors if not name.endswith("e_score_correction_bias")]  # a buffer
    for name, (_, place) in placed_weights(model, names).items():
        place.of(shares[place.parameter]).add_(1)
        assert torch.equal(named_weights(model, [name])[name], checkpoint.tensor(name))
    assert all(count.eq(1).all() for count in shares.values())


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
@pytest.mark.parametrize("seed", [0, 1])
def test_every_tensor_under_an_adapter_is_the_one_that_peft_runs(folders, tmp_path, model_type, seed):
    draw = random.Random(f"{model_type} {seed}")
    base = folders(model_type)
    model = AutoModelForCausalLM.from_pretrained(base)
    linear = {n.rpartition(".")[2] for n, c in model.named_modules() if isinstance(c, torch.nn.Linear | Conv1D)}
    if any(".experts." in name for name in Checkpoint(base).tensors):  # with these PEFT wraps the experts' stacks too
        linear -= {"gate_proj", "up_proj", "down_proj"}
    targets = sorted(draw.sample(sorted(linear - {"lm_head"}), k=min(3, len(linear) - 1)))
    config = drawn_settings(draw, seed, targets, model)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config)).eval()
        with torch.no_grad():
            for parameter in live.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
            live.save_pretrained(tmp_path / "adapter")
            logits = live(IDS).logits
            live.merge_and_unload().save_pretrained(tmp_path / "merged")
    checkpoint, merged = Checkpoint(tmp_path / "adapter"), load_file(tmp_path / "merged" / "model.safetensors")
    plain = Checkpoint(base)
    assert checkpoint.tensors.keys() == merged.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(checkpoint.tensor(name), tensor, rtol=1e-5, atol=2e-5, msg=f"{name} {config}")
        assert (name in checkpoint.added) or torch.equal(checkpoint.tensor(name), plain.tensor(name))
    assert checkpoint.added
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.load_model()(IDS).logits, logits, rtol=1e-3, atol=2e-3)


ALWAYS = (  # with seed 0 and 1: between them every architecture meets every setting
    {"use_rslora", "use_dora", "rank_pattern", "modules_to_save", "named by a pattern"},
    {"bias", "alpha_pattern", "layers_to_transform", "exclude_modules"},
)


def drawn_settings(draw, seed, targets, model):
    """Return settings of an adapter: those of the seed, and some of the others that PEFT offers."""
    names = [name for name, _ in model.named_modules()]
    config = {"target_modules": targets, "r": draw.choice([1, 3]), "lora_alpha": draw.choice([1, 5, 2.5])}

    def wanted(setting, share):
        return setting in ALWAYS[seed] or draw.random() < share

    config["use_rslora"] = wanted("use_rslora", 0.5)
    config["use_dora"] = "bias" not in ALWAYS[seed] and wanted("use_dora", 0.4)
    if wanted("bias", 0.4) and not config["use_dora"]:
        config["bias"] = draw.choice(["all", "lora_only"])
    if wanted("rank_pattern", 0.5):
        config["rank_pattern"] = {draw.choice(targets): 2}
    if wanted("alpha_pattern", 0.5):  # by the whole path, by its end, or by an expression
        path = next(name for name in names if name.endswith(f".{targets[0]}"))
        config["alpha_pattern"] = {draw.choice([path, targets[0], rf".*\.1\..*{targets[0]}"]): 7}
    second = [
        t for t in targets if any(".1." in name and name.endswith(f".{t}") for name in names)
    ]  # its layers differ
    if wanted("layers_to_transform", 0.3):
        config["layers_to_transform"] = [1 if second else 0]
    elif wanted("named by a pattern", 0.3):
        config["target_modules"] = rf".*\.({'|'.join(targets)})"
    if wanted("exclude_modules", 0.3) and len(targets) > 1:
        config["exclude_modules"] = [next(t for t in reversed(targets) if t not in second[:1])]
    if wanted("modules_to_save", 0.4):
        ends = ["lm_head", "embed_tokens", "norm", "wte", "ln_f", "embed_in", "embed_out", "final_layer_norm"]
        config["modules_to_save"] = [draw.choice([end for end in ends if any(n.endswith(end) for n in names)])]
    return config


def test_adapters_on_stacks_of_experts_are_refused_by_name(folders, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(folders("qwen3_moe"))
        config = peft.LoraConfig(r=2, target_parameters=["mlp.experts.down_proj"], target_modules=["q_proj"])
        peft.get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(m.MastlensError, match="target_parameters"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize(("model_type", "target"), [("gpt2", "c_proj"), ("qwen2", "o_proj")])
def test_fan_in_fan_out_is_what_the_module_is_not_what_the_file_says(folders, tmp_path, model_type, target, flag):
    """A square matrix looks the same both ways; PEFT goes by the module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(folders(model_type))
        config = peft.LoraConfig(r=2, target_modules=[f"attn.{target}", target], init_lora_weights=False)
        live = peft.get_peft_model(model, config).eval()
        live.save_pretrained(tmp_path)
        logits = live(IDS).logits
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": flag}))
    torch.testing.assert_close(Checkpoint(tmp_path).load_model()(IDS).logits, logits, rtol=1e-4, atol=1e-4)


TIES = {  # settings, and whether PEFT keeps one matrix
    "lora on the input": ({"target_modules": ["embed_tokens"]}, False),
    "a whole input": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    "a whole output": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    "both, apart": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "lora, tied": ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "whole, tied": (
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True
    ),
    "neither": ({"target_modules": ["q_proj"]}, True),
}  # fmt: skip


@pytest.mark.parametrize("twice", [False, True], ids=["stored once", "stored twice"])
@pytest.mark.parametrize("kind", sorted(TIES))
def test_a_tied_embedding_under_an_adapter(tmp_path, kind, twice):
    base = write_model(tmp_path / "base", "qwen2", {"tie_word_embeddings": True})
    if twice:
        tensors = load_file(base / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, base / "model.safetensors", {"format": "pt"})
    settings, one = TIES[kind]
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=4, init_lora_weights=False, **settings)
        live = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
        with torch.no_grad():
            for name, parameter in live.named_parameters():
                if "modules_to_save" in name:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        live.save_pretrained(tmp_path / "adapter")
    if not one:
        with pytest.raises(m.MastlensError, match="one end of a tied embedding"):
            Checkpoint(tmp_path / "adapter")
        return
    with torch.no_grad():
        logits, own = live(IDS).logits, Checkpoint(tmp_path / "adapter").load_model()
        torch.testing.assert_close(own(IDS).logits, logits, rtol=1e-4, atol=1e-3)
    assert own.get_input_embeddings().weight is own.get_output_embeddings().weight


def write_adapter(folder, base, tensors=None, **changes):
    """Write an adapter by hand, so that its settings can be anything."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(base)}
    config |= {"target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    key = "base_model.model.model.layers.0.self_attn.q_proj"
    own = {f"{key}.lora_A.weight": torch.ones(2, 32) * 0.01, f"{key}.lora_B.weight": torch.ones(32, 2) * 0.01}
    save_file(own if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


WRONG = {
    "rank 0": {"r": 0}, "rank below": {"r": -1}, "rank true": {"r": True}, "rank in words": {"r": "x"},
    "rank of half": {"r": 0.5}, "alpha list": {"lora_alpha": [1]}, "alpha nan": {"lora_alpha": float("nan")},
    "pattern broken": {"rank_pattern": {"(": 4}}, "pattern list": {"alpha_pattern": [1]},
    "pattern to nothing": {"rank_pattern": {"q_proj": 0}}, "pattern for ever": {"alpha_pattern": {"((a*)*)*b": 4}},
    "target for ever": {"target_modules": r"(([^.]*\.?)*)*x"}, "target number": {"target_modules": 7},
    "targets of another": {"target_modules": ["k_proj"]}, "layer of another": {"layers_to_transform": [1]},
    "excluded": {"exclude_modules": ["q_proj"]}, "layers in words": {"layers_to_transform": ["one"]},
    "base a number": {"base_model_name_or_path": 5}, "another kind": {"peft_type": "IA3"},
    "no kind": {"peft_type": None},
    "replicated layers": {"layer_replication": [[0, 1]]}, "what is not known yet": {"use_something_new": True},
    "start that moves the base": {"init_lora_weights": "pissa"}, "start a list": {"init_lora_weights": []},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WRONG))
def test_settings_of_an_adapter_that_mean_nothing_known_are_refused(folders, tmp_path, kind):
    base = folders("qwen2")
    assert Checkpoint(write_adapter(tmp_path / "right", base)).added  # as it is, it can be read
    with pytest.raises(m.MastlensError) as error:
        Checkpoint(write_adapter(tmp_path / "wrong", base, **WRONG[kind]))
    assert "adapter" in str(error.value)


def test_adapters_in_a_circle_and_on_themselves(tmp_path):
    names = [tmp_path / name for name in "abc"]
    for one, other in zip(names, [*names[1:], names[0]], strict=True):
        write_adapter(one, other)
    with pytest.raises(m.MastlensError, match="circle"):
        Checkpoint(names[0])
    with pytest.raises(m.MastlensError, match="names itself"):
        Checkpoint(write_adapter(tmp_path / "alone", tmp_path / "alone"))


def test_a_folder_that_is_a_model_and_an_adapter(folders, tmp_path):
    base = folders("qwen2")
    adapter = write_adapter(tmp_path / "adapter", base)
    shutil.copy(base / "config.json", adapter)  # as some trainers leave it: it is still the adapter
    assert Checkpoint(adapter).fingerprint == Checkpoint(f"{base}+{adapter}").fingerprint
    both = shutil.copytree(base, tmp_path / "both")
    shutil.copytree(adapter, both, dirs_exist_ok=True)
    with pytest.raises(m.MastlensError, match="both a model"):
        Checkpoint(both)
    assert Checkpoint(f"{base}+{both}").fingerprint == Checkpoint(adapter).fingerprint
    (both / "adapter_model.safetensors").unlink()
    with pytest.raises(m.MastlensError, match=r"without an adapter's weights"):
        Checkpoint(both)
    (both / "adapter_config.json").unlink()
    assert Checkpoint(both).fingerprint == Checkpoint(base).fingerprint


def another_save(folder, seed, **options):
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(folder, **options)


def test_a_newer_single_file_beside_old_shards(folders, tmp_path):
    folder = shutil.copytree(folders("llama"), tmp_path / "model")
    newer = load_file(folder / "model.safetensors")
    another_save(folder, 1, max_shard_size="20KB")
    assert len(list(folder.glob("model-*"))) > 2 and (folder / "model.safetensors.index.json").is_file()
    old = {n: t.clone() for shard in folder.glob("model-*") for n, t in load_file(shard).items()}
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert all(torch.equal(Checkpoint(folder).tensor(name), tensor) for name, tensor in old.items())
    save_file(newer, folder / "model.safetensors", {"format": "pt"})
    checkpoint = Checkpoint(folder)
    for name, parameter in AutoModelForCausalLM.from_pretrained(folder).named_parameters():
        assert torch.equal(checkpoint.tensor(name), parameter)
        assert torch.equal(checkpoint.tensor(name), newer[name]) and not torch.equal(newer[name], old[name])
    export(checkpoint, {}, tmp_path / "out")  # and the old index is not taken along
    assert Checkpoint(tmp_path / "out").fingerprint == checkpoint.fingerprint
    assert not list((tmp_path / "out").glob("*index*"))


def test_index_and_shards_of_two_saves(folders, tmp_path):
    folder = shutil.copytree(folders("llama"), tmp_path / "model")
    another_save(folder, 1, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    shards = sorted({*told["weight_map"].values()})
    name = next(n for n, file in told["weight_map"].items() if file == shards[0])
    for wrong in ({**told["weight_map"], name: shards[1]}, {**told["weight_map"], "nowhere": shards[0]}):
        index.write_text(json.dumps(told | {"weight_map": wrong}))
        with pytest.raises(m.MastlensError, match="two saves"):
            Checkpoint(folder)
    index.write_text(json.dumps(told))
    twice = load_file(folder / shards[1]) | {name: torch.zeros(1)}
    save_file(twice, folder / shards[1], {"format": "pt"})
    with pytest.raises(m.MastlensError, match="left over"):
        Checkpoint(folder)
    del twice[name]
    save_file(twice, folder / shards[1], {"format": "pt"})
    fingerprint = Checkpoint(folder).fingerprint
    index.unlink()
    assert Checkpoint(folder).fingerprint == fingerprint  # one complete set can be read in one way
    shutil.copy(folder / shards[0], folder / "model-00001-of-00002.safetensors")
    with pytest.raises(m.MastlensError, match="saves"):
        Checkpoint(folder)


@pytest.mark.parametrize("old", [False, True], ids=["torch 1.6", "before"])
def test_pickled_weights(folders, tmp_path, old):
    plain = Checkpoint(folders("llama"))
    folder = shutil.copytree(folders("llama"), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    state = {name: plain.tensor(name) for name in plain.tensors}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    checkpoint = Checkpoint(folder)
    assert checkpoint.fingerprint == plain.fingerprint
    for name, parameter in checkpoint.load_model().named_parameters():
        assert torch.equal(parameter, state[name])
    for wrong in ({"epoch": 3}, [1, 2], {"model": state}, state | {"step": 7}, {3: torch.ones(1)}):
        torch.save(wrong, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
        with pytest.raises(m.MastlensError, match=r"pytorch_model\.bin holds a"):
            Checkpoint(folder)


def test_two_prefixes_in_one_lineage(folders, tmp_path):
    """GPT-2 as the hub has it, and what transformers saves of a fine-tune of it."""
    tuned = folders("gpt2")
    tensors = load_file(tuned / "model.safetensors")
    pairs = {}
    for kind, strip in (("same", ""), ("hub", "transformer.")):
        torch.manual_seed(3)
        pairs[kind] = shutil.copytree(tuned, tmp_path / kind)
        moved = {name.removeprefix(strip): t + 1e-3 * torch.randn(t.shape) for name, t in tensors.items()}
        save_file(moved, pairs[kind] / "model.safetensors", {"format": "pt"})
        write_tokenizer(pairs[kind])
    tables = [m.geometry(base=pairs[kind], rlvr=tuned, rank=4, progress=False).table for kind in pairs]
    assert len(tables[0]) == 8 and tables[0].equals(tables[1])
    back = [m.geometry(base=tuned, rlvr=pairs[kind], rank=4, progress=False).table for kind in pairs]
    assert back[1]["name"].str.startswith("h.").all()  # the names of the checkpoint that is edited
    measured = ["layer", "projection", "delta_norm", "relative_norm", "off_principal"]  # nulls are drawn by name
    assert back[0][measured].equals(back[1][measured])
    found = m.mask_agreement(reference=tuned, runs=[pairs["same"], pairs["hub"]], progress=False).table
    assert len(found) == 8 and found["jaccard"].eq(1).all()
    own, view = Checkpoint(pairs["hub"]), Checkpoint(pairs["hub"]).named_as(Checkpoint(tuned))
    assert view.fingerprint == own.fingerprint and view.behaviour == own.behaviour
    assert set(view.tensors) == set(tensors) and view.named_as(own).tensors.keys() == own.tensors.keys()
    assert torch.equal(view.tensor("transformer.wte.weight"), own.tensor("wte.weight"))
    assert Checkpoint(tuned).named_as(Checkpoint(pairs["same"])).spec == str(tuned)


@pytest.mark.parametrize("kind", ["differs", "equals"])
def test_an_output_embedding_that_is_stored_though_it_is_tied(tmp_path, kind):
    folder = write_model(tmp_path, "qwen2", {"tie_word_embeddings": True})
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + (1.0 if kind == "differs" else 0.0)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = Checkpoint(folder).load_model()  # held against the file, tensor for tensor
    assert torch.equal(model.get_output_embeddings().weight, tensors["lm_head.weight"])
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == (kind == "equals")


def test_what_transformers_would_overwrite_is_refused(folders, monkeypatch):
    plain = AutoModelForCausalLM.from_pretrained

    def other(*args, **settings):
        model, info = plain(*args, **settings)
        with torch.no_grad():
            model.get_input_embeddings().weight[0, 0] += 1e-3
        return model, info

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", other)
    with pytest.raises(m.MastlensError, match=r"embed_tokens.*not what transformers runs with"):
        Checkpoint(folders("llama")).load_model()


def test_padded_rows_and_the_padding_token(tmp_path):
    """Rows beyond the tokenizer's and the row of the padding token are read and loaded as they are stored."""
    folder = write_model(tmp_path, "llama", {"vocab_size": 400, "pad_token_id": 7} | UNTIED)
    checkpoint = Checkpoint(folder)
    model = checkpoint.load_model()
    assert model.get_input_embeddings().padding_idx == 7
    stored = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert stored[7].abs().min() > 0 and len(stored) == 400
    assert torch.equal(checkpoint.tensor("model.embed_tokens.weight"), stored)
    assert torch.equal(model.get_input_embeddings().weight, stored)
