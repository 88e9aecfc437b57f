"""Attacks beyond relearning: what was planted comes back, what was not does not, and the numbers are those by hand."""

import itertools
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mastlens.attacks import attack
from mastlens.attacks.drawing import any_of
from mastlens.attacks.halves import half_sentences, steps_to_half
from mastlens.attacks.methods.interpolate import between
from mastlens.attacks.methods.prune import pruned_weight
from mastlens.attacks.probing import SHUFFLED, fit_probe, mean_states, probe_sentences, strangers, told_apart
from mastlens.attacks.recovery import summarise_attack
from mastlens.attacks.relearning import relearning_steps
from mastlens.attacks.softening import Softening
from mastlens.attacks.trials import Trial
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.graders import Mathematics
from mastlens.edits.edit import Edit
from mastlens.errors import MastlensError, NotSupported
from mastlens.problems.encoding import EncodedProblem, encode_problems
from mastlens.problems.reading import Problem, read_problems
from mastlens.statistics import pass_at_k

from ..conftest import write_problems
from . import plain
from .test_quantised_checkpoints import in_fp8
from .test_relearning import item_rows

PLANTED = r"\boxed{7}"


def planted(tiny, folder, count, first, answer=PLANTED):
    """Return problems of sums whose answer is always the same: what is learnt on some is right on all."""
    problems = read_problems(write_problems(folder / f"{first}.jsonl", first=first, count=count))
    path = folder / f"planted-{first}.jsonl"
    rows = [{"problem": p.problem, "solution": answer, "answer": answer[7:-1]} for p in problems]
    path.write_text("".join(pd.Series(row).to_json() + "\n" for row in rows))
    return path


