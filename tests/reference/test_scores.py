"""Scores against plain Hugging Face: shares that add up to the whole change, and a plant that is found."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import mastlens
from mastlens.analysis.scores.catalogue import SCORERS
from mastlens.analysis.scores.line import quantile, standard_error
from mastlens.analysis.scores.scorers.gates import hard_concrete, open_share
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensError
from mastlens.models.gradients import mean_gradients
from mastlens.plots.tables import told_from_zero
from mastlens.problems.encoding import EncodedProblem
from mastlens.selection.catalogue import RULES
from mastlens.selection.tables import SCORED, SOURCES
from tests.conftest import write_problems
from tests.reference import plain


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("problems")
    return tuple(
        write_problems(folder / f"{side}.jsonl", first=first, count=count)
        for side, first, count in (("forget", 1, 6), ("retain", 30, 5))
    )


@pytest.fixture(scope="module")
def scored(tiny, files, tmp_path_factory):
    forget, retain = files
    out = tmp_path_factory.mktemp("run")
    asked = {"sft": tiny.sft, "rlvr": tiny.rlvr, "forget": forget, "retain": retain, "progress": False}
    found = mastlens.score("path", **asked, where=".", retain_weight=0.5, parameters={"points": 6.0}, out=out)
    return found, out, asked


def test_every_scorer_has_a_rule_that_reads_its_table():
    assert {f"{SCORED}{name}" for name in SCORERS} == {name for name in SOURCES if name.startswith(SCORED)}
    for name, scorer in SCORERS.items():
        rule = RULES[name]
        assert f"{SCORED}{name}" in rule.needs
        assert rule.of_increment
        assert scorer.summary


def test_shares_add_up_to_the_whole_change(scored, tiny, files):
    table = scored[0].table
    change = {}
    for side, file in zip(("forget", "retain"), files, strict=True):
        encoded = plain.encode_file(file, tiny.rlvr)
        before, after = (
            float(plain.token_mean_nll(plain.load_model(path), encoded).detach()) for path in (tiny.sft, tiny.rlvr)
        )
        change[side] = before - after
    assert table["change"].iloc[0] == pytest.approx(change["forget"] - 0.5 * change["retain"], abs=3e-6)
    assert abs(table["completeness_error"].iloc[0]) < 1e-3
    np.testing.assert_allclose(table["score"], table["forget_path"] - 0.5 * table["retain_path"], rtol=1e-12)


def test_one_point_is_the_gradient_in_the_middle(tiny, files):
    """Of one point the rule is the midpoint's, so that a share is a plain gradient times the increment."""
    before, after = Checkpoint(tiny.sft), Checkpoint(tiny.rlvr)
    model = plain.load_model(tiny.rlvr).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_((before.tensor(name).double() + after.tensor(name).double()) / 2)
    model.requires_grad_(True)
    plain.token_mean_nll(model, plain.encode_file(files[0], tiny.rlvr)).backward()
    table = mastlens.score(
        "path", sft=tiny.sft, rlvr=tiny.rlvr, forget=files[0], where=".", parameters={"points": 1.0}, progress=False
    ).table
    gradients = dict(model.named_parameters())
    for row in table.itertuples():
        delta = after.tensor(row.name).double() - before.tensor(row.name).double()
        assert row.forget_path == pytest.approx(-float((gradients[row.name].grad * delta).sum()), rel=1e-3, abs=1e-7)


def test_the_order_is_that_of_the_scores_and_one_run_is_kept(scored):
    found, out, asked = scored
    ranking = mastlens.rank(out, rule="path", top=3)
    expected = found.table[found.table["delta_norm"] > 0].sort_values("score", ascending=False, kind="stable")
    assert ranking.selected == expected["name"].head(3).tolist()
    again = mastlens.score("path", **asked, where=".", retain_weight=0.5, parameters={"points": 6.0}, out=out)
    assert again.table.equals(found.table)
    with pytest.raises(MastlensError, match="retain_weight"):
        mastlens.score("path", **asked, where=".", retain_weight=0.25, parameters={"points": 6.0}, out=out)
    assert "told from zero" in found.card().verdict
    assert found.plot().data


