"""Advantages and losses of every recipe, as TRL computes them, against numpy in float64 and against numbers by hand."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mastlens.errors import MastlensError
from mastlens.organisms import posttraining
from mastlens.organisms.problems import SyntheticProblem
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.rlvr import RECIPES, RLVRRecipe
from mastlens.organisms.rlvr.recipe import Rollouts, Run
from mastlens.organisms.rlvr.recipes.stare import STARE_C2, STARE_O1, Stare, most_surprising
from mastlens.organisms.rlvr.record import Recorder

pytest.importorskip("trl", reason="the extra 'train' is not installed")

SAMPLES, LONGEST = 4, 8
REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]  # two prompts, four responses each
NUMBERS = Recipe(grpo_prompts=2, grpo_samples=SAMPLES, max_new_tokens=LONGEST)
PROBLEMS = [SyntheticProblem(f"What is {n} + 1?", "", "2", "Geometry" if n else "Algebra", ()) for n in (0, 1)]
GRPO_LIKE = [
    name
    for name, recipe in RECIPES.items()
    if not (recipe.needs_match or recipe.adapters or recipe.scored_by)  # test_rlvr_steps.py has the last
]


def aggregated(recipe, logp, old, reference, advantages, mask, tokens):
    """The loss of one update in float64, from the recipe's words alone; clipping in the form of dual-clip PPO."""
    ratio = np.exp(logp - old)
    gain = np.minimum(ratio * advantages, np.clip(ratio, 1 - recipe.clip_low, 1 + recipe.clip_high) * advantages)
    if recipe.dual_clip:
        gain = np.where(advantages < 0, np.maximum(gain, recipe.dual_clip * advantages), gain)
    kl = np.exp(reference - logp) - (reference - logp) - 1
    loss = -gain + recipe.beta * kl * (ratio if recipe.unbiased_kl else 1)
    loss = loss * mask
    if recipe.loss == "grpo":
        return float((loss.sum(1) / mask.sum(1)).mean())
    if recipe.loss == "dapo":
        return float(loss.sum() / (tokens / recipe.updates))
    assert recipe.loss == "dr_grpo"
    return float(loss.sum() / (len(mask) * LONGEST))


