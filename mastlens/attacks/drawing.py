"""Many responses to each item, and whether any of k of them is right."""

from typing import TYPE_CHECKING

import pandas as pd

from mastlens.decoding.answering import answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.prompts import Prompt, items_of
from mastlens.decoding.sampling import Sampling
from mastlens.statistics import pass_at_k

if TYPE_CHECKING:
    from mastlens.attacks.trials import Trial

_LOGPROBS = ["logprob_solution", "solution_tokens"]


def draw(trial: "Trial", number: int, sampling: Sampling) -> pd.DataFrame:
    """Draw responses to every item of a trial, from the seed and each response's own name.

    Args:
        trial: The model and what it is asked.
        number: Responses an item.
        sampling: How they are drawn.

    Returns:
        One row a response: ``split``, ``item``, ``sample``, ``correct``, ``correct_strict``, ``truncated``,
        ``response``.
    """
    keys = items_of(trial.tested)
    asked = [
        one.ids for split, problems in trial.tested.items() for one in trial.encode(problems, trial.sources[split])
    ]
    prompts = [
        Prompt(f"{split}/{item}", ids.prompt, problem.answer)
        for (split, item, problem), ids in zip(keys, asked, strict=True)
    ]
    answered = answer(
        HuggingFaceEngine(trial.model, trial.tokenizer),
        prompts,
        Decoding(trial.max_new_tokens, trial.batch_size, sampling=sampling),
        samples=number,
        grader=trial.grader,
    )
    rows = []
    for place, one in enumerate(answered):
        split, item, _ = keys[place // number]
        right = {"correct": one.correct, "correct_strict": one.correct_strict}
        said = {"truncated": one.response.truncated, "response": one.response.text}
        rows.append({"split": split, "item": item, "sample": one.sample, **right, **said})
    return pd.DataFrame(rows)


def any_of(drawn: pd.DataFrame, k: int, plain: pd.DataFrame) -> pd.DataFrame:
    """Return the items of a test in which any of k responses may be right.

    Args:
        drawn: As ``draw`` returns it.
        k: How many.
        plain: The items without the attack: an item's log-probability is not changed by drawing.

    Returns:
        One row an item, with the columns of ``measure``. ``correct``, ``correct_strict`` and ``truncated``: whether
        any of the first k is; ``response``: the first of these that is right, else the first. ``rate``: the chance
        that any of k is right, estimated from all of the item's draws (``pass_at_k``); ``samples``: their number.
    """
    rows = []
    for (split, item), group in drawn.groupby(["split", "item"], sort=False):
        first = group[group["sample"] < k]
        right = first[first["correct"]]
        rows.append(
            {
                "split": split,
                "item": item,
                "correct": bool(first["correct"].any()),
                "correct_strict": bool(first["correct_strict"].any()),
                "truncated": bool(first["truncated"].any()),
                "given": "",
                "response": (right if len(right) else first)["response"].iloc[0],
                "rate": pass_at_k(len(group), int(group["correct"].sum()), k),
                "samples": len(group),
            }
        )
    items = pd.DataFrame(rows)
    return items.merge(plain[["split", "item", *_LOGPROBS]], on=["split", "item"], how="left", validate="one_to_one")
