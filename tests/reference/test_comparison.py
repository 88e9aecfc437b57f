"""Comparisons of evaluations: by hand, by statsmodels, and many edits against each other."""

import json
from math import isnan

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from mastlens.cli.outcome import finite
from mastlens.errors import MastlensError, MastlensWarning
from mastlens.evaluation.comparison import compare, compare_tables, grade_disagreements
from mastlens.evaluation.forgetting import compare_edits
from mastlens.plots import figure_table, plot_items, plot_tradeoff
from mastlens.plots.forgetting import plot_collateral, plot_edits
from mastlens.runs.files import write_table
from mastlens.statistics import difference_interval, newcombe_paired, smallest_drop
from tests.conftest import run_command


def table_of(outcomes, **changed):
    """Return a table of responses from split to list of whether each item was right."""
    rows = [
        {
            "split": split,
            "item": item,
            "prompt": f"{split} {item}",
            "gold": "1",
            "response": rf"\boxed{{{int(right)}}}",
        }
        | {"correct": right, "correct_strict": right, "truncated": False, "subject": "ab"[item % 2]}
        for split, rights in outcomes.items()
        for item, right in enumerate(rights)
    ]
    return pd.DataFrame(rows).assign(**changed)


def lost(n, right, b, c=0):
    """Return outcomes before and after, of which b were lost and c gained."""
    before = [i < right for i in range(n)]
    return before, [(i < right - b) or (right <= i < right + c) for i in range(n)]


def pair(**splits):
    """Return two tables; each split is (n, right before, lost, gained)."""
    sides = {split: lost(*cells) for split, cells in splits.items()}
    return tuple(table_of({split: side[k] for split, side in sides.items()}) for k in (0, 1))


def test_the_published_headline():
    """45 of 150 before, 37 after, p = .0078: eight lost, none gained."""
    before, after = pair(forget=(150, 45, 8, 0), retain=(200, 77, 11, 10), gsm=(256, 188, 4, 6))
    table = compare_tables(before, after).table.set_index("split")
    assert table.loc["forget", ["n", "b", "c"]].tolist() == [150, 8, 0]
    assert table.loc["forget", "mcnemar_p"] == 0.0078125
    assert (100 * table.loc["forget", ["ci_low", "ci_high"]]).tolist() == pytest.approx([-9.297, -1.229], abs=1e-3)
    p = [mcnemar([[0, r.b], [r.c, 0]], exact=True).pvalue for r in table.itertuples()]
    assert table["mcnemar_p"].tolist() == pytest.approx(p)
    assert table["holm_p"].tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert table.loc["forget", "holm_p"] == pytest.approx(3 * 0.0078125)
    closed = newcombe_paired(37, 8, 0, 105)
    assert table.loc["forget", ["newcombe_low", "newcombe_high"]].tolist() == [closed.low, closed.high]
    assert table["detectable"].tolist() == [
        smallest_drop(150, 0.0),
        smallest_drop(200, 0.05),
        smallest_drop(256, 4 / 256),
    ]
    # What was called no loss on retain is less than this many items could have shown.
    assert 0.08 < table.loc["retain", "detectable"] < 0.1


def test_every_changed_item_is_listed():
    before, after = pair(forget=(6, 4, 2, 1), retain=(3, 3, 0, 0))
    found = compare_tables(before, after)
    assert found.items["change"].tolist() == ["kept", "kept", "lost", "lost", "gained", "wrong", *["kept"] * 3]
    changed = found.changed
    assert list(zip(changed["split"], changed["item"], strict=True)) == [("forget", 2), ("forget", 3), ("forget", 4)]
    assert changed["response_before"].tolist() == [r"\boxed{1}", r"\boxed{1}", r"\boxed{0}"]
    assert changed["response_after"].tolist() == [r"\boxed{0}", r"\boxed{0}", r"\boxed{1}"]
    assert found.table.set_index("split").loc["retain", ["b", "c", "difference"]].tolist() == [0, 0, 0.0]
    assert isnan(found.table["detectable"][1]), "three items can show nothing"


def test_order_of_the_items_does_not_matter():
    before, after = pair(forget=(40, 20, 7, 2))
    shuffled = after.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(compare_tables(before, shuffled).table, compare_tables(before, after).table)


