"""Every column that a command writes on the organisms is declared, and every declared one is written."""

import shlex
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import mastlens
from mastlens.analysis.inside import tuning
from mastlens.cli import main
from mastlens.columns import TABLES
from mastlens.evaluation.comparison import compare_tables
from mastlens.organisms import lineage_folder
from mastlens.runs.reading import read_table
from tests.columns import declared, undeclared, unwritten
from tests.lineages import write_crosscoder, write_identity

BASE, SFT, RLVR, AIM = (f"organism:qwen2/{stage}" for stage in ("base", "sft", "rlvr", "rlvr-retain"))


def first_lines(source: Path, to: Path, count: int) -> str:
    to.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[:count]), encoding="utf-8")
    return str(to)


def commands(folder: Path) -> list[str]:
    """Return commands that between them write every table, with every option that adds a column, on few problems."""
    files, think = lineage_folder("qwen2"), lineage_folder("think")
    names = ("forget-train", "retain-train", "forget-eval", "retain-math-eval", "neutral-eval")
    f, r, e, m, n = (first_lines(files / f"{name}.jsonl", folder / f"{name}.jsonl", 4) for name in names)
    names = ("forget-text", "retain-text", "maths-cot", "forget-choices-eval", "forget-open-eval")
    t, k, c, q, o = (first_lines(think / f"{name}.jsonl", folder / f"{name}.jsonl", 3) for name in names)
    s = first_lines(files / "retain-train.jsonl", folder / "subjects.jsonl", 64)
    lineage, top = f"--sft {SFT} --rlvr {RLVR}", "'layers.7'"
    pair, small = f"--forget {f} --retain {r}", "--max-new-tokens 8"
    edit, splits = f"{folder}/run/edit.safetensors", f"--split forget={e} retain={m}"
    mlp = "'layers.[12].mlp.down_proj'"
    steered = f"--rlvr organism:think/think --layer 2 --where {mlp} --forget {t} --retain {k} --cot {c} --steps 2"
    return [
        f"geometry --base {BASE} {lineage} --full --masks --spectra --heads --where {top} --out {folder}/run",
        f"mask-agreement {SFT} {RLVR} {AIM} --out {folder}/agreement",
        f"trajectory {SFT} {AIM} {RLVR} --steps 1,2 --base {BASE} --out {folder}/steps",
        f"couple {lineage} {pair} --fisher --where {top} --out {folder}/run",
        f"causal-map {lineage} {pair} --heads --accuracy --max-new-tokens 1 --limit 1 --one-direction "
        f"--out {folder}/causal",
        f"score path {lineage} {pair} --limit 2 --where {top} --parameter points=1 --out {folder}/run",
        f"score behaviour {lineage} {pair} --limit 2 --where {top} --parameter points=1 max_new_tokens=4 "
        f"--out {folder}/run",
        f"score seta {lineage} {pair} --limit 2 --where {top} --out {folder}/run",
        f"score gates {lineage} {pair} --limit 2 --where {top} --parameter steps=1 --out {folder}/run",
        f"score search {lineage} {pair} --limit 2 --where {top} --parameter budget=8 --out {folder}/run",
        f"score shapley {lineage} {pair} --limit 2 --where {top} --parameter pairs=2 --out {folder}/run",
        f"token-differences --base {BASE} {lineage} --split forget={f} --out {folder}/tokens",
        f"inside depart {lineage} --split forget={f} --tuned-lens --lens-tokens 64 --positions 1 --draws 2 "
        f"--out {folder}/inside",
        f"inside write {lineage} --split forget={f} --draws 2 --out {folder}/inside",
        f"inside direct {lineage} --texts {s} --label subject=Algebra --layers 1 --sites resid_post --draws 2 "
        f"--shuffles 2 --out {folder}/inside",
        f"inside steer {lineage} --directions {folder}/inside/inside_directions.safetensors "
        f"--direction sft/mean/resid_post/1/-1/0 --doses=-1 --split forget={f} --limit 2 --draws 2 --max-new-tokens 1 "
        f"--out {folder}/inside",
        f"inside path {lineage} --senders z.0.1 --split forget={f} --limit 2 --draws 2 --out {folder}/inside",
        f"inside crosscoder {lineage} --crosscoder {write_crosscoder(folder / 'crosscoder', 96)} --layer 7 "
        f"--split forget={f} --draws 2 --out {folder}/inside",
        f"inside undo {lineage} --edited {AIM} --split forget={f} --limit 2 --layers 1 --sites z --draws 2 "
        f"--out {folder}/inside",
        f"inside dictionary {lineage} --dictionary {write_identity(folder / 'sae', 96, layer=7)} --split forget={f} "
        f"--draws 2 --out {folder}/inside",
        f"inside patch {lineage} --split forget={f} --limit 2 --layers 1 --draws 2 --integrate 1 --out {folder}/inside",
        f"rank {folder}/run --top 2",
        f"cumulative-curves {lineage} {pair} --draws 1 --points 1 --ranking {folder}/all/ranking.parquet "
        f"--out {folder}/curves",
        f"unlearn --rlvr {RLVR} --ranking {folder}/run/ranking.parquet {pair} --objective npo --steps 2 --lr 1e-4 "
        f"--token-weights --probe-forget {e} --probe-retain {m} --probe-every 1 "
        f"--out {folder}/run",
        f"unlearn --rlvr {RLVR} --sft {SFT} --where {top} {pair} --objective rewind --own-tokens 4 --steps 1 --lr 1e-4 "
        f"--out {folder}/rewound",
        f"evaluate --model {RLVR} {splits} {small} --metrics probability --out {folder}/before",
        f"evaluate --model {RLVR} --edit {edit} {splits} {small} --metrics probability --out {folder}/after",
        f"compare-metrics {folder}/before {folder}/after --reference {folder}/before --out {folder}/changes",
        f"measure-collateral --model {RLVR} --edit {edit} --split retain={m} --neutral {n} "
        f"--before {folder}/before --after {folder}/after --out {folder}/after",
        f"depth-score --model {RLVR} --edit {edit} --reference {AIM} --split forget={e} retain={m} --limit 2 "
        f"--out {folder}/depth",
        f"attack quantise --model {RLVR} --edit {edit} --split forget={e} --format int8 {small} --out {folder}/after",
        f"attack samples --model {AIM} --split forget={e} --k 2 --limit 2 {small} --out {folder}/sampled",
        f"compare-edits {folder}/before edited={folder}/after none={folder}/before --out {folder}/edits",
        f"traces --model organism:think/think --forget {t} {small} --segment-tokens 16 --out {folder}/traces",
        f"unlearn {steered} --objective r2mu --traces {folder}/traces/traces.parquet --lr 1e-4 --token-weights "
        f"--out {folder}/steered",
        f"choices --model organism:think/think --questions forget={q} --out {folder}/choices",
        f"evaluate-traces --model organism:think/think --questions forget={q} open={o} --judge rule "
        f"--facts {think}/facts.json {small} --out {folder}/judged",
    ]


