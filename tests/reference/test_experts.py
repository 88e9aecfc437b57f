"""Mixtures of experts: transformers stacks what the file has one by one, and every expert is measured and edited."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.models.gradients import mean_gradients
from mastlens.problems.encoding import EncodedProblem
from tests.conftest import write_problems, write_tokenizer
from tests.unit.test_architectures import CHANGES, write_model

KINDS = ("mixtral", "qwen3_moe", "deepseek_v3", "qwen3_5_moe_text")
PARTS = {"mixtral": ("w1", "w3", "w2")}


def parts(kind):
    return PARTS.get(kind, ("gate_proj", "up_proj", "down_proj"))


def is_expert(name):
    return ".experts." in name


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """SFT and RLVR of a mixture, in which RLVR changed experts and router alone, and a problem file."""
    root = tmp_path_factory.mktemp(request.param)
    sft = write_model(root / "sft", request.param, CHANGES[request.param] | {"vocab_size": 384})
    write_tokenizer(sft)
    rlvr = shutil.copytree(sft, root / "rlvr")
    torch.manual_seed(1)
    moved = {
        name: tensor + (0.1 if ".mlp." in name or "block_sparse_moe" in name else 1e-6) * torch.randn(tensor.shape)
        for name, tensor in load_file(sft / "model.safetensors").items()
    }
    save_file(moved, rlvr / "model.safetensors", {"format": "pt"})
    return request.param, sft, rlvr, write_problems(root / "p.jsonl", first=3, count=4)


def fused(folder, out):
    """Write a mixture as newer checkpoints have it: experts in stacks of three dimensions."""
    shutil.copytree(folder, out)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not is_expert(name)}
    stems = {name.partition(".experts.")[0] for name in tensors if is_expert(name)}
    for stem in stems:
        count = len(
            {name.split(".experts.")[1].split(".")[0] for name in tensors if name.startswith(f"{stem}.experts.")}
        )
        mine = [[tensors[f"{stem}.experts.{i}.{p}.weight"] for p in ("gate_proj", "up_proj")] for i in range(count)]
        kept[f"{stem}.experts.gate_up_proj"] = torch.stack([torch.cat(two) for two in mine])
        down = [tensors[f"{stem}.experts.{i}.down_proj.weight"] for i in range(count)]
        kept[f"{stem}.experts.down_proj"] = torch.stack(down)
    save_file(kept, out / "model.safetensors", {"format": "pt"})
    return out


def test_the_causal_map_counts_experts(pair, tmp_path):
    _, sft, rlvr, problems = pair
    groups = m.causal_map(sft=sft, rlvr=rlvr, forget=problems, progress=False).groups
    mean = {}
    for name, path in (("sft", sft), ("rlvr", rlvr)):
        table = m.evaluate(model=path, splits={"p": problems}, max_new_tokens=1, progress=False).table
        mean[name] = table["logprob_solution"].sum() / table["solution_tokens"].sum()
    effect = groups[groups["direction"] == "restore"].set_index("group")["forget_effect"]
    assert abs(mean["sft"] - mean["rlvr"]) > 0.01
    assert effect["mlp"] == pytest.approx(mean["sft"] - mean["rlvr"], abs=1e-3)
    assert abs(effect["attention"]) < 1e-3


def test_gradients_of_experts_are_those_of_their_place(pair):
    kind, _, rlvr, _ = pair
    checkpoint = Checkpoint(rlvr)
    model = checkpoint.load_model()
    encoded = [EncodedProblem((5, 6, 7), (8, 9, 10, 11)), EncodedProblem((12,), (13, 14))]
    names = [name for name in checkpoint.tensors if is_expert(name)]
    found = mean_gradients(model, encoded, names, batch_size=1)
    # By hand: autograd on the stacks, and the slices that they were made of.
    model.requires_grad_(True)
    total, count = 0.0, 0
    for one in encoded:
        ids = torch.tensor([[*one.prompt, *one.solution]])
        logprobs = model(ids).logits.float().log_softmax(-1)[0, len(one.prompt) - 1 : -1]
        total = total - logprobs.gather(1, ids[0, len(one.prompt) :, None]).sum()
        count += len(one.solution)
    (total / count).backward()
    stacks = {n: p.grad for n, p in model.named_parameters() if ".experts." in n}
    seen = 0
    for name in names:
        layer, rest = name.split(".layers.")[1].split(".", 1)
        expert, part = rest.split(".experts.")[1].removesuffix(".weight").split(".")
        place = parts(kind).index(part)
        stack = next(
            g
            for n, g in stacks.items()
            if f".{layer}." in n and n.endswith("down_proj" if place == 2 else "gate_up_proj")
        )
        matrix = stack[int(expert)]
        half = len(matrix) // 2
        expected = matrix if place == 2 else matrix[half * place : half * (place + 1)]
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)
        seen += bool(expected.abs().max() > 0)
    assert seen > len(names) / 4  # experts that no token is sent to have none


def test_unlearning_edits_the_experts_that_are_named_and_nothing_else(pair, tmp_path):
    kind, _, rlvr, problems = pair
    asked = {"forget": problems, "objective": "ga", "steps": 2, "lr": 1e-3, "progress": False}
    where = rf"experts\.[01]\.({'|'.join(parts(kind))})"
    edit = m.unlearn(rlvr=rlvr, where=where, **asked).edit
    checkpoint = Checkpoint(rlvr)
    assert edit.names and all(is_expert(name) for name in edit.names)
    m.apply_edit(edit, to=rlvr, out=tmp_path / "edited")
    edited = Checkpoint(tmp_path / "edited")
    changed = {n for n in checkpoint.tensors if not torch.equal(checkpoint.tensor(n), edited.tensor(n))}
    assert changed == set(edit.names)
    m.revert_edit(edit, source=tmp_path / "edited", out=tmp_path / "back")
    assert Checkpoint(tmp_path / "back").fingerprint == checkpoint.fingerprint


def test_stacks_and_single_experts_are_one_model(pair, tmp_path):
    kind, sft, rlvr, problems = pair
    if kind == "mixtral":
        pytest.skip("transformers has no stacked files of Mixtral")
    old, new = fused(sft, tmp_path / "sft"), fused(rlvr, tmp_path / "rlvr")
    ids = torch.arange(3, 23).reshape(2, 10)
    with torch.no_grad():
        assert torch.equal(Checkpoint(new).load_model()(ids).logits, Checkpoint(rlvr).load_model()(ids).logits)
    tables = [
        m.couple(sft=a, rlvr=b, forget=problems, where="experts", progress=False).table
        for a, b in ((sft, rlvr), (old, new))
    ]
    assert len(tables[0]) and len(tables[1])
    # The inner product of gradient and increment over all experts is one number, however they are stored.
    assert tables[0]["forget_inner"].sum() == pytest.approx(tables[1]["forget_inner"].sum(), rel=1e-4)
    edit = m.unlearn(
        rlvr=new, where=r"experts\.down_proj#1", forget=problems, objective="ga", steps=1, lr=1e-3, progress=False
    ).edit
    for name in edit.names:
        moved = (edit.after[name] != edit.before[name]).flatten(1).any(1)
        assert moved.tolist() == [False, True, False, False] or not moved.any()


def test_quantising_reaches_the_experts(pair):
    _, sft, rlvr, problems = pair
    found = m.attack(
        "quantise",
        model=rlvr,
        control=sft,
        splits={"p": problems},
        formats=["int8"],
        max_new_tokens=1,
        limit=2,
        progress=False,
    )
    assert set(found.table["variant"]) >= {"int8"}
    from mastlens.attacks.codes import linear_weights

    assert {name for name in Checkpoint(rlvr).tensors if is_expert(name)} <= set(linear_weights(Checkpoint(rlvr)))
