"""What the calibration of nulls counts: which readings of one random draw are called beyond chance."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.calibration_draws import (
    HEADS,
    NOMINAL,
    PLANTED,
    RANK,
    STORAGE,
    Cell,
    Told,
    gradient,
    increment,
    noise_path,
    planted,
    stored,
    weight,
)
from benchmarks.calibration_inside import measure_inside
from mastlens.analysis.coupling.alignment import above_chance, cosine, cosine_chances, judged
from mastlens.analysis.coupling.spectral import coupling_by_direction
from mastlens.analysis.increments.agreement import mask_jaccard
from mastlens.analysis.increments.masks import update_mask, view_cells
from mastlens.analysis.increments.measures import Blocks, Options, measure_matrices
from mastlens.analysis.increments.placement import Rounding
from mastlens.analysis.increments.precision import precision_floor, rounding_variance
from mastlens.analysis.trajectories.noise import MEASURES, judge_path, path_laws, path_measures

TENSORS, DIRECTIONS_ALONE = 16, 8
"""Tensors of a table, and singular directions of each that stand alone."""
SAVED = 20
"""Saved steps of a run."""


def measure_geometry(cell: Cell, repeat: int, width: int) -> Told:
    """Return, for every column that says so, how many readings are called distinguishable, and of how many."""
    generator = cell.generator(repeat)
    before = weight(cell.weight, width, width, generator).to(STORAGE[cell.storage])
    plant = cell.increment if cell.increment in PLANTED else None
    drawn = increment("gaussian" if plant else cell.increment, width, width, generator)
    after = stored(before, planted(plant, before, drawn) if plant else drawn, cell.ratio)
    full = plant in (None, "out")
    options = Options(rank=str(RANK), full=full, masks=plant in (None, "mask"), spectra=plant is None, heads=True)
    found = measure_matrices(before, after, options, blocks=Blocks(HEADS, "rows"), label=f"{cell.name}/{repeat}")
    told: Told = {}
    for prefix, part in (("", "rows"), ("head/", "heads")):
        for column in (column for column in found[part][0] if column.endswith("_distinguishable")):
            flags = [bool(row[column]) for row in found[part]]
            told[prefix + column.removesuffix("_distinguishable")] = sum(flags), len(flags)
    if plant == "head":  # found where it was put
        told = {"head/energy_share": (int(found["heads"][0]["energy_share_distinguishable"]), 1)}
    return told


def _pair(cell: Cell, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a stored matrix and the one after a random increment."""
    before = weight(cell.weight, width, width, generator).to(STORAGE[cell.storage])
    kind = "gaussian" if cell.increment in PLANTED else cell.increment
    return before, stored(before, increment(kind, width, width, generator), cell.ratio)


def _told(before: Tensor, after: Tensor) -> bool:
    """Return whether the increment lies above the precision floor."""
    floor = precision_floor(rounding_variance(before) + rounding_variance(after), *map(int, before.shape))
    return not floor.note(float((after.float() - before.float()).norm()))


def _coupled(cell: Cell, width: int, generator: torch.Generator, name: str) -> tuple[float, list[float]]:
    """Return the p of a cosine, and those of the singular directions."""
    before, after = _pair(cell, width, generator)
    delta, g = (after.double() - before.double()), gradient(width, width, generator).double()
    if cell.increment == "aligned":  # the cosine is seven standard deviations of the wider null, give or take one
        sd = max(chance.sd for chance in cosine_chances(g, delta))
        g = g + 7 * sd * delta / delta.norm()
    told = _told(before, after)
    p = judged(cosine(g, delta), cosine_chances(g, delta), told=told)["p"]
    pieces = coupling_by_direction(delta, {"forget": g}, directions=DIRECTIONS_ALONE, told=told, name=name)
    return p, [piece["p"] for piece in pieces]


def measure_coupling(cell: Cell, repeat: int, width: int) -> Told:
    """Count a gradient that is random, or aligned with the increment."""
    cosine_p, pieces = _coupled(cell, width, cell.generator(repeat), f"{cell.name}/{repeat}")
    told = {"coupling/cosine": (int(cosine_p < NOMINAL), 1)}
    if cell.increment not in PLANTED:
        told["coupling/direction"] = sum(p < NOMINAL for p in pieces), len(pieces)
    return told


def measure_table(cell: Cell, repeat: int, width: int) -> Told:
    """Count tables in which any row is above chance."""
    generator = cell.generator(repeat)
    found = [_coupled(cell, width, generator, f"{cell.name}/{repeat}/{tensor}") for tensor in range(TENSORS)]
    p = {"table/cosines": [cosine_p for cosine_p, _ in found], "table/directions": [q for _, qs in found for q in qs]}
    return {column: (int(above_chance(np.array(values)).any()), 1) for column, values in p.items()}


def measure_agreement(cell: Cell, repeat: int, width: int) -> Told:
    """Count two runs from one weight that know nothing of each other, or share a third of their changes."""
    generator = cell.generator(repeat)
    before, first = _pair(cell, width, generator)
    kind = "gaussian" if cell.increment in PLANTED else cell.increment
    second = stored(before, increment(kind, width, width, generator), cell.ratio)
    if cell.increment == "shared":
        second = torch.where(torch.rand(width, width, generator=generator) < 1 / 3, first, second)
    masks = [update_mask(before, after) for after in (first, second)]
    found = mask_jaccard(*masks, replace(Rounding.of(before, before.dtype), cells=view_cells(before)))
    assert found.matched_null is not None
    told = all(_told(before, after) for after in (first, second))
    beyond = all(null.distinguishable(found.overlap) for null in (found.null, found.matched_null))
    return {"agreement/jaccard": (int(told and beyond), 1)}


def measure_path(cell: Cell, repeat: int, width: int) -> Told:
    """Count the path of AdamW on noise, or on noise with a mean."""
    last = int(cell.ratio)
    steps = list(range(last // SAVED, last + 1, last // SAVED))
    path = noise_path(cell.increment, steps, width, cell.generator(repeat)).numpy()
    gram = path @ path.T
    observed = {name: float(values[0]) for name, values in path_measures(gram[None], steps, len(steps)).items()}
    found = judge_path(gram, steps, len(steps), path_laws(steps), observed, seed=repeat)
    # A mean shows in how steps lie to one another; noise of one direction explains as much by one direction.
    names = ("linearity", "increment_cosine") if cell.increment == "trend" else MEASURES
    return {f"path/{name}": (int(found[name].distinguishable), 1) for name in names}


FAMILIES: dict[str, Callable[[Cell, int, int], Told]] = {
    "geometry": measure_geometry,
    "coupling": measure_coupling,
    "table": measure_table,
    "agreement": measure_agreement,
    "path": measure_path,
    "inside": measure_inside,
}


def measure(cell: Cell, repeat: int, width: int) -> Told:
    """Return, for every column that says so, how many readings are called beyond chance, and of how many."""
    return FAMILIES[cell.family](cell, repeat, width)
