"""Unlearning against a plain loop; what must stay stays bit for bit; undo is exact; equal runs are equal bytes."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mastlens as m
from mastlens.models.weights import swapped
from mastlens.problems.encoding import encode_problems
from mastlens.problems.reading import read_problems
from mastlens.unlearning import unlearning_steps
from mastlens.unlearning.loop import batch_schedule, make_edit
from mastlens.unlearning.objectives import make_objective

from ..conftest import write_lineage
from . import plain

STEPS = 4
LR = 2e-3
BATCH = 5  # does not divide the 12 forget problems: a pass ends inside a batch
SELECTED = [
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.1.self_attn.o_proj.weight",
]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def assert_only(folder, before, changed):
    after = weights_of(folder)
    assert set(after) == set(before)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert (bits(after[name]) != bits(tensor)) == (name in changed), name


def oracle_loss(objective, model, forget, coefficients):
    """Return the forget loss as a function of sums, counts and item numbers."""
    with torch.no_grad():
        reference = [plain.logprob(model, *item) for item in forget]

    def loss(sums, counts, items):
        if objective in ("ga", "graddiff"):
            return sum(sums) / sum(counts)
        if objective == "npo":
            return plain.npo_loss(sums, [reference[i] for i in items], coefficients.get("beta", 0.1))
        return plain.simnpo_loss(sums, counts, coefficients.get("beta", 4.5), coefficients.get("delta", 0.0))

    return loss


def oracle_run(
    tiny, objective, *, names=SELECTED, retain=False, weight=1.0, seed=0, steps=STEPS, lr=LR, **coefficients
):
    model = plain.load_model(tiny.rlvr)
    forget, kept = (plain.encode_file(path, tiny.rlvr) for path in (tiny.forget, tiny.retain))
    losses = plain.unlearn(
        model,
        names,
        forget,
        batch_schedule(len(forget), BATCH, steps, seed, 0),
        oracle_loss(objective, model, forget, coefficients),
        lr=lr,
        retain=kept if retain else None,
        retain_schedule=batch_schedule(len(kept), BATCH, steps, seed, 1),
        weight=weight,
    )
    return {name: p.detach() for name, p in model.named_parameters()}, losses


def run(tiny, objective="ga", *, retain=False, **changes):
    settings = {"steps": STEPS, "lr": LR, "batch_size": BATCH, "progress": False} | changes
    if not {"ranking", "where", "all_parameters"} & set(settings):
        settings.setdefault("names", SELECTED)
    if retain:
        settings["retain"] = tiny.retain
    return m.unlearn(rlvr=tiny.rlvr, forget=tiny.forget, objective=objective, **settings)


@pytest.mark.parametrize(
    ("objective", "retain", "weight", "coefficients"),
    [
        ("ga", False, 1.0, {}),
        ("ga", True, 1.0, {}),
        ("graddiff", True, 0.5, {}),
        ("npo", False, 1.0, {"beta": 0.5}),
        ("npo", True, 2.0, {}),
        ("simnpo", False, 1.0, {"beta": 0.3, "delta": 0.1}),  # at 2.5 the sigmoid is saturated here
    ],
)
def test_agrees_with_a_plain_loop(tiny, objective, retain, weight, coefficients):
    expected, losses = oracle_run(tiny, objective, retain=retain, weight=weight, **coefficients)
    extra = {"retain_weight": weight} if retain else {}
    found = run(tiny, objective, retain=retain, **extra, **coefficients)
    assert set(found.edit.after) == set(SELECTED)
    before = weights_of(tiny.rlvr)
    for name in SELECTED:
        assert bits(found.edit.before[name]) == bits(before[name])
        moved = (expected[name] - before[name]).norm()
        error = (found.edit.after[name] - expected[name]).norm()
        assert float(error) <= 1e-3 * float(moved), name  # AdamW divides by |g|, so rounding is not damped
        assert float(moved) > 0.5 * LR * STEPS * 10  # and it did move
    assert found.table["forget_loss"].tolist() == pytest.approx(losses, rel=1e-4, abs=1e-5)
    assert found.table["step"].tolist() == list(range(1, STEPS + 1))
    assert {"retain_loss", "grad_norm"} <= set(found.table.columns)
    assert found.table["retain_loss"].isna().all() != retain


def test_gamma_weighs_the_forget_term(tiny):
    expected, _ = oracle_run(tiny, "simnpo", retain=True, weight=8.0, beta=0.1)
    found = run(tiny, "simnpo", retain=True, preset="open-unlearning", beta=0.1)
    # gamma 1/8 and alpha 1 is gamma 1 and alpha 8 scaled down, and Adam is all but blind to scale: the direction
    # must be that of alpha 8 and not that of alpha 1.
    other, _ = oracle_run(tiny, "simnpo", retain=True, weight=1.0, beta=0.1)
    distance = [
        sum(float((found.edit.after[n] - reference[n]).norm()) for n in SELECTED) for reference in (expected, other)
    ]
    assert distance[0] < 0.5 * distance[1]


def test_clip_at_one_shows_in_a_short_run(tiny):
    """Norms vary around 1 between steps here, so that Adam's moments see whether they were clipped."""
    found = run(tiny, "npo", steps=3)
    assert found.table["grad_norm"].max() > 1.0
    expected, _ = oracle_run(tiny, "npo", steps=3)
    for name in SELECTED:
        moved = (expected[name] - found.edit.before[name]).norm()
        assert float((found.edit.after[name] - expected[name]).norm()) <= 1e-3 * float(moved)


