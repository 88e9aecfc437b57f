"""Every architecture on a tiny random model of the real class: what a slice is called is what the model uses it for."""

import importlib
import json
import re

import pytest
import torch

from mastlens import Checkpoint, inspect
from mastlens.architectures import catalogue as module
from mastlens.architectures.catalogue import (
    ARCHITECTURES,
    SEPARATE,
    architecture_table,
    register_architecture,
    register_architectures,
)
from mastlens.architectures.matrices import find_matrices
from mastlens.architectures.placement import same_names
from mastlens.architectures.projections import ORDER, find_projections
from mastlens.errors import MastlensError, MastlensWarning

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
HYBRID = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "rope_interleave": False,  # so that rotation at position 0 is no permutation either
}
CHANGES = {  # head sizes that are not hidden / heads wherever the architecture allows it
    "qwen2": {},
    "qwen3": {"head_dim": 12},
    "qwen3_moe": {"head_dim": 12} | EXPERTS,
    "qwen3_next": {"shared_expert_intermediate_size": 16} | EXPERTS | HYBRID,
    "qwen3_5_text": HYBRID,
    "qwen3_5_moe_text": {"shared_expert_intermediate_size": 16} | EXPERTS | HYBRID,
    "llama": {"attention_bias": True},
    "mistral": {"head_dim": 12},
    "mixtral": {"num_local_experts": 4},
    "gemma2": {"head_dim": 12},
    "gemma3_text": {"head_dim": 12},
    "olmo2": {},
    "phi3": {},
    "gpt2": {"num_key_value_heads": None},
    "gpt_neox": {"num_key_value_heads": None},
    "deepseek_v3": LATENT | {"attention_bias": True},
    "deepseek_v2": LATENT,
    "glm4_moe_lite": LATENT,
}
CASES = {model_type: (model_type, changes) for model_type, changes in CHANGES.items()} | {
    "deepseek_v3 without latent q": ("deepseek_v3", LATENT | {"q_lora_rank": None}),
    "phi3 without grouped queries": ("phi3", {"num_key_value_heads": 4}),
    # Not in the table: by the tensor-parallel plan of transformers, and by the usual names.
    "granite": ("granite", {}),
    "phi": ("phi", {}),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
}


def write_model(folder, model_type, changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    settings = {key: value for key, value in (SIZES | changes).items() if value is not None or key == "q_lora_rank"}
    if model_type == "gemma3":
        text = SIZES | {"head_dim": 12, "model_type": "gemma3_text"}
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        settings = {"text_config": text, "vision_config": vision | {"image_size": 28, "patch_size": 14}}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    with torch.no_grad():  # biases start at zero and norms at one: make them count
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(CASES))
def checkpoint(request, tmp_path_factory):
    return Checkpoint(write_model(tmp_path_factory.mktemp("model"), *CASES[request.param]))


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(module, "_registered", {})


def shapes_of(checkpoint):
    return {name: stored.shape for name, stored in checkpoint.tensors.items()}


def test_every_known_architecture_is_tested():
    assert set(ARCHITECTURES) == set(CHANGES)


