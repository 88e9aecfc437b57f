"""Trajectories against numpy's SVD of the whole stack of updates, and against walks whose laws are known."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import mastlens as m
from mastlens.analysis.trajectories import steps as steps_module
from mastlens.analysis.trajectories.noise import MEASURES, adamw_covariance, judge_path, path_laws, path_measures
from mastlens.analysis.trajectories.relex import combination_error, fit_rank1, increment_cosine
from mastlens.analysis.trajectories.steps import inner_products, open_steps
from mastlens.analysis.trajectories.trajectory import trajectory
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.plots.trajectories import plot_trajectory, plot_trajectory_explained, plot_trajectory_geometry
from mastlens.runs import stages
from tests.conftest import write_lineage

NUMBERS = (2, 4, 6, 8, 10)
NAME = "model.layers.1.self_attn.v_proj.weight"
STILL = "model.layers.0.mlp.up_proj.weight"


def write_run(source, folder, numbers=NUMBERS, *, direction=1e-2, noise=0.0, seed=0):
    """Write steps theta_0 + step * direction * v + noise: every tensor but one moves."""
    start = load_file(source / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    v = {name: torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in start.items()}
    for number in numbers:
        step = shutil.copytree(source, folder / f"step_{number}")
        moved = {
            name: (t + number * direction * v[name] + noise * torch.randn(t.shape, generator=generator)).to(t.dtype)
            for name, t in start.items()
        }
        save_file(moved | {STILL: start[STILL]}, step / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    return write_run(tiny.sft, tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="module")
def noisy(tiny, tmp_path_factory):
    """Mostly noise, so that ranks above one matter."""
    return write_run(tiny.sft, tmp_path_factory.mktemp("noisy"), noise=0.02)


def stacked(start, folder, name, numbers=NUMBERS):
    """M, (T, d), float64."""
    before = load_file(start / "model.safetensors")[name].double().flatten()
    return np.stack(
        [(load_file(folder / f"step_{n}" / "model.safetensors")[name].double().flatten() - before) for n in numbers]
    )


def relex(updates, target_row):
    """RELEX as published, for evenly spaced rows: the direction, its coefficients, the prediction."""
    _, s, vh = np.linalg.svd(updates, full_matrices=False)
    coefficients = updates @ vh[0]
    slope, intercept = np.polyfit(np.arange(len(updates)), coefficients, 1)
    return s, vh[0], coefficients, (intercept + slope * target_row) * vh[0]


def test_a_straight_run_is_one_direction_and_one_line(tiny, straight):
    result = trajectory(tiny.sft, straight, rank=4, progress=False)
    moving = result.table[result.table["name"] != STILL]
    assert (moving["explained_variance"] > 1 - 1e-5).all()
    assert (moving["linearity"] > 1 - 1e-5).all()
    assert (moving["last_error"] < 3e-3).all()
    assert (moving["increment_cosine"] > 1 - 1e-4).all()
    assert np.allclose(moving["slope"] * 10, moving["delta_norm"], rtol=1e-3)  # through theta_0: c = |delta|
    still = result.table[result.table["name"] == STILL].iloc[0]
    assert still["delta_norm"] == still["slope"] == 0
    assert np.isnan([still["explained_variance"], still["last_error"], still["matrix_rank_1"]]).all()
    assert set(result.table["name"]) == set(Checkpoint(tiny.sft).tensors)
    assert list(result.table.loc[result.table["name"] == NAME, ["layer", "projection"]].iloc[0]) == [1, "v"]


@pytest.mark.parametrize("window", [None, 3, 0.6])
def test_against_the_svd_of_the_whole_stack(tiny, noisy, window):
    fitted = 5 if window is None else 3
    result = trajectory(tiny.sft, noisy, window=window, rank=4, progress=False)
    table, steps = result.table.set_index("name"), result.steps
    for name in (NAME, "model.norm.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.bias"):
        updates = stacked(tiny.sft, noisy, name)
        s, v, _, predicted = relex(updates[:fitted], target_row=4)
        row = table.loc[name]
        assert row["explained_variance"] == pytest.approx(s[0] ** 2 / (s**2).sum(), rel=1e-6)
        error = np.linalg.norm(updates[-1] - predicted) / np.linalg.norm(updates[-1])
        assert row["last_error"] == pytest.approx(error, rel=1e-5)
        stay = np.linalg.norm(updates[-1] - updates[fitted - 1]) / np.linalg.norm(updates[-1])
        assert row["last_error_stay"] == pytest.approx(stay, rel=1e-5) or (
            fitted == 5 and np.isnan(row["last_error_stay"])
        )
        increments = np.diff(np.vstack([np.zeros(updates.shape[1]), updates]), axis=0)
        unit = increments / np.linalg.norm(increments, axis=1, keepdims=True)
        assert row["increment_cosine"] == pytest.approx((unit[1:] * unit[:-1]).sum(1).mean(), abs=1e-6)
        if name == NAME:
            own = steps[steps["name"] == name]
            assert np.allclose(np.abs(own["coefficient"]), np.abs(updates @ v), rtol=1e-5)
            assert np.allclose(own["delta_norm"], np.linalg.norm(updates, axis=1), rtol=1e-6)
            assert own["fitted"].tolist() == [True] * fitted + [False] * (5 - fitted)
            matrix = updates[-1].reshape(16, 32)
            values = np.linalg.svd(matrix, compute_uv=False)
            assert row["matrix_rank_1"] == pytest.approx(values[0] ** 2 / (values**2).sum(), rel=1e-6)
            u, _, vh = np.linalg.svd(load_file(tiny.sft / "model.safetensors")[NAME].double().numpy())
            inside = u[:, :4].T @ matrix @ vh[:4].T
            expected = 1 - (inside**2).sum() / (matrix**2).sum()
            assert own["off_principal"].iloc[-1] == pytest.approx(expected, abs=1e-6)
            assert own["off_principal_null"].iloc[-1] == pytest.approx(1 - 16 / (16 * 32))


def test_the_budget_of_memory_changes_nothing(tiny, noisy, monkeypatch):
    whole = trajectory(tiny.sft, noisy, rank=4, progress=False)
    monkeypatch.setattr(steps_module, "_BUDGET", 700)
    monkeypatch.setattr(steps_module, "_WIDE", 50)
    pieces = trajectory(tiny.sft, noisy, rank=4, progress=False)
    pd.testing.assert_frame_equal(whole.table, pieces.table, rtol=1e-9)


def test_the_written_checkpoints(tiny, noisy, tmp_path):
    """Each is complete, loads, and is what numpy computes from the whole stack."""
    out = tmp_path / "out"
    asked = {"window": 3, "rank": 4, "out": out, "progress": False}
    result = trajectory(tiny.sft, noisy, extrapolate=14, reconstruct=6, matrix_rank_1=True, **asked)
    start = load_file(tiny.sft / "model.safetensors")
    found = {kind: load_file(folder / "model.safetensors") for kind, folder in result.checkpoints.items()}
    assert set(found) == {"extrapolated-14", "reconstructed-6", "matrix-rank-1"}
    for name, before in start.items():
        if name == STILL:
            continue
        updates = stacked(tiny.sft, noisy, name)
        _, v, coefficients, predicted = relex(updates[:3], target_row=6)
        wanted = {"extrapolated-14": predicted, "reconstructed-6": coefficients[2] * v, "matrix-rank-1": updates[-1]}
        if before.dim() == 2:
            u, s, vh = np.linalg.svd(updates[-1].reshape(before.shape), full_matrices=False)
            wanted["matrix-rank-1"] = np.sqrt((s**2).sum()) * np.outer(u[:, 0], vh[0]).flatten()
        for kind, update in wanted.items():
            expected = before.double().numpy().flatten() + update
            assert np.allclose(found[kind][name].double().flatten(), expected, atol=2e-6), (kind, name)
    for kind, folder in result.checkpoints.items():
        assert torch.equal(found[kind][STILL], start[STILL])
        checkpoint = Checkpoint(folder)
        assert checkpoint.load_tokenizer() is not None
        assert torch.isfinite(checkpoint.load_model()(torch.arange(5)[None]).logits).all()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "run.json"}
    again = trajectory(tiny.sft, noisy, extrapolate=14, **asked)  # does nothing
    assert again.table.equals(result.table) and again.steps.equals(result.steps)
    trajectory(tiny.sft, noisy, extrapolate=14, overwrite=True, **asked)
    assert all(path.read_bytes() == content for path, content in before.items())
    with pytest.raises(m.MastlensError, match="--overwrite"):
        trajectory(tiny.sft, noisy, **(asked | {"window": 4}))


@pytest.mark.parametrize("place", ["run.json", ".extrapolated-14."])
def test_a_checkpoint_that_was_written_and_not_recorded_is_the_runs_own(tiny, noisy, tmp_path, monkeypatch, place):
    """Whatever ends the command between the folder and the record, the same command goes on."""
    asked = {"window": 3, "rank": 4, "out": tmp_path / "out", "progress": False, "extrapolate": 14}
    trajectory(tiny.sft, noisy, **{**asked, "extrapolate": None})
    whole = trajectory(tiny.sft, noisy, **{**asked, "out": tmp_path / "whole"})
    if place == "run.json":

        def ends(path, value, write=stages.write_json):
            if path.name == place and (path.parent / "extrapolated-14").exists():
                raise KeyboardInterrupt
            write(path, value)

        monkeypatch.setattr(stages, "write_json", ends)
        with pytest.raises(KeyboardInterrupt):
            trajectory(tiny.sft, noisy, **asked)
        monkeypatch.undo()
        assert (tmp_path / "out" / "extrapolated-14" / "model.safetensors").is_file()
    else:
        trajectory(tiny.sft, noisy, **asked)
        (tmp_path / "out" / f"{place}abcdefgh").mkdir()  # what a killed writer leaves
    again = trajectory(tiny.sft, noisy, **asked)
    names = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*")) for f in (tmp_path / "out", tmp_path / "whole")]
    assert names[0] == names[1]
    bits = [(run.checkpoints["extrapolated-14"] / "model.safetensors").read_bytes() for run in (whole, again)]
    assert bits[0] == bits[1]
    (tmp_path / "out" / "reconstructed-6").mkdir()
    (tmp_path / "out" / "reconstructed-6" / "mine.txt").write_text("mine")
    with pytest.raises(m.MastlensError, match="is not empty"):
        trajectory(tiny.sft, noisy, **asked, reconstruct=6)  # nobody's of ours


def test_extrapolating_by_nothing_reproduces_the_last_step_of_a_line(tiny, straight, tmp_path):
    result = trajectory(
        tiny.sft, straight, window=4, extrapolate=8, reconstruct=8, rank=4, out=tmp_path / "o", progress=False
    )
    real = load_file(straight / "step_8" / "model.safetensors")
    for folder in result.checkpoints.values():
        found = load_file(folder / "model.safetensors")
        assert all(torch.allclose(found[name], real[name], atol=1e-4) for name in real)
    ahead = trajectory(tiny.sft, straight, window=4, extrapolate=10, rank=4, out=tmp_path / "o", progress=False)
    found, real = (
        load_file(f / "model.safetensors") for f in (ahead.checkpoints["extrapolated-10"], straight / "step_10")
    )
    assert all(torch.allclose(found[name], real[name], atol=1e-4) for name in real)


def test_a_tied_output_follows_the_input(tiny, noisy, tmp_path):
    """A folder that stores both ends of a tied embedding gets the same prediction on both."""
    for path in [tiny.sft, *sorted(noisy.iterdir())]:
        folder = shutil.copytree(path, tmp_path / path.name)
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    steps = [tmp_path / f"step_{n}" for n in NUMBERS]
    result = trajectory(tmp_path / "sft", *steps, extrapolate=12, rank=4, out=tmp_path / "o", progress=False)
    assert "lm_head.weight" not in set(result.table["name"])
    found = load_file(result.checkpoints["extrapolated-12"] / "model.safetensors")
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_bfloat16_steps_are_rounded_once(tmp_path):
    folders = write_lineage(tmp_path / "bf16", dtype="bfloat16")
    run = write_run(folders.sft, tmp_path / "run")
    result = trajectory(folders.sft, run, extrapolate=12, rank=4, out=tmp_path / "o", progress=False)
    found = load_file(result.checkpoints["extrapolated-12"] / "model.safetensors")
    updates = stacked(folders.sft, run, NAME)
    before = load_file(folders.sft / "model.safetensors")[NAME].double()
    expected = before + torch.from_numpy(relex(updates, 5)[3]).reshape(before.shape)
    assert found[NAME].dtype == torch.bfloat16
    assert (found[NAME] == expected.bfloat16()).double().mean() > 0.999


def test_fused_projections_have_rows_of_their_own(tmp_path):
    folders = write_lineage(tmp_path / "phi3", "phi3")
    run = tmp_path / "run"
    for number, path in ((5, folders.sft), (10, folders.rlvr)):
        shutil.copytree(path, run / f"step_{number}")
    result = trajectory(folders.base, run, rank=4, progress=False)
    fused = "model.layers.0.self_attn.qkv_proj.weight"
    own = result.table[result.table["name"].str.startswith(fused)].set_index("name")
    assert own["projection"].to_dict() == {fused: "", f"{fused}#q": "q", f"{fused}#k": "k", f"{fused}#v": "v"}
    parts = own.loc[[f"{fused}#{p}" for p in "qkv"], "delta_norm"]
    assert np.sqrt((parts**2).sum()) == pytest.approx(own.loc[fused, "delta_norm"])
    assert f"{fused}#q" in set(result.steps["name"]) and fused not in set(result.steps["name"])


# Nulls


def test_the_random_walk_null_is_what_walks_do():
    generator = np.random.default_rng(0)
    numbers = [3, 4, 7, 11, 12, 20, 26, 30]
    lengths = np.diff([0, *numbers])
    for fitted in (8, 4):
        null = path_laws(numbers, fitted=fitted)[0].expected
        walks = [np.cumsum(generator.normal(size=(8, 20_000)) * np.sqrt(lengths)[:, None], axis=0) for _ in range(8)]
        grams = [walk @ walk.T for walk in walks]
        models = [fit_rank1(gram, numbers, fitted) for gram in grams]
        assert null.explained_variance == pytest.approx(np.mean([x.explained_variance for x in models]), abs=5e-3)
        assert null.linearity == pytest.approx(np.mean([x.linearity for x in models]), abs=5e-3)
        relative = np.mean([x.coefficients / x.coefficients[fitted - 1] for x in models], axis=0)
        assert np.allclose(null.coefficients, relative, atol=0.02)
        assert abs(np.mean([increment_cosine(gram) for gram in grams])) < 5e-3
        errors = [combination_error(g, x.extrapolation(30), 7) for g, x in zip(grams, models, strict=True)]
        assert null.prediction_error == pytest.approx(np.mean(errors), rel=1e-2)
        assert np.allclose(null.coefficients[fitted:], 1)  # where it goes next, it has forgotten where it came from


def test_a_long_walk_explains_eight_over_pi_squared():
    null = path_laws(range(1, 1001))[0].expected
    assert null.explained_variance == pytest.approx(8 / np.pi**2, abs=1e-4)
    assert null.linearity > 0.95  # a walk looks straight
    later, first = (path_laws(range(n + 1, n + 11), start=n) for n in (100, 0))
    for one, other in zip(later, first, strict=True):
        assert one.expected.explained_variance == pytest.approx(other.expected.explained_variance)


# AdamW on noise


def adamw_path(numbers, rank, seed, *, mean=0.0, shape=(16, 16)):
    """Updates at these steps by torch's own AdamW, whose gradients are noise of few directions, and a mean."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimiser = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.0, eps=1e-12)
    goal, found = mean * torch.randn(shape, generator=generator, dtype=torch.float64), []
    for step in range(1, numbers[-1] + 1):
        sides = (torch.randn(size, rank, generator=generator, dtype=torch.float64) for size in shape)
        weight.grad = next(sides) @ next(sides).T + goal
        optimiser.step()
        if step in numbers:
            found.append(weight.detach().clone().flatten())
    return torch.stack(found).numpy()