def test_the_schedule_is_of_the_seed_alone_and_fair():
    schedule = batch_schedule(12, 5, 12, 0, 0)
    assert schedule == batch_schedule(12, 5, 12, 0, 0)
    assert schedule != batch_schedule(12, 5, 12, 1, 0)
    assert schedule != batch_schedule(12, 5, 12, 0, 1)
    assert batch_schedule(12, 5, 6, 0, 0) == schedule[:6]  # a longer run starts like the shorter one
    assert [len(batch) for batch in schedule] == [5] * 12
    flat = [item for batch in schedule for item in batch]
    for start in range(0, 60, 12):
        assert sorted(flat[start : start + 12]) == list(range(12))  # whole passes: no problem twice in one
    assert all(len(set(batch)) <= 5 and set(batch) <= set(range(12)) for batch in schedule)


def test_no_retain_batch_depends_on_the_forget_set():
    assert batch_schedule(10, 4, 8, 3, 1) == batch_schedule(10, 4, 8, 3, 1)
    assert sorted(i for b in batch_schedule(3, 8, 2, 0, 0) for i in b)  # fewer problems than a batch still works


@pytest.mark.parametrize("retain", [False, True])
def test_only_selected_tensors_change_in_the_folder(tiny, tmp_path, retain):
    source = {p.name: p.read_bytes() for p in tiny.rlvr.iterdir()}
    made = run(tiny, "npo", retain=retain, out=tmp_path / "run")
    folder = m.apply_edit(tmp_path / "run" / "edit.safetensors", to=tiny.rlvr, out=tmp_path / "edited")
    assert_only(folder, weights_of(tiny.rlvr), set(SELECTED))
    assert made.edit.names == sorted(SELECTED)
    assert {p.name: p.read_bytes() for p in tiny.rlvr.iterdir()} == source  # the source is never written to
    model = plain.load_model(folder)  # and the folder loads with plain transformers
    for name in SELECTED:
        assert bits(dict(model.named_parameters())[name]) == bits(made.edit.after[name])