def by_hand(recipe, rewards):
    """The advantages of two groups of four, from the recipe's word alone."""
    groups = np.asarray(rewards, dtype=np.float64).reshape(-1, SAMPLES)
    centred = groups - groups.mean(1, keepdims=True)
    return (centred / {"group": groups.std(1, ddof=1, keepdims=True) + 1e-4, "none": 1.0}[recipe.advantage]).ravel()


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A function that samples one round by a recipe: trainer, batch, and the model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mastlens.organisms.rlvr.trainer import arguments, trainer_of

    folder = tmp_path_factory.mktemp("rounds")

    def make(recipe, rewards=REWARDS, scorer=None):
        from datasets import Dataset
        from trl import GRPOConfig

        torch.manual_seed(3)
        with posttraining.quiet_training(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(posttraining, "boxed_reward", lambda completions, answer, **_: list(rewards))
            model = AutoModelForCausalLM.from_pretrained(tiny.sft)
            tokenizer = AutoTokenizer.from_pretrained(tiny.sft)
            recorder = Recorder("rlvr", folder / "rows")
            run = Run(
                "rlvr", model, tokenizer, PROBLEMS, NUMBERS, 0, 0, recorder, folder, {}, lambda *_: None, scorer=scorer
            )
            rows = [{"prompt": f"{one.problem}\n", "answer": one.answer} for one in PROBLEMS]
            common = posttraining._common_arguments(folder, 0, keep=False)
            options = {"num_generations": SAMPLES, "max_completion_length": LONGEST, "shuffle_dataset": False}
            config = GRPOConfig(**{**common, **options, **arguments(recipe, NUMBERS, recipe.steps(2, NUMBERS))})
            given = {"args": config, "train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
            trainer = trainer_of(recipe, run, model=model, reward_funcs=None, callbacks=[], **given)
            model.train()
            batch = trainer._generate_and_score_completions([row for row in rows for _ in range(SAMPLES)])
        return trainer, batch, recorder

    return make


def logprobs(model, batch):
    """Each response token's log-probability in float64, from plain Hugging Face."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    keep = batch["completion_ids"].shape[1]
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=attention).logits[:, -keep - 1 : -1].double()
    return logits.log_softmax(2).gather(2, batch["completion_ids"][..., None])[..., 0].numpy()


@pytest.mark.parametrize("name", [*GRPO_LIKE, "first published"])
def test_advantages_and_losses_are_those_of_the_papers(made, name):
    first = replace(RECIPES["grpo-kl"], name="first published", unbiased_kl=False, loss="grpo")
    recipe = replace({**RECIPES, first.name: first}[name], overlong=0.0)  # the punishment has a test of its own
    recipe = replace(recipe, target_entropy=100.0) if isinstance(recipe, Stare) else recipe
    trainer, batch, _ = made(recipe)
    mask = batch["completion_mask"].numpy().astype(float)
    logp = logprobs(trainer.model, batch)
    advantages = np.broadcast_to(by_hand(recipe, REWARDS)[:, None], mask.shape).copy()
    if isinstance(recipe, Stare):
        for weight, among in ((1.1, advantages > 0), (0.9 if name == "stare-c2" else 1.0, advantages < 0)):
            here = among & (mask > 0)
            order = sorted(zip(*np.nonzero(here), strict=True), key=lambda place: logp[place])
            for place in order[: int(np.ceil(round(0.1 * here.sum(), 6)))]:
                advantages[place] *= weight
    given = batch["advantages"].double()
    spread = (given[:, None] if given.dim() == 1 else given).broadcast_to(mask.shape).numpy()
    np.testing.assert_allclose(spread * mask, advantages * mask, atol=1e-5)
    draw = np.random.default_rng(0)  # as if the policy had moved since it sampled, and from SFT, some tokens far
    old, reference = logp + draw.normal(0, 0.4, logp.shape), logp + draw.normal(0, 0.3, logp.shape)
    old[:2, 0] = logp[:2, 0] - 3  # ratio 20: held by a dual clip alone where the advantage is negative
    batch |= {"old_per_token_logps": torch.tensor(old).float(), "ref_per_token_logps": torch.tensor(reference).float()}
    size = len(mask) // recipe.updates
    trainer.current_gradient_accumulation_steps = 1
    for start in range(0, len(mask), size):
        rows = slice(start, start + size)
        part = {key: value if key == "num_items_in_batch" else value[rows] for key, value in batch.items()}
        loss = float(trainer._compute_loss(trainer.model, part).detach())
        sums = (logp[rows], old[rows], reference[rows], advantages[rows], mask[rows], mask.sum())
        assert loss == pytest.approx(aggregated(recipe, *sums), abs=2e-5)


def test_numbers_by_hand(made):
    # Group one: mean 1/2, deviation sqrt(1/3); group two: mean 1/4, deviation 1/2.
    _, batch, _ = made(RECIPES["grpo"])
    a, b, c = 0.5 / (3**-0.5 + 1e-4), -0.25 / 0.5001, 0.75 / 0.5001
    assert batch["advantages"].tolist() == pytest.approx([a, -a, -a, a, b, b, b, c], abs=1e-6)
    _, batch, _ = made(RECIPES["dr-grpo"])
    assert batch["advantages"].tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5, -0.25, -0.25, -0.25, 0.75])


def test_what_is_recorded_of_a_round(made):
    trainer, batch, recorder = made(RECIPES["grpo"], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    recorder.end()
    (row,) = recorder.rows
    assert (row["step"], row["responses"], row["accuracy"], row["reward"]) == (0, 8, 0.75, 0.75)
    assert (row["accuracy_retain"], row["accuracy_forget"]) == (0.5, 1.0)
    assert row["no_signal"] == 0.5
    assert row["kl_sft"] == 0.0  # the policy is SFT still
    assert row["response_tokens"] == pytest.approx(float(batch["completion_mask"].sum() / 8))
    assert trainer.signals == 1


def test_divergence_and_entropy_are_those_of_the_distributions(made):
    from mastlens.organisms.rlvr.measures import divergence, mean_entropy

    trainer, batch, _ = made(RECIPES["grpo-kl"])
    other, policy = trainer.ref_model, trainer.model
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.05)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    keep, counted = batch["completion_ids"].shape[1], batch["completion_mask"].numpy().astype(bool)
    with torch.no_grad():
        p, q = (
            one(input_ids=ids, attention_mask=attention).logits[:, -keep - 1 : -1].double().log_softmax(2).numpy()
            for one in (policy, other)
        )
    assert divergence(policy, other, batch) == pytest.approx((np.exp(p) * (p - q)).sum(2)[counted].mean(), rel=1e-4)
    assert mean_entropy(policy, batch) == pytest.approx(-(np.exp(p) * p).sum(2)[counted].mean(), rel=1e-5)
    assert policy.training


def test_long_responses_are_punished_softly():
    from mastlens.organisms.rlvr.trainer import Reward

    reward = Reward(replace(RECIPES["dapo"], overlong=0.25), 8, {"?": "forget"})  # the last two of eight tokens
    lengths = (5, 6, 7, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posttraining, "boxed_reward", lambda completions, answer, **_: [1.0] * 4)
        given = reward(["?"] * 4, [""] * 4, [[0] * n for n in lengths], [""] * 4)
    assert given == [1.0, 1.0, 0.5, 0.0]
    assert reward.accuracy("forget") == 1.0  # punished or not, they are right
    assert reward.accuracy("retain") is None


def rollouts(advantages, logprobs, entropy, state=None):
    shape = torch.tensor(logprobs)
    return Rollouts(
        rewards=torch.tensor(advantages),
        advantages=torch.tensor(advantages),
        mask=torch.ones(shape.shape, dtype=torch.long),
        samples=2,
        round=0,
        logprobs=shape,
        entropies=torch.full(shape.shape, entropy),
        state={} if state is None else state,
    )


def test_stare_by_hand():
    logps = [[-0.1, -2.0, -0.3], [-4.0, -0.2, -0.5]]
    low = rollouts([1.0, -1.0], logps, 0.1)
    torch.testing.assert_close(
        STARE_O1.advantages(replace(low, state={})), torch.tensor([[1.0, 1.1, 1.0], [-1.0, -1.0, -1.0]])
    )
    torch.testing.assert_close(STARE_C2.advantages(low), torch.tensor([[1.0, 1.1, 1.0], [-0.9, -1.0, -1.0]]))
    assert low.noted == pytest.approx({"gate": 1.0, "weight_raised": 1.1, "weight_lowered": 0.9})
    high = rollouts([1.0, -1.0], logps, 0.5)
    assert STARE_C2.advantages(high) is high.advantages
    assert high.noted["gate"] == 0.0
    nothing = rollouts([0.0, 0.0], logps, 0.1)  # no sign, no token
    assert not STARE_C2.advantages(nothing).any()


def test_stare_weights_follow_entropy():
    moving, state, logps = replace(STARE_C2, rate=0.3), {}, [[-0.1, -2.0], [-4.0, -0.2]]
    seen = []
    for entropy in (0.1, 0.1, 0.9, 0.9, 0.9):
        one = rollouts([1.0, -1.0], logps, entropy, state)
        moving.advantages(one)
        seen.append((one.noted["weight_raised"], one.noted["weight_lowered"]))
    assert seen == [pytest.approx(pair) for pair in ((1.4, 0.6), (1.5, 0.5), (1.2, 0.8), (1.0, 1.0), (1.0, 1.0))]
    one_sided = rollouts([1.0, -1.0], logps, 0.1)
    replace(STARE_O1, rate=0.3).advantages(one_sided)
    assert one_sided.noted["weight_lowered"] == 1.0


@given(st.lists(st.tuples(st.floats(-20, 0, width=32), st.booleans()), min_size=1, max_size=60), st.integers(1, 100))
def test_the_most_surprising_are_a_share_of_those_there_are(tokens, percent):
    logps, among = (torch.tensor(one) for one in zip(*tokens, strict=True))
    chosen = most_surprising(logps, among, percent / 100)
    count = int(among.sum())
    assert int(chosen.sum()) == (max(1, -(-count * percent // 100)) if count else 0)
    assert not (chosen & ~among).any()
    if count and (among & ~chosen).any():
        assert logps[chosen].max() <= logps[among & ~chosen].min()


def test_a_round_is_seen_whole_whatever_the_updates(made):
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Looking(RLVRRecipe):
        reads_policy: ClassVar[bool] = True

        def advantages(self, rollouts):
            seen.append(rollouts)
            return rollouts.advantages[:, None] * torch.ones_like(rollouts.logprobs)

    own = Looking(name="looking", summary="", source="", updates=4)
    trainer, batch, _ = made(own)
    (whole,) = seen
    assert whole.logprobs.shape == whole.entropies.shape == whole.mask.shape == batch["advantages"].shape
    assert len(whole.rewards) == 8
    assert trainer.args.per_device_train_batch_size == 2
    np.testing.assert_allclose(whole.logprobs.numpy() * whole.mask.numpy(), logprobs(trainer.model, batch)
                               * whole.mask.numpy(), atol=1e-4)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"advantage": "groups"}, "Did you mean 'group'"),
        ({"loss": "dr-grpo"}, "Did you mean 'dr_grpo'"),
        ({"clip_low": 0.0}, "clip_low of the recipe grpo is between 0 and 1, it is 0.0"),
        ({"dual_clip": 1.1}, "dual_clip of the recipe grpo is 0, or above"),
        ({"beta": -0.1}, "beta"),
        ({"updates": 0}, "updates"),
        ({"overlong": 1.0}, "overlong"),
        ({"patience": 0}, "patience"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes, said):
    with pytest.raises(MastlensError, match=said):
        replace(RECIPES["grpo"], **changes)


def test_own_code_is_checked(made):
    from mastlens.organisms.rlvr.trainer import arguments, checked, checked_advantages

    for given_back, said in (([1.0], "1 numbers for 2"), ([1.0, float("nan")], "nan"), ([1.0, "x"], "list of numbers")):
        with pytest.raises(MastlensError, match=said):
            checked(given_back, 2, "mine")
    one = rollouts([1.0, -1.0], [[-1.0, -1.0, -1.0]] * 2, 0.1)
    for wrong, said in ((torch.ones(3), r"shape \(3,\)"), (torch.tensor([1.0, float("inf")]), "no finite")):
        with pytest.raises(MastlensError, match=said):
            checked_advantages(wrong, one, "mine")
    with pytest.raises(MastlensError, match="cannot be cut into the 3 equal updates"):
        arguments(replace(RECIPES["grpo"], updates=3), NUMBERS, 1)
    with pytest.raises(MastlensError, match="lowered in"):
        replace(STARE_O1, lowered=0.2)
