"""Every figure holds the table it was given, its nulls, and equal ranges where panels are compared."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from mastlens import plots
from mastlens.errors import MastlensError
from mastlens.plots.frame import without_captions
from mastlens.plots.nulls import cosine_bound, principal_energy_band

LAYERS, SHAPES, K = 3, {"q": (24, 24), "k": (12, 24), "v": (12, 24), "o": (24, 24)}, 4


def name_of(layer, projection):
    return f"model.layers.{layer}.self_attn.{projection}_proj.weight"


def geometry_table():
    rng = np.random.default_rng(0)
    rows = []
    for increment, size in (("sft", 1.0), ("rlvr", 0.3)):
        for layer in range(LAYERS):
            for projection, (m, n) in SHAPES.items():
                null = 1 - K**2 / (m * n)
                rows.append(
                    {
                        "increment": increment,
                        "layer": layer,
                        "projection": projection,
                        "name": name_of(layer, projection),
                        "rows": m,
                        "cols": n,
                        "delta_norm": size * float(np.exp(0.1 * rng.normal())),
                        "relative_norm": 0.01 * size,
                        "rank": K,
                        "off_principal": null,
                        "off_principal_null": null,
                    }
                )
    return pd.DataFrame(rows)


def coupling_table():
    rng = np.random.default_rng(1)
    table = geometry_table().query("increment == 'rlvr'")[["layer", "projection", "name"]].reset_index(drop=True)
    table["forget_cosine"] = 0.02 * rng.normal(size=len(table))
    table["retain_cosine"] = 0.02 * rng.normal(size=len(table))
    table["forget_retain_cosine"] = 0.3 + 0.05 * rng.normal(size=len(table))
    return table


def ranking_table():
    table = geometry_table().query("increment == 'rlvr'").reset_index(drop=True)
    table["log1p_energy"] = np.log1p(table["delta_norm"] ** 2)
    table["coupling_factor"] = 1 + coupling_table()["forget_cosine"].abs()
    table["score"] = table["off_principal"] * table["log1p_energy"] * table["coupling_factor"]
    table = table.sort_values("score", ascending=False, ignore_index=True)
    table["rank"] = np.arange(1, len(table) + 1)
    table["selected"] = table["rank"] <= 5
    columns = ["rank", "layer", "projection", "name", "score", "selected"]
    return table[[*columns, "off_principal", "log1p_energy", "coupling_factor"]]


def spectra_table():
    rows = []
    for increment in ("sft", "rlvr"):
        for layer in range(2):
            for projection in "qkvo":
                for index in range(1, 9):
                    value = np.exp(-index - (increment == "rlvr"))
                    place = (increment, layer, projection, name_of(layer, projection), index, value, 1e-3)
                    rows.append(place)
    columns = ["increment", "layer", "projection", "name", "index", "singular_value", "precision_floor"]
    return pd.DataFrame(rows, columns=columns)


def steps_table():
    step = np.arange(1, 21)
    return pd.DataFrame(
        {
            "step": step,
            "forget_loss": 0.4 + 0.1 * step,
            "retain_loss": 0.4 + 0.01 * step,
            "grad_norm": 1.0 + 0.1 * step,
            "forget_logprob": np.where(step % 5 == 0, -10.0 - step, np.nan),
        }
    )


def accuracy_table():
    rows = [
        (arm, split, 100, value, value - 0.05, value + 0.05)
        for arm, base in (("rlvr", 0.8), ("edit", 0.4), ("sft", 0.3), ("rlvr-retain", 0.45))
        for split, value in (("forget", base), ("retain", base + 0.1))
    ]
    return pd.DataFrame(rows, columns=["arm", "split", "n", "accuracy", "ci_low", "ci_high"])


def items_table():
    forget = [(True, False)] * 8 + [(True, True)] * 30 + [(False, False)] * 22
    retain = [(True, True)] * 40 + [(False, True)] * 2 + [(True, False)] * 3
    rows = [("forget", i, *pair) for i, pair in enumerate(forget)]
    rows += [("retain", i, *pair) for i, pair in enumerate(retain)]
    return pd.DataFrame(rows, columns=["split", "item", "before", "after"])


def tradeoff_table():
    columns = ["arm", "forget_difference", "forget_low", "forget_high"]
    columns += ["retain_difference", "retain_low", "retain_high"]
    rows = [("edit", -0.3, -0.4, -0.2, -0.01, -0.04, 0.02), ("all", -0.6, -0.7, -0.5, -0.3, -0.4, -0.2)]
    return pd.DataFrame(rows, columns=columns)


FIGURES = {
    "score_map": (lambda t: plots.plot_score_map(t, "score"), ranking_table, "score"),
    "off_principal": (plots.plot_off_principal, geometry_table, "off_principal_null"),
    "magnitude": (plots.plot_increment_magnitude, geometry_table, "delta_norm"),
    "coupling": (plots.plot_coupling, coupling_table, "forget_cosine"),
    "spectra": (plots.plot_spectra, spectra_table, "precision_floor"),
    "decomposition": (plots.plot_score_decomposition, ranking_table, "coupling_factor"),
    "selection": (plots.plot_selection, ranking_table, "selected"),
    "curve": (plots.plot_unlearning_curve, steps_table, "grad_norm"),
    "accuracy": (plots.plot_accuracy, accuracy_table, "ci_low"),
    "items": (plots.plot_items, items_table, "after"),
    "tradeoff": (plots.plot_tradeoff, tradeoff_table, "retain_low"),
}


@pytest.fixture(params=FIGURES)
def figure_case(request):
    return FIGURES[request.param]


def cells(trace):
    return np.asarray(trace.z, dtype=float)


def test_figure_hands_back_the_table_and_leaves_it_alone(figure_case):
    draw, make, _ = figure_case
    table = make()
    before = table.copy(deep=True)
    fig = draw(table)
    assert isinstance(fig, go.Figure)
    pd.testing.assert_frame_equal(table, before)
    drawn = plots.figure_table(fig)
    if "increment" in drawn.columns and len(drawn) < len(table):
        table = table[table["increment"] == "rlvr"].reset_index(drop=True)
    shared = [column for column in table.columns if column in drawn.columns]
    keys = [c for c in ("increment", "layer", "projection", "index", "arm", "split", "item", "step") if c in shared]
    left, right = (t[shared].sort_values(keys, ignore_index=True) for t in (table, drawn))
    pd.testing.assert_frame_equal(left, right, check_dtype=False)


def test_figure_has_title_subtitle_and_template(figure_case):
    draw, make, _ = figure_case
    table = make()
    fig = draw(table)
    assert fig.layout.title.text
    assert fig.layout.template.layout.colorway == plots.plot_selection(ranking_table()).layout.template.layout.colorway
    if draw is not FIGURES["score_map"][0]:
        said = draw(table, title="A point", subtitle="tiny <model>")
        assert said.layout.title.text == "A point"
        assert said.layout.title.subtitle.text == "tiny &lt;model&gt;"


def test_drawing_is_deterministic_and_survives_json(figure_case):
    draw, make, _ = figure_case
    assert draw(make()).to_json() == draw(make()).to_json()
    back = pio.from_json(draw(make()).to_json())
    pd.testing.assert_frame_equal(plots.figure_table(back), plots.figure_table(draw(make())))


def test_missing_column_is_named(figure_case):
    draw, make, column = figure_case
    with pytest.raises(MastlensError, match=f"'{column}'.*writes such a table") as caught:
        draw(make().drop(columns=column))
    assert "mastlens" in str(caught.value)


def test_map_has_layer_zero_on_top_and_projections_in_order():
    shuffled = ranking_table().sample(frac=1, random_state=0)
    fig = plots.plot_score_map(shuffled, "score")
    low, high = fig.layout.yaxis.range
    assert low > high
    assert fig.layout.yaxis.ticktext[0] == "0"
    assert fig.layout.xaxis.ticktext == ("q", "k", "v", "o")
    for _, row in shuffled.iterrows():
        assert cells(fig.data[0])[row["layer"], "qkvo".index(row["projection"])] == row["score"]


def test_two_rows_for_one_cell_are_refused():
    twice = pd.concat([ranking_table(), ranking_table().head(1)])
    with pytest.raises(MastlensError, match="several for layer 1, projection"):
        plots.plot_score_map(twice.assign(layer=1), "score")


def test_score_map_marks_what_the_null_explains():
    table = ranking_table().assign(null=lambda t: t["score"] * np.where(t["rank"] <= 2, 1.01, 2.0))
    drawn = plots.figure_table(plots.plot_score_map(table, "score", null="null"))
    assert drawn.loc[drawn["within_null"], "score"].tolist() == table.nlargest(2, "score")["score"].tolist()
    table = table.assign(low=-1.0, high=table["score"].median())
    fig = plots.plot_score_map(table, "score", null=("low", "high"))
    assert plots.figure_table(fig)["within_null"].sum() == 6
    assert sum("○" in text for text in fig.data[0].text.ravel()) == 6


def test_signed_map_is_centred_at_zero():
    axis = plots.plot_score_map(coupling_table(), "forget_cosine").layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert axis.cmax == coupling_table()["forget_cosine"].abs().max()


def test_off_principal_draws_lift_beside_the_null():
    table = geometry_table()
    here = table["name"].eq(name_of(1, "o")) & table["increment"].eq("rlvr")
    table.loc[here, "off_principal"] = 1 - 4 * (1 - table.loc[here, "off_principal_null"])
    zero = table["name"].eq(name_of(2, "k")) & table["increment"].eq("rlvr")
    table.loc[zero, ["delta_norm", "off_principal"]] = 0.0
    fig = plots.plot_off_principal(table)
    drawn = plots.figure_table(fig).set_index("name")
    assert drawn.loc[name_of(1, "o"), "log2_lift"] == pytest.approx(2)
    assert not drawn.loc[name_of(1, "o"), "within_null"]
    assert np.isnan(drawn.loc[name_of(2, "k"), "lift"])  # no increment: no direction
    assert drawn["within_null"].sum() == 10
    lift = cells(fig.data[0])
    assert lift[1, 3] == pytest.approx(2)
    assert np.isnan(lift[2, 1])
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == pytest.approx((-2, 2))
    null_lines = [t for t in fig.data if t.type == "scatter" and t.mode == "lines" and t.fill is None]
    assert sorted({y for t in null_lines for y in t.y}) == pytest.approx(sorted(table["off_principal_null"].unique()))
    assert (
        "1 of 11 projections is beyond chance (chance alone gives about 0.01): principal directions used more in 1"
        in fig.layout.meta["title"]
    )


def test_off_principal_says_when_all_lean_to_one_side():
    table = geometry_table()
    table["off_principal"] = 1 - 1.3 * (1 - table["off_principal_null"])
    title = plots.plot_off_principal(table).layout.meta["title"]
    assert title.endswith("alone, yet 12 of 12 have more energy inside than its mean")


def test_off_principal_names_the_increments_there_are():
    with pytest.raises(MastlensError, match=r"no increment 'rl'.*sft, rlvr"):
        plots.plot_off_principal(geometry_table(), increment="rl")


def test_compared_panels_share_their_range():
    magnitude = plots.plot_increment_magnitude(geometry_table())
    assert [trace.coloraxis for trace in magnitude.data] == ["coloraxis"] * 2 + ["coloraxis2"] * 2
    coupling = plots.plot_coupling(coupling_table())
    assert {trace.coloraxis for trace in coupling.data} == {"coloraxis"}
    assert coupling.layout.coloraxis.cmin == -coupling.layout.coloraxis.cmax
    middle = [colour for stop, colour in coupling.layout.coloraxis.colorscale if stop == 0.5]
    assert middle == ["rgb(247, 247, 245)"]
    spectra = plots.plot_spectra(spectra_table())
    ranges = {tuple(axis.range) for axis in spectra.select_yaxes()}
    assert len(ranges) == 1


def test_magnitude_of_one_increment_and_far_apart_ones():
    alone = plots.plot_increment_magnitude(geometry_table().query("increment == 'rlvr'"))
    assert len(alone.data) == 2
    wide = geometry_table()
    wide.loc[wide["increment"] == "sft", "delta_norm"] *= 1000
    fig = plots.plot_increment_magnitude(wide.assign(precision_floor=0.3))
    shown = 10.0 ** cells(fig.data[0])
    assert shown.ravel() == pytest.approx(wide.query("increment == 'sft'")["delta_norm"].to_numpy())
    left, right, *_ = (trace for trace in fig.data if trace.type == "heatmap")
    assert left.coloraxis == right.coloraxis
    below = int((wide["delta_norm"] <= 0.3).sum())
    hatched = [trace for trace in fig.data if trace.type == "scatter" and trace.fillpattern.shape]
    assert below
    assert sum(len(trace.x) // 6 for trace in hatched[:2]) == below  # five corners and a gap a hatched cell


def test_coupling_draws_chance_when_sizes_are_known():
    without = plots.plot_coupling(coupling_table())
    assert "No chance level" in without.layout.meta["note"]
    fig = plots.plot_coupling(coupling_table(), geometry=geometry_table())
    drawn = plots.figure_table(fig)
    expected = cosine_bound(drawn["rows"] * drawn["cols"], comparisons=len(drawn))
    assert drawn["chance_level"].to_numpy() == pytest.approx(expected)
    assert fig.data[0].z == pytest.approx(without.data[0].z)


def test_decomposition_sums_to_the_score_and_names_the_deciding_factor():
    fig = plots.plot_score_decomposition(ranking_table())
    drawn = plots.figure_table(fig)
    ratio = np.log2(drawn["score"]) - drawn["total_log2"]
    assert ratio.to_numpy() == pytest.approx(np.full(len(drawn), ratio[0]))
    assert fig.layout.title.text.startswith("Size decided the ranking")
    bars = np.sum([trace.y for trace in fig.data[:3]], axis=0)
    assert bars == pytest.approx(fig.data[3].y)


def test_decomposition_leaves_out_zero_scores():
    table = ranking_table()
    table.loc[len(table) - 1, ["log1p_energy", "score"]] = 0.0
    fig = plots.plot_score_decomposition(table)
    assert fig.layout.meta["note"].startswith("1 tensor without")
    nothing = plots.plot_score_decomposition(table.assign(log1p_energy=0.0))
    assert nothing.layout.title.text.startswith("No tensor has a positive score")


def test_selection_is_what_the_table_says():
    table = ranking_table()
    fig = plots.plot_selection(table)
    for _, row in table.iterrows():
        place = row["layer"], "qkvo".index(row["projection"])
        assert bool(fig.data[0].z[place]) == row["selected"]
        assert fig.data[0].text[place] == str(row["rank"])
    assert fig.layout.title.text.startswith("5 of 12 projections are selected")


def test_curve_draws_only_what_was_recorded():
    fig = plots.plot_unlearning_curve(steps_table().assign(retain_loss=np.nan))
    assert "retain_loss" not in plots.figure_table(fig).columns
    probe = next(trace for trace in fig.data if trace.name == "forget_logprob")
    assert list(probe.x) == [5, 10, 15, 20]
    two = pd.concat([steps_table().assign(arm=arm) for arm in ("one <b>", "two")])
    names = [trace.name for trace in plots.plot_unlearning_curve(two).data]
    assert "one &lt;b&gt;" in names


def test_accuracy_draws_points_intervals_and_references():
    fig = plots.plot_accuracy(accuracy_table())
    points = [trace for trace in fig.data if trace.error_x.array is not None]
    assert [list(trace.x) for trace in points] == [pytest.approx([80, 40]), pytest.approx([90, 50])]
    for trace in points:
        assert list(trace.error_x.array) == pytest.approx([5, 5])
        assert list(trace.error_x.arrayminus) == pytest.approx([5, 5])
    assert {trace.name for trace in fig.data if trace.name} == {"sft (reference)", "rlvr-retain (reference)"}
    assert "forget 80 → 40%" in fig.layout.title.text


def test_items_count_lost_and_gained():
    fig = plots.plot_items(items_table())
    states = cells(fig.data[0])
    assert [int((states == state).sum()) for state in range(4)] == [30, 8, 0, 22]
    assert "8 lost, 0 gained of 60 (exact McNemar p = 0.0078)" in fig.layout.annotations[0].text


def test_tradeoff_turns_differences_into_points_lost():
    fig = plots.plot_tradeoff(tradeoff_table(), target=-0.35)
    edit = next(trace for trace in fig.data if trace.name == "edit")
    assert (edit.x[0], edit.y[0]) == pytest.approx((30, 1))
    assert (edit.error_x.array[0], edit.error_x.arrayminus[0]) == pytest.approx((10, 10))
    assert (edit.error_y.array[0], edit.error_y.arrayminus[0]) == pytest.approx((3, 3))
    assert fig.layout.title.text.endswith("edit")


def test_null_band_covers_random_increments():
    rng = np.random.default_rng(0)
    m, n, k = 24, 16, 4
    left, _ = np.linalg.qr(rng.normal(size=(m, k)))
    right, _ = np.linalg.qr(rng.normal(size=(n, k)))

    def inside(increment):
        return np.sum((left.T @ increment @ right) ** 2) / np.sum(increment**2)

    full = np.array([inside(rng.normal(size=(m, n))) for _ in range(2000)])
    low, high = principal_energy_band(k, m, n, level=0.9)
    assert full.mean() == pytest.approx(k**2 / (m * n), rel=0.05)
    assert np.mean((full >= low) & (full <= high)) == pytest.approx(0.9, abs=0.03)
    one = np.array([inside(np.outer(rng.normal(size=m), rng.normal(size=n))) for _ in range(2000)])
    wide_low, wide_high = principal_energy_band(k, m, n, level=0.9, stable_rank=1.0)
    assert np.mean((one >= low) & (one <= high)) < 0.5  # what ignoring the rank would claim
    assert np.mean((one >= wide_low) & (one <= wide_high)) > 0.85


def test_cosine_bound_covers_random_directions():
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(4000, 2, 50))
    norms = np.linalg.norm(pairs, axis=2)
    cosine = np.abs(np.sum(pairs[:, 0] * pairs[:, 1], axis=1)) / norms.prod(axis=1)
    assert np.mean(cosine <= cosine_bound(50)) == pytest.approx(0.95, abs=0.012)


def test_names_are_shown_as_text():
    table = ranking_table().assign(name="<a href='x'>weight</a>")
    fig = plots.plot_score_map(table, "score")
    assert "&lt;a href" in fig.data[0].customdata[0, 0]


def test_without_captions_keeps_data_and_drops_text():
    fig = plots.plot_off_principal(geometry_table(), subtitle="tiny")
    bare = without_captions(fig)
    assert bare.layout.title.text is None
    assert not [item for item in bare.layout.annotations if item.name == "note"]
    assert fig.layout.title.text
    pd.testing.assert_frame_equal(plots.figure_table(bare), plots.figure_table(fig))


def test_saved_figure_is_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    fig = plots.plot_selection(ranking_table(), subtitle="tiny")
    saved = plots.save_figure(fig, tmp_path / "new", "selection")
    assert [path.suffix for path in saved.paths] == [".html", ".json", ".csv"]
    assert saved.note.startswith("No SVG, PNG, PDF: $BROWSER_PATH is ")
    assert "\n" not in saved.note
    page = saved.paths[0].read_text(encoding="utf-8")
    assert 'src="plotly.min.js"' in page
    assert (tmp_path / "new" / "plotly.min.js").is_file()
    record = json.loads(saved.paths[1].read_text(encoding="utf-8"))
    assert record["subtitle"] == "tiny"
    pd.testing.assert_frame_equal(pd.DataFrame(record["rows"]), plots.figure_table(fig), check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_csv(saved.paths[2]), plots.figure_table(fig), check_dtype=False)
    first = [path.read_bytes() for path in saved.paths[:3]]
    again = plots.save_figure(fig, tmp_path / "new", "selection")
    assert [path.read_bytes() for path in again.paths[:3]] == first
    assert not [path for path in (tmp_path / "new").iterdir() if path.name.startswith(".")]


def test_save_figure_refuses_what_it_cannot_write(tmp_path):
    fig = plots.plot_selection(ranking_table())
    with pytest.raises(MastlensError, match="no name for a figure"):
        plots.save_figure(fig, tmp_path, "../out")
    (tmp_path / "file").write_text("here")
    with pytest.raises(MastlensError, match="Cannot write"):
        plots.save_figure(fig, tmp_path / "file", "out", images=())
    with pytest.raises(MastlensError, match="carries no table"):
        plots.save_figure(go.Figure(), tmp_path, "out", images=())
    with pytest.raises(MastlensError, match="no image of the kind 'gif'"):
        plots.save_figure(fig, tmp_path, "out", images=("gif",))
