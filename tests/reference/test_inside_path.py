"""Path patching and integrated gradients: against plain hooks, and against what exact patching finds."""

import numpy as np
import pytest
import torch

import mastlens
from mastlens.errors import MastlensError
from tests.columns import check_table
from tests.conftest import run_command
from tests.reference.plain import encode_file, load_model, logprob

TEXTS = 3
PATHS = [("z.0.2", "q.1.1"), ("z.0.2", "mlp_in.0"), ("z.0.2", "logits"), ("mlp_out.0", "logits"), ("mlp_out.0", "v.1")]
PATHS += [("out.0", "mlp_in.1")]


def place(model, component):
    """Return the module of a component, whether its output is meant, and which entries."""
    site, layer, *head = component.split(".")
    block, part = model.model.layers[int(layer)], slice(None)
    if head:
        part = slice(8 * int(head[0]), 8 * int(head[0]) + 8)
    attention = block.self_attn
    found = {"z": (attention.o_proj, False), "out": (attention.o_proj, True), "mlp_out": (block.mlp, True),
             "mlp_in": (block.mlp, False), "q": (attention.q_proj, True), "v": (attention.v_proj, True),
             "x": (attention, False)}  # fmt: skip
    return (*found[site], part)


class Hooks:
    """Hooks of torch alone: some components noted, some replaced."""

    def __init__(self, model, note=(), put=None):
        self.model, self.note, self.put, self.seen, self.handles = model, note, put or {}, {}, []

    def __enter__(self):
        for component in dict.fromkeys([*self.put, *self.note]):
            module, output, part = place(self.model, component)

            def take(value, component=component, part=part):
                if component in self.put:
                    value = value.clone()
                    value[..., part] = self.put[component][..., part]
                self.seen[component] = value.detach()
                return value

            if output:
                handle = module.register_forward_hook(lambda m, a, o, take=take: take(o))
            else:

                def before(m, a, kw, take=take):
                    if a:
                        return (take(a[0]), *a[1:]), kw
                    return a, {**kw, "hidden_states": take(kw["hidden_states"])}

                handle = module.register_forward_pre_hook(before, with_kwargs=True)
            self.handles.append(handle)
        return self.seen

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def by_hand(own, given, text, sender, receiver):
    """The change of a solution's log-probability where a sender's other activation reaches a receiver alone."""
    behind = {"z": ["mlp_out.0", "out.1", "mlp_out.1"], "out": ["mlp_out.0", "out.1", "mlp_out.1"],
              "mlp_out": ["out.1", "mlp_out.1"]}[sender.split(".")[0]]  # fmt: skip
    with Hooks(own, note=behind) as still:
        base = logprob(own, *text)
    note = [] if receiver == "logits" else [receiver]
    with Hooks(own, note=note, put={sender: given, **{one: still[one] for one in behind}}) as seen:
        direct = logprob(own, *text)
    if receiver == "logits":
        return float(direct - base)
    with Hooks(own, put={receiver: seen[receiver]}):
        return float(logprob(own, *text) - base)


def ask(tiny, **changes):
    given = {"sft": tiny.sft, "rlvr": tiny.rlvr, "splits": {"f": tiny.forget}, "limit": TEXTS, "dtype": "float32",
             "draws": 0, "progress": False}  # fmt: skip
    return mastlens.inside_path(**given | changes)


@torch.no_grad()
def test_paths_are_those_of_plain_hooks(tiny):
    encoded = encode_file(tiny.forget, tiny.rlvr)[:TEXTS]
    models = {"restore": (tiny.rlvr, tiny.sft), "insert": (tiny.sft, tiny.rlvr)}
    tokens = sum(len(solution) for _, solution in encoded)
    senders, receivers = (list(dict.fromkeys(one[i] for one in PATHS)) for i in (0, 1))
    found = ask(tiny, senders=[one for one in senders if one != "out.0"], batch_size=2,
                receivers=[one for one in receivers if one != "mlp_in.0"]).table  # fmt: skip
    found = [found, ask(tiny, senders=["z.0.2", "out.0"], receivers=["mlp_in.0", "mlp_in.1"]).table]
    tables = [one.set_index(["direction", "sender", "receiver"]) for one in found]
    for way, folders in models.items():
        own, other = map(load_model, folders)
        for sender, receiver in PATHS:
            row = next(one.loc[(way, sender, receiver)] for one in tables if (way, sender, receiver) in one.index)
            exact = resampled = 0.0
            for item, text in enumerate(encoded):
                with Hooks(other, note=[sender]) as seen:
                    logprob(other, *text)
                exact += by_hand(own, seen[sender], text, sender, receiver)
                (prompt, solution), (prompt_, solution_) = text, encoded[(item + 1) % TEXTS]
                with Hooks(own, note=[sender]) as seen:
                    logprob(own, prompt_, solution_)
                at = torch.arange(len(prompt) + len(solution)) - len(prompt) + len(prompt_)
                moved = seen[sender][:, at.clamp(0, len(prompt_) + len(solution_) - 1)]
                resampled += by_hand(own, moved, text, sender, receiver)
            assert row["effect"] == pytest.approx(exact / tokens, rel=2e-3, abs=3e-7), (way, sender, receiver)
            assert row["resampled"] == pytest.approx(resampled / tokens, rel=2e-3, abs=3e-7), (way, sender, receiver)
            assert row["effect_low"] <= row["effect"] <= row["effect_high"]
        sums = [sum(float(logprob(model, *text)) for text in encoded) for model in (own, other)]
        assert row["total"] == pytest.approx((sums[1] - sums[0]) / tokens, rel=1e-3)