def test_strict_and_tolerant_grades_are_told_apart():
    before, after = pair(forget=(10, 6, 1, 0))
    after.loc[[0, 1], "correct_strict"] = False
    found = compare_tables(before, after)
    assert found.table["difference"][0] == pytest.approx(-0.1)
    assert found.table["strict_difference"][0] == pytest.approx(-0.3)
    assert len(grade_disagreements(before)) == 0
    disagreed = grade_disagreements(after)
    assert disagreed["item"].tolist() == [0, 1]
    assert disagreed["answer"].tolist() == ["1", "1"]


def test_several_samples_an_item_are_one_piece_of_evidence():
    rng = np.random.default_rng(0)
    shares = rng.random((2, 30))
    tables = []
    for side in shares:
        right = rng.random((30, 4)) < side[:, None]
        parts = [table_of({"forget": right[:, k].tolist()}).assign(sample=k) for k in range(4)]
        tables.append(pd.concat(parts, ignore_index=True))
    means = [table.groupby("item")["correct"].mean().to_numpy() for table in tables]
    row = compare_tables(*tables).table.iloc[0]
    assert (row["n"], row["b"], row["c"]) == (30, int((means[1] < means[0]).sum()), int((means[1] > means[0]).sum()))
    assert row["difference"] == pytest.approx(means[1].mean() - means[0].mean())
    # The same as taking items as clusters of their samples.
    pairs = [table.sort_values(["item", "sample"]) for table in tables]
    clustered = difference_interval(pairs[0]["correct"], pairs[1]["correct"], clusters=pairs[0]["item"])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((clustered.low, clustered.high))
    assert isnan(row["newcombe_low"]), "a share is no proportion of items"
    items = compare_tables(*tables).items
    states = figure_table(plot_items(items))["state"].to_numpy()
    assert ((states == 1) == (items["change"] == "lost")).all() and (
        (states == 2) == (items["change"] == "gained")
    ).all()


def test_samples_that_cannot_be_told_apart_are_refused():
    before, after = pair(forget=(5, 3, 1, 0))
    twice = pd.concat([after, after], ignore_index=True)
    with pytest.raises(MastlensError, match="comes several times"):
        compare_tables(before, twice)
    mixed = twice.assign(sample=[0] * 5 + [1] * 5)
    mixed.loc[7, "gold"] = "2"
    with pytest.raises(MastlensError, match="share one gold"):
        compare_tables(before, mixed)


