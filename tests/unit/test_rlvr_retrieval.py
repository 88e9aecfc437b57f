"""RA-RFT: the retriever's loss by hand, what is retrieved, which prompts are trained on, and a build at toy size."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mastlens import organisms
from mastlens.errors import MastlensError, MissingPackage
from mastlens.organisms.problems import draw_split
from mastlens.organisms.rlvr import RECIPES, retrieval
from mastlens.organisms.rlvr.recipe import Run
from mastlens.organisms.rlvr.recipes.ra_rft import _WAYS
from mastlens.organisms.rlvr.record import Recorder
from mastlens.organisms.subjects import BY_NAME, FORGET, RETAIN_MATH
from tests.unit.test_organism_build import MINIATURE
from tests.unit.test_rlvr_builds import NUMBERS, build_by, digest, small

__all__ = ["small"]  # a fixture

POOL = draw_split((*FORGET, *RETAIN_MATH), 42, "train", 3)
ASKED = draw_split((*FORGET, *RETAIN_MATH), 42, "calibration", 3)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.sft)


@pytest.fixture
def run(tiny, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.sft)
    numbers = replace(MINIATURE, max_new_tokens=4, calibration=4)
    recorder = Recorder("rlvr", tmp_path / "rows")
    return Run("rlvr", model, tokenizer, ASKED[:8], numbers, 0, 0, recorder, tmp_path, {}, lambda *_: None)


def test_the_loss_by_hand():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    candidates = torch.tensor([[0.8, 0.6], [0.0, 1.0], [1.0, 0.0]])
    found = float(retrieval.info_nce(queries, candidates, ["a", "b", "a"], 0.5))
    # The third pair is of the first's method: no negative of it, nor the first of the third.
    first = -math.log(math.exp(0.8 / 0.5) / (math.exp(0.8 / 0.5) + math.exp(0.0)))
    second = -math.log(math.exp(2.0) / (math.exp(0.6 / 0.5) + math.exp(2.0) + math.exp(0.0)))
    third = -math.log(math.exp(0.6 / 0.5) / (math.exp(0.8 / 0.5) + math.exp(0.6 / 0.5)))
    assert found == pytest.approx((first + second + third) / 3, rel=1e-6)


def test_an_encoding_is_the_mean_of_its_tokens():
    encoder = torch.nn.EmbeddingBag(9, 4, mode="mean")
    texts = [torch.tensor([1, 2, 2]), torch.tensor([5])]
    table = encoder.weight.detach().double().numpy()
    means = np.stack([table[[1, 2, 2]].mean(0), table[5]])
    wanted = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(retrieval.encode(encoder, texts).detach().numpy(), wanted, atol=1e-6)


def test_a_trained_retriever_finds_the_method_and_a_random_one_does_not(tokenizer):
    pytest.importorskip("faiss", reason="the extra 'retrieval' is not installed")
    texts = [retrieval.text_of(one) for one in POOL]
    encoder = retrieval.fit_encoder(POOL, tokenizer, steps=40, seed=0)
    learnt = retrieval.ByEncoder(encoder, tokenizer, texts)
    again = retrieval.ByEncoder(retrieval.fit_encoder(POOL, tokenizer, steps=40, seed=0), tokenizer, texts)
    _, same = retrieval.with_demonstrations(ASKED, POOL, learnt)
    _, by_chance = retrieval.with_demonstrations(ASKED, POOL, retrieval.AtRandom(len(POOL), 0))
    assert same > 0.8 > 0.5 > by_chance
    problems = [one.problem for one in ASKED]
    assert learnt.nearest(problems) == again.nearest(problems)
    with torch.no_grad():  # the index against every inner product
        queries, all_of = (retrieval.encode(encoder, retrieval.ids_of(tokenizer, given)) for given in (problems, texts))
    assert learnt.nearest(problems) == (queries @ all_of.T).argmax(1).tolist()


def test_words_find_the_method_without_being_trained():
    pytest.importorskip("bm25s", reason="the extra 'retrieval' is not installed")
    retriever = retrieval.ByWords([retrieval.text_of(one) for one in POOL])
    shown, same = retrieval.with_demonstrations(ASKED, POOL, retriever)
    assert same > 0.8
    place = retriever.nearest([ASKED[0].problem])[0]
    assert shown[0].problem == f"{POOL[place].problem}\n{POOL[place].solution}\n{ASKED[0].problem}"
    assert (shown[0].answer, shown[0].solution) == (ASKED[0].answer, ASKED[0].solution)


def test_what_is_shown_is_never_what_is_asked_or_of_a_method_that_is_not(run):
    retain = [one for one in draw_split(RETAIN_MATH, 12, "train", 0) if BY_NAME[one.subject].side == "retain"]
    given = retrieval.demonstrations_for(replace(run, problems=retain), 30)
    assert len(given) == 30 and {one.subject for one in given} == {one.subject for one in retain}
    assert not {one.key for one in given} & {one.key for one in retain}
    assert given == retrieval.demonstrations_for(replace(run, problems=retain), 30)


def test_another_index_a_long_prompt_and_missing_packages_are_named(run, monkeypatch):
    with pytest.raises(MastlensError, match="names demonstration 41, and there are 3"):
        retrieval.with_demonstrations(ASKED, POOL[:3], type("Other", (), {"nearest": lambda self, given: [41] * 42})())
    long = [replace(ASKED[0], problem="and " * run.model.config.max_position_embeddings)]
    with pytest.raises(MastlensError, match="longest prompt has"):
        retrieval.check_length(run, long)
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    with pytest.raises(MissingPackage, match=r"mastlens\[retrieval\]"):
        retrieval.make_retriever("bm25", POOL, run, steps=1)
    with pytest.raises(MastlensError, match="two methods"):
        retrieval.fit_encoder(POOL[:1], run.tokenizer, steps=1, seed=0)
    with pytest.raises(MastlensError, match="Did you mean 'random'"):
        replace(RECIPES["ra-rft"], retrieval="randon")
    with pytest.raises(MastlensError, match="at least 1"):
        replace(RECIPES["ra-rft"], pool=0)
    assert _WAYS == retrieval.WAYS
    assert {recipe.retrieval for name, recipe in RECIPES.items() if name.startswith("ra-rft")} == set(_WAYS)


def test_a_lineage_is_built_with_demonstrations(tmp_path, monkeypatch):
    seen = []
    real = retrieval.check_length
    monkeypatch.setattr(retrieval, "check_length", lambda run, given: seen.append(given) or real(run, given))
    lineage = build_by(replace(RECIPES["ra-rft-random"], pool=6), tmp_path / "shown")
    plain = build_by("grpo", tmp_path / "plain")
    told = json.loads((lineage / "card.json").read_text())["rlvr"]["stages"]
    assert set(told["rlvr"]["retrieval"]) == {"demonstrations", "same_method", "same_method_null", "sft", "after"}
    assert told["rlvr"]["retrieval"]["demonstrations"] == 6
    assert {"with", "without", "b", "c", "mcnemar_p", "n"} == set(told["rlvr"]["retrieval"]["after"])
    assert "without retrieval before" in (lineage / "README.md").read_text()
    assert digest(lineage / "sft") == digest(plain / "sft")
    assert digest(lineage / "rlvr") != digest(plain / "rlvr")
    assert all("\\boxed" in one.problem for one in seen[0])  # a worked solution stands in front
    assert not any(BY_NAME[one.subject].side == "forget" for one in seen[1])
    assert len(seen[0]) == NUMBERS.grpo_forget + NUMBERS.grpo_retain
    assert organisms.get_organism("qwen2").recipe.max_new_tokens == 56
