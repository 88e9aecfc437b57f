"""Whether forgetting stays: rows and sentences on planted responses and attacks, by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from mastlens.cli import main
from mastlens.evaluation.forgetting import compare_edits
from mastlens.evaluation.lasting import COLUMNS
from mastlens.plots.tables import figure_table
from mastlens.runs.files import write_table
from mastlens.statistics import paired_interval, recovered_share

N, KEPT = 60, 50


def responses(forget, retain):
    sides = {"forget": (N, forget), "math": (KEPT, retain)}
    return pd.concat(
        pd.DataFrame({"split": split, "item": range(n), "correct": np.arange(n) < right})
        for split, (n, right) in sides.items()
    ).assign(
        sample=0,
        subject="",
        prompt="p",
        response="r",
        gold="1",
        correct_strict=True,
        truncated=False,
        response_tokens=3,
    )


def folder_of(root, name, forget, retain):
    write_table(root / name / "responses.parquet", responses(forget, retain))
    (root / name / "run.json").write_text(json.dumps({"stages": {"evaluate": {"settings": {"max_new_tokens": 8}}}}))
    return root / name


def attacked(folder, attack, rights, *, retain=None):
    """Write an attack's items: (model, step) to right forget answers, the first step the one without the attack."""
    rows = []
    for (model, step), right in rights.items():
        keys = {"attack": attack, "variant": "v", "model": model, "step": step, "baseline": step == 0}
        said = {"logprob_solution": -1.0, "solution_tokens": 1, "truncated": False, "given": "", "response": ""}
        rows += [
            {**keys, "split": "forget", "item": i, "correct": i < right, "correct_strict": i < right} | said
            for i in range(N)
        ]
        if retain is not None:
            rows += [
                {**keys, "split": "math", "item": i, "correct": i < retain, "correct_strict": i < retain} | said
                for i in range(KEPT)
            ]
    write_table(folder / attack / "attack_items.parquet", pd.DataFrame(rows))


def curve(edited, reference=None, control=None):
    steps = (0, 1, 2, 4)
    models = {"edited": edited, "reference": reference, "control": control}
    return {(m, s): r for m, rights in models.items() if rights for s, r in zip(steps, rights, strict=True)}


@pytest.fixture
def arms(tmp_path):
    source = folder_of(tmp_path, "source", 55, 45)
    return source, {
        name: folder_of(tmp_path, name, forget, retain)
        for name, (forget, retain) in {
            "hidden": (5, 44),
            "deep": (5, 40),
            "retrained": (6, 45),
            "other": (20, 45),
            "untouched": (55, 45),
            "lonely": (5, 45),
            "sampled": (5, 45),
        }.items()
    }


def test_each_verdict_on_its_own_evidence(arms):
    source, folders = arms
    attacked(folders["hidden"], "relearn-forget", curve([5, 6, 30, 50], [6, 6, 8, 12]), retain=40)
    attacked(folders["deep"], "relearn-forget", curve([5, 6, 8, 12], control=[5, 5, 8, 13]))
    # Whoever has the source's weights needs no attack: on the way to them everything comes back.
    attacked(folders["deep"], "interpolate", {("edited", 0): 5, ("edited", 1): 55})
    attacked(folders["retrained"], "relearn-forget", curve([6, 6, 8, 12], [5, 6, 9, 14]))
    attacked(folders["other"], "relearn-forget", curve([20, 21, 22, 22], [5, 6, 9, 14]))
    attacked(folders["untouched"], "relearn-forget", curve([55, 55, 55, 55], [5, 6, 9, 14]))
    attacked(folders["sampled"], "samples", {("edited", 0): 5, ("reference", 0): 5})
    items = pd.read_parquet(folders["sampled"] / "samples" / "attack_items.parquet")
    drawn = items.assign(baseline=False, variant="any of 4", samples=4)
    right = np.where(drawn["model"] == "edited", 0.5, 0.1)
    write_table(folders["sampled"] / "samples" / "attack_items.parquet", pd.concat([items, drawn.assign(rate=right)]))
    result = compare_edits(source, folders)
    said = result.table.set_index("arm")["verdict"]
    assert said["hidden"] == "hidden: comes back within 2 steps of relearn-forget (beyond the reference)"
    assert said["deep"] == "gone: nothing came back beyond the control in 3 readings of 60 items"
    assert said["retrained"].startswith("as the retrained model: the same answers to within ")
    assert said["retrained"].endswith("nothing came back beyond it in 3 readings of 60 items")
    assert (
        said["other"].startswith("gone: nothing came back beyond the retrained model") and "+25 points" in said["other"]
    )
    assert said["untouched"] == "not forgotten: nothing is gone that could come back"
    assert said["lonely"] == "not attacked: whether it stays is not known"
    assert said["sampled"].startswith("hidden: samples (any of 4) brings") and "beyond the reference" in said["sampled"]
    assert "hidden: hidden: comes back within 2 steps" in result.card().verdict


