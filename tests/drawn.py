"""Every figure function with a table that it draws: for tests over all of them, and for the gallery.

The tables are invented, with the columns and the ranges of those that commands write. What a figure says of them is no
result; that it says it honestly and can be read is what is looked at.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mastlens import plots


@dataclass(frozen=True)
class Size:
    """How large a table is.

    Attributes:
        layers: Layers of the model.
        projections: Its projections.
        heads: Heads of a projection.
        arms: Arms of a study, models of a comparison.
        items: Items, tokens, steps.
    """

    layers: int = 8
    projections: Sequence[str] = ("q", "k", "v", "o")
    heads: int = 8
    arms: int = 4
    items: int = 60


SMALL = Size()
LARGE = Size(80, ("q", "k", "v", "o", "gate", "up", "down"), 128, 30, 400)
LINES = Size(80, ("q",), 128, 30, 400)


@dataclass(frozen=True)
class Drawn:
    """A figure function and what it draws.

    Attributes:
        name: The function's name in ``mastlens.plots``.
        call: What a user types to get it.
        make: Makes its tables.
        options: Further arguments.
        large: The size of a large model; figures with a line a tensor are drawn for one projection of it.
    """

    name: str
    call: str
    make: Callable[[Size], tuple[pd.DataFrame, ...]]
    options: Mapping[str, Any]
    large: Size = LARGE

    def draw(self, *tables: pd.DataFrame) -> Any:
        """Return the figure of these tables, the first of them being the function's first argument."""
        return getattr(plots, self.name)(*tables, **self.options)


_BOOLEAN = ("distinguishable", "above_chance", "selected", "shared", "fitted", "reached", "control", "edited")
_SHARES = ("share", "fraction", "accuracy", "energy", "relative", "overlap", "jaccard", "changed", "kept", "weight")


