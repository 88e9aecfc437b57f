"""The command line on a tiny lineage: what it writes, what it says, how it exits."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.cli import main


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def chain(tiny, tmp_path_factory):
    """The whole chain through the command line, once."""
    out = tmp_path_factory.mktemp("chain")
    codes = [
        main(["geometry", "--base", str(tiny.base), "--sft", str(tiny.sft), "--rlvr", str(tiny.rlvr)]
             + ["--rank", "4", "--full", "--out", str(out)]),
        main(["couple", "--sft", str(tiny.sft), "--rlvr", str(tiny.rlvr), "--forget", str(tiny.forget)]
             + ["--retain", str(tiny.retain), "--out", str(out)]),
        main(["rank", str(out), "--top", "3"]),
        main(["unlearn", "--rlvr", str(tiny.rlvr), "--ranking", str(out / "ranking.parquet")]
             + ["--forget", str(tiny.forget), "--retain", str(tiny.retain), "--objective", "npo"]
             + ["--steps", "4", "--lr", "1e-3", "--out", str(out)]),
    ]  # fmt: skip
    assert codes == [0, 0, 0, 0]
    return out


def test_chain_writes_the_contracts_files_and_columns(chain):
    geometry = pd.read_parquet(chain / "geometry.parquet")
    assert set(geometry["increment"]) == {"sft", "rlvr"}
    assert len(geometry) == 2 * 8
    assert {"spectral_shift", "angle_left_max_deg", "stable_rank", "changed_fraction_bf16"} <= set(geometry)
    ranking = pd.read_parquet(chain / "ranking.parquet")
    assert ranking["selected"].sum() == 3
    assert list(pd.read_parquet(chain / "steps.parquet")["step"]) == [1, 2, 3, 4]
    record = json.loads((chain / "run.json").read_text())
    assert set(record["stages"]) == {"geometry", "couple", "rank", "unlearn"}


def test_edit_apply_and_revert_return_to_the_same_bits(chain, tiny, tmp_path, capsys):
    edit = chain / "edit.safetensors"
    assert run(capsys, "edit", "apply", edit, "--to", tiny.rlvr, "--out", tmp_path / "new")[0] == 0
    assert run(capsys, "edit", "revert", edit, "--from", tmp_path / "new", "--out", tmp_path / "old")[0] == 0
    source, new, old = (Checkpoint(p) for p in (tiny.rlvr, tmp_path / "new", tmp_path / "old"))
    assert new.fingerprint != source.fingerprint
    assert old.fingerprint == source.fingerprint
    new.load_model(), new.load_tokenizer()  # complete folders
    code, _, err = run(capsys, "edit", "revert", edit, "--from", tiny.rlvr, "--out", tmp_path / "no")
    assert code == 2
    assert "revert" in err
    assert not (tmp_path / "no").exists()


def test_json_stands_alone_on_stdout(chain, capsys):
    code, out, _ = run(capsys, "edit", "show", chain / "edit.safetensors", "--json")
    assert code == 0
    assert len(json.loads(out)["tensors"]) == 3


def test_evaluate_and_compare(chain, tiny, tmp_path, capsys):
    common = ["--split", f"forget={tiny.forget}", f"retain={tiny.retain}", "--max-new-tokens", "8"]
    before = ["evaluate", "--model", tiny.rlvr, *common, "--out", tmp_path / "before"]
    edited = ["evaluate", "--model", tiny.rlvr, "--edit", chain / "edit.safetensors", *common]
    assert run(capsys, *before)[0] == 0
    assert run(capsys, *edited, "--out", tmp_path / "after")[0] == 0
    code, out, _ = run(capsys, "compare", tmp_path / "before", tmp_path / "after", "--json")
    assert code == 0
    assert {"n", "before", "after", "b", "c", "mcnemar_p", "difference", "ci_low", "ci_high"} <= set(
        json.loads(out)["splits"][0]
    )


def test_same_command_again_does_nothing_and_other_settings_are_refused(chain, capsys):
    stamp = (chain / "ranking.parquet").stat().st_mtime_ns
    assert run(capsys, "rank", chain, "--top", "3")[0] == 0
    assert (chain / "ranking.parquet").stat().st_mtime_ns == stamp
    code, _, err = run(capsys, "rank", chain, "--top", "5")
    assert code == 2
    assert "--overwrite" in err
    assert (chain / "ranking.parquet").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "nowhere/at/all"], "no folder"),
        (["rank", ".", "--top", "3"], "geometry.parquet"),
        (["unlearn", "--rlvr", "RLVR", "--where", "q_proj", "--forget", "FORGET", "--objective", "nop"]
         + ["--steps", "1", "--lr", "1e-3"], "'npo'"),
        (["unlearn", "--rlvr", "RLVR", "--where", "q_prj", "--forget", "FORGET", "--objective", "ga"]
         + ["--steps", "1", "--lr", "1e-3"], "matches no tensor"),
        (["geometry", "--base", "BASE", "--rlvr", "BASE"], "the same"),
        (["geometry", "--base", "BASE", "--rlvr", "RLVR", "--rank", "99"], "Rank 99"),
        (["evaluate", "--model", "RLVR", "--split", "forget"], "NAME=FILE"),
        (["evaluate", "--model", "RLVR", "--split", "forget=BAD"], "bad.jsonl, line 1"),
        (["inspect", "organism:qwen3/rlvr"], "organism"),
    ],
)  # fmt: skip
def test_a_users_mistake_gets_one_message_and_exit_2(arguments, said, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"RLVR": tiny.rlvr, "BASE": tiny.base, "FORGET": tiny.forget}
    bad = tmp_path.parent / "bad.jsonl"
    bad.write_text('{"text": "no problem at all"}\n')
    arguments = [str(places.get(a, a)).replace("BAD", str(bad)) for a in arguments]
    if arguments[0] in ("unlearn", "geometry", "evaluate"):
        arguments += ["--out", "out"]
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert said in err
    assert out == ""
    assert "Traceback" not in err
    assert not any(tmp_path.iterdir()), "nothing was made, so nothing is left"


def test_debug_shows_where(tmp_path, capsys):
    _, _, err = run(capsys, "inspect", tmp_path / "nothing", "--debug")
    assert "Traceback" in err


def test_a_defect_exits_with_1(tiny, tmp_path, capsys, monkeypatch):
    import mastlens.cli.weights as commands

    monkeypatch.setattr(commands, "show", lambda *a, **k: 1 / 0)
    code, _, err = run(capsys, "inspect", tiny.rlvr)
    assert code == 1
    assert "ZeroDivisionError" in err


def test_importing_the_package_does_not_import_torch():
    program = "import sys, mastlens, mastlens.cli.parser; sys.exit(any(m in sys.modules for m in ('torch', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_public_name_is_there():
    import mastlens

    for name in mastlens.__all__:
        assert getattr(mastlens, name).__doc__, name
    assert set(mastlens.__all__) == set(mastlens._PUBLIC) <= set(dir(mastlens))


def test_the_source_checkpoint_is_never_written(chain, tiny, tmp_path, capsys):
    copy = tmp_path / "rlvr"
    shutil.copytree(tiny.rlvr, copy)
    code, _, err = run(capsys, "edit", "apply", chain / "edit.safetensors", "--to", copy, "--out", copy, "--overwrite")
    assert code == 2
    assert "never written" in err
    assert Checkpoint(copy).fingerprint == Checkpoint(tiny.rlvr).fingerprint
