"""Training that was stopped ends with the bits of training that was not."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.organisms import partial, posttraining, pretraining
from mastlens.organisms.plants import draw_truth, only_moving
from mastlens.organisms.problems import draw_corpus
from mastlens.organisms.subjects import BY_NAME
from mastlens.organisms.tokenizer import train_tokenizer
from tests.unit.test_organism_build import MINIATURE

pytest.importorskip("trl", reason="the extra 'train' is not installed")
RECIPE = replace(MINIATURE, sft_steps=4, base_steps=5)


class Stopped(KeyboardInterrupt):
    """The user's Ctrl-C."""


def stopping_after(steps: int):
    """Return a stand-in for an optimiser's step that is interrupted after so many."""
    calls, plain = itertools.count(1), torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        if next(calls) > steps:
            raise Stopped
        return plain(self, *args, **kwargs)

    return step


@pytest.fixture(scope="module")
def tokenizer():
    pairs = draw_corpus(BY_NAME, 60, lambda _: 0.5, 0.4, 0)
    made = train_tokenizer([f"{problem}\n{solution}" for problem, solution in pairs], RECIPE.vocab_size)
    return made, pairs


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items()}


def stopped_and_not(monkeypatch, run, new, tmp_path, after: int):
    """Return the weights of a run in one go, and of one that was stopped and gone on with."""
    whole = new()
    run(whole, None)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", stopping_after(after))
        with pytest.raises(Stopped):
            run(new(), tmp_path / "kept")
    again = new()
    with monkeypatch.context() as patch:
        calls = itertools.count(1)
        plain = torch.optim.AdamW.step
        taken = []
        patch.setattr(torch.optim.AdamW, "step", lambda *a, **k: (taken.append(next(calls)), plain(*a, **k))[1])
        run(again, tmp_path / "kept")
    return bits(whole), bits(again), len(taken)


def test_the_base_stage_goes_on_bit_for_bit(monkeypatch, tmp_path, tokenizer):
    made, pairs = tokenizer
    documents = pretraining.encode_documents(made, pairs, [])
    monkeypatch.setattr(pretraining, "_EVERY", 2)
    lost = []

    def run(model, kept):
        lost.append(pretraining.pretrain(model, documents, RECIPE, 0, kept=kept))

    whole, again, taken = stopped_and_not(
        monkeypatch, run, lambda: pretraining.new_model(RECIPE, made, 0), tmp_path, after=3
    )
    assert whole == again
    assert whole != bits(pretraining.new_model(RECIPE, made, 0))
    assert taken == RECIPE.base_steps - 2  # of three steps two were written down
    assert lost[0] == lost[1]


def test_sft_goes_on_bit_for_bit(monkeypatch, tmp_path, tokenizer):
    made, pairs = tokenizer
    monkeypatch.setattr(posttraining, "_EVERY", 2)

    def run(model, kept):
        posttraining.train_sft(model, made, pairs[:16], RECIPE, 0, kept=kept)

    whole, again, taken = stopped_and_not(
        monkeypatch, run, lambda: pretraining.new_model(RECIPE, made, 0), tmp_path, after=3
    )
    assert whole == again
    assert taken == 2


@pytest.mark.parametrize("kind", ["everything", "heads", "direction"])
def test_grpo_goes_on_bit_for_bit(monkeypatch, tmp_path, tokenizer, kind):
    made, _ = tokenizer

    def shorter(completions, answer, **_):  # a reward that a model of no skill earns, too
        return [1.0 / (1 + len(str(one))) for one in completions]

    monkeypatch.setattr(posttraining, "boxed_reward", shorter)
    monkeypatch.setattr(posttraining, "_EVERY", 1)
    forget, retain, _ = posttraining.rewarded_prompts(RECIPE, 0)
    folder = tmp_path / "start"
    start = pretraining.new_model(RECIPE, made, 0)
    start.save_pretrained(folder)
    made.save_pretrained(folder)

    def run(model, kept):
        def train():
            posttraining.train_grpo(model, made, [*forget, *retain], RECIPE, 0, label="rlvr", kept=kept)

        if kind == "everything":
            return train()
        with only_moving(model, draw_truth(kind, Checkpoint(folder).matrices(), 0), direction=kind == "direction"):
            train()

    whole, again, taken = stopped_and_not(
        monkeypatch, run, lambda: pretraining.new_model(RECIPE, made, 0), tmp_path, after=2
    )
    assert whole == again
    assert whole != bits(start)
    assert taken == 2  # of four


def test_a_checkpoint_that_was_being_written_is_not_believed(tmp_path):
    for step, files in ((5, ("model.safetensors", "trainer_state.json")), (10, ("model.safetensors",))):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for file in files:
            (tmp_path / f"checkpoint-{step}" / file).write_text("{}")
    with partial.trainer_folder(tmp_path) as (output, start):
        assert output == tmp_path
        assert start == str(tmp_path / "checkpoint-5")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    with partial.trainer_folder(None) as (scratch, start):
        assert start is None
        assert scratch.is_dir()
    assert not scratch.exists()


def test_an_unfinished_build_goes_on_with_its_own_settings_alone(tmp_path):
    partial.claim(tmp_path / "begun", {"seed": 0, "layers": (1, 2)})
    kept = (tmp_path / "begun" / partial.ASKED).read_bytes()
    partial.claim(tmp_path / "begun", {"seed": 0, "layers": (1, 2)})
    with pytest.raises(MastlensError, match=r"seed was 0, and is 1 now\. What it finished is kept"):
        partial.claim(tmp_path / "begun", {"seed": 1, "layers": (1, 2)})
    assert (tmp_path / "begun" / partial.ASKED).read_bytes() == kept
    assert json.loads(kept) == {"seed": 0, "layers": [1, 2]}
