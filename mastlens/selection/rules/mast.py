"""Rule ``mast``: off-principal energy x magnitude x forget-gradient coupling (arXiv:2606.19222); its terms, one by one.

At the learning rates of RLVR log(1 + x) is about x, off-principal energy is nearly the same everywhere, and so is
1 + |cosine|: the score then orders tensors by the size of their increment. The rules with one term alone, or with one
left out, show what each decides.
"""

from functools import partial

import numpy as np
import pandas as pd

from mastlens.selection.rule import Rule

_SOURCE = "MAST, arXiv:2606.19222"
_COLUMNS = {
    "off-principal": ("off_principal", "geometry", "off_principal"),
    "magnitude": ("log1p_energy", "geometry", "delta_norm"),
    "coupling": ("coupling_factor", "coupling", "forget_cosine"),
}
"""Name of a term to its column in ``mast_terms``, and the table and column that it is made of."""


def mast_terms(table: pd.DataFrame) -> pd.DataFrame:
    """Return the factors of the score that the table has the columns for, one column each.

    ``off_principal`` is rho, ``log1p_energy`` is log(1 + |D|_F^2), ``coupling_factor`` is 1 + |c|.
    """
    terms = {}
    if "off_principal" in table:
        terms["off_principal"] = table["off_principal"]
    if "delta_norm" in table:
        terms["log1p_energy"] = np.log1p(table["delta_norm"] ** 2)
    if "forget_cosine" in table:
        terms["coupling_factor"] = 1.0 + table["forget_cosine"].abs()
    return pd.DataFrame(terms)


def mast_score(table: pd.DataFrame, *, without: str | None = None) -> pd.Series:
    """Return rho * log(1 + |D|_F^2) * (1 + |c|), or the product without one of the terms.

    Args:
        table: The joined tables.
        without: ``off-principal``, ``magnitude`` or ``coupling``.
    """
    columns = [column for term, (column, _, _) in _COLUMNS.items() if term != without]
    return mast_terms(table)[columns].prod(axis=1)


def _without(left_out: str) -> Rule:
    needs: dict[str, tuple[str, ...]] = {"geometry": ("delta_norm",)}  # zero increments are known by it
    for term, (_, table, column) in _COLUMNS.items():
        if term != left_out:
            needs[table] = tuple(dict.fromkeys((*needs.get(table, ()), column)))
    columns = [column for term, (column, _, _) in _COLUMNS.items() if term != left_out]
    return Rule(
        f"mast-without-{left_out}",
        f"the MAST score without its {left_out} term",
        _SOURCE,
        needs,
        partial(mast_score, without=left_out),
        terms=lambda table: mast_terms(table)[columns],
        of_increment=True,
    )


MAST = Rule(
    "mast",
    "off_principal * log(1 + delta_norm^2) * (1 + |forget_cosine|)",
    _SOURCE,
    {"geometry": ("off_principal", "delta_norm"), "coupling": ("forget_cosine",)},
    mast_score,
    terms=mast_terms,
    of_increment=True,
)

OFF_PRINCIPAL = Rule(
    "off-principal",
    "share of the increment's energy outside the base weight's principal subspaces",
    _SOURCE + ", one term",
    {"geometry": ("off_principal", "delta_norm")},
    lambda table: table["off_principal"],
    of_increment=True,
)

MAGNITUDE = Rule(
    "magnitude",
    "Frobenius norm of the increment; the order of log(1 + delta_norm^2)",
    _SOURCE + ", one term",
    {"geometry": ("delta_norm",)},
    lambda table: table["delta_norm"],
    of_increment=True,
)

COUPLING = Rule(
    "coupling",
    "|cosine| of forget gradient and increment",
    _SOURCE + ", one term",
    {"coupling": ("forget_cosine", "delta_norm")},
    lambda table: table["forget_cosine"].abs(),
    of_increment=True,
)

MAST_WITHOUT_OFF_PRINCIPAL, MAST_WITHOUT_MAGNITUDE, MAST_WITHOUT_COUPLING = map(_without, _COLUMNS)
