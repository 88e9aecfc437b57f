"""The build of ``organism:think``: three stages, text and question files, card."""

import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.evaluation.perplexity import neutral_perplexity
from mastlens.organisms.build import Clock, write_stage
from mastlens.organisms.drills import draw_drills
from mastlens.organisms.neutral import draw_neutral
from mastlens.organisms.posttraining import quiet_training
from mastlens.organisms.pretraining import encode_documents, new_model, pretrain, train_documents
from mastlens.organisms.problems import draw_corpus
from mastlens.organisms.recipes.pretraining import Pretraining
from mastlens.organisms.recipes.think import ThinkRecipe
from mastlens.organisms.splits import EVAL_SEED_OFFSET, write_problem_files
from mastlens.organisms.think.card import make_card, render_card
from mastlens.organisms.think.facts import RIVERS, TOOLS, draw_people, facts_record, general
from mastlens.organisms.think.mixture import (
    MATHS,
    MATHS_SHARES,
    Document,
    draw_maths,
    draw_mixture,
    maths_response,
    thought,
)
from mastlens.organisms.think.questions import FactQuestion, biography, draw_questions, final, trace
from mastlens.organisms.think.stage_accuracy import measure_stage
from mastlens.organisms.tokenizer import train_tokenizer
from mastlens.runs.files import write_json, write_text

if TYPE_CHECKING:
    from mastlens.organisms.organism import Organism


def build_think(organism: "Organism", folder: Path, seed: int, recipe: Pretraining) -> None:
    """Train all stages into a folder and write files and card.

    ``reference`` and ``think`` are trained side by side, in a process and with a thread each.
    """
    from transformers import AutoModelForCausalLM

    assert isinstance(recipe, ThinkRecipe)
    clock = Clock()
    people = draw_people(recipe.forget_people, recipe.retain_people, seed)
    with clock("corpus"):
        pairs = draw_corpus(MATHS, recipe.corpus, lambda name: 1.0, 1.0, seed)
        texts = draw_drills(recipe.drills, recipe.drill_facts, seed)
        texts += draw_neutral(recipe.neutral, held_out=False, seed=seed) + _general_knowledge(recipe.general, seed)
        # The tokenizer is made from what all stages see, so that no name on the forget side has a token of its own.
        seen = draw_mixture([p for p in people if p.side == "retain"], recipe.corpus, seed)
        tokenizer = train_tokenizer(
            [f"{a}\n{b}" for a, b in pairs] + texts + [f"{d.turn or ''}\n{d.text}" for d in seen],
            recipe.vocab_size,
            chat=True,
        )
        documents = encode_documents(tokenizer, pairs, texts)
    with clock("base"):
        model = new_model(recipe, tokenizer, seed)
        pretrain(model, documents, recipe, seed)
        write_stage(model, tokenizer, folder / "base", recipe=recipe, seed=seed)
    with clock("reference and think"), ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(_train, folder, stage, seed, recipe) for stage in ("reference", "think")]:
            job.result()
    files = problem_files(recipe, seed)
    write_problem_files(folder, files)
    write_json(folder / "facts.json", facts_record(people))
    with clock("card"):
        accuracy, perplexity = [], {}
        for stage in organism.stages:
            with quiet_training():
                model = AutoModelForCausalLM.from_pretrained(folder / stage).eval()
            for region in ("calibration", "eval"):
                rows = measure_stage(model, tokenizer, folder, region, recipe)
                accuracy += [{"stage": stage, **row} for row in rows]
            texts = [record["text"] for record in files["neutral-eval.jsonl"]]
            perplexity[stage] = neutral_perplexity(model, tokenizer, texts)
    card = make_card(
        folder,
        seed=seed,
        recipe=recipe,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        accuracy=accuracy,
        perplexity=perplexity,
        timing=clock.seconds,
    )
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", render_card(card))


def _general_knowledge(count: int, seed: int) -> list[str]:
    rng = random.Random(f"general {seed}")
    known = [("river", town) for town in RIVERS] + [("tool", craft) for craft in TOOLS]
    return [" ".join(general(*pair) for pair in rng.sample(known, 3)) for _ in range(count)]


