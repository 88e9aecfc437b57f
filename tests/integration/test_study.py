"""A whole study on a few items of the organism: made, ended in the middle, gone on with, and made by two processes."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.cli import studies as command
from mastlens.edits.edit import Edit
from mastlens.models.weights import swapped
from mastlens.organisms import lineage_folder
from mastlens.problems.encoding import encode_problem
from mastlens.problems.reading import read_problems
from mastlens.runs.files import sha256_file
from mastlens.studies import working
from mastlens.studies.commands import RunSettings
from mastlens.studies.runner import run_study
from mastlens.studies.settings import read_study
from tests.columns import PROBES, check_table

ITEMS = 8
STUDY = """
lineage = { rlvr = "organism:qwen2/rlvr", sft = "organism:qwen2/sft", base = "organism:qwen2/base", \
reference = "organism:qwen2/rlvr-retain" }
train = { forget = "forget-train.jsonl", retain = "retain-train.jsonl" }
neutral = "neutral-eval.jsonl"
seeds = [0, 1]
draws = 2
top = 4
decoding = { max_new_tokens = 48, batch_size = 16 }

[calibration]
forget = "forget-calibration.jsonl"
maths = "retain-math-calibration.jsonl"

[eval]
forget = "forget-eval.jsonl"
maths = "retain-math-eval.jsonl"
sums = "retain-gsm-eval.jsonl"

[grid]
learning_rates = [3e-3, 3e-2]
steps = 2
every = 1
batch_size = 4

[selections.embeddings]
where = "embed_tokens"

[[compare]]
objectives = ["ga"]
selections = ["embeddings"]
seeds = [0]

[[compare]]
objectives = ["ga"]
selections = ["random-matched"]
draw_seeds = "cycled"
retain_weight = 1.0

[[compare]]
objectives = ["npo"]
selections = ["mast"]
seeds = [1]
suffix = "-weak"
grid = { learning_rates = [1e-9], steps = 1, every = 1 }

[[negate]]
selections = ["mast"]
"""
ARMS = [
    "rlvr",
    "reference",
    "sft",
    "ga/embeddings/seed-0",
    "ga+retain/random-matched/draw-01-seed-0",
    "ga+retain/random-matched/draw-02-seed-1",
    "npo-weak/mast/seed-1",
    "negate-all-1/mast/edit",
]
KEPT = [ARMS[3], ARMS[6], ARMS[7]]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study file beside the first lines of each of the organism's problem files."""
    folder = tmp_path_factory.mktemp("files")
    for file in lineage_folder("qwen2").glob("*.jsonl"):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / file.name).write_text("".join(lines[:ITEMS]), encoding="utf-8")
    (folder / "study.toml").write_text(STUDY, encoding="utf-8")
    return folder / "study.toml"


@pytest.fixture(scope="module")
def run(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return out, run_study(study, out, progress=False)


def results(folder):
    """Every table and tensor file of a run, by its place."""
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".parquet", ".safetensors")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def record(out, arm):
    return json.loads((out / "arms" / arm / "run.json").read_text())["stages"]


def test_every_arm_is_in_the_table(run, study):
    out, result = run
    assert result.table["arm"].tolist() == ARMS
    row = result.table.set_index("arm")
    assert (row.loc["rlvr", ["forget_difference", "retain_difference"]] == 0).all()
    assert row.loc["reference", "forget_kl"] == 0
    assert row.loc["reference", "retain_agreement"] == 1
    assert row.loc["rlvr", "forget_kl"] > 0
    assert row.loc["rlvr", "forget_agreement"] < 1
    assert row["draw"].tolist() == [0, 0, 0, 0, 1, 2, 0, 0]
    assert set(result.summary["selection"]) == {"embeddings", "random-matched", "mast"}
    assert result.contrasts.empty  # no objective has both a random and another selection here
    for table, name in ((result.table, "study"), (result.summary, "summary"), (result.contrasts, "contrasts")):
        pd.testing.assert_frame_equal(table, pd.read_parquet(out / f"{name}.parquet"))
        if len(table):
            check_table(out / f"{name}.parquet", "mastlens run")
    for name in ("responses", "measures", "search", "steps"):
        command = {"steps": "mastlens unlearn", "search": "mastlens demo"}.get(name, "mastlens run")
        without = (PROBES, "mastlens demo, mastlens run") if name == "steps" else ()
        check_table(out / "arms" / "ga" / "embeddings" / "seed-0" / f"{name}.parquet", command, without=without)


