# %% [markdown]
# # 02 Principal subspaces and nulls
#
# A weight matrix does most of its work along few directions: those of its largest singular values. A natural question
# about an increment is whether it lies *in* these principal directions or avoids them. MAST measures the share of its
# energy outside and selects by it; "RLVR moves off the principal directions" is a published finding.
#
# It is also a question with a trap. Before a number may surprise us, we must know what chance would have given. That
# number is the *null*, and this notebook is about how much it changes the story.

# %%
import numpy as np
import plotly.graph_objects as go

import mastlens
from mastlens import plots
from mastlens.organisms import get_organism
from mastlens.plots.template import NAME as TEMPLATE

BASE, SFT, RLVR = (f"organism:qwen2/{stage}" for stage in ("base", "sft", "rlvr"))
SUBTITLE = "organism:qwen2, float32, rank 16"

lineage = mastlens.Lineage.open(RLVR, sft=SFT, base=BASE)
before, after = lineage.increments["rlvr"]
projection = after.projections[0]  # q of layer 0
weight = lineage.base.matrix(projection).double().numpy()
increment = (after.matrix(projection) - before.matrix(projection)).double().numpy()

# %% [markdown]
# ## Off-principal energy, by hand
#
# Let $U_k$ and $V_k$ hold the first $k$ left and right singular vectors of the **base** weight. The part of $D$ that
# maps principal inputs to principal outputs is $U_k^\top D V_k$, and what remains is
#
# $$\rho = 1 - \frac{\|U_k^\top D V_k\|_F^2}{\|D\|_F^2}.$$
#
# That is three lines of numpy.


# %%
def off_principal(weight, increment, k=16):
    u, _, vt = np.linalg.svd(weight)
    inside = u[:, :k].T @ increment @ vt[:k].T
    return 1 - (inside**2).sum() / (increment**2).sum()


rho = off_principal(weight, increment)
assert np.isclose(rho, 0.8815, atol=1e-4)
print(f"{rho:.1%} of the increment lies outside the principal subspaces")

# %% [markdown]
# 88 % outside. It sounds like avoidance. Is it?
#
# ## What chance gives
#
# Take a matrix of independent random numbers, which knows nothing of the weight, and measure the same.

# %%
generator = np.random.default_rng(0)
chance = np.array([off_principal(weight, generator.standard_normal(weight.shape)) for _ in range(300)])
null = 1 - 16**2 / weight.size
assert np.isclose(chance.mean(), null, atol=1e-3)
print(f"random increments: {chance.mean():.4f} +- {chance.std():.4f};  1 - k^2 / (rows * cols) = {null:.4f}")

# %% [markdown]
# Sixteen of 96 directions on either side span (16/96)² = 2.8 % of the matrix, so a random increment has 97.2 % of its
# energy outside. Ours has *less* outside than chance. The number that sounded like avoidance is a preference for the
# principal directions, and a strong one.
#
# One more turn of the screw. Our increment has few directions (notebook 01), and few directions scatter more than
# many: an isotropic null would find nearly every low-rank increment remarkable. The fair null keeps the increment's
# own singular values and turns its directions at random.


# %%
def turned(increment, generator):
    values = np.linalg.svd(increment, compute_uv=False)
    left, right = (np.linalg.qr(generator.standard_normal(increment.shape))[0] for _ in range(2))
    return left @ np.diag(values) @ right.T


fair = np.array([off_principal(weight, turned(increment, generator)) for _ in range(300)])
assert np.isclose(fair.mean(), null, atol=1e-3)
assert fair.std() > 1.3 * chance.std()
figure = go.Figure()
for values, name in ((chance, "random numbers"), (fair, "our singular values, random directions")):
    figure.add_histogram(x=values, name=name, opacity=0.6, xbins={"size": 0.0015})
figure.add_vline(x=rho, line_width=3, annotation_text="RLVR's increment", annotation_position="top right")
figure.update_layout(
    template=TEMPLATE,
    title="The increment beside two kinds of chance",
    barmode="overlay",
    xaxis={"title": {"text": "share of energy outside the principal subspaces"}, "range": [0.87, 1]},
    yaxis={"title": {"text": "random increments"}},
    legend={"orientation": "h", "y": 1.12},
    height=380,
)

# %% [markdown]
# *What to see.* Both clouds have the same middle; the fair one is wider. The line stands far to the left of either.
#
# ## All projections at once
#
# `geometry` has the value (`off_principal`), the null (`_null`), the distance in standard deviations of the fair null
# (`_z`), and whether chance is ruled out (`_distinguishable`, two-sided p < 0.001). Ours by hand and its own agree.

# %%
geometry = mastlens.geometry(rlvr=RLVR, sft=SFT, base=BASE, full=True, heads=True, progress=False)
table = geometry.table.query("increment == 'rlvr'")
row = table.set_index("name").loc[projection.name]
assert np.isclose(row["off_principal"], rho, atol=1e-9)
assert np.isclose(row["off_principal_null"], null, atol=1e-9)
sampled = (rho - fair.mean()) / fair.std()
assert np.isclose(row["off_principal_z"], sampled, rtol=0.2)
print(f"z: {row['off_principal_z']:.1f} by formula, {sampled:.1f} from our 300 turned increments")
plots.plot_off_principal(geometry.table, subtitle=SUBTITLE)