@pytest.fixture(scope="module")
def monkeypatch():
    """Pytest's, for what all tests here look at."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def written(tmp_path_factory, monkeypatch) -> dict[str, list[set[str]]]:
    """File name to the columns of each file of that name."""
    folder = tmp_path_factory.mktemp("written")
    monkeypatch.setattr(tuning, "STEPS", 2)  # how well a lens reads changes no column
    for command in commands(folder):
        if command.startswith("cumulative-curves"):
            ranked = f"couple --sft {SFT} --rlvr {RLVR} --forget {folder}/forget-train.jsonl --out {folder}/all"
            assert main(shlex.split(ranked)) == 0
            assert main(["rank", f"{folder}/all", "--rule", "coupling", "--top", "2"]) == 0
        assert main(shlex.split(command)) == 0, command
    found: dict[str, list[set[str]]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        read_table(path)  # every column holds what it is declared to
        found.setdefault(path.name, []).append(set(pq.read_schema(path).names))
    return found


COMMANDS = {"responses.parquet": "mastlens evaluate"}
"""Which command is meant where two write a file of one name."""
NOT_RUN = ("--rule NAME", "--rule memflex", "a matched control", "mastlens demo, mastlens run", "--prm")
"""Options on which columns hang that no command above asks for; of the last ``test_prm.py`` does."""


@pytest.mark.slow
def test_every_column_that_is_written_is_declared(written):
    assert len(written) > 25
    for file, tables in written.items():
        for columns in tables:
            assert undeclared(columns, declared(file, COMMANDS.get(file, ""))) == [], file


@pytest.mark.slow
def test_every_column_that_is_declared_is_written(written):
    for file, tables in written.items():
        table = declared(file, COMMANDS.get(file, ""))
        assert unwritten(set().union(*tables), table, without=NOT_RUN) == [], file


@pytest.mark.slow
def test_every_table_is_looked_at(written):
    """The rest is compared where it is made: in the tests of the demo, studies, R2MU's table, safety, harness, more."""
    elsewhere = {"summary.parquet", "arms.parquet", "search.parquet", "study.parquet", "contrasts.parquet"}
    elsewhere |= {"measures.parquet", "safety.parquet", "harness.parquet", "harness_items.parquet"}
    elsewhere |= {"protocol.parquet", "protocol_published.parquet"}
    elsewhere |= {"r2mu.parquet", "r2mu_arms.parquet", "r2mu_categories.parquet", "solved.parquet"}
    elsewhere |= {"requests.parquet", "training.parquet"}
    assert {table.file for table in TABLES if table.file} - set(written) == elsewhere


def test_a_column_too_many_or_too_few_is_seen():
    table = declared("geometry_heads.parquet")
    names = [column.name for column in table.columns]
    assert undeclared(names, table) == []
    assert unwritten(names, table) == []
    assert undeclared([*names, "warmth"], table) == ["warmth"]
    assert unwritten(names[1:], table) == ["increment"]
    study = declared("study.parquet")
    assert undeclared(["retain-math_accuracy", "retain-math_warmth"], study) == ["retain-math_warmth"]


def test_columns_can_be_asked_for():
    table = mastlens.describe_columns("geometry")
    assert table["table"].unique().tolist() == ["geometry.parquet"]
    assert table.set_index("column").loc["off_principal", "null"] == "`off_principal_null`, `off_principal_null_stored`"
    assert set(mastlens.describe_columns()["table"]) == {one.file or "compare" for one in TABLES}
    with pytest.raises(mastlens.UnknownName, match="Did you mean 'geometry'"):
        mastlens.describe_columns("geometri")


def test_the_columns_of_compare():
    rows = pd.DataFrame({"split": "a", "item": range(4), "sample": 0, "subject": "", "prompt": "p", "response": "r"})
    rows = rows.assign(gold="1", correct=[True, False, True, True], correct_strict=True)
    columns = compare_tables(rows, rows.assign(correct=[True, True, False, True])).table.columns
    assert undeclared(columns, declared("")) == []
    assert unwritten(columns, declared("")) == []