def table_of(keys: Mapping[str, Sequence[Any]], columns: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Return one row a combination of the keys; columns are filled by what their names say."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(list(itertools.product(*keys.values())), columns=list(keys))
    if {"layer", "projection"} <= set(table):
        table["name"] = [
            f"model.layers.{a}.{b}_proj.weight" for a, b in table[["layer", "projection"]].to_numpy().tolist()
        ]
    count = len(table)
    for column in columns:
        if column in table:
            continue
        stem = column.removesuffix("_low").removesuffix("_high")
        if column.endswith(_BOOLEAN):
            table[column] = rng.random(count) < 0.4
        elif column == "p" or column.endswith("_p"):
            table[column] = rng.random(count) ** 3
        elif stem != column and stem in table:
            table[column] = table[stem] + (-1 if column.endswith("_low") else 1) * 0.1 * rng.random(count)
        elif column.startswith("off_principal"):
            table[column] = 1 - 0.02 * rng.random(count)
        elif column in ("rows", "cols"):
            table[column] = 64
        elif column in ("n", "items", "tokens", "of", "candidates", "steps"):
            table[column] = 100
        elif column.endswith("deg") or column == "degrees":
            table[column] = 20 + 20 * rng.random(count)
        elif any(word in column for word in _SHARES):
            table[column] = rng.random(count)
        elif "norm" in column or column.endswith(("singular_value", "precision_floor", "null_sd", "score")):
            table[column] = 0.01 + rng.random(count) * (0.001 if "floor" in column else 1.0)
        else:
            table[column] = rng.normal(size=count) * 0.3
    return table


def _places(size: Size, **more: Sequence[Any]) -> dict[str, Sequence[Any]]:
    return {**more, "layer": range(size.layers), "projection": size.projections}


def _geometry(size: Size) -> pd.DataFrame:
    angles = [f"angle_{s}_max_deg{e}" for s in ("left", "right") for e in ("", "_null", "_distinguishable")]
    columns = ["rows", "cols", "delta_norm", "relative_norm", "precision_floor", "off_principal"]
    table = table_of(_places(size, increment=["sft", "rlvr"]), [*columns, *angles, "off_principal_distinguishable"])
    null = 1 - 16**2 / (64 * 64)
    inside = 2.0 ** np.random.default_rng(3).normal(size=len(table)) * (1 - null)
    below = np.arange(len(table)) % 9 == 5
    told = (np.abs(np.log2(inside / (1 - null))) > 1) & ~below
    table = table.assign(rank=16, off_principal=1 - inside, off_principal_null=null, off_principal_distinguishable=told)
    table["off_principal_p"] = np.where(told, 1e-6, 0.3)
    table["precision_floor"] = np.where(below, 2.0, 1e-3)
    table["note"] = np.where(below, "below the precision floor", "")
    return table


def _coupling(size: Size) -> pd.DataFrame:
    columns = ["rows", "cols", "forget_cosine", "retain_cosine", "forget_retain_cosine", "forget_above_chance"]
    return table_of(_places(size), [*columns, "retain_above_chance", "forget_cosine_p", "retain_cosine_p"])


def _heads(size: Size) -> pd.DataFrame:
    keys = {**_places(size, increment=["rlvr"]), "head": range(size.heads)}
    measures = ("energy_share", "off_principal", "off_principal_shared")
    table = table_of(keys, [f"{m}{e}" for m in measures for e in ("", "_null", "_distinguishable")])
    return table.assign(rows=64, cols=64, forget_cosine=0.05 * table["energy_share"] - 0.02)


def _ranking(size: Size) -> pd.DataFrame:
    table = table_of(_places(size), ["score", "off_principal", "log1p_energy", "coupling_factor"])
    table["log1p_energy"], table["coupling_factor"] = table["log1p_energy"].abs() + 0.1, 1 + table["score"] / 10
    table = table.sort_values("score", ascending=False, ignore_index=True)
    return table.assign(rank=np.arange(1, len(table) + 1), selected=np.arange(len(table)) < max(1, len(table) // 3))


def _causal(size: Size) -> pd.DataFrame:
    parts = ("effect", "effect_low", "effect_high", "first_order", "null_sd", "total")
    columns = [f"{side}_{part}" for side in ("forget", "retain") for part in parts]
    return table_of(_places(size, direction=["restore", "insert"]), columns).assign(head=-1)


def _attack(size: Size) -> pd.DataFrame:
    columns = ["baseline", "n", "accuracy", "ci_low", "ci_high", "logprob_solution", "recovered"]
    keys = {
        "variant": [f"forget-{i}" for i in range(min(size.arms, 5))],
        "model": ["source", "edited", "control"],
        "step": [0, 4, 8, 16],
        "split": ["forget", "retain"],
    }
    table = table_of(keys, [*columns, "recovered_low", "recovered_high", "recovered_beyond_control"])
    return _interval(table, "accuracy")


def _interval(table: pd.DataFrame, value: str, low: str = "ci_low", high: str = "ci_high") -> pd.DataFrame:
    return table.assign(**{low: (table[value] - 0.08).clip(0), high: (table[value] + 0.08).clip(upper=1)})


def _arms(size: Size) -> list[str]:
    return [f"arm {i}" for i in range(size.arms)]


def _study(size: Size) -> pd.DataFrame:
    spans = [f"{side}_{part}" for side in ("forget", "retain") for part in ("accuracy", "difference", "low", "high")]
    keys = {
        "objective": ["ga", "graddiff"],
        "selection": ["mast", "all", "random"],
        "draw": range(size.arms),
        "seed": [0],
    }
    table = table_of(keys, [*spans, "retain_accuracy", "forget_accuracy"])
    table = table[(table["selection"] == "random") | (table["draw"] == 0)].reset_index(drop=True)
    named = zip(table["objective"], table["selection"], table["draw"], strict=True)
    table.insert(0, "arm", [f"{a}-{b}-{c}" for a, b, c in named])
    return table.assign(kind="edit", reached=True, lr=1e-3)


def _tokens(size: Size) -> pd.DataFrame:
    keys = {"increment": ["sft", "rlvr"], "split": ["forget", "retain"], "item": [0, 1], "position": range(size.items)}
    table = table_of(keys, ["difference", "logprob_before", "entropy_before"])
    return table.assign(token=[f" w{i}" for i in table["position"]], entropy_before=table["entropy_before"].abs())


def _sides(size: Size) -> pd.DataFrame:
    keys = {"side": ["source", "edited"], "position": range(size.items)}
    table = table_of(keys, ["logprob_before", "logprob_after", "difference", "shared"])
    return table.assign(token=[f" w{i}" for i in table["position"]])


def _items(size: Size) -> pd.DataFrame:
    table = table_of({"split": ["forget", "retain"], "item": range(size.items)}, [])
    rng = np.random.default_rng(5)
    before, after = (rng.random(len(table)) < share for share in (0.7, 0.5))
    texts = {"prompt": "What is 3 + 4?", "gold": "7", "response_before": "It is 7.", "response_after": "It is 8."}
    return table.assign(before=before, after=after, **texts)


def _trajectory(size: Size) -> pd.DataFrame:
    columns = ["coefficient", "line", "walk", "off_principal", "off_principal_null", "delta_norm"]
    table = table_of({**_places(size), "step": range(1, 9)}, columns)
    slope = 0.1 * table["step"]
    return table.assign(fitted=table["step"] <= 6, rank=16, coefficient=slope, line=slope, walk=slope**0.5)


def _explained(size: Size) -> pd.DataFrame:
    columns = [
        "explained_variance",
        "explained_variance_walk",
        "explained_variance_noise",
        "linearity",
        "off_principal",
    ]
    table = table_of(_places(size), columns).assign(fitted=6, steps=8, explained_variance_walk=0.6)
    return table.assign(explained_variance=0.5 + 0.4 * table["off_principal"], explained_variance_noise=0.2)


def _one(table: Callable[[Size], pd.DataFrame]) -> Callable[[Size], tuple[pd.DataFrame, ...]]:
    return lambda size: (table(size),)


def _of(keys: Mapping[str, Sequence[Any]], *columns: str, **fixed: Any) -> Callable[[Size], tuple[pd.DataFrame, ...]]:
    return lambda size: (table_of(keys, columns).assign(**fixed),)


def _by_size(make: Callable[[Size], Mapping[str, Sequence[Any]]], *columns: str) -> Callable[[Size], tuple[Any, ...]]:
    return lambda size: (table_of(make(size), columns),)


def _patterns(size: Size) -> pd.DataFrame:
    table = table_of({"layer": [3], "head": range(min(size.heads, 4)), "query": range(12), "key": range(12)}, [])
    table = table[table["key"] <= table["query"]].reset_index(drop=True)
    even = 1 / (table["query"] + 1)
    return table.assign(before=even, after=np.where(table["head"] == 0, even, (table["key"] == 0).astype(float)))


def _map(size: Size) -> pd.DataFrame:
    table = table_of(_places(size), ["value"]).assign(chance=0.0)
    below = np.arange(len(table)) % 7 == 3
    beyond = pd.array((table["value"].abs() > 0.3) & ~below, dtype="boolean")
    return table.assign(beyond_chance=beyond, below_floor=below, floor=np.nan)


def _put_back(size: Size) -> tuple[pd.DataFrame, pd.DataFrame]:
    items = table_of({"side": ["forget", "retain"], "item": range(size.items)}, ["change"])
    parts = ["problems", "before", "after", "effect", "effect_low", "effect_high", "first_order", "null_sd"]
    return items, table_of({"side": ["forget", "retain"]}, parts).assign(problems=size.items, before=-1.2, after=-1.3)


def _edits(size: Size) -> pd.DataFrame:
    table = table_of({"arm": _arms(size)}, [f"{side}_difference" for side in ("forget", "retain")])
    for side in ("forget", "retain"):
        difference = table[f"{side}_difference"]
        table = table.assign(**{f"{side}_low": difference - 0.08, f"{side}_high": difference + 0.08})
    return table


def _overlap(size: Size) -> pd.DataFrame:
    names = [f"rule {i}" for i in range(min(size.arms, 16))]
    pairs = [*itertools.combinations(names, 2)] + [(name, name) for name in names]
    table = pd.DataFrame(pairs, columns=["first", "second"])
    filled = table_of({"pair": range(len(table))}, ["jaccard", "p"])
    numbers = {"first_size": 12, "second_size": 12, "candidates": 32, "shared": 5, "jaccard_chance": 0.2}
    return table.assign(**numbers, jaccard=filled["jaccard"], p=filled["p"])


def _traces(size: Size) -> pd.DataFrame:
    row = {"category": "C1", "reason": "said", "prompt": "Who?", "sentences": ["First.", "Then."], "answer": "x"}
    rows = [{"split": "forget", "item": i, "sample": 0, **row, "gold": "x"} for i in range(3)]
    return pd.DataFrame([{**each, "sentence_categories": ["C1", "C4"]} for each in rows])


def _shares(size: Size) -> pd.DataFrame:
    table = table_of({"arm": _arms(size), "split": ["forget"], "category": ["C1", "C2", "C3", "C4"]}, [])
    return table.assign(count=25, n=100, share=0.25)


def _cumulative(size: Size) -> tuple[pd.DataFrame, pd.DataFrame]:
    keys = {"order": ["ranking", "random"], "draw": range(3), "k": range(0, 13)}
    table = table_of(keys, ["forget_effect", "retain_effect"])
    table = table[(table["order"] == "random") | (table["draw"] == 0)].reset_index(drop=True)
    return table.assign(forget_effect=-0.1 * table["k"]), pd.DataFrame(
        {"side": ["forget", "retain"], "above_random": [0.2, 0.0], "p_value": [0.01, 0.6]}
    )


def _errors(size: Size) -> pd.DataFrame:
    table = table_of(_places(size), [])
    draws = np.random.default_rng(7).random((len(_ERRORS), len(table)))
    return table.assign(steps=8, fitted=6, **dict(zip(_ERRORS, draws, strict=True)))


def _standing(size: Size) -> pd.DataFrame:
    table = table_of({"label": [f"score {i}" for i in range(9)]}, ["value", "relative", "of"])
    return table.assign(place=2, beyond_chance=pd.array([True, False, pd.NA] * 3, dtype="boolean"))


def _measures(size: Size) -> pd.DataFrame:
    table = table_of({"arm": _arms(size), "measure": ["RT-UA", "FA-UA"]}, ["share"]).rename(columns={"share": "value"})
    return _interval(table, "value")


def _accuracy(size: Size) -> pd.DataFrame:
    return _interval(table_of({"arm": _arms(size), "split": ["forget", "retain"]}, ["n", "accuracy"]), "accuracy")


def _lines(size: Size) -> pd.DataFrame:
    return table_of(_places(size), ["score"]).assign(standard_error=0.05)


def _weights(size: Size) -> pd.DataFrame:
    return table_of({"item": [0], "position": range(30)}, ["weight"]).assign(text=" w")


def _search(size: Size) -> pd.DataFrame:
    table = table_of({"arm": _arms(size), "lr": [1e-4, 1e-3], "step": [8, 16, 24]}, [])
    return table.assign(correct=40 - table["step"], items=40)


def _depth(size: Size) -> pd.DataFrame:
    parts = ["reference_drop", "edited_drop", "erased"]
    table = table_of({"split": ["forget"], "layer": range(-1, size.layers)}, [*parts, "items"])
    ends = {f"{p}_{e}": table[p] + (0.1 if e == "high" else -0.1) for p in parts for e in ("low", "high")}
    return table.assign(encoding=40, **ends)


def _departure(size: Size) -> pd.DataFrame:
    columns = ["difference", "difference_null", "difference_p", "difference_distinguishable"]
    table = table_of({"split": ["forget", "retain"], "layer": range(-1, size.layers)}, columns)
    return table.assign(site="resid", position=-1, difference=table["difference"].abs(), difference_null=0.1)


def _writers(size: Size) -> pd.DataFrame:
    heads = [("z", head) for head in range(size.heads)] + [("mlp_out", -1)]
    table = table_of({"split": ["forget"], "layer": range(size.layers), "part": range(len(heads))}, ["change"])
    table = table.assign(site=[heads[i][0] for i in table["part"]], head=[heads[i][1] for i in table["part"]])
    told = table["change"].abs() > 0.4
    return table.assign(change_null=0.0, change_distinguishable=told, change_p=np.where(told, 1e-6, 0.3))


def _patches(size: Size) -> pd.DataFrame:
    table = _writers(size).rename(columns=lambda name: name.replace("change", "effect"))
    return table.assign(direction="restore", position=-1)


def _training(size: Size) -> pd.DataFrame:
    table = table_of({"lineage": [f"recipe {i}" for i in range(size.arms)], "step": range(size.items)}, ["accuracy"])
    entropy, far = 0.3 * np.exp(-table["step"] / 40) + 0.02 * table["accuracy"], table["step"] / 500
    return table.assign(responses=256, entropy=entropy, response_tokens=30 + 5 * table["accuracy"],
                        kl_sft=np.where(table["step"] % 5 == 0, far, np.nan))  # fmt: skip


def _directions(size: Size) -> pd.DataFrame:
    columns = [f"auc_{when}{end}" for when in ("before", "after") for end in ("", "_p", "_distinguishable")]
    table = table_of({"probe": ["mean", "logistic"], "layer": range(-1, size.layers)}, columns)
    rise = 0.5 + 0.45 * np.clip(table["layer"] / size.layers, 0, 1)
    for name, value in (("auc_before", rise), ("auc_after", rise + 0.03)):
        ends = {f"{name}_low": value - 0.1, f"{name}_high": value + 0.02}
        table = table.assign(**{name: value, f"{name}_null": 0.5}, **ends)
    return table.assign(site="resid_post", head=-1, position=0)


def _steering(size: Size) -> pd.DataFrame:
    columns = ["effect", "effect_p", "effect_distinguishable", "effect_null"]
    table = table_of({"split": ["forget", "retain"], "dose": range(-2, 3)}, columns)
    ends = {"low": -0.1, "high": 0.1, "chance_low": -0.3, "chance_high": 0.2}
    return table.assign(how="add", total=-0.5, **{f"effect_{end}": table["effect"] + by for end, by in ends.items()})


def _undoing(size: Size) -> pd.DataFrame:
    columns = ["back", "back_null", "back_p", "back_distinguishable", "said_back"]
    table = table_of({"split": ["forget", "retain"], "layer": range(size.layers)}, columns)
    ends = {"back_low": table["back"] - 0.1, "back_high": table["back"] + 0.1}
    return table.assign(site="resid_post", head=-1, **ends)


def _paths(size: Size) -> pd.DataFrame:
    columns = ["effect", "effect_p", "effect_distinguishable", "effect_null", "resampled"]
    table = table_of({"split": ["forget"], "layer": range(size.layers)}, columns)
    ends = {"effect_low": table["effect"] - 0.1, "effect_high": table["effect"] + 0.1}
    return table.assign(direction="restore", sender=[f"z.{i}.0" for i in table["layer"]], receiver="logits", **ends)


def _crosscoder(size: Size) -> pd.DataFrame:
    columns = ["active", "active_null", "active_distinguishable"]
    table = table_of({"split": ["forget"], "feature": range(size.items)}, columns)
    return table.assign(share=(table["feature"] + 0.5) / size.items, active=table["active"].abs())


def _features(size: Size) -> pd.DataFrame:
    columns = ["change", "change_low", "change_high", "change_null", "change_distinguishable"]
    return table_of({"split": ["forget"], "feature": range(size.items)}, columns)


def _requests(size: Size) -> pd.DataFrame:
    table = table_of(
        {"order": ["a, b", "b, a"], "stage": range(3), "split": ["a", "b", "kept"]}, ["accuracy", "change"]
    )
    asked = [["", "a", "b"][stage] for stage in table["stage"]]
    sides = ["retain" if split == "kept" else "forget" for split in table["split"]]
    ends = {"ci_low": 0.1, "ci_high": 0.9, "change_low": -0.1, "change_high": 0.1}
    return table.assign(request=asked, side=sides, n=size.items, accuracy=0.5, **ends)


def _lasting(size: Size) -> pd.DataFrame:
    table = table_of({"arm": _arms(size), "attack": ["", "relearn", "quantise"]}, ["forgotten", "retain_kept"])
    table = table.assign(forgotten=0.5, retain_kept=0.9 - 0.1 * np.arange(len(table)) / len(table))
    parts, ways = ("forgotten", "retain_kept"), {"low": -0.1, "high": 0.1}
    ends = {f"{part}_{end}": table[part] + by for part in parts for end, by in ways.items()}
    attacked = table["attack"] != ""
    more = {"variant": "x", "step": 4, "null": "control", "n": 100, "beyond_chance": attacked}
    return table.assign(**ends, **more, came_back=np.where(attacked, 0.2, np.nan))


_CODE = ("code_changed", "code_changed_source_scales", "code_changed_expected", "change_per_bin", "kept_along_edit")
_ERRORS = ("last_error", "last_error_stay", "last_error_walk")

DRAWN: tuple[Drawn, ...] = (
    Drawn("plot_off_principal", "mastlens.geometry(...).plot()", _one(_geometry), {}),
    Drawn("plot_increment_magnitude", "plots.plot_increment_magnitude(geometry.table)", _one(_geometry), {}),
    Drawn("plot_principal_angles", "plots.plot_principal_angles(geometry.table)", _one(_geometry), {}),
    Drawn(
        "plot_score_map",
        'plots.plot_score_map(geometry.table, "off_principal")',
        _one(_geometry),
        {"value": "off_principal"},
    ),
    Drawn("plot_head_map", 'plots.plot_head_map(heads, "energy_share")', _one(_heads), {"value": "energy_share"}),
    Drawn(
        "plot_spectra",
        "plots.plot_spectra(spectra)",
        _by_size(
            lambda s: {**_places(s, increment=["rlvr"]), "index": range(1, 17)}, "singular_value", "precision_floor"
        ),
        {},
        LINES,
    ),
    Drawn("plot_coupling", "mastlens.couple(...).plot()", _one(_coupling), {}),
    Drawn("plot_coupling_heads", "plots.plot_coupling_heads(coupling.heads)", _one(_heads), {}, LINES),
    Drawn(
        "plot_coupling_spectrum",
        "plots.plot_coupling_spectrum(coupling.spectrum)",
        _by_size(
            lambda s: {**_places(s), "side": ["forget"], "index": range(1, 17)},
            "directions",
            "singular_value",
            "coefficient",
            "contribution",
            "cosine_part",
            "z",
            "p",
            "above_chance",
        ),
        {},
        LINES,
    ),
    Drawn("plot_selection", "mastlens.rank(...).plot()", _one(_ranking), {}),
    Drawn("plot_score_decomposition", "plots.plot_score_decomposition(ranking.table)", _one(_ranking), {}),
    Drawn("plot_selection_overlap", "mastlens.selection_overlap(...)", _one(_overlap), {}),
    Drawn("plot_scores", 'mastlens.score("path", ...).plot()', _one(_lines), {}),
    Drawn("plot_causal_map", "mastlens.causal_map(...).plot()", _one(_causal), {}),
    Drawn("plot_first_order", "plots.plot_first_order(causal.table)", _one(_causal), {}),
    Drawn(
        "plot_causal_groups",
        "plots.plot_causal_groups(causal.groups)",
        _of(
            {"direction": ["restore"], "group": ["attention", "mlp", "embeddings"]},
            "forget_effect",
            "forget_effect_low",
            "forget_effect_high",
        ),
        {},
    ),
    Drawn("plot_cumulative", "mastlens.cumulative_curves(...).plot()", _cumulative, {}),
    Drawn("plot_token_differences", "mastlens.token_differences(...).plot()", _one(_tokens), {}),
    Drawn(
        "plot_token_entropy",
        "mastlens.token_differences(...).plot_entropy()",
        _of(
            {"increment": ["sft", "rlvr"], "split": ["forget", "retain"], "entropy_quantile": range(1, 6)},
            "tokens",
            "mean",
            "mean_low",
            "mean_high",
            ci_low=-0.5,
            ci_high=0.5,
        ),
        {},
    ),
    Drawn("token_text_html", "mastlens.token_differences(...).html()", _one(_tokens), {}),
    Drawn("token_weights_html", "plots.token_weights_html(token_weights)", _one(_weights), {}),
    Drawn("plot_token_sides", "mastlens.view_tokens(...).plot()", _one(_sides), {}),
    Drawn("token_sides_html", "mastlens.view_tokens(...).html()", _one(_sides), {}),
    Drawn("plot_trajectory", "mastlens.trajectory(...).plot()", _one(_trajectory), {}, LINES),
    Drawn("plot_trajectory_explained", "plots.plot_trajectory_explained(trajectory.table)", _one(_explained), {}),
    Drawn("plot_trajectory_geometry", "plots.plot_trajectory_geometry(trajectory.steps)", _one(_trajectory), {}, LINES),
    Drawn("plot_extrapolation", "plots.plot_extrapolation(trajectory.table)", _one(_errors), {}),
    Drawn(
        "plot_unlearning_curve",
        "mastlens.unlearn(...).plot()",
        _by_size(
            lambda s: {"step": range(1, s.items + 1)}, "forget_loss", "retain_loss", "grad_norm", "forget_logprob"
        ),
        {},
    ),
    Drawn("plot_search", "plots.plot_search(search)", _one(_search), {}),
    Drawn(
        "plot_misdirection",
        "mastlens.measure_drift(...).plot()",
        _by_size(
            lambda s: {"step": [0, 10], "text": ["forget", "retain"], "layer": range(s.layers)}, "cosine", "tokens"
        ),
        {},
    ),
    Drawn("plot_accuracy", "mastlens.evaluate(...).plot()", _one(_accuracy), {}),
    Drawn("plot_items", "mastlens.compare(...).plot()", _one(_items), {}),
    Drawn("item_responses_html", "plots.item_responses_html(comparison.items)", _one(_items), {}),
    Drawn("plot_tradeoff", "plots.plot_tradeoff(summary)", _one(_edits), {}),
    Drawn("plot_edits", "mastlens.compare_edits(...).plot()", _one(_edits), {}),
    Drawn(
        "plot_collateral",
        "mastlens.measure_collateral(...).plot()",
        _of(
            {"measure": ["kl", "perplexity", "repetition"], "split": ["neutral"]},
            "items",
            "before",
            "after",
            "value",
            "value_low",
            unit="nats",
            ci_low=-0.4,
            ci_high=0.6,
        ),
        {},
    ),
    Drawn("plot_relearning", 'mastlens.attack("relearn", ...).plot()', _one(_attack), {}),
    Drawn(
        "plot_attack_variants",
        'mastlens.attack("quantise", ...).plot()',
        _one(lambda s: _attack(s).query("step == 0").reset_index(drop=True)),
        {},
    ),
    Drawn(
        "plot_code_changes",
        "plots.plot_code_changes(attack.tensors)",
        _by_size(lambda s: _places(s, format=["int8", "nf4"]), *_CODE, "noise", "edited"),
        {},
    ),
    Drawn("plot_depth", "mastlens.depth_score(...).plot()", _one(_depth), {}),
    Drawn("plot_lasting", "mastlens.compare_edits(...).plot_lasting()", _one(_lasting), {}),
    Drawn("plot_departure", "mastlens.inside_depart(...).plot()", _one(_departure), {}),
    Drawn("plot_writers", "mastlens.inside_write(...).plot()", _one(_writers), {}),
    Drawn("plot_patches", "mastlens.inside_patch(...).plot()", _one(_patches), {}),
    Drawn("plot_training", "mastlens.read_training(...).plot()", _one(_training), {}),
    Drawn("plot_directions", "mastlens.inside_direct(...).plot()", _one(_directions), {}),
    Drawn("plot_steering", "mastlens.inside_steer(...).plot()", _one(_steering), {}),
    Drawn("plot_undoing", "mastlens.inside_undo(...).plot()", _one(_undoing), {}),
    Drawn("plot_paths", "mastlens.inside_path(...).plot()", _one(_paths), {}),
    Drawn("plot_crosscoder", "mastlens.inside_crosscoder(...).plot()", _one(_crosscoder), {}),
    Drawn("plot_features", "mastlens.inside_dictionary(...).plot()", _one(_features), {}),
    Drawn("plot_requests", "mastlens.unlearn_requests(...).plot()", _one(_requests), {}),
    Drawn("plot_study", "mastlens.run(STUDY.toml).plot()", _one(_study), {}),
    Drawn(
        "plot_study_selections",
        'plots.plot_study_selections(study.table, objective="ga")',
        _one(_study),
        {"objective": "ga"},
    ),
    Drawn("plot_measures", "plots.plot_measures(measures)", _one(_measures), {}),
    Drawn("plot_reasoning", "mastlens.reasoning_table(...).plot()", _one(_measures), {}),
    Drawn("plot_trace_categories", "mastlens.evaluate_traces(...).plot()", _one(_shares), {}),
    Drawn("trace_text_html", "plots.trace_text_html(traces)", _one(_traces), {}),
    Drawn("plot_attention", 'mastlens.explore("run").figures("3.q")["attention"]', _one(_patterns), {}),
    Drawn(
        "plot_standing", 'mastlens.explore("run").figures("3.q")["standing"]', _one(_standing), {"place": "layer 3, q"}
    ),
    Drawn(
        "plot_projection_map",
        'mastlens.explore("run").map()',
        _one(_map),
        {"label": "energy inside over chance", "signed": True, "doublings": True},
    ),
    Drawn(
        "plot_projection_spectrum",
        'mastlens.explore("run").figures("3.q")["spectrum"]',
        _of(
            {"increment": ["sft", "rlvr"], "index": range(1, 17)},
            "singular_value",
            "precision_floor",
            "chance_norm",
            chance=0.3,
        ),
        {"place": "layer 3, q"},
    ),
    Drawn(
        "plot_projection_angles",
        'mastlens.explore("run").figures("3.q")["angles"]',
        _of(
            {"increment": ["sft", "rlvr"], "side": ["left", "right"], "index": range(1, 17)}, "degrees", chance_max=30.0
        ),
        {"place": "layer 3, q"},
    ),
    Drawn(
        "plot_projection_heads",
        'mastlens.explore("run").figures("3.q")["heads"]',
        _one(lambda s: _heads(Size(1, ("q",), s.heads))),
        {"place": "layer 3, q"},
    ),
    Drawn(
        "plot_projection_coupling",
        'mastlens.explore("run").figures("3.q")["coupling"]',
        _one(lambda s: _coupling(Size(1, ("q",)))),
        {"place": "layer 3, q"},
    ),
    Drawn(
        "plot_projection_effect",
        'mastlens.explore("run").figures("3.q")["effect"]',
        _one(lambda s: _causal(Size(1, ("q",)))),
        {"place": "layer 3, q"},
    ),
    Drawn("plot_put_back", 'mastlens.explore("run").figures("3.q")["put_back"]', _put_back, {"place": "layer 3, q"}),
)
"""In the order of the method."""
