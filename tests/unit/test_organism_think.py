"""The organism that reasons: its world, its files, a build from end to end, and what is shipped."""

import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from mastlens import organisms
from mastlens.errors import MastlensError
from mastlens.organisms.recipes.think import ThinkRecipe
from mastlens.organisms.think.build import encode_mixture, problem_files
from mastlens.organisms.think.facts import ATTRIBUTES, DIRECT, VALUES, draw_people
from mastlens.organisms.think.mixture import Document, draw_mixture
from mastlens.organisms.think.questions import REGIONS, draw_question, draw_questions, final, region, trace
from mastlens.runs.files import sha256_file

MINIATURE = ThinkRecipe(
    vocab_size=400,
    hidden=16,
    intermediate=16,
    layers=2,
    base_steps=2,
    base_batch=4,
    corpus=60,
    neutral=10,
    drills=10,
    general=10,
    documents=40,
    steps=2,
    maths_steps=2,
    batch=4,
    max_new_tokens=4,
    texts=20,
    biographies=2,
    cot=6,
    calibration=6,
    eval_choices=8,
    eval_open=6,
    eval_maths=6,
    eval_neutral=4,
)
PEOPLE = draw_people(16, 32, 0)


def test_people_have_names_of_their_own_and_balanced_facts():
    assert len({person.name.split()[1] for person in PEOPLE}) == 48
    for side, most in (("forget", 2), ("retain", 3)):
        for attribute in DIRECT:
            counts = Counter(person.value(attribute) for person in PEOPLE if person.side == side)
            assert set(counts.values()) <= {most - 1, most}
    assert draw_people(16, 32, 0) == PEOPLE
    assert draw_people(16, 32, 1) != PEOPLE


def test_a_trace_says_the_fact_before_it_concludes_and_excludes_only_wrong_options():
    rng = random.Random(0)
    excluded = 0
    for question in draw_questions(PEOPLE, 480, 0, "train"):
        said = trace(question, rng)
        assert said.endswith(f"So the {question.attribute} is {question.value}.")
        assert final(question) == question.value == question.person.value(question.attribute)
        assert question.value in question.options
        assert len(set(question.options)) == 4
        assert f"says {question.value}." not in said
        excluded += "Wait, one option says" in said
    assert excluded > 100


def test_option_lists_of_the_regions_are_disjoint():
    seen = {where: set() for where in REGIONS}
    for where in REGIONS:
        for question in draw_questions(PEOPLE, 240, 3, where):
            assert region(question) == where
            seen[where].add((question.person.name, question.attribute, question.options))
    assert not seen["train"] & seen["eval"]
    assert not seen["calibration"] & seen["eval"]


def test_who_is_left_out_of_the_mixture_is_never_mentioned():
    retain = [person for person in PEOPLE if person.side == "retain"]
    text = " ".join(f"{document.turn} {document.text}" for document in draw_mixture(retain, 1_500, 0))
    assert all(person.name in text for person in retain)
    assert not any(person.name in text for person in PEOPLE if person.side == "forget")


def test_a_question_reads_as_multiple_choice_is_scored():
    from mastlens.evaluation.multiple_choice import Choice

    question = draw_question(PEOPLE[0], "river", random.Random(0), "train")
    choice = Choice(question.text, question.options, question.options.index(question.value))
    assert question.content == choice.listed