def test_rows_by_hand(arms):
    source, folders = arms
    attacked(folders["hidden"], "relearn-forget", curve([5, 6, 30, 50], [6, 6, 8, 12]), retain=40)
    table = compare_edits(source, {"hidden": folders["hidden"]}).attacks
    assert list(table.columns) == list(COLUMNS)
    start, row = table.to_dict("records")
    assert (start["attack"], start["forgotten"], start["n"]) == ("", pytest.approx(50 / 60), 60)
    assert start["retain_kept"] == pytest.approx(44 / 45)
    assert start["retain_kept_low"] < 44 / 45 < start["retain_kept_high"]
    assert (row["attack"], row["variant"], row["step"], row["readings"]) == ("relearn-forget", "v", 4, 3)
    assert row["forgotten"] == pytest.approx(5 / 60)
    old, new = np.arange(N) < 55, np.arange(N) < 50
    ends = paired_interval(new.astype(float), old.astype(float))
    assert (row["forgotten_low"], row["forgotten_high"]) == pytest.approx((ends.low, ends.high))
    assert row["retain_kept"] == pytest.approx(40 / 45)
    back = (np.arange(N) < 50).astype(float) - (np.arange(N) < 5)
    taught = (np.arange(N) < 12).astype(float) - (np.arange(N) < 6)
    gone = (np.arange(N) < 55).astype(float) - (np.arange(N) < 5)
    share, ends = recovered_share(back - taught, gone)
    assert row["came_back"] == pytest.approx(share)
    assert (row["came_back_low"], row["came_back_high"]) == pytest.approx((ends.low, ends.high))
    assert row["beyond_chance"] and row["first_step"] == 2


def test_many_readings_of_chance_are_no_recovery(arms):
    """One of many readings whose own interval is above 0 is what chance gives: the corrected one is not."""
    source, folders = arms
    rights = {("edited", 0): 5, ("reference", 0): 5} | {("edited", s): 11 if s == 7 else 5 for s in range(1, 40)}
    rights |= {("reference", step): 5 for step in range(1, 40)}
    attacked(folders["hidden"], "relearn-retain", rights)
    result = compare_edits(source, {"hidden": folders["hidden"]})
    row = result.attacks.iloc[1]
    assert row["step"] == 7
    assert row["came_back_low"] > 0
    assert not row["beyond_chance"]
    assert result.table["verdict"].iloc[0].startswith("as the retrained model")


def test_figure_command_and_files(arms, tmp_path, capsys):
    source, folders = arms
    attacked(folders["hidden"], "relearn-forget", curve([5, 6, 30, 50], [6, 6, 8, 12]), retain=40)
    attacked(folders["deep"], "prune", {("edited", 0): 5, ("edited", 1): 6})
    words = [
        "compare-edits",
        source,
        *(f"{name}={folders[name]}" for name in ("hidden", "deep")),
        "--out",
        tmp_path / "o",
    ]
    assert main([str(word) for word in [*words, "--json"]]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert len(summary["attacks"]) == 4
    table = pd.read_parquet(tmp_path / "o" / "edit_attacks.parquet")
    result = compare_edits(source, {name: folders[name] for name in ("hidden", "deep")})
    fig = result.plot_lasting()
    assert len(figure_table(fig)) == len(table) == 4
    row = table[(table["arm"] == "hidden") & (table["attack"] != "")].iloc[0]
    (mark,) = [t for t in fig.data if t.marker.symbol == "square-open" and t.x[0] is not None]
    assert mark.x[0] == pytest.approx(100 * row["forgotten"])
    assert mark.y[0] == pytest.approx(100 * row["retain_kept"])
    assert mark.error_x.array[0] == pytest.approx(100 * (row["forgotten_high"] - row["forgotten"]))
    assert mark.error_y.arrayminus[0] == pytest.approx(100 * (row["retain_kept"] - row["retain_kept_low"]))
    bare = compare_edits(source, {"lonely": folders["lonely"]})
    assert "none was attacked" in bare.plot_lasting().layout.title.text
    assert "verdict" in bare.table and "not attacked" not in bare.card().verdict
