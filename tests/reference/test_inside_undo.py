"""What an edit takes back: against plain hooks and numpy, of edits that take all back, nothing, or the last layer."""

import numpy as np
import pytest
import torch

import mastlens
from mastlens.errors import MastlensError
from tests.columns import check_table
from tests.conftest import run_command
from tests.lineages import write_lineage, write_tokenizer
from tests.reference.plain import encode_file, load_model, logprob

KEYS = ["site", "layer", "head"]
PLACES = {
    ("resid_post", 0, -1): ("model.layers.0", "output", slice(None)),
    ("z", 1, 2): ("model.layers.1.self_attn.o_proj", "input", slice(16, 24)),
    ("mlp_out", 1, -1): ("model.layers.1.mlp", "output", slice(None)),
}
ANSWER = ("logits", -1, -1)


def ask(tiny, edited, **changes):
    given = {"sft": tiny.sft, "rlvr": tiny.rlvr, "edited": edited, "splits": {"f": tiny.forget}, "limit": 4,
             "dtype": "float32", "draws": 0, "progress": False}  # fmt: skip
    return mastlens.inside_undo(**given | changes)


@torch.no_grad()
def by_hand(folder, encoded):
    """States at the tokens that solutions are predicted from, logits there, and the solutions' log-probability."""
    model, states, logits = load_model(folder), {place: [] for place in PLACES}, []
    for prompt, solution in encoded:
        at, handles = slice(len(prompt) - 1, -1), []
        for place, (path, side, part) in PLACES.items():

            def keep(value, place=place, part=part, at=at):
                states[place].append(value[0, at, part].double())

            module = model.get_submodule(path)
            if side == "output":
                handles.append(module.register_forward_hook(lambda m, a, o, keep=keep: keep(o)))
            else:
                handles.append(module.register_forward_pre_hook(lambda m, a, keep=keep: keep(a[0])))
        logits.append(model(input_ids=torch.tensor([prompt + solution]), use_cache=False).logits[0, at].double())
        for handle in handles:
            handle.remove()
    said = sum(float(logprob(model, *text)) for text in encoded)
    return {place: torch.cat(one).numpy() for place, one in states.items()}, torch.cat(logits).log_softmax(-1), said


@pytest.fixture(scope="module")
def between(tiny, tmp_path_factory):
    """The RLVR model, its weights moved half way back, and one of its MLPs moved elsewhere."""
    folder = tmp_path_factory.mktemp("edited")
    model, other = load_model(tiny.rlvr), load_model(tiny.sft)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for own, back in zip(model.parameters(), other.parameters(), strict=True):
            own.add_(0.5 * (back - own))
        down = model.model.layers[1].mlp.down_proj.weight
        down.add_(torch.randn(down.shape, generator=generator), alpha=0.02)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def test_what_is_taken_back_is_what_plain_hooks_and_numpy_say(tiny, between):
    found = ask(tiny, between, draws=3, batch_size=3)
    table, encoded = found.table.set_index(KEYS), encode_file(tiny.forget, tiny.rlvr)[:4]
    (r, said_r, text_r), (s, said_s, text_s), (e, said_e, text_e) = (
        by_hand(folder, encoded) for folder in (tiny.sft, tiny.rlvr, between)
    )
    for place in PLACES:
        own, row = r[place] - s[place], table.loc[place]
        assert row["back"] == pytest.approx(np.sum((e[place] - s[place]) * own) / np.sum(own**2), rel=1e-3)
        left = np.sqrt(np.sum((e[place] - r[place]) ** 2) / np.sum(own**2))
        assert row["left"] == pytest.approx(left, rel=1e-3)
        assert row["back_low"] <= row["back"] <= row["back_high"]
        assert np.isnan(row["said_back"]) and 0 < row["back_p"] <= 1
    assert 0.3 < table.loc[("resid_post", 0, -1), "back"] < 0.7
    answer = table.loc[ANSWER]
    assert answer["said_back"] == pytest.approx((text_e - text_s) / (text_r - text_s), rel=1e-2)
    kl = [float((said_r.exp() * (said_r - one)).sum()) for one in (said_s, said_e)]
    assert answer["kl_left"] == pytest.approx(kl[1] / kl[0], rel=1e-2)
    assert np.isnan(answer["back"]) and answer["tokens"] == sum(len(solution) for _, solution in encoded)
    assert len(table) == 1 + 2 * (1 + 4 + 1) + 1
    assert "takes back" in found.card().verdict and "takes back" in found.plot().layout.title.text
    assert len(found.plot("z", "left").data) == 1


def test_all_nothing_and_the_answer_alone(tiny, tmp_path):
    all_, none = (ask(tiny, folder).table.set_index(KEYS) for folder in (tiny.sft, tiny.rlvr))
    np.testing.assert_allclose(all_["back"].dropna(), 1)
    assert (all_["left"].dropna() == 0).all() and all_.loc[ANSWER, "kl_left"] == 0
    assert all_.loc[ANSWER, "said_back"] == pytest.approx(1)
    assert (none["back"].dropna() == 0).all() and none.loc[ANSWER, "said_back"] == 0
    assert none.loc[ANSWER, "kl_left"] == 1 and (none["left"].dropna() == 1).all()
    model, other = load_model(tiny.rlvr), load_model(tiny.sft)
    model.model.layers[1].load_state_dict(other.model.layers[1].state_dict())  # the last layer alone is put back
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    last = ask(tiny, tmp_path, draws=2).table.set_index(KEYS)
    below = last[last.index.get_level_values("layer") < 1].drop(index=ANSWER)
    assert (below["back"] == 0).all() and (below["left"] == 1).all() and not below["back_distinguishable"].any()
    assert last.loc[("resid_post", 1, -1), "back"] > 0.05 and last.loc[ANSWER, "said_back"] != 0


def test_the_command_writes_what_is_declared_and_refuses_other_models(tmp_path, tiny, between):
    line = f"inside undo --sft {tiny.sft} --rlvr {tiny.rlvr} --edited {between} --split f={tiny.forget}".split()
    told = run_command(*line, "--limit", 2, "--draws", 2, "--layers", "1", "--sites", "z", "--out", tmp_path / "run")
    check_table(tmp_path / "run" / "inside_undo.parquet", "mastlens inside undo")
    assert told.summary["rows"] == 5 and told.summary["answers"][0]["kl_left"] > 0
    other = write_lineage(tmp_path, hidden_size=48)
    with pytest.raises(MastlensError, match="one shape"):
        ask(tiny, other.rlvr)
    with pytest.raises(MastlensError, match="Did you mean 'resid_post'"):
        ask(tiny, between, sites=["resid_pots"])
