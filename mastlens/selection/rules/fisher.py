"""Rule ``fisher-ratio``: selective synaptic dampening (SSD, arXiv:2308.07707) brought to tensors."""

import numpy as np
import pandas as pd

from mastlens.selection.rule import Rule


def fisher_ratio(table: pd.DataFrame) -> pd.Series:
    """Return sum F_forget / sum F_retain over the entries; 0 where nothing of the forget set reaches the tensor.

    F is the mean over problems of squared gradients, problem by problem. SSD selects the entries where the ratio is
    above a constant; its reference is the whole training set, here the retain set.
    """
    forget, retain = table["forget_fisher"].to_numpy(float), table["retain_fisher"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return pd.Series(np.where(forget > 0, forget / retain, 0.0), index=table.index)


FISHER_RATIO = Rule(
    "fisher-ratio",
    "Fisher information of the forget set over that of the retain set",
    "SSD, arXiv:2308.07707, brought to tensors",
    {"coupling": ("forget_fisher", "retain_fisher")},
    fisher_ratio,
)