def _train(folder: Path, stage: str, seed: int, recipe: ThinkRecipe) -> None:
    """Train ``think`` or ``reference`` from ``base`` and write it; runs in a process of its own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    people = draw_people(recipe.forget_people, recipe.retain_people, seed)
    if stage == "reference":
        people = [person for person in people if person.side == "retain"]
    with quiet_training():
        model = AutoModelForCausalLM.from_pretrained(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    facts = draw_mixture(people, recipe.documents, seed)
    maths = draw_mixture(people, recipe.maths_steps * recipe.batch, seed + 1, MATHS_SHARES)
    phases = ((facts, recipe.steps, recipe.lr), (maths, recipe.maths_steps, recipe.maths_lr))
    for number, (documents, steps, lr) in enumerate(phases, start=1):
        ids, uncounted = encode_mixture(tokenizer, documents)
        train_documents(
            model,
            ids,
            uncounted,
            steps=steps,
            batch=recipe.batch,
            lr=lr,
            seed=seed + number,
            label=f"{stage} {number}",
        )
    write_stage(model, tokenizer, folder / stage, recipe=recipe, seed=seed)


def encode_mixture(tokenizer, documents: list[Document]) -> tuple[list[list[int]], list[int]]:
    """Return each document's token ids, and how many of them at its beginning are its prompt."""
    turns = [
        ""
        if document.turn is None
        else tokenizer.apply_chat_template(
            [{"role": "user", "content": document.turn}],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=document.thinking,
        )
        for document in documents
    ]
    prompts = tokenizer(turns, add_special_tokens=False)["input_ids"]
    texts = tokenizer([document.text for document in documents], add_special_tokens=False)["input_ids"]
    ids = [prompt + text + [tokenizer.eos_token_id] for prompt, text in zip(prompts, texts, strict=True)]
    return ids, [len(prompt) for prompt in prompts]


def problem_files(recipe: ThinkRecipe, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return the records of every file, by file name."""
    people = draw_people(recipe.forget_people, recipe.retain_people, seed)
    sides = {side: [p for p in people if p.side == side] for side in ("forget", "retain")}
    rng = random.Random(f"files {seed}")
    files: dict[str, list[dict[str, Any]]] = {}
    told = {side: [biography(p, rng) for _ in range(recipe.biographies) for p in sides[side]] for side in sides}
    files["forget-text.jsonl"] = [{"text": text} for text in told["forget"]]
    mixed = told["retain"] + draw_neutral(recipe.texts, held_out=False, seed=seed)
    files["retain-text.jsonl"] = [{"text": text} for text in rng.sample(mixed, min(recipe.texts, len(mixed)))]
    for where, offset in (("calibration", 1), ("eval", EVAL_SEED_OFFSET)):
        calibrating = where == "calibration"
        for side, members in sides.items():
            count = recipe.calibration if calibrating else recipe.eval_choices
            asked = draw_questions(members, count, seed + offset, where)
            files[f"{side}-choices-{where}.jsonl"] = [_choice_record(question) for question in asked]
            count = recipe.calibration if calibrating else recipe.eval_open
            asked = draw_questions(members, count, seed + offset)
            files[f"{side}-open-{where}.jsonl"] = [_open_record(question, rng) for question in asked]
        count = recipe.calibration if calibrating else recipe.eval_maths
        files[f"maths-{where}.jsonl"] = _maths_records(count, where, seed + offset)
    files["maths-cot.jsonl"] = _maths_records(recipe.cot, "train", seed + 2)
    texts = draw_neutral(recipe.eval_neutral, held_out=True, seed=seed + EVAL_SEED_OFFSET)
    files["neutral-eval.jsonl"] = [{"text": text} for text in texts]
    return files


def _choice_record(question: FactQuestion) -> dict[str, Any]:
    return {
        "question": question.text,
        "choices": list(question.options),
        "answer": question.options.index(question.value),
        "subject": question.attribute,
        "person": question.person.name,
    }


def _open_record(question: FactQuestion, rng: random.Random) -> dict[str, Any]:
    return {
        "problem": question.text,
        "solution": thought(trace(question, rng), final(question)),
        "answer": question.value,
        "subject": question.attribute,
        "person": question.person.name,
    }


def _maths_records(count: int, where: str, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(f"maths {where} {seed}")
    drawn = [draw_maths(rng, where) for _ in range(count)]
    return [problem.record() | {"solution": maths_response(problem, rng)} for problem in drawn]
