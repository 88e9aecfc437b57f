"""Every rule recomputed in float64 from plain gradients and weights; every control held to what it promises."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import mastlens as m
from mastlens.analysis.scores.catalogue import SCORERS
from mastlens.cli import main
from mastlens.plots import figure_table, plot_selection_overlap
from mastlens.selection import RULES, Control, Rule, describe_rules, select, selection_overlap, weight_table
from mastlens.selection.tables import SCORED as WROTE
from mastlens.selection.tables import SOURCES

from .plain import encode_file, load_model, logprob, projection_names
from .test_ranking import name_of, tables

CONTRACT = ["rank", "layer", "projection", "name", "score", "selected"]
SCORED = [name for name, rule in RULES.items() if isinstance(rule, Rule)]
CONTROLS = [name for name, rule in RULES.items() if isinstance(rule, Control)]
RANK = 4


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Return a folder with all tables that any rule reads."""
    out = tmp_path_factory.mktemp("tables")
    both = {"sft": tiny.sft, "rlvr": tiny.rlvr, "out": out, "progress": False}
    sides = {"forget": tiny.forget, "retain": tiny.retain}
    m.geometry(base=tiny.base, rank=RANK, workers=1, **both)
    m.couple(**both, **sides, fisher=True, spectrum=False)
    m.causal_map(**both, **sides, heads=True, limit=4)
    few = {"gates": {"steps": 4.0}, "behaviour": {"points": 1.0, "max_new_tokens": 4.0}, "shapley": {"pairs": 2.0}}
    for scorer in SCORERS:
        m.score(scorer, **both, **sides, limit=4, parameters=few.get(scorer))
    return out


@pytest.fixture(scope="module")
def measured(folder):
    return {name: pd.read_parquet(folder / source.file) for name, source in SOURCES.items()}


@pytest.fixture(scope="module")
def oracle(tiny):
    """Name to base weight, RLVR weight, increment, and problem-by-problem gradients of both sides, float64."""
    names = projection_names()
    model = load_model(tiny.rlvr).double()
    weights = dict(model.named_parameters())
    each, tokens = {}, {}
    for side, path in (("forget", tiny.forget), ("retain", tiny.retain)):
        encoded = encode_file(path, tiny.rlvr)
        tokens[side] = sum(len(solution) for _, solution in encoded)
        found = [torch.autograd.grad(-logprob(model, *one), [weights[name] for name in names]) for one in encoded]
        each[side] = {name: np.stack([g[i].numpy() for g in found]) for i, name in enumerate(names)}
    base, sft, rlvr = (load_file(f / "model.safetensors") for f in (tiny.base, tiny.sft, tiny.rlvr))
    return {
        name: {
            "base": base[name].double().numpy(),
            "weight": rlvr[name].double().numpy(),
            "delta": rlvr[name].double().numpy() - sft[name].double().numpy(),
            "forget": each["forget"][name].sum(axis=0) / tokens["forget"],
            "retain": each["retain"][name].sum(axis=0) / tokens["retain"],
            "fisher_forget": (each["forget"][name] ** 2).mean(axis=0).sum(),
            "fisher_retain": (each["retain"][name] ** 2).mean(axis=0).sum(),
        }
        for name in names
    }


