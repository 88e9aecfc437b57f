"""TRL's GRPOTrainer with a recipe: its loss and its sampling as they are, the advantages the recipe's, all recorded."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.decoding.steps import steps_of_tokens
from mastlens.errors import BadSetting, NotSupported
from mastlens.evaluation.process.model import Scored
from mastlens.organisms.rlvr.measures import CHUNK, divergence, whole
from mastlens.organisms.rlvr.recipe import RLVRRecipe, Rollouts, Run
from mastlens.organisms.subjects import BY_NAME
from mastlens.runs.files import write_json
from mastlens.runs.reading import read_object

if TYPE_CHECKING:
    from torch import Tensor
    from trl import GRPOTrainer

MEASURED = 20
"""Rounds of a run, at the most, in which the KL divergence to SFT is measured, spread evenly, the first among them."""

_READ = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
_EVERY = 5  # rounds between two checkpoints that a run which was stopped goes on from
_NOTHING = 1e-9  # an advantage below this is none


class Reward:
    """What TRL asks for rewards: the recipe's, checked, less what overlong responses are punished by; all is kept.

    Args:
        recipe: The recipe.
        longest: Longest response, in tokens.
        sides: Prompt to side, forget or retain.
        scoring: What is said of the steps of the round's responses, from prompts, responses and their tokens; None for
            nothing.
    """

    __name__ = "reward"  # TRL names its metrics by it

    def __init__(
        self,
        recipe: RLVRRecipe,
        longest: int,
        sides: dict[str, str],
        scoring: Callable[..., Sequence[Scored] | None] = lambda *_: None,
    ):
        self.recipe, self.sides, self.scoring = recipe, sides, scoring
        self.scored: Sequence[Scored] | None = None
        self.ids: Sequence[Sequence[int]] = ()
        self.total: list[float] = []
        self.correct: list[tuple[str, float]] = []
        self._punish = None
        if recipe.overlong:
            from trl.rewards import get_soft_overlong_punishment

            self._punish = get_soft_overlong_punishment(longest, max(1, round(recipe.overlong * longest)))

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        answer: Sequence[str],
        **columns: Any,
    ) -> list[float]:
        """Return the reward of each response."""
        self.scored, self.ids = self.scoring(prompts, completions, completion_ids), completion_ids
        columns |= {"prompts": prompts, "completion_ids": completion_ids, "scored": self.scored}
        given = self.recipe.reward(completions=completions, answer=answer, **columns)
        values = checked(given, len(completions), self.recipe.name)
        own = type(self.recipe).reward is not RLVRRecipe.reward
        right = RLVRRecipe.reward(self.recipe, completions, answer) if own else values
        self.correct = [(self.sides[prompt], float(one)) for prompt, one in zip(prompts, right, strict=True)]
        if self._punish is not None:
            values = [a + b for a, b in zip(values, self._punish(completion_ids=completion_ids), strict=True)]
        self.total = values
        return values

    def accuracy(self, side: str | None = None) -> float | None:
        """Return the share of right responses in the last round, of one side or of both; None where there is none."""
        among = [right for where, right in self.correct if side in (None, where)]
        return math.fsum(among) / len(among) if among else None


def checked(given: Any, count: int, name: str) -> list[float]:
    """Return rewards as numbers.

    Raises:
        MastlensError: If there are more or fewer than responses, or one is no finite number.
    """
    try:
        values = [float(one) for one in given]
    except (TypeError, ValueError) as error:
        raise BadSetting(f"The reward of the recipe {name} is a list of numbers, one a response: {error}.") from error
    if len(values) != count:
        raise BadSetting(f"The reward of the recipe {name} gave {len(values)} numbers for {count} responses.")
    if not all(map(math.isfinite, values)):
        wrong = next(one for one in values if not math.isfinite(one))
        raise BadSetting(f"The reward of the recipe {name} gave {wrong}: a reward is a finite number.")
    return values


def arguments(recipe: RLVRRecipe, numbers: Any, steps: int) -> dict[str, Any]:
    """Return what of TRL's ``GRPOConfig`` a recipe decides.

    Raises:
        MastlensError: If a round cannot be cut into as many updates.
    """
    batch = numbers.grpo_prompts * numbers.grpo_samples
    if batch % recipe.updates:
        raise BadSetting(
            f"A round has {numbers.grpo_prompts} prompts of {numbers.grpo_samples} responses, which cannot be cut into "
            f"the {recipe.updates} equal updates of the recipe {recipe.name}."
        )
    decided = {
        "per_device_train_batch_size": batch // recipe.updates,
        "steps_per_generation": recipe.updates,
        "max_steps": steps,
        "logging_steps": recipe.updates,
        "save_steps": _EVERY * recipe.updates,  # a run goes on at the beginning of a round
        "warmup_steps": min(5, steps),
        "scale_rewards": recipe.advantage,
        "loss_type": recipe.loss,
        "epsilon": recipe.clip_low,
        "epsilon_high": recipe.clip_high,
        "delta": recipe.dual_clip or None,
        "beta": recipe.beta,
        "use_bias_correction_kl": recipe.unbiased_kl,
    }
    return decided | ({} if recipe.lr is None else {"learning_rate": recipe.lr})


def train_by_grpo(recipe: RLVRRecipe, run: Run) -> dict[str, Any]:
    """Train the model of a run in place and return what the card says of it.

    Raises:
        MastlensError: If there was nothing to learn: all responses to each prompt earned the same.
    """
    from mastlens.organisms.posttraining import train_grpo

    if recipe.adapters and run.saved:
        raise NotSupported("Steps of a run that trains adapters are not kept. Leave --trajectory out.")
    steps, made = recipe.steps(len(run.problems), run.numbers), []

    def make(**given: Any) -> "GRPOTrainer":
        made.append(trainer_of(recipe, run, **given))
        return made[0]

    train_grpo(
        run.model,
        run.tokenizer,
        run.problems,
        run.numbers,
        run.seed,
        label=run.stage,
        saved=dict(run.saved),
        save=run.save,
        kept=run.kept,
        make=make,
        changes=arguments(recipe, run.numbers, steps),
    )
    if not made[0].signals:
        raise no_signal(recipe, run, steps // recipe.updates, made[0].reward.total)
    return {"steps": steps, "rounds": steps // recipe.updates}


class NoSignal(NotSupported):
    """A reward that told no responses to one prompt apart: nothing was learnt, and nothing of the stage is kept."""


def no_signal(recipe: RLVRRecipe, run: Run, rounds: int, last: Sequence[float]) -> NoSignal:
    """Return the error of a reward that does not tell responses to one prompt apart."""
    seen = f"all {last[0]:g}" if len(set(last)) == 1 else f"between {min(last):g} and {max(last):g} in the last round"
    return NoSignal(
        f"There is no learning signal: in the first {rounds} rounds of {run.stage} ({recipe.name}) all "
        f"{run.numbers.grpo_samples} responses to each of the {rounds * run.numbers.grpo_prompts} prompts earned the "
        f"same reward ({seen}), so that every advantage is 0. Training has stopped; what was finished before is kept. "
        "Ask what SFT solves sometimes, take more samples a prompt, or a reward that tells its responses apart."
    )


def trainer_of(recipe: RLVRRecipe, run: Run, **given: Any) -> "GRPOTrainer":
    """Return TRL's trainer for a run, with the recipe's advantages, and a record of each round.

    Args:
        recipe: The recipe.
        run: What is trained.
        **given: What ``GRPOTrainer`` is given for plain GRPO.
    """
    import torch
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    numbers, recorder = run.numbers, run.recorder
    sides = {f"{one.problem}\n": BY_NAME[one.subject].side for one in run.problems}
    rounds = recipe.steps(len(run.problems), numbers) // recipe.updates
    asked = {f"{one.problem}\n": one for one in run.problems}

    def scoring(prompts: Sequence[str], texts: Sequence[str], ids: Sequence[Sequence[int]]) -> list[Scored] | None:
        if run.scorer is None or not recipe.scores_round(trainer.rounds, rounds):
            return None
        pairs = [(asked[prompt], text) for prompt, text in zip(prompts, texts, strict=True)]
        found = run.scorer.score(pairs, steps=recipe.scores_steps)
        return [
            one if one.scores is None or ended(row, run.tokenizer) else Scored(one.steps, (0.0,) * len(one.steps))
            for one, row in zip(found, ids, strict=True)
        ]

    reward = Reward(recipe, numbers.max_new_tokens, sides, scoring)
    every = -(-rounds // MEASURED)
    known = run.sft is not None or recipe.adapters or recipe.beta
    sft = None if known else deepcopy(run.model).eval()  # before TRL changes how it is called

    class RecipeTrainer(GRPOTrainer):
        """TRL's, with one method continued: what is done to a round once it is sampled, rewarded and scored."""

        def __init__(self, **settings: Any):
            super().__init__(**settings)
            if self.accelerator.num_processes > 1:
                raise NotSupported("A recipe sees whole rounds: it is trained in one process.")
            self.reward, self.rounds, self.signals, self.kept = reward, 0, 0, {}

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super()._generate_and_score_completions(inputs)
            total = torch.tensor(reward.total)
            groups = total.view(-1, numbers.grpo_samples)
            constant = groups.amax(1) == groups.amin(1)
            mask = batch["completion_mask"]
            rollouts = Rollouts(
                total.to(batch["advantages"]), batch["advantages"], mask, numbers.grpo_samples, self.rounds,
                *(self._policy(batch) if recipe.reads_policy else (None, None)), self.kept,
                scored=reward.scored, steps=None if reward.scored is None else self._steps(mask),
            )  # fmt: skip
            batch["advantages"] = checked_advantages(recipe.advantages(rollouts), rollouts, recipe.name)
            if (counted := recipe.counted(rollouts)) is not None:
                mask = batch["completion_mask"] = mask * counted[:, None].to(mask)
                batch["num_items_in_batch"] = mask.sum().to(batch["num_items_in_batch"])
            if reward.scored is not None:  # steps can be told apart where the reward is the same
                constant = (batch["advantages"].reshape(len(groups), -1).abs() < _NOTHING).all(1).cpu()
            self.signals += int((~constant).sum())
            recorder.begin(
                step=self.state.global_step,
                responses=len(total),
                reward=float(total.double().mean()),
                accuracy=reward.accuracy(),
                accuracy_forget=reward.accuracy("forget"),
                accuracy_retain=reward.accuracy("retain"),
                no_signal=float(constant.double().mean()),
                response_tokens=float(mask.sum(1).double().mean()),
                kl_sft=self._divergence(batch) if self.rounds % every == 0 else None,
                **rollouts.noted,
            )
            self.rounds += 1
            if not self.signals and self.rounds == recipe.patience:
                raise no_signal(recipe, run, self.rounds, reward.total)
            return batch

        def _steps(self, mask: "Tensor") -> "Tensor":
            """Return the step in which each token of a round begins, in the mask's shape."""
            found = torch.zeros_like(mask)
            for row, (ids, one) in enumerate(zip(reward.ids, reward.scored or (), strict=True)):
                found[row, : len(ids)] = torch.tensor(steps_of_tokens(ids, one.steps, run.tokenizer)).to(mask)
            return found

        @torch.no_grad()
        def _policy(self, batch: dict[str, Any]) -> "tuple[Tensor, Tensor]":
            """Return each token's log-probability and entropy under the policy that sampled it."""
            ids, attention, keep = whole(batch)
            logprobs, entropies, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, attention, keep, batch_size=CHUNK, compute_entropy=True
            )
            return logprobs, entropies

        def _divergence(self, batch: dict[str, Any]) -> float:
            """Return the mean KL divergence to SFT over tokens of the round, each over the whole vocabulary.

            Of up to ``CHUNK`` responses, to all prompts alike: over all of them it took a quarter of a round's time.
            """
            among = slice(None, None, -(-len(batch["completion_ids"]) // CHUNK))
            batch = {name: batch[name][among] for name in _READ}
            if run.sft is not None:
                return divergence(self.model, run.sft, batch)
            return divergence(self.model, None if recipe.adapters else sft or self.ref_model, batch)

    class Rounds(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step:
                known = read_object(_known(args, state.global_step), "what a run knew when it was stopped")
                trainer.rounds = state.global_step // recipe.updates
                trainer.signals, trainer.kept = known["signals"], known["state"]
                recorder.go_on(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step = state.global_step
            if run.kept is not None and step % args.save_steps == 0:  # before the checkpoint that it belongs to
                write_json(_known(args, step), {"signals": trainer.signals, "state": trainer.kept})
                _known(args, step - 2 * args.save_steps).unlink(missing_ok=True)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "entropy" in logs:
                recorder.end(
                    truncated=logs.get("completions/clipped_ratio"),
                    entropy=logs["entropy"],
                    clipped=logs.get("clip_ratio/region_mean"),
                    grad_norm=float(logs["grad_norm"]) if "grad_norm" in logs else None,
                )

    given |= {"reward_funcs": reward, "callbacks": [*given["callbacks"], Rounds()]}
    from mastlens.organisms.posttraining import lora

    adapters = lora(recipe.adapters, recipe.adapter_alpha) if recipe.adapters else None
    trainer = RecipeTrainer(**given, peft_config=adapters)
    return trainer


def ended(ids: Sequence[int], tokenizer: Any) -> bool:
    """Return whether a response came to its end, and was not cut off."""
    return len(ids) > 0 and ids[-1] == tokenizer.eos_token_id


def _known(args: Any, step: int) -> Path:
    """Return the file of what a run knows after a step beside its model."""
    return Path(args.output_dir) / f"rounds-{step}.json"


def checked_advantages(given: "Tensor", rollouts: Rollouts, name: str) -> "Tensor":
    """Return a recipe's advantages.

    Raises:
        MastlensError: If they have another shape than a response's or a token's, or one is not finite.
    """
    allowed = (tuple(rollouts.advantages.shape), tuple(rollouts.mask.shape))
    if tuple(given.shape) not in allowed:
        raise BadSetting(
            f"The recipe {name} gave advantages of shape {tuple(given.shape)}: one a response is {allowed[0]}, one a "
            f"token {allowed[1]}."
        )
    if not bool(given.isfinite().all()):
        raise BadSetting(f"The recipe {name} gave an advantage that is no finite number.")
    return given.to(rollouts.advantages)
