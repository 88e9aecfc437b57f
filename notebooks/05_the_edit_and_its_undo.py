# %% [markdown]
# # 05 The edit and its undo
#
# An edit changes tensors that were named beforehand, and no others. That sounds like nothing to write a notebook about,
# and it is where unlearning code goes wrong most quietly: weight decay shrinks tensors that were "frozen", an undo by
# subtraction rounds, a patch lands on a checkpoint that it was not made for. Then every measurement that follows is of
# something else than it says.
#
# So before we ask what an edit is worth, we make one, look at every bit that it touched, and take it out again.

# %%
import tempfile
from pathlib import Path

import pandas as pd
import torch

import mastlens
from mastlens.models.weights import swapped
from mastlens.organisms import get_organism, lineage_folder
from mastlens.plots import plot_accuracy

PROBLEMS = lineage_folder("qwen2")  # the organism's problem files
SFT = mastlens.Checkpoint("organism:qwen2/sft")
RLVR = mastlens.Checkpoint("organism:qwen2/rlvr")
workspace = tempfile.TemporaryDirectory()
out = Path(workspace.name)

# %% [markdown]
# ## Making one
#
# *Gradient difference* is the plainest objective: make the forget solutions less likely and the retain solutions more
# likely. Gradients exist for the selected matrices alone, here every attention projection; which ones to choose is the
# matter of [the notebook before](04_choosing_what_to_edit.ipynb). Problems for training are not those that anything is
# measured on.

# %%
run = mastlens.unlearn(
    rlvr=RLVR,
    forget=PROBLEMS / "forget-train.jsonl",
    retain=PROBLEMS / "retain-train.jsonl",
    objective="graddiff",
    where="self_attn",
    steps=40,
    lr=1e-4,
    seed=0,
    out=out / "run",
    progress=False,
)
edit = run.edit
start, end = run.table.iloc[:5].mean(), run.table.iloc[-5:].mean()
assert end["forget_loss"] < 4 * start["forget_loss"] < 0
print("mean of the first and of the last five steps, in nats a token")
print(f"forget term: {start['forget_loss']:.3f} and {end['forget_loss']:.3f}")
print(f"retain term: {start['retain_loss']:.3f} and {end['retain_loss']:.3f}")
run.plot()

# %% [markdown]
# What is minimised is the sum of two terms. The forget term is *minus* the loss on the forget batch, so that going down
# means unlikelier solutions, which was the aim; the retain term stays low, which was the condition. A loss is not yet a
# skill; that comes [next](06_evaluation_for_sceptics.ipynb).
#
# The edit itself holds each tensor twice, before and after. Read `relative_norm` first: how far a tensor moved,
# measured by its own length.

# %%
assert len(edit.names) == 32  # 8 layers of q, k, v and o
assert edit.table["relative_norm"].between(0.001, 0.1).all()
print(f"the 32 tensors moved by {edit.table['relative_norm'].min():.1%} to {edit.table['relative_norm'].max():.1%}")
edit.table.head(4)

# %% [markdown]
# ## Nothing else
#
# Was anything else touched? `apply_edit` writes a complete checkpoint, and every tensor has a digest: the SHA-256 of
# its bytes, with dtype and shape. Two lists of digests settle it, for the whole model and to the last bit.

# %%
edited = mastlens.Checkpoint(mastlens.apply_edit(edit, to=RLVR, out=out / "edited"))
changed = [name for name in RLVR.tensors if edited.digests[name] != RLVR.digests[name]]

assert set(edited.tensors) == set(RLVR.tensors)
assert sorted(changed) == sorted(edit.names)
print(f"{len(changed)} of {len(RLVR.tensors)} tensors differ: the {len(edit.names)} that the edit names")

