# %% [markdown]
# # 04 Choosing what to edit
#
# An edit of everything forgets everything. So one selects: a few tensors that are to carry the change. There are many
# rules for that, each with a good story. This notebook takes one apart, sets it beside others, and then asks the
# question that stories avoid: do the selected tensors *do* anything for the behaviour?

# %%
import numpy as np
import pandas as pd

import mastlens
from mastlens import plots
from mastlens.organisms import get_organism, lineage_folder

BASE, SFT, RLVR = (f"organism:qwen2/{stage}" for stage in ("base", "sft", "rlvr"))
FILES = lineage_folder("qwen2")
FORGET, RETAIN = FILES / "forget-train.jsonl", FILES / "retain-train.jsonl"
SUBTITLE = "organism:qwen2, float32"
TOP = 12

geometry = mastlens.geometry(base=BASE, sft=SFT, rlvr=RLVR, progress=False)
coupling = mastlens.couple(sft=SFT, rlvr=RLVR, forget=FORGET, retain=RETAIN, spectrum=False, progress=False)
tables = {"geometry": geometry.table, "coupling": coupling.table}

# %% [markdown]
# ## The MAST score
#
# MAST scores a projection by $\rho \cdot \log(1 + \|D\|_F^2) \cdot (1 + |\cos(G, D)|)$: how far off principal, how
# large, how coupled to the forget gradient. A rule is a function of tables, and so one may try as many as one likes
# without running a model again.

# %%
mast = mastlens.select(tables, top=TOP)
chosen = mast.table[mast.table["selected"]]
assert chosen["projection"].value_counts().to_dict() == {"q": 8, "o": 4}
mast.plot()

# %% [markdown]
# *What to see.* All eight q, four o, not one k or v. Does the reward live in queries? Let us see which factor
# decided.

# %%
mast.plot_decomposition()

# %% [markdown]
# *What to see.* A product is decided by the factor that varies most between projections. That is the size, by far;
# the other two are nearly constants.

# %%
factors = mast.table[["off_principal", "log1p_energy", "coupling_factor"]]
spread = np.log(factors).std()
assert spread["log1p_energy"] > 3 * spread.drop("log1p_energy").max()
without = {
    term: mastlens.select(tables, top=TOP, rule=f"mast-without-{term}")
    for term in ("off-principal", "magnitude", "coupling")
}
shared = {term: len(set(ranking.selected) & set(mast.selected)) for term, ranking in without.items()}
assert shared == {"off-principal": 11, "magnitude": 9, "coupling": 11}
print("standard deviation of the logarithm:", spread.round(3).to_dict())
print("of the twelve, still chosen without a term:", shared)

# %% [markdown]
# And size is in part the size of the *matrix*: k and v are half as tall as q and o in this model, and a Frobenius
# norm adds up entries. Measured by entry (`rms`), three k come in. A selection rule can thus pick an architecture's
# shapes.
#
# ## Other rules, and how far they agree
#
# `mastlens.describe_rules()` lists them with their sources. Two selections of twelve from 32 share four or five by
# chance alone, so overlap has a null as well.

# %%
RULES = ("mast", "magnitude", "rms", "off-principal", "coupling", "grad-norm", "salun", "conflict")
rankings = {rule: mastlens.select(tables, top=TOP, rule=rule) for rule in RULES}
rankings["random"] = mastlens.select(tables, top=TOP, rule="random", seed=1)
overlap = mastlens.selection_overlap({rule: ranking.table for rule, ranking in rankings.items()})
pairs = overlap.set_index(["first", "second"])["shared"]
assert pairs["mast", "magnitude"] == 11
assert pairs["magnitude", "salun"] == 0
off_diagonal = overlap[overlap["first"] != overlap["second"]]
told_apart = off_diagonal[off_diagonal["p"] < 0.05 / len(off_diagonal)]
assert set(zip(told_apart["first"], told_apart["second"], strict=True)) == {
    ("mast", "magnitude"),
    ("magnitude", "salun"),
}
assert rankings["rms"].table.query("selected")["projection"].value_counts().to_dict() == {"q": 6, "o": 3, "k": 3}
plots.plot_selection_overlap(overlap, subtitle=SUBTITLE)

# %% [markdown]
# *What to see.* A ring is what two random selections would give, with all pairs looked at together. Two pairs have
# none. `mast` and `magnitude` share eleven of twelve: on this model the MAST rule *is* the rule of size. `magnitude`
# and `salun`, which looks at the gradient alone, share nothing, which is *less* than chance gives: what moved and
# what the forget problems pull on lie apart. Each is called principled by someone. They cannot both be right.
#
# ## What does the work?
#
# The referee is an intervention. Put the SFT weights of one projection back into the RLVR model and read the
# log-probability of the forget solutions (`restore`); or put RLVR's into the SFT model (`insert`). First, whole
# groups.