def test_nothing_goes_along_a_path_whose_sender_is_the_same_in_both(tiny, tmp_path):
    model = load_model(tiny.sft)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1.2)  # behind every sender
    model.save_pretrained(tmp_path)
    mastlens.Checkpoint(tiny.sft).load_tokenizer().save_pretrained(tmp_path)
    table = ask(tiny, rlvr=tmp_path, senders=["z.0.1", "mlp_out.0"], receivers=["k.1", "logits"]).table
    assert (table["effect"] == 0).all() and (table["resampled"] != 0).all() and (table["total"] != 0).all()


@torch.no_grad()
def test_integrated_gradients_are_what_exchanging_does_and_heads_add_up(tiny):
    patched = mastlens.inside_patch(
        sft=tiny.sft, rlvr=tiny.rlvr, splits={"f": tiny.forget}, limit=TEXTS, draws=0, dtype="float32", integrate=6,
        sites=("resid_post", "z", "mlp_out"), progress=False,
    )  # fmt: skip
    table, encoded = patched.table, encode_file(tiny.forget, tiny.rlvr)[:TEXTS]
    whole = table[table["head"] == -1]
    np.testing.assert_allclose(whole["integrated"], whole["effect"], rtol=2e-2, atol=1e-6)
    off = [np.abs(whole[name] - whole["effect"]).sum() for name in ("integrated", "first_order")]
    assert off[0] < off[1] / 5
    tokens = sum(len(solution) for _, solution in encoded)
    own, other = load_model(tiny.rlvr), load_model(tiny.sft)
    change = 0.0
    for text in encoded:
        with Hooks(other, note=["z.1"]) as seen:
            logprob(other, *text)
        base = logprob(own, *text)
        with Hooks(own, put={"z.1": seen["z.1"]}):
            change += float(logprob(own, *text) - base)
    heads = table[(table["site"] == "z") & (table["layer"] == 1) & (table["direction"] == "restore")]
    assert len(heads) == 4
    assert heads["integrated"].sum() == pytest.approx(change / tokens, rel=2e-2, abs=1e-6)
    agreement = patched.agreement
    assert (agreement["integrated_error"] < agreement["first_order_error"])[agreement["site"] != "z"].all()
    assert "integrated gradients" in patched.card().verdict


@pytest.mark.parametrize(
    ("senders", "receivers", "said"),
    [
        (["z.1.0"], ["q.1.0"], "stands before it"),
        (["mlp_out.0"], ["mlp_in.0"], "stands before it"),
        (["z.0.9"], ["logits"], "has 4 heads"),
        (["q.0.1"], ["logits"], "is no sender"),
        (["z.0"], ["mlp_in.1.2"], "is no receiver"),
        (["z.7.0"], ["logits"], "no layer 7"),
        ([], ["logits"], "no path"),
    ],
)
def test_what_is_no_path_is_refused(tiny, senders, receivers, said):
    with pytest.raises(MastlensError, match=said):
        ask(tiny, senders=senders, receivers=receivers)


def test_the_command_writes_what_is_declared(tmp_path, tiny):
    line = f"inside path --sft {tiny.sft} --rlvr {tiny.rlvr} --split f={tiny.forget} --limit 2 --draws 2".split()
    told = run_command(*line, "--senders", "z.0.1", "mlp_out.0", "--receivers", "q.1.0", "logits", "--out", tmp_path)
    check_table(tmp_path / "inside_path.parquet", "mastlens inside path")
    assert told.summary["rows"] == 8
    result = mastlens.inside_path(sft=tiny.sft, rlvr=tiny.rlvr, splits={"f": tiny.forget}, limit=2, draws=2,
                                  senders=["z.0.1"], progress=False)  # fmt: skip
    assert result.table["effect_p"].between(0, 1).all() and (result.table["effect_null"] != 0).all()
    assert "paths carry" in result.card().verdict and "paths carry" in result.plot("insert").layout.title.text