# %% [markdown]
# The biases of q, k and v are among those that did not change: they stand in the same layers, and the selection speaks
# of weight matrices.
#
# ## Undo, the way it is usually written
#
# Add the change, and when done subtract it. In real numbers that is an undo. In floating point the sum was rounded, and
# what comes back is a neighbour of what was there. Below, each entry is edited and restored that way, with the change
# at full strength and at half strength, as task arithmetic does it.

# %%
rows = []
for dtype in (torch.float32, torch.bfloat16):
    for strength in (1.0, 0.5):
        wrong = total = 0
        for name in edit.names:
            before = edit.before[name].to(dtype)
            change = (strength * (edit.after[name] - edit.before[name])).to(dtype)
            wrong += int(((before + change) - change != before).sum())
            total += before.numel()
        rows.append((str(dtype), strength, wrong, wrong / total))
subtraction = pd.DataFrame(rows, columns=["dtype", "strength", "not what they were", "share"])
assert (subtraction["not what they were"] > 0).all()
subtraction.style.format({"strength": "{:.1f}", "not what they were": "{:,}", "share": "{:.1%}"}).hide()

# %% [markdown]
# Each of these entries is off by very little. But "the source again" is then no longer a fact that a hash can check.
#
# ## Undo from a copy, in memory
#
# `swapped` puts tensors into a model and, on leaving, writes back copies that it took before: also when something goes
# wrong inside. Something does.

# %%
model, tokenizer = RLVR.load_model(), RLVR.load_tokenizer()
PROMPT = "Write the base 9 numeral 61 in base ten, add 9 and take away 9.\n"
tokens = tokenizer(PROMPT, return_tensors="pt").input_ids


def logits():
    """The model's logits for the prompt."""
    with torch.no_grad():
        return model(tokens).logits


# %%
before, inside = logits(), None
try:
    with swapped(model, edit.after):
        inside = logits()
        raise RuntimeError("out of memory, say")
except RuntimeError:
    after = logits()

assert not torch.equal(inside, before)
assert torch.equal(after, before)
print(f"largest change of a logit inside: {(inside - before).abs().max():.2f}")
print(f"and afterwards: {(after - before).abs().max()}")

# %% [markdown]
# ## Undo on disk
#
# `revert_edit` takes the edit out of a checkpoint that holds it. The *fingerprint* is one hash over all tensors; equal
# fingerprints mean equal models.

# %%
restored = mastlens.Checkpoint(mastlens.revert_edit(edit, source=edited, out=out / "restored"))
assert edited.fingerprint != RLVR.fingerprint
assert restored.fingerprint == RLVR.fingerprint
pd.DataFrame(
    [("source", RLVR), ("edited", edited), ("restored", restored)], columns=["checkpoint", "fingerprint"]
).assign(fingerprint=lambda table: [checkpoint.fingerprint[:16] for checkpoint in table["fingerprint"]])

# %% [markdown]
# ## A file that defends itself
#
# An edit travels as one file: the tensors before and after, the hash of each, the fingerprint of the checkpoint that
# they belong to, and how they were made. It refuses what it does not fit. We flip one bit of it, and then try it on
# another checkpoint.

# %%
patch = edit.save(out / "patch.safetensors")
assert mastlens.Edit.load(patch).sha256 == edit.sha256

bytes_of_it = bytearray(patch.read_bytes())
bytes_of_it[-1] ^= 1
(out / "damaged.safetensors").write_bytes(bytes_of_it)

refusals = []
for attempt in (
    lambda: mastlens.Edit.load(out / "damaged.safetensors"),
    lambda: mastlens.apply_edit(edit, to=SFT, out=out / "elsewhere"),
):
    try:
        attempt()
    except mastlens.MastlensError as refusal:
        refusals.append(str(refusal).replace(str(out), "…"))

assert len(refusals) == 2
assert not (out / "elsewhere").exists()
print("\n\n".join(refusals))

# %% [markdown]
# ## Half an edit
#
# An edit is an object that one can calculate with. `scale` goes part of the way, and at 1 it is the edit itself. Is
# half of the way half of the forgetting? The calibration problems answer; they are the ones to choose on.