def cos(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def rho(of):
    u, _, vt = np.linalg.svd(of["base"])
    return 1 - np.linalg.norm(u[:, :RANK].T @ of["delta"] @ vt[:RANK].T) ** 2 / np.linalg.norm(of["delta"]) ** 2


def size(of):
    return np.log(1 + np.linalg.norm(of["delta"]) ** 2)


def shifted(of):
    return 1 + abs(cos(of["forget"], of["delta"]))


EXPECTED = {
    "mast": lambda of: rho(of) * size(of) * shifted(of),
    "off-principal": rho,
    "magnitude": lambda of: np.linalg.norm(of["delta"]),
    "coupling": lambda of: abs(cos(of["forget"], of["delta"])),
    "mast-without-off-principal": lambda of: size(of) * shifted(of),
    "mast-without-magnitude": lambda of: rho(of) * shifted(of),
    "mast-without-coupling": lambda of: rho(of) * size(of),
    "rms": lambda of: np.sqrt((of["delta"] ** 2).mean()),
    "grad-norm": lambda of: np.linalg.norm(of["forget"]),
    "salun": lambda of: np.abs(of["forget"]).mean(),
    "snip": lambda of: abs((of["weight"] * of["forget"]).sum()),
    "wagle": lambda of: np.abs((of["weight"] - of["retain"] / 1e-6) * of["forget"]).sum(),
    "conflict": lambda of: 1 - cos(of["forget"], of["retain"]),
    "fisher-ratio": lambda of: of["fisher_forget"] / of["fisher_retain"],
}


@pytest.mark.parametrize("rule", EXPECTED)
def test_scores_are_the_formulas(measured, oracle, rule):
    expected = {name: EXPECTED[rule](of) for name, of in oracle.items()}
    found = select(measured, rule=rule, top=3)
    assert found.table["score"].tolist() == pytest.approx([expected[n] for n in found.table["name"]], rel=2e-4)
    assert found.table["name"].tolist() == sorted(expected, key=expected.get, reverse=True)
    assert found.selected == found.table["name"].tolist()[:3]
    assert len(set(found.table["score"])) == 8  # no rule is the same for all tensors here


def test_every_rule_is_tested_and_the_rules_differ(measured):
    assert set(EXPECTED) == set(SCORED) - {"memflex", "causal", *SCORERS}
    orders = {rule: tuple(select(measured, rule=rule, top=3).table["name"]) for rule in SCORED}
    assert len(set(orders.values())) >= 9


def test_memflex_puts_first_what_passes_both_thresholds(measured, oracle):
    mean = {name: np.abs(of["forget"]).mean() for name, of in oracle.items()}
    cosine = {name: cos(of["forget"], of["retain"]) for name, of in oracle.items()}
    by_mean = sorted(mean, key=mean.get)
    # Thresholds that shut out the tensor with the least gradient, and one with much of it for its cosine.
    limits = {
        "cosine": max(cosine[name] for name in by_mean[3:7]),
        "gradient": (mean[by_mean[0]] + mean[by_mean[1]]) / 2,
    }
    passing = {n for n in mean if cosine[n] < limits["cosine"] and mean[n] > limits["gradient"]}
    assert 0 < len(passing) < 7 and passing != set(by_mean[-len(passing) :])
    expected = sorted(mean, key=lambda name: (name not in passing, -mean[name]))
    own = select(measured, rule="memflex", parameters=limits)
    assert own.table["name"].tolist() == expected
    assert set(own.selected) == passing == set(own.table.loc[own.table["passes"], "name"])
    assert (own.table["score"].diff().dropna() < 0).all()
    assert own.settings["parameters"] == limits
    more = select(measured, rule="memflex", parameters=limits, top=7)
    assert more.selected == expected[:7]
    # With the source's own thresholds; the test model's gradients are far above 6e-4, its cosines near 1.
    default = select(measured, rule="memflex", top=3).table.set_index("name")
    assert {n for n in mean if default.loc[n, "passes"]} == {n for n in mean if cosine[n] < 0.92 and mean[n] > 6e-4}
    with pytest.raises(m.MastlensError, match=r"passes.*--parameter"):
        select(measured, rule="memflex", parameters={"gradient": 1e9})


def test_causal_ranks_the_most_negative_restored_effect_first(measured):
    whole = measured["causal"].query("direction == 'restore' and head == -1")
    found = select(measured, rule="causal", top=2).table
    assert found["name"].tolist() == whole.sort_values("forget_effect")["name"].tolist()
    assert found["score"].tolist() == (-whole.sort_values("forget_effect")["forget_effect"]).tolist()
    inserted = measured["causal"].query("direction == 'insert' and head == -1").sort_values("forget_effect")
    assert inserted["name"].tolist() != found["name"].tolist()  # else the wrong direction would pass here


@pytest.mark.parametrize("rule", [r for r in SCORED if RULES[r].of_increment])
def test_zero_increments_come_last(measured, rule):
    first = select(measured, rule=rule, top=1).selected[0]
    zeroed = {}
    for name, table in measured.items():
        table = table.copy()
        here = table["name"] == first
        gone = {"delta_norm", "delta_rms", "off_principal", "forget_cosine", "forget_effect", "score"} & set(table)
        table.loc[here, list(gone)] = 0.0
        zeroed[name] = table
    found = select(zeroed, rule=rule, top=7).table
    assert found["name"].iloc[-1] == first
    assert first not in found.loc[found["selected"], "name"].tolist()
    others = select(measured, rule=rule, top=1).table["name"].tolist()[1:]
    assert found["name"].tolist()[:-1] == others


def test_a_positive_effect_still_goes_before_a_zero_increment(measured):
    causal = measured["causal"].assign(forget_effect=0.5)
    causal.loc[causal["name"] == name_of(1, "k"), ["forget_effect", "delta_norm"]] = 0.0
    found = select({**measured, "causal": causal}, rule="causal", top=7).table
    assert found["name"].iloc[-1] == name_of(1, "k") and found["score"].iloc[-1] == 0 > found["score"].iloc[0]


@pytest.mark.parametrize("rule", SCORED)
def test_ties_go_by_layer_then_q_k_v_o(rule):
    geometry, coupling = tables(layers=11)
    keys = coupling[["layer", "projection", "name"]]
    columns = {"grad_norm": 1.0, "grad_abs_mean": 1.0, "weight_inner": 1.0, "fisher": 1.0, "inner": 0.1, "cosine": 0.1}
    sides = {f"{side}_{c}": v for side in ("forget", "retain") for c, v in columns.items()}
    coupling = keys.assign(rows=8, cols=8, delta_norm=0.1, forget_retain_cosine=0.5, forget_wagle=1.0, **sides)
    causal = keys.assign(direction="restore", head=-1, delta_norm=0.1, forget_effect=-1.0)
    measured = keys.assign(rows=8, cols=8, delta_norm=0.1, score=0.5, standard_error=0.1)
    given = {"geometry": geometry, "coupling": coupling, "causal": causal}
    given |= {name: measured for name in SOURCES if name.startswith(WROTE)}
    shuffled = {name: table.sample(frac=1, random_state=5) for name, table in given.items()}
    found = select(shuffled, rule=rule, top=6).table
    assert list(zip(found["layer"], found["projection"], strict=True)) == [(i, p) for i in range(11) for p in "qkvo"]


@pytest.mark.parametrize("rule", SCORED)
def test_a_rule_needs_what_it_says_and_no_more(measured, rule):
    needs = RULES[rule].needs
    sizes = {name for name in needs if SOURCES[name].shaped} or {"geometry"}
    keys = ["layer", "projection", "name", "rows", "cols", "increment", "direction", "head"]
    bare = {
        name: table[[c for c in table if c in keys or c in needs.get(name, ())]]
        for name, table in measured.items()
        if name in needs or name in sizes
    }
    whole = select(measured, rule=rule, top=3).table
    pd.testing.assert_frame_equal(select(bare, rule=rule, top=3).table, whole)
    for name, columns in needs.items():
        with pytest.raises(m.MastlensError, match=r"mastlens (geometry|couple|causal-map|score)"):
            select({k: v for k, v in bare.items() if k != name}, rule=rule, top=3)
        for column in columns:
            with pytest.raises(m.MastlensError, match=rf"'{rule}' needs {column}"):
                select({**bare, name: bare[name].drop(columns=column)}, rule=rule, top=3)


def test_the_message_says_which_command_writes_what_is_missing(measured):
    lacking = measured["coupling"].drop(columns=["forget_fisher", "retain_fisher"])
    with pytest.raises(m.MastlensError, match=r"mastlens couple \.\.\. --retain FILE --fisher "):
        select({"coupling": lacking}, rule="fisher-ratio", top=1)
    with pytest.raises(m.MastlensError, match=r"mastlens couple \.\.\. --retain FILE --out"):
        select({"coupling": lacking.drop(columns="forget_wagle")}, rule="wagle", top=1)
    with pytest.raises(m.MastlensError, match=r"mastlens couple \.\.\. --out"):
        select({"coupling": lacking.drop(columns="forget_weight_inner")}, rule="snip", top=1)
    assert len(select({"coupling": lacking}, rule="snip", top=1).table) == 8


def test_tables_of_other_tensors_or_with_nan_are_refused(measured):
    geometry, coupling, causal = (measured[name] for name in ("geometry", "coupling", "causal"))
    with pytest.raises(m.MastlensError, match="other tensors"):
        select({"geometry": geometry, "coupling": coupling.iloc[1:]}, top=1)
    with pytest.raises(m.MastlensError, match="one row a tensor"):
        select({"coupling": pd.concat([coupling, coupling])}, rule="salun", top=1)
    with pytest.raises(m.MastlensError, match="one row a tensor"):
        select({**measured, "causal": causal[causal["direction"] == "insert"]}, rule="causal", top=1)
    with pytest.raises(m.MastlensError, match="NaN"):
        select({"coupling": coupling.assign(forget_grad_norm=np.nan)}, rule="grad-norm", top=1)
    with pytest.raises(m.MastlensError, match=r"causl.*causal"):
        select({"causl": causal}, rule="causal", top=1)
    with pytest.raises(m.MastlensError, match="zero"):
        select({"geometry": geometry.assign(delta_norm=0.0)}, rule="rms", top=1)


def test_a_fisher_ratio_without_a_retain_or_forget_side(measured):
    coupling = measured["coupling"].copy()
    coupling.loc[0, "retain_fisher"] = 0.0
    coupling.loc[1, ["forget_fisher", "retain_fisher"]] = 0.0
    found = select({"coupling": coupling}, rule="fisher-ratio", top=1).table
    assert found["name"].iloc[0] == coupling.loc[0, "name"] and np.isinf(found["score"].iloc[0])
    assert found["name"].iloc[-1] == coupling.loc[1, "name"] and found["score"].iloc[-1] == 0


# Controls


def wide_tables(layers=6, seed=0):
    """Return tables in which q and o are four times k and v, with increments that tell all apart."""
    geometry, coupling = tables(layers=layers)
    rows = geometry["projection"].map({"q": 32, "o": 32, "k": 8, "v": 8})
    rng = np.random.default_rng(seed)
    return {
        "geometry": geometry.assign(rows=rows, cols=32, delta_norm=rng.random(len(geometry)) + 0.1),
        "coupling": coupling,
    }


MLP = pd.DataFrame(
    [
        {"layer": layer, "projection": f"mlp_{kind}", "name": f"layers.{layer}.mlp.{kind}", "rows": 64, "cols": 32}
        for layer in range(6)
        for kind in ("gate", "up", "down")
    ]
    + [{"layer": -1, "projection": "embed", "name": "embed", "rows": 64, "cols": 32}]
)


def drawn(rule, *, top, seed=0, layers=6, table_seed=0, match="mast"):
    candidates = MLP if rule == "mlp-matched" else None
    given = wide_tables(layers, table_seed)
    return select(given, rule=rule, top=top, seed=seed, match=match, candidates=candidates)


@settings(max_examples=16, deadline=None)
@given(rule=st.sampled_from(CONTROLS), top=st.integers(8, 24), seed=st.integers(0, 10**6), table=st.integers(0, 99))
def test_what_holds_of_every_control(rule, top, seed, table):
    found, reference = drawn(rule, top=top, seed=seed, table_seed=table), drawn("mast", top=top, table_seed=table)
    frame = found.table
    assert list(frame.columns)[:7] == [*CONTRACT, "numel"]
    assert frame["rank"].tolist() == list(range(1, len(frame) + 1))
    assert frame["score"].is_monotonic_decreasing
    chosen = frame["selected"]
    assert chosen.tolist() == sorted(chosen, reverse=True) and chosen.any()  # selected ones stand first
    assert not frame["name"].duplicated().any()
    assert found.parameters == frame.loc[chosen, "numel"].sum()
    pd.testing.assert_frame_equal(frame, drawn(rule, top=top, seed=seed, table_seed=table).table)
    if rule != "mlp-matched":
        assert set(frame["name"]) == set(reference.table["name"])
    if RULES[rule].matched:
        assert (frame["reference_parameters"] == reference.parameters).all()
        assert found.parameters <= reference.parameters
    counts = {"random": top, "all-attention": 24}
    if rule in counts:
        assert len(found.selected) == counts[rule]
    if rule == "random-stratified":
        types = [t.loc[t["selected"], "projection"].value_counts().to_dict() for t in (frame, reference.table)]
        assert types[0] == types[1]
        assert found.parameters == reference.parameters
    if rule == "bottom-matched":
        assert found.parameters == reference.parameters
    if rule == "random-matched":  # the best of 256 orders; sizes are multiples of 256
        assert reference.parameters - found.parameters <= 3 * 256
    if rule == "mlp-matched":
        assert set(frame["projection"]) == {"mlp_gate", "mlp_up", "mlp_down"}
        assert found.parameters == reference.parameters // 2048 * 2048


@pytest.mark.parametrize("rule", [r for r in CONTROLS if RULES[r].seeded])
def test_seeds_give_other_draws_and_reach_every_candidate(rule):
    draws = [drawn(rule, top=16, seed=seed).selected for seed in range(40)]
    assert len({tuple(sorted(draw)) for draw in draws}) > 10
    reachable = {name for draw in draws for name in draw}
    everything = set(drawn(rule, top=16).table["name"])
    if rule == "random-stratified":
        types = drawn("mast", top=16).table.query("selected")["projection"].unique()
        everything = {name for name in everything if any(f".{t}_proj" in name for t in types)}
    assert reachable == everything


def test_a_random_draw_is_uniform():
    counts = pd.Series([n for seed in range(150) for n in drawn("random", top=8, seed=seed).selected]).value_counts()
    chi2 = ((counts.reindex(drawn("mast", top=1).table["name"], fill_value=0) - 50) ** 2 / 50).sum()
    assert chi2 < 45  # 23 degrees of freedom, without replacement even fewer: 0.4 % of draws lie above


@pytest.mark.parametrize("rule", ["bottom-matched", "all-attention"])
def test_what_is_not_random_has_no_seed(rule):
    one, other = (drawn(rule, top=9, seed=seed) for seed in (0, 1))
    pd.testing.assert_frame_equal(one.table, other.table)
    assert "seed" not in one.settings and one.settings == other.settings


def test_the_bottom_is_taken_from_the_end_of_the_matched_rule():
    given = wide_tables(layers=3)
    for match in ("mast", "rms"):
        given["geometry"]["delta_rms"] = given["geometry"]["delta_norm"].to_numpy()[::-1]
        ranking = select(given, rule=match, top=5)
        # Of all selections of that size, the one that begins with the most of the bottom, by trying them all.
        bottom = ranking.table.iloc[::-1]
        bits = (np.arange(2 ** len(bottom))[:, None] >> np.arange(len(bottom))[::-1]) & 1
        fitting = bits[bits @ bottom["numel"].to_numpy() == ranking.parameters]
        expected = bottom["name"][fitting[-1].astype(bool)].tolist()
        found = select(given, rule="bottom-matched", match=match, top=5)
        assert found.selected == expected
        assert found.settings == {"rule": "bottom-matched", "top": 5, "match": match}
    assert ranking.table["name"].iloc[-1] in found.selected


def test_matched_controls_follow_the_rule_they_are_matched_to(measured):
    limits = {"cosine": 2.0, "gradient": 0.0}  # everything passes
    found = select(measured, rule="random-matched", match="memflex", parameters=limits, seed=3)
    assert len(found.selected) == 8
    assert found.settings == {
        "rule": "random-matched",
        "top": None,
        "match": "memflex",
        "seed": 3,
        "parameters": limits,
    }
    with pytest.raises(m.MastlensError, match=r"rule to match 'random'"):
        select(measured, rule="random-matched", match="random", top=3)
    with pytest.raises(m.MastlensError, match=r"smallest MLP matrix.*--top"):
        drawn("mlp-matched", top=1)
    with pytest.raises(m.MastlensError, match="no MLP matrix among"):
        select(measured, rule="mlp-matched", top=8, candidates=MLP[MLP["projection"] == "embed"])


def test_what_does_not_fit_together_is_refused(measured):
    for changes, said in (
        ({"rule": "randm"}, "random"),
        ({"rule": "rms", "top": None}, "--top"),
        ({"rule": "random", "top": None}, "--top"),
        ({"rule": "random", "top": 9}, "8"),
        ({"rule": "random-matched", "top": None}, "--top"),
        ({"rule": "random-matched", "match": "rsm"}, "rms"),
        ({"rule": "random", "seed": -1}, "-1"),
        ({"rule": "mlp-matched"}, "--candidates"),
        ({"rule": "rms", "candidates": MLP}, "--candidates"),
        ({"rule": "rms", "parameters": {"cosine": 1.0}}, "cosine"),
        ({"rule": "memflex", "parameters": {"cosin": 1.0}}, "cosine"),
    ):
        with pytest.raises(m.MastlensError, match=said):
            select(measured, **{"top": 3, **changes})


def test_all_attention_takes_no_number_and_no_other_matrix(measured):
    assert len(select(measured, rule="all-attention").selected) == 8
    mixed = pd.concat([measured["coupling"], measured["coupling"].iloc[:1].assign(name="mlp", projection="mlp_up")])
    found = select({"coupling": mixed}, rule="all-attention", top=2)
    assert set(found.selected) == set(measured["coupling"]["name"]) == set(found.table["name"])
    with pytest.raises(m.MastlensError, match="no attention projection"):
        select({"coupling": mixed[mixed["name"] == "mlp"]}, rule="all-attention")


# Files, command line


def test_rank_writes_what_select_returns(tiny, folder, measured, tmp_path):
    for rule in RULES:
        extra = {"candidates": tiny.rlvr} if rule == "mlp-matched" else {}
        made = m.rank(folder, rule=rule, top=7, seed=2, out=tmp_path / rule, **extra)
        pure = {"candidates": weight_table(tiny.rlvr)} if extra else {}
        expected = select(measured, rule=rule, top=7, seed=2, **pure)
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / rule / "ranking.parquet"), expected.table)
        assert made.selected == expected.selected and made.settings == expected.settings
        assert list(made.table.columns)[:6] == CONTRACT
        again = m.rank(folder, rule=rule, top=7, seed=2, out=tmp_path / rule, **extra)
        pd.testing.assert_frame_equal(again.table, made.table)
    assert not (folder / "ranking.parquet").exists()
    record = json.loads((tmp_path / "rms" / "run.json").read_text())["stages"]["rank"]
    assert record["lineage"]["rlvr"] == m.Checkpoint(tiny.rlvr).fingerprint
    assert set(record["inputs"]) == {"geometry"}  # a rule hangs on the tables that it reads and no others
    assert record["settings"] == {"rule": "rms", "top": 7}
    m.rank(folder, rule="rms", top=7, seed=9, out=tmp_path / "rms")  # a seed that decides nothing changes nothing
    with pytest.raises(m.MastlensError, match="seed"):
        m.rank(folder, rule="random", top=7, seed=9, out=tmp_path / "random")


