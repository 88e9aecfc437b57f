"""Exchanged activations: against plain hooks, finite identities, and the whole other model."""

import numpy as np
import pytest
import torch

import mastlens
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from tests.columns import check_table
from tests.conftest import run_command
from tests.reference.plain import encode_file, load_model

KEYS = ["direction", "site", "layer", "head"]


@pytest.fixture(scope="module")
def patched(tiny):
    return mastlens.inside_patch(
        sft=tiny.sft, rlvr=tiny.rlvr, splits={"f": tiny.forget}, limit=4, draws=3, dtype="float32", progress=False,
        sites=("resid_pre", "resid_mid", "resid_post", "z", "mlp_out"),
    )  # fmt: skip


def logprob(model, prompt, solution):
    logits = model(input_ids=torch.tensor([prompt + solution]), use_cache=False).logits[0].double()
    at = torch.arange(len(prompt) - 1, len(prompt) + len(solution) - 1)
    return logits.log_softmax(-1)[at, torch.tensor(solution)].sum()


def by_hand(own, other, encoded, path, side, part):
    """Change of log-probability a token, exact and to first order, with hooks and autograd alone."""
    exact = first = tokens = 0.0
    for prompt, solution in encoded:
        kept = []

        def read(module, args, output, kept=kept):
            kept.append(output if side == "output" else args[0])

        def take(value, kept=kept):
            new = value.clone()
            new[..., part] = kept[0][..., part]
            return new

        handle = other.get_submodule(path).register_forward_hook(read)
        with torch.no_grad():
            logprob(other, prompt, solution)
        handle.remove()
        module = own.get_submodule(path)
        grabbed = []

        def grab(value, grabbed=grabbed):
            value = value.detach().requires_grad_()
            grabbed.append(value)
            return value

        if side == "output":
            handle = module.register_forward_hook(lambda m, a, o, grab=grab: grab(o))
        else:
            handle = module.register_forward_pre_hook(lambda m, a, grab=grab: (grab(a[0]), *a[1:]))
        base = logprob(own, prompt, solution)
        (gradient,) = torch.autograd.grad(base, grabbed[0])
        handle.remove()
        if side == "output":
            handle = module.register_forward_hook(lambda m, a, o, take=take: take(o))
        else:
            handle = module.register_forward_pre_hook(lambda m, a, take=take: (take(a[0]), *a[1:]))
        with torch.no_grad():
            exact += float(logprob(own, prompt, solution) - base)
        handle.remove()
        first += float(((kept[0] - grabbed[0]) * gradient)[..., part].detach().double().sum())
        tokens += len(solution)
    return exact / tokens, first / tokens


PLACES = [
    (("z", 0, 2), "model.layers.0.self_attn.o_proj", "input", slice(16, 24)),
    (("z", 1, 0), "model.layers.1.self_attn.o_proj", "input", slice(0, 8)),
    (("mlp_out", 1, -1), "model.layers.1.mlp", "output", slice(None)),
    (("resid_post", 0, -1), "model.layers.0", "output", slice(None)),
]


@pytest.mark.parametrize("way", ["restore", "insert"])
def test_exact_and_first_order_are_those_of_plain_hooks(patched, tiny, way):
    table = patched.table.set_index(KEYS)
    encoded = encode_file(tiny.forget, tiny.rlvr)[:4]
    folders = (tiny.rlvr, tiny.sft) if way == "restore" else (tiny.sft, tiny.rlvr)
    own, other = (load_model(folder) for folder in folders)
    for place, path, side, part in PLACES:
        exact, first = by_hand(own, other, encoded, path, side, part)
        row = table.loc[(way, *place)]
        assert row["effect"] == pytest.approx(exact, rel=1e-3, abs=2e-7), place
        assert row["first_order"] == pytest.approx(first, rel=1e-3, abs=2e-7), place
        assert row["effect_low"] <= row["effect"] <= row["effect_high"]
    tokens = sum(len(solution) for _, solution in encoded)
    with torch.no_grad():
        sums = [float(sum(logprob(model, *text) for text in encoded)) for model in (own, other)]
    assert row["unpatched"] == pytest.approx(sums[0] / tokens, rel=1e-5)
    assert row["total"] == pytest.approx((sums[1] - sums[0]) / tokens, rel=1e-3)


