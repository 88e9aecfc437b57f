"""What commands that read weights and run no model tell."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome
from mastlens.cli.tables import show

if TYPE_CHECKING:
    from mastlens.analysis.increments.agreement import Agreement
    from mastlens.analysis.increments.geometry import Geometry
    from mastlens.analysis.increments.settings import GeometrySettings, MaskAgreementSettings
    from mastlens.analysis.trajectories.settings import TrajectorySettings
    from mastlens.analysis.trajectories.trajectory import Trajectory
    from mastlens.checkpoints.inspection import Inspection
    from mastlens.checkpoints.settings import InspectSettings


def inspect(result: "Inspection", settings: "InspectSettings") -> Outcome:
    """Tell what a checkpoint holds."""
    lines = [f"{key:>20}  {value}" for key, value in result.summary.items()]
    return Outcome(
        "\n".join(lines) + "\n\n" + show(result.table, rows=200),
        {**result.summary, "projections": result.table.to_dict("records")},
    )


def geometry(result: "Geometry", settings: "GeometrySettings") -> Outcome:
    """Tell the geometry of the increments."""
    from mastlens.analysis.increments.precision import floor_sentence
    from mastlens.statistics import BELOW, claim

    columns = ["increment", "layer", "projection", "delta_norm", "relative_norm", "note"]
    columns += ["off_principal", "off_principal_null", "off_principal_z", "spectral_shift", "spectral_shift_null"]
    columns += ["stable_rank", "stable_rank_null", "principal_lift", "principal_overlap_z"]
    groups = result.table.groupby("increment", sort=False)
    means = groups[["delta_norm", "off_principal", "off_principal_null", "off_principal_distinguishable"]].mean()
    below = int((result.table["note"] == BELOW).sum())
    said = floor_sentence(result.table)
    moved = result.table[result.table["delta_norm"] > 0]
    claims = {name: claim(part, "off_principal") for name, part in moved.groupby("increment", sort=False)}
    last = "\n".join(f"{name}, off-principal energy: {found.sentence('tensor')}" for name, found in claims.items())
    return Outcome(
        f"{said}\n\n" * bool(said) + show(result.table, columns, rows=80),
        {
            "rows": len(result.table),
            "below_floor": below,
            "mean": means.to_dict("index"),
            "claims": {name: asdict(found) for name, found in claims.items()},
            "out": str(settings.out),
        },
        last,
    )


def mask_agreement(result: "Agreement", settings: "MaskAgreementSettings") -> Outcome:
    """Tell how far masks agree."""
    from mastlens.statistics import claim

    summary = result.summary()
    means = summary.select_dtypes("number").drop(columns="layer").mean().to_dict()
    found = claim(result.table, "jaccard")
    return Outcome(
        show(summary, rows=200),
        {"rows": len(result.table), "mean": means, "claims": {"jaccard": asdict(found)}, "out": str(settings.out)},
        f"overlap of masks: {found.sentence('pairwise comparison')}",
    )


def trajectory(result: "Trajectory", settings: "TrajectorySettings") -> Outcome:
    """Tell what a run looks like by its steps."""
    from mastlens.statistics import claim

    attention = result.table[result.table["projection"] != ""]
    columns = ["layer", "projection", "delta_norm"]
    columns += [f"{measure}{end}" for measure in ("explained_variance", "linearity") for end in ("", "_walk", "_adamw")]
    columns += [
        "explained_variance_distinguishable",
        "last_error",
        "last_error_stay",
        "increment_cosine",
        "matrix_rank_1",
    ]
    written = {kind: str(folder) for kind, folder in result.checkpoints.items()}
    claims = {name: claim(attention, name) for name in ("explained_variance", "linearity", "increment_cosine")}
    last = "\n".join(f"{name}: {found.sentence('tensor')}" for name, found in claims.items())
    wrote = "".join(f"\nWrote {folder}" for folder in written.values())
    means = attention[[c for c in columns[2:] if c in attention]].mean().to_dict()
    return Outcome(
        f"{show(attention, columns, rows=80)}{wrote}",
        {
            "rows": len(result.table),
            "mean": means,
            "claims": {name: asdict(found) for name, found in claims.items()},
            "checkpoints": written,
            "out": str(settings.out),
        },
        last,
    )
