"""The three backends against each other.

Everything runs in a process of its own (this file, as a script): importing nnsight puts ``.save`` on every object and
wraps ``torch.Tensor.backward``, importing TransformerLens patches transformers, and no other test should see that.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mastlens.errors import MastlensError
from mastlens.models.hooked import HookedModel
from tests.reference.test_hooked import ARCHITECTURES, assert_untouched, hook_count, make_model, state_of, tokens

pytestmark = pytest.mark.slow
OTHERS = ("transformer_lens", "nnsight")
BACKENDS = ("plain", *OTHERS)
# What TransformerLens shows in another place, in another cut, or not at all.
ABSENT = {
    "gemma2": {"logits"},
    "phi3": {"q_rot", "k_rot"},
    "gpt2": {"q_rot", "k_rot"},
    "gpt_neox": {"q_rot", "k_rot"},
    "qwen3_next": {"q", "gate"},
    "deepseek_v3": {
        "q",
        "k",
        "v",
        "q_a",
        "kv_a",
        "k_rope",
        "q_a_normed",
        "kv_a_normed",
        "q_rot",
        "k_rot",
        "mlp_hidden",
    },
}


class Stop(Exception):
    pass


def stop(value):
    raise Stop


def ablate(value):
    return value.index_fill(2, torch.tensor([1]), 0.0)


def padded():
    """Token ids with padding at the left of one row, where backends count positions differently if they are let."""
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    return ids, mask


def see(hooked):
    """Everything that one backend shows of a forward and a backward pass."""
    ids, mask = padded()
    with hooked.watch(gradients=True) as view:
        logits = view.logits(ids, mask)
        loss = torch.nn.functional.cross_entropy(logits[1, :-1], ids[1, 1:])
        gradients = view.gradients(loss)
        mean = view.loss(ids)
    with torch.no_grad(), hooked.watch("out", replace={("z", 1): ablate}) as ablated:
        ablated.logits(ids, mask)  # plain and nnsight with sdpa, which gives padding other outputs than eager
    stream = {}
    for name in ("resid_pre", "resid_mid", "resid_post", "mlp_in", "mlp_hidden", "mlp_out"):
        if name in hooked.names(1):
            with torch.no_grad(), hooked.watch("resid_post", replace={(name, 1): torch.zeros_like}) as changed:
                changed.logits(ids, mask)
            stream[name] = changed["resid_post", 1][mask.bool()]
    with torch.no_grad(), hooked.watch() as detached:
        detached.logits(ids, mask)
    attached = any(detached[point].requires_grad for point in detached.points)
    return {
        "activations": {point: detached[point].clone() for point in detached.points},
        "gradients": gradients,
        "logits": logits.detach(),
        "losses": (float(loss.detach()), float(mean.detach())),
        "ablated": ablated["out", 1][mask.bool()],
        "stream": stream,
        "attached": attached,
    }


def weights_of(hooked):
    """Per projection: is it the model's own memory, and its heads; None where a backend stores it otherwise."""
    stored = dict(hooked.model.named_parameters())
    result = {}
    for (name, layer), projection in hooked._anatomy.projections.items():
        try:
            weight = hooked.weight(name, layer)
        except MastlensError as error:
            result[name, layer] = str(error)
            continue
        parameter = stored[projection.stored]
        shared = hooked._backend.weight(name, layer).data_ptr() == parameter.data_ptr()
        result[name, layer] = (shared, torch.equal(weight, projection.read(parameter)))
    return result


def leaves_no_trace(model, backend):
    """Watch, fail inside, fail in the model; the model must be as it was after each."""
    ids, _ = padded()
    before, count = state_of(model), hook_count(model)
    hooked = HookedModel(model, backend)
    assert_untouched(before, model)
    with hooked.watch(gradients=True) as view:
        view.gradients(view.loss(ids))
    assert_untouched(before, model)
    for change in ({("q", 1): stop}, {("out", 0): stop}):
        with pytest.raises(Stop), hooked.watch("q", gradients=True, replace=change) as view:
            view.loss(ids)
        assert_untouched(before, model)
    with pytest.raises(Stop), hooked.watch("q", gradients=True):
        raise Stop
    assert_untouched(before, model)
    with hooked.watch("q", "z") as view:  # and the backend still works afterwards
        view.loss(ids)
    assert view["q", 1].shape[:2] == ids.shape
    assert hook_count(model) == count


def follows_edits(model, backend):
    """A weight edited in the user's model is edited in the view, and the other way round."""
    ids, _ = padded()
    hooked = HookedModel(model, backend)
    parameter = model.model.layers[1].self_attn.v_proj.weight
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter[:8] = 0
        with hooked.watch("v") as view:
            view.logits(ids)
        bias = model.model.layers[1].self_attn.v_proj.bias[:8]
        edited = bool((view["v", 1][:, :, 0] == bias).all()) and not bool((view["v", 1][:, :, 1] == 0).any())
        hooked.heads("v", 1)[0].copy_(kept[:8])
    return edited and torch.equal(parameter, kept)


