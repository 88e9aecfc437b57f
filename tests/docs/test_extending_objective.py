"""The page on objectives does what it says: by hand, in this session, on the command line, from a package."""

import json
import shutil

import pandas as pd
import pytest
import torch

import mastlens
from mastlens.organisms import lineage_folder
from mastlens.problems.encoding import encode_problems
from mastlens.problems.reading import read_problems
from mastlens.unlearning.loop import batch_schedule
from mastlens.unlearning.objectives import OBJECTIVES
from tests.docs.pages import run_page
from tests.docs.test_extending_plugins import command, entry_points, install


def plain_losses(*margins):
    """Return the first step's forget term for each margin: the paper's formula, problem by problem, token by token."""
    checkpoint = mastlens.Checkpoint("organism:qwen2/rlvr")
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    problems = encode_problems(read_problems(lineage_folder("qwen2") / "forget-train.jsonl"), tokenizer)
    leads = []
    for item in batch_schedule(len(problems), 8, 4, 0, side=0)[0]:
        prompt, solution = problems[item].prompt, problems[item].solution
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *solution]])).logits[0].double()
        for place, token in enumerate(solution):
            p = logits[len(prompt) - 1 + place].exp()
            p = (p / p.sum()).tolist()
            leads.append(p[token] - max(p[:token] + p[token + 1 :]))
    return [sum(max(0.0, margin + lead) for lead in leads) / len(leads) for margin in margins]


def test_an_objective(tmp_path, monkeypatch):
    monkeypatch.setattr(OBJECTIVES, "_registered", {})
    for side in ("forget", "retain"):
        shutil.copy(lineage_folder("qwen2") / f"{side}-train.jsonl", tmp_path / f"{side}.jsonl")
    page = run_page("extending/objective", tmp_path, monkeypatch)
    run = page["run"]
    expected, other = plain_losses(0.5, 1.0)
    assert run.table["forget_loss"].iloc[0] == pytest.approx(expected, rel=1e-4)
    assert abs(expected - other) > 0.1  # the coefficient reaches it
    assert run.table["forget_loss"].iloc[-1] < run.table["forget_loss"].iloc[0]
    changed = {name for name in run.edit.after if not torch.equal(run.edit.after[name], run.edit.before[name])}
    assert changed == set(run.edit.after) == {"model.layers.7.mlp.down_proj.weight"}
    said = run.edit.settings["objective"]
    assert (said["name"], said["margin"], said["alpha"], len(said["code"])) == ("ihl", 0.5, 0.5, 64)
    assert page["refused"].startswith("ihl has no beta: beta would change nothing. It has gamma, ")
    # The same from the command line: the same bits.
    typed = pd.read_parquet(tmp_path / "run" / "steps.parquet")
    pd.testing.assert_frame_equal(typed, run.table, check_exact=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["unlearn"]
    assert record["settings"]["objective"] == said
    assert "--objective inverted_hinge.py:InvertedHinge" in record["command"]["line"]
    assert "--coefficient margin=0.5" in record["command"]["line"]
    # And from a package that is installed, in a process of its own.
    install(tmp_path, entry_points("extending/objective"))
    done = command(
        *("unlearn", "--rlvr", "organism:qwen2/rlvr", "--where", r"layers\.7\.mlp\.down_proj", "--json"),
        *("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--out", "again", "--objective", "ihl"),
        *("--coefficient", "margin=0.5", "--retain-weight", "0.5", "--steps", "4", "--lr", "1e-2"),
        path=tmp_path,
    )
    assert json.loads(done.stdout)["last"]["forget_loss"] == run.table["forget_loss"].iloc[-1]
