"""lm-evaluation-harness on an edit in memory, against the harness on the edited checkpoint read from disk."""

import json

import pytest
import torch

import mastlens as m
from tests.columns import check_table
from tests.reference.plain import load_model, load_tokenizer, logprob

lm_eval = pytest.importorskip("lm_eval")

TASKS = {
    "local_writing": """
task: local_writing
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}, cache_dir: CACHE}
test_split: test
output_type: generate_until
doc_to_text: "{{problem}}\\n"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|endoftext|>"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
""",
    "local_choosing": """
task: local_choosing
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}, cache_dir: CACHE}
test_split: test
output_type: multiple_choice
doc_to_text: "{{problem}}"
doc_to_choice: ["yes", "no", "7"]
doc_to_target: 2
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
""",
}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    records = [json.loads(line) for line in tiny.forget.read_text().splitlines()]
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, text in TASKS.items():
        text = text.replace("DATA", str(folder / "data.jsonl")).replace("CACHE", str(folder / "cache"))
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def edit(tiny):
    name = "model.layers.1.self_attn.o_proj.weight"
    return m.unlearn(
        rlvr=tiny.rlvr, forget=tiny.forget, objective="ga", steps=1, lr=0.05, names=[name], progress=False
    ).edit


def scores(model, folder, **changes):
    from mastlens.evaluation.harness import harness_scores

    return harness_scores(model=model, tasks=list(TASKS), task_folder=folder, **changes)


@pytest.fixture(scope="module")
def plain(tiny, folder):
    return scores(tiny.rlvr, folder)


def test_an_edit_in_memory_scores_as_the_edited_checkpoint(tiny, folder, edit, plain, tmp_path):
    m.apply_edit(edit, to=tiny.rlvr, out=tmp_path / "edited")
    memory = scores(tiny.rlvr, folder, edit=edit)
    disk = scores(tmp_path / "edited", folder)
    assert memory.table.equals(disk.table)
    assert memory.items.equals(disk.items)
    assert not memory.items.equals(plain.items)
    assert scores(tiny.rlvr, folder).items.equals(plain.items)
    assert set(plain.table["task"]) == set(TASKS)
    assert set(plain.table["n"]) == {12}


def test_the_choices_are_those_of_plain_likelihoods(tiny, plain):
    model, tokenizer = load_model(tiny.rlvr), load_tokenizer(tiny.rlvr)
    records = [json.loads(line) for line in tiny.forget.read_text().splitlines()]
    expected = []
    with torch.no_grad():
        for record in records:
            prompt = tokenizer(record["problem"])["input_ids"]
            options = [logprob(model, prompt, tokenizer(o)["input_ids"]).item() for o in ("yes", "no", "7")]
            expected.append(float(max(range(3), key=lambda i: options[i]) == 2))
    items = plain.items[(plain.items["task"] == "local_choosing") & (plain.items["metric"] == "acc")]
    assert list(items.sort_values("item")["value"]) == expected
    mean = plain.table.set_index(["task", "metric"]).loc[("local_choosing", "acc"), "value"]
    assert mean == pytest.approx(sum(expected) / 12)


def test_scores_are_kept_and_a_task_that_does_not_exist_is_named(tiny, folder, tmp_path):
    made = scores(tiny.rlvr, folder, out=tmp_path / "out", limit=3)
    for name in ("harness", "harness_items"):
        check_table(tmp_path / "out" / f"{name}.parquet", "--harness")
    assert set(made.table["n"]) == {3}
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert scores(tiny.rlvr, folder, out=tmp_path / "out", limit=3).table.equals(made.table)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    from mastlens.evaluation.harness import harness_scores

    with pytest.raises(m.MastlensError, match="local_writing"):
        harness_scores(model=tiny.rlvr, tasks=["local_writin"], task_folder=folder)
