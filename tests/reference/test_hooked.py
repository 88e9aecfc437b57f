"""The hooked view against hand-written recomputation, finite differences, and the model as it was."""

import copy
import gc
import weakref

import pytest
import torch

from mastlens.errors import MastlensError
from mastlens.models.hooked import HookedModel
from mastlens.problems.encoding import Batch
from tests.conftest import tiny_config

LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
GATED = {
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
ARCHITECTURES = {
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "llama": {},
    "mistral": {},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "olmo2": {},
    "phi3": {},
    "gpt2": {"num_key_value_heads": 4},
    "gpt_neox": {"num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4, **LATENT},
    "qwen3_next": GATED,
}
STANDARD = [name for name in ARCHITECTURES if name not in ("deepseek_v3", "qwen3_next")]


def make_model(model_type, dtype=torch.float32, **changes):
    """A tiny model of random weights that all matter, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(1)
    config = tiny_config(model_type, **(ARCHITECTURES[model_type] | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.2 if parameter.dim() == 2 else 0.1)
    return model.to(dtype).eval()


def tokens(rows=2, length=6):
    return torch.randint(1, 300, (rows, length), generator=torch.Generator().manual_seed(2))


def state_of(model):
    """Everything about a model that watching could leave behind."""
    hooks = [
        {key: dict(value) for key, value in vars(module).items() if "hook" in key and isinstance(value, dict)}
        for module in model.modules()
    ]
    return {
        "hooks": hooks,
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "forwards": [module.forward for module in model.modules()],
        "types": [type(module) for module in model.modules()],
        "bits": [p.detach().clone().view(torch.uint8) for p in model.parameters()],
        "buffers": [b.detach().clone() for b in model.buffers()],
        "identity": [id(p) for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad is None for p in model.parameters()],
        "training": [module.training for module in model.modules()],
        "config": copy.deepcopy(model.config.to_dict()),
        "attention": model.config._attn_implementation,
    }


def assert_untouched(before, model):
    after = state_of(model)
    for key, value in before.items():
        if key in ("bits", "buffers"):
            assert all(torch.equal(a, b) for a, b in zip(value, after[key], strict=True)), key
        else:
            assert value == after[key], key


def hook_count(model):
    return sum(len(h) for module in state_of(model)["hooks"] for h in module.values())


def rms_norm(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def rotate(x, theta):
    """RoPE on [batch, pos, heads, head_dim] as complex numbers: pair (i, i + d/2) turns by pos * theta^(-2i/d)."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_agrees_with_recomputation_by_hand_in_float64(model_type):
    model, ids = make_model(model_type), tokens()
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0  # right padding
    with torch.no_grad(), HookedModel(model).watch() as view:
        view.logits(ids, mask)
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    config, theta = model.config, model.config.rope_parameters["rope_theta"]
    embedded = weights["model.embed_tokens.weight"][ids]
    for layer in range(2):
        at = f"model.layers.{layer}."
        x = view["x", layer].double()
        if layer == 0:
            expected = rms_norm(embedded, weights[at + "input_layernorm.weight"], config.rms_norm_eps)
            torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)
        by_hand = {}
        for name in "qkv":
            w, b = (weights.get(f"{at}self_attn.{name}_proj.{part}") for part in ("weight", "bias"))
            heads = config.num_attention_heads if name == "q" else config.num_key_value_heads
            by_hand[name] = (x @ w.T + (0 if b is None else b)).unflatten(-1, (heads, -1))
        turning = {"q": by_hand["q"], "k": by_hand["k"]}
        if model_type == "qwen3":
            for name in "qk":
                norm = weights[f"{at}self_attn.{name}_norm.weight"]
                turning[name] = by_hand[f"{name}_normed"] = rms_norm(by_hand[name], norm, config.rms_norm_eps)
        for name in "qk":
            by_hand[f"{name}_rot"] = rotate(turning[name], theta)
        keys, values = (by_hand[n].repeat_interleave(2, dim=2) for n in ("k_rot", "v"))
        scores = torch.einsum("bqhd,bkhd->bhqk", by_hand["q_rot"], keys) / keys.shape[-1] ** 0.5
        hidden = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool() | (mask == 0)[:, None, None, :]
        by_hand["pattern"] = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        by_hand["z"] = torch.einsum("bhqk,bkhd->bqhd", by_hand["pattern"], values)
        by_hand["out"] = by_hand["z"].flatten(-2) @ weights[f"{at}self_attn.o_proj.weight"].T
        by_hand["resid_pre"] = embedded if layer == 0 else view["resid_post", layer - 1].double()
        by_hand["resid_mid"] = by_hand["resid_pre"] + by_hand["out"]
        norm = weights[f"{at}post_attention_layernorm.weight"]
        by_hand["mlp_in"] = rms_norm(by_hand["resid_mid"], norm, config.rms_norm_eps)
        gate, up, down = (weights[f"{at}mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
        by_hand["mlp_hidden"] = torch.nn.functional.silu(by_hand["mlp_in"] @ gate.T) * (by_hand["mlp_in"] @ up.T)
        by_hand["mlp_out"] = by_hand["mlp_hidden"] @ down.T
        by_hand["resid_post"] = by_hand["resid_mid"] + by_hand["mlp_out"]
        for name, expected in by_hand.items():
            torch.testing.assert_close(view[name, layer].double(), expected, atol=2e-5, rtol=1e-4, msg=name)
        shown = ~hidden.expand_as(scores)
        torch.testing.assert_close(view["scores", layer].double()[shown], scores[shown], atol=2e-5, rtol=1e-4)
        assert (view["scores", layer][~shown] < -1e30).all()
        assert set(by_hand) | {"x", "scores"} == set(HookedModel(model).names(layer))
    last = rms_norm(view["resid_post", 1].double(), weights["model.norm.weight"], config.rms_norm_eps)
    outside = {"embed": embedded, "ln_final": last, "logits": last @ weights["model.embed_tokens.weight"].T}
    assert set(outside) == set(HookedModel(model).names(-1))
    for name, expected in outside.items():
        torch.testing.assert_close(view[name, -1].double(), expected, atol=5e-5, rtol=1e-4, msg=name)


PARALLEL = ("gpt_neox",)
"""Attention and MLP read the same stream: there is none in between."""


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_stream_is_what_transformers_returns(model_type):
    """Every hidden state that ``output_hidden_states`` gives, bit for bit, and the logits."""
    model, ids = make_model(model_type), tokens()
    hooked = HookedModel(model)
    last = hooked.layers[-1]
    with torch.no_grad(), hooked.watch("resid_pre", "resid_post", "embed", "ln_final", "logits") as view:
        output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    for layer in hooked.layers:
        assert torch.equal(view["resid_pre", layer], output.hidden_states[layer])
        if layer < last:
            assert torch.equal(view["resid_post", layer], output.hidden_states[layer + 1])
    assert torch.equal(view["ln_final", -1], output.hidden_states[-1])
    assert not torch.equal(view["resid_post", last], view["ln_final", -1])
    assert torch.equal(view["logits", -1], output.logits)
    assert torch.equal(view["embed", -1], model.get_input_embeddings()(ids))
    assert ("resid_mid" in hooked.names(last)) == (model_type not in PARALLEL)


@pytest.mark.parametrize("model_type", [name for name in ARCHITECTURES if name not in PARALLEL])
def test_the_stream_between_is_changed_for_the_mlp_and_for_the_sum(model_type):
    """Another stream behind the attention: the block goes on with it, through the MLP and past it."""
    model, ids = make_model(model_type), tokens()
    hooked = HookedModel(model)
    layer = hooked.layers[-1]
    with torch.no_grad(), hooked.watch(layers=layer) as clean:
        model(input_ids=ids, use_cache=False)
    other = clean["resid_mid", layer] * 1.5 + 1
    with torch.no_grad(), hooked.watch(layers=layer, replace={("resid_mid", layer): lambda value: other}) as view:
        model(input_ids=ids, use_cache=False)
    assert torch.equal(view["resid_mid", layer], other)
    assert torch.equal(view["resid_pre", layer], clean["resid_pre", layer])
    assert not torch.allclose(view["mlp_in", layer], clean["mlp_in", layer])
    silent = {("resid_mid", layer): lambda value: other, ("mlp_out", layer): torch.zeros_like}
    with torch.no_grad(), hooked.watch("resid_post", layers=layer, replace=silent) as view:
        model(input_ids=ids, use_cache=False)
    if model_type not in ("gemma2", "gemma3_text", "olmo2"):  # there a norm stands behind the MLP, and moves zero
        assert torch.equal(view["resid_post", layer], other)
    with torch.no_grad(), hooked.watch("mlp_in", layers=layer, replace={("mlp_in", layer): torch.zeros_like}) as view:
        hooked_out = view.logits(ids)
    assert (view["mlp_in", layer] == 0).all()
    assert not torch.allclose(hooked_out, model(input_ids=ids, use_cache=False).logits)


@pytest.mark.parametrize("model_type", STANDARD)
def test_activations_and_weights_fit_together(model_type):
    """Fused, interleaved or transposed: x W^T + b is the activation, and z W_o^T + b_o is the output."""
    model, ids = make_model(model_type), tokens()
    hooked = HookedModel(model)
    with torch.no_grad(), hooked.watch() as view:
        view.logits(ids)
    parameters = dict(model.named_parameters())
    for layer in hooked.layers:
        for name in "qkvo":
            projection = hooked._anatomy.projections[name, layer]
            given = view["x", layer] if name != "o" else view["z", layer].flatten(-2)
            got = view[name, layer].flatten(-2) if name != "o" else view["out", layer]
            expected = given @ hooked.weight(name, layer).T
            if projection.bias:
                expected = expected + projection.outputs_of(parameters[projection.bias.partition("#")[0]])
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5, msg=f"{name} {layer}")
            if name != "o":
                by_head = torch.einsum("bpi,hdi->bphd", given, hooked.heads(name, layer))
                torch.testing.assert_close(
                    by_head.flatten(-2), given @ hooked.weight(name, layer).T, atol=1e-5, rtol=1e-5
                )
            else:
                by_head = torch.einsum("bphd,hod->bpo", view["z", layer], hooked.heads(name, layer))
                torch.testing.assert_close(by_head, given @ hooked.weight(name, layer).T, atol=1e-5, rtol=1e-5)
        values, keys = view["v", layer], view["k_rot", layer]
        groups = view["q", layer].shape[2] // values.shape[2]
        pattern = view["pattern", layer]
        torch.testing.assert_close(pattern, view["scores", layer].softmax(-1))
        mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, values.repeat_interleave(groups, dim=2))
        torch.testing.assert_close(view["z", layer], mixed, atol=1e-5, rtol=1e-5)
        assert keys.shape == view["k", layer].shape
        assert view["q_rot", layer].shape == view["q", layer].shape


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_gradients_are_those_of_finite_differences(model_type):
    """Replacing an activation by one a small step away changes the loss by gradient times step: at every point."""
    model, ids = make_model(model_type, torch.float64), tokens()
    model.config._experts_implementation = "eager"  # the grouped one knows no float64
    hooked = HookedModel(model)

    def loss_of(view):
        return torch.nn.functional.cross_entropy(view.logits(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    with hooked.watch(gradients=True) as view:
        gradients = view.gradients(loss_of(view))
    assert set(gradients) == set(view.points)
    generator = torch.Generator().manual_seed(3)
    for point, gradient in gradients.items():
        step = 2e-6 if point[0] == "embed" else 2e-4  # the first numbers of a model are small, and all hangs on them
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        direction += gradient / gradient.square().mean().sqrt()  # not orthogonal to it by chance
        losses = []
        for sign in (1, -1):
            move = {point: lambda value, by=sign * step * direction: value + by}
            with torch.no_grad(), hooked.watch("scores", replace=move) as moved:
                losses.append(float(loss_of(moved)))
        expected = float((gradient * direction).sum())
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=0.02), point


def test_gradients_are_those_of_hooks_by_hand():
    model, ids = make_model("qwen2"), tokens()
    kept = {}

    def keep(name):
        def hook(module, args, output):
            kept[name] = (args[0], output)

        return hook

    attention = model.model.layers[1].self_attn
    handles = [getattr(attention, f"{n}_proj").register_forward_hook(keep(n)) for n in "qkvo"]
    loss = model(input_ids=ids, labels=ids).loss
    wanted = [kept["q"][0], kept["q"][1], kept["k"][1], kept["v"][1], kept["o"][0], kept["o"][1]]
    by_hand = dict(zip(["x", "q", "k", "v", "z", "out"], torch.autograd.grad(loss, wanted), strict=True))
    for handle in handles:
        handle.remove()
    with HookedModel(model).watch(*by_hand, layers=1, gradients=True) as view:
        same = view.loss(ids)
        gradients = view.gradients(same)
    assert same == loss
    assert all(p.grad is None for p in model.parameters())
    for name, expected in by_hand.items():
        assert torch.equal(gradients[name, 1].reshape(expected.shape), expected), name
    with HookedModel(model).watch("q", layers=1, gradients=True) as view:
        view.loss(ids).backward()
    assert torch.equal(view.grad("q", 1).flatten(-2), by_hand["q"])
    assert model.model.layers[0].self_attn.q_proj.weight.grad is not None


@pytest.mark.parametrize("model_type", ["qwen3", "olmo2", "gpt2"])
def test_frozen_parameters_change_no_gradient_and_stay_frozen(model_type):
    model, ids = make_model(model_type), tokens()
    hooked = HookedModel(model)
    with hooked.watch(gradients=True) as view:
        free = view.gradients(view.loss(ids))
    model.requires_grad_(False)
    before = state_of(model)
    with hooked.watch(gradients=True) as view:
        frozen = view.gradients(view.loss(ids))
    assert_untouched(before, model)
    for point, gradient in free.items():
        torch.testing.assert_close(frozen[point], gradient, atol=1e-7, rtol=1e-5)
    assert model(input_ids=ids).logits.requires_grad is False


def test_the_gradient_of_x_is_that_of_the_attention_alone():
    """OLMo-2 reads the residual stream itself: the gradient of x must not be that of the stream."""
    model, ids = make_model("olmo2"), tokens()
    with HookedModel(model).watch("x", "out", layers=1, gradients=True) as view:
        gradients = view.gradients(view.loss(ids), retain_graph=True)
        (through,) = torch.autograd.grad(view["out", 1], view["x", 1], gradients["out", 1])
    torch.testing.assert_close(gradients["x", 1], through)


class Stop(Exception):
    pass


@pytest.mark.parametrize("model_type", ["qwen2", "gpt_neox"])
@pytest.mark.parametrize("names", [("q", "z"), ("q_rot",), ()])
def test_nothing_is_left_behind(model_type, names):
    model, ids = make_model(model_type), tokens()
    seen = []
    hook = model.get_submodule(HookedModel(model)._anatomy.attention_path(0)).register_forward_hook(
        lambda *_: seen.append(1)
    )
    before, count = state_of(model), hook_count(model)
    hooked = HookedModel(model)
    with hooked.watch(*names) as view:
        assert hook_count(model) > count or names == ("q_rot",)
        model(input_ids=ids)
    assert_untouched(before, model)
    with pytest.raises(Stop), hooked.watch(*names, gradients=True):
        raise Stop
    assert_untouched(before, model)

    def stop(value):
        raise Stop

    with pytest.raises(Stop), hooked.watch(*names, replace={("q", 1): stop}):
        model(input_ids=ids)
    assert_untouched(before, model)
    with hooked.watch(*names) as outer, hooked.watch("scores", "q_rot", layers=1) as inner:
        model(input_ids=ids)
    assert_untouched(before, model)
    assert torch.equal(inner["q_rot", 1], HookedModelRun(model, ids)["q_rot", 1])
    assert all(outer[point] is not None for point in outer.points)
    assert hook_count(model) == count
    assert len(seen) >= 2
    assert view.points
    hook.remove()


def HookedModelRun(model, ids):
    model.set_attn_implementation("eager")
    with torch.no_grad(), HookedModel(model).watch() as view:
        view.logits(ids)
    model.set_attn_implementation("sdpa")
    return view


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_logits_are_the_same_bits(model_type):
    model, ids = make_model(model_type), tokens()
    hooked = HookedModel(model)
    implementation = model.config._attn_implementation
    plain = model(input_ids=ids, use_cache=False).logits
    names = {name for layer in hooked.layers for name in hooked.names(layer)} - {"scores", "pattern"}
    chosen = {layer: [n for n in hooked.names(layer) if n in names] for layer in hooked.layers}
    for gradients in (False, True):
        with hooked.watch(*chosen[hooked.layers[-1]], gradients=gradients):
            assert model.config._attn_implementation in (implementation, f"mastlens:{implementation}")
            assert torch.equal(model(input_ids=ids, use_cache=False).logits, plain)
        with hooked.watch("q", "z", gradients=gradients):
            assert model.config._attn_implementation == implementation
        with hooked.watch(gradients=gradients):
            watched = model(input_ids=ids, use_cache=False).logits
        model.set_attn_implementation("eager")
        assert torch.equal(watched, model(input_ids=ids, use_cache=False).logits)
        model.set_attn_implementation(implementation)


def test_activations_are_detached_without_gradients():
    model, ids = make_model("qwen2"), tokens()
    with HookedModel(model).watch() as view:
        logits = view.logits(ids)
    assert logits.requires_grad
    assert not any(view[point].requires_grad for point in view.points)
    with torch.inference_mode(), HookedModel(model).watch() as view:
        view.logits(ids)
    assert torch.isfinite(view["z", 1]).all()


@pytest.mark.parametrize("frozen", [False, True])
def test_the_graph_goes_with_the_view(frozen):
    """No reference cycle: what was watched is freed at once, not when the garbage collector comes by."""
    model, ids = make_model("qwen3").requires_grad_(not frozen), tokens()
    gc.collect()
    gc.disable()
    try:
        with HookedModel(model).watch(gradients=True) as view:
            loss = view.loss(ids)
            loss.backward()
        alive = [weakref.ref(view._seen(point).raw) for point in view.points]
        assert all(one() is not None for one in alive)
        del view, loss
        assert all(one() is None for one in alive)
    finally:
        gc.enable()


def test_works_in_bfloat16_and_keeps_it():
    model, ids = make_model("qwen3", torch.bfloat16), tokens()
    with HookedModel(model).watch("q", "z", "out", gradients=True) as view:
        view.loss(ids).backward()
    assert {view[point].dtype for point in view.points} == {torch.bfloat16}
    assert {view.grad(*point).dtype for point in view.points} == {torch.bfloat16}


def test_generation_is_watched_with_its_cache():
    model, ids = make_model("qwen2"), tokens(1, 5)
    with torch.no_grad(), HookedModel(model).watch() as view:
        longer = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    with torch.no_grad(), HookedModel(model).watch() as whole:
        view_all = whole.logits(longer[:, :-1])
    assert view_all.shape[1] == 7
    assert view["q", 1].shape[1] == 1
    assert view["pattern", 1].shape == (1, 4, 1, 7)
    torch.testing.assert_close(view["pattern", 1][:, :, 0], whole["pattern", 1][:, :, -1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(view["k_rot", 1], whole["k_rot", 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_type", ["qwen2", "gpt_neox", "phi3", "gpt2"])
def test_a_replacement_acts_on_its_head_alone(model_type):
    model, ids = make_model(model_type), tokens()
    hooked = HookedModel(model)

    def ablate(value):
        return value.index_fill(2, torch.tensor([1]), 0.0)

    with torch.no_grad(), hooked.watch() as clean:
        plain = clean.logits(ids)
    for name in ("q", "v", "z"):
        with torch.no_grad(), hooked.watch(replace={(name, 1): ablate}) as view:
            changed = view.logits(ids)
        assert not torch.allclose(changed, plain)
        assert (view[name, 1][:, :, 1] == 0).all()
        assert torch.equal(view[name, 1][:, :, 0], clean[name, 1][:, :, 0])
        for other in {"q", "k", "v"} - {name}:
            assert torch.equal(view[other, 1], clean[other, 1])
        assert torch.equal(view["out", 0], clean["out", 0])
    with torch.no_grad(), hooked.watch("pattern", replace={("pattern", 1): lambda p: p * 0}) as view:
        assert not torch.allclose(view.logits(ids), plain)
    assert (view["pattern", 1] == 0).all()
    assert torch.equal(view["pattern", 0], clean["pattern", 0])


@pytest.mark.parametrize("model_type", ["qwen2", "gpt2", "gpt_neox", "phi3"])
def test_heads_are_views_of_the_weights(model_type):
    model, ids = make_model(model_type), tokens()
    hooked = HookedModel(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad(), hooked.watch("q", "k") as clean:
        view_logits = clean.logits(ids)
        hooked.heads("q", 1)[2].zero_()
    with torch.no_grad(), hooked.watch("q", "k") as view:
        assert not torch.equal(view.logits(ids), view_logits)
    bias = hooked._anatomy.projections["q", 1].bias
    expected = (
        0
        if bias is None
        else hooked._anatomy.projections["q", 1]
        .outputs_of(dict(model.named_parameters())[bias.partition("#")[0]])
        .unflatten(-1, (4, -1))[2]
        .detach()
        .expand_as(view["q", 1][:, :, 2])
    )
    assert (view["q", 1][:, :, 2] == expected).all()
    assert torch.equal(view["q", 1][:, :, 3], clean["q", 1][:, :, 3])
    assert torch.equal(view["k", 1], clean["k", 1])
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert changed == [hooked._anatomy.projections["q", 1].stored]


def test_loss_is_the_mean_over_the_counted_tokens():
    model, ids = make_model("qwen2"), tokens()
    mask, counted = torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    mask[1, 4:], counted[0, 3:], counted[1, 2:4] = False, True, True
    hooked = HookedModel(model)
    with torch.no_grad(), hooked.watch("q") as view:
        loss, of_ids = view.loss(Batch(ids, mask, counted)), view.loss(ids)
    logprobs = model(input_ids=ids, attention_mask=mask.long()).logits.detach().double().log_softmax(-1)
    picked = [-logprobs[r, c - 1, ids[r, c]] for r, c in counted.nonzero().tolist()]
    assert float(loss) == pytest.approx(float(sum(picked) / len(picked)), rel=1e-5)
    assert float(of_ids) == pytest.approx(float(model(input_ids=ids, labels=ids).loss.detach()), rel=1e-6)


def test_the_table_has_a_row_a_point():
    model, ids = make_model("qwen2"), tokens()
    with HookedModel(model).watch("q", "scores", layers=[1], gradients=True) as view:
        view.loss(ids).backward()
    table = view.table
    assert list(table.columns) == ["layer", "name", "shape", "norm", "grad_norm"]
    assert list(table["name"]) == ["q", "scores"]
    assert table["norm"][0] == pytest.approx(float(view["q", 1].detach().double().norm()))
    assert table["grad_norm"][1] == pytest.approx(float(view.grad("scores", 1).double().norm()))
    assert table["norm"][1] < 1e6


def test_mistakes_are_explained():
    model, ids = make_model("qwen2"), tokens()
    hooked = HookedModel(model)
    with pytest.raises(MastlensError, match=r"'patern'.*Did you mean 'pattern'"), hooked.watch("patern"):
        pass
    with pytest.raises(MastlensError, match=r"no layer 7 .*0, 1"), hooked.watch("q", layers=[7]):
        pass
    with pytest.raises(MastlensError, match="q_normed"), hooked.watch("q_normed"):
        pass
    with hooked.watch("q") as view:
        with pytest.raises(MastlensError, match="no forward pass ran"):
            view["q", 0]
        loss = view.loss(ids)
        with pytest.raises(MastlensError, match="gradients=True"):
            view.gradients(loss)
        with pytest.raises(MastlensError, match="gradients=True"):
            view.grad("q", 0)
        with pytest.raises(MastlensError, match=r"\('k', 0\)"):
            view["k", 0]
    with hooked.watch("q", gradients=True) as view:
        view.loss(ids)
        with pytest.raises(MastlensError, match="backward"):
            view.grad("q", 0)
    with torch.no_grad(), hooked.watch("q", gradients=True) as view, pytest.raises(MastlensError, match="no_grad"):
        view.loss(ids)
    with (
        hooked.watch("q", replace={("q", 0): lambda q: q[:, :1]}) as view,
        pytest.raises(MastlensError, match=r"\(2, 6, 4, 8\)"),
    ):
        view.loss(ids)
    with pytest.raises(MastlensError, match="'plain'"):
        HookedModel(model, "plein")
    with pytest.raises(MastlensError, match="projection"):
        hooked.weight("z", 0)
    model.model.gradient_checkpointing = True
    model.train()
    with pytest.raises(MastlensError, match="checkpointing"), hooked.watch("q", gradients=True):
        pass