def measures_of(gram, numbers):
    model = fit_rank1(gram, numbers)
    error = combination_error(gram, model.extrapolation(numbers[-1]), len(numbers) - 1)
    return dict(zip(MEASURES, (model.explained_variance, model.linearity, error, increment_cosine(gram)), strict=True))


def test_the_optimisers_null_is_what_torchs_adamw_does_with_noise():
    numbers = list(range(2, 41, 2))
    paths = [adamw_path(numbers, 16, seed, shape=(64, 64)) for seed in range(4)]
    covariance = sum(path @ path.T for path in paths) / (4 * 64 * 64)
    assert np.allclose(adamw_covariance(tuple(numbers)), covariance, rtol=0.12)
    walk, adamw = (law.expected for law in path_laws(numbers))
    drawn = {name: np.mean([measures_of(p @ p.T, numbers)[name] for p in paths]) for name in MEASURES}
    assert adamw.explained_variance == pytest.approx(drawn["explained_variance"], abs=0.01)
    assert adamw.explained_variance > walk.explained_variance + 0.08  # the walk alone calls noise a finding
    assert adamw.linearity == pytest.approx(drawn["linearity"], abs=0.02)
    assert adamw.prediction_error == pytest.approx(drawn["last_error"], abs=0.02)
    assert adamw.increment_cosine == pytest.approx(drawn["increment_cosine"], abs=0.03)
    assert walk.increment_cosine == pytest.approx(0, abs=1e-12)
    hundred = [law.expected.explained_variance for law in path_laws(range(5, 101, 5))]
    assert np.allclose(hundred, [0.81, 0.88], atol=5e-3)  # what the page of geometry says


