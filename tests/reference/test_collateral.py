"""Collateral against plain transformers: two whole models, one problem at a time, the definition written out."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import log_softmax

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.errors import MastlensError
from mastlens.evaluation.collateral import measure_collateral
from mastlens.evaluation.degeneration import repeated_ngrams, response_classes, response_faults
from mastlens.evaluation.perplexity import neutral_logprobs
from mastlens.models.divergence import token_divergence
from mastlens.models.weights import snapshot
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.files import write_table
from tests.reference import plain

ATTENTION = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.o_proj.weight"]
EMBEDDING = ["model.embed_tokens.weight"]  # tied: the edit reaches into the output embedding
TEXTS = ["Nothing here is about numbers at all.", "How many ways?", "Find the area of a square."]


def edit_of(tiny, names, size=0.2):
    """Return an edit that adds noise to the named tensors."""
    generator = torch.Generator().manual_seed(0)
    before = {name: tensor for name, tensor in load_file(tiny.rlvr / "model.safetensors").items() if name in names}
    after = {n: t + size * t.std() * torch.randn(t.shape, generator=generator) for n, t in before.items()}
    return Edit(before, after, Checkpoint(tiny.rlvr).fingerprint, {})


def edited_model(tiny, edit):
    """Return the edited model as a second one, by plain transformers."""
    model = plain.load_model(tiny.rlvr)
    with torch.no_grad():
        for name, tensor in edit.after.items():
            model.get_parameter(name).copy_(tensor)
    return model


@torch.no_grad()
def expected_divergence(source, edited, prompt, solution):
    """Return (KL, same top) over the solution's tokens, in float64."""
    ids = torch.tensor([prompt + solution])
    p, q = (
        log_softmax(m(input_ids=ids).logits[0].double(), -1)[len(prompt) - 1 : -1].numpy() for m in (source, edited)
    )
    return float(np.sum(np.exp(p) * (p - q))), int(np.sum(p.argmax(-1) == q.argmax(-1)))


@pytest.mark.parametrize("names", [ATTENTION, EMBEDDING, ATTENTION + EMBEDDING], ids=["attention", "tied head", "both"])
def test_divergence_is_that_of_two_models(tiny, names):
    edit = edit_of(tiny, names)
    source, edited = plain.load_model(tiny.rlvr), edited_model(tiny, edit)
    encoded = plain.encode_file(tiny.retain, tiny.rlvr)
    model = Checkpoint(tiny.rlvr).load_model()
    kept = snapshot(model, [name for name, _ in model.named_parameters()])
    problems = [EncodedProblem(tuple(p), tuple(s)) for p, s in encoded]
    found = token_divergence(model, edit.after, problems, batch_size=4)
    for row, (prompt, solution) in zip(found.itertuples(), encoded, strict=True):
        kl, same = expected_divergence(source, edited, prompt, solution)
        assert row.tokens == len(solution)
        assert row.kl == pytest.approx(kl, rel=2e-4)
        assert row.same_top == same
    assert found["kl"].sum() > 1e-3
    assert (found["same_top"] < found["tokens"]).any()
    assert all(torch.equal(kept[name], weight) for name, weight in model.named_parameters()), "the model comes back"


def test_divergence_of_nothing_is_nothing_and_grows_with_the_edit(tiny):
    model = Checkpoint(tiny.rlvr).load_model()
    problems = [EncodedProblem(tuple(p), tuple(s)) for p, s in plain.encode_file(tiny.retain, tiny.rlvr)]
    same = token_divergence(model, edit_of(tiny, ATTENTION).before, problems)
    assert (same["kl"] == 0).all()
    assert (same["same_top"] == same["tokens"]).all()
    sizes = [
        token_divergence(model, edit_of(tiny, ATTENTION, s).after, problems)["kl"].sum() for s in (1e-3, 1e-2, 0.1)
    ]
    assert sizes[1] == pytest.approx(100 * sizes[0], rel=0.1)  # to second order, KL is quadratic in the edit
    assert sizes[2] > 30 * sizes[1]
    one, many = (token_divergence(model, edit_of(tiny, ATTENTION).after, problems, batch_size=b) for b in (1, 10))
    assert np.allclose(one["kl"], many["kl"], rtol=1e-4)


def test_a_token_that_the_source_forbids_adds_nothing(tiny):
    model = Checkpoint(tiny.rlvr).load_model()
    problems = [EncodedProblem((5, 6), (7, 8, 0))]
    head = model.get_output_embeddings()
    ban = head.register_forward_hook(lambda _, __, out: out.index_fill(-1, torch.tensor([3]), -torch.inf))
    try:
        found = token_divergence(model, edit_of(tiny, ATTENTION).after, problems)
    finally:
        ban.remove()
    assert 0 < found["kl"][0] < math.inf


def test_neutral_logprobs_are_those_of_plain_transformers(tiny):
    model, tokenizer = Checkpoint(tiny.rlvr).load_model(), plain.load_tokenizer(tiny.rlvr)
    sums, counts = neutral_logprobs(model, tokenizer, [*TEXTS, "a"], batch_size=2)
    for text, found, count in zip(TEXTS, sums, counts, strict=False):
        ids = tokenizer(text)["input_ids"]
        assert found == pytest.approx(plain.logprob(model, ids[:1], ids[1:]).item(), rel=1e-5)
        assert count == len(ids) - 1
    assert len(sums) == len(TEXTS), "one token alone predicts nothing"
    with pytest.raises(MastlensError, match="context is 128"):
        neutral_logprobs(model, tokenizer, ["way " * 200])
    with pytest.raises(MastlensError, match="two tokens"):
        neutral_logprobs(model, tokenizer, ["a"])


