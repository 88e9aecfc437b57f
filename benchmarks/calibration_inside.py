"""What the commands of ``mastlens inside`` call beyond chance of one drawn lineage: the family ``inside``."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

import mastlens
from benchmarks.calibration_draws import Cell, Told
from benchmarks.calibration_lineages import LAYERS, TEXTS, Drawn, draw_lineage, encoded
from mastlens.analysis.inside.pair import Pair
from mastlens.analysis.inside.signals import read_signals
from mastlens.analysis.inside.steers import Direction, random_directions
from mastlens.checkpoints.computing import Computing
from mastlens.checkpoints.lineage import Lineage
from mastlens.models.hooked import HookedModel

END = "_distinguishable"
LOOSE, AT = "p<0.05/", 0.05
"""Prefix of columns that count p below 5 %: of so many rows more can be told of a law's body than of its tail."""
STATES = 32
"""Width of the residual stream."""
FEW, MANY = 8, 24
"""Texts of the commands that read problems (``direct``, which tells texts apart, reads all), and random directions
beside a planted one."""
FEATURES = ("dictionary/change", "dictionary/firing_change", "crosscoder/active", "crosscoder/firing")
"""What allows for all rows of a table: of these a table counts, and no row."""
_PLACE = ("resid_post", LAYERS - 1, -1, 0)
_NAME = "sft/mean/" + "/".join(map(str, _PLACE))
_FURTHER = 1 << 20  # seeds of directions that are no control's


def measure_inside(cell: Cell, repeat: int, width: int) -> Told:
    """Count the rows that each command calls distinguishable, the tables in which there is one, and rows of p < 5 %."""
    told: Told = {}
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_lineage(cell, repeat, width, Path(folder))
        for name, table in _tables(drawn):
            for column in (str(column) for column in table if str(column).endswith(END)):
                measure = column.removesuffix(END)
                spread = table[f"{measure}_z"].notna()  # where every draw is the same, chance has no say
                flags = table.loc[spread, column].astype(bool)
                key = f"{name}/{measure}"
                if not len(flags):
                    continue
                if key not in FEATURES:
                    told[key] = int(flags.sum()), len(flags)
                told[LOOSE + key] = int((table.loc[spread, f"{measure}_p"] < AT).sum()), len(flags)
                if len(flags) > 1:
                    told[f"table/{key}"] = int(flags.any()), 1
    return told


def _tables(drawn: Drawn) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield every command's tables."""
    pair, few = drawn.pair, {"splits": {"problems": drawn.problems}, "limit": FEW}
    departure = mastlens.inside_depart(**pair, **few, lens=True)
    yield "depart", departure.table
    yield "forks", departure.forks
    yield "write", mastlens.inside_write(**pair, **few).table
    yield "patch", mastlens.inside_patch(**pair, **few, integrate=2).table
    paths = {"senders": ("z.0.1", "mlp_out.0"), "receivers": ("v.1", "mlp_in.1", "logits")}
    yield "path", mastlens.inside_path(**pair, **few, **paths).table
    yield "undo", mastlens.inside_undo(**pair, **few, edited=drawn.folder / "edited").table
    directions = mastlens.inside_direct(**pair, texts=drawn.problems, label="label", limit=TEXTS)
    yield "direct", directions.table
    features = mastlens.inside_dictionary(**pair, **few, dictionary=drawn.folder / "sae")
    yield "dictionary", features.table
    yield "dictionary-fit", features.fit
    shared = mastlens.inside_crosscoder(**pair, **few, crosscoder=drawn.folder / "crosscoder", layer=LAYERS - 1)
    yield "crosscoder", shared.table
    yield "crosscoder-fit", shared.fit
    vector = directions.vectors[_NAME]
    for name, direction in _steers(drawn, vector).items():
        file = drawn.folder / f"{name}.safetensors"
        save_file({_NAME: direction.contiguous()}, file)
        # So narrow a stream needs more random directions than a command draws by itself to tell anything from them.
        steered = {"doses": (-0.5, 0.5), **({"draws": MANY} if drawn.taught else {})}
        steering = mastlens.inside_steer(**pair, **few, directions=file, direction=_NAME, **steered)
        yield f"steer-{name}", steering.table


def _steers(drawn: Drawn, vector: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return directions to steer along: of random labels, and of the controls' own law; or uphill where taught."""
    lineage = Lineage.open(drawn.pair["rlvr"], sft=drawn.pair["sft"])
    pair = Pair.of(lineage, Computing("cpu", drawn.dtype), draws=0, seed=drawn.repeat)
    hooked, texts = HookedModel(pair.changed), encoded(drawn.folder)[:FEW]
    if drawn.taught:
        signals = read_signals(hooked, texts, sites=("resid_post",), layers=[LAYERS - 1], positions=(-1,),
                               batch_size="auto", progress=None)  # fmt: skip
        slope = torch.from_numpy(signals.slopes[*_PLACE[:3], -1].mean(axis=0))
        return {"uphill": slope * (vector.norm() / slope.norm())}
    like = Direction(_NAME, *_PLACE[:3], vector)
    alike = random_directions(hooked, [texts], like, draws=1, seed=drawn.repeat + _FURTHER, batch_size="auto")
    return {"labels": vector, "states": alike[0].vector}
