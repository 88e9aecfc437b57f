"""Columns of what is measured of increments: geometry, heads, spectra, agreement of runs, trajectories."""

from dataclasses import replace

from mastlens.columns.column import HEAD, PLACE, SHAPE, Column, Table, judged, measured, when

INCREMENT = Column("increment", "`sft` = SFT − base, `rlvr` = RLVR − SFT (RLVR − base without `--sft`)", kind="text")
DELTA_NORM = Column("delta_norm", "Frobenius norm of the increment D", "weight", kind="number")
RANK = Column("rank", "k, the number of principal directions")
_MAST, _SMALL, _MASKED = "MAST, arXiv:2606.19222", "arXiv:2511.08567", "arXiv:2606.13657"
_TURNED = "D with its singular values kept and its directions turned at random"
_BLOCK = "the block with its singular values kept and its directions turned at random"
_SIGNS = "D with the signs of its rows and columns redrawn"
_ENTRIES = "D with the sign of every entry redrawn"
_PLACED = "D's squared entries at random places"
_STORED = "the same among entries of one spacing"

_ENERGY = (
    *measured(
        Column(
            "off_principal",
            "1 − ‖U_kᵀ D V_k‖² / ‖D‖², against the base weight's top-k subspaces",
            source=_MAST,
            kind="number",
        ),
        f"{_TURNED}; 1 − k² / (rows · cols) on average",
        _SIGNS,
    ),
    *when(
        "--full",
        (
            *measured(Column("off_principal_left", "share of ‖D‖² outside U_k", source=_MASKED), _TURNED, _SIGNS),
            *measured(Column("off_principal_right", "share of ‖D‖² outside V_k", source=_MASKED), _TURNED, _SIGNS),
            *measured(
                Column("off_principal_diagonal", "share of ‖D‖² outside the k atoms u_i v_iᵀ", source=_MASKED),
                _TURNED,
                _SIGNS,
            ),
        ),
    ),
    Column("off_principal_error", "bound on the numerical error of `off_principal`"),
    Column("subspace_error", "sine of the largest angle to the true subspaces, bound", "radian"),
    Column("subspace_gap", "(σ_k − σ_{k+1}) / σ_1 of the base weight: near 0 the subspaces are not well defined"),
)

_ANGLES = tuple(
    column
    for side in ("left", "right")
    for which in ("max", "mean")
    for column in measured(
        Column(f"angle_{side}_{which}_deg", f"{which} principal angle of the {side} top-k subspaces, before to after",
               "degree"),
        _SIGNS + " (geometric mean of draws)",
    )
)  # fmt: skip

_FULL = (
    Column("spectral_shift", "NSS = ‖σ(after) − σ(before)‖ / ‖σ(before)‖", null="`spectral_shift_null`", source=_SMALL),
    Column("spectral_shift_error", "bound on its numerical error"),
    Column("spectral_shift_null", f"what chance gives: {_SIGNS}, also beyond first order"),
    Column("spectral_shift_z", "its square's distance from chance", "standard deviations of the null"),
    *judged("spectral_shift"),
    Column("spectral_shift_floor", "what rounding to the stored dtypes alone would give"),
    Column("fixed_spectrum_distance", "‖σ(after) − σ(before)‖", "weight", source="arXiv:2607.19331"),
    Column(
        "isotropic_ratio",
        "its square over ‖D‖² / max(rows, cols), what a random D gives to first order",
        null="`isotropic_ratio_null`",
        source="arXiv:2607.19331",
    ),
    Column("isotropic_ratio_null", f"what chance gives: {_SIGNS}; 1 to first order on a weight stored finely"),
    *_ANGLES,
    Column("angle_error_deg", "bound on the numerical error of the angles", "degree"),
    Column("changed_fraction_bf16", "share of entries that differ once rounded to bfloat16", source=_SMALL),
    Column("changed_fraction_native", "share of entries that differ as stored"),
    Column("neighbour_fraction_bf16", "share that moved one bfloat16 step only: what rounding alone can flip"),
    *measured(Column("stable_rank", "‖D‖²_F / ‖D‖²₂"), "a Gaussian matrix (Tracy–Widom)", _ENTRIES),
)

_MASKS = (
    *(
        column
        for name, said in (
            ("principal", "principal"),
            ("low_magnitude", "small half's"),
            ("principal_not_low", "principal, not small"),
        )
        for column in (
            *measured(
                Column(f"{name}_overlap", f"share of updated entries among the base's {said} entries", source=_SMALL),
                "updates independent of it at equal magnitude, rows and columns hot together as they are",
            ),
            Column(f"{name}_lift", "the overlap over the mask's density", null="1 at equal magnitude"),
        )
    ),
    *measured(
        Column("off_principal_mask", "share of ‖D‖² outside the principal mask", source=_SMALL),
        _PLACED,
        _STORED,
    ),
)

