"""Rule ``mast``: off-principal energy x magnitude x forget-gradient coupling (arXiv:2606.19222)."""

import numpy as np
import pandas as pd

NEEDS = ("off_principal", "delta_norm", "forget_cosine")
"""Columns of the joined geometry (``rlvr`` increment) and coupling tables."""


def mast_terms(table: pd.DataFrame) -> pd.DataFrame:
    """Return the three factors of the score, one column each.

    ``off_principal`` is rho, ``log1p_energy`` is log(1 + |D|_F^2), ``coupling_factor`` is 1 + |c|.
    """
    return pd.DataFrame(
        {
            "off_principal": table["off_principal"],
            "log1p_energy": np.log1p(table["delta_norm"] ** 2),
            "coupling_factor": 1.0 + table["forget_cosine"].abs(),
        }
    )


def mast_score(table: pd.DataFrame) -> pd.Series:
    """Return rho * log(1 + |D|_F^2) * (1 + |c|); a zero increment scores 0 and so comes last."""
    return mast_terms(table).prod(axis=1)
