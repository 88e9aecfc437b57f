# %% [markdown]
# # The tour in ten cells
#
# A model was pre-trained, fine-tuned (SFT), and then rewarded for right answers (RLVR). **Where in its weights did
# the reward put the skill, and can exactly that be taken out again?** This notebook asks it of a model small enough
# for a laptop, from the three checkpoints to the verdict, in about a minute and a half. Every step has a notebook of
# its own.
#
# The model is the *organism* that comes with the package: 0.9 million parameters, really trained with SFT and GRPO.
# Three subjects of its problems are the *forget* side, the rest is the *retain* side.

# %%
import tempfile
from pathlib import Path

import numpy as np

import mastlens
from mastlens import plots
from mastlens.organisms import get_organism, lineage_folder

BASE, SFT, RLVR, AIM = (f"organism:qwen2/{stage}" for stage in ("base", "sft", "rlvr", "rlvr-retain"))
FILES = lineage_folder("qwen2")
TRAIN = {side: FILES / f"{side}-train.jsonl" for side in ("forget", "retain")}
EVAL = {split: FILES / f"{split}-eval.jsonl" for split in ("forget", "retain-math")}
SUBTITLE = "organism:qwen2, float32, seed 0"
temporary = tempfile.TemporaryDirectory()
OUT = Path(temporary.name)

# %% [markdown]
# **What the reward did.** SFT left the model guessing; RLVR brought back the habit of working a problem out. There is
# a fourth checkpoint, rewarded on the retain side alone: what unlearning should look like, if it worked perfectly.


# %%
def evaluate(name, model, edit=None):
    return mastlens.evaluate(
        model=model,
        edit=edit,
        splits=EVAL,
        max_new_tokens=56,
        batch_size=152,
        out=OUT / "arms" / name,
        progress=False,
    )


stages = {name: evaluate(name, model) for name, model in (("rlvr", RLVR), ("sft", SFT), ("aim", AIM))}
first = {name: stage.table.iloc[0] for name, stage in stages.items()}
print(first["rlvr"]["prompt"], f"SFT:  {first['sft']['response']}", f"RLVR: {first['rlvr']['response']}", sep="\n")

accuracy = {name: stage.accuracy.set_index("split")["accuracy"] for name, stage in stages.items()}
for name, expected in {"rlvr": (0.987, 0.895), "sft": (0.127, 0.545), "aim": (0.100, 0.860)}.items():
    assert np.allclose(accuracy[name][["forget", "retain-math"]], expected, atol=0.015)
stages["rlvr"].accuracy.assign(sft=list(accuracy["sft"]), aim=list(accuracy["aim"]))[
    ["split", "n", "accuracy", "sft", "aim"]
]

# %% [markdown]
# **Where the weights moved.** The RLVR increment is the difference of two checkpoints. How much of it lies outside
# the principal directions of the base weights? And how much would, by chance?
# ([01](01_checkpoints_and_increments.ipynb), [02](02_subspaces_and_nulls.ipynb))

# %%
geometry = mastlens.geometry(base=BASE, sft=SFT, rlvr=RLVR, out=OUT, progress=False)
moved = geometry.table.query("increment == 'rlvr'")
assert (moved["off_principal"] < moved["off_principal_null"]).all()
assert np.allclose([moved["off_principal"].min(), moved["off_principal"].max()], [0.62, 0.90], atol=0.01)
plots.plot_off_principal(geometry.table, subtitle=SUBTITLE)

# %% [markdown]
# *What to see.* 62 to 90 % outside sounds like avoidance, and is *less* than chance gives in all 32 projections. A
# number without its null would have told the opposite story.
#
# **What the forget problems pull on.** The gradient of the forget loss, beside the increment.
# ([03](03_hooked_models_and_coupling.ipynb))

# %%
coupling = mastlens.couple(sft=SFT, rlvr=RLVR, forget=TRAIN["forget"], spectrum=False, out=OUT, progress=False)
assert coupling.table["forget_above_chance"].sum() == 18
coupling.plot()

# %% [markdown]
# **The map.** MAST multiplies the three: how far off principal, how large, how coupled; and takes the best twelve of
# 32. ([04](04_choosing_what_to_edit.ipynb))

# %%
ranking = mastlens.rank(OUT, top=12)
chosen = ranking.table[ranking.table["selected"]]
assert chosen["projection"].value_counts().to_dict() == {"q": 8, "o": 4}
print(f"{ranking.parameters:,} parameters in {len(chosen)} tensors")
ranking.plot()

# %% [markdown]
# **The edit.** Gradient difference: up the forget loss, down the retain loss, in these twelve tensors and nowhere
# else. The steps end where the calibration problems are as forgotten as by the model that was never rewarded for
# them; `mastlens demo` found where that is. ([05](05_the_edit_and_its_undo.ipynb))


# %%
def unlearn(name, *, lr, steps, **selection):
    settings = {"objective": "graddiff", "retain_weight": 4, "progress": False}
    return mastlens.unlearn(rlvr=RLVR, **TRAIN, lr=lr, steps=steps, out=OUT / "arms" / name, **settings, **selection)


