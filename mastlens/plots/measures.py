"""What the columns of the package's tables are called on an axis, with their units, and where their nulls stand."""

from collections.abc import Iterable

_LABELS = {
    "delta_norm": "Frobenius norm |Δ| (in units of the weights)",
    "delta_rms": "root mean square of Δ (in units of the weights)",
    "relative_norm": "|Δ| / |W| (no unit)",
    "off_principal": "energy outside the principal subspaces (share of |Δ|²)",
    "off_principal_left": "energy outside the principal output directions (share of |Δ|²)",
    "off_principal_right": "energy outside the principal input directions (share of |Δ|²)",
    "off_principal_diagonal": "energy outside the principal atoms (share of |Δ|²)",
    "off_principal_mask": "energy outside the principal mask (share of |Δ|²)",
    "off_principal_shared": "energy outside the principal directions that heads share (share of the head's)",
    "energy_share": "share of the projection's |Δ|² in this head",
    "spectral_shift": "spectral shift |σ(after) − σ(before)| / |σ(before)| (no unit)",
    "fixed_spectrum_distance": "|σ(after) − σ(before)| (in units of the weights)",
    "isotropic_ratio": "spectral change over that of a random increment (1 = random)",
    "angle_left_max_deg": "largest principal angle, output side (degrees)",
    "angle_right_max_deg": "largest principal angle, input side (degrees)",
    "angle_left_mean_deg": "mean principal angle, output side (degrees)",
    "angle_right_mean_deg": "mean principal angle, input side (degrees)",
    "stable_rank": "stable rank of Δ (directions)",
    "effective_rank": "effective rank of Δ (directions)",
    "energy_rank_99": "directions with 99 % of the energy of Δ",
    "participation": "participation of the singular directions of Δ (1 = one direction)",
    "changed_fraction_bf16": "entries that differ once rounded to bfloat16 (share)",
    "changed_fraction_native": "entries that differ as stored (share)",
    "neighbour_fraction_bf16": "entries that moved one bfloat16 step only (share)",
    "principal_overlap": "updated entries among the principal half (share)",
    "low_magnitude_overlap": "updated entries among the small half (share)",
    "principal_lift": "principal overlap over density (1 = chance)",
    "low_magnitude_lift": "overlap with small entries over density (1 = chance)",
    "forget_cosine": "cosine of forget gradient and Δ (−1 to 1)",
    "retain_cosine": "cosine of retain gradient and Δ (−1 to 1)",
    "forget_retain_cosine": "cosine of forget and retain gradient (−1 to 1)",
    "forget_inner": "forget gradient · Δ (nats a token)",
    "retain_inner": "retain gradient · Δ (nats a token)",
    "forget_grad_norm": "norm of the forget gradient (nats a token, per unit of weight)",
    "retain_grad_norm": "norm of the retain gradient (nats a token, per unit of weight)",
    "forget_effect": "change of log p on forget (nats a token)",
    "retain_effect": "change of log p on retain (nats a token)",
    "score": "score of the rule",
    "difference": "difference of the stream (‖after − before‖ / ‖before‖)",
    "angle_deg": "angle between the stream before and after (degrees)",
    "cka_distance": "1 − CKA of the stream before and after (no unit)",
    "procrustes": "Procrustes distance of the stream before and after (0 to 1)",
    "lens_kl": "KL(SFT ‖ RLVR) of the layer's logit lens (nats)",
    "tuned_kl": "KL(SFT ‖ RLVR) of the layer's tuned lens (nats)",
    "kl": "KL(SFT ‖ RLVR) of the next token (nats)",
    "js": "Jensen-Shannon divergence of the next token (nats)",
    "entropy_change": "change of the next token's entropy (nats)",
    "auc": "area under the curve of held-out texts (0.5: nothing told)",
    "writes": "move along SFT's direction (distances of the classes)",
    "reads": "change of what a step along it adds to log p (nats)",
    "effect": "change of the solutions' log p (nats a token)",
    "accuracy_change": "change of the share of right responses",
    "back": "share taken back (1: as in the reference)",
    "left": "distance to the reference that is left (1: as before the edit)",
    "top_differs": "tokens at which another one is the most probable (share)",
    "explained_variance": "energy of the updates along one direction in time (share)",
    "linearity": "R² of the coefficient's line (no unit)",
    "increment_cosine": "cosine of successive updates (−1 to 1)",
    "matrix_rank_1": "energy of Δ in its first singular triple (share)",
}

INCREMENTS = {"sft": "SFT", "rlvr": "RLVR"}
"""What the increments are called."""


def label_of(column: str) -> str:
    """Return what a column is called on an axis, with its unit."""
    return _LABELS.get(column, column.replace("_", " "))


def null_of(column: str, columns: Iterable[str]) -> tuple[str | None, str | None]:
    """Return the column of a measure's null and the one that says whether it can be told from it, where they are.

    Args:
        column: The measure.
        columns: The columns of the table.
    """
    there = set(columns)
    null = next((name for name in (f"{column}_null", f"{column}_walk") if name in there), None)
    told = f"{column}_distinguishable"
    if told in there:
        return null, told
    above = f"{column.removesuffix('_cosine')}_above_chance"
    return null, above if column.endswith("_cosine") and above in there else None


def increments_of(found: Iterable[str]) -> list[str]:
    """Return the increments in the order in which they were made; others follow as they are found."""
    present = list(dict.fromkeys(found))
    return [name for name in INCREMENTS if name in present] + [name for name in present if name not in INCREMENTS]