def test_many_gram_matrices_at_once_are_measured_as_one_by_one():
    numbers = [1, 2, 4, 7, 11, 13]
    paths = [np.random.default_rng(seed).normal(size=(6, 9)).cumsum(axis=0) for seed in range(5)]
    grams = np.array([path @ path.T for path in paths])
    for fitted in (6, 4):
        found = path_measures(grams, numbers, fitted)
        for i, gram in enumerate(grams):
            model = fit_rank1(gram, numbers, fitted)
            assert found["explained_variance"][i] == pytest.approx(model.explained_variance, rel=1e-6)
            assert found["linearity"][i] == pytest.approx(model.linearity, rel=1e-5)
            error = combination_error(gram, model.extrapolation(13), 5)
            assert found["last_error"][i] == pytest.approx(error, rel=1e-5)
            assert found["increment_cosine"][i] == pytest.approx(increment_cosine(gram), rel=1e-6)


def judged_paths(numbers, rank, seeds, mean=0.0):
    laws, found = path_laws(numbers), []
    for seed in seeds:
        path = adamw_path(numbers, rank, seed, mean=mean)
        gram = path @ path.T
        found.append(judge_path(gram, numbers, len(numbers), laws, measures_of(gram, numbers)))
    return found


def test_noise_through_adamw_is_not_beyond_chance_and_a_direction_is():
    """Of rank 1: entries are far from independent, and the law allows for that by itself."""
    numbers = list(range(2, 41, 2))
    noise = judged_paths(numbers, 1, range(12))
    assert sum(j[name].distinguishable for j in noise for name in MEASURES) <= 1
    assert {j["increment_cosine"].judged_by for j in noise} == {"adamw"}  # a walk has none of its momentum
    moved = judged_paths(numbers, 1, range(3), mean=3.0)
    assert all(j[name].distinguishable for j in moved for name in ("linearity", "increment_cosine"))
    # What one direction explains is no more than noise of one direction explains: that alone tells nothing.
    assert not any(j["explained_variance"].distinguishable for j in moved)
    few = judged_paths(numbers[:8], 1, range(2), mean=3.0)  # 128 patterns of signs cannot tell
    assert not any(j[name].distinguishable for j in few for name in MEASURES)