_SPECTRA = (
    *measured(
        Column("effective_rank", "exp of the entropy of σ / Σσ of D", source="Roy and Vetterli 2007"),
        "a Gaussian matrix",
        _ENTRIES,
    ),
    *measured(Column("energy_rank_99", "directions with 99 % of ‖D‖²"), "a Gaussian matrix", _ENTRIES),
    *measured(
        Column("participation", "Σσ⁴ / (Σσ²)² of D: 1 over the number of its directions"), "a Gaussian matrix", _ENTRIES
    ),
)

GEOMETRY = Table(
    "geometry.parquet",
    "mastlens geometry",
    "an increment of a matrix",
    (
        INCREMENT,
        *PLACE,
        *SHAPE,
        DELTA_NORM,
        Column("delta_rms", "root mean square of D's entries", "weight", kind="number"),
        Column("relative_norm", "‖D‖ over the norm of the tensor it was added to", kind="number"),
        Column("precision_floor", "norm that rounding to the stored dtypes alone would give", "weight"),
        Column("note", "`zero increment`, `below the precision floor`, or empty"),
        RANK,
        *_ENERGY,
        *when("--full", _FULL),
        *when("--masks", _MASKS),
        *when("--spectra", _SPECTRA),
    ),
)

HEADS = Table(
    "geometry_heads.parquet",
    "mastlens geometry",
    "an increment of a head's block",
    (
        INCREMENT,
        *PLACE,
        HEAD,
        Column("delta_norm", "Frobenius norm of the head's block of D", "weight"),
        *measured(Column("energy_share", "the block's share of ‖D‖²"), f"{_PLACED}: 1 / heads", _STORED),
        *measured(Column("off_principal", "of the block in its place, as in `geometry.parquet`"), _BLOCK, _SIGNS),
        *measured(
            Column("off_principal_shared", "on the side that the heads share: inputs of q, k, v, outputs of o"),
            _BLOCK,
            _SIGNS,
        ),
    ),
    when="--heads",
)

SPECTRA = Table(
    "spectra.parquet",
    "mastlens geometry",
    "a singular value of an increment",
    (
        INCREMENT,
        *PLACE,
        Column("index", "from 1, largest first"),
        Column("singular_value", "σ_i of D", "weight"),
        Column("precision_floor", "largest singular value that rounding alone would give", "weight"),
    ),
    when="--spectra",
)

_RUN_PAIR = (Column("run_a", "one run"), Column("run_b", "the other"))

AGREEMENT = Table(
    "agreement.parquet",
    "mastlens mask-agreement",
    "a matrix and a pair of runs",
    (
        *PLACE,
        *SHAPE,
        *_RUN_PAIR,
        Column("note", "where a's or b's increment is zero or below the precision floor: which it is"),
        Column("share_a", "share of entries that run a changed"),
        Column("share_b", "share of entries that run b changed"),
        Column("jaccard", "|A ∩ B| / |A ∪ B| of the update masks", null="`jaccard_null`", source=_SMALL),
        Column("jaccard_null", "independent masks: pq / (p + q − pq)"),
        Column("z", "its distance from that", "standard deviations of the null"),
        Column("p", "two-sided: a's changed entries at random places, whole rows and columns together"),
        Column("distinguishable", "beyond both nulls, p and p_matched < 0.001; never where there is a note"),
        Column(
            "jaccard_matched_null",
            "masks that share what rounding does to the weight they started from",
        ),
        Column("z_matched", "the distance from that", "standard deviations of the null"),
        Column("p_matched", "the same among entries of one spacing, as far from where the view rounds otherwise"),
        Column("distinguishable_matched", "p_matched < 0.001"),
        Column("judged_by", "the null of the larger p: `placed` or `stored`"),
    ),
)

AGREEMENT_RUNS = Table(
    "agreement-runs.parquet",
    "mastlens mask-agreement",
    "a matrix and a run",
    (
        *PLACE,
        *SHAPE,
        Column("run", "the run"),
        Column("note", "`zero increment`, `below the precision floor`, or empty"),
        Column("changed_fraction", "share of entries that it changed"),
        Column("row_stripes", "variance of the share changed per row over the binomial one", null="1"),
        Column("col_stripes", "the same per column", null="1"),
        Column("row_stripes_z", "distance of `row_stripes` from 1", "standard deviations of the null"),
        Column("col_stripes_z", "distance of `col_stripes` from 1", "standard deviations of the null"),
    ),
)

