"""The report of any folder: constructed tables in, the right sentences, sections and hashes out."""

import html
import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mastlens.analysis.increments.settings import GeometrySettings, MaskAgreementSettings
from mastlens.cli.parser import build_parser
from mastlens.cli.reading import settings_from
from mastlens.errors import MastlensError
from mastlens.reporting import report
from mastlens.reporting.chapters import CHAPTERS
from mastlens.reporting.wording import beside_null, listed, out_of, p_value, points, share, signed
from mastlens.runs import words

EVIL = "</pre><script>alert(1)</script>"


def record(folder, **stages):
    folder.mkdir(parents=True, exist_ok=True)
    entry = {
        "lineage": {"rlvr": "a" * 64},
        "inputs": {},
        "settings": {},
        "outputs": {},
        "versions": {"torch": "2.13.0"},
    }
    made = {name: {**entry, **stage} for name, stage in stages.items()}
    (folder / "run.json").write_text(json.dumps({"stages": made}), encoding="utf-8")


def text_of(path):
    """Return the page's text without scripts and markup."""
    page = path.read_text(encoding="utf-8")
    body = re.sub(r"<script.*?</script>", "", page[page.index("<main>") :], flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", body))


def verdict_of(path):
    page = path.read_text(encoding="utf-8")
    found = re.search(r'<div class="verdict"[^>]*>(.*?)</div>', page, flags=re.DOTALL)
    assert found is not None
    return [html.unescape(part) for part in re.findall(r"<p>(.*?)</p>", found[1], flags=re.DOTALL)]


def headings(path):
    return [html.unescape(h) for h in re.findall(r"<h2>(.*?)</h2>", path.read_text(encoding="utf-8"))]


def geometry_table(told):
    rows = []
    for increment in ("sft", "rlvr"):
        for layer in range(2):
            for projection in "qkvo":
                rows.append(
                    {
                        "increment": increment,
                        "layer": layer,
                        "projection": projection,
                        "name": f"layers.{layer}.{projection}",
                        "rows": 64,
                        "cols": 64,
                        "rank": 8,
                        "delta_norm": 1.0 + layer,
                        "delta_rms": 0.1,
                        "relative_norm": 0.1,
                        "off_principal": 0.5,
                        "off_principal_null": 1 - 64 / 4096,
                        "off_principal_distinguishable": told,
                    }
                )
    return pd.DataFrame(rows)


def responses(right, *, word="box"):
    """Return a table of ``evaluate`` with one row for each entry of ``right``."""
    n = len(right)
    return pd.DataFrame(
        {
            "split": ["forget"] * (n // 2) + ["retain"] * (n - n // 2),
            "item": [*range(n // 2), *range(n - n // 2)],
            "subject": "",
            "prompt": [f"Question {i}?" for i in range(n)],
            "response": [f"{word} {i} {EVIL}" for i in range(n)],
            "gold": "4",
            "correct": right,
            "correct_strict": right,
            "truncated": False,
        }
    )


@pytest.fixture
def evaluated(tmp_path):
    """Two evaluations: forget 10 of 10 right before and none after, retain 10 of 10 and 9."""
    for name, right in (("before", [True] * 20), ("after", [False] * 10 + [True] * 9 + [False])):
        record(tmp_path / name, evaluate={"settings": {"max_new_tokens": 16, "samples": 1, "sampling": None}})
        responses(right, word=name).to_parquet(tmp_path / name / "responses.parquet")
    return tmp_path / "before", tmp_path / "after"


def test_a_folder_without_run_is_a_users_mistake(tmp_path):
    with pytest.raises(MastlensError, match="holds no run"):
        report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_table_is_named(tmp_path):
    record(tmp_path, geometry={})
    (tmp_path / "geometry.parquet").write_bytes(b"no parquet")
    with pytest.raises(MastlensError, match=r"geometry\.parquet cannot be read"):
        report(tmp_path)


@pytest.mark.parametrize(
    ("told", "said", "never"),
    [
        (True, "8 of 8 projections are beyond chance (chance alone gives about 0.008), 8 below it", "none of"),
        (False, "none of 8 projections is beyond chance", "are beyond chance"),
    ],
)
def test_verdict_of_geometry_says_whether_it_is_chance(tmp_path, told, said, never):
    record(tmp_path, geometry={"settings": {"rank": "8", "full": False, "seed": 0}})
    geometry_table(told).to_parquet(tmp_path / "geometry.parquet")
    path = report(tmp_path)
    (verdict,) = verdict_of(path)
    assert verdict.startswith("0.500 of the RLVR increment's energy lies outside")
    assert "random increment puts 0.984" in verdict
    assert said in verdict
    assert never not in verdict
    assert headings(path) == ["Where the increment lies", "Limits", "Data", "Reproduce"]
    assert "a" * 64 in text_of(path)  # the checkpoint's hash


def test_equal_folders_give_equal_bytes_whatever_they_cost(tmp_path):
    pages = []
    for parent, seconds in (("one", 1.0), ("two", 99.0)):
        folder = tmp_path / parent / "run"
        record(folder, geometry={"settings": {"rank": "8"}, "cost": {"seconds": seconds, "device": "cpu"}})
        geometry_table(True).to_parquet(folder / "geometry.parquet")
        pages.append(report(folder).read_bytes())
    assert pages[0] == pages[1]
    geometry_table(False).to_parquet(tmp_path / "two" / "run" / "geometry.parquet")
    assert report(tmp_path / "two" / "run").read_bytes() != pages[0]


def test_a_comparison_shows_items_side_by_side(evaluated):
    before, after = evaluated
    path = report(after, before=before)
    first, second = verdict_of(path)
    # 10 lost of 10: exact McNemar 2 * 0.5**10, twice that after Holm; 1 lost of 10 is nothing to build on.
    assert "forget −100.0 [−100.0, −47.1] points (100.0 % to 0.0 %; p = 0.0039)" in first
    assert re.search(r"retain −10\.0 \[[^]]*\] points \(100\.0 % to 90\.0 %; p = 1, not distinguishable from", first)
    assert second.startswith("Right answers: forget 0.0 % [0.0, 33.9] of 10")
    page = path.read_text(encoding="utf-8")
    pairs = re.findall(r'<div class="pair">(.*?)</div>\n</figure>', page, flags=re.DOTALL)
    assert len(pairs) == 4  # three of the ten items lost on forget, and the one on retain
    assert "before 0 &lt;/pre&gt;&lt;script&gt;alert(1)" in pairs[0]
    assert "after 0 &lt;/pre&gt;&lt;script&gt;alert(1)" in pairs[0]
    assert "<script>alert" not in page
    alone = report(after)
    assert headings(alone)[0] == "What the model answers"
    assert '<div class="pair">' not in alone.read_text(encoding="utf-8")


def attack_table(accuracy, recovered, ends):
    rows = []
    for model in ("edited", "source"):
        for baseline in (True, False):
            right = 1.0 if model == "source" else (0.2 if baseline else accuracy)
            back = recovered if model == "edited" and not baseline else np.nan
            rows.append(
                {
                    "attack": "quantise",
                    "variant": "none" if baseline else "int8",
                    "model": model,
                    "step": 0,
                    "split": "forget",
                    "baseline": baseline,
                    "n": 10,
                    "correct": int(10 * right),
                    "accuracy": right,
                    "ci_low": max(0.0, right - 0.1),
                    "ci_high": min(1.0, right + 0.1),
                    "logprob_solution": -0.5,
                    "truncated": 0,
                    "recovered": back,
                    "recovered_low": back + ends[0],
                    "recovered_high": back + ends[1],
                    "recovered_beyond_control": np.nan,
                    "recovered_beyond_control_low": np.nan,
                    "recovered_beyond_control_high": np.nan,
                }
            )
    return pd.DataFrame(rows)


def test_attacks_in_folders_within_are_told(evaluated):
    _, after = evaluated
    record(after / "hard", attack={"settings": {"attack": "quantise"}})
    attack_table(0.6, 0.5, (-0.2, 0.2)).to_parquet(after / "hard" / "attack.parquet")
    record(after / "weak", attack={"settings": {"attack": "quantise"}})
    attack_table(0.3, 0.1, (-0.2, 0.2)).to_parquet(after / "weak" / "attack.parquet")
    path = report(after)
    verdict = " ".join(verdict_of(path))
    assert "gets 60.0 % [50.0, 70.0] of forget right, 20.0 % before it: 50.0 % [30.0, 70.0] of what was lost" in verdict
    assert "10.0 % [−10.0, 30.0] of what was lost came back, not distinguishable from nothing" in verdict
    assert verdict.count("not distinguishable") == 1
    assert "hard/attack.parquet" in text_of(path)


def study_tables():
    """A study of one objective: MAST no better than 3 of 4 draws, embeddings better than all."""
    arms, contrasts = [], []
    kept = {"mast": 0.5, "embeddings": 0.9, "random-matched": 0.45}
    base = {"kind": "model", "objective": "", "selection": "", "rule": "", "draw": 0, "seed": 0, "reached": None}
    for arm, forget, retain in (("rlvr", 0.9, 0.9), ("reference", 0.1, 0.9)):
        arms.append({"arm": arm, **base, "forget": forget, "retain": retain})
    for selection, retain in kept.items():
        for draw in range(1, 5) if selection == "random-matched" else (0,):
            names = {"objective": "ga", "selection": selection, "rule": selection, "draw": draw, "seed": 0}
            arm = {"arm": f"ga/{selection}/{draw}", "kind": "matched", **names, "reached": True}
            arms.append({**arm, "forget": 0.1, "retain": retain + 0.02 * draw})
    table = pd.DataFrame(arms)
    for side, value in (("forget", table.pop("forget")), ("retain", table.pop("retain"))):
        table[f"{side}_accuracy"] = value
        table[f"{side}_difference"] = value - 0.9
        table[f"{side}_low"], table[f"{side}_high"] = value - 0.95, value - 0.85
        table[f"{side}_kl"] = 0.1
    table["perplexity"] = 1.6
    for selection, better in (("mast", 3), ("embeddings", 0)):
        names = {"objective": "ga", "selection": selection, "control": "random-matched", "measure": "retain_accuracy"}
        ends = {"mean": kept[selection] - 0.5, "ci_low": np.nan, "ci_high": np.nan, "seeds": 1}
        seeds = {"low_seed": 0.0, "high_seed": 0.0, "draws": 4, "as_good": better, "permutation_p": (better + 1) / 5}
        contrasts.append({**names, **ends, **seeds})
    contrasts.append({**contrasts[0], "objective": "negate", "permutation_p": 0.01, "as_good": 0, "draws": 99})
    return table.astype({"reached": "boolean"}), pd.DataFrame(contrasts)


def test_a_study_is_held_against_its_random_draws(tmp_path):
    record(tmp_path, study={"settings": {"seeds": [0]}})
    table, contrasts = study_tables()
    table.to_parquet(tmp_path / "study.parquet")
    contrasts.to_parquet(tmp_path / "contrasts.parquet")
    first, second = verdict_of(report(tmp_path))
    assert "Against 4 random selections of its size, the selection mast" in first
    assert "0.0 under ga (3 draws do as well, p = 0.8): not distinguishable from chance." in first
    # What was not stopped at the target is no comparison at matched forgetting.
    assert "negate" not in first
    assert "Of all 2 comparisons of a selection with random draws, 0 have p at or below 0.05" in first
    assert second.startswith("All 6 matched arms reached the target.")


def test_what_no_chapter_knows_is_listed_as_data(tmp_path):
    record(tmp_path, geometry={})
    geometry_table(True).to_parquet(tmp_path / "geometry.parquet")
    pd.DataFrame({"strange": [1, 2, 3]}).to_parquet(tmp_path / "unheard_of.parquet")
    page = report(tmp_path).read_text(encoding="utf-8")
    rows = {m[0]: m[1:] for m in re.findall(r"<tr><td[^>]*>([\w.]+parquet)</td>.*?>(\d+)</td>.*>(.*?)</td></tr>", page)}
    assert rows["unheard_of.parquet"] == ("3", "not told: data only")
    assert rows["geometry.parquet"] == ("16", "Where the increment lies")


def test_a_folder_with_an_edit_alone_says_what_was_run(tmp_path):
    record(tmp_path, negate={"settings": {"scale": 1.0}, "outputs": {"edit.safetensors": "c" * 64}})
    path = report(tmp_path)
    assert verdict_of(path) == ["Stages that have run: negate."]
    assert headings(path) == ["Data", "Reproduce"]
    assert "c" * 64 in text_of(path)


def test_the_commands_of_the_record_can_be_typed_again(tmp_path):
    asked = GeometrySettings(base="b", sft="s", rlvr="a model", full=True, out=tmp_path / "elsewhere", overwrite=True)
    masks = MaskAgreementSettings(reference="s", runs=("a", "b"), tolerance=0.5)
    stages = {"geometry": words.record(asked), "masks": words.record(masks)}
    record(tmp_path / "run", **{name: {"command": command} for name, command in stages.items()}, old={})
    text = text_of(report(tmp_path / "run"))
    line = "mastlens geometry --base b --sft s --rlvr 'a model' --full --out run"
    assert line in text
    parsed = settings_from(GeometrySettings, build_parser().parse_args(shlex.split(line)[1:]))
    assert parsed == replace(asked, out="run", overwrite=False)
    assert "masks: called from Python, mastlens mask-agreement with the settings below" in text
    assert "old: settings and inputs below" in text


def test_every_chapter_has_a_question_or_belongs_to_one_that_has():
    assert len({chapter.build for chapter in CHAPTERS}) == len(CHAPTERS)
    weights = [chapter.weight for chapter in CHAPTERS if chapter.title]
    assert len(set(weights)) == len(weights)  # one chapter has the last word
    for chapter in CHAPTERS:
        assert not chapter.title or chapter.question


def test_words_for_numbers():
    assert points(-0.031, -0.05, 0.00001) == "−3.1 [−5.0, 0.0] points"
    assert share(0.41) == "41.0 %"
    assert share(0.41, 0.331, 0.492) == "41.0 % [33.1, 49.2]"
    assert (signed(0.0004, 3), signed(-0.0006, 3), signed(1.0, 1)) == ("0.000", "−0.001", "+1.0")
    assert (p_value(0.031), p_value(1e-9)) == ("p = 0.031", "p < 0.0001")
    assert (listed([]), listed(["a"]), listed(["a", "b", "c"])) == ("", "a", "a, b and c")
    assert [out_of(n, 3, "arm") for n in (0, 2, 3)] == ["none of 3 arms", "2 of 3 arms", "all 3 arms"]


def test_measures_beside_their_nulls_count_both_ways():
    table = pd.DataFrame(
        {
            "increment": ["rlvr"] * 4,
            "x": [1.0, 2.0, 5.0, np.nan],
            "x_null": [3.0, 3.0, 3.0, 3.0],
            "x_distinguishable": [True, False, True, False],
        }
    )
    (row,) = beside_null(table, [("x", "X"), ("y", "Y")], ["increment"]).to_dict("records")
    assert {key: row[key] for key in list(row)[:7]} == {
        "increment": "rlvr",
        "measure": "X",
        "median": 2.0,
        "chance": 3.0,
        "n": 3,
        "above chance": 1,
        "below chance": 1,
    }