def test_slices_cover_every_attention_weight_exactly_once(checkpoint):
    projections = checkpoint.projections
    stored = {p.stored for p in projections}
    attention = {
        name
        for name, shape in shapes_of(checkpoint).items()
        if re.search(r"\.(self_attn|attn|attention)\.", name) and len(shape) == 2
    }
    assert stored == attention
    for name in stored:
        counts = torch.zeros(checkpoint.tensors[name].shape, dtype=torch.int64)
        again = torch.full_like(checkpoint.tensor(name), float("nan"))
        for p in projections:
            if p.stored == name:
                p.write(counts, p.read(counts) + 1)
                p.write(again, checkpoint.matrix(p))
        assert counts.eq(1).all()
        assert torch.equal(again, checkpoint.tensor(name))
    assert list(projections) == sorted(projections, key=lambda p: (p.layer, ORDER.index(p.projection)))
    assert len({p.name for p in projections}) == len(projections)
    for p in projections:
        assert tuple(checkpoint.matrix(p).shape) == (p.rows, p.cols)
        if p.heads:
            assert p.heads * p.head_dim == (p.cols if p.projection == "o" else p.rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_an_edit_of_one_slice_leaves_the_others_bit_identical(checkpoint, dtype):
    for p in checkpoint.projections:
        before = checkpoint.tensor(p.stored).to(dtype)
        after = before.clone()
        new = torch.randn(p.rows, p.cols)
        p.write(after, new)
        assert torch.equal(p.read(after).float(), new.to(dtype).float())
        mine = torch.zeros(before.shape, dtype=torch.bool)
        p.write(mine, torch.ones(p.rows, p.cols, dtype=torch.bool))
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[dtype.itemsize]
        assert torch.equal(after.view(bits)[~mine], before.view(bits)[~mine])
        assert int(mine.sum()) == p.numel
        with pytest.raises(MastlensError, match=re.escape(p.name)):
            p.write(after, new[:1])


def test_heads_are_views_of_the_stored_tensor(checkpoint):
    for p in checkpoint.projections:
        stored = checkpoint.tensor(p.stored)
        if not p.heads:
            with pytest.raises(MastlensError, match="no heads"):
                p.heads_of(stored)
            continue
        matrix, heads = p.read(stored).clone(), p.heads_of(stored)
        for head, its in enumerate(heads):
            mine = slice(head * p.head_dim, (head + 1) * p.head_dim)
            assert torch.equal(its, matrix[:, mine] if p.projection == "o" else matrix[mine])
            assert torch.equal(its, p.head_of(stored, head))
        assert heads.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
        heads[-1] = 7.0
        p.head_of(stored, 0).fill_(7.0)
        changed = p.read(stored) != matrix
        assert int(changed.sum()) == 2 * p.numel // p.heads if p.heads > 1 else changed.all()
        with pytest.raises(MastlensError, match="no head"):
            p.head_of(stored, p.heads)


@torch.no_grad()
def test_the_model_uses_each_slice_for_what_it_is_called(checkpoint, monkeypatch):
    """Against what the model's own attention function receives; q and k at position 0, where rotation does nothing."""
    model = checkpoint.load_model()
    model.set_attn_implementation("eager")
    received, inputs, outputs = {}, {}, {}

    def capture(attention, query, key, value, *_args, **_kwargs):
        received[id(attention)] = query, key, value
        mixed = torch.randn(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        inputs[id(attention)] += (mixed,)
        return mixed, None

    monkeypatch.setattr(importlib.import_module(type(model).__module__), "eager_attention_forward", capture)
    where = same_names(checkpoint.tensors, dict(model.named_parameters()))
    layers: dict[int, dict] = {}
    for p in checkpoint.projections:
        layers.setdefault(p.layer, {})[p.projection] = p

    def parent(p):
        return model.get_submodule(where[p.stored].removesuffix(".weight").rpartition(".")[0])

    handles = []
    for projections in layers.values():
        attention = parent(projections["o"])

        def before(attention, args, kwargs):
            inputs[id(attention)] = (args[0] if args else kwargs["hidden_states"],)

        def after(attention, _args, output):
            outputs[id(attention)] = output[0]

        handles += [attention.register_forward_pre_hook(before, with_kwargs=True)]
        handles += [attention.register_forward_hook(after)]
    model(input_ids=torch.tensor([[5, 17, 3, 60, 8]]), use_cache=False)
    for handle in handles:
        handle.remove()

    def apply(p, x):
        y = x @ checkpoint.matrix(p).T
        if p.bias:
            y = y + p.outputs_of(checkpoint.tensor(p.bias.partition("#")[0]))
        if p.norm:
            norm = model.get_submodule(where[p.norm].removesuffix(".weight"))
            y = norm(y) if norm.weight.numel() == p.rows else norm(y.unflatten(-1, (p.heads, p.head_dim))).flatten(-2)
        return y

    def by_head(p, y):
        return y.unflatten(-1, (p.heads, p.head_dim)).transpose(1, 2)

    for projections in layers.values():
        attention = id(parent(projections["o"]))
        x, mixed = inputs[attention]
        query, key, value = received[attention]
        into_q = apply(projections["q_a"], x) if "q_a" in projections else x
        into_kv = apply(projections["kv_a"], x) if "kv_a" in projections else x
        q, k, v = (by_head(projections[p], apply(projections[p], into_q if p == "q" else into_kv)) for p in "qkv")
        if "k_rope" in projections:
            shared = by_head(projections["k_rope"], apply(projections["k_rope"], x))
            k = torch.cat([k, shared.expand(-1, k.shape[1], -1, -1)], dim=-1)
        torch.testing.assert_close(value, v, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(query[:, :, 0], q[:, :, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(key[:, :, 0], k[:, :, 0], rtol=1e-4, atol=1e-5)
        if "gate" in projections:
            gate = apply(projections["gate"], x).unflatten(-1, mixed.shape[-2:])
            mixed = mixed * torch.sigmoid(gate)
        o = projections["o"]
        heads = o.heads_of(checkpoint.tensor(o.stored))
        result = sum(mixed[:, :, head] @ heads[head].T for head in range(o.heads))
        result = result + (checkpoint.tensor(o.bias) if o.bias else 0.0)
        torch.testing.assert_close(outputs[attention], result, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_outputs_are_cut_as_the_weights_are(checkpoint):
    for p in checkpoint.projections:
        stored = checkpoint.tensor(p.stored)
        x = torch.randn(2, 3, p.cols)
        module_output = x @ (stored if p.layout.transposed else stored.T)
        torch.testing.assert_close(p.outputs_of(module_output), x @ checkpoint.matrix(p).T)
        before = module_output.clone()
        p.write_outputs(module_output, torch.full((2, 3, p.rows), 9.0))
        assert int((module_output != before).sum()) == 2 * 3 * p.rows
        assert p.outputs_of(module_output).eq(9).all()


def test_every_weight_matrix_is_found_by_its_name(checkpoint):
    shapes = shapes_of(checkpoint)
    everything = find_matrices(".", checkpoint.config, shapes)
    assert [p for p in everything if p.projection in ORDER] == list(checkpoint.projections)
    assert {p.stored for p in everything} == {name for name, shape in shapes.items() if len(shape) == 2}
    assert sum(p.numel for p in everything) == sum(a * b for a, b in (s for s in shapes.values() if len(s) == 2))
    labels = {p.projection for p in everything if p.layer == 1}
    assert {"mlp_up", "mlp_down"} <= labels
    for p in everything:
        assert tuple(checkpoint.matrix(p).shape) == (p.rows, p.cols)
    for p in checkpoint.projections:  # a slice is selected by its own name, without the others of its tensor
        assert find_matrices(f"^{re.escape(p.name)}$", checkpoint.config, shapes) == (p,)


def test_inspection_shows_them(checkpoint):
    result = inspect(checkpoint)
    table, summary = result.table, result.summary
    assert list(table["name"]) == [p.name for p in checkpoint.projections]
    assert summary["fused"] == table["fused"].any() == any("#" in name for name in table["name"])
    hybrid = checkpoint.model_type in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "lfm2")
    assert summary["layers"] == 2
    assert summary["layers_without_projections"] == ([0] if hybrid else [])
    queries = table[table["projection"] == "q"].iloc[0]
    assert (summary["heads"], summary["head_dim"]) == (4, queries["head_dim"])
    assert summary["groups"] == table[table["projection"] == "k"].iloc[0]["heads"]
    assert summary["transposed"] == (checkpoint.model_type == "gpt2")


def opened(tmp_path, model_type, **changes):
    return Checkpoint(write_model(tmp_path, model_type, CHANGES.get(model_type, {}) | changes))


def test_biases_and_norms_by_architecture(tmp_path):
    expected = {
        "qwen2": (["q", "k", "v"], []),
        "gpt2": (["q", "k", "v", "o"], []),
        "gpt_neox": (["q", "k", "v", "o"], []),
        "qwen3": ([], ["q", "k"]),
        "olmo2": ([], ["q", "k"]),
        "gemma2": ([], []),
        "deepseek_v3": (["o", "q_a", "kv_a", "k_rope"], ["q_a", "kv_a"]),
    }
    for model_type, (biases, norms) in expected.items():
        summary = inspect(opened(tmp_path / model_type, model_type)).summary
        assert (summary["biases"], summary["norms"]) == (biases, norms), model_type
    assert inspect(opened(tmp_path / "phi3", "phi3")).summary["tied"] is False
    assert inspect(opened(tmp_path / "tied", "phi3", tie_word_embeddings=True)).summary["tied"] is True


def test_a_model_inside_a_multimodal_one(tmp_path):
    checkpoint = opened(tmp_path, "gemma3")
    assert {p.name.partition("layers")[0] for p in checkpoint.projections} == {"language_model.model."}
    assert [(p.heads, p.head_dim) for p in checkpoint.projections[:4]] == [(4, 12), (2, 12), (2, 12), (4, 12)]
    assert any("vision" in name and "q_proj" in name for name in checkpoint.tensors)
    parameters = dict(checkpoint.load_model().named_parameters())
    where = same_names((p.stored for p in checkpoint.projections), parameters)
    assert len(where) == len(checkpoint.projections)
    for p in checkpoint.projections:
        assert torch.equal(parameters[where[p.stored]], checkpoint.matrix(p))


def test_gpt2_as_the_hub_has_it_without_a_prefix(tmp_path):
    checkpoint = opened(tmp_path, "gpt2")
    bare = {name.removeprefix("transformer."): shape for name, shape in shapes_of(checkpoint).items()}
    projections = find_projections(checkpoint.config, bare)
    assert [p.name for p in projections] == [p.name.removeprefix("transformer.") for p in checkpoint.projections]
    where = same_names(bare, checkpoint.tensors)
    assert all(where[name] == f"transformer.{name}" for name in bare if name != "lm_head.weight")
    assert same_names(["h.0.attn.c_attn.bias", "h.9.attn.c_attn.bias"], ["a.h.0.attn.c_attn.bias"]) == {}


def test_the_defaults_that_a_file_leaves_out_are_filled_in():
    config = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 32}}
    config["text_config"]["num_hidden_layers"] = 1
    shapes = {f"language_model.model.layers.0.self_attn.{p}_proj.weight": (1024, 32) for p in "kv"}
    shapes["language_model.model.layers.0.self_attn.q_proj.weight"] = (2048, 32)
    shapes["language_model.model.layers.0.self_attn.o_proj.weight"] = (32, 2048)
    projections = find_projections(config, shapes)
    assert [(p.projection, p.heads, p.head_dim) for p in projections] == [
        ("q", 8, 256),
        ("k", 4, 256),
        ("v", 4, 256),
        ("o", 8, 256),
    ]


def test_a_layer_without_projections_is_one_that_the_configuration_says_has_none(tmp_path):
    checkpoint = opened(tmp_path, "qwen3_next")
    shapes = shapes_of(checkpoint)
    full = [name for name in shapes if "self_attn" in name]
    without = {name: shape for name, shape in shapes.items() if name not in full}
    with pytest.raises(MastlensError, match=r"which its config\.json promises"):
        find_projections(checkpoint.config, without)
    both = json.loads(json.dumps(checkpoint.config)) | {"layer_types": ["full_attention", "full_attention"]}
    with pytest.raises(MastlensError, match=r"layers\.0\.self_attn\.q_proj\.weight"):
        find_projections(both, shapes)
    lost = {name: shape for name, shape in shapes.items() if not name.endswith("v_proj.weight")}
    with pytest.raises(MastlensError, match=r"no tensor model\.layers\.1\.self_attn\.v_proj\.weight"):
        find_projections(checkpoint.config, lost)


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2", "gpt_neox", "deepseek_v3", "qwen3_next"])
def test_a_tensor_of_another_shape_is_named(tmp_path, model_type):
    checkpoint = opened(tmp_path, model_type)
    for p in checkpoint.projections:
        shapes = shapes_of(checkpoint)
        shapes[p.stored] = (shapes[p.stored][0] + 1, shapes[p.stored][1])
        with pytest.raises(MastlensError, match=re.escape(f"{p.stored} is {shapes[p.stored]}")):
            find_projections(checkpoint.config, shapes)


GROUPED = {
    "model_type": "internlm-like",
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
}
GROUPED_SHAPES = {
    "model.layers.0.attention.wqkv.weight": (16, 8),
    "model.layers.0.attention.wo.weight": (8, 8),
    "model.layers.0.attention_norm.weight": (8,),
    "model.tok_embeddings.weight": (9, 8),
}


def test_an_unknown_architecture_says_what_was_found_and_how_to_pass_a_mapping(registry):
    with pytest.raises(MastlensError) as error:
        find_projections(GROUPED, GROUPED_SHAPES)
    message = str(error.value)
    assert "'internlm-like'" in message and "qwen2" in message
    assert '"model.layers.{layer}.attention.wqkv.weight": "...",  # 16 x 8' in message
    assert "attention_norm" not in message
    # What it shows is what works, once the dots are filled in.
    code = message[message.index("mastlens.register") : message.index("\n})") + 3].replace("mastlens.", "")
    code = code.replace('wqkv.weight": "..."', 'wqkv.weight": "q k v, per group"').replace('"..."', '"o"')
    exec(code, {"register_architecture": register_architecture})
    assert [p.projection for p in find_projections(GROUPED, GROUPED_SHAPES)] == list("qkvo")
    with pytest.raises(MastlensError, match="no attention tensors"):
        find_projections({"model_type": "x"}, {"mixer.weight": (1, 1)})


def test_separate_projections_of_an_unknown_architecture_are_filled_in_already(registry):
    shapes = {f"decoder.layers.0.self_attn.{p}_proj.weight": (8, 8) for p in "qkvo"}
    config = GROUPED | {"model_type": "new", "num_key_value_heads": 4}
    with pytest.raises(MastlensError) as error:
        find_projections(config, shapes)
    message = str(error.value)
    code = message[message.index("mastlens.register") : message.index("\n})") + 3].replace("mastlens.", "")
    exec(code, {"register_architecture": register_architecture})
    assert [p.name for p in find_projections(config, shapes)] == list(shapes)


def test_a_mapping_by_group(registry, tmp_path):
    """As in InternLM2: for each group the rows of its two query heads, then its k, then its v."""
    (tmp_path / "map.json").write_text(
        json.dumps(
            {
                "internlm-like": {
                    "model.layers.{layer}.attention.wqkv.weight": "q k v, per group",
                    "model.layers.{layer}.attention.wo.weight": "o",
                }
            }
        )
    )
    assert register_architectures(tmp_path / "map.json") == ["internlm-like"]
    q, k, v, _ = find_projections(GROUPED, GROUPED_SHAPES)
    stored = torch.arange(16 * 8).view(16, 8)
    by_group = stored.view(2, 4, 2, 8)  # group, (two q, k, v), head size, in
    assert torch.equal(q.read(stored), by_group[:, :2].reshape(8, 8))
    assert torch.equal(k.read(stored), by_group[:, 2].reshape(4, 8))
    assert torch.equal(v.heads_of(stored), by_group[:, 3])
    assert torch.equal(torch.stack([q.head_of(stored, h) for h in range(4)]), by_group[:, :2].reshape(4, 2, 8))
    q.head_of(stored, 3)[:] = -1
    assert stored.eq(-1).sum() == 16 and by_group[1, 1].eq(-1).all()
    with pytest.raises(MastlensError, match="head_of"):
        q.heads_of(stored)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({}, "empty"),
        ({"h.0.c_attn.weight": "q k v"}, "layer"),
        ({"h.{layer}.c_attn.weight": "q k w"}, "'w'"),
        ({"h.{layer}.c_attn.weight": "q k v"}, "where o is"),
        ({"h.{layer}.c_attn.weight": "q k v, per row"}, "'per row'"),
        ({"h.{layer}.c_attn.weight": "q k v o"}, "tensor of its own"),
        ({"h.{layer}.c_attn.weight": "q q k v"}, "none twice"),
        ({"h.{layer}.c_attn.weight": "q k v q_a"}, "Say how large q_a is"),
    ],
)
def test_a_mapping_that_cannot_be_understood_is_refused(registry, tensors, match):
    with pytest.raises(MastlensError, match=match):
        register_architecture("new", tensors)
    with pytest.raises(MastlensError, match="no known architecture"):
        find_projections(GROUPED | {"model_type": "new"}, GROUPED_SHAPES)


def test_a_mapping_that_does_not_fit_the_checkpoint_is_refused(registry, tmp_path):
    register_architecture(
        "internlm-like",
        {"layers.{layer}.attention.wqkv.weight": "q k v, per head", "layers.{layer}.attention.wo.weight": "o"},
    )
    with pytest.raises(MastlensError, match="per group"):
        find_projections(
            GROUPED | {"head_dim": 1, "num_key_value_heads": 1},
            GROUPED_SHAPES
            | {
                "model.layers.0.attention.wqkv.weight": (6, 8),
                "model.layers.0.attention.wo.weight": (8, 4),
            },
        )
    with pytest.raises(MastlensError, match="num_hidden_layers"):
        find_projections(GROUPED | {"num_hidden_layers": "two"}, GROUPED_SHAPES)
    with pytest.raises(MastlensError, match="layer by layer"):
        find_projections({"model_type": "gemma4_text"}, {"model.layers.0.self_attn.q_proj.weight": (8, 8)})
    with pytest.raises(MastlensError, match="There is no file"):
        register_architectures(tmp_path / "none.json")
    with pytest.raises(MastlensError, match="not that of a qwen2"):
        find_projections({"model_type": "qwen2", "hidden_size": "wide"}, {})


def test_a_stack_of_experts_is_one_matrix_for_each():
    shapes = {**GROUPED_SHAPES, "model.layers.0.mlp.experts.gate_up_proj": (3, 10, 8), "conv.weight": (4, 1, 2)}
    found = find_matrices("experts", GROUPED, shapes)
    assert [p.name for p in found] == [f"model.layers.0.mlp.experts.gate_up_proj#{i}" for i in range(3)]
    stored = torch.zeros(3, 10, 8)
    found[1].write(stored, torch.ones(10, 8))
    assert stored[1].eq(1).all() and stored[[0, 2]].eq(0).all()
    assert found[1].read(stored).data_ptr() == stored[1].data_ptr()
    assert not [p for p in find_matrices(".", GROUPED, shapes) if p.name.startswith("conv")]


def test_the_table_agrees_with_the_maps_that_libraries_keep():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for model_type, architecture in ARCHITECTURES.items():
        ours = {name.replace("{layer}", "*").removesuffix(".weight") for name in architecture.tensors}
        plan = CONFIG_MAPPING[model_type]().base_model_tp_plan or {}
        theirs = {m for m in plan if re.search(r"\.(self_attn|attention)\..*(_proj|query_key_value|dense)$", m)}
        assert theirs <= ours, model_type
        assert theirs or model_type == "gpt2" or "k_rope" in str(architecture.tensors), model_type
        if architecture.tensors is SEPARATE:
            assert theirs == ours, model_type


def test_peft_names_the_same_modules():
    constants = pytest.importorskip("peft.utils.constants")
    theirs = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    shared = set(theirs) & set(ARCHITECTURES)
    assert {"llama", "qwen2", "gpt2", "gpt_neox"} <= shared
    for model_type in shared:
        ours = {name.removesuffix(".weight").rpartition(".")[2] for name in ARCHITECTURES[model_type].tensors}
        assert set(theirs[model_type]) <= ours, model_type


def test_the_table_has_every_architecture():
    rows = architecture_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(ARCHITECTURES)
    assert all(row.count(" | ") == 3 for row in rows)


def test_an_installed_package_describes_an_architecture(registry, tmp_path, monkeypatch):
    """Commands know it without an option; a package with a defect is left out with a warning."""
    info = tmp_path / "other_models-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-models\nVersion: 1\n")
    lines = ["internlm-like = other_models:MAP", "broken = other_models:HALF"]
    (info / "entry_points.txt").write_text("\n".join([f"[{module.GROUP}]", *lines, ""]))
    mapping = {"layers.{layer}.attention.wqkv.weight": "q k v, per group", "layers.{layer}.attention.wo.weight": "o"}
    half = {"layers.{layer}.attention.wqkv.weight": "q k v"}
    (tmp_path / "other_models.py").write_text(f"MAP = {mapping!r}\nHALF = {half!r}\n")
    with pytest.raises(MastlensError, match="no known architecture"):
        find_projections(GROUPED, GROUPED_SHAPES)
    monkeypatch.syspath_prepend(str(tmp_path))
    module._installed.cache_clear()
    try:
        with pytest.warns(MastlensWarning, match="'broken' of an installed package.*where o is"):
            found = find_projections(GROUPED, GROUPED_SHAPES)
        assert [p.projection for p in found] == ["q", "k", "v", "o"]
    finally:
        module._installed.cache_clear()