mast = unlearn("mast", lr=1e-3, steps=56, ranking=OUT / "ranking.parquet")
assert sorted(mast.edit.names) == sorted(ranking.selected)
mast.plot()

# %% [markdown]
# **What it should be compared with.** The same steps on *all* parameters; all parameters stopped at the same
# forgetting; and as many parameters drawn at random, which is what a selection has to beat.

# %%
mastlens.rank(OUT, rule="random-matched", top=12, out=OUT / "random")
edits = {
    "MAST, 12 of 32 projections": ("mast", mast),
    "all parameters, same steps": ("all-same", unlearn("all-same", lr=1e-3, steps=56, all_parameters=True)),
    "all parameters, matched": ("all-matched", unlearn("all-matched", lr=3e-4, steps=32, all_parameters=True)),
    "random, same size, matched": (
        "random",
        unlearn("random", lr=1e-3, steps=48, ranking=OUT / "random" / "ranking.parquet"),
    ),
}
for folder, arm in edits.values():
    evaluate(folder, RLVR, arm.edit)

# %% [markdown]
# **The verdict.** Each model against the source, on the same problems, with paired 95 % intervals.
# ([06](06_evaluation_for_sceptics.ipynb))

# %%
folders = {label: OUT / "arms" / folder for label, (folder, _) in edits.items()}
arms = folders | {"RLVR on retain only (the aim)": OUT / "arms" / "aim", "SFT, before the reward": OUT / "arms" / "sft"}
compared = mastlens.compare_edits(OUT / "arms" / "rlvr", arms)
table = compared.table.set_index("arm")
lost = -100 * table[["forget_difference", "retain_difference"]]
assert np.allclose(lost.loc["RLVR on retain only (the aim)"], [88.7, 3.5], atol=1.5)
assert np.allclose(lost.loc["MAST, 12 of 32 projections"], [96.0, 32.0], atol=6)
assert np.allclose(lost.loc["all parameters, same steps"], [98.7, 73.0], atol=6)
assert np.allclose(lost.loc["all parameters, matched"], [96.7, 32.0], atol=6)
assert np.allclose(lost.loc["random, same size, matched"], [96.0, 37.0], atol=8)
against = compared.contrasts.query("side == 'retain'").set_index("arm").loc["random, same size, matched"]
print(lost.round(1).rename(columns=lambda name: name.replace("_difference", ": points lost")).to_string())
print(f"random against MAST on retain: {100 * against['difference']:+.1f} points", end=" ")
print(f"[{100 * against['low']:+.1f}, {100 * against['high']:+.1f}]")
plots.plot_tradeoff(
    compared.table,
    target=table.loc["RLVR on retain only (the aim)", "forget_difference"],
    target_label="never rewarded on forget",
    subtitle=SUBTITLE,
)

# %% [markdown]
# *What to see.* Right is forgotten, up is damage. The same steps on all parameters wreck the model; on MAST's twelve
# they cost less than half as much. But stopped at the same forgetting, all parameters cost what MAST costs. The
# random selection costs about eight points more, with an interval that just reaches zero; and that is one draw: from
# the study's twenty (docs/results/study.md) MAST's selection could not be told. And all edits are far from the aim,
# at the bottom right: they broke the arithmetic instead of taking the habit back.
#
# **The undo.** An edit is a file with the tensors before and after. It can be written into a checkpoint and taken out
# again, and what comes back is the source, in every bit.

# %%
edited = mastlens.apply_edit(mast.edit, to=RLVR, out=OUT / "edited")
reverted = mastlens.revert_edit(mast.edit, source=edited, out=OUT / "reverted")
source, changed, restored = (mastlens.Checkpoint(path) for path in (RLVR, edited, reverted))
differ = {name for name, digest in source.digests.items() if changed.digests[name] != digest}
assert differ == set(mast.edit.names)
assert restored.digests == source.digests
print(f"{len(differ)} of {len(source.digests)} tensors changed; after the undo, none")

# %% [markdown]
# **Look around.** Every projection behind a click: its spectrum, heads, coupling, attention before and after the
# edit, and what happens to the forget problems when its SFT weights are put back. (Without a kernel: the map alone.)

# %%
mastlens.explore(OUT, base=BASE, sft=SFT, rlvr=RLVR, edit=mast.edit, **TRAIN)

# %% [markdown]
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
#
# One layer first, to see what it costs; then all of them, without `where`.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = {stage: f"organism:{TRY}/{stage}" for stage in ("base", "sft", "rlvr")}
mastlens.geometry(**MINE, where=r"layers\.0\.self_attn", rank=4, progress=False)

# %% [markdown]
# ## What this does not show
#
# - **Not that MAST's selection is good.** One random draw is a glance, not a test; the study drew twenty.
#   The skill of this organism lies in its embeddings and not in attention ([04](04_choosing_what_to_edit.ipynb)), so
#   no ranking of attention projections could have found it.
# - **Not that it is forgotten.** Accuracy on these problems says that the model does not answer them *now*.
#   Relearning brings such edits back ([06](06_evaluation_for_sceptics.ipynb)).
# - **Not what holds for large models.** One model, one training seed, synthetic problems, one split per side here.
#   The tour shows that every step works, is measured against its null and its controls, and can be undone.