def test_a_rule_asks_for_its_own_tables_only(folder, tmp_path):
    for table, rule in (("geometry", "rms"), ("coupling", "snip"), ("coupling", "random")):
        alone = tmp_path / rule
        alone.mkdir()
        (alone / f"{table}.parquet").write_bytes((folder / f"{table}.parquet").read_bytes())
        assert len(m.rank(alone, rule=rule, top=2).selected) == 2
        with pytest.raises(m.MastlensError, match=r"causal_map\.parquet is missing.*mastlens causal-map"):
            m.rank(alone, rule="causal", top=2)


def test_candidates_are_of_the_lineage(tiny, folder, tmp_path):
    found = m.rank(folder, rule="mlp-matched", top=8, candidates=tiny.base, out=tmp_path / "a")
    assert all("mlp" in name for name in found.selected)
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny.rlvr.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tensors = load_file(other / "model.safetensors")
    from safetensors.torch import save_file

    save_file({k: v + 1e-3 for k, v in tensors.items()}, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(m.MastlensError, match="none of the checkpoints"):
        m.rank(folder, rule="mlp-matched", top=8, candidates=other, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_line_ranks_by_every_rule(tiny, folder, tmp_path, capsys):
    for rule in ("fisher-ratio", "causal", "bottom-matched"):
        code, out, err = run(capsys, "rank", folder, "--rule", rule, "--top", 7, "--out", tmp_path / rule, "--json")
        assert code == 0, err
        summary = json.loads(out)
        assert len(summary["selected"]) == 7
        assert ("reference_parameters" in summary) == (rule == "bottom-matched")
    where = ["--candidates", tiny.rlvr, "--match", "rms", "--seed", 4, "--out", tmp_path / "mlp"]
    code, out, err = run(capsys, "rank", folder, "--rule", "mlp-matched", "--top", 8, *where)
    assert code == 0 and "the selection it is matched to has 6,144" in out, err
    limits = ["--parameter", "cosine=2", "gradient=1e-9", "--out", tmp_path / "memflex"]
    code, out, err = run(capsys, "rank", folder, "--rule", "memflex", *limits, "--json")
    assert code == 0 and json.loads(out)["parameters"] and len(json.loads(out)["selected"]) == 8, err
    for bad in (["--rule", "memflex", "--parameter", "cosine"], ["--rule", "rms"], ["--rule", "msat", "--top", 2]):
        code, _, err = run(capsys, "rank", folder, *bad, "--out", tmp_path / "x")
        assert code == 2 and "mastlens:" in err and not (tmp_path / "x").exists()


def test_couple_takes_fisher_and_where_on_the_command_line(tiny, tmp_path, capsys):
    lineage = ["--sft", tiny.sft, "--rlvr", tiny.rlvr, "--forget", tiny.forget, "--no-spectrum", "--fisher"]
    code, out, err = run(capsys, "couple", *lineage, "--where", "mlp", "--out", tmp_path, "--json")
    assert code == 0 and json.loads(out)["rows"] == 6, err
    table = pd.read_parquet(tmp_path / "coupling.parquet")
    assert (table["forget_fisher"] > 0).all() and table["name"].str.contains("mlp").all()


def test_help_and_documentation_list_every_rule(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["rank", "--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    listed = describe_rules()
    assert sorted(listed["rule"]) == sorted(RULES)
    assert listed["kind"].tolist() == ["rule"] * len(SCORED) + ["control"] * len(CONTROLS)
    for row in listed.itertuples():
        assert f"{row.rule}: {row.summary}" in said
        assert row.source and row.needs


# Overlap


def test_overlap_against_draws_and_by_hand():
    rankings = {"mast": drawn("mast", top=9).table, "random": drawn("random", top=5).table}
    rankings["mlp"] = drawn("mlp-matched", top=9).table
    found = selection_overlap(rankings).set_index(["first", "second"])
    labels = list(rankings)
    assert list(found.index) == [(a, b) for i, a in enumerate(labels) for b in labels[i:]]
    chosen = {k: set(t.loc[t["selected"], "name"]) for k, t in rankings.items()}
    row = found.loc[("mast", "random")]
    shared, either = chosen["mast"] & chosen["random"], chosen["mast"] | chosen["random"]
    assert row["shared"] == len(shared) and row["jaccard"] == len(shared) / len(either)
    sizes = rankings["mast"].set_index("name")["numel"]
    assert row["jaccard_parameters"] == sizes[list(shared)].sum() / sizes[list(either)].sum()
    rng = np.random.default_rng(0)
    draws = [(set(rng.permutation(24)[:9]), set(rng.permutation(24)[:5])) for _ in range(20_000)]
    jaccard = np.array([len(a & b) / len(a | b) for a, b in draws])
    common = np.array([len(a & b) for a, b in draws])
    assert row["jaccard_chance"] == pytest.approx(jaccard.mean(), abs=4 * jaccard.std() / 20_000**0.5)
    tails = (common >= len(shared)).mean(), (common <= len(shared)).mean()
    assert row["p"] == pytest.approx(min(1, 2 * min(tails)), abs=0.02)
    assert found.loc[("mast", "mast"), "jaccard"] == 1 and np.isnan(found.loc[("mast", "mast"), "p"])
    other = found.loc[("mast", "mlp")]
    assert other["jaccard"] == 0 and np.isnan(other["p"]) and np.isnan(other["jaccard_chance"])
    with pytest.raises(m.MastlensError, match="no ranking"):
        selection_overlap({})
    with pytest.raises(m.MastlensError, match="'none' selects nothing"):
        selection_overlap({"none": rankings["mast"].assign(selected=False)})


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 30), a=st.integers(1, 30), b=st.integers(1, 30), seed=st.integers(0, 999))
def test_laws_of_overlap(n, a, b, seed):
    a, b = min(a, n), min(b, n)
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"name": [f"t{i}" for i in range(n)], "numel": rng.integers(1, 9, n)})
    one, other = (table.assign(selected=np.isin(np.arange(n), rng.permutation(n)[:k])) for k in (a, b))
    pair, turned = (selection_overlap(r).query("first != second").iloc[0] for r in (
        {"x": one, "y": other}, {"y": other, "x": one},
    ))  # fmt: skip
    for column in ("shared", "jaccard", "jaccard_chance", "p", "jaccard_parameters"):
        assert pair[column] == pytest.approx(turned[column])
    assert 0 <= pair["jaccard"] <= 1 and 0 < pair["p"] <= 1
    assert max(0, a + b - n) / n <= pair["jaccard_chance"] + 1e-12 <= min(a, b) / max(a, b) + 1e-9
    if n in (a, b):
        assert pair["jaccard"] == pytest.approx(pair["jaccard_chance"]) and pair["p"] == 1