def test_all_parameters_changes_matrices_and_nothing_else(tiny, tmp_path):
    before = weights_of(tiny.rlvr)
    matrices = {name for name, tensor in before.items() if tensor.dim() == 2}
    assert {n for n in before if n.endswith("bias")} and not any(n.endswith("bias") for n in matrices)
    made = run(tiny, all_parameters=True)
    assert set(made.edit.after) == matrices
    folder = m.apply_edit(made.edit, to=tiny.rlvr, out=tmp_path / "edited")
    assert_only(folder, before, matrices)
    # A tied head is one tensor: the edit moves both uses of it, and the plain loop agrees.
    expected, _ = oracle_run(tiny, "ga", names=sorted(matrices))
    for name in matrices:
        moved = float((expected[name] - before[name]).norm())
        assert float((made.edit.after[name] - expected[name]).norm()) <= 2e-3 * moved, name


def test_where_selects_weight_matrices_only(tiny):
    made = run(tiny, where=r"layers\.1\.self_attn\.[qk]_proj")
    assert made.edit.names == [
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
    ]


def test_in_memory_nothing_else_moves_and_undo_is_exact(tiny):
    model = plain.load_model(tiny.rlvr)
    start = {name: bits(p) for name, p in model.named_parameters()}
    problems = encode_problems(read_problems(tiny.forget), plain.load_tokenizer(tiny.rlvr))
    steps = unlearning_steps(model, SELECTED, make_objective("ga"), problems, lr=LR, steps=2, batch_size=BATCH)
    assert [s.step for s in steps] == [1, 2]
    for name, p in model.named_parameters():
        assert (bits(p) != start[name]) == (name in SELECTED), name


def test_swapped_is_exact_and_also_after_an_exception(tiny):
    edit = run(tiny).edit
    model = plain.load_model(tiny.rlvr)
    start = {name: bits(p) for name, p in model.named_parameters()}
    storage = {name: p.data_ptr() for name, p in model.named_parameters()}

    with swapped(model, edit.after):
        for name, p in model.named_parameters():
            assert bits(p) == (bits(edit.after[name]) if name in SELECTED else start[name])
    assert {name: bits(p) for name, p in model.named_parameters()} == start

    def stop():
        with swapped(model, edit.after), torch.no_grad():
            dict(model.named_parameters())[SELECTED[0]].zero_()  # what happens inside does not outlive it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert {name: bits(p) for name, p in model.named_parameters()} == start
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == storage  # in place, no second model


def test_swapped_nests_and_refuses_an_unknown_name(tiny):
    edit = run(tiny).edit
    model = plain.load_model(tiny.rlvr)
    start = {name: bits(p) for name, p in model.named_parameters()}
    with swapped(model, edit.after):
        with swapped(model, edit.before):
            assert {name: bits(p) for name, p in model.named_parameters()} == start
        assert bits(dict(model.named_parameters())[SELECTED[0]]) == bits(edit.after[SELECTED[0]])
    with pytest.raises(m.MastlensError), swapped(model, {**edit.after, "model.no.such.weight": torch.zeros(2)}):
        pass
    assert {name: bits(p) for name, p in model.named_parameters()} == start


def test_undo_through_a_patch_file_and_folders(tiny, tmp_path):
    run(tiny, "npo", out=tmp_path / "run")
    patch = tmp_path / "run" / "edit.safetensors"
    edited = m.apply_edit(patch, to=tiny.rlvr, out=tmp_path / "edited")
    reverted = m.revert_edit(patch, source=edited, out=tmp_path / "reverted")
    before = weights_of(tiny.rlvr)
    assert_only(edited, before, set(SELECTED))
    assert_only(reverted, before, set())
    assert m.Checkpoint(reverted).fingerprint == m.Checkpoint(tiny.rlvr).fingerprint
    assert m.Checkpoint(edited).fingerprint != m.Checkpoint(tiny.rlvr).fingerprint
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        for folder in (edited, reverted):
            assert (folder / name).read_bytes() == (tiny.rlvr / name).read_bytes(), name


