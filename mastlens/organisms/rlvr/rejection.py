"""Rejection sampling, and SFT on what it kept until an accuracy is reached."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from mastlens.errors import NotSupported, NotTogether
from mastlens.organisms.rlvr.recipe import Run
from mastlens.organisms.subjects import BY_NAME

if TYPE_CHECKING:
    from mastlens.decoding.answering import Answered
    from mastlens.organisms.problems import SyntheticProblem
    from mastlens.organisms.rlvr.recipes.matched_sft import MatchedSFT

WATCHED = 32
"""Prompts that are answered by sampling at each measurement, for the record: one response each."""

NEAR = 0.03
"""How far from the accuracy that is to be matched still counts as matched, as a share of the calibration problems."""


def calibration_accuracy(card: Mapping[str, Any], stage: str) -> float:
    """Return the share of all calibration problems that a stage solves, by its card.

    Raises:
        MastlensError: If the card does not say it.
    """
    rows = [
        row
        for row in card.get("accuracy", ())
        if (row.get("stage"), row.get("region"), row.get("subject")) == (stage, "calibration", "all")
    ]
    if not rows:
        raise NotTogether(f"The card of the lineage that is to be matched has no calibration accuracy of {stage}.")
    return sum(row["right"] for row in rows) / sum(row["n"] for row in rows)


def sample(run: Run, problems: "Sequence[SyntheticProblem]", samples: int, seed: int, label: str) -> "list[Answered]":
    """Return responses sampled at temperature 1, graded by the last box; what was sampled before is found again.

    Args:
        run: Whose model answers.
        problems: What is asked.
        samples: Responses to each.
        seed: Of the draws.
        label: Of the progress bar, and of the file that keeps the responses; empty for neither.
    """
    from mastlens.decoding.answering import answer
    from mastlens.decoding.engines import Decoding, HuggingFaceEngine
    from mastlens.decoding.graders import find_grader
    from mastlens.decoding.prompts import problem_prompts
    from mastlens.decoding.sampling import Sampling
    from mastlens.runs.files import sha256_json
    from mastlens.runs.ledger import Ledger

    prompts = problem_prompts(problems, run.tokenizer)
    key = sha256_json([label, seed, samples, run.numbers.max_new_tokens, [one.problem for one in problems]])
    training = run.model.training
    with Ledger(run.folder / f"samples-{label}.ledger" if label else None, key) as ledger:
        found = answer(
            HuggingFaceEngine(run.model.eval(), run.tokenizer),
            prompts,
            Decoding(run.numbers.max_new_tokens, 256, Sampling(1.0, seed=seed)),
            samples=samples,
            grader=find_grader("text:boxed"),
            ledger=ledger if label else None,
            progress=f"{label}: samples" if label else None,
        )
    run.model.train(training)
    return found


def right_pairs(run: Run) -> list[tuple[str, str]]:
    """Return each prompt with each of its different right responses that came to their end.

    Raises:
        MastlensError: If there is none.
    """
    found = sample(run, run.problems, run.numbers.grpo_samples, run.seed, run.stage)
    samples = run.numbers.grpo_samples
    asked = [problem for problem in run.problems for _ in range(samples)]
    pairs = [
        (problem.problem, one.response.text)
        for problem, one in zip(asked, found, strict=True)
        if one.correct and one.response.stopped == "end"
    ]
    if not pairs:
        raise NotSupported(
            f"None of the {len(found)} sampled answers to the prompts of {run.stage} is right: there is nothing to "
            "train on. Ask what SFT solves sometimes."
        )
    return list(dict.fromkeys(pairs))


def train_to_match(recipe: "MatchedSFT", run: Run) -> dict[str, Any]:
    """Train the model of a run in place, and return what the card says of it.

    Of the last two measurements, between which the accuracy was passed, it is left at the nearer one.
    """
    from transformers import TrainerCallback

    from mastlens.organisms.posttraining import train_sft
    from mastlens.organisms.splits import calibration_splits
    from mastlens.organisms.stage_accuracy import measure_responses

    assert run.match is not None
    target = calibration_accuracy(run.match, run.stage)
    pairs = right_pairs(run)
    splits = calibration_splits(run.numbers, run.lineage_seed)
    sft = deepcopy(run.model).eval()
    watched = run.problems[:WATCHED]
    reached: list[tuple[int, float]] = []
    kept: list[dict[str, Any]] = []  # the weights at each of the last two

    def measure(step: int) -> bool:
        """Record where training is, and return whether it is as accurate as it should be."""
        training = run.model.training
        table = measure_responses(
            run.model.eval(), run.tokenizer, splits, run.numbers.max_new_tokens, f"{run.stage} at step {step}"
        )
        reached.append((step, float(table["correct"].mean())))
        kept[:] = [*kept[-1:], deepcopy(run.model.state_dict())]
        recorded = sample(run, watched, 1, run.seed + step, "")
        run.recorder.begin(step=step, calibration_accuracy=reached[-1][1], **_watched(run, watched, recorded, sft))
        run.recorder.end()
        run.model.train(training)
        return reached[-1][1] >= target

    class UntilMatched(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % recipe.every == 0 and measure(state.global_step):
                control.should_training_stop = True
            if state.global_step in run.saved:
                run.save(run.model, run.saved[state.global_step])

    if not measure(0):
        train_sft(
            run.model,
            run.tokenizer,
            pairs,
            run.numbers,
            run.seed,
            label=run.stage,
            callbacks=[UntilMatched()],
            changes={
                "max_steps": recipe.most,
                "lr_scheduler_type": "constant_with_warmup",
                "warmup_steps": min(5, recipe.most),
                **({} if recipe.lr is None else {"learning_rate": recipe.lr}),
            },
        )
    passed = len(reached) > 1 and reached[-1][1] >= target
    nearest = min((-1, -2) if passed else (-1,), key=lambda turn: abs(reached[turn][1] - target))
    run.model.load_state_dict(kept[nearest])
    step, accuracy = reached[nearest]
    return {
        "steps": step,
        "right_responses": len(pairs),
        "target_accuracy": target,
        "reached_accuracy": accuracy,
        "matched": abs(accuracy - target) <= NEAR,
    }


def _watched(run: Run, problems: "Sequence[SyntheticProblem]", found: "Sequence[Answered]", sft: Any) -> dict[str, Any]:
    """Return what the record says of some sampled responses; entropy and divergence over the whole vocabulary."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from mastlens.organisms.rlvr.measures import divergence, mean_entropy

    prompts = [torch.tensor(one.prompt.ids) for one in found]
    answers = [torch.tensor(one.response.ids) for one in found]
    batch = {
        "prompt_ids": pad_sequence(prompts, batch_first=True, padding_side="left"),
        "prompt_mask": pad_sequence([torch.ones_like(ids) for ids in prompts], batch_first=True, padding_side="left"),
        "completion_ids": pad_sequence(answers, batch_first=True),
        "completion_mask": pad_sequence([torch.ones_like(ids) for ids in answers], batch_first=True),
    }
    sides = [BY_NAME[problem.subject].side for problem in problems]

    def share(side: str | None) -> float | None:
        among = [float(bool(one.correct)) for one, where in zip(found, sides, strict=True) if side in (None, where)]
        return sum(among) / len(among) if among else None

    return {
        "responses": len(found),
        "reward": share(None),
        "accuracy": share(None),
        "accuracy_forget": share("forget"),
        "accuracy_retain": share("retain"),
        "response_tokens": float(batch["completion_mask"].sum(1).double().mean()),
        "truncated": sum(one.response.stopped != "end" for one in found) / len(found),
        "entropy": mean_entropy(run.model, batch),
        "kl_sft": divergence(run.model, sft, batch),
    }
