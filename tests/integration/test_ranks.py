"""Models over ranks: the numbers of one process, nothing but the selection changed, and no rank left behind.

Ranks are processes on the loopback address (``tests.ranks``); what they are held against is one process.
"""

import errno
import functools
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.cli import main
from tests.conftest import write_lineage, write_problems, write_tokenizer
from tests.kills import kill_ranks
from tests.ranks import run_ranks
from tests.unit.test_architectures import CHANGES, write_model

pytestmark = pytest.mark.slow
Q = r"layers\.1\.self_attn\.q_proj"
STEPS = 6


def unlearning(lineage, *more, steps=STEPS):
    words = ["--forget", lineage.forget, "--retain", lineage.retain, "--steps", steps, "--lr", 1e-3, "--batch-size", 5]
    return ["unlearn", "--rlvr", lineage.rlvr, *words, *more]


def coupling(sft, rlvr, forget, *more):
    return ["couple", "--sft", sft, "--rlvr", rlvr, "--forget", forget, "--batch-size", 5, *more]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A lineage whose q, k and v lie in one tensor, stored as (in, out), and a selection of slices."""
    root = tmp_path_factory.mktemp("gpt2")
    lineage = write_lineage(root, "gpt2", num_key_value_heads=None)
    run = {"out": root / "run", "progress": False}
    m.geometry(base=lineage.base, sft=lineage.sft, rlvr=lineage.rlvr, rank=4, **run)
    m.couple(sft=lineage.sft, rlvr=lineage.rlvr, forget=lineage.forget, spectrum=False, **run)
    m.rank(root / "run", top=3)
    return lineage, root / "run" / "ranking.parquet"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A mixture whose experts are stored one by one and stacked in the model."""
    root = tmp_path_factory.mktemp("mixtral")
    before = write_model(root / "sft", "mixtral", CHANGES["mixtral"] | {"vocab_size": 384})
    write_tokenizer(before)
    after = shutil.copytree(before, root / "rlvr")
    torch.manual_seed(1)
    moved = {
        name: tensor + 0.1 * torch.randn(tensor.shape)
        for name, tensor in load_file(before / "model.safetensors").items()
    }
    save_file(moved, after / "model.safetensors", {"format": "pt"})
    return before, after, write_problems(root / "p.jsonl", first=3, count=5)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The tiny lineage in bfloat16."""
    return write_lineage(tmp_path_factory.mktemp("short"), dtype="bfloat16")


def commands(tiny, gpt2, mixture, short):
    """What is run, by the name of its output folder."""
    lineage, ranking = gpt2
    before, after, problems = mixture
    some = r"experts\.[12]\.w[12]"
    return {
        "couple": coupling(tiny.sft, tiny.rlvr, tiny.forget, "--retain", tiny.retain, "--fisher", "--limit", 7),
        "npo": unlearning(tiny, "--objective", "npo", "--where", Q),
        "all": unlearning(
            tiny, "--objective", "ga", "--all-parameters", "--retain-loss", "kl", "--micro-batch", 2, steps=2
        ),
        "slices": unlearning(lineage, "--objective", "npo", "--ranking", ranking, steps=2),
        "causal": [
            *("causal-map", *coupling(tiny.sft, tiny.rlvr, tiny.forget)[1:]),
            *("--limit", 3, "--heads", "--where", r"0.*\.[ko]_proj|1.*\.q_proj"),
        ],
        "parts": [
            *("causal-map", *coupling(lineage.sft, lineage.rlvr, lineage.forget, "--retain", lineage.retain)[1:]),
            *("--limit", 3, "--one-direction"),
        ],
        "groups": ["causal-map", *coupling(before, after, problems)[1:], "--limit", 3, "--one-direction"],
        "tokens": [
            *("token-differences", "--base", tiny.base, "--sft", tiny.sft, "--rlvr", tiny.rlvr, "--batch-size", 5),
            *("--limit", 5, "--split", f"forget={tiny.forget}", f"retain={tiny.retain}"),
        ],
        "mixture": coupling(before, after, problems, "--where", some, "--no-spectrum"),
        "experts": [
            *("unlearn", "--rlvr", after, "--forget", problems, "--objective", "ga", "--where", some),
            *("--steps", 2, "--lr", 1e-3, "--batch-size", 5),
        ],
        "widened": coupling(short.sft, short.rlvr, short.forget, "--dtype", "float32", "--limit", 7, "--no-spectrum"),
        "short": coupling(short.sft, short.rlvr, short.forget, "--dtype", "bfloat16", "--limit", 7, "--no-spectrum"),
        "short-npo": unlearning(short, "--objective", "npo", "--where", Q, "--dtype", "bfloat16", steps=2),
    }


@pytest.fixture(scope="module")
def asked(tiny, gpt2, mixture, short):
    return commands(tiny, gpt2, mixture, short)


@pytest.fixture(scope="module")
def alone(asked, tmp_path_factory):
    """The outputs of one process."""
    out = tmp_path_factory.mktemp("alone")
    for name, words in asked.items():
        assert main([*map(str, words), "--out", str(out / name)]) == 0
    return out


def check_the_rest(rank: int) -> None:
    """Let every rank hold what it has of the model against the checkpoint before the edit is made, bit for bit."""
    from mastlens.models import sharding
    from mastlens.unlearning import editing

    plain = editing.make_edit

    def make_edit(checkpoint, model, names, *args, **more):
        selected = {name.partition("#")[0] for name in names}
        changed = compared = 0
        state = model.state_dict(keep_vars=True)
        for name, weight in state.items():
            if name not in checkpoint.tensors:
                continue
            rows = sharding.Rows.of(weight)
            same = torch.equal(rows.local, checkpoint.rows(name, rows.start, rows.start + rows.count))
            tied = any(state.get(other) is weight for other in selected)
            assert same or name in selected or tied, name
            assert rows.count < rows.total, f"rank {rank} holds all of {name}"
            changed += not same
            compared += 1
        print(f"compared {compared}, of which {changed} changed", flush=True)
        return plain(checkpoint, model, names, *args, **more)

    editing.make_edit = make_edit


@pytest.fixture(scope="module")
def two(asked, tmp_path_factory):
    """The outputs of two ranks."""
    out = tmp_path_factory.mktemp("two")
    ended = run_ranks([[*words, "--out", out / name] for name, words in asked.items()], before=check_the_rest)
    for one in ended:
        assert one.codes == [0] * len(asked), one.err
    assert "mastlens rank" in ended[0].out and "it/s" not in ended[1].err
    said = [line for line in ended[1].out.splitlines() if not line.startswith("compared ")]
    assert said == []  # rank 1 says nothing of its own
    for one in ended:  # each rank compared every model: whole tensors, slices and what lies in a stack
        counts = [int(line.split()[-2]) for line in one.out.splitlines() if line.startswith("compared ")]
        assert counts == [1, len(Checkpoint(asked["npo"][2]).matrices()), 3, 0, 1]
    return out


def close(ours: pd.DataFrame, other: pd.DataFrame, kinds: tuple[str, ...]) -> None:
    """Assert that two couplings agree to 1e-5 of what a number is made of: an inner product can cancel."""
    assert list(ours["name"]) == list(other["name"])
    for side in kinds:
        norms = other[f"{side}_grad_norm"] * other["delta_norm"]
        assert np.allclose(ours[f"{side}_grad_norm"], other[f"{side}_grad_norm"], rtol=1e-5)
        assert (abs(ours[f"{side}_inner"] - other[f"{side}_inner"]) <= 1e-5 * norms).all()
        assert (abs(ours[f"{side}_cosine"] - other[f"{side}_cosine"]) <= 1e-5).all()
        assert (other[f"{side}_grad_norm"] > 0).any()


def test_couplings_are_those_of_one_process(alone, two):
    ours, other = (pd.read_parquet(out / "couple" / "coupling.parquet") for out in (two, alone))
    close(ours, other, ("forget", "retain"))
    assert np.allclose(ours["forget_fisher"], other["forget_fisher"], rtol=1e-5)
    assert (ours["forget_above_chance"] == other["forget_above_chance"]).all()
    for file in ("coupling_heads.parquet", "coupling_spectrum.parquet"):
        ours, other = (pd.read_parquet(out / "couple" / file) for out in (two, alone))
        assert list(ours.columns) == list(other.columns) and len(ours) == len(other)
    close(*(pd.read_parquet(out / "mixture" / "coupling.parquet") for out in (two, alone)), ("forget",))
    record = json.loads((two / "couple" / "run.json").read_text())["stages"]["couple"]
    assert record["cost"]["worker"] == "rank 0 of 2"
    known = json.loads((alone / "couple" / "run.json").read_text())["stages"]["couple"]
    assert all(record[part] == known[part] for part in ("lineage", "inputs", "settings", "behaviour"))


def test_sixteen_bits_are_those_of_one_process(alone, two):
    wide, ours, other = (
        pd.read_parquet(out / name / "coupling.parquet")
        for out, name in ((alone, "widened"), (two, "short"), (alone, "short"))
    )
    close(pd.read_parquet(two / "widened" / "coupling.parquet"), wide, ("forget",))
    # In bfloat16 a gradient is rounded in each batch and summed in float32: ranks are no farther from one process than
    # rounding takes that from float32.
    rounding = abs(other["forget_cosine"] - wide["forget_cosine"]).max()
    assert 0 < abs(ours["forget_cosine"] - wide["forget_cosine"]).max() <= 2 * rounding
    assert np.allclose(ours["forget_grad_norm"], other["forget_grad_norm"], rtol=2e-2)
    steps = [pd.read_parquet(out / "short-npo" / "steps.parquet") for out in (two, alone)]
    for column in ("forget_loss", "retain_loss", "forget_logprob"):
        assert np.allclose(steps[0][column], steps[1][column], rtol=1e-2), column
    edits = [load_file(out / "short-npo" / "edit.safetensors") for out in (two, alone)]
    for key in edits[0]:
        assert edits[0][key].dtype == torch.bfloat16
        if key.startswith("before/"):
            assert torch.equal(edits[0][key], edits[1][key])
            moved = [(edit[f"after{key[6:]}"].double() - edit[key].double()).flatten() for edit in edits]
            assert torch.cosine_similarity(*moved, dim=0) > 0.9


@pytest.mark.parametrize("name", ["npo", "all", "slices", "experts"])
def test_steps_are_those_of_one_process(alone, two, name):
    ours, other = (pd.read_parquet(out / name / "steps.parquet") for out in (two, alone))
    for column in ("forget_loss", "retain_loss", "grad_norm", "forget_logprob"):
        assert np.allclose(ours[column], other[column], rtol=1e-5, equal_nan=True), column
    edits = [load_file(out / name / "edit.safetensors") for out in (two, alone)]
    assert list(edits[0]) == list(edits[1])
    for key in (key for key in edits[0] if key.startswith("after/")):
        before, made, wanted = (each.double() for each in (edits[1][f"before{key[5:]}"], edits[0][key], edits[1][key]))
        assert torch.linalg.vector_norm(made - wanted) <= 1e-5 * torch.linalg.vector_norm(wanted)
        assert torch.linalg.vector_norm(wanted - before) > 1e-4 * torch.linalg.vector_norm(wanted)
        assert torch.equal(made == before, wanted == before)  # beside a slice, and what no gradient reaches
    with (
        safe_open(two / name / "edit.safetensors", "pt") as ours,
        safe_open(alone / name / "edit.safetensors", "pt") as o,
    ):
        told = [json.loads(each.metadata()["mastlens"]) for each in (ours, o)]
    assert told[0]["settings"]["selection"] == told[1]["settings"]["selection"]


@pytest.mark.parametrize("name", ["causal", "parts", "groups"])
def test_effects_are_those_of_one_process(alone, two, name):
    for file in ("causal_map.parquet", "causal_groups.parquet"):
        ours, other = (pd.read_parquet(out / name / file) for out in (two, alone))
        assert list(ours.columns) == list(other.columns) and len(ours) == len(other) > 0
        for column in other.columns:
            if other[column].dtype.kind != "f":
                assert (ours[column] == other[column]).all(), column
                continue
            # An effect is a small difference of large log-probabilities: 1e-5 of what it is made of.
            size = abs(other["forget_unpatched"]) if "effect" in column else abs(other[column]).max()
            assert (abs(ours[column] - other[column]) <= 1e-5 * size + 1e-12).all(), column
        assert abs(other["forget_effect"]).max() > 1e-3


def test_token_differences_are_those_of_one_process(alone, two):
    ours, other = (pd.read_parquet(out / "tokens" / "tokens.parquet") for out in (two, alone))
    assert (ours[["split", "item", "position", "token"]] == other[["split", "item", "position", "token"]]).all(
        axis=None
    )
    for column in ("logprob_before", "logprob_after", "difference", "entropy_before"):
        assert np.allclose(ours[column], other[column], atol=2e-5), column
    assert abs(other["difference"]).max() > 0.1


def test_more_ranks_than_blocks_and_rows_that_do_not_divide(tiny, asked, alone, tmp_path):
    some = {name: asked[name] for name in ("couple", "npo")}
    ended = run_ranks([[*words, "--out", tmp_path / name] for name, words in some.items()], size=3)
    assert [one.codes for one in ended] == [[0, 0]] * 3, ended
    close(*(pd.read_parquet(out / "couple" / "coupling.parquet") for out in (tmp_path, alone)), ("forget", "retain"))
    ours, other = (pd.read_parquet(out / "npo" / "steps.parquet") for out in (tmp_path, alone))
    assert np.allclose(ours["grad_norm"], other["grad_norm"], rtol=1e-5)


def keep_every_step(rank: int, fatal: int = -1) -> None:
    """Keep the state after every step, count the steps, and end rank 1 by force in one of them."""
    from mastlens.unlearning import Unlearner, resuming

    resuming.SECONDS = resuming._SHARE = 0
    plain = Unlearner.step

    def step(self):
        if rank == 1 and self.done == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        print("step", self.done, flush=True)
        return plain(self)

    Unlearner.step = step


def test_a_run_goes_on_after_a_rank_was_killed(asked, two, tmp_path):
    words = [*asked["npo"], "--out", tmp_path / "run"]
    killed = run_ranks([words], before=functools.partial(keep_every_step, fatal=4))
    assert killed[1].exitcode == -signal.SIGKILL
    assert killed[0].codes == [2] and "Another rank ended" in killed[0].err and "Traceback" not in killed[0].err
    left = [path.name for path in (tmp_path / "run").iterdir()]
    assert not any(name.endswith(".parquet") or name == "edit.safetensors" for name in left), left
    again = run_ranks([words], before=keep_every_step)
    assert [one.codes for one in again] == [[0], [0]], again
    assert [line for line in again[1].out.splitlines() if line.startswith("step")] == ["step 4", "step 5", "step 6"]
    for file in ("edit.safetensors", "steps.parquet"):
        assert (tmp_path / "run" / file).read_bytes() == (two / "npo" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "edit.safetensors",
        "run.json",
        "steps.parquet",
    ]


@pytest.mark.long
def test_a_rank_killed_at_a_random_moment_leaves_what_can_be_taken_up(tiny, tmp_path):
    assert len(list(kill_ranks(tiny, tmp_path, 1, random.Random(4), steps=4))) == 1


def in_own_folder(rank: int, root: Path) -> None:
    os.chdir(root / str(rank))


def test_ranks_that_see_other_files_end_with_one_message(tiny, tmp_path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        write_problems(tmp_path / str(rank) / "forget.jsonl", first=rank, count=4)
    shutil.copyfile(tiny.retain, tmp_path / "0" / "retain.jsonl")
    words = coupling(tiny.sft, tiny.rlvr, "forget.jsonl", "--out", tmp_path / "out")
    ended = run_ranks([words], before=functools.partial(in_own_folder, root=tmp_path))
    assert [one.codes for one in ended] == [[2], [2]], ended
    assert sum("Rank 1 on" in one.err for one in ended) == 1 and "another inputs" in ended[0].err + ended[1].err
    for number in range(2):  # the second machine lacks a shard
        model = AutoModelForCausalLM.from_pretrained(tiny.sft)
        model.save_pretrained(tmp_path / str(number) / "sft", max_shard_size="50KB")
    shard = sorted((tmp_path / "1" / "sft").glob("*.safetensors"))[-1]
    shard.unlink()
    for other, lacking in ((["--retain", "retain.jsonl"], "retain.jsonl"), (["--sft", "sft"], shard.name)):
        ended = run_ranks([[*words, *other]], before=functools.partial(in_own_folder, root=tmp_path))
        assert [one.codes for one in ended] == [[2], [2]], ended
        assert [one.err.count("mastlens:") for one in ended] == [0, 1] and lacking in ended[1].err, ended
    assert not (tmp_path / "out").exists()


def other_versions(rank: int) -> None:
    from mastlens.runs import stages

    plain = stages.versions
    stages.versions = lambda: plain() | ({"torch": "1.0"} if rank else {})


def full_disk(rank: int) -> None:
    """Let the machine of rank 0, which writes, have no room for a table."""

    def write(frame, path, **more):
        raise OSError(errno.ENOSPC, "full", str(path))

    pd.DataFrame.to_parquet = write


def test_other_versions_and_a_full_disk_end_with_one_message(tiny, tmp_path):
    words = coupling(tiny.sft, tiny.rlvr, tiny.forget, "--limit", 2, "--no-spectrum", "--out", tmp_path / "out")
    for before, said in ((other_versions, "another version of a package"), (full_disk, "No space left")):
        ended = run_ranks([words], before=before)
        assert [one.codes for one in ended] == [[2], [2]], ended
        told = ended[0].err + ended[1].err
        assert told.count("mastlens:") == 1 and said in told and "Traceback" not in told, told
        assert not list(tmp_path.rglob("*.parquet"))


def test_what_does_not_run_over_ranks_is_refused_once(tiny, tmp_path):
    for words, said in (
        (
            ["evaluate", "--model", tiny.rlvr, "--split", f"forget={tiny.forget}", "--out", tmp_path / "c"],
            "evaluate is one process, and torchrun started several: type it without torchrun. Over ranks run: "
            "token-differences, couple, causal-map, unlearn",
        ),
        (["couple", "--sft", tiny.sft], "required"),
        (
            unlearning(tiny, "--objective", "rmu", "--layer", 1, "--where", Q, "--out", tmp_path / "a"),
            "steers activations",
        ),
        (coupling(tiny.sft, tiny.sft.parent / "no", tiny.forget, "--out", tmp_path / "b"), "There is no folder"),
    ):
        ended = run_ranks([words])
        assert [one.codes for one in ended] == [[2], [2]], ended
        told = "".join(one.err for one in ended)
        assert len(re.findall(r"^mastlens[ a-z]*:", told, re.MULTILINE)) == 1 and said in told, told
    assert not list(tmp_path.iterdir())
    assert Checkpoint(tiny.rlvr).fingerprint