@pytest.mark.parametrize("layout", ["shards", "pickled", "pickled shards"])
def test_export_from_every_layout(tiny, tmp_path, layout):
    """Whatever the source's files, the export loads with plain transformers and holds the edit and nothing else."""
    folder = shutil.copytree(tiny.rlvr, tmp_path / "source")
    before = weights_of(folder)
    (folder / "model.safetensors").unlink()
    suffix = "bin" if "pickled" in layout else "safetensors"
    stem = "pytorch_model" if "pickled" in layout else "model"
    write = torch.save if "pickled" in layout else save_file
    if "shards" in layout:
        names = sorted(before)
        parts = {f"{stem}-{i:05d}-of-00002.{suffix}": names[i - 1 :: 2] for i in (1, 2)}
        for file, keys in parts.items():
            write({key: before[key] for key in keys}, folder / file)
        index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    else:
        write(before, folder / f"{stem}.{suffix}")
    edit = run(tiny).edit

    edited = m.apply_edit(edit, to=folder, out=tmp_path / "edited")
    reverted = m.revert_edit(edit, source=edited, out=tmp_path / "reverted")

    for made, changed in ((edited, edit.after), (reverted, {})):
        assert not list(made.glob("*.bin*"))
        found = dict(plain.load_model(made).named_parameters())
        assert set(found) == set(before)
        for name, tensor in before.items():
            assert bits(found[name]) == bits(changed.get(name, tensor)), name
    assert m.Checkpoint(reverted).fingerprint == m.Checkpoint(tiny.rlvr).fingerprint


def test_an_edit_is_its_own_memory(tiny):
    """What happens to the model afterwards must not reach the edit."""
    model = m.Checkpoint(tiny.rlvr).load_model()
    with torch.no_grad():
        for name in SELECTED:
            model.get_parameter(name).add_(0.25)
    edit, _ = make_edit(m.Checkpoint(tiny.rlvr), model, SELECTED, {})
    before = weights_of(tiny.rlvr)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for name in SELECTED:
        assert bits(edit.before[name]) == bits(before[name])
        assert torch.equal(edit.after[name], before[name] + 0.25)


def test_the_patch_holds_what_the_contract_says(tiny, tmp_path):
    made = run(tiny, out=tmp_path)
    with safe_open(tmp_path / "edit.safetensors", "pt") as file:
        keys = set(file.keys())
        assert keys == {f"{side}/{name}" for side in ("before", "after") for name in SELECTED}
        text = " ".join(f"{k} {v}" for k, v in file.metadata().items())
    assert m.Checkpoint(tiny.rlvr).fingerprint in text
    for word in (*SELECTED, "seed", "lr", "steps", "objective"):
        assert word in text
    read = m.Edit.load(tmp_path / "edit.safetensors")
    assert read.source == made.edit.source == m.Checkpoint(tiny.rlvr).fingerprint
    assert {n: bits(t) for n, t in read.after.items()} == {n: bits(t) for n, t in made.edit.after.items()}
    assert made.edit.save(tmp_path / "again.safetensors").read_bytes() == (tmp_path / "edit.safetensors").read_bytes()


def test_the_hashes_in_the_patch_are_of_the_tensors_bytes(tiny, tmp_path):
    """Whoever holds only the file can check it: SHA-256 of what is stored, in row-major order."""
    run(tiny, out=tmp_path)
    with safe_open(tmp_path / "edit.safetensors", "pt") as file:
        text = " ".join(file.metadata().values())
        hashes = {key: hashlib.sha256(bits(file.get_tensor(key))).hexdigest() for key in file.keys()}  # noqa: SIM118
    assert [key for key, value in hashes.items() if value not in text] == []


FILES = [
    "geometry.parquet", "coupling.parquet", "ranking.parquet", "edit.safetensors", "steps.parquet",
    "eval/responses.parquet", "eval/accuracy.json",
]  # fmt: skip