AGREEMENT_CONSENSUS = Table(
    "agreement-consensus.parquet",
    "mastlens mask-agreement",
    "a matrix and a number of runs",
    (
        *PLACE,
        *SHAPE,
        Column("runs_changed", "r, from 0 to the number of runs"),
        Column("entries", "entries that exactly r runs changed"),
        Column("share", "their share of all", null="`share_null`"),
        Column("share_null", "independent runs (Poisson-binomial)"),
    ),
)

_RELEX = "RELEX, arXiv:2605.21468"
_WALK = "a random walk of independent increments at the same steps"
_ADAMW = "AdamW with constant learning rate on gradients that are noise, the same number of steps"
_NOTES = (
    Column("precision_floor", "the norm that rounding to the stored dtypes alone would give", "weight"),
    Column("note", "`zero increment`, `below the precision floor` (of both nothing is distinguishable), or empty"),
)


def _path(column: Column, more: str = "") -> tuple[Column, ...]:
    """Return a measure of a path beside what paths without a direction give."""
    name = column.name
    return (
        replace(column, null=f"`{name}_walk`, `{name}_adamw`"),
        Column(f"{name}_walk", f"{_WALK}{more}"),
        Column(f"{name}_adamw", _ADAMW),
        Column(f"{name}_p", "two-sided, the larger of both, by redrawing the signs of the steps' innovations"),
        Column(f"{name}_judged_by", "the null that this p is of: `walk` or `adamw`"),
        Column(f"{name}_distinguishable", "beyond both, p < 0.001; never below the floor, nor for fewer than 13 steps"),
    )


TRAJECTORY = Table(
    "trajectory.parquet",
    "mastlens trajectory",
    "a tensor",
    (
        *PLACE,
        Column("numel", "entries"),
        Column("steps", "saved steps"),
        Column("fitted", "how many of them, the first, fits look at"),
        Column("delta_norm", "‖θ_T − θ_0‖", "weight"),
        Column("relative_norm", "‖θ_T − θ_0‖ / ‖θ_0‖"),
        *_NOTES,
        *_path(
            Column(
                "explained_variance",
                "share of the fitted updates' energy along their first direction, not centred",
                source=_RELEX,
            ),
            "; 8/π² for many",
        ),
        Column("explained_variance_noise", "independent noise around θ_0"),
        Column("slope", "of the coefficient's line on the step number", "weight per step"),
        Column("intercept", "of that line", "weight"),
        *_path(Column("linearity", "R² of that line", source=_RELEX)),
        *_path(Column("last_error", "‖δ_T − line(T) v‖ / ‖δ_T‖", source=_RELEX)),
        Column("last_error_stay", "of taking the last fitted step for the last one"),
        *_path(Column("increment_cosine", "mean cosine of successive increments"), ": 0"),
        Column(
            "matrix_rank_1",
            "share of ‖θ_T − θ_0‖² in its first singular triple; NaN for what is no matrix",
            null="`matrix_rank_1_null`",
            source="AlphaRL, arXiv:2510.00553",
        ),
        Column("matrix_rank_1_null", "a Gaussian matrix"),
    ),
)

TRAJECTORY_STEPS = Table(
    "trajectory_steps.parquet",
    "mastlens trajectory",
    "an attention projection and a step",
    (
        *PLACE,
        Column("step", "the training step"),
        Column("fitted", "whether fits look at it"),
        Column("coefficient", "c_t along the first direction in time", "weight"),
        Column("line", "what the fitted line says", "weight"),
        Column("walk", "the coefficient of a random walk that is equal at the last fitted step", "weight"),
        Column("delta_norm", "‖θ_t − θ_0‖", "weight"),
        Column("relative_norm", "‖θ_t − θ_0‖ / ‖θ_0‖"),
        Column("off_principal", "of θ_t − θ_0, as in `geometry.parquet`", null="`off_principal_null`"),
        Column("off_principal_null", "a random update: 1 − k² / (rows · cols)"),
        RANK,
    ),
)

TABLES = (
    GEOMETRY,
    HEADS,
    SPECTRA,
    AGREEMENT,
    AGREEMENT_RUNS,
    AGREEMENT_CONSENSUS,
    TRAJECTORY,
    TRAJECTORY_STEPS,
)