# %% [markdown]
# *What to see.* Left, the energy inside the principal subspaces over what chance puts there: every cell is on the
# side of more. Right, each point against its own null, all of them below it.

# %%
assert (table["off_principal"] < table["off_principal_null"]).all()
assert table["off_principal_distinguishable"].all()
lift = (1 - table["off_principal"]) / (1 - table["off_principal_null"])
assert np.allclose([lift.min(), lift.max()], [2.6, 9.0], atol=0.1)
low, high = table["off_principal"].min(), table["off_principal"].max()
assert np.allclose([low, high], [0.62, 0.90], atol=0.01)
print(f"off-principal energy {low:.2f} to {high:.2f}, where chance gives", end=" ")
print(f"{table['off_principal_null'].min():.2f} to {table['off_principal_null'].max():.2f};")
print(f"inside, {lift.min():.1f} to {lift.max():.1f} times what chance puts there")

# %% [markdown]
# At this scale RLVR moved *inside* the principal subspaces, and so did SFT: a comparison that costs nothing and keeps
# one from crediting RLVR with what any training does here.

# %%
medians = geometry.table.groupby("increment")["off_principal"].median()
assert np.allclose(medians[["sft", "rlvr"]], [0.805, 0.780], atol=2e-3)
medians.round(3).to_frame("median off-principal energy")

# %% [markdown]
# ## Does it hang on k?
#
# Sixteen is a convention. A finding that holds at one rank only is a finding about that rank.

# %%
ranks = (2, 4, 8, 16, 24, 32, 40)
parts = []
for k in ranks:
    of_rank = mastlens.geometry(rlvr=RLVR, sft=SFT, base=BASE, rank=k, progress=False).table
    parts.append(of_rank.query("increment == 'rlvr' and projection == 'q'"))
measured = np.array([part["off_principal"].mean() for part in parts])
expected = np.array([part["off_principal_null"].mean() for part in parts])
assert (measured < expected).all()
figure = go.Figure()
figure.add_scatter(x=ranks, y=measured, name="RLVR's increment, mean of 8 layers", mode="lines+markers")
figure.add_scatter(x=ranks, y=expected, name="chance", mode="lines", line={"dash": "dash"})
figure.update_layout(
    template=TEMPLATE,
    title="Off-principal energy of q at other ranks",
    xaxis={"title": {"text": "rank k of the principal subspaces"}},
    yaxis={"title": {"text": "share of energy outside"}, "range": [0, 1.03]},
    legend={"orientation": "h", "y": 1.12},
    height=380,
)

# %% [markdown]
# *What to see.* The value itself falls from nearly 1 to about a half as k grows, and says little. The gap to chance
# has one sign throughout, and says something.
#
# ## Did the subspaces turn?
#
# One can ask the other way round, too: how far did training turn the principal subspaces themselves? The answer is a
# set of principal angles. They are computed by the sine, because a cosine near 1 cannot tell small angles from zero:
# in float64, $\arccos$ loses everything below about 1e-8 radians, in float32 below 3e-4.

# %%
angle = table["angle_left_max_deg"]
assert np.isclose(angle.median(), 4.78, atol=0.02)
beyond = table["angle_left_max_deg_distinguishable"].sum()
print(
    f"largest angle of the left subspaces: {angle.median():.1f} degrees in the median; a random increment of the same"
)
print(f"size gives {table['angle_left_max_deg_null'].median():.1f}; told apart from chance in {beyond} of 32")
small = np.float32(1e-4)
assert np.arccos(np.cos(small, dtype=np.float32)) == 0
assert np.isclose(np.arcsin(np.sin(small, dtype=np.float32)), 1e-4)

# %% [markdown]
# ## Head by head
#
# A projection is a stack of heads, and a share that is even in the whole need not be so in the parts.

# %%
heads = geometry.heads.query("increment == 'rlvr' and projection == 'q'")
apart = heads["energy_share_distinguishable"].sum()
top = heads.loc[heads["energy_share"].idxmax()]
assert len(heads) == 32  # 8 layers of 4 heads
assert (heads["off_principal"] < heads["off_principal_null"]).all()
print(f"{apart} of 32 query heads carry more or less of their projection's increment than an even share would")
print(f"most: layer {top['layer']}, head {top['head']}, with {top['energy_share']:.0%} where an even share is 25 %")

# %% [markdown]
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
#
# One layer with its nulls; then all of them, without `where`.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = {stage: f"organism:{TRY}/{stage}" for stage in ("base", "rlvr")}
mastlens.geometry(**MINE, where=r"layers\.0\.self_attn", rank=4, progress=False)

# %% [markdown]
# ## What this does not show
#
# - **Not that published findings are wrong.** They are about models a thousand times as large and wide. What carries
#   over is the habit: at 1,536 × 1,536 and k = 16 the null is 0.9999, and a measured 0.9998 means *inside*.
# - **Not that the principal directions matter.** Where an increment lies is geometry. Whether the behaviour hangs on
#   it is a causal question ([notebook 04](04_choosing_what_to_edit.ipynb)), and here the two disagree.
# - The null knows nothing of the data: gradients live where activations do, and a preference for principal directions
#   may be no more than that. "Not chance" is not "for a reason".