def whole_chain(tiny, out, seed=0):
    m.geometry(base=tiny.base, sft=tiny.sft, rlvr=tiny.rlvr, rank=4, full=True, out=out, progress=False)
    m.couple(sft=tiny.sft, rlvr=tiny.rlvr, forget=tiny.forget, retain=tiny.retain, out=out, progress=False)
    m.rank(out, top=3)
    m.unlearn(
        rlvr=tiny.rlvr, forget=tiny.forget, retain=tiny.retain, objective="npo", steps=3, lr=LR, batch_size=4,
        ranking=out / "ranking.parquet", seed=seed, out=out, progress=False,
    )  # fmt: skip
    m.evaluate(
        model=tiny.rlvr, edit=out / "edit.safetensors", splits={"forget": tiny.forget}, max_new_tokens=4,
        out=out / "eval", progress=False,
    )  # fmt: skip
    return {name: (out / name).read_bytes() for name in FILES}


def test_two_runs_of_one_seed_are_byte_identical_and_another_seed_differs(tiny, tmp_path):
    first = whole_chain(tiny, tmp_path / "first")
    again = whole_chain(tiny, tmp_path / "again")
    assert {name for name in FILES if first[name] != again[name]} == set()
    other = whole_chain(tiny, tmp_path / "other", seed=1)
    differing = {name for name in FILES if first[name] != other[name]}
    assert {"edit.safetensors", "steps.parquet", "eval/responses.parquet"} <= differing
    assert not {"geometry.parquet", "coupling.parquet", "ranking.parquet"} & differing


@pytest.fixture(scope="module")
def bf16(tmp_path_factory):
    return write_lineage(tmp_path_factory.mktemp("bf16"), dtype="bfloat16")


def test_bfloat16_is_edited_in_float32_and_rounded_once(bf16, tmp_path):
    """Steps far below half a bfloat16 step add up before they are rounded; rounded each time they would vanish."""
    lr, steps = 1.5e-4, 6
    made = m.unlearn(
        rlvr=bf16.rlvr, forget=bf16.forget, objective="ga", steps=steps, lr=lr, batch_size=BATCH, names=SELECTED,
        progress=False,
    )  # fmt: skip
    before = weights_of(bf16.rlvr)
    expected, _ = oracle_run(bf16, "ga", steps=steps, lr=lr)
    moved = swallowed = 0
    for name in SELECTED:
        assert before[name].dtype == made.edit.after[name].dtype == torch.bfloat16
        once = expected[name].bfloat16()
        equal = (made.edit.after[name] == once).double().mean()
        assert float(equal) > 0.995, name  # but for entries that lie on the edge of two roundings
        large = before[name].abs() >= 0.125  # their step is 2^-10 = 9.8e-4: one update of 1.5e-4 cannot show
        assert bool((made.edit.after[name] != before[name])[large].any())
        changed = expected[name] != before[name].float()
        moved += int(changed.sum())
        swallowed += int((changed & (once == before[name])).sum())
    assert made.swallowed == pytest.approx(swallowed / moved, abs=0.01)
    assert 0 < made.swallowed < 1

    edited = m.apply_edit(made.edit, to=bf16.rlvr, out=tmp_path / "edited")
    assert_only(edited, before, set(SELECTED))
    reverted = m.revert_edit(made.edit, source=edited, out=tmp_path / "reverted")
    assert_only(reverted, before, set())


def test_a_step_that_rounding_swallows_is_no_edit(bf16):
    """A tensor that comes back as it was is not in the patch, and the share swallowed says why."""
    with pytest.warns(m.MastlensWarning, match=r"100% of the selected entries .*bfloat16"):
        made = m.unlearn(
            rlvr=bf16.rlvr, forget=bf16.forget, objective="ga", steps=1, lr=1e-12, names=SELECTED, progress=False
        )
    assert set(made.edit.after) == set() or made.swallowed > 0.999
    assert made.swallowed > 0.99


def test_the_seed_reaches_the_table(tiny):
    first, again, other = (run(tiny, seed=seed).table for seed in (0, 0, 1))
    assert first.equals(again)
    assert not np.allclose(first["forget_loss"], other["forget_loss"])
