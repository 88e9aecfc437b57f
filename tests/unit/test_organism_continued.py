"""A lineage that goes on from a given model: built for real from the organism, two steps a stage."""

import json
from dataclasses import replace

import pytest
import torch

from mastlens import organisms
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.organisms import ORGANISMS, build_organism, continued, get_organism, lineage_folder
from mastlens.organisms.continued import DATA, problem_lines, side_of
from mastlens.organisms.recipes.continued import ContinuedRecipe
from mastlens.problems.reading import read_problems
from mastlens.runs.files import sha256_file

SMALL = ContinuedRecipe(
    start="organism:qwen2/rlvr", lr=1e-4, steps=2, batch=4, micro_batch=2, train=16, calibration=2, eval=2,
    prompts=8, samples=2, rounds=2, enough=2, max_new_tokens=56,
)  # fmt: skip


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Problems of the organism in GSM8K's form, half of them with a dollar sign: its model can answer them."""
    folder = tmp_path / "data"
    folder.mkdir()
    problems = read_problems(lineage_folder("qwen2") / "retain-gsm-calibration.jsonl")
    for source, chosen in (("train", problems[:40]), ("test", problems[40:60])):
        lines = [
            json.dumps({"question": p.problem + " $" * (i % 2), "answer": f"{p.solution}\n#### {p.answer}"})
            for i, p in enumerate(chosen)
        ]
        (folder / f"{source}.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(continued, "DATA", folder)
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The lineage, in a cache of its own."""
    monkeypatch.setattr(ORGANISMS, "_registered", {})
    monkeypatch.setattr("mastlens.organisms.organism.CACHED", tmp_path / "cache")
    organism = replace(
        get_organism("smollm2-short"), name="small", folder=tmp_path / "cache" / "small", architecture="qwen2",
        recipe=SMALL,
    )  # fmt: skip
    ORGANISMS._registered["small"] = organism
    return organism


@pytest.mark.long
def test_a_build_goes_on_from_its_start_and_after_an_interruption(data, small, monkeypatch):
    with monkeypatch.context() as patch:

        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        patch.setattr(continued, "sample_right", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_organism("small")
    begun = small.folder.with_name("small.unfinished")
    assert not small.folder.exists()
    made = (begun / "sft" / "model.safetensors").stat().st_mtime_ns
    folder = build_organism("small")
    assert folder == small.folder
    assert not begun.exists()
    assert (folder / "sft" / "model.safetensors").stat().st_mtime_ns == made  # not trained again
    start = Checkpoint(SMALL.start)
    stages = {stage: Checkpoint(organisms.stage_folder(f"small/{stage}")) for stage in small.stages}
    assert stages["base"].fingerprint == start.fingerprint
    for before, after in (("base", "sft"), ("sft", "rlvr")):
        moved = [torch.equal(stages[before].tensor(name), stages[after].tensor(name)) for name in start.tensors]
        assert not all(moved)
        largest = max(
            float((stages[before].tensor(name).float() - stages[after].tensor(name).float()).abs().max())
            for name in start.tensors
        )
        assert 0 < largest <= 1.05 * SMALL.steps * SMALL.lr  # AdamW moves no entry by more than lr a step
        assert stages[after].load_tokenizer().get_vocab() == start.load_tokenizer().get_vocab()
    card = organisms.read_card("small")
    assert [len(card["stages"][stage]["loss"]) for stage in small.stages] == [0, 2, 2]
    again = build_organism("small", folder.parent / "again")
    for stage in small.stages:
        assert sha256_file(again / stage / "model.safetensors") == card["stages"][stage]["sha256"]
    with pytest.raises(MastlensError, match="exists already"):
        build_organism("small")


def test_without_the_model_that_it_goes_on_from_it_says_what_to_do(small, tmp_path, monkeypatch):
    gone = replace(get_organism("smollm2"), name="gone", folder=tmp_path / "cache" / "gone")
    ORGANISMS._registered["gone"] = gone
    with pytest.raises(MastlensError, match="Fetch it: mastlens organism fetch gone"):
        build_organism("small", recipe=replace(SMALL, start="organism:gone/instruct"))
    assert not any((tmp_path / "cache").iterdir())


def test_rlvr_learns_from_right_answers_alone(data, small):
    from mastlens.decoding.graders import Mathematics

    start = Checkpoint(SMALL.start)
    model, tokenizer = start.load_model(), start.load_tokenizer()
    problems = read_problems(data / "train.jsonl")[:16]
    texts = continued.sample_right(model, tokenizer, problems, SMALL, 0, data.parent / "kept", "key")
    gold = {tuple(tokenizer(p.problem + "\n")["input_ids"]): p.answer for p in problems}
    assert len(texts) >= SMALL.enough
    for ids in texts:
        assert ids.solution[-1] == tokenizer.eos_token_id
        said = tokenizer.decode(ids.solution[:-1])
        assert Mathematics().grade(said, gold[ids.prompt]).correct
    wrong = [replace(p, answer="123456") for p in problems]
    with pytest.raises(MastlensError, match="None of the sampled answers is right"):
        continued.sample_right(model, tokenizer, wrong, SMALL, 0, data.parent / "other", "key")


def test_the_step_is_adamw_on_the_whole_batch_however_it_is_split(data):
    from mastlens.problems.encoding import collate, encode_problems

    start = Checkpoint(SMALL.start)
    texts = encode_problems(read_problems(data / "train.jsonl")[:4], start.load_tokenizer())
    recipe = replace(SMALL, steps=1, batch=4, micro_batch=1)
    model = start.load_model()
    (loss,) = continued.descend(model, texts, recipe, 0, label="test")
    plain = start.load_model().requires_grad_(True)
    batch = collate(texts)
    labels = batch.input_ids.masked_fill(~batch.is_solution, -100)
    expected = plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), labels=labels).loss
    expected.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    torch.optim.AdamW(plain.parameters(), lr=recipe.lr, weight_decay=0.0).step()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for (name, got), want in zip(model.named_parameters(), plain.parameters(), strict=True):
        apart = (got - want).abs()
        assert float((apart > 0.02 * recipe.lr).float().mean()) < 0.01, name  # entries without a gradient may turn


def test_the_files_are_disjoint_unchanged_and_by_the_stated_rule():
    files = problem_lines(ContinuedRecipe())
    lines = [line for chosen in files.values() for line in chosen]
    assert len(lines) == len(set(lines)) == 2 * (160 + 40 + 48)
    shipped = {line for source in ("train", "test") for line in (DATA / f"{source}.jsonl").read_text().splitlines()}
    assert set(lines) <= shipped
    for name, chosen in files.items():
        for line in chosen:
            record = json.loads(line)
            assert name.startswith("forget" if "$" in record["question"] else "retain")
            assert side_of(record["question"]) == name.partition("-")[0]
            assert len(record["question"]) <= 220
            assert record["answer"].count("<<") <= 2
    with pytest.raises(MastlensError, match="and no more"):
        problem_lines(ContinuedRecipe(train=400))
