# %% [markdown]
# # 01 Checkpoints and increments
#
# Reinforcement learning does not make a model, it moves one. Whatever it wrote into the weights is the difference of
# two files,
#
# $$D = W_\text{RLVR} - W_\text{SFT},$$
#
# the *increment*. Everything else in this package asks questions about $D$: where it lies, what it points at, what
# happens without it. So the first question is a humble one: do we have it right, and how large is it?
#
# We use the organism that comes with the package, a model of 0.9 million parameters that was really trained, base →
# SFT → RLVR. Put your own paths in its place and the cells stay as they are.

# %%
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

import mastlens
from mastlens import plots
from mastlens.organisms import get_organism
from mastlens.plots.template import NAME as TEMPLATE

BASE, SFT, RLVR = (f"organism:qwen2/{stage}" for stage in ("base", "sft", "rlvr"))

# %% [markdown]
# ## What a checkpoint holds
#
# Opening a checkpoint reads its configuration and the headers of its weight files, no weights. `inspect` lists every
# attention projection under the name that the file has for it, as a matrix (out, in). These names are the only
# coordinates here: no library's own view folds or renames anything.

# %%
inspection = mastlens.inspect(RLVR)
summary = inspection.summary
assert len(inspection.table) == 32  # 8 layers of q, k, v and o
assert (summary["parameters"], summary["attention_parameters"]) == (875_616, 221_184)
print(f"{summary['attention_parameters'] / summary['parameters']:.1%} of the parameters are attention projections")
inspection.table.head(4)

# %% [markdown]
# k and v are half as tall as q: this model groups its queries, two heads of q reading each head of k and v.
#
# ## Three checkpoints, two increments
#
# A `Lineage` is three checkpoints that belong together, and it checks that they do: the same architecture, the same
# shapes, related values, not twice the same file. A subtraction never complains, whatever is subtracted from what.

# %%
lineage = mastlens.Lineage.open(RLVR, sft=SFT, base=BASE)
assert list(lineage.increments) == ["sft", "rlvr"]

try:
    mastlens.Lineage.open(RLVR, sft=RLVR, base=BASE)
except mastlens.MastlensError as error:
    print(error)

# %% [markdown]
# ## One increment by hand
#
# Tensors are read from disk one at a time, so a model never has to fit into memory. Here is the query projection of
# the first layer.

# %%
before, after = lineage.increments["rlvr"]
projection = after.projections[0]
weight = before.matrix(projection)
increment = after.matrix(projection) - weight
relative = float(increment.norm() / weight.norm())
print(f"{projection.name}: |D| = {increment.norm():.4f}, |D| / |W| = {relative:.2%}")

# %% [markdown]
# `geometry` does that for every projection and both increments, and measures much more, which is the matter of
# [the next notebook](02_subspaces_and_nulls.ipynb). Where both have something to say, they agree.

# %%
geometry = mastlens.geometry(rlvr=RLVR, sft=SFT, base=BASE, spectra=True, progress=False)
rlvr = geometry.table.query("increment == 'rlvr'").set_index("name")
assert np.isclose(rlvr.loc[projection.name, "delta_norm"], float(increment.norm()), rtol=1e-6)
assert np.isclose(rlvr.loc[projection.name, "relative_norm"], relative, rtol=1e-6)
plots.plot_increment_magnitude(geometry.table, subtitle="organism:qwen2, float32")

# %% [markdown]
# *What to see.* Left and right share their colours. Above, q and o look large because they *are* large; below, size
# is divided out: v and o of the first layer moved most and the last layers' v least. The two halves are alike: SFT
# moved every projection further, and RLVR did nearly the same on a smaller scale. Nothing stands out as the place
# where the reward went. Whatever singles a projection out must be something else than size.

# %%
norms = geometry.table.pivot(index="name", columns="increment", values="delta_norm")
ratio = (norms["rlvr"] / norms["sft"]).median()
assert (norms["sft"] > norms["rlvr"]).all()
assert np.isclose(ratio, 0.78, atol=0.01)
medians = geometry.table.groupby("increment")["relative_norm"].median()
assert np.allclose(medians[["sft", "rlvr"]], [0.0378, 0.0288], atol=5e-4)
relative_norms = geometry.table.pivot(index="name", columns="increment", values="relative_norm")
alike = relative_norms["sft"].corr(relative_norms["rlvr"])
assert alike > 0.9
print(f"RLVR moved the median projection {ratio:.2f} times as far as SFT")
print(f"median |D| / |W|: SFT {medians['sft']:.1%}, RLVR {medians['rlvr']:.1%}; correlation of the two {alike:.2f}")

# %% [markdown]
# ## Few directions
#
# A matrix of 96 by 96 can move in 96 independent directions. Their lengths are the singular values of $D$. Training
# that is driven by few reasons moves along few directions, and the *stable rank*, the squared Frobenius norm over the
# square of the largest singular value, counts them softly.

