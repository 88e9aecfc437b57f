"""Chapters on the weights alone: where increments lie, whether runs change the same entries, how a run moved."""

import pandas as pd

from mastlens import plots
from mastlens.analysis.increments.precision import floor_sentence
from mastlens.plots.page import Section
from mastlens.reporting.folder import Findings, RunFolder
from mastlens.reporting.wording import beside_null, out_of, plain
from mastlens.statistics import Claim, claim

_MEASURES = (
    ("off_principal", "off-principal energy"),
    ("off_principal_left", "outside the left subspace"),
    ("off_principal_right", "outside the right subspace"),
    ("off_principal_diagonal", "outside the k singular atoms"),
    ("spectral_shift", "spectral shift (NSS)"),
    ("angle_left_max_deg", "largest left angle, degrees"),
    ("angle_right_max_deg", "largest right angle, degrees"),
    ("stable_rank", "stable rank"),
    ("effective_rank", "effective rank"),
    ("energy_rank_99", "directions with 99 % of the energy"),
    ("participation", "participation"),
    ("principal_overlap", "updated entries among the principal"),
    ("low_magnitude_overlap", "updated entries among the small"),
    ("off_principal_mask", "energy outside the principal mask"),
)
_HEADS = (
    ("energy_share", "share of the increment's energy"),
    ("off_principal", "off-principal energy"),
    ("off_principal_shared", "outside the shared side's subspace"),
)
_ANGLES = {f"angle_{side}_max_deg{end}" for side in ("left", "right") for end in ("", "_null", "_distinguishable")}
_SHOWN = 10  # heads in a table


def geometry(run: RunFolder) -> Findings | None:
    """Tell where the increments lie, beside what a random increment gives."""
    table = run.table("geometry.parquet")
    if table is None:
        return None
    figures = [plots.plot_off_principal(table, subtitle=run.subtitle)]
    figures.append(plots.plot_increment_magnitude(table, subtitle=run.subtitle))
    spectra = run.table("spectra.parquet")
    if spectra is not None:
        figures.append(plots.plot_spectra(spectra[spectra["increment"] == "rlvr"], subtitle=run.subtitle))
    if set(table) >= _ANGLES:
        figures.append(plots.plot_principal_angles(table, subtitle=run.subtitle))
    tables = [
        ("Every measure beside chance: medians over the projections", beside_null(table, _MEASURES, ["increment"]))
    ]
    heads = run.table("geometry_heads.parquet")
    if heads is not None:
        for value in ("energy_share", "off_principal"):
            figures.append(plots.plot_head_map(heads, value, subtitle=run.subtitle))
        tables.append(("The same head by head", beside_null(heads, _HEADS, ["increment", "projection"])))
        largest = heads[heads["increment"] == "rlvr"].nlargest(_SHOWN, "energy_share")
        columns = ["layer", "projection", "head", "energy_share", "energy_share_null", "energy_share_distinguishable"]
        columns += ["off_principal", "off_principal_null", "off_principal_distinguishable"]
        tables.append(("The heads that moved most of their tensor, RLVR increment", largest[columns]))
    text = (
        "Off-principal energy is the share of an increment that lies outside the base weight's top-k singular "
        "subspaces. A random increment of that shape already puts 1 - k^2/(rows x cols) outside: read the value "
        "against that null, never alone. The lift is the energy inside over what the null puts there.\n\n"
        "Above and below chance count the projections that are beyond every null beside them (two-sided p < 0.001 "
        "each, none below the precision floor). With them stand how many there are by chance alone, how many hold "
        "together at 5 % over the table (Holm), and the lift: how many times what chance gives, of energy outside the "
        f"energy inside. What is beyond chance with a lift within {run.smallest_lift:g} times is too small to matter."
    )
    return Findings(
        Section("Where the increment lies", text, tuple(figures), tuple(part for part in tables if len(part[1]))),
        _finding(table, run.smallest_lift),
        ("Geometry says where weights moved, not what the movement does.",),
    )


def _finding(table: pd.DataFrame, smallest: float) -> str:
    part = table[table["increment"] == "rlvr"]
    moved = part[part["delta_norm"] > 0]
    if moved.empty:
        return "The RLVR increment is zero in every projection that was measured."
    value, null = moved["off_principal"], moved["off_principal_null"]
    floor = floor_sentence(moved)
    statement = f"{floor} " * bool(floor)
    statement += (
        f"{plain(value.median(), 3)} of the RLVR increment's energy lies outside the principal subspaces (median over "
        f"{len(moved)} projections, {plain(value.min(), 3)} to {plain(value.max(), 3)}), where a random increment puts "
        f"{plain(null.median(), 3)}"
    )
    if "off_principal_distinguishable" not in moved:
        return statement + "."
    found = claim(moved, "off_principal", smallest=smallest)
    statement += f": {found.sentence('projection')}"
    statement += _ways(found)
    if found.lift == found.lift:
        ends = found.lift_interval
        statement += f". The energy inside is {plain(found.lift, 2)} times what chance gives"
        statement += f" [{plain(ends.low, 2)}, {plain(ends.high, 2)}]" * (ends.low == ends.low)
        statement += f" (geometric mean over {found.of} projections, 95 % interval over them)"
    return statement + "."


