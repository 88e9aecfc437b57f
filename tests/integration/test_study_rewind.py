"""Arms of a study that learn from what models say themselves, and that begin at the weights of before RLVR."""

import pytest
import torch

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.errors import MastlensError
from mastlens.organisms import lineage_folder
from mastlens.runs.reading import read_table
from mastlens.studies import arms as arms_module
from mastlens.studies.runner import run_study
from mastlens.unlearning.editing import unlearn
from mastlens.unlearning.rewinding import FILE
from mastlens.unlearning.settings import OwnResponses

EMBEDDINGS = "model.embed_tokens.weight"
STUDY = {
    "lineage": {role: f"organism:qwen2/{role}" for role in ("rlvr", "sft", "base")},
    "seeds": [0, 1],
    "draws": 1,
    "top": 3,
    "candidates": ".",
    "decoding": {"max_new_tokens": 8, "batch_size": 16},
    "target": {"forget_accuracy": 1.0},
    "grid": {"learning_rates": [1e-3], "steps": 2, "every": 1, "batch_size": 4},
    "selections": {
        "embeddings": {"where": "embed_tokens"},
        "anywhere": {"rule": "magnitude"},
        "in-attention": {"rule": "magnitude", "among": "self_attn"},
    },
    "compare": [
        {"objectives": ["rewind"], "selections": ["embeddings"], "retain_weight": 1.0},
        {"objectives": ["rewind"], "selections": ["embeddings"], "retain_weight": 1.0, "start": "sft", "take": "best",
         "seeds": [0]},
        {"objectives": ["gates"], "selections": ["anywhere"], "seeds": [0]},
        {"objectives": ["ga"], "selections": ["in-attention", "path"], "seeds": [0]},
    ],
}  # fmt: skip
PLAIN, RESTORED = (f"rewind+retain{how}/embeddings/seed-0" for how in ("", "+from-sft"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    splits = {"forget": "forget", "maths": "retain-math"}
    files = {}
    for region in ("train", "calibration", "eval"):
        for split, name in ({"forget": "forget", "retain": "retain"} if region == "train" else splits).items():
            lines = (lineage_folder("qwen2") / f"{name}-{region}.jsonl").read_text().splitlines(keepends=True)
            (folder / f"{name}-{region}.jsonl").write_text("".join(lines[:6]))
            files.setdefault(region, {})[split] = str(folder / f"{name}-{region}.jsonl")
    return {**STUDY, **files}


@pytest.fixture(scope="module")
def run(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return out, run_study(study, out, progress=False)


def edit_of(out, arm) -> Edit:
    return Edit.load(out / "arms" / arm / "edit.safetensors")


def test_responses_are_drawn_once_a_seed_and_are_those_of_unlearn(run, study, tmp_path):
    out, found = run
    assert set(found.table["arm"]) >= {PLAIN, RESTORED, "gates/anywhere/seed-0", "ga/path/seed-0"}
    drawn = [read_table(out / "own-responses" / f"seed-{seed}" / FILE) for seed in (0, 1)]
    assert [set(table["side"]) for table in drawn] == [{"forget", "retain"}] * 2
    assert list(drawn[0]["ids"].map(tuple)) != list(drawn[1]["ids"].map(tuple))
    alone = unlearn(
        rlvr="organism:qwen2/rlvr", sft="organism:qwen2/sft", objective="rewind", where="embed_tokens",
        forget=study["train"]["forget"], retain=study["train"]["retain"], steps=1, lr=1e-3, batch_size=4, seed=0,
        retain_weight=1.0, own_responses=OwnResponses(max_new_tokens=8), progress=False, out=tmp_path / "alone",
    )  # fmt: skip
    assert list(alone.responses["ids"].map(tuple)) == list(drawn[0]["ids"].map(tuple))
    assert list(alone.responses["digest"]) == list(drawn[0]["digest"])
    mine = edit_of(out, PLAIN)  # the first look, at step 1, is below a target of 100 %
    assert mine.settings["steps"] == 1
    assert torch.allclose(mine.after[EMBEDDINGS], alone.edit.after[EMBEDDINGS], atol=1e-6)
    assert not torch.equal(mine.after[EMBEDDINGS], mine.before[EMBEDDINGS])


def test_an_arm_that_begins_before_rlvr_restores_from_there(run):
    out, _ = run
    sft, edit = Checkpoint("organism:qwen2/sft").tensor(EMBEDDINGS), edit_of(out, RESTORED)
    assert torch.equal(edit.before[EMBEDDINGS], Checkpoint("organism:qwen2/rlvr").tensor(EMBEDDINGS))
    far, near = ((edit.after[EMBEDDINGS] - one).abs().max() for one in (edit.before[EMBEDDINGS], sft))
    assert 0 < near <= 2.1e-3  # two steps of AdamW move no entry by more than twice the learning rate
    assert far > near


def test_the_best_of_a_run_is_looked_for_to_its_end(run):
    out, _ = run
    looked = {arm: list(read_table(out / "arms" / arm / "search.parquet")["step"]) for arm in (PLAIN, RESTORED)}
    assert looked == {PLAIN: [1], RESTORED: [1, 2]}


def test_rules_choose_from_what_they_are_told(run):
    out, _ = run
    anywhere, inside = (set(edit_of(out, f"{arm}/seed-0").after) for arm in ("gates/anywhere", "ga/in-attention"))
    assert EMBEDDINGS in anywhere
    assert len(inside) == len(anywhere) == 3
    assert all("self_attn" in name for name in inside)
    assert (out / "score_path.parquet").is_file()


def test_a_second_run_does_nothing_and_other_responses_are_refused(run, study, monkeypatch):
    out, found = run

    def never(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(arms_module, "match_forgetting", never)
    again = run_study(study, out, progress=False)
    assert again.table.equals(found.table)
    with pytest.raises(MastlensError, match="with other max_new_tokens \\(8, now 7\\)"):
        run_study({**study, "own_responses": {"max_new_tokens": 7}}, out, progress=False)


def test_what_is_no_plant_has_no_truth(study, tmp_path):
    asked = {**study, "selections": {"truth": {"planted": True}},
             "compare": [{"objectives": ["ga"], "selections": ["truth"]}]}  # fmt: skip
    with pytest.raises(MastlensError, match="names no plant"):
        run_study(asked, tmp_path / "out", progress=False)