def test_one_stream_has_one_effect_wherever_it_is_taken_hold_of(patched):
    """What leaves layer 0 is what enters layer 1; and the last stream of all is everything but norm and head."""
    table = patched.table.set_index(KEYS)
    for way in ("restore", "insert"):
        after, before = table.loc[(way, "resid_post", 0, -1)], table.loc[(way, "resid_pre", 1, -1)]
        for column in ("effect", "first_order"):
            assert after[column] == pytest.approx(before[column], rel=1e-4, abs=1e-8)
    assert len(patched.table) == 2 * 2 * (4 + 4)
    agreement = patched.agreement
    assert set(agreement["site"]) == {"resid_pre", "resid_mid", "resid_post", "z", "mlp_out"}
    assert agreement.set_index(["direction", "site"]).loc[("restore", "z"), "n"] == 8
    assert agreement["spearman"].mean() > 0.5


def test_random_changes_are_within_their_null_and_figures_say_so(patched):
    told = [column for column in patched.table if column.endswith("_distinguishable")]
    assert len(told) == 2
    assert "beyond chance" in patched.card().verdict
    for way in ("restore", "insert"):
        figure = patched.plot(way)
        assert "effect" in figure.layout.title.text.lower()
    with pytest.raises(MastlensError, match="direction"):
        patched.plot("sideways")


@torch.no_grad()
def test_what_stays_the_same_has_no_effect(tmp_path, tiny):
    """Only the last MLP changed: what lies below it is equal in both, and exchanging it does nothing at all."""
    model = load_model(tiny.sft)
    model.save_pretrained(tmp_path / "sft")
    model.model.layers[1].mlp.down_proj.weight.mul_(1.2)
    model.save_pretrained(tmp_path / "rlvr")
    for step in ("sft", "rlvr"):
        Checkpoint(str(tiny.sft)).load_tokenizer().save_pretrained(tmp_path / step)
    table = mastlens.inside_patch(
        sft=tmp_path / "sft", rlvr=tmp_path / "rlvr", splits={"f": tiny.forget}, limit=3, draws=0, dtype="float32",
        sites=("z", "mlp_out", "resid_post"), progress=False,
    ).table.set_index(KEYS)  # fmt: skip
    for way in ("restore", "insert"):
        assert table.loc[(way, "z", 0, 0), "effect"] == table.loc[(way, "z", 1, 3), "first_order"] == 0
        assert table.loc[(way, "mlp_out", 0, -1), "effect"] == 0
        last = table.loc[(way, "mlp_out", 1, -1)]
        assert last["effect"] == pytest.approx(last["total"], rel=1e-4)
        assert table.loc[(way, "resid_post", 1, -1), "effect"] == pytest.approx(last["total"], rel=1e-4)


def test_the_command_writes_what_is_declared_and_refuses_what_is_not_there(tmp_path, tiny):
    line = f"inside patch --sft {tiny.sft} --rlvr {tiny.rlvr} --split f={tiny.forget} --limit 2 --draws 2".split()
    told = run_command(*line, "--sites", "z", "--layers", "1", "--batch-size", 1, "--out", tmp_path / "run")
    check_table(tmp_path / "run" / "inside_patch.parquet", "mastlens inside patch", without=("--integrate",))
    assert told.summary["rows"] == 8
    cheap = run_command(*line, "--sites", "z", "--first-order", "--out", tmp_path / "cheap")
    assert cheap.summary["rows"] == 16
    assert not cheap.summary["agreement"]
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "splits": {"f": tiny.forget}, "limit": 1, "draws": 0}
    one = mastlens.inside_patch(**pair, sites=["z"], exact=False, progress=False).table
    assert "effect" not in one
    assert np.isnan(one["first_order_p"]).all()
    with pytest.raises(MastlensError, match="Did you mean 'resid_mid'"):
        mastlens.inside_patch(**pair, sites=["resid_middle"], progress=False)
    with pytest.raises(MastlensError, match="no layer 7"):
        mastlens.inside_patch(**pair, layers=[7], progress=False)