# %%
SPLITS = {name: PROBLEMS / f"{name}-calibration.jsonl" for name in ("forget", "retain-math")}
SCALES = (0.0, 0.5, 0.75, 1.0)

assert all(torch.equal(edit.scale(1.0).after[name], edit.after[name]) for name in edit.names)
measured = []
for scale in SCALES:
    part = edit.scale(scale) if scale else None
    evaluation = mastlens.evaluate(
        model=RLVR, edit=part, splits=SPLITS, max_new_tokens=56, batch_size=150, progress=False
    )
    measured.append(evaluation.accuracy.assign(arm=f"{scale:.0%} of the edit", scale=scale))
doses = pd.concat(measured, ignore_index=True)
plot_accuracy(doses, title="The edit by parts: what is left at each share of the way")

# %% [markdown]
# Each point is an accuracy with its 95 % interval, one row for each share of the way. Forgetting keeps step with the
# way, more or less; the price does not. Here is what each half took from either split.

# %%
accuracy = doses.pivot(index="scale", columns="split", values="accuracy")
steps = -accuracy.loc[[0.0, 0.5, 1.0]].diff().iloc[1:]
halves = steps.set_axis(["first half", "second half"]).T
assert 0.25 < halves.loc["forget", "first half"] / halves.loc["forget"].sum() < 0.75
assert halves.loc["retain-math", "first half"] < halves.loc["retain-math", "second half"]
(100 * halves).round(1).add_suffix(", points lost")

# %% [markdown]
# The first half is the cheap one: a weaker edit can be the better bargain, and choosing a scale costs no training.

# %% [markdown]
# ## Two edits in one
#
# `compose` joins edits of different tensors, or an edit and one that was made on top of it. We check it on something
# whose answer is known. `negate` takes RLVR back where it is told to; taken back in the lower and in the
# upper layers, it must be taken back in both. And taken back *everywhere*, norms and biases included, the model must be
# the SFT checkpoint, in every bit.

# %%
lineage = {"sft": SFT, "rlvr": RLVR, "progress": False}
lower = mastlens.negate(where=r"layers\.[0-3]\.", **lineage)
upper = mastlens.negate(where=r"layers\.[4-7]\.", **lineage)
both, joined = mastlens.negate(where=r"layers\.", **lineage), lower.compose(upper)
assert sorted(joined.names) == sorted(both.names)
assert all(torch.equal(joined.after[name], both.after[name]) for name in both.names)

everything = mastlens.negate(everything=True, **lineage)
returned = mastlens.Checkpoint(mastlens.apply_edit(everything, to=RLVR, out=out / "returned"))
assert returned.fingerprint == SFT.fingerprint
print(f"{len(lower.names)} + {len(upper.names)} = {len(joined.names)} tensors")
print("everything taken back: the SFT checkpoint, bit for bit")

# %% [markdown]
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
#
# Two steps on one matrix, to see that it fits into memory.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = {"rlvr": f"organism:{TRY}/rlvr"}
ASKED = {"forget": lineage_folder(TRY) / "forget-train.jsonl", "where": r"layers\.0\..*v_proj"}
mastlens.unlearn(**MINE, **ASKED, objective="ga", batch_size=2, steps=2, lr=1e-4, progress=False)

# %% [markdown]
# ## What this does not show
#
# - **That anything was forgotten.** Accuracy fell; whether the skill is gone or only harder to reach is another
#   question, and [the next notebook](06_evaluation_for_sceptics.ipynb) asks it.
# - **That the undo of a *deployed* edit is private.** The patch holds the original tensors: who has it can restore what
#   was taken out, which is what it is for.
# - **That the shape of the dose curve is general.** It is one edit, one seed, one small model. What does hold for any
#   model is what was checked bit by bit: what changed, what did not, and that it comes back.