def _ways(found: Claim) -> str:
    """Return how many rows beyond chance lie above it, and how many below; nothing where the table holds nothing."""
    ways = ((found.above, "above"), (found.below, "below"))
    return f", {' and '.join(f'{n} {way} it' for n, way in ways if n)}" * found.holds


def agreement(run: RunFolder) -> Findings | None:
    """Tell whether several runs from one checkpoint change the same entries."""
    table = run.table("agreement.parquet")
    if table is None:
        return None
    values = ["jaccard", "jaccard_null", "jaccard_matched_null"]
    means = table.groupby(["layer", "projection", "name"], sort=False)[values].mean().reset_index()
    figure = plots.plot_score_map(
        means,
        "jaccard",
        null="jaccard_matched_null",
        label="Jaccard overlap of update masks",
        subtitle=run.subtitle,
        writer="mastlens mask-agreement",
    )
    text = (
        "The overlap of the entries that two runs changed, |A and B| / |A or B|, mean over the pairs of runs. Two "
        "nulls: masks that are independent of each other, and masks that are independent among entries of like "
        "magnitude, because a small entry flips its stored value more easily."
    )
    tables = [("Mean overlap by projection", means)]
    runs, consensus = run.table("agreement-runs.parquet"), run.table("agreement-consensus.parquet")
    if runs is not None:
        tables.append(("Every run by itself", runs))
    if consensus is not None:
        tables.append(("Entries that so many of the runs changed", consensus))
    found = claim(table, "jaccard", smallest=run.smallest_lift)
    finding = (
        f"Update masks of the runs overlap by {plain(means['jaccard'].mean(), 3)} (mean Jaccard), where independent "
        f"masks of equal magnitudes give {plain(means['jaccard_matched_null'].mean(), 3)}: "
        f"{found.sentence('pairwise comparison')}{_ways(found)}."
    )
    return Findings(Section("Whether runs change the same entries", text, (figure,), tuple(tables)), finding)


def trajectory(run: RunFolder) -> Findings | None:
    """Tell how a run moved from step to step, beside a random walk."""
    table, steps = run.table("trajectory.parquet"), run.table("trajectory_steps.parquet")
    if table is None:
        return None
    figures = []
    if steps is not None:
        figures.append(plots.plot_trajectory(steps, subtitle=run.subtitle))
    figures.append(plots.plot_trajectory_explained(table, subtitle=run.subtitle))
    if steps is not None and "off_principal" in steps:
        figures.append(plots.plot_trajectory_geometry(steps, subtitle=run.subtitle))
    attention = table[table["projection"] != ""] if "projection" in table else table
    values = ["delta_norm", "explained_variance", "explained_variance_walk", "explained_variance_adamw"]
    values += ["linearity", "linearity_walk", "linearity_adamw", "last_error", "last_error_stay"]
    values += ["increment_cosine", "matrix_rank_1"]
    present = [column for column in values if column in attention and attention[column].notna().any()]
    summary = attention.groupby("projection", sort=False)[present].median().reset_index()
    median = attention[present].median().to_dict()
    finding = (
        f"One direction in time explains {plain(median['explained_variance'], 2)} of the median tensor's updates, "
        f"where a random walk gives {plain(median['explained_variance_walk'], 2)}; its coefficient lies on a line "
        f"with R² {plain(median['linearity'], 2)}, a walk's with {plain(median['linearity_walk'], 2)}"
    )
    if "explained_variance_adamw" in present:
        finding += (
            f"; AdamW on gradients that are noise gives {plain(median['explained_variance_adamw'], 2)} and "
            f"{plain(median['linearity_adamw'], 2)}"
        )
    if {"explained_variance_distinguishable", "linearity_distinguishable"} <= set(attention):
        line, share = (claim(attention, x, smallest=run.smallest_lift) for x in ("linearity", "explained_variance"))
        finding += f". Beside both, the line: {line.sentence('tensor')}{_ways(line)}; the direction: "
        finding += f"{share.sentence('tensor')}{_ways(share)}."
    else:
        pairs = (("explained_variance", "explained_variance_walk"), ("linearity", "linearity_walk"))
        more = any(median[value] > median[walk] for value, walk in pairs)
        finding += "." if more else ": neither is more than a random walk shows."
    if {"last_error", "last_error_stay"} <= set(present):
        better = int((attention["last_error"] < attention["last_error_stay"]).sum())
        finding += (
            f" The line through the fitted steps comes nearer to the last one than standing still in "
            f"{out_of(better, len(attention), 'tensor')}."
        )
    text = (
        "The temporal rank-1 analysis: each tensor's updates over the saved steps, projected on their first direction "
        "in time. A random walk has such a direction too, and its coefficient looks like a line; momentum makes that "
        "more so. Both measures stand beside a walk's and beside those of AdamW fed with noise."
    )
    return Findings(
        Section("How the run moved", text, tuple(figures), (("Medians by projection", summary),)),
        finding,
        ("A trajectory is one run from one seed.",),
    )