def test_the_figure_of_overlaps():
    rankings = {rule: drawn(rule, top=9).table for rule in ("mast", "magnitude", "random", "mlp-matched")}
    overlap = selection_overlap(rankings)
    before = overlap.copy(deep=True)
    fig = plot_selection_overlap(overlap, subtitle="tiny <model>")
    pd.testing.assert_frame_equal(overlap, before)
    back = figure_table(fig)
    pd.testing.assert_frame_equal(back[overlap.columns], overlap, check_dtype=False)
    heat = fig.data[0]
    z = np.asarray(heat.z, dtype=float)
    assert z.shape == (4, 4) and (z == z.T).all() and (np.diag(z) == 1).all()
    assert list(fig.layout.xaxis.ticktext) == list(fig.layout.yaxis.ticktext) == list(rankings)
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 1)
    chance = overlap.query("first == 'mast' and second == 'random'").iloc[0]
    assert f"by chance: {chance['jaccard_chance']:.3f} of 24" in heat.customdata[0][2]
    assert "their candidates differ" in heat.customdata[3][0]
    assert ("○" in heat.text[0][2]) == (chance["p"] > 0.05 / 3)
    assert "○" not in heat.text[0][0] and "○" not in heat.text[0][3]
    assert "magnitude" in fig.layout.title.text
    with pytest.raises(m.MastlensError, match="jaccard"):
        plot_selection_overlap(overlap.drop(columns="jaccard"))
