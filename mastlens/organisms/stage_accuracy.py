"""What a stage can do: accuracy, worked and guessed responses."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mastlens.organisms.problems import SyntheticProblem
from mastlens.organisms.subjects import BY_NAME
from mastlens.problems.answers import response_style

if TYPE_CHECKING:
    import pandas as pd


def measure_responses(
    model, tokenizer, splits: Mapping[str, Sequence[SyntheticProblem]], max_new_tokens: int, label: str
) -> "pd.DataFrame":
    """Answer all problems greedily and grade the answers.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        splits: Problems by the name of their split.
        max_new_tokens: Longest response.
        label: Of the progress bar.

    Returns:
        One row a problem: ``split``, ``item``, ``subject``, ``correct``, ``style``, ``response``.
    """
    import pandas as pd

    from mastlens.decoding.answering import answer
    from mastlens.decoding.engines import Decoding, HuggingFaceEngine
    from mastlens.decoding.prompts import items_of, problem_prompts

    rows = items_of(splits)
    prompts = problem_prompts([problem for _, _, problem in rows], tokenizer)
    engine, decoding = HuggingFaceEngine(model, tokenizer), Decoding(max_new_tokens, batch_size=128)
    answered = answer(engine, prompts, decoding, progress=label)
    return pd.DataFrame(
        [
            {
                "split": split,
                "item": item,
                "subject": problem.subject,
                "correct": one.correct,
                "style": response_style(one.response.text),
                "response": one.response.text,
            }
            for (split, item, problem), one in zip(rows, answered, strict=True)
        ]
    )


def _summary(rows: "pd.DataFrame") -> dict[str, float | int | None]:
    """Return counts, accuracy with its Wilson interval, and styles of some responses."""
    from mastlens.statistics import wilson

    right, n = int(rows["correct"].sum()), len(rows)
    interval = wilson(right, n)
    worked = rows[rows["style"] == "worked"]
    return {
        "n": n,
        "right": right,
        "accuracy": right / n,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "worked": len(worked),
        "guessed": int((rows["style"] == "guessed").sum()),
        "right_of_worked": int(worked["correct"].sum()),
        "accuracy_given_worked": float(worked["correct"].mean()) if len(worked) else None,
    }


def summarise(table: "pd.DataFrame") -> list[dict]:
    """Return a summary a split, a summary each of what SFT solves and what RLVR induces, and one a subject.

    Args:
        table: What ``measure_responses`` returns.
    """
    summaries = []
    for split, rows in table.groupby("split", sort=False):
        induced = rows["subject"].map(lambda name: BY_NAME[str(name)].induced)
        groups = {"all": rows}
        if induced.any() and not induced.all():
            groups |= {"solved by SFT": rows[~induced], "induced by RLVR": rows[induced]}
        groups |= {str(name): part for name, part in rows.groupby("subject", sort=False)}
        summaries += [{"split": split, "subject": name, **_summary(part)} for name, part in groups.items()]
    return summaries


def compare_stages(before: "pd.DataFrame", after: "pd.DataFrame", split: str) -> dict[str, float | int]:
    """Return the exact McNemar test of two stages on the same problems of one split.

    Args:
        before: Responses of one stage.
        after: Responses of the other.
        split: Which split.

    Returns:
        ``n``, ``b`` (right before, wrong after), ``c`` (the other way), ``difference`` (after - before, a
        fraction) and ``mcnemar_p``.
    """
    from mastlens.statistics import mcnemar_exact, paired_counts

    first = before.loc[before["split"] == split, "correct"].to_numpy()
    second = after.loc[after["split"] == split, "correct"].to_numpy()
    n = len(first)
    _, b, c, _ = paired_counts(first, second)
    return {"n": n, "b": b, "c": c, "difference": (c - b) / n, "mcnemar_p": mcnemar_exact(b, c)}
