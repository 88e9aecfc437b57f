"""Rule ``memflex``: two thresholds (MemFlex, arXiv:2407.01920), those that pass first."""

import pandas as pd

from mastlens.selection.rule import Rule


def passes(table: pd.DataFrame, *, cosine: float, gradient: float) -> pd.Series:
    """Return which tensors pass both thresholds.

    Args:
        table: The joined tables.
        cosine: The cosine of forget and retain gradient is below this.
        gradient: The mean |forget gradient| is above this.
    """
    return (table["forget_retain_cosine"] < cosine) & (table["forget_grad_abs_mean"] > gradient)


def memflex_score(table: pd.DataFrame, *, cosine: float, gradient: float) -> pd.Series:
    """Return the mean |forget gradient| of the tensors that pass; those that do not come after them, in the same order.

    What does not pass gets its mean less the largest mean of the table, which is never above 0. Absolute thresholds
    do not carry over from one model to another: with the source's own, all tensors or none may pass, and the order is
    then that of ``salun``.
    """
    mean = table["forget_grad_abs_mean"]
    return mean.where(passes(table, cosine=cosine, gradient=gradient), mean - mean.max())


MEMFLEX = Rule(
    "memflex",
    "first what passes forget_retain_cosine < cosine and mean |forget gradient| > gradient, by the latter; "
    "without --top, what passes",
    "MemFlex, arXiv:2407.01920, its thresholds by default",
    {"coupling": ("forget_retain_cosine", "forget_grad_abs_mean")},
    memflex_score,
    parameters={"cosine": 0.92, "gradient": 6e-4},
    passes=passes,
)
