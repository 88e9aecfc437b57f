"""Coupling against plain autograd on a plain transformers model."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mastlens as m
from mastlens.analysis.coupling import mean_gradients
from mastlens.problems import encode_problems, read_problems

from .plain import encode_file, gradients, load_model, load_tokenizer, projection_names

COLUMNS = ["layer", "projection", "name", "forget_grad_norm", "forget_inner", "forget_cosine"]
RETAIN_COLUMNS = ["retain_grad_norm", "retain_inner", "retain_cosine", "forget_retain_cosine"]
NUMBERS = COLUMNS[3:] + RETAIN_COLUMNS


@pytest.fixture(scope="module")
def table(tiny):
    return m.couple(
        sft=tiny.sft, rlvr=tiny.rlvr, forget=tiny.forget, retain=tiny.retain, batch_size=5, progress=False
    ).table


@pytest.fixture(scope="module")
def oracle(tiny):
    """Name to (forget gradient, retain gradient, increment), flat, float64."""
    names = projection_names()
    model = load_model(tiny.rlvr)
    forget = gradients(model, encode_file(tiny.forget, tiny.rlvr), names)
    retain = gradients(model, encode_file(tiny.retain, tiny.rlvr), names)
    after, before = load_file(tiny.rlvr / "model.safetensors"), load_file(tiny.sft / "model.safetensors")

    def flat(tensor):
        return tensor.detach().double().numpy().ravel()

    return {n: (flat(forget[n]), flat(retain[n]), flat(after[n] - before[n])) for n in names}


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_agrees_with_plain_autograd(table, oracle):
    assert list(table["name"]) == list(oracle)
    for row in table.itertuples():
        f, r, d = oracle[row.name]
        assert row.forget_grad_norm == pytest.approx(np.linalg.norm(f), rel=1e-5)
        assert row.retain_grad_norm == pytest.approx(np.linalg.norm(r), rel=1e-5)
        # An inner product can cancel: 1e-5 of what it is made of, not of what is left.
        size_f, size_r = (np.linalg.norm(g) * np.linalg.norm(d) for g in (f, r))
        assert row.forget_inner == pytest.approx(f @ d, abs=1e-5 * size_f)
        assert row.retain_inner == pytest.approx(r @ d, abs=1e-5 * size_r)
        assert row.forget_cosine == pytest.approx(cosine(f, d), abs=1e-5)
        assert row.retain_cosine == pytest.approx(cosine(r, d), abs=1e-5)
        assert row.forget_retain_cosine == pytest.approx(cosine(f, r), abs=1e-5)


def test_inner_products_keep_their_sign(table, oracle):
    expected = [np.sign(f @ d) for f, _, d in oracle.values()]
    assert len(set(expected)) == 2  # both signs occur, else the next line would say little
    assert list(np.sign(table["forget_inner"])) == expected
    assert list(np.sign(table["forget_cosine"])) == expected
    # To first order the loss changes by the inner product when the increment is added once more.
    assert table["forget_cosine"].between(-1, 1).all()


def test_columns_with_and_without_retain(tiny, table):
    alone = m.couple(sft=tiny.sft, rlvr=tiny.rlvr, forget=tiny.forget, progress=False).table
    assert set(table.columns) >= set(COLUMNS + RETAIN_COLUMNS)
    assert set(alone.columns) >= set(COLUMNS)
    assert not set(alone.columns) & set(RETAIN_COLUMNS)
    assert np.allclose(alone["forget_inner"], table["forget_inner"], rtol=1e-4, atol=1e-7)
    assert not np.allclose(table["forget_inner"], table["retain_inner"], rtol=1e-2)


@pytest.mark.parametrize("batch_size", [1, 3, 12, 64])
def test_batch_size_does_not_matter(tiny, table, batch_size):
    other = m.couple(
        sft=tiny.sft, rlvr=tiny.rlvr, forget=tiny.forget, retain=tiny.retain, batch_size=batch_size, progress=False
    ).table
    scale = table["forget_grad_norm"].to_numpy()
    for column in NUMBERS:
        atol = 1e-5 if column.endswith("cosine") else 1e-5 * scale
        assert (np.abs(other[column] - table[column]) <= atol).all(), column


def test_token_mean_and_not_a_mean_of_means(tiny, tmp_path):
    """Solutions of very different length: dividing each by its own count would weigh tokens unevenly."""
    lines = tiny.forget.read_text().splitlines()[:2]
    long = lines[1].replace('"solution": "', '"solution": "' + "Nothing here is about numbers at all. " * 2)
    path = tmp_path / "uneven.jsonl"
    path.write_text(lines[0] + "\n" + long + "\n")
    table = m.couple(sft=tiny.sft, rlvr=tiny.rlvr, forget=path, batch_size=1, progress=False).table
    encoded = encode_file(path, tiny.rlvr)
    assert len(encoded[1][1]) > 2 * len(encoded[0][1])
    found = gradients(load_model(tiny.rlvr), encoded, projection_names())
    expected = [float(found[name].double().norm()) for name in table["name"]]
    assert np.allclose(table["forget_grad_norm"], expected, rtol=1e-5)
    means = [gradients(load_model(tiny.rlvr), [item], projection_names()) for item in encoded]
    wrong = [float((means[0][n] + means[1][n]).double().norm() / 2) for n in table["name"]]
    assert not np.allclose(table["forget_grad_norm"], wrong, rtol=1e-3)


def test_mean_gradients_leaves_the_model_as_it_was(tiny, oracle):
    model = load_model(tiny.rlvr)
    names = projection_names()[2:5]
    parameters = dict(model.named_parameters())
    parameters["model.norm.weight"].requires_grad_(False)
    parameters["model.embed_tokens.weight"].grad = torch.ones_like(parameters["model.embed_tokens.weight"])
    flags = {name: p.requires_grad for name, p in parameters.items()}
    values = {name: p.detach().clone() for name, p in parameters.items()}
    problems = encode_problems(read_problems(tiny.forget), load_tokenizer(tiny.rlvr))

    found = mean_gradients(model, problems, names, batch_size=4)

    assert list(found) == names
    for name in names:
        expected = oracle[name][0]
        error = np.abs(found[name].detach().double().numpy().ravel() - expected).max()
        assert error <= 1e-5 * np.linalg.norm(expected)
    assert {name: p.requires_grad for name, p in parameters.items()} == flags
    assert not model.training
    for name, p in parameters.items():
        assert torch.equal(p, values[name]), name
        if name == "model.embed_tokens.weight":
            assert torch.equal(p.grad, torch.ones_like(p))
        else:
            assert p.grad is None, name


def test_a_zero_increment_couples_to_nothing(tiny, tmp_path):
    import shutil

    from safetensors.torch import save_file

    name = "model.layers.1.self_attn.k_proj.weight"
    folder = tmp_path / "rlvr"
    shutil.copytree(tiny.rlvr, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = load_file(tiny.sft / "model.safetensors")[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    table = m.couple(sft=tiny.sft, rlvr=folder, forget=tiny.forget, progress=False).table.set_index("name")
    assert table.loc[name, "forget_inner"] == 0
    assert table.loc[name, "forget_cosine"] == 0
    assert table.loc[name, "forget_grad_norm"] > 0
    assert (table.drop(index=name)["forget_inner"] != 0).all()