def test_clusters_widen_the_interval_where_they_matter():
    before, after = pair(forget=(60, 60, 30, 0))
    groups = [str(i // 6) for i in range(60)]  # whole groups are lost or kept
    before, after = before.assign(subject=groups), after.assign(subject=groups)
    plain, clustered = compare_tables(before, after).table, compare_tables(before, after, clusters="subject").table
    assert clustered["ci_high"][0] - clustered["ci_low"][0] > 2 * (plain["ci_high"][0] - plain["ci_low"][0])
    # Five of ten groups were lost and none gained: exactly, two-sided, 1/16.
    assert (plain["verdict"][0], clustered["verdict"][0]) == ("changed", "undecided")
    rest = [c for c in plain if c not in ("ci_low", "ci_high", "verdict")]
    pd.testing.assert_frame_equal(plain[rest], clustered[rest])
    with pytest.raises(MastlensError, match="Did you mean 'subject'"):
        compare_tables(before, after, clusters="subjects")


def test_few_clusters_are_said_and_two_refused():
    before, after = pair(forget=(60, 60, 30, 0))
    few = [side.assign(subject=[str(i // 20) for i in range(60)]) for side in (before, after)]
    with pytest.warns(MastlensWarning, match=r"split 'forget': There are only 3 clusters of subject.*10 or more"):
        compare_tables(*few, clusters="subject")
    two = [side.assign(subject=[str(i // 30) for i in range(60)]) for side in (before, after)]
    with pytest.raises(MastlensError, match=r"split 'forget': There are 2 clusters of subject.*leave clusters out"):
        compare_tables(*two, clusters="subject")


def folder_of(root, name, table, **settings):
    """Write an evaluation folder."""
    write_table(root / name / "responses.parquet", table)
    stages = {"evaluate": {"settings": {"max_new_tokens": 8} | settings}}
    (root / name / "run.json").write_text(json.dumps({"stages": stages}))
    return root / name


def test_other_settings_are_no_edit(tmp_path):
    before, after = pair(forget=(20, 10, 3, 0))
    old, new = folder_of(tmp_path, "old", before), folder_of(tmp_path, "new", after, max_new_tokens=9)
    with pytest.warns(MastlensWarning, match=r"max_new_tokens \(8, then 9\)"):
        compare(old, new)
    assert compare(old, folder_of(tmp_path, "same", after)).table["b"].tolist() == [3]


def test_between_two_engines_the_responses_that_differ_are_counted(tmp_path):
    before, after = (side.assign(response=[str(i) for i in range(20)]) for side in pair(forget=(20, 10, 3, 0)))
    after.loc[[2, 7], "response"] = "other"
    old = folder_of(tmp_path, "old", before, engine="transformers")
    with pytest.warns(MastlensWarning, match=r"engine \(transformers, then vllm\).*2 of 20 responses are not the same"):
        compared = compare(old, folder_of(tmp_path, "new", after, engine="vllm"))
    assert compared.differing["response_after"].tolist() == ["other"] * 2
    assert compared.differing["item"].tolist() == after.loc[[2, 7], "item"].tolist()
    with pytest.warns(MastlensWarning, match=r"seed \(None, then 1\)[^0-9]*$"):
        compare(old, folder_of(tmp_path, "seed", after, engine="transformers", seed=1))


@pytest.fixture
def edits(tmp_path):
    """A source and two edits: one forgets and costs nothing certain, one loses everything."""
    before, mild = pair(forget=(40, 30, 12, 1), math=(30, 20, 1, 1), gsm=(50, 40, 1, 0))
    _, harsh = pair(forget=(40, 30, 28, 0), math=(30, 20, 15, 0), gsm=(50, 40, 30, 0))
    return tmp_path, *(folder_of(tmp_path, n, t) for n, t in (("source", before), ("mild", mild), ("harsh", harsh)))


def test_edits_in_one_table(edits):
    _, source, mild, harsh = edits
    result = compare_edits(source, [mild, harsh])
    table = result.table.set_index("arm")
    assert result.settings["splits"] == {"forget": ["forget"], "retain": ["math", "gsm"]}
    one = compare(source, mild).table.set_index("split")
    for ours, theirs in (("difference", "difference"), ("low", "ci_low"), ("high", "ci_high"), ("b", "b"), ("c", "c")):
        assert table.loc["mild", f"forget_{ours}"] == one.loc["forget", theirs]
    assert table.loc["mild", ["retain_n", "retain_b", "retain_c"]].tolist() == [80, 2, 1]
    assert table.loc["mild", "retain_difference"] == pytest.approx(-1 / 80)
    p = table["forget_mcnemar_p"].tolist()
    assert table["forget_holm_p"].tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert "kl" not in table and "after_attack" not in table
    contrast = result.contrasts.set_index("side")
    assert contrast[["arm", "reference"]].to_numpy().tolist() == [["harsh", "mild"]] * 2
    direct = compare(mild, harsh).table.set_index("split")
    assert contrast.loc["forget", ["b", "c"]].tolist() == direct.loc["forget", ["b", "c"]].tolist()
    assert contrast.loc["retain", "difference"] == pytest.approx((-45 - -1) / 80)


def test_edits_of_other_items_or_without_a_side_are_refused(edits):
    root, source, mild, _ = edits
    short = folder_of(root, "short", pair(forget=(39, 30, 12, 1), math=(30, 20, 1, 1), gsm=(50, 40, 1, 0))[1])
    with pytest.raises(MastlensError, match="different items"):
        compare_edits(source, [short])
    with pytest.raises(MastlensError, match="Did you mean 'math'"):
        compare_edits(source, [mild], retain=["maths"])
    with pytest.raises(MastlensError, match="both sides"):
        compare_edits(source, [mild], forget=["forget", "gsm"], retain=["gsm"])
    with pytest.raises(MastlensError, match="retain side"):
        compare_edits(source, [mild], forget=["forget", "math", "gsm"])
    with pytest.raises(MastlensError, match="missing"):
        compare_edits(source, [root / "nowhere"])
    with pytest.raises(MastlensError, match="no edit"):
        compare_edits(source, [])
    twin = folder_of(root / "other", "mild", pd.read_parquet(mild / "responses.parquet"))
    assert compare_edits(source, [mild, twin]).table["arm"].tolist() == [
        f"{root.name}/mild",
        "other/mild",
    ]


def with_collateral(folder):
    measured = [("kl", "math", 0.02, "nats per token"), ("perplexity", "neutral", 1.1, "after / before")]
    rows = [(m, s, 30, 2.0, 2.2, v, 0.9 * v, 1.1 * v, u) for m, s, v, u in measured]
    columns = ["measure", "split", "items", "before", "after", "value", "ci_low", "ci_high", "unit"]
    write_table(folder / "collateral.parquet", pd.DataFrame(rows, columns=columns))
    items = pd.DataFrame({"split": ["math", "gsm", "gsm", "forget"], "item": [0, 0, 1, 0], "tokens": [10, 20, 10, 5]})
    write_table(folder / "collateral_items.parquet", items.assign(kl=[0.5, 0.06, 0.04, 9.0], same_top=1))


def with_attacks(folder, before):
    """Two attacks: one teaches the control as much as the edit; the other brings 8 items back to the edit alone."""
    rights = {
        ("teach", False, "edited"): 25, ("teach", True, "edited"): 19,
        ("teach", False, "control"): 16, ("teach", True, "control"): 5,
        ("relearn", False, "edited"): 27, ("relearn", True, "edited"): 19,
        ("relearn", False, "control"): 6, ("relearn", True, "control"): 5,
    }  # fmt: skip
    for name in ("teach", "relearn"):
        rows = [
            {"attack": name, "variant": "lr 1", "model": model, "step": 0 if plain else 8, "split": "forget"}
            | {"baseline": plain, "item": item, "correct": item < right, "correct_strict": item < right}
            | {"logprob_solution": -1.0, "solution_tokens": 1, "truncated": False, "given": "", "response": ""}
            for (attack, plain, model), right in rights.items()
            if attack == name
            for item in range(40)
        ]
        write_table(folder / name / "attack_items.parquet", pd.DataFrame(rows))


def test_collateral_and_attacks_are_read_where_they_are(edits):
    root, source, mild, harsh = edits
    before = pd.read_parquet(source / "responses.parquet")
    with_collateral(mild)
    with_attacks(mild, before)
    result = compare_edits(source, {"mild": mild, "harsh": harsh}, out=root / "out")
    table = result.table.set_index("arm")
    row = table.loc["mild"]
    assert row["kl"] == pytest.approx(0.6 / 40), "by tokens, and not on the forget side"
    assert row["kl_low"] <= row["kl"] <= row["kl_high"]
    assert row["perplexity_ratio"] == 1.1
    assert row["after_attack"] == "relearn, lr 1, step 8", "the other teaches the control just as much"
    assert row["after_attack_accuracy"] == pytest.approx(27 / 40)
    assert row["after_attack_control"] == pytest.approx(6 / 40)
    assert row["after_attack_difference"] == pytest.approx(-3 / 40)
    assert row["after_attack_low"] <= row["after_attack_difference"] <= row["after_attack_high"]
    assert table.loc["harsh", ["kl", "perplexity_ratio", "after_attack_accuracy"]].isna().all()
    again = compare_edits(source, {"mild": mild, "harsh": harsh}, out=root / "out")
    pd.testing.assert_frame_equal(again.table, result.table, check_dtype=False)
    write_table(harsh / "teach" / "attack_items.parquet", pd.read_parquet(mild / "teach" / "attack_items.parquet"))
    with pytest.raises(MastlensError, match="overwrite"):
        compare_edits(source, {"mild": mild, "harsh": harsh}, out=root / "out")


def test_figure_of_edits_draws_both_intervals_and_what_came_back(edits):
    _, source, mild, harsh = edits
    bare = plot_edits(compare_edits(source, [mild, harsh]).table)
    with_collateral(mild)
    with_attacks(mild, pd.read_parquet(source / "responses.parquet"))
    table = compare_edits(source, [mild, harsh]).table
    fig = plot_edits(table)
    assert [len([a for a in f.layout if a.startswith("yaxis")]) for f in (bare, fig)] == [1, 3]
    row = table.set_index("arm").loc["mild"]
    points = [t for t in fig.data if t.name == "mild"]
    assert [t.x[0] for t in points] == pytest.approx([-100 * row["forget_difference"]] * 3)
    assert [t.y[0] for t in points] == pytest.approx(
        [-100 * row["retain_difference"], row["kl"], row["perplexity_ratio"]]
    )
    ends = [(-100 * row["retain_high"], -100 * row["retain_low"])]
    ends += [(row[f"{measure}_low"], row[f"{measure}_high"]) for measure in ("kl", "perplexity_ratio")]
    for trace, (low, high) in zip(points, ends, strict=True):
        assert trace.error_x.array[0] == pytest.approx(100 * (row["forget_difference"] - row["forget_low"]))
        assert trace.error_x.arrayminus[0] == pytest.approx(100 * (row["forget_high"] - row["forget_difference"]))
        assert trace.error_y.array[0] == pytest.approx(high - trace.y[0])
        assert trace.error_y.arrayminus[0] == pytest.approx(trace.y[0] - low)
    assert sum(t.name == "harsh" for t in fig.data) == 1, "no divergence was measured for it, so none is drawn"
    attacked = [t for t in fig.data if t.line.dash == "dot" and t.x[0] is not None and t.name != "Pareto front"]
    assert [list(t.x) for t in attacked] == [pytest.approx([27.5, 7.5])] * 3
    assert "Newcombe" in points[0].hovertemplate and "12 lost, 1 gained of 40" in points[0].hovertemplate
    assert "relearn" in attacked[0].hovertemplate
    pd.testing.assert_series_equal(figure_table(fig)["kl"], table["kl"])
    points = [t for t in plot_tradeoff(table).data if t.name != "Pareto front"]
    assert [t.x[0] for t in points] == pytest.approx([27.5, 70.0])


def test_figure_of_collateral_shows_no_change(edits):
    _, _, mild, _ = edits
    with_collateral(mild)
    fig = plot_collateral(pd.read_parquet(mild / "collateral.parquet"))
    assert [list(t.x) for t in fig.data] == [pytest.approx([0.02]), pytest.approx([1.1])]
    assert [shape.x0 for shape in fig.layout.shapes] == [0.0, 1.0]
    for axis, level in ((fig.layout.xaxis, 0.0), (fig.layout.xaxis2, 1.0)):
        assert axis.range[0] < level < axis.range[1]


def test_the_command_says_what_the_function_found(edits):
    root, source, mild, harsh = edits
    with_collateral(mild)
    outcome = run_command("compare-edits", source, mild, harsh, "--out", root / "out")
    told = json.loads(json.dumps(finite(outcome.summary), allow_nan=False))
    assert [row["arm"] for row in told["edits"]] == ["mild", "harsh"]
    assert (told["edits"][0]["kl"], told["edits"][1]["kl"]) == (pytest.approx(0.015), None)
    assert (told["forget"], told["retain"]) == (["forget"], ["math", "gsm"])
    assert "against mild" in outcome.text
    assert len(pd.read_parquet(root / "out" / "edits.parquet")) == 2
    named = run_command("compare-edits", source, f"a few tensors={mild}", harsh).summary["edits"]
    assert [row["arm"] for row in named] == ["a few tensors", "harsh"]
    with pytest.raises(MastlensError, match="same label"):
        run_command("compare-edits", source, f"one={mild}", f"one={harsh}")


def test_a_change_is_judged_by_its_size_too():
    """Two one-sided tests, by their definition: the 90 % interval lies within the smallest difference of interest."""
    cells = {"lost": (1000, 900, 200, 0), "little": (10_000, 9000, 60, 0), "none": (1000, 900, 4, 4)}
    cells["few"] = (30, 20, 2, 1)
    table = compare_tables(*pair(**cells)).table.set_index("split")
    expected = ["changed", "changed, too little to matter", "no change that matters", "undecided"]
    assert table["verdict"].tolist() == expected
    assert (table["ci_high"] < 0).tolist() == [True, True, False, False]
    wider = compare_tables(*pair(**cells), smallest=0.3).table["verdict"]
    assert wider.tolist() == [*["changed, too little to matter"] * 2, *["no change that matters"] * 2]
    for split, (n, right, b, c) in cells.items():
        before, after = (np.array(side, dtype=float) for side in lost(n, right, b, c))
        inner = difference_interval(before, after, level=0.9)
        assert (inner.low > -0.02 and inner.high < 0.02) == (table.loc[split, "verdict"] in expected[1:3])
