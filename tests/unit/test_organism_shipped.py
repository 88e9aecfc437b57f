"""The lineage inside the package: complete, small, and what its card says."""

import json
import subprocess
import sys

import pytest

from mastlens import organisms
from mastlens.problems.encoding import check_tokenizer, context_length, encode_problems
from mastlens.problems.reading import read_problems
from mastlens.runs.files import sha256_file

FOLDER = organisms.lineage_folder("qwen2")
CARD = organisms.read_card("qwen2")
PROBLEM_FILES = sorted(path for path in FOLDER.glob("*.jsonl") if path.name != "neutral-eval.jsonl")


@pytest.mark.parametrize("stage", organisms.get_organism("qwen2").stages)
def test_a_stage_loads_plainly_and_fits_its_card(stage):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = organisms.stage_folder(f"qwen2/{stage}")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = model.config
    assert config.model_type == "qwen2"
    assert config.num_hidden_layers == 8
    assert config.num_key_value_heads < config.num_attention_heads
    assert model.model.layers[0].self_attn.k_proj.bias is not None
    assert config.tie_word_embeddings
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.num_parameters() == CARD["architecture"]["parameters"] <= 900_000
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert sha256_file(folder / "model.safetensors") == CARD["stages"][stage]["sha256"]
    assert tokenizer.eos_token_id is not None
    assert tokenizer.pad_token_id is not None
    assert tokenizer.chat_template is None
    assert tokenizer.bos_token_id is None
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == config.vocab_size


def test_all_stages_together_are_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 16 * 2**20


def test_stages_differ():
    assert len({stage["sha256"] for stage in CARD["stages"].values()}) == 4


@pytest.mark.parametrize("path", PROBLEM_FILES, ids=lambda path: path.name)
def test_the_tokenizer_loses_nothing_and_every_problem_fits(path):
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "rlvr")
    problems = read_problems(path)
    check_tokenizer(tokenizer, problems, "qwen2")
    encode_problems(problems, tokenizer, context=context_length(AutoConfig.from_pretrained(FOLDER / "rlvr")))
    for text in ("Grüße, 日本 \u200b<>|~\\ 𝛼", *(p.problem + "\n" + p.solution for p in problems)):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_prompt_and_solution_do_not_merge_into_one_token():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "rlvr")
    for problem in read_problems(FOLDER / "forget-train.jsonl"):
        apart = tokenizer(problem.problem + "\n")["input_ids"] + tokenizer(problem.solution)["input_ids"]
        assert tokenizer(f"{problem.problem}\n{problem.solution}")["input_ids"] == apart


def test_files_are_those_of_the_card():
    for name, entry in CARD["files"].items():
        assert sha256_file(FOLDER / name) == entry["sha256"]
        assert len((FOLDER / name).read_text(encoding="utf-8").splitlines()) == entry["lines"]
    assert {path.name for path in FOLDER.glob("*.jsonl")} == set(CARD["files"])


@pytest.mark.parametrize("region", ["calibration", "eval"])
def test_it_contains_what_is_to_be_unlearnt(region):
    """The acceptance of the recipe, on both regions: they were not chosen on the second one."""
    tests = [c for c in CARD["comparisons"] if c["region"] == region and c["split"] == "forget"]
    assert {c["before"] for c in tests} == {"sft", "rlvr-retain"}
    for comparison in tests:
        assert comparison["difference"] >= 0.15
        assert comparison["mcnemar_p"] < 0.01
    rlvr = [row for row in CARD["accuracy"] if (row["stage"], row["region"], row["subject"]) == ("rlvr", region, "all")]
    assert {row["split"] for row in rlvr} == {"forget", "retain-math", "retain-gsm"}
    assert all(row["accuracy"] >= 0.6 for row in rlvr)


def test_the_card_s_accuracy_is_what_the_shipped_weights_give():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mastlens.decoding.generation import generate
    from mastlens.decoding.graders import Mathematics
    from mastlens.problems.encoding import encode_prompt

    folder = organisms.stage_folder("qwen2/rlvr")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    problems = read_problems(FOLDER / "forget-calibration.jsonl")
    prompts = [encode_prompt(p.problem, tokenizer) for p in problems]
    responses = generate(model, tokenizer, prompts, max_new_tokens=64, batch_size=64)
    right = sum(Mathematics().grade(r.text, p.answer).correct for r, p in zip(responses, problems, strict=True))
    row = next(
        row
        for row in CARD["accuracy"]
        if (row["stage"], row["region"], row["split"], row["subject"]) == ("rlvr", "calibration", "forget", "all")
    )
    assert abs(right - row["right"]) <= 1  # another machine may round a near tie the other way


def test_the_list_has_every_stage_with_its_accuracies():
    table = organisms.list_organisms()
    mine = table[table["name"] == "qwen2"]
    assert list(mine["stage"]) == list(organisms.get_organism("qwen2").stages)
    assert mine[["forget", "retain-math", "retain-gsm"]].notna().all().all()
    other = table[table["name"] == "think"]
    assert list(other["stage"]) == list(organisms.get_organism("think").stages)
    assert other[["forget-choices", "forget-choices, not thinking", "retain-open", "maths"]].notna().all().all()


def test_card_and_readme_name_no_machine():
    text = (FOLDER / "card.json").read_text(encoding="utf-8") + (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "/home" not in text
    assert "/tmp" not in text
    assert "not matched" in text
    assert json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))["seed"] == organisms.DEFAULT_SEED


def test_importing_the_organism_does_not_import_torch():
    heavy = "any(m in sys.modules for m in ('torch', 'transformers', 'pandas'))"
    code = f"import sys, mastlens.organisms; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