def main(out):
    """Run every backend and write what they showed."""
    assert "nnsight" not in sys.modules
    assert "transformer_lens" not in sys.modules
    seen, weights = {}, {}
    for model_type in ARCHITECTURES:
        for backend in BACKENDS:
            model = make_model(model_type)
            hooked = HookedModel(model, backend)
            seen[model_type, backend] = see(hooked)
            weights[model_type, backend] = weights_of(hooked)
        model.requires_grad_(False)
        for backend in BACKENDS if model_type == "qwen3" else ():
            seen["frozen", backend] = see(HookedModel(model, backend))
    for backend in OTHERS:
        for model_type in ("qwen2", "qwen3", "gpt2"):
            leaves_no_trace(make_model(model_type), backend)
            leaves_no_trace(make_model(model_type).requires_grad_(False), backend)
    edits = {backend: follows_edits(make_model("qwen2"), backend) for backend in BACKENDS}
    model, ids = make_model("qwen2"), tokens()
    with HookedModel(model, "nnsight").watch("q") as view:
        model(input_ids=ids)
        try:
            view["q", 0]
            unwatched = ""
        except MastlensError as error:
            unwatched = str(error)
    torch.save({"seen": seen, "weights": weights, "edits": edits, "unwatched": unwatched}, out)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the three backends showed."""
    out = tmp_path_factory.mktemp("backends") / "seen.pt"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.reference.test_backends", str(out)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return torch.load(out, weights_only=False)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("model_type", [*ARCHITECTURES, "frozen"])
def test_agrees_with_plain_hugging_face(results, model_type, backend):
    """Activations, gradients, logits and losses: equal to rounding."""
    plain, other = results["seen"][model_type, "plain"], results["seen"][model_type, backend]
    absent = ABSENT.get(model_type, set()) if backend == "transformer_lens" else set()
    assert {name for name, _ in plain["activations"].keys() - other["activations"].keys()} == absent
    assert other["activations"].keys() <= plain["activations"].keys()
    assert other["activations"].keys() == other["gradients"].keys()
    for kind in ("activations", "gradients"):
        for point, value in other[kind].items():
            atol = 1e-6 * max(1.0, float(value.abs().max()))  # entries that cancel keep the rounding of larger ones
            torch.testing.assert_close(value, plain[kind][point], atol=atol, rtol=1e-4, msg=f"{kind} {point}")
            assert value.abs().max() > 0, point
    torch.testing.assert_close(other["logits"], plain["logits"], atol=1e-5, rtol=1e-4)
    assert other["losses"] == pytest.approx(plain["losses"], rel=1e-6)
    assert not other["attached"]
    assert not plain["attached"]


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_the_main_architectures_agree_bit_for_bit(results, model_type, backend):
    """Nothing is folded or processed on the way: the same operations on the same numbers."""
    plain, other = results["seen"][model_type, "plain"], results["seen"][model_type, backend]
    assert other["activations"].keys() == plain["activations"].keys()
    for kind in ("activations", "gradients"):
        assert all(torch.equal(value, plain[kind][point]) for point, value in other[kind].items())
    assert torch.equal(other["logits"], plain["logits"])
    assert other["losses"] == plain["losses"]


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_replacements_act_alike(results, model_type, backend):
    plain, other = results["seen"][model_type, "plain"], results["seen"][model_type, backend]
    torch.testing.assert_close(other["ablated"], plain["ablated"], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(plain["ablated"], plain["activations"]["out", 1][padded()[1].bool()])
    assert other["stream"].keys() <= plain["stream"].keys()
    assert {"resid_pre", "resid_post", "mlp_in", "mlp_out"} <= other["stream"].keys()
    for name, value in other["stream"].items():
        torch.testing.assert_close(value, plain["stream"][name], atol=1e-5, rtol=1e-4, msg=name)
        assert not torch.allclose(value, plain["activations"]["resid_post", 1][padded()[1].bool()]), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_weights_are_the_models_own(results, model_type, backend):
    """In checkpoint coordinates and in the model's memory; a backend that keeps a weight otherwise says so."""
    for point, found in results["weights"][model_type, backend].items():
        if isinstance(found, str):
            assert backend == "transformer_lens", point
            assert model_type not in ("qwen2", "qwen3", "llama"), point
            assert "plain backend" in found
        else:
            assert found == (True, True), point


@pytest.mark.parametrize("backend", BACKENDS)
def test_edits_show_in_every_view(results, backend):
    assert results["edits"][backend]


def test_a_forward_pass_past_the_backend_is_not_taken_for_seen(results):
    assert "view.logits" in results["unwatched"]


@pytest.mark.parametrize(("backend", "extra"), [("transformer_lens", "lens"), ("nnsight", "nnsight")])
def test_a_missing_package_is_named(monkeypatch, backend, extra):
    for module in ("bridge", "traces"):
        monkeypatch.delitem(sys.modules, f"mastlens.models.backends.{module}", raising=False)
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(MastlensError, match=rf'pip install "mastlens\[{extra}\]"'):
        HookedModel(make_model("qwen2"), backend)


def test_the_plain_view_imports_neither_package():
    code = (
        "import sys, mastlens.models.hooked, mastlens.models.backends.plain; "
        "print({'nnsight', 'transformer_lens'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


if __name__ == "__main__":
    main(sys.argv[1])