def test_an_arm_that_never_forgets_says_so_and_stops_nothing(run):
    _, result = run
    row = result.table.set_index("arm")
    assert not row.loc["npo-weak/mast/seed-1", "reached"]
    assert row.loc["npo-weak/mast/seed-1", "forget_accuracy"] == row.loc["rlvr", "forget_accuracy"]
    assert row.loc["ga/embeddings/seed-0", "reached"]
    target = json.loads((run[0] / "target.json").read_text())["forget_accuracy"]
    search = pd.read_parquet(run[0] / "arms" / "ga" / "embeddings" / "seed-0" / "search.parquet")
    last = search.drop_duplicates("lr", keep="last").set_index("lr").loc[row.loc["ga/embeddings/seed-0", "lr"]]
    assert last["items"] == ITEMS
    assert last["correct"] <= target * ITEMS


def test_edits_change_what_they_say_and_nothing_else(run):
    out, _ = run
    source, sft = Checkpoint("organism:qwen2/rlvr"), Checkpoint("organism:qwen2/sft")
    edits = {arm: Edit.load(out / "arms" / arm) for arm in KEPT}
    for edit in edits.values():
        edit.check_source(source)
    assert edits["ga/embeddings/seed-0"].names == ["model.embed_tokens.weight"]
    negated = edits["negate-all-1/mast/edit"]
    assert len(negated.names) == 4
    assert all(torch.equal(negated.after[name], sft.tensor(name)) for name in negated.names)
    # edits of random draws are not kept, and their arms are in the table all the same
    kept = {p.parent.relative_to(out / "arms").as_posix() for p in out.rglob("edit.safetensors")}
    assert kept == set(KEPT)


def test_gradients_and_settings_never_saw_the_evaluation_files_and_each_opening_is_recorded(run, study):
    out, _ = run
    hashes = {p.name: sha256_file(p) for p in study.parent.glob("*.jsonl")}
    kinds = {k: {h for n, h in hashes.items() if n.endswith(f"-{k}.jsonl")} for k in ("train", "calibration", "eval")}
    for arm in ARMS[3:]:
        stages = record(out, arm)
        assert set(stages["edit"]["inputs"].values()) <= kinds["train"] | kinds["calibration"]
        assert kinds["eval"] - {hashes["neutral-eval.jsonl"]} <= set(stages["evaluate"]["inputs"].values())
        assert stages["evaluate"]["notes"]["eval_opened"] == 1
    couple = json.loads((out / "run.json").read_text())["stages"]["couple"]["inputs"]
    assert set(couple.values()) <= kinds["train"]


def test_numbers_are_those_of_plain_transformers(run, study):
    """KL to the reference and log-probabilities of one arm, from whole logits in float64."""
    out, _ = run
    arm = "ga/embeddings/seed-0"
    answers = pd.read_parquet(out / "arms" / arm / "responses.parquet")
    source = Checkpoint("organism:qwen2/rlvr")
    tokenizer, model = source.load_tokenizer(), source.load_model()
    reference = Checkpoint("organism:qwen2/rlvr-retain").load_model()
    with swapped(model, Edit.load(out / "arms" / arm).after), torch.no_grad():
        for split, file in (("forget", "forget-eval"), ("sums", "retain-gsm-eval")):
            rows = answers[answers["split"] == split].reset_index(drop=True)
            for item, problem in enumerate(read_problems(study.parent / f"{file}.jsonl")[:3]):
                ids = encode_problem(problem, tokenizer)
                text = torch.tensor([[*ids.prompt, *ids.solution]])
                place = slice(len(ids.prompt) - 1, -1)
                said, wanted = (torch.log_softmax(m(text).logits[0, place].double(), -1) for m in (model, reference))
                kl = float((wanted.exp() * (wanted - said)).sum())
                logprob = float(said.gather(1, torch.tensor(ids.solution)[:, None]).sum())
                assert rows.loc[item, "kl_reference"] == pytest.approx(kl, rel=1e-4)
                assert rows.loc[item, "logprob_solution"] == pytest.approx(logprob, rel=1e-4)
                assert rows.loc[item, "solution_tokens"] == len(ids.solution)