# %%
causal = mastlens.causal_map(sft=SFT, rlvr=RLVR, forget=FORGET, limit=60, progress=False)
groups = causal.groups.set_index(["direction", "group"])
all_weights = groups.loc[("restore", "all"), "forget_effect"]
attention = groups.loc[("restore", "projections")]
embeddings = groups.loc[("restore", "embeddings")]
assert np.isclose(all_weights, -0.058, atol=0.003)
assert attention["forget_effect"] > 0.02 * all_weights
assert attention["forget_exact_change"] >= 0
assert embeddings["forget_exact_change"] < -0.8
print(f"log-probability of the forget solutions, SFT's weights in RLVR: all {all_weights:+.4f} nats a token, ")
print(f"attention {attention['forget_effect']:+.4f}, embeddings {embeddings['forget_effect']:+.4f}")
print(f"share of them that stays the most probable text: embeddings {embeddings['forget_exact_change']:+.0%}")
causal.plot_groups()

# %% [markdown]
# *What to see.* Going back to SFT altogether costs 0.058 nats a token. All 32 attention projections together give
# none of that: with SFT's attention the model would still write as many of the solutions. The embeddings alone take
# nine in ten of them away.
#
# That is the most important picture of this notebook. **No ranking of attention projections can find this behaviour,
# because it is not there.** The method does not tell you so; the control does. It takes seconds on a small model, and
# a forward pass per group on a large one.

# %%
causal.plot()

# %% [markdown]
# *What to see.* Single projections, in thousandths of a nat. Real effects, some beyond chance, all of them tiny.
#
# ## Which rule orders the projections as their effects do?
#
# Ranks can be right about small things. Spearman's correlation of each score with the size of the measured effect, in
# both directions; beside the gradient's own first-order prediction, as the best that a score could hope for.

# %%
rows = []
for direction in ("restore", "insert"):
    for rule, ranking in rankings.items():
        rows.append(
            {"score": rule, "direction": direction}
            | mastlens.rank_agreement(causal.table, ranking.table, direction=direction)
        )
    of_direction = causal.table.query("direction == @direction")
    prediction = dict(zip(of_direction["name"], of_direction["forget_first_order"].abs(), strict=True))
    rows.append(
        {"score": "first order", "direction": direction}
        | mastlens.rank_agreement(causal.table, prediction, direction=direction)
    )
agreement = pd.DataFrame(rows).pivot(index="score", columns="direction", values=["spearman", "p_value"])
spearman = agreement["spearman"]
assert (spearman.loc["first order"] > 0.8).all()
assert abs(spearman.loc["mast", "restore"]) < 0.35
assert spearman.loc["mast", "insert"] > 0.35
assert spearman.loc["coupling", "restore"] > 0.35
assert abs(spearman.loc["coupling", "insert"]) < 0.35
agreement.sort_values(("spearman", "restore"), ascending=False).round(3)

# %% [markdown]
# *What to see.* The gradient's own prediction, one backward pass, orders the effects well in both directions. The
# MAST score orders RLVR's weights put into SFT, where everything pushes the same way and size helps, and says nothing
# of SFT's weights put into RLVR, which is the direction of unlearning. `coupling`, one of its three factors, does the
# reverse; size outvotes it. These are twenty p-values: one of 0.001 stays remarkable among them, one of 0.04 does
# not.
#
# ## The honest score of a ranking
#
# Put the best k back, for growing k. A good ranking rises above random orders early; how far above, is its score.

# %%
curves = mastlens.cumulative_curves(
    sft=SFT,
    rlvr=RLVR,
    forget=FORGET,
    ranking=mast.table,
    direction="insert",
    draws=10,
    points=6,
    limit=40,
    progress=False,
)
area = curves.areas.set_index("side").loc["forget"]
assert np.isclose(area["end"] / area["total"], 1 / 9, atol=0.02)
assert area["above_random_low"] > 0
print(
    f"all attention: {area['end']:+.4f} of {area['total']:+.4f} nats a token; the ranking's area above random orders:"
)
low, high = area["above_random_low"], area["above_random_high"]
print(f"{area['above_random']:+.5f} [{low:+.5f}, {high:+.5f}], p = {area['p_value']:.2f}")
curves.plot()

# %% [markdown]
# *What to see.* Where the curves end is what attention holds at all: a ninth of the way. How it gets there is the
# ranking's merit, against the grey range of orders that had none. MAST's order lies at the upper edge. With ten draws
# p cannot be below 1/11, however good the ranking: more than an impression takes more draws.

# %% [markdown]
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
#
# One layer on eight problems first; then all, without `where` and `limit`.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = {stage: f"organism:{TRY}/{stage}" for stage in ("sft", "rlvr")}
mastlens.causal_map(
    **MINE,
    forget=lineage_folder(TRY) / "forget-train.jsonl",
    where=r"layers\.0\.self_attn",
    limit=8,
    progress=False,
)

# %% [markdown]
# ## What this does not show
#
# - **Not that MAST's rule fails elsewhere.** In this organism attention does not hold the behaviour; in a large model
#   it may. What carries over is the order of work: the causal map of *groups* first, then a ranking.
# - **Not that a good ranking makes a good edit.** Gradient steps do not put weights back; they find their own way.
#   Whether a selection forgets more cheaply than a random one is measured by editing ([00](00_tour.ipynb), and the
#   study, docs/results/study.md).
# - 60 problems and teacher forcing: a log-probability of a reference solution is not an answer given. Intervals are
#   over problems; there is one organism and one training run.
