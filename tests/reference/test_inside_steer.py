"""Steering: against plain hooks, dose by dose and token by token; and as a bias, against plain Hugging Face."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mastlens
from mastlens.analysis.inside.steers import Direction, Steer, random_directions, read_direction, steered
from mastlens.decoding.answering import respond
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.errors import MastlensError
from mastlens.models.hooked import HookedModel
from mastlens.problems.encoding import EncodedProblem
from tests.columns import check_table
from tests.conftest import run_command
from tests.lineages import write_direction, write_lineage
from tests.reference.plain import encode_file, greedy, load_model, load_tokenizer, logprob

PLACES = {
    "sft/mean/resid_post/0/-1/0": ("model.layers.0", "output", slice(None)),
    "sft/mean/z/1/2/0": ("model.layers.1.self_attn.o_proj", "input", slice(16, 24)),
    "rlvr/logistic/mlp_out/1/-1/-1": ("model.layers.1.mlp", "output", slice(None)),
    "sft/mean/embed/-1/-1/0": ("model.embed_tokens", "output", slice(None)),
}
WIDTHS = {name: 8 if "/z/" in name else 32 for name in PLACES}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    path = tmp_path_factory.mktemp("directions") / "inside_directions.safetensors"
    generator = torch.Generator().manual_seed(3)
    save_file({name: torch.randn(width, generator=generator) for name, width in WIDTHS.items()}, path)
    return path


@contextmanager
def by_hand(model, name, vector, dose, *, project=False):
    """Steer with one hook of torch alone."""
    path, side, part = PLACES[name]

    def moved(value):
        new = value.clone()
        own = value[..., part]
        unit = vector / vector.norm()
        new[..., part] = own - dose * (own @ unit)[..., None] * unit if project else own + dose * vector
        return new

    module = model.get_submodule(path)
    if side == "output":
        handle = module.register_forward_hook(lambda m, a, o: moved(o))
    else:
        handle = module.register_forward_pre_hook(lambda m, a: (moved(a[0]), *a[1:]))
    yield
    handle.remove()


def ask(tiny, vectors, name, **changes):
    given = {"sft": tiny.sft, "rlvr": tiny.rlvr, "splits": {"f": tiny.forget}, "limit": 4, "dtype": "float32",
             "directions": vectors, "direction": name, "doses": (-1.0, 0.5), "draws": 2, "progress": False}  # fmt: skip
    return mastlens.inside_steer(**given | changes)


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("name", PLACES)
def test_what_steering_does_is_what_a_plain_hook_does(tiny, vectors, name, project):
    found = ask(tiny, vectors, name, project=project, batch_size=3)
    table, vector = found.table.set_index("dose"), load_file(vectors)[name]
    encoded, model = encode_file(tiny.forget, tiny.rlvr)[:4], load_model(tiny.rlvr)
    tokens = sum(len(solution) for _, solution in encoded)
    with torch.no_grad():
        base = np.array([float(logprob(model, *text)) for text in encoded])
        for dose in (-1.0, 0.5):
            with by_hand(model, name, vector, dose, project=project):
                sums = np.array([float(logprob(model, *text)) for text in encoded])
            row = table.loc[dose]
            assert row["effect"] == pytest.approx((sums - base).sum() / tokens, rel=1e-3, abs=1e-5)
            assert row["effect_low"] <= row["effect"] <= row["effect_high"]
            assert row["effect_chance_low"] < row["effect_null"] < row["effect_chance_high"]
        before = sum(float(logprob(load_model(tiny.sft), *text)) for text in encoded)
    assert row["unsteered"] == pytest.approx(base.sum() / tokens, rel=1e-5)
    assert row["total"] == pytest.approx((before - base.sum()) / tokens, rel=1e-3)
    assert set(table["how"]) == {"project" if project else "add"}
    assert "direction" in found.plot().layout.title.text.lower()


@torch.no_grad()
def test_what_is_taken_out_is_gone_and_nothing_else(tiny, vectors):
    name = "sft/mean/resid_post/0/-1/0"
    direction, hooked = read_direction(vectors, name), HookedModel(load_model(tiny.rlvr))
    unit = direction.vector / direction.vector.norm()
    ids = torch.tensor([[5, 9, 2]])
    with hooked.watch("resid_post", layers=0) as view:
        hooked.model(input_ids=ids)
        own = view["resid_post", 0]
        with steered(hooked, Steer(direction, 1.0, project=True)):
            pass
    with hooked.watch("resid_post", layers=0, replace={direction.point: Steer(direction, 1.0, project=True)}) as view:
        hooked.model(input_ids=ids)
        left = view["resid_post", 0]
    assert (left @ unit).abs().max() < 1e-5 < (own @ unit).abs().max()
    rest = own - (own @ unit)[..., None] * unit
    torch.testing.assert_close(left, rest)
    same = hooked.model(input_ids=ids).logits
    assert torch.equal(same, load_model(tiny.rlvr)(input_ids=ids).logits)  # the hook is gone


@pytest.mark.parametrize("name", PLACES)
def test_a_steered_model_writes_what_one_with_a_plain_hook_writes(tiny, vectors, name):
    """Token by token from a cache here, the whole text anew there."""
    vector, model, tokenizer = load_file(vectors)[name] * 2, load_model(tiny.rlvr), load_tokenizer(tiny.rlvr)
    prompts = [prompt for prompt, _ in encode_file(tiny.forget, tiny.rlvr)[:3]]
    engine = HuggingFaceEngine(model, tokenizer)
    asked = {str(place): prompt for place, prompt in enumerate(prompts)}
    decoding = Decoding(max_new_tokens=6, batch_size=2)
    plain = [one.text for one in respond(engine, asked, decoding)]
    with steered(HookedModel(model), Steer(Direction(name, *parts_of(name), vector), 1.0)):
        found = [one.text for one in respond(engine, asked, decoding)]
    with by_hand(model, name, vector, 1.0):
        expected = [greedy(model, tokenizer, prompt, 6)[0] for prompt in prompts]
    assert found == expected != plain
    assert [one.text for one in respond(engine, asked, decoding)] == plain


def parts_of(name):
    site, layer, head = name.split("/")[2:5]
    return site, int(layer), int(head)


@torch.no_grad()
def test_random_directions_are_mixtures_of_the_states_and_as_long(tiny, vectors):
    name = "sft/mean/resid_post/0/-1/0"
    direction, model = read_direction(vectors, name), load_model(tiny.rlvr)
    encoded = encode_file(tiny.forget, tiny.rlvr)[:3]
    texts = [[EncodedProblem(tuple(prompt), tuple(solution)) for prompt, solution in encoded]]
    hooked = HookedModel(model)
    one, other = (random_directions(hooked, texts, direction, draws=3, seed=1, batch_size=size) for size in (1, 3))
    states, weights = [], []
    for item, (prompt, solution) in enumerate(encoded):
        kept = []
        handle = model.model.layers[0].register_forward_hook(lambda m, a, o, kept=kept: kept.append(o[0]))
        model(input_ids=torch.tensor([prompt + solution]), use_cache=False)
        handle.remove()
        states.append(kept[0][len(prompt) - 1 : -1].double())
        weights.append(np.random.default_rng([1, 0, item]).normal(size=(3, len(solution))))
    states = torch.cat(states)
    expected = torch.from_numpy(np.concatenate(weights, axis=1)) @ (states - states.mean(dim=0))
    expected *= direction.vector.double().norm() / expected.norm(dim=1, keepdim=True)
    for found, again, wanted in zip(one, other, expected, strict=True):
        torch.testing.assert_close(found.vector.double(), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.vector, again.vector, rtol=1e-4, atol=1e-5)
        assert (found.site, found.layer, found.head) == ("resid_post", 0, -1)


ROOM = [
    ("llama", "resid_post/0", "model.layers.0.mlp", "mlp_bias", {}),
    ("llama", "resid_pre/1", "model.layers.0.mlp", "mlp_bias", {}),
    ("llama", "z/1", "model.layers.1.self_attn.o_proj", "attention_bias", {}),
    ("qwen3", "out/1", "model.layers.1.self_attn.o_proj", "attention_bias", {"head_dim": 8}),
    ("qwen3", "resid_mid/0", "model.layers.0.self_attn.o_proj", "attention_bias", {"head_dim": 8}),
    ("gpt2", "mlp_out/1", "transformer.h.1.mlp", "", {"n_positions": 128}),
    ("gpt2", "resid_mid/0", "transformer.h.0.attn.c_proj", "", {"n_positions": 128}),
]


@torch.no_grad()
@pytest.mark.parametrize(
    ("model_type", "place", "path", "switch", "changes", "dtype"),
    [(*row, "float32") for row in ROOM] + [(*ROOM[2], "bfloat16")],
)
def test_a_bias_says_what_the_hook_says(tmp_path, model_type, place, path, switch, changes, dtype):
    tiny = write_lineage(tmp_path, model_type, dtype, **changes)
    site, layer = place.split("/")
    name = f"sft/mean/{site}/{layer}/{2 if site == 'z' else -1}/0"
    vectors = write_direction(tmp_path / "v.safetensors", name, 8 if site == "z" else 32)
    told = mastlens.steer_edit(to=tiny.rlvr, directions=vectors, direction=name, dose=-2.0, out=tmp_path / "new")
    assert told.switch == switch and told.error < (1e-5 if dtype == "float32" else 2e-2)
    vector, ids = -2 * load_file(vectors)[name], torch.tensor([[4, 8, 15, 16, 23, 42]])
    model, new = load_model(tiny.rlvr), load_model(tmp_path / "new")
    plain, module = model(input_ids=ids).logits, model.get_submodule(path)
    if site == "z":

        def hook(m, a):
            return (torch.cat([a[0][..., :16], a[0][..., 16:24] + vector, a[0][..., 24:]], dim=-1),)

        module.register_forward_pre_hook(hook)
    else:
        module.register_forward_hook(lambda m, a, o: o + vector)
    wanted, found = model(input_ids=ids).logits, new(input_ids=ids).logits
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found, wanted, **tolerance)
    assert (found - plain).abs().max() > 0.1
    before, after = (dict(one.named_parameters()) for one in (load_model(tiny.rlvr), new))
    assert after.keys() - before.keys() == set(told.added)
    for own, value in after.items():
        if own == told.tensor:
            assert value.any()
        else:
            assert torch.equal(value, before[own]) if own in before else not value.any()
    assert "steered model" in (tmp_path / "new" / "README.md").read_text()
    assert json.loads((tmp_path / "new" / "config.json").read_text()).get(switch, True) is True
    assert mastlens.Checkpoint(tmp_path / "new").load_model() is not None


@pytest.mark.parametrize(
    ("model_type", "place", "said", "changes"),
    [
        ("qwen2", "out/1", r"has no model\.layers\.1\.self_attn\.o_proj\.bias, and its architecture \(Qwen2For", {}),
        ("qwen3", "resid_post/0", r"has no model\.layers\.0\.mlp\.down_proj\.bias", {"head_dim": 8}),
        ("llama", "resid_pre/0", "below resid_pre of layer 0", {}),
        ("llama", "mlp_hidden/0", "bias of no module", {}),
        ("gemma2", "resid_mid/0", "norm or a scale stands between", {"head_dim": 8}),
        ("mixtral", "mlp_out/0", "mixture of experts", {"num_local_experts": 2}),
    ],
)
def test_what_no_bias_can_hold_is_refused_by_name(tmp_path, model_type, place, said, changes):
    tiny = write_lineage(tmp_path, model_type, **changes)
    name = f"sft/mean/{place}/-1/0"
    vectors = write_direction(tmp_path / "v.safetensors", name, 32)
    with pytest.raises(MastlensError, match=said):
        mastlens.steer_edit(to=tiny.rlvr, directions=vectors, direction=name, dose=1.0, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_commands_write_what_is_declared_and_refuse_what_is_not_there(tmp_path, tiny, vectors):
    name = "sft/mean/resid_post/0/-1/0"
    line = f"inside steer --sft {tiny.sft} --rlvr {tiny.rlvr} --split f={tiny.forget} g={tiny.retain} --limit 3".split()
    line += ["--directions", vectors, "--direction", name, "--draws", 2, "--doses=-1,2", "--max-new-tokens", 2]
    told = run_command(*line, "--out", tmp_path / "run")
    check_table(tmp_path / "run" / "inside_steer.parquet", "mastlens inside steer")
    assert told.summary["rows"] == 4
    with pytest.raises(MastlensError, match="Did you mean 'sft/mean/resid_post/0/-1/0'"):
        ask(tiny, vectors, "sft/mean/resid_post/0/-1/1")
    with pytest.raises(MastlensError, match="other than 0"):
        ask(tiny, vectors, name, doses=(0.0, 1.0))
    none = ask(tiny, vectors, name, draws=0)
    assert np.isnan(none.table["effect_p"]).all() and "no dose has a verdict" in none.card().verdict
    wide = write_direction(tmp_path / "wide.safetensors", name, 48)
    with pytest.raises(MastlensError, match="of another model"):
        ask(tiny, wide, name)
    save_file({name: torch.zeros(32)}, tmp_path / "zero.safetensors")
    with pytest.raises(MastlensError, match="is zero"):
        ask(tiny, tmp_path / "zero.safetensors", name)