# %%
stable = (
    rlvr["delta_norm"]
    / geometry.spectra.query("increment == 'rlvr' and index == 1").set_index("name")["singular_value"]
) ** 2
random = torch.randn(96, 96, generator=torch.Generator().manual_seed(0))
random_rank = float((random.norm() / torch.linalg.matrix_norm(random, 2)) ** 2)
assert np.isclose(stable.median(), 4.72, atol=0.02)
assert random_rank > 4 * stable.median()
print(f"stable rank: {stable.median():.1f} in the median of RLVR's increments, {random_rank:.1f} in a random matrix")
plots.plot_spectra(geometry.spectra, subtitle="organism:qwen2, float32")

# %% [markdown]
# *What to see.* Each line falls fast: a few directions stand out, then comes a long tail. The tail is not rounding
# noise, whose floor lies far below: these checkpoints are float32.
#
# ## The precision trap
#
# Most published checkpoints are bfloat16, with eight bits to a number. Two neighbouring bfloat16 numbers lie up to
# 0.8 % apart, and a real RLVR run can move the weights by less than that. What happens to the increment then? We
# shrink ours, store both ends as bfloat16, subtract, and compare with the truth.

# %%
rows = []
for shrink in np.geomspace(1, 1e-3, 13):
    stored = (weight + shrink * increment).bfloat16().float() - weight.bfloat16().float()
    cosine = torch.cosine_similarity(stored.flatten(), increment.flatten(), dim=0)
    rows.append(
        {
            "relative_norm": shrink * relative,
            "entries that changed": float((stored != 0).float().mean()),
            "cosine with the truth": float(cosine),
            "measured norm / true norm": float(stored.norm() / (shrink * increment.norm())),
        }
    )
trap = pd.DataFrame(rows).set_index("relative_norm")
assert trap["cosine with the truth"].iloc[0] > 0.99
at_3e4 = trap.iloc[(trap.index.to_series() - 3e-4).abs().argmin()]
assert at_3e4["cosine with the truth"] < 0.35
assert at_3e4["measured norm / true norm"] > 3
trap.iloc[[0, 4, 8, 12]].round(3)

# %%
figure = go.Figure()
for column in ("entries that changed", "cosine with the truth"):
    figure.add_scatter(x=trap.index, y=trap[column], name=column, mode="lines+markers")
figure.update_layout(
    template=TEMPLATE,
    title="What bfloat16 leaves of an increment",
    xaxis={"title": {"text": "true size of the increment, |D| / |W|"}, "type": "log"},
    yaxis={"title": {"text": "share, or cosine"}, "range": [0, 1.05]},
    legend={"orientation": "h", "y": 1.1},
    height=380,
)

# %% [markdown]
# *What to see.* At the organism's own size (right) bfloat16 costs nothing worth mentioning. At a hundredth of it, one
# entry in seven moves at all; those that do move jump by a whole step. The increment that one reads is then more than
# three times too *long* and points elsewhere. "RLVR updates are sparse" is in part a statement about the file format.
#
# That is why increments are taken in float32, why the table has a `precision_floor` beside every norm, the norm that
# rounding alone would give, and why a `note` marks what lies below it. Here nothing does.

# %%
assert (geometry.table["note"] == "").all()
assert (geometry.table["delta_norm"] > 1e5 * geometry.table["precision_floor"]).all()

# %% [markdown]
# ## What the map leaves out
#
# The maps in this package are about attention, as the method is. It costs one loop to ask how much of the whole
# increment that is.

# %%
PARTS = {"self_attn": "attention", "mlp": "MLP", "embed": "embeddings"}
energy: dict[str, float] = {}
for name in after.tensors:
    part = next((label for key, label in PARTS.items() if key in name), "norms")
    energy[part] = energy.get(part, 0.0) + float((after.tensor(name) - before.tensor(name)).double().square().sum())
shares = pd.Series(energy) / sum(energy.values())
assert np.isclose(shares["attention"], 0.179, atol=0.001)
assert np.isclose(shares["embeddings"], 0.194, atol=0.001)
shares.sort_values(ascending=False).map("{:.1%}".format).to_frame("share of the RLVR increment's energy")

# %% [markdown]
# Attention holds less than a fifth of it, and the embeddings, a fourteenth of the parameters, hold more.

# %% [markdown]
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
#
# What the checkpoint is, before anything is measured.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = f"organism:{TRY}/rlvr"
mastlens.inspect(MINE)

# %% [markdown]
# ## What this does not show
#
# - **Size is not importance.** A tensor that moved far may do nothing for the behaviour, and the reverse. Putting
#   weights back and looking is what settles it; [notebook 04](04_choosing_what_to_edit.ipynb) does.
# - That few directions moved says nothing yet of *which*, nor whether chance would have chosen others: the next
#   notebook brings the nulls.
# - One organism, one training run. Large models are bfloat16 and moved far less; that attention holds a fifth of the
#   increment is a number of this model and no law.
