"""Two models side by side: what both say is what evaluate gets, and the source is left as it was."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import mastlens as m
from mastlens.errors import MastlensError

SAID = "What is 3 + 4?"
SIDES = ("source", "edited")


@pytest.fixture(scope="module")
def edit(tiny):
    return m.unlearn(
        rlvr=tiny.rlvr, forget=tiny.forget, objective="ga", where="v_proj", steps=3, lr=0.05, progress=False
    ).edit


@pytest.fixture(scope="module")
def evaluated(tiny, edit, tmp_path_factory):
    file = tmp_path_factory.mktemp("one") / "one.jsonl"
    file.write_text('{"problem": "What is 3 + 4?", "solution": "7", "answer": "7"}\n')
    asked = {"splits": {"one": file}, "max_new_tokens": 12, "progress": False}
    return [m.evaluate(model=tiny.rlvr, edit=each, **asked).table["response"].iloc[0] for each in (None, edit)]


def test_both_say_what_an_evaluation_gets_and_are_heard_token_by_token(tiny, edit, evaluated):
    chat, heard = m.chat(tiny.rlvr, edit, max_new_tokens=12), {"source": [], "edited": []}
    found = chat.ask(SAID, lambda side, text: heard[side].append(text))
    assert [found.source, found.edited] == evaluated
    assert found.source != found.edited
    for side, texts in heard.items():
        assert len(texts) > 1 and texts[-1] == getattr(found, side)
    again = chat.ask(SAID)  # the source's weights are back, bit for bit
    assert (again.source, again.edited) == (found.source, found.edited)
    assert chat.table.to_dict("records")[0] == {"said": SAID, "source": found.source, "edited": found.edited}
    weights = m.Checkpoint(tiny.rlvr)
    for name, value in chat._models["source"].named_parameters():
        if name in edit.before:
            assert torch.equal(value, weights.tensor(name))


def test_a_file_and_another_checkpoint_do_as_well(tiny, edit, evaluated, tmp_path):
    file = edit.save(tmp_path / "edit.safetensors")
    assert m.chat(tiny.rlvr, file, max_new_tokens=12).ask(SAID).edited == evaluated[1]
    other = m.chat(tiny.rlvr, tiny.sft, max_new_tokens=12).ask(SAID)
    assert other.source == evaluated[0]


def test_another_tokenizer_is_told(tiny, tmp_path):
    other = shutil.copytree(tiny.sft, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(MastlensError, match="another tokenizer"):
        m.chat(tiny.rlvr, other)


def test_draws_follow_the_seed(tiny, edit):
    asked = {"max_new_tokens": 12, "temperature": 1.0}
    said = [m.chat(tiny.rlvr, edit, seed=seed, **asked).ask(SAID).source for seed in (0, 0, 1)]
    assert said[0] == said[1] != said[2]


def test_what_does_not_fit_is_named(tiny, edit):
    with pytest.raises(MastlensError, match="another checkpoint"):
        m.chat(tiny.sft, edit)
    with pytest.raises(MastlensError, match="nothing to answer"):
        m.chat(tiny.rlvr, edit).ask("  ")


def test_the_widget_asks_both_and_shows_markup_as_text(tiny, edit):
    pytest.importorskip("ipywidgets")
    chat = m.chat(tiny.rlvr, edit, max_new_tokens=6)
    line, send, status, boxes = chat.widget().children
    line.value = SAID
    send.click()
    panes = [box.children[1].value for box in boxes.children]
    assert len(chat.exchanges) == 1 and all("pre-wrap" in pane for pane in panes)
    assert status.value == "" and not send.disabled
    line.value = " "
    send.click()
    assert "nothing to answer" in status.value
    assert "chat.ask" in repr(chat)


def test_tokens_of_both_responses_are_what_plain_transformers_say(tiny, edit):
    view = m.view_tokens(tiny.rlvr, edit, SAID, max_new_tokens=12)
    chat = m.chat(tiny.rlvr, edit, max_new_tokens=12)
    said = chat.ask(SAID)
    tokenizer = chat.tokenizer
    prompt = list(chat.encoded(SAID))
    for side in ("source", "edited"):
        part = view.table[view.table["side"] == side]
        written = "".join(part["token"]).removesuffix(tokenizer.eos_token)
        assert written.strip() == getattr(said, side).strip()
        ids = list(chat.respond(side, tuple(prompt)).ids)
        assert len(part) == len(ids)
        for column, model_side in (("logprob_before", "source"), ("logprob_after", "edited")):
            with chat.speaking(model_side) as model, torch.no_grad():
                logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double()
            expected = logits.log_softmax(-1)[range(len(ids)), ids].numpy()
            assert part[column].to_numpy() == pytest.approx(expected, abs=2e-5)
        assert (part["difference"] == part["logprob_after"] - part["logprob_before"]).all()
        assert view.totals.set_index("side").loc[side, "difference"] == pytest.approx(part["difference"].sum())
    # A token is shared where a common subsequence holds it: both sides have the same ones, in order.
    common = [view.table[(view.table["side"] == side) & view.table["shared"]]["token"].tolist() for side in SIDES]
    assert common[0] == common[1]
    assert not view.table["shared"].all()
    assert "no interval, no null" in repr(view)


def test_shares_of_the_gradient_are_those_of_a_backward_pass_for_each_token(tiny, edit):
    chat = m.chat(tiny.rlvr, edit, max_new_tokens=8)
    view = chat.view(SAID, gradient=True)
    prompt = list(chat.encoded(SAID))
    for side in SIDES:
        part = view.table[view.table["side"] == side]
        ids = list(chat.respond(side, tuple(prompt)).ids)
        with chat.speaking("source") as model:
            flags = [parameter.requires_grad for parameter in model.parameters()]
            weights = [dict(model.named_parameters())[name].requires_grad_() for name in edit.after]
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            logprobs = logits.log_softmax(-1)[range(len(ids)), ids]
            each = [torch.autograd.grad(one, weights, retain_graph=True) for one in logprobs]
            for parameter, flag in zip(model.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)
        rows = np.array([np.concatenate([g.double().numpy().ravel() for g in grads]) for grads in each])
        whole = rows.sum(0)
        assert part["gradient_share"].to_numpy() == pytest.approx(rows @ whole / (whole @ whole), abs=1e-5)
        assert part["gradient_share"].sum() == pytest.approx(1)
    plain = chat.view(SAID)
    pd.testing.assert_frame_equal(view.table.drop(columns="gradient_share"), plain.table)
    page = view.html("gradient_share")
    assert "half of its gradient" in page and "% of the gradient" in page and "half of its gradient" not in view.html()
    bars = np.concatenate([trace.y for trace in view.plot("gradient_share").data])
    assert bars == pytest.approx(100 * view.table["gradient_share"].to_numpy())
    with pytest.raises(MastlensError, match="gradient=True"):
        plain.html("gradient_share")
    with pytest.raises(MastlensError, match="gradient_share"):
        view.plot("gradient")


def test_a_typed_text_is_read_by_both_and_never_markup(tiny, edit):
    chat = m.chat(tiny.rlvr, edit, max_new_tokens=12)
    view = chat.view(SAID, "7 <script>alert(1)</script>")
    assert set(view.table["side"]) == {"text"}
    assert "".join(view.table["token"]) == "7 <script>alert(1)</script>"
    assert (view.table["difference"] != 0).any()
    page = view.html()
    assert "<script" not in page
    assert page.count("<span style=") == len(view.table)
    assert "line-through" not in page
    assert len(view.plot().data) == 1
    same = m.view_tokens(tiny.rlvr, tiny.rlvr, SAID, "7")
    assert (same.table["difference"] == 0).all()
    both = chat.view(SAID)
    assert "line-through" in both.html() or "underline" in both.html()
    assert len(both.plot().data) == 2
    with pytest.raises(MastlensError, match="no token"):
        chat.view(SAID, "")
    with pytest.raises(MastlensError, match="the model reads"):
        chat.view(SAID, "7 " * 5000)