def test_noise_around_the_start_explains_one_share_in_t():
    noise = np.random.default_rng(0).normal(size=(6, 100_000))
    assert fit_rank1(noise @ noise.T, range(6)).explained_variance == pytest.approx(1 / 6, rel=0.05)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(3, 40), st.sampled_from([1e-6, 1.0, 1e4]))
def test_laws_of_the_fit(seed, count, width, size):
    generator = np.random.default_rng(seed)
    updates = generator.normal(size=(count, width)) * size
    numbers = np.cumsum(generator.integers(1, 9, size=count)).tolist()
    gram = inner_products(torch.from_numpy(updates))
    model, turned = fit_rank1(gram, numbers), fit_rank1(inner_products(torch.from_numpy(-updates)), numbers)
    v = model.weights @ updates
    assert np.linalg.norm(v) == pytest.approx(1, rel=1e-6)
    assert np.allclose(updates @ v, model.coefficients, rtol=1e-6, atol=1e-9 * size)
    # Turning every update turns the prediction; the sign of v itself is a convention.
    assert np.allclose(model.extrapolation(numbers[-1] + 3) @ updates, turned.extrapolation(numbers[-1] + 3) @ updates)
    assert model.coefficients[-1] >= 0
    # A rotation of R^d changes nothing.
    rotation = np.linalg.qr(generator.normal(size=(width, width)))[0]
    rotated = fit_rank1(inner_products(torch.from_numpy(updates @ rotation)), numbers)
    assert rotated.explained_variance == pytest.approx(model.explained_variance, rel=1e-9)
    # What is projected on v is the best rank-1 approximation: no smaller residual than s_2, ..., s_T.
    errors = [combination_error(gram, model.reconstruction(t), t) ** 2 * gram[t, t] for t in range(count)]
    assert sum(errors) == pytest.approx((model.singular_values[1:] ** 2).sum(), rel=1e-6, abs=1e-12 * size**2)