def responses(tmp_path, name, given):
    """Write an evaluation folder's responses: text, whether right, whether cut off."""
    rows = [
        {"split": "retain", "item": i, "prompt": f"p{i}", "gold": "1", "response": text, "correct": right}
        | {"correct_strict": right, "truncated": cut, "subject": ""}
        for i, (text, right, cut) in enumerate(given)
    ]
    write_table(tmp_path / name / "responses.parquet", pd.DataFrame(rows))
    return tmp_path / name


def test_measure_collateral(tiny, tmp_path):
    edit = edit_of(tiny, ATTENTION)
    neutral = tmp_path / "neutral.jsonl"
    neutral.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    good, loop = (r"so \boxed{1}", True, False), ("a b c d " * 10, False, True)
    before = responses(tmp_path, "before", [good] * 4)
    after = responses(tmp_path, "after", [good, good, loop, ("I do not know.", False, False)])
    out = tmp_path / "out"

    def run(**changed):
        options = {"splits": {"retain": tiny.retain}, "neutral": neutral, "before": before, "after": after}
        settings = {"progress": False, "out": out} | options | changed
        return measure_collateral(model=tiny.rlvr, edit=edit, **settings)

    result = run()
    table = result.table.set_index(["measure", "split"])
    sums = result.items.sum(numeric_only=True)
    row = table.loc[("kl", "retain")]
    assert row["value"] == pytest.approx(sums["kl"] / sums["tokens"])
    assert row["ci_low"] < row["value"] < row["ci_high"]
    source, edited = plain.load_model(tiny.rlvr), edited_model(tiny, edit)
    tokenizer = plain.load_tokenizer(tiny.rlvr)
    pieces = [tokenizer(text)["input_ids"] for text in TEXTS]
    with torch.no_grad():
        nll = [-sum(float(plain.logprob(m, ids[:1], ids[1:])) for ids in pieces) for m in (source, edited)]
    old, new = (math.exp(total / sum(len(ids) - 1 for ids in pieces)) for total in nll)
    row = table.loc[("perplexity", "neutral")]
    assert (row["before"], row["after"], row["value"]) == pytest.approx((old, new, new / old), rel=1e-5)
    assert row["ci_low"] <= row["value"] <= row["ci_high"]
    assert [table.loc[(m, "retain"), "value"] for m in ("wrong", "no answer", "truncated")] == [0, 0.25, 0.25]
    unchanged = measure_collateral(
        model=tiny.rlvr, edit=edit, splits={"retain": tiny.retain}, before=before, after=before, progress=False
    ).table.set_index(["measure", "split"])
    never = unchanged.loc[("no answer", "retain")]
    assert never["value"] == 0
    assert never["ci_low"] < -0.1 < 0.1 < never["ci_high"], (
        "four responses without a failure do not prove that none can be"
    )
    assert table.loc[("repetition", "retain"), "value"] == pytest.approx((1 - 4 / 37) / 4)
    stamp = (out / "collateral.parquet").stat().st_mtime_ns
    pd.testing.assert_frame_equal(run().table, result.table)
    assert (out / "collateral.parquet").stat().st_mtime_ns == stamp
    with pytest.raises(MastlensError, match="overwrite"):
        run(neutral=None)
    with pytest.raises(MastlensError, match="both --before and --after"):
        run(after=None)
    with pytest.raises(MastlensError, match="different items"):
        run(after=responses(tmp_path, "fewer", [good]), overwrite=True)
    other = Edit(edit.before, edit.after, "0" * 64, {})
    with pytest.raises(MastlensError, match="another checkpoint"):
        measure_collateral(model=tiny.rlvr, edit=other, splits={"retain": tiny.retain})


def test_repeated_ngrams_by_hand():
    assert repeated_ngrams("one two three") == 0.0  # no 4-gram
    assert repeated_ngrams("a b c d e f") == 0.0
    # Eight words have five 4-grams, of which the last is the first again.
    assert repeated_ngrams("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_ngrams("x=1, x=1, x=1,", 4) == pytest.approx(1 - 4 / 9)  # marks count as words
    assert repeated_ngrams("a a a a", 2) == pytest.approx(2 / 3)


def test_every_response_is_of_one_class():
    given = [
        (r"\boxed{4}", True, False, "right"),
        (r"\boxed{4} and on and on", True, True, "right"),
        (r"\boxed{5}", False, False, "wrong"),
        ("#### 5", False, False, "wrong"),
        ("I think it is five.", False, False, "no answer"),
        ("I think", False, True, "truncated"),
        (r"\boxed{5} but wait", False, True, "truncated"),
        (r"<think>\boxed{4}</think> done", False, False, "no answer"),
    ]
    texts, right, cut, classes = zip(*given, strict=True)
    assert response_classes(texts, right, cut) == list(classes)
    table = pd.DataFrame({"split": "s", "item": range(8), "response": texts, "correct": right, "truncated": cut})
    faults = response_faults(table)
    assert faults[["wrong", "no answer", "truncated"]].sum().tolist() == [2, 2, 2]
    assert (faults[["wrong", "no answer", "truncated"]].sum(axis=1) == ~table["correct"]).all()
