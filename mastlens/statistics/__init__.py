"""Paired tests, intervals, corrections and power. scipy does the work; these modules fix the choices."""

from mastlens.statistics.claims import (
    BELOW,
    LEVEL,
    SMALLEST_DIFFERENCE,
    SMALLEST_LIFT,
    TABLE_LEVEL,
    ZERO,
    Claim,
    beyond_chance,
    claim,
    equivalence,
    lift,
    verdict_columns,
)
from mastlens.statistics.functionals import (
    Functional,
    auc_functional,
    auc_interval,
    harmonic_mean,
    mean_functional,
    sign_flip_p,
)
from mastlens.statistics.intervals import (
    NONE,
    Interval,
    difference_interval,
    newcombe_paired,
    share_interval,
    wilson,
)
from mastlens.statistics.means import (
    mean_interval,
    paired_interval,
    ratio_interval,
    ratio_intervals,
    recovered_share,
)
from mastlens.statistics.power import items_needed, mcnemar_power, smallest_drop
from mastlens.statistics.ranks import rank_correlation, spearman
from mastlens.statistics.sampling import SampledAccuracy, pass_at_k, sampled_accuracy
from mastlens.statistics.seeds import SeedSpread, seed_interval, seed_spread
from mastlens.statistics.significance import (
    PairedCounts,
    holm,
    mcnemar_exact,
    paired_counts,
    permutation_p,
)
from mastlens.statistics.units import FEW, FEWEST, few_clusters

__all__ = [
    "BELOW",
    "FEW",
    "FEWEST",
    "LEVEL",
    "NONE",
    "SMALLEST_DIFFERENCE",
    "SMALLEST_LIFT",
    "TABLE_LEVEL",
    "ZERO",
    "Claim",
    "Functional",
    "Interval",
    "PairedCounts",
    "SampledAccuracy",
    "SeedSpread",
    "auc_functional",
    "auc_interval",
    "beyond_chance",
    "claim",
    "difference_interval",
    "equivalence",
    "few_clusters",
    "harmonic_mean",
    "holm",
    "items_needed",
    "lift",
    "mcnemar_exact",
    "mcnemar_power",
    "mean_functional",
    "mean_interval",
    "newcombe_paired",
    "paired_counts",
    "paired_interval",
    "pass_at_k",
    "permutation_p",
    "rank_correlation",
    "ratio_interval",
    "ratio_intervals",
    "recovered_share",
    "sampled_accuracy",
    "seed_interval",
    "seed_spread",
    "share_interval",
    "sign_flip_p",
    "smallest_drop",
    "spearman",
    "verdict_columns",
    "wilson",
]
