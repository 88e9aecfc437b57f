"""Paired tests, intervals, corrections and power. scipy does the work; these modules fix the choices."""

from mastlens.statistics.bootstrap import mean_bootstrap, paired_bootstrap, ratio_bootstrap
from mastlens.statistics.intervals import Interval, newcombe_paired, wilson
from mastlens.statistics.power import items_needed, mcnemar_power, smallest_drop
from mastlens.statistics.ranks import rank_correlation, spearman
from mastlens.statistics.resampling import mean_interval, ratio_intervals, recovered_share
from mastlens.statistics.sampling import SampledAccuracy, pass_at_k, sampled_accuracy
from mastlens.statistics.seeds import SeedSpread, seed_interval, seed_spread
from mastlens.statistics.significance import holm, mcnemar_exact, permutation_p

__all__ = [
    "Interval",
    "SampledAccuracy",
    "SeedSpread",
    "holm",
    "items_needed",
    "mcnemar_exact",
    "mcnemar_power",
    "mean_bootstrap",
    "mean_interval",
    "newcombe_paired",
    "paired_bootstrap",
    "pass_at_k",
    "permutation_p",
    "rank_correlation",
    "ratio_bootstrap",
    "ratio_intervals",
    "recovered_share",
    "sampled_accuracy",
    "seed_interval",
    "seed_spread",
    "smallest_drop",
    "spearman",
    "wilson",
]