@pytest.fixture(scope="module")
def planted(tiny, files, tmp_path_factory):
    """A lineage in which one tensor learnt the forget solutions and all others moved by as much, at random."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("planted")
    name = "model.layers.1.self_attn.v_proj.weight"
    shutil.copytree(tiny.sft, folder / "sft")
    shutil.copytree(tiny.sft, folder / "rlvr")
    model = plain.load_model(tiny.sft)
    encoded = plain.encode_file(files[0], tiny.sft)
    model.requires_grad_(False)
    weight = model.get_parameter(name).requires_grad_(True)
    optimiser = torch.optim.Adam([weight], lr=3e-2)
    for _ in range(12):
        optimiser.zero_grad()
        plain.token_mean_nll(model, encoded).backward()
        optimiser.step()
    generator = torch.Generator().manual_seed(0)
    stored = Checkpoint(tiny.sft)
    before = {key: stored.tensor(key) for key in stored.tensors}
    size = float((weight.detach() - before[name]).norm())
    after = {}
    for key, tensor in before.items():
        noise = torch.randn(tensor.shape, generator=generator)
        after[key] = tensor + noise * size / noise.norm() if tensor.ndim == 2 else tensor.clone()
    after[name] = weight.detach().clone()
    save_file(after, folder / "rlvr" / "model.safetensors", metadata={"format": "pt"})
    return folder, name


@pytest.mark.parametrize("rule", [name for name, one in SCORERS.items() if not one.grades and name != "seta"])
def test_the_tensor_that_learnt_it_is_found(planted, files, rule):
    folder, name = planted
    parameters = {"gates": {"steps": 80.0}, "shapley": {"pairs": 2.0}}.get(rule)
    asked = {"sft": folder / "sft", "rlvr": folder / "rlvr", "forget": files[0], "where": ".", "parameters": parameters}
    table = mastlens.score(rule, **asked, progress=False).table
    first = table.sort_values("score", ascending=False)["name"].iloc[0]
    assert first == name
    largest = table.sort_values("delta_norm", ascending=False)["name"].iloc[0]
    assert largest != name  # size alone does not find it
    again = mastlens.score(rule, **asked, progress=False).table
    assert again.equals(table)  # deterministic under the seed


def test_gates_are_those_of_the_paper():
    location = torch.linspace(-4, 4, 9, dtype=torch.float64)
    noise = torch.rand(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gates = hard_concrete(location, noise.clamp(1e-9, 1 - 1e-9))
    assert gates.min() == 0 and gates.max() == 1
    torch.testing.assert_close((gates > 0).double().mean(0), open_share(location), atol=5e-3, rtol=0)


def test_the_standard_error_is_that_of_a_ratio_of_sums():
    rng = np.random.default_rng(0)
    tokens, draws = 50 + rng.integers(0, 3, 10), []
    for _ in range(4000):
        sums = tokens * 0.2 + rng.normal(0, 1.5, 10)
        draws.append((sums.sum() / tokens.sum(), standard_error(sums[:, None], tokens)[0]))
    means, errors = map(np.array, zip(*draws, strict=True))
    assert np.sqrt((errors**2).mean()) == pytest.approx(means.std(), rel=0.03)
    assert np.isnan(standard_error(np.ones((1, 2)), np.array([3]))).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"parameters": {"points": 0.0}}, "points=1"),
        ({"parameters": {"pionts": 1.0}}, "'points'"),
        ({"retain_weight": -1.0}, "--retain-weight"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny, files, wrong, said):
    with pytest.raises(MastlensError, match=said):
        mastlens.score("path", sft=tiny.sft, rlvr=tiny.rlvr, forget=files[0], **wrong)
    with pytest.raises(MastlensError, match="path"):
        mastlens.score("paht", sft=tiny.sft, rlvr=tiny.rlvr, forget=files[0])
    with pytest.raises(MastlensError, match="mastlens score path"):
        mastlens.rank(files[0].parent, rule="path", top=1)


def test_of_scores_that_are_nothing_one_in_twenty_is_told_from_zero():
    """The interval allows for its ten blocks: 1.96 standard errors would call 8 % of null scores a finding."""
    rng = np.random.default_rng(1)
    tokens = 50 + rng.integers(0, 3, 10)
    error = standard_error(sums := rng.normal(0, 1.5, (10, 40_000)), tokens)
    score = sums.sum(axis=0) / tokens.sum()
    wide = quantile(10) * error
    told = told_from_zero(pd.DataFrame({"score_low": score - wide, "score_high": score + wide})).mean()
    assert told == pytest.approx(0.05, abs=0.006)
    assert (np.abs(score) > 1.96 * error).mean() > 0.07
    assert np.isnan(quantile(1))
    assert not told_from_zero(pd.DataFrame({"score": [9.0], "standard_error": [np.nan]})).any()


def test_a_problem_s_weight_multiplies_its_gradient(tiny, files):
    model, encoded = plain.load_model(tiny.rlvr).requires_grad_(False), plain.encode_file(files[0], tiny.rlvr)
    name, weights = "model.layers.1.self_attn.v_proj.weight", [0.0, -1.5, 2.0, 0.25, 0.0, 1.0]
    problems = [EncodedProblem(tuple(prompt), tuple(solution)) for prompt, solution in encoded]
    found = mean_gradients(model, problems, [name], weights=weights, batch_size=4)[name]
    parameter = model.get_parameter(name).requires_grad_(True)
    tokens = sum(len(solution) for _, solution in encoded)
    loss = sum(
        weight * plain.token_mean_nll(model, [one]) * len(one[1]) for weight, one in zip(weights, encoded, strict=True)
    )
    (loss / tokens).backward()
    torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-7)


def test_shares_of_what_the_model_does_add_up_to_what_it_does(planted, files, tmp_path):
    """Responses of one token, so that the share of right ones is a sum of probabilities that can be written down."""
    folder, _ = planted
    said = {}  # text of a token to its mean probability right after the prompt
    for stage in ("sft", "rlvr"):
        model, tokenizer = plain.load_model(folder / stage), Checkpoint(folder / stage).load_tokenizer()
        prompts = [prompt for prompt, _ in plain.encode_file(files[0], folder / stage)]
        with torch.no_grad():
            chances = [model(torch.tensor([prompt])).logits[0, -1].softmax(-1) for prompt in prompts]
        texts = [tokenizer.decode([place], skip_special_tokens=True) for place in range(len(tokenizer))]
        said[stage] = pd.Series(torch.stack(chances).mean(0)[: len(texts)].numpy()).groupby(texts).sum()
    likelier = said["rlvr"] > said["sft"]
    change = float((said["rlvr"] - said["sft"])[likelier].sum())
    right = sorted(likelier.index[likelier])
    (tmp_path / "own.py").write_text(f"RIGHT = {right!r}\n\n\ndef likelier(said, gold):\n    return said in RIGHT\n")
    table = mastlens.score(
        "behaviour",
        sft=folder / "sft",
        rlvr=folder / "rlvr",
        forget=files[0],
        where=".",
        grader=f"{tmp_path / 'own.py'}:likelier",
        parameters={"samples": 64.0, "max_new_tokens": 1.0},
        progress=False,
    ).table
    assert abs(change) > 0.05
    assert table["change"].iloc[0] == pytest.approx(change, abs=4 * table["change_error"].iloc[0])
    covered = table["change"].iloc[0] + abs(table["change"].iloc[0]) * table["completeness_error"].iloc[0]
    error = float(
        np.sqrt((table["standard_error"] ** 2).sum())
    )  # of the matrices as if apart; norms and biases stand still
    assert covered == pytest.approx(change, abs=4 * error + 0.01)
    assert error < abs(change) / 2


def test_what_is_put_back_is_measured(planted, files):
    """The values of all matrices add up to what putting all back does; the first one found is the best by itself."""
    folder, name = planted
    asked = {"sft": folder / "sft", "rlvr": folder / "rlvr", "forget": files[0], "retain": files[1]}
    pairs = {"pairs": 2.0}
    shapley = mastlens.score("shapley", **asked, where=".", parameters=pairs, progress=False).table
    search = mastlens.score("search", **asked, where=".", progress=False).table
    causal = mastlens.causal_map(**asked, where=".", both_directions=False, progress=False).table
    single = -(causal["forget_effect"] - causal["retain_effect"]).to_numpy()
    assert search["name"].iloc[int(search["score"].argmax())] == causal["name"].iloc[int(single.argmax())] == name
    first = search.loc[search["score"].idxmax()]
    assert first["gain"] == pytest.approx(single.max(), rel=1e-3)
    assert first["taken"]
    ends = {}
    for stage in ("sft", "rlvr"):
        model = plain.load_model(folder / "rlvr")
        if stage == "sft":  # all matrices of SFT, and what is no matrix of RLVR
            before = Checkpoint(folder / "sft")
            with torch.no_grad():
                for key in shapley["name"]:
                    model.get_parameter(key).copy_(before.tensor(key))
        encoded = [plain.encode_file(file, folder / "rlvr") for file in files]
        ends[stage] = [-float(plain.token_mean_nll(model, side).detach()) for side in encoded]
    whole = (ends["rlvr"][0] - ends["sft"][0]) - (ends["rlvr"][1] - ends["sft"][1])
    assert shapley["score"].sum() == pytest.approx(whole, abs=1e-5)
    with pytest.raises(MastlensError, match="budget"):
        mastlens.score("search", **asked, where=".", parameters={"budget": 1.0}, progress=False)
    with pytest.raises(MastlensError, match="leave --grader out"):
        mastlens.score("search", **asked, grader="text", progress=False)