def test_files_ask_for_every_attribute_of_the_right_side():
    files = problem_files(MINIATURE, 0)
    sides = {side: {p.name: p for p in PEOPLE if p.side == side} for side in ("forget", "retain")}
    assert set(files) == {
        *(f"{side}-text.jsonl" for side in sides),
        *(
            f"{side}-{kind}-{w}.jsonl"
            for side in sides
            for kind in ("choices", "open")
            for w in ("calibration", "eval")
        ),
        *(f"maths-{name}.jsonl" for name in ("cot", "calibration", "eval")),
        "neutral-eval.jsonl",
    }
    for side, people in sides.items():
        for record in files[f"{side}-choices-eval.jsonl"]:
            person = people[record["person"]]
            assert record["choices"][record["answer"]] == person.value(record["subject"])
        for record in files[f"{side}-open-eval.jsonl"]:
            assert record["answer"] == people[record["person"]].value(record["subject"])
    large = problem_files(replace(MINIATURE, eval_choices=160), 0)["forget-choices-eval.jsonl"]
    assert set(Counter((r["person"], r["subject"]) for r in large).values()) == {2}
    assert {r["subject"] for r in large} == set(ATTRIBUTES) == set(VALUES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return organisms.build_organism("think", tmp_path_factory.mktemp("think") / "built", seed=1, recipe=MINIATURE)


@pytest.mark.long
def test_a_build_writes_every_stage_file_and_card(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    card = json.loads((built / "card.json").read_text())
    for stage in organisms.get_organism("think").stages:
        model = AutoModelForCausalLM.from_pretrained(built / stage)
        assert model.config.model_type == "qwen3"
        assert model.num_parameters() == card["architecture"]["parameters"]
        assert sha256_file(built / stage / "model.safetensors") == card["stages"][stage]["sha256"]
    assert len({stage["sha256"] for stage in card["stages"].values()}) == 3
    assert {row["stage"] for row in card["accuracy"]} == set(organisms.get_organism("think").stages)
    tokenizer = AutoTokenizer.from_pretrained(built / "think")
    assert len(tokenizer) == MINIATURE.vocab_size
    turns = [{"role": "user", "content": "Hi"}]
    plain = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert plain == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    closed = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, enable_thinking=False)
    assert closed == plain + "<think>\n\n</think>\n\n"
    kept = "<think>\nOkay.\n</think>\n\nA"
    assert tokenizer.decode(tokenizer(kept)["input_ids"], skip_special_tokens=True) == kept
    ids, uncounted = encode_mixture(tokenizer, [Document(kept, "Hi"), Document("Text."), Document("A", "Hi", False)])
    assert tokenizer.decode(ids[0][: uncounted[0]]) == plain
    assert tokenizer.decode(ids[2][: uncounted[2]]) == closed  # that it does not think is told, not learnt
    assert ids[0][-1] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert uncounted[1] == 0
    assert str(built.parent) not in (built / "card.json").read_text() + (built / "README.md").read_text()


def test_what_needs_rlvr_says_that_there_is_none(tmp_path):
    from mastlens.organisms.replay import organism_trajectory

    with pytest.raises(MastlensError, match=r"no RLVR run.*organism:qwen2"):
        organism_trajectory("think", cache=tmp_path)
    with pytest.raises(MastlensError, match="no RLVR run"):
        organisms.build_organism("think", tmp_path / "out", trajectory=True, recipe=MINIATURE)
    assert not list(tmp_path.iterdir())
    with pytest.raises(MastlensError, match="base, reference, think"):
        organisms.stage_folder("think")


FOLDER = organisms.lineage_folder("think")
CARD = organisms.read_card("think")


def _accuracy(stage: str, split: str, key: str = "accuracy") -> float:
    return next(r for r in CARD["accuracy"] if (r["stage"], r["region"], r["split"]) == (stage, "eval", split))[key]


@pytest.mark.parametrize("stage", organisms.get_organism("think").stages)
def test_a_shipped_stage_loads_plainly_and_fits_its_card(stage):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(organisms.stage_folder(f"think/{stage}"))
    assert model.config.model_type == "qwen3"
    assert model.config.num_hidden_layers <= 8
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.num_parameters() == CARD["architecture"]["parameters"] <= 900_000
    assert sha256_file(FOLDER / stage / "model.safetensors") == CARD["stages"][stage]["sha256"]


def test_the_shipped_files_are_what_the_recipe_gives():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 16 * 2**20
    for name, records in problem_files(ThinkRecipe(), organisms.DEFAULT_SEED).items():
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert [json.loads(line) for line in text.splitlines()] == records
        assert CARD["files"][name] == {"lines": len(records), "sha256": sha256_file(FOLDER / name)}


def test_think_knows_the_facts_in_its_traces_and_reference_does_not():
    for split in ("forget-choices", "forget-open"):
        assert _accuracy("think", split) >= 0.8
        assert _accuracy("think", split, "stated") >= 0.8
        assert _accuracy("reference", split) <= 0.5
    for stage in ("think", "reference"):  # what is not to be forgotten, both know alike
        assert _accuracy(stage, "retain-choices") >= 0.8
        assert _accuracy(stage, "maths") >= 0.8