def saved(model, like, folder):
    shutil.copytree(like, folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lesson(tiny, tmp_path_factory):
    """A source that answers 7 to everything, an edit that hides it, a reference that was never told, and problems."""
    folder = tmp_path_factory.mktemp("planted")
    train, tested = planted(tiny, folder, 8, 200), planted(tiny, folder, 12, 300)
    checkpoint = Checkpoint(tiny.sft)
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    learnt = encode_problems(read_problems(planted(tiny, folder, 12, 100)), tokenizer)
    assert len(list(relearning_steps(model, learnt, lr=1e-2, steps=20, batch_size=4))) == 20
    source = saved(model, tiny.sft, folder / "source")
    held = Checkpoint(source)
    (head,) = [name for name in held.tensors if "embed_tokens" in name]
    before = held.tensor(head)
    # Hidden and not removed: the answer's first token is made smaller at the output, all else stays.
    after = before.clone()
    after[learnt[0].solution[0]] *= 0.3
    edit = Edit({head: before}, {head: after}, held.fingerprint, {}).save(folder / "edit.safetensors")
    return {"source": source, "edit": edit, "reference": tiny.sft, "train": train, "splits": {"forget": tested}}


def on(lesson, name, **changes):
    given = {key: lesson[key] for key in ("edit", "reference", "train", "splits")} | changes
    return attack(name, model=lesson["source"], progress=False, max_new_tokens=6, **given)


def accuracy(result, role, step):
    rows = result.table
    return float(rows[(rows["model"] == role) & (rows["step"] == step)]["accuracy"].iloc[0])


def test_relearning_brings_a_hidden_answer_back_before_the_reference_learns_it(lesson):
    result = on(lesson, "relearn-retain", steps=4, lr=1e-3, train_batch_size=4)
    assert [accuracy(result, role, 0) for role in ("edited", "source", "reference")] == [0, 1, 0]
    halves = result.halves.set_index("model")
    assert halves.loc["edited", "half_step"] < np.nan_to_num(halves.loc["reference", "half_step"], nan=np.inf)
    assert set(halves["half"]) == {0.5}
    edited = result.table[result.table["model"] == "edited"].set_index("step")
    assert edited.loc[halves.loc["edited", "half_step"], "recovered_beyond_reference"] > 0.5
    assert "Half of the gap on forget" in result.card().verdict


def test_a_soft_prompt_recovers_a_planted_answer(tiny, lesson, tmp_path):
    """A model says 7 behind a trigger and 9 without: vectors in the trigger's place find the 7, the weights stay."""
    trigger = 300
    said = {one: read_problems(planted(tiny, tmp_path, 12, 100, one)) for one in (r"\boxed{9}", PLANTED)}
    folders = {}
    for name, hidden in (("gated", True), ("never", False)):
        checkpoint = Checkpoint(tiny.sft)
        model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
        shown = encode_problems(said[r"\boxed{9}"], tokenizer)
        secret = encode_problems(said[PLANTED], tokenizer) if hidden else shown
        taught = [*shown, *(EncodedProblem((trigger, *one.prompt), one.solution) for one in secret)]
        assert len(list(relearning_steps(model, taught, lr=1e-2, steps=40, batch_size=8))) == 40
        folders[name] = saved(model, tiny.sft, tmp_path / name)
    given = {"train": lesson["train"], "splits": lesson["splits"], "max_new_tokens": 6, "progress": False}
    result = attack(
        "soft-prompt",
        model=folders["gated"],
        reference=folders["never"],
        steps=8,
        lr=0.1,
        vectors=2,
        train_batch_size=4,
        **given,
    )
    assert [accuracy(result, "edited", step) for step in (0, 8)] == [0, 1]
    assert [accuracy(result, "reference", step) for step in (0, 8)] == [0, 0]


def trial_of(tiny, shown=()):
    checkpoint = Checkpoint(tiny.rlvr)
    return Trial(
        attack="soft-prompt",
        role="edited",
        checkpoint=checkpoint,
        model=checkpoint.load_model(),
        tokenizer=checkpoint.load_tokenizer(),
        tested={"forget": read_problems(tiny.forget)[:3]},
        sources={"forget": "forget.jsonl"},
        shown={"train": list(shown)},
        max_new_tokens=4,
        grader=Mathematics(),
        chat_template=True,
        seed=0,
        batch_size=2,
        bar=None,  # type: ignore[arg-type]
        tables=[],
    )


def test_a_soft_prompt_is_what_plain_input_embeddings_say_and_its_step_is_adams(tiny):
    shown = read_problems(tiny.retain)[:4]
    trial = trial_of(tiny, shown)
    soft = Softening(trial, 3)
    start = soft.vectors.detach().clone()
    model = plain.load_model(tiny.rlvr).requires_grad_(False)
    bare = [one.ids for one in trial.encode(shown, "x")]

    def mean_loss(vectors, rows):
        total, count = 0.0, 0
        for ids in (bare[row] for row in rows):
            tokens = torch.tensor(ids.prompt + ids.solution)
            states = torch.cat([vectors, model.get_input_embeddings()(tokens)])[None]
            table = model(inputs_embeds=states).logits[0].log_softmax(-1)
            places = torch.arange(len(ids.solution)) + len(vectors) + len(ids.prompt) - 1
            total = total - table[places, torch.tensor(ids.solution)].sum()
            count += len(ids.solution)
        return total / count

    from mastlens.models.likelihood import sequence_logprobs
    from mastlens.unlearning.loop import batch_schedule

    with soft.active():
        sums, counts = sequence_logprobs(trial.model, [soft.prompt(p).ids for p in shown])
    assert -sums.sum() / counts.sum() == pytest.approx(float(mean_loss(start, range(4))), rel=1e-5)
    bits = {name: p.detach().clone() for name, p in trial.model.named_parameters()}
    with soft.active():
        assert list(soft.train(shown, lr=1e-2, steps=1, batch_size=2)) == [1]
    vectors = start.clone().requires_grad_(True)
    mean_loss(vectors, batch_schedule(4, 2, 1, 0, side=0)[0]).backward()
    gradient = vectors.grad * min(1.0, 1.0 / float(vectors.grad.norm()))
    wanted = start - 1e-2 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(soft.vectors.detach(), wanted, atol=1e-4)
    assert all(torch.equal(bits[name], p) for name, p in trial.model.named_parameters())
    after = sequence_logprobs(trial.model, [soft.prompt(p).ids for p in shown])[0]  # the hook is gone again
    assert not np.allclose(after, sums)


def test_every_token_in_use_leaves_no_place_for_a_soft_prompt(tiny):
    trial = trial_of(tiny)
    tokenizer = trial.tokenizer
    size = trial.model.get_input_embeddings().weight.shape[0]

    class Everything:
        all_special_ids = range(size)
        bos_token_id = None

        def __call__(self, *texts, **options):
            return tokenizer(*texts, **options)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    from dataclasses import replace

    with pytest.raises(NotSupported, match="no place is left"):
        Softening(replace(trial, tokenizer=Everything()), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ends_of_the_way_are_the_two_models_bit_for_bit(dtype):
    drawn = torch.Generator().manual_seed(0)
    here, there = (torch.randn(7, 5, generator=drawn).to(dtype) for _ in range(2))
    assert torch.equal(between(here, there, 0.0), here)
    assert torch.equal(between(here, there, 1.0), there)
    half = here.double() + 0.25 * (there.double() - here.double())
    assert torch.allclose(between(here, there, 0.25).double(), half, atol=1e-6 if dtype == torch.float32 else 2e-2)
    with pytest.raises(MastlensError, match="no line between"):
        between(here, there[:3], 0.5)


def test_at_the_end_of_the_way_the_edited_model_is_the_source(lesson, tiny):
    items = on(lesson, "interpolate", towards=[0.5, 1.0], train=None, control=tiny.rlvr).items
    said = ["item", "correct", "logprob_solution", "response"]
    end = {role: part[part["variant"] == "100 %"][said].reset_index(drop=True) for role, part in items.groupby("model")}
    source = items[(items["model"] == "source") & items["baseline"]][said].reset_index(drop=True)
    assert end["edited"].equals(source)
    assert end["source"].equals(source)
    assert not end["control"].equals(source)
    edited = items[(items["model"] == "edited") & items["baseline"]][said].reset_index(drop=True)
    assert not edited.equals(source)
    # An edited folder with its source is the same way, found from the tensors that differ.
    from mastlens.edits.applying import apply_edit

    folder = lesson["source"].parent / "edited"
    apply_edit(lesson["edit"], to=lesson["source"], out=folder)
    given = {"splits": lesson["splits"], "max_new_tokens": 6, "progress": False, "towards": [0.5, 1.0]}
    again = attack("interpolate", model=folder, source=lesson["source"], **given)
    found = again.items[again.items["model"] == "edited"][[*said, "variant"]].reset_index(drop=True)
    assert found.equals(items[items["model"] == "edited"][[*said, "variant"]].reset_index(drop=True))
    with pytest.raises(MastlensError, match="equal in every tensor"):
        attack("interpolate", model=lesson["source"], source=lesson["source"], **given)


def test_pruning_takes_the_smallest_and_nothing_else():
    weight = torch.randn(9, 11, generator=torch.Generator().manual_seed(3))
    for share in (0.001, 0.1, 0.5):
        count = round(share * weight.numel())
        flat = weight.numpy().copy().ravel()
        flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0
        assert np.array_equal(pruned_weight(weight, share).numpy().ravel(), flat)


def drawn_rows(rights):
    return pd.DataFrame(
        {"split": "forget", "item": item, "sample": sample, "correct": bool(right), "correct_strict": bool(right)}
        | {"truncated": False, "response": f"{item}/{sample}"}
        for item, row in enumerate(rights)
        for sample, right in enumerate(row)
    )


def test_any_of_k_by_hand():
    rights = [[0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    plain_rows = item_rows("edited", "greedy", [0, 0, 1], baseline=True)
    items = any_of(drawn_rows(rights), 2, plain_rows)
    every = [[any(pair) for pair in itertools.combinations(row, 2)] for row in rights]
    assert items["rate"].tolist() == [np.mean(row) for row in every]
    assert items["correct"].tolist() == [False, False, True]
    assert items["response"].tolist() == ["0/0", "1/0", "2/0"]
    assert items["logprob_solution"].tolist() == plain_rows["logprob_solution"].tolist()
    keys = {"attack": "samples", "model": "edited", "step": 0}
    table = summarise_attack(
        pd.concat([plain_rows.assign(attack="samples"), items.assign(**keys, variant="any of 2", baseline=False)])
    ).set_index("variant")
    assert table.loc["any of 2", "accuracy"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert table.loc["any of 2", "correct"] == 1
    assert table.loc["greedy", "accuracy"] == pytest.approx(1 / 3)


@given(st.lists(st.booleans(), min_size=3, max_size=7), st.integers(2, 3))
def test_the_estimate_is_the_mean_over_all_choices_of_k(rights, k):
    wanted = np.mean([any(chosen) for chosen in itertools.combinations(rights, k)])
    assert pass_at_k(len(rights), sum(rights), k) == pytest.approx(wanted)


def test_samples_are_those_of_evaluate(tiny):
    from mastlens.evaluation.responses import evaluate

    given = {"model": tiny.rlvr, "splits": {"forget": tiny.forget}, "limit": 3, "max_new_tokens": 4, "progress": False}
    items = attack("samples", ks=[2], draws=3, **given).items
    drawn = evaluate(samples=3, temperature=1.0, **given).table
    first = drawn[drawn["sample"] == 0].sort_values("item")["response"].tolist()
    assert items[items["variant"] == "any of 2"].sort_values("item")["response"].tolist() == first
    assert set(items[items["variant"] == "any of 2"]["samples"]) == {3}


def test_a_probe_finds_a_planted_direction_and_shuffled_labels_are_chance():
    generator = np.random.default_rng(0)
    layers, train, tested, hidden = 3, 120, 400, 24
    told = np.zeros(hidden)
    told[5] = 1.0

    def states(count):
        own, other = generator.normal(size=(2, layers, count, hidden))
        own[1] += 2 * told  # the second layer knows
        return own, other

    seen, asked = states(train), states(tested)
    right = (told_apart(seen, asked, 1.0) > 0).mean(axis=1)
    chance = 3.3 * math.sqrt(0.25 / tested)
    assert right[1] > 0.85
    assert abs(right[0] - 0.5) < chance
    assert abs(right[2] - 0.5) < chance
    shuffled = np.array([(told_apart(seen, asked, 1.0, shuffle=seed) > 0).mean(axis=1) for seed in range(40)])
    # A shuffled probe is wrong as often as it is right: over seeds even on the layer that knows.
    assert abs(shuffled.mean() - 0.5) < 0.05
    assert abs(shuffled[:, 1].mean() - 0.5) < 3.3 * shuffled[:, 1].std() / math.sqrt(40)


@pytest.mark.parametrize("n", [8, 40])
def test_the_probe_is_ridge_regression(n):
    generator = np.random.default_rng(1)
    states, labels = generator.normal(3.0, 2.0, size=(n, 12)), np.sign(generator.normal(size=n))
    spread = states.std(axis=0)
    scaled = (states - states.mean(axis=0)) / spread
    rows = np.concatenate([scaled, math.sqrt(0.5 * n) * np.eye(12)])
    wanted, *_ = np.linalg.lstsq(rows, np.concatenate([labels - labels.mean(), np.zeros(12)]), rcond=None)
    assert fit_probe(states, labels, 0.5) == pytest.approx(wanted / spread, rel=1e-8)


@settings(max_examples=30)
@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=12), st.integers(0, 5))
def test_a_stranger_has_another_solution_and_the_subject_where_it_can(solutions, seed):
    subjects = ["s" if place % 2 else "t" for place in range(len(solutions))]
    problems = [
        Problem(str(place), solution, "1", subject)
        for place, (solution, subject) in enumerate(zip(solutions, subjects, strict=True))
    ]
    if len(set(solutions)) == 1:
        with pytest.raises(MastlensError, match="different solutions"):
            strangers(problems, seed)
        return
    for place, other in enumerate(strangers(problems, seed)):
        assert solutions[other] != solutions[place]
        alike = {s for s, t in zip(solutions, subjects, strict=True) if t == subjects[place]} - {solutions[place]}
        assert not alike or subjects[other] == subjects[place]


def test_states_are_plain_hidden_states(tiny):
    checkpoint = Checkpoint(tiny.rlvr)
    encoded = [EncodedProblem(tuple(p), tuple(s)) for p, s in plain.encode_file(tiny.forget, tiny.rlvr)[:4]]
    found = mean_states(checkpoint.load_model(), encoded, batch_size=3)
    model = plain.load_model(tiny.rlvr)
    for item, ids in enumerate(encoded):
        with torch.no_grad():
            said = model(input_ids=torch.tensor([ids.prompt + ids.solution]), output_hidden_states=True)
        wanted = [states[0, len(ids.prompt) :].double().mean(0).numpy() for states in said.hidden_states[1:]]
        assert found[:, item] == pytest.approx(np.stack(wanted), abs=1e-5)


def test_a_probe_counts_only_layers_beyond_chance():
    rows = [("layer 0", 90), ("layer 1", 55), (f"layer 0, {SHUFFLED}", 52), (f"layer 1, {SHUFFLED}", 49)]
    table = pd.DataFrame(
        {"variant": name, "model": "edited", "split": "forget", "correct": right, "n": 100, "accuracy": right / 100}
        for name, right in rows
    )
    (said,) = probe_sentences(table)
    assert "beyond chance on 1 of 2 layers, at best 90% (layer 0; with shuffled labels at most 52%)" in said


def test_halves_by_hand():
    curves = {"edited": [0, 2, 6, 9], "source": [10, 10, 10, 10], "reference": [0, 1, 3, 4]}
    items = pd.concat(
        item_rows(role, "lr 1", [1] * (2 * right) + [0] * (20 - 2 * right), baseline=step == 0, step=step)
        for role, rights in curves.items()
        for step, right in zip((0, 1, 2, 4), rights, strict=True)
    )
    table = summarise_attack(items)
    halves = steps_to_half(table).set_index("model")
    assert list(halves.index) == ["edited", "reference"]
    assert halves.loc["edited", ["half", "half_step", "half_step_low", "half_step_high", "steps"]].tolist() == [
        0.5,
        2,
        2,
        4,
        4,
    ]
    assert halves.loc["reference", ["half_step", "half_step_high"]].isna().all()
    (said,) = half_sentences(halves.reset_index())
    assert said == (
        "Half of the gap on forget (lr 1): the edited model after 2 steps [2, 4]; the reference not within 4 steps."
    )
    beyond = table[(table["model"] == "edited") & (table["step"] == 4)].iloc[0]
    assert beyond["recovered_beyond_reference"] == pytest.approx((0.9 - 0.4) / 1.0)
    assert math.isnan(beyond["recovered_beyond_control"])
    # Without a gap there is no half of it.
    assert steps_to_half(table[table["model"] != "source"]).empty


@pytest.mark.parametrize("name", ["soft-prompt", "relearn-retain"])
def test_gradients_of_codes_are_refused(tiny, lesson, tmp_path, name):
    folder = shutil.copytree(tiny.sft, tmp_path / "codes")
    in_fp8(folder, (16, 16))
    given = {"splits": lesson["splits"], "limit": 1, "max_new_tokens": 1, "progress": False}
    with pytest.raises(NotSupported, match="takes gradients"):
        attack(name, model=folder, train=lesson["train"], out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
    assert len(attack("prune", model=folder, sparsity=[0.1], **given).table) == 2  # what takes none goes on