def test_a_second_run_does_nothing(run, study):
    out, first = run
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    again = run_study(study, out, progress=False)
    pd.testing.assert_frame_equal(again.table, first.table)
    changed = [p.name for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp]
    assert changed == []


def test_a_run_that_was_ended_goes_on_and_gives_the_same_bytes(run, study, tmp_path, monkeypatch):
    out, _ = run
    made = []
    honest = working.Workshop._matched

    def breaks(self, arm, folder):
        if len(made) == 2:
            raise RuntimeError("the power went")
        made.append(arm.name)
        return honest(self, arm, folder)

    monkeypatch.setattr(working.Workshop, "_matched", breaks)
    with pytest.raises(RuntimeError, match="the power went"):
        run_study(study, tmp_path / "ended", progress=False)
    assert not (tmp_path / "ended" / "study.parquet").exists()
    finished = tmp_path / "ended" / "arms" / ARMS[3]
    stamps = {p: p.stat().st_mtime_ns for p in finished.iterdir()}
    # what a killed process leaves in the folder of the next arm: files, and no word of them in the record
    left = tmp_path / "ended" / "arms" / ARMS[5]
    left.mkdir(parents=True, exist_ok=True)
    for name in ("edit.safetensors", "responses.parquet"):
        (left / name).write_bytes(b"half a file")
    monkeypatch.setattr(working.Workshop, "_matched", honest)
    run_study(study, tmp_path / "ended", progress=False)
    assert {p: p.stat().st_mtime_ns for p in finished.iterdir()} == stamps
    before, after = results(out), results(tmp_path / "ended")
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


def test_another_study_in_the_folder_is_refused_and_more_arms_are_added(run, study, tmp_path):
    from dataclasses import replace

    from mastlens.errors import MastlensError

    out = tmp_path / "copy"
    shutil.copytree(run[0], out)
    settings = read_study(study)
    with pytest.raises(MastlensError, match=r"arm ga/embeddings/seed-0: .*already holds the stage.*grid"):
        run_study(replace(settings, grid=replace(settings.grid, steps=1)), out, progress=False)
    fewer = run_study(replace(settings, compare=settings.compare[:1]), out, progress=False)
    assert fewer.table["arm"].tolist() == [*ARMS[:4], ARMS[7]]


AGAIN = [ARMS[3], ARMS[5], ARMS[7]]


def unfinished(whole, folder):
    """Return a copy of a study in which some arms are still to be made."""
    shutil.copytree(whole, folder)
    for arm in AGAIN:
        shutil.rmtree(folder / "arms" / arm)
    return folder


@pytest.mark.slow
def test_two_processes_go_on_and_give_what_one_gives(run, study, tmp_path):
    out = unfinished(run[0], tmp_path / "two")
    assert results(out) != results(run[0])
    run_study(study, out, workers=2, progress=False)
    before, after = results(run[0]), results(out)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.long
def test_a_cluster_goes_on_with_what_one_process_began_and_gives_the_same(run, study, tmp_path, cluster):
    out = unfinished(run[0], tmp_path / "cluster")
    run_study(study, out, executor="ray", progress=False)
    before, after = results(run[0]), results(out)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []
    for arm in ARMS:
        where = {told["cost"].get("worker", "") for told in record(out, arm).values()}
        assert any("ray worker" in worker for worker in where) == (arm in AGAIN), arm


def test_a_look_ends_when_it_is_told_and_says_what_a_whole_one_would(study):
    settings = read_study(study)
    bench = working.bench_of(settings, "cpu")
    everything = bench.tally(ITEMS)
    assert everything.items == ITEMS
    assert everything.correct == round(bench.forget_accuracy(bench.model) * ITEMS)
    for most in range(-1, ITEMS + 1):
        tally = bench.tally(most)
        assert (tally.correct <= most) == (everything.correct <= most)
        assert tally.items == ITEMS or tally.correct > most


def test_the_command_tells_the_same(run, study):
    out, result = run
    outcome = command.run(result, RunSettings(study=str(study), out=str(out), workers=1))
    assert outcome.summary["arms"] == len(ARMS)
    assert outcome.summary["reached"] == int(result.table["reached"].sum())
    mean = result.summary.set_index(["selection", "measure"]).loc[("embeddings", "retain_accuracy"), "mean"]
    assert f"{mean:.6g}" in outcome.text
    assert np.isfinite(mean)
