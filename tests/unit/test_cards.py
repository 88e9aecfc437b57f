"""Cards: a result at first glance, true, small, escaped and without script."""

import dataclasses
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import mastlens as m
from mastlens.plots.cards.answers import attack_card
from mastlens.plots.cards.card import ROWS, Card, CellMap
from mastlens.plots.cards.carded import Carded
from mastlens.plots.cards.inside import patches_card
from mastlens.plots.cards.training import training_card
from mastlens.plots.cards.weights import agreement_card, coupling_card, geometry_card, trajectory_card

LIMIT = 30_000  # bytes


class Reader(HTMLParser):
    """Collects tags and what is read, and knows whether all is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words, self.attributes = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check(card):
    """Assert what holds of every card, and return what its HTML was read as."""
    reader = Reader()
    reader.feed(card.html)
    assert not reader.open
    assert not {"script", "link", "img", "iframe"} & reader.tags
    assert not [name for name, value in reader.attributes if name.startswith("on") or "http" in str(value)]
    assert len(card.html.encode()) < LIMIT
    assert card.verdict in " ".join(reader.words)
    assert card.verdict in card.text
    assert len(card.shown) <= ROWS
    return reader


def increments(layers=3, *, beyond=False, note="", projections="qkvo", seed=0):
    draw = np.random.default_rng(seed)
    rows = [(layer, projection) for layer in range(layers) for projection in projections]
    table = pd.DataFrame(rows, columns=["layer", "projection"])
    null = draw.uniform(0.8, 0.9, len(table))
    return table.assign(
        increment="rlvr",
        name=[f"layers.{a}.{b}" for a, b in rows],
        relative_norm=0.01,
        note=note,
        off_principal=null + draw.normal(0, 0.02, len(table)),
        off_principal_null=null,
        off_principal_distinguishable=beyond,
    )


@pytest.fixture(scope="module")
def results(tiny, tmp_path_factory):
    """Every kind of result that a small lineage gives in seconds."""
    out = tmp_path_factory.mktemp("cards")
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "forget": tiny.forget, "retain": tiny.retain, "progress": False}
    geometry = m.geometry(base=tiny.base, sft=tiny.sft, rlvr=tiny.rlvr, rank=4, out=out, progress=False)
    coupling = m.couple(**pair, out=out)
    ranking = m.rank(out, top=2)
    run = {"rlvr": tiny.rlvr, "names": ranking.selected, "forget": tiny.forget, "objective": "npo", "progress": False}
    unlearning = m.unlearn(**run, steps=3, lr=1e-2)
    splits = {"splits": {"forget": tiny.forget, "retain": tiny.retain}, "max_new_tokens": 2, "progress": False}
    before = m.evaluate(model=tiny.rlvr, **splits, out=out / "before")
    m.evaluate(model=tiny.rlvr, edit=unlearning.edit, **splits, out=out / "after")
    return [
        *(geometry, coupling, ranking, unlearning, unlearning.edit, before),
        m.compare(out / "before", out / "after"),
        m.inspect(tiny.rlvr),
        m.causal_map(**pair, limit=2),
        m.token_differences(rlvr=tiny.rlvr, sft=tiny.sft, splits={"forget": tiny.forget}, progress=False),
        m.mask_agreement(tiny.base, {"sft": tiny.sft, "rlvr": tiny.rlvr}, progress=False),
        m.trajectory(tiny.base, tiny.sft, tiny.rlvr, steps=(1, 2), progress=False),
        m.measure_collateral(model=tiny.rlvr, edit=unlearning.edit, splits={"retain": tiny.retain}, progress=False),
    ]


def test_every_result_shows_itself(results):
    for result in results:
        reader = check(result.card())
        assert result._repr_html_() == result.card().html
        assert repr(result) == result.card().text
        assert "table" in reader.tags, type(result).__name__
        assert max(map(len, repr(result).splitlines())) < 400


def test_no_card_shows_a_column_twice():
    row = {"split": "forget", "direction": "restore", "layer": 0, "site": "z", "head": -1, "effect": 1.0, "total": 2.0}
    row |= {"effect_null": 0.1, "effect_distinguishable": True, "first_order": 0.9}
    patches = patches_card(pd.DataFrame([row]), pd.DataFrame(), {})
    check(patches)
    rounds = [
        {
            "lineage": "a",
            "recipe": "grpo",
            "stage": "rlvr",
            "step": step,
            "accuracy": step / 20,
            "entropy": 1 - step / 40,
        }
        for step in range(20)
    ]
    training = training_card(pd.DataFrame(rounds), {})
    check(training)
    assert training.verdict == "a: 2 % to 92 % of sampled responses right, entropy 0.99 to 0.54 nats."
    for card in (patches, training):
        assert card.rows.columns.is_unique
        assert "effect" in card.text or "accuracy" in card.text


def test_every_public_result_is_carded():
    shown = {kind for name in m.__all__ if isinstance(kind := getattr(m, name), type) and hasattr(kind, "plot")}
    assert {kind.__name__ for kind in shown if dataclasses.is_dataclass(kind)} <= {k.__name__ for k in carded()}


def carded(kind=Carded):
    return {inner for each in kind.__subclasses__() for inner in {each, *carded(each)}}


def test_nothing_is_claimed_of_null_data():
    for beyond, note in ((False, ""), (True, "below the precision floor")):
        card = geometry_card(increments(beyond=beyond, note=note), {})
        check(card)
        assert "can be told from rounding" in card.verdict or "None of" in card.verdict
        assert ("12 of 12 lie below the precision floor" in card.verdict) == bool(note)
        assert not card.map.beyond.any()
    verdict = geometry_card(increments(beyond=True), {}).verdict
    assert "12 of 12 projections are beyond chance (chance alone gives about 0.01)" in verdict


def test_a_coupling_counts_only_what_chance_does_not_give():
    table = increments().assign(forget_cosine=[-0.2, 0.3] * 6, forget_cosine_p=0.5, forget_above_chance=False)
    assert coupling_card(table, {}).verdict == "None of 12 projections is beyond chance."
    table["forget_above_chance"] = [True] * 3 + [False] * 9
    said = coupling_card(table, {}).verdict
    assert said.startswith("3 of 12 projections are beyond chance (chance alone gives about 0.05).")
    assert "falls along the increment in 2 of them and rises in 1." in said
    table["note"] = "below the precision floor"
    said = coupling_card(table, {}).verdict
    assert said.startswith("12 of 12 lie below the precision floor") and "falls" not in said


def test_paths_and_agreeing_masks_are_counted_as_everything_else_is():
    """One of 96 at p = 0.0008 is beyond chance by itself and not over the table; six at 1e-6 are."""
    path = pd.DataFrame({"layer": range(96), "projection": "q", "name": "w", "explained_variance": 0.9})
    path = path.assign(explained_variance_walk=0.81, explained_variance_adamw=0.88, linearity=0.95)
    path = path.assign(linearity_walk=0.6, linearity_adamw=0.7)
    masks = pd.DataFrame({"layer": range(96), "projection": "q", "run_a": "a", "run_b": "b", "jaccard": 0.4})
    masks = masks.assign(jaccard_matched_null=0.2, p_matched=1e-9, note="")
    for p, said in (([8e-4] + [0.5] * 95, "none of 96 {} is"), ([1e-6] * 6 + [0.5] * 90, "6 of 96 {} are")):
        told = np.asarray(p) < 0.001
        line = trajectory_card(path.assign(linearity_p=p, linearity_distinguishable=told), pd.DataFrame(), {})
        assert f"{said.format('tensors')} beyond chance" in line.verdict
        card = agreement_card(masks.assign(p=p, distinguishable=told), {})  # the larger of both p decides
        assert f"{said.format('comparisons')} beyond chance" in card.verdict
        assert all(("Holm" in card.verdict) == ("none" in said) for card in (line, card))
        below = agreement_card(masks.assign(p=p, distinguishable=told, note="below the precision floor"), {})
        assert "no comparison can be told from rounding" in below.verdict and not below.map.beyond.any()


def test_large_models_stay_small():
    table = increments(80, projections=["q", "k", "v", "o", "gate", "up", "down"], beyond=True)
    card = geometry_card(table, {})
    check(card)
    assert card.map.values.shape == (80, 7)
    assert card.left == 550


def test_the_map_shows_what_the_table_holds():
    table = pd.DataFrame({"layer": [0, 2, -1], "projection": ["q", "o", ""], "value": [1.0, -2.0, 9.0]})
    shown = CellMap.of(table, table["value"], "value", beyond=pd.Series([False, True, True]))
    assert shown.values[0].tolist()[:1] == [1.0]
    assert shown.values[2, shown.columns.index("o")] == -2.0
    assert np.isnan(shown.values[1]).all()
    assert int(shown.beyond.sum()) == 1
    assert CellMap.of(table.iloc[2:], table["value"].iloc[2:], "value") is None


def test_hostile_text_is_text():
    bad = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m"
    card = Card(bad, bad, pd.DataFrame({bad: [bad, "x" * 5000]}), next=(bad,))
    reader = Reader()
    reader.feed(card.html)
    assert not {"script", "img"} & reader.tags
    assert "\x1b" not in card.text
    assert len(card.shown.iloc[1, 0]) <= 60


@pytest.mark.parametrize("rows", [0, 1, 10, 100_000])
def test_any_number_of_rows(rows):
    card = Card("Title", "Verdict.", pd.DataFrame({"a": np.arange(rows), "b": np.nan}))
    check(card)
    assert len(card.shown) == min(rows, ROWS)
    assert card.left == max(0, rows - ROWS)
    assert "b" not in card.shown


def test_a_terminal_is_not_overrun(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    wide = pd.DataFrame({f"column {i}": [f"a value of column {i}"] for i in range(12)})
    assert max(map(len, Card("T", "V.", wide).text.splitlines())) <= 60


@pytest.mark.parametrize(
    ("low", "said"),
    [(0.1, "Came back: forget, hint: 50 %"), (-0.2, "Nothing came back that can be told"), (np.nan, "cannot be told")],
)
def test_an_attack_says_what_came_back_only_beyond_its_interval(low, said):
    row = {"variant": "hint", "model": "edited", "step": 0, "split": "forget", "baseline": False, "n": 4}
    row |= {"accuracy": 0.5, "ci_low": 0.1, "ci_high": 0.9, "recovered": 0.5, "recovered_low": low, "recovered_high": 1}
    card = attack_card(pd.DataFrame([row]), {"attack": "hint"})
    check(card)
    assert said in card.verdict
    assert "nan" not in card.verdict


def test_what_shows_a_geometry_on_a_terminal_imports_no_figures():
    program = (
        "import sys; import mastlens.analysis.increments.geometry, mastlens.plots.cards.weights; "
        "print(sorted({'plotly', 'narwhals'} & {*sys.modules})); from mastlens.plots import plot_spectra; "
        "print('plotly' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["[]", "True"]
