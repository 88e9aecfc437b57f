"""Directions that tell texts apart: against plain hooks, sklearn and a Newton of our own, planted and absent ones."""

import builtins
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import mastlens
from mastlens.analysis.inside.nulls import beside_both, beside_null
from mastlens.analysis.inside.probes import Halves, halve, logistic_directions, mean_directions, probe
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.plots.cards.inside import directions_card
from mastlens.statistics import auc_interval
from mastlens.statistics.units import FEWEST
from tests.columns import check_table
from tests.conftest import run_command
from tests.lineages import write_lineage
from tests.reference.plain import encode_file, load_model, load_tokenizer

PLACE = ["layer", "site", "head", "position", "probe"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Problems of two wordings, told by the column ``sum``; of every second one the response is a bare box."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = []
    for i in range(28):
        a, b = 10 + i, 2 + i % 5
        asked = f"What is {a} + {b}?" if i % 4 < 2 else f"Find the area of a square of side {a}{b}."
        steps = f"{a}+{b}={a + b}. " if i % 2 else ""
        rows.append({"problem": asked, "solution": rf"{steps}\boxed{{{a + b}}}", "answer": str(a + b), "n": i % 4})
    path.write_text("".join(json.dumps({**row, "sum": row["n"] < 2}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def ask(tiny, texts):
    def asked(**changes):
        given = {"sft": tiny.sft, "rlvr": tiny.rlvr, "texts": texts, "label": "sum", "draws": 2, "shuffles": 8,
                 "dtype": "float32", "progress": False}  # fmt: skip
        return mastlens.inside_direct(**given | changes)

    return asked


@pytest.fixture(scope="module")
def directions(ask):
    return ask(sites=("embed", "resid_post", "z"), positions=(0, -1))


def by_hand(folder, encoded, path, part, position):
    """States and slopes of each text, from a hook on what a module gives (or takes) and autograd alone."""
    model, states, slopes = load_model(folder), [], []
    for prompt, solution in encoded:
        kept = []

        def keep(value, kept=kept):
            kept.append(value.detach().requires_grad_())
            return kept[0]

        module = model.get_submodule(path)
        if part is None:
            handle = module.register_forward_hook(lambda m, a, o, keep=keep: keep(o))
        else:
            handle = module.register_forward_pre_hook(lambda m, a, keep=keep: (keep(a[0]), *a[1:]))
        logits = model(input_ids=torch.tensor([prompt + solution]), use_cache=False).logits[0].double()
        at = torch.arange(len(prompt) - 1, len(prompt) + len(solution) - 1)
        logits.log_softmax(-1)[at, torch.tensor(solution)].sum().backward()
        handle.remove()
        chosen = at if position == -1 else at[[position]]
        states.append(kept[0][0, chosen][:, part or slice(None)].mean(0).detach().double().numpy())
        slopes.append(kept[0].grad[0, chosen][:, part or slice(None)].sum(0).double().numpy())
    return np.array(states), np.array(slopes)


@pytest.mark.parametrize(
    ("spot", "path", "part"),
    [
        (("resid_post", 1, -1, 0), "model.layers.1", None),
        (("resid_post", 0, -1, -1), "model.layers.0", None),
        (("z", 1, 2, 0), "model.layers.1.self_attn.o_proj", slice(16, 24)),
    ],
)
def test_what_a_probe_tells_is_what_plain_hooks_and_numpy_give(directions, tiny, texts, spot, path, part):
    encoded = encode_file(texts, tiny.rlvr)
    labels = np.array([json.loads(line)["sum"] for line in texts.read_text().splitlines()])
    halves = halve(labels, np.arange(len(labels)), shuffles=8, seed=0, label="sum")
    held, own = halves.held, labels[halves.held]
    seen = [by_hand(folder, encoded, path, part, spot[3]) for folder in (tiny.sft, tiny.rlvr)]
    site, layer, head, position = spot
    row = directions.table.set_index(["site", "layer", "head", "position", "probe"]).loc[(*spot, "mean")]
    found = []
    for which, (when, model) in enumerate((("before", "sft"), ("after", "rlvr"))):
        states = seen[which][0]
        vector = states[~held & labels].mean(0) - states[~held & ~labels].mean(0)
        found.append(vector)
        assert row[f"auc_{when}"] == pytest.approx(roc_auc_score(own, states[held] @ vector), abs=1e-9)
        assert row[f"auc_{when}_low"] <= row[f"auc_{when}"] <= row[f"auc_{when}_high"]
        given = directions.vectors[f"{model}/mean/{site}/{layer}/{head}/{position}"].double().numpy()
        np.testing.assert_allclose(given, vector, rtol=1e-3, atol=1e-5 * np.abs(vector).max())
        shuffled = [roc_auc_score(one[held], states[held] @ mean_directions(states[~held], [one[~held]])[0])
                    for one in halves.shuffled]  # fmt: skip
        assert row[f"auc_{when}_null"] == pytest.approx(np.mean(shuffled), abs=1e-9)
    vector, other = found
    assert row["cosine"] == pytest.approx(vector @ other / np.linalg.norm(vector) / np.linalg.norm(other), rel=1e-4)
    assert row["gap"] == pytest.approx(np.linalg.norm(vector), rel=1e-4)
    moved = (seen[1][0] - seen[0][0])[held].mean(0)
    assert row["writes"] == pytest.approx(moved @ vector / (vector @ vector), rel=1e-2, abs=1e-6)
    reads = [(along[own].mean() - along[~own].mean()) / 2 for along in (one[1][held] @ vector for one in seen)]
    assert [row["reads_before"], row["reads_after"]] == pytest.approx(reads, rel=1e-3, abs=1e-6)
    assert row["reads"] == pytest.approx(reads[1] - reads[0], rel=5e-2, abs=1e-6)
    assert (row["trained"], row["texts"], row["positives"]) == ((~held).sum(), held.sum(), own.sum())


def test_wording_is_read_behind_attention_and_nowhere_before(directions):
    """At the end of every prompt stands the same token: its embedding tells nothing, to the bit; what mixes does."""
    table = directions.table.set_index(["site", "layer", "probe", "position"])
    for kind in ("mean", "logistic"):
        same = table.loc[("embed", -1, kind, 0)]
        assert same["auc_before"] == same["auc_after"] == 0.5
        assert same["gap"] == 0
        assert not same["auc_before_distinguishable"]
        assert np.isnan(same[["writes", "reads", "cosine"]].astype(float)).all()
        last = table.loc[("resid_post", 1, kind, 0)]
        assert last["auc_before"] > 0.9
        assert last["auc_before_p"] < 0.1 < same["auc_before_p"]
    told = [f"{name}_distinguishable" for name in ("writes", "reads")]
    assert not directions.table[told].to_numpy().any()  # RLVR of the tiny lineage is a random change


def test_several_texts_of_one_prompt_make_no_interval_narrower():
    """Every text three times is the same area and interval; three times as many prompts are a narrower one."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2 == 1
    states = rng.normal(size=(40, 5)) + 0.5 * labels[:, None]
    for kind in ("mean", "logistic"):
        found = []
        for copies, prompts in ((1, np.arange(40)), (3, np.repeat(np.arange(40), 3)), (3, np.arange(120))):
            told = np.repeat(labels, copies)
            held = np.repeat(np.arange(40) >= 20, copies)
            area = probe(
                kind,
                np.repeat(states, copies, axis=0),
                Halves(told, held, np.zeros((0, len(told)), dtype=bool), prompts),
                float(copies),
            ).area
            found.append((area.value, auc_interval(area)))
        once, together, apart = found
        assert together[0] == pytest.approx(once[0])
        assert (together[1].low, together[1].high) == pytest.approx((once[1].low, once[1].high))
        assert apart[1].high - apart[1].low < 0.8 * (once[1].high - once[1].low)


def test_labels_that_mean_nothing_are_not_told(ask, tmp_path, texts):
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    coin = np.random.default_rng(1).permutation(np.arange(len(rows)) % 2)
    path = tmp_path / "coins.jsonl"
    rows = [{**row, "coin": int(side)} for row, side in zip(rows, coin, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = ask(texts=path, label="coin", positions=(0, -1), draws=0, sites=["resid_post"]).table
    assert not table[["auc_before_distinguishable", "auc_after_distinguishable"]].to_numpy().any()
    assert table["auc_before_p"].min() > 0.005
    assert table["writes_p"].isna().all()


@torch.no_grad()
def test_a_change_that_writes_along_the_direction_is_found_where_it_is(ask, directions, tiny, tmp_path, texts):
    vector = directions.vectors["sft/logistic/resid_post/1/-1/0"]
    model = load_model(tiny.sft)
    model.save_pretrained(tmp_path / "sft")
    inner = []
    down = model.model.layers[1].mlp.down_proj
    handle = down.register_forward_pre_hook(lambda m, args: inner.append(args[0][0, -1]))
    for prompt, _ in encode_file(texts, tiny.sft):
        model(input_ids=torch.tensor([prompt]), use_cache=False)
    handle.remove()
    mean = torch.stack(inner).mean(0)
    down.weight += 1.5 * vector[:, None] * mean / (mean @ mean)
    model.save_pretrained(tmp_path / "rlvr")
    for step in ("sft", "rlvr"):
        Checkpoint(str(tiny.sft)).load_tokenizer().save_pretrained(tmp_path / step)
    pair = {"sft": tmp_path / "sft", "rlvr": tmp_path / "rlvr", "probes": ["logistic"], "sites": ["resid_post"]}
    table = ask(**pair, draws=12, shuffles=24).table.set_index(["site", "layer"])
    assert table.loc[("resid_post", 0), "writes"] == 0  # nothing below it changed
    assert not table.loc[("resid_post", 0), "writes_distinguishable"]
    found = table.loc[("resid_post", 1)]
    assert found["writes"] == pytest.approx(1.5, rel=0.1)
    assert abs(found["writes_null"]) < 0.5 > abs(found["writes_null_shuffled"])
    assert found["writes_distinguishable"], found["writes_p"]


def newton(states, labels, penalty):
    """Logistic regression on standardised states by plain Newton steps, its intercept free, in float64."""
    centre, spread = states.mean(0), states.std(0)
    x = np.column_stack([(states - centre) / spread, np.ones(len(states))])
    ridge = np.diag([*np.full(states.shape[1], penalty), 0.0])
    w = np.zeros(x.shape[1])
    for _ in range(60):
        p = 1 / (1 + np.exp(-x @ w))
        w -= np.linalg.solve((x.T * (p * (1 - p))) @ x + ridge, x.T @ (p - labels) + ridge @ w)
    return w[:-1] / spread


@pytest.mark.parametrize(("texts_", "width"), [(40, 6), (14, 30)])
@pytest.mark.parametrize("penalty", [1.0, 0.1])
def test_logistic_probes_are_newtons(texts_, width, penalty):
    generator = np.random.default_rng(0)
    states = generator.normal(size=(texts_, width)) * generator.lognormal(size=width)
    labels = states @ generator.normal(size=width) + generator.normal(size=texts_) > 0
    (found,) = logistic_directions(states, [labels], penalty)
    np.testing.assert_allclose(found, newton(states, labels, penalty), rtol=1e-4, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=24, max_size=60), st.integers(0, 5))
def test_prompts_stay_together_and_halves_keep_their_classes(rows, seed):
    groups, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    try:
        halves = halve(labels, groups, shuffles=3, seed=seed, label="it")
    except MastlensError:
        kinds = [len(set(groups[labels == kind])) for kind in (True, False)]
        assume(min(kinds) > 3 * FEWEST)  # enough prompts of each class for both halves, however they are mixed
        raise
    for group in np.unique(groups):
        assert len(set(halves.held[groups == group])) == 1
    for side in (halves.held, ~halves.held):
        assert min(labels[side].sum(), (~labels[side]).sum()) >= FEWEST
        for shuffled in halves.shuffled:
            assert shuffled[side].sum() == labels[side].sum()
    again = halve(labels, groups, shuffles=3, seed=seed, label="it")
    assert (again.held == halves.held).all() and (again.shuffled == halves.shuffled).all()


def test_probes_of_one_state_tell_nothing():
    labels = np.arange(20) % 2 == 0
    halves = halve(labels, np.arange(20), shuffles=4, seed=0, label="it")
    for kind in ("mean", "logistic"):
        found = probe(kind, np.full((20, 5), 0.1, dtype=np.float32), halves, 1.0)
        assert not found.direction.any()
        assert found.area.value == 0.5 and set(found.shuffled) == {0.5}


def test_two_nulls_and_what_is_beyond_both():
    draws, wide = [0.1, -0.1, 0.05, -0.02, 0.01, 0.08], [3.0, -2.0, 1.0, -4.0, 2.5, -1.0]
    one, both = beside_null("writes", 2.0, draws), beside_both("writes", 2.0, draws, wide)
    assert one["writes_distinguishable"] and not both["writes_distinguishable"]
    assert both["writes_judged_by"] == "shuffled" and both["writes_null"] == one["writes_null"]
    assert both["writes_chance_low"] < -4 < 2 < both["writes_chance_high"] and both["writes_p"] > one["writes_p"]
    assert both["writes_null_shuffled"] == pytest.approx(np.mean(wide))
    assert beside_both("writes", 2.0, draws, draws)["writes_judged_by"] in ("signs", "shuffled")
    assert beside_both("writes", 2.0, draws, draws)["writes_distinguishable"]
    # Of a measure with a sign, draws that happen to be positive do not make a negative value impossible.
    assert 0 < beside_null("reads", -0.1, [0.2, 0.4, 0.9, 0.3])["reads_p"] < 1


def test_labels_are_read_as_they_are_given(ask, tmp_path, tiny, texts):
    """worked is read off the response; a table of responses is read as it stands, special tokens and all."""
    table = ask(label="worked", probes=["mean"], layers=[1], sites=["resid_post"], positions=[-1], draws=0).table
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    assert (table["trained"] + table["texts"]).tolist() == [28]
    tokenizer = load_tokenizer(tiny.sft)
    responses = pd.DataFrame(
        {"prompt": [row["problem"] + "\n" for row in rows], "response": [row["solution"] for row in rows],
         "sum": [row["sum"] for row in rows], "truncated": False}
    )  # fmt: skip
    responses.to_parquet(tmp_path / "responses.parquet")
    same = {"layers": [1], "sites": ["resid_post"], "positions": [0, -1], "probes": ["mean"], "draws": 0}
    one, other = ask(**same).table, ask(**same, texts=tmp_path / "responses.parquet").table
    pd.testing.assert_frame_equal(one, other)
    special = responses.assign(prompt=tokenizer.eos_token + responses["prompt"])
    special["of"] = [None if place == 5 else "this" if one else "that" for place, one in enumerate(special["sum"])]
    special.to_parquet(tmp_path / "special.parquet")
    fewer = ask(**same, texts=tmp_path / "special.parquet", label="of=this").table
    assert (fewer["trained"] + fewer["texts"]).tolist() == [27] * 2
    assert not np.allclose(fewer["gap"], other["gap"], rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "summ"}, "Did you mean 'sum'"),
        ({"label": "n"}, "--label n=2"),
        ({"label": "n=7"}, "no value of 'n' '7'"),
        ({"label": "n=0", "limit": 12}, "Too few texts for a probe: 'n=0' is true of 3 and false of 9"),
        ({"limit": 2}, "All 2 texts are of one class"),
        ({"positions": [40]}, r"line 1: the response has \d+ tokens, none at position 40"),
        ({"positions": [-2]}, "no position -2"),
        ({"sites": ["pattern"]}, "of two tokens"),
        ({"sites": ["resid_past"]}, "Did you mean 'resid_post'"),
        ({"probes": ["median"]}, "no probe 'median'"),
        ({"shuffles": 1}, "have no spread"),
        ({"penalty": 0.0}, "above 0"),
        ({"draws": 1}, "have no spread"),
    ],
)
def test_what_makes_no_sense_is_refused(ask, change, said):
    with pytest.raises(MastlensError, match=said):
        ask(**change)


def test_models_of_another_width_and_files_of_another_form_are_refused(ask, tmp_path, monkeypatch):
    other = write_lineage(tmp_path, hidden_size=48)
    with pytest.raises(MastlensError, match="two models"):
        ask(rlvr=other.rlvr)
    path = tmp_path / "texts.jsonl"
    for line, said in (
        ('{"text": "a"}', "no text. It has 'text'"),
        ('{"prompt": "a", "response": 1}', "no text under 'response'"),
        ("[1]", "a JSON object is expected"),
        ("", "holds no texts"),
    ):
        path.write_text(line + "\n")
        with pytest.raises(MastlensError, match=said):
            ask(texts=path)
    real = builtins.__import__

    def lacking(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(MastlensError, match=r"mastlens\[probes\]"):
        ask(draws=0, layers=[1], sites=["resid_post"])
    assert len(ask(draws=0, layers=[1], sites=["resid_post"], probes=["mean"]).table) == 1


def test_the_command_writes_what_is_declared_and_knows_it_again(tmp_path, tiny, texts):
    out = tmp_path / "run"
    line = f"inside direct --sft {tiny.sft} --rlvr {tiny.rlvr} --texts {texts} --label sum --draws 2".split()
    line += ["--shuffles", "4", "--probes", "mean"]
    told = run_command(*line, "--out", out)
    check_table(out / "inside_direct.parquet", "mastlens inside direct")
    assert told.summary["rows"] == 3
    assert "a probe tells which" in told.conclusion
    before = {path.name: path.read_bytes() for path in out.glob("inside*")}
    assert {*before} == {"inside_direct.parquet", "inside_directions.safetensors"}
    run_command(*line, "--out", out)
    assert before == {path.name: path.read_bytes() for path in out.glob("inside*")}
    run_command(*line, "--out", tmp_path / "again", "--batch-size", 3)
    one, other = (pd.read_parquet(folder / "inside_direct.parquet") for folder in (out, tmp_path / "again"))
    np.testing.assert_allclose(one["auc_before"], other["auc_before"], atol=0.1)
    np.testing.assert_allclose(one["gap"], other["gap"], rtol=1e-3, atol=1e-6)


def test_figures_say_what_is_beyond_chance(directions):
    for measure in ("auc", "writes", "reads"):
        figure = directions.plot(measure, "logistic")
        assert "beyond chance" in figure.layout.title.text.replace("<br>", " ")
        assert {"layer", "probe"} <= {*figure.table.columns}
    with pytest.raises(MastlensError, match="measure"):
        directions.plot("warmth")
    with pytest.raises(MastlensError, match="no probe"):
        directions.plot("auc", "median")
    told = directions_card(directions.table, {"draws": 0, "label": "sum"}).verdict
    assert "has no verdict" in told and "7 with 'sum'" in told