# Opening a run


def test_a_folder_of_steps_is_in_numeric_order(tiny, straight):
    run = open_steps([tiny.sft, straight])
    assert run.numbers == NUMBERS and run.start_number == 0 and run.fitted == 5
    glob = sorted(map(str, straight.iterdir()))  # step_10 first, as a shell has it
    assert open_steps([tiny.sft, *glob]).numbers == NUMBERS
    assert open_steps([straight], start=tiny.sft).numbers == NUMBERS
    later = open_steps([straight / "step_2", *(straight / f"step_{n}" for n in NUMBERS[1:])])
    assert (later.start_number, later.numbers) == (2, NUMBERS[1:])
    chosen = open_steps([tiny.sft, straight / "step_4", straight / "step_8"], numbers=[1, 5])
    assert chosen.numbers == (1, 5)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("run/step_12", 12),
        ("checkpoint-500", 500),
        ("global_step_40/actor/huggingface", 40),
        ("owner/model@step_75", 75),
        ("run/step_0012/", 12),
        ("sft", None),
        ("footstep_3", None),
    ],
)
def test_step_numbers_are_read_from_names(name, number):
    assert steps_module._number(name) == number


def test_what_is_no_run(tiny, straight, tmp_path):
    def refused(words, *paths, **changes):
        with pytest.raises(m.MastlensError, match=words):
            trajectory(*paths, **({"rank": 4, "progress": False} | changes))

    two = [straight / "step_2", straight / "step_4"]
    refused("--start", straight)
    refused("two steps", tiny.sft, straight / "step_2")
    refused("needs paths")
    refused("--steps", tiny.base, tiny.sft, tiny.rlvr)
    refused("2 step numbers", tiny.sft, straight, steps=[1, 2])
    refused("ascend", tiny.sft, *two, steps=[2, 2])
    refused("ascend", tiny.sft, two[0], two[0])
    for window in (1, 0.1, 6, 0, 1.5):
        refused("--window", tiny.sft, straight, window=window)
    refused("--out", tiny.sft, straight, extrapolate=20)
    refused("no step 7", tiny.sft, straight, reconstruct=7, out=tmp_path / "o")
    refused("Rank", tiny.sft, straight, rank=17)
    refused("the same", straight / "step_10", *two, straight / "step_10", steps=[1, 2, 3])
    other = write_lineage(tmp_path / "other", num_hidden_layers=1)
    refused("not one run", other.sft, straight)
    assert not (tmp_path / "o").exists()


def test_figures_hold_their_tables(tiny, noisy):
    result = trajectory(tiny.sft, noisy, window=3, rank=4, progress=False)
    from mastlens.plots import figure_table

    coefficients = figure_table(plot_trajectory(result.steps))
    assert {"relative_line", "relative_walk"} <= set(coefficients)
    assert "random walk" in json.dumps(result.plot().to_dict(), default=str)
    explained = figure_table(plot_trajectory_explained(result.table))
    assert set(explained["projection"]) == set("qkvo")
    assert len(figure_table(plot_trajectory_geometry(result.steps))) == len(result.steps)
