# %% [markdown]
# # 03 Hooked models and coupling
#
# The last two notebooks looked at weights alone, without ever running the model. But a weight matters through what
# the model does with it. This notebook opens the model up: first to *see* what attention does, then to ask which
# projections' increments the problems to be forgotten actually pull on.

# %%
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

import mastlens
from mastlens.models.weights import swapped
from mastlens.organisms import get_organism, lineage_folder
from mastlens.plots.template import NAME as TEMPLATE
from mastlens.problems.encoding import batches, encode_problems

# %%
SFT, RLVR = "organism:qwen2/sft", "organism:qwen2/rlvr"
FILES = lineage_folder("qwen2")
temporary = tempfile.TemporaryDirectory()
OUT = Path(temporary.name)

lineage = mastlens.Lineage.open(RLVR, sft=SFT)
model, tokenizer = lineage.rlvr.load_model(), lineage.rlvr.load_tokenizer()

# %% [markdown]
# ## Watching
#
# A `HookedModel` wraps a transformers model and changes nothing in it. Inside a `watch` block one names what one
# wants to see. The names mean the same in every architecture: `x` enters the attention, `q`, `k` and `v` come out of
# the projections, `pattern` is where each token looks, `z` what each head brings back, `out` what leaves.

# %%
hooked = mastlens.HookedModel(model)
problem = mastlens.read_problems(FILES / "forget-train.jsonl")[0]
text = f"{problem.problem}\n{problem.solution}"
ids = torch.tensor([tokenizer(text)["input_ids"]])
with hooked.watch("q", "pattern", "z", layers=[0, 5]) as view:
    seen = float(view.loss(ids))
print(text)
view.table

# %% [markdown]
# Every row of a pattern is a distribution over the tokens so far, and no token looks ahead. One does well to check
# such things rather than to believe them.

# %%
pattern = view["pattern", 5][0]
assert torch.allclose(pattern.sum(-1), torch.ones(pattern.shape[:2]), atol=1e-5)
assert torch.equal(pattern.triu(1), torch.zeros_like(pattern))

tokens = [tokenizer.decode([token]) for token in ids[0]]
labels = [f"{place} {token!r}" for place, token in enumerate(tokens)]

# %%
figure = make_subplots(1, 4, subplot_titles=[f"head {head}" for head in range(4)], horizontal_spacing=0.02)
for head, looks in enumerate(pattern, start=1):
    heat = go.Heatmap(
        z=looks.numpy(),
        coloraxis="coloraxis",
        customdata=np.stack(np.broadcast_arrays(np.array(labels)[:, None], np.array(labels)[None]), axis=-1),
        hovertemplate="%{customdata[0]} looks at %{customdata[1]}: %{z:.2f}<extra></extra>",
    )
    figure.add_trace(heat, 1, head)
    figure.update_yaxes(autorange="reversed", showticklabels=head == 1, row=1, col=head)
figure.update_xaxes(title={"text": "key (token)"})
figure.update_yaxes(title={"text": "query (token)"}, col=1)
figure.update_layout(
    template=TEMPLATE,
    title="Where the heads of layer 5 look",
    coloraxis={"colorscale": "Blues", "cmin": 0, "cmax": 1, "colorbar": {"title": {"text": "attention"}}},
    height=360,
)

# %% [markdown]
# *What to see.* Time runs down and to the right; everything above the diagonal is empty. Point at a cell to read
# which token looks at which. The heads differ: where the solution is written (the lower part), heads 0 and 3 put
# nearly all their weight on single tokens at or just before the present one, the others spread it.
#
# After the block the model is what it was: no hook stays, no weight changed, the loss without watching is the same.

# %%
with torch.no_grad():
    unwatched = float(model(input_ids=ids, labels=ids).loss)
assert np.isclose(seen, unwatched, rtol=1e-5)
print(f"mean loss a token: watched {seen:.5f}, plain transformers {unwatched:.5f} nats")

# %% [markdown]
# ## Replacing
#
# Seeing is not yet knowing. What happens if a head brings nothing back? `replace` puts a function in an activation's
# way.

# %%
effects = np.zeros((8, 4))
for layer in hooked.layers:
    for head in range(4):

        def silenced(z, head=head):
            z = z.clone()
            z[:, :, head] = 0
            return z

        with hooked.watch("out", layers=[layer], replace={("z", layer): silenced}) as patched, torch.no_grad():
            effects[layer, head] = float(patched.loss(ids)) - seen

# %%
figure = go.Figure(
    go.Heatmap(
        z=effects, colorscale="RdBu_r", zmid=0, text=effects.round(2), texttemplate="%{text}", colorbar_title="nats"
    )
)
figure.update_layout(
    template=TEMPLATE,
    title="Loss of one text with one head silenced, minus without",
    xaxis={"title": {"text": "head"}, "dtick": 1},
    yaxis={"title": {"text": "layer"}, "autorange": "reversed", "dtick": 1},
    height=420,
)

# %% [markdown]
# *What to see.* Most heads can be missed, a few cannot. This is one text only, and it shows the tool, not a finding.

# %%
cheap = int((effects < 0.05).sum())
layer, head = np.unravel_index(effects.argmax(), effects.shape)
assert cheap >= 20
assert (layer, head) == (5, 3)
print(f"{cheap} of 32 heads cost less than 0.05 nats; the dearest, head {head} of layer {layer}, {effects.max():.2f}")

# %% [markdown]
# ## Coupling, by hand
#
# Now the question of this method. Let $G = \partial L / \partial W$ be the gradient of the loss on the problems to be
# forgotten, at the RLVR weights, and $D$ the increment. To first order $\langle G, D \rangle$ is what the loss
# changes by if $D$ is added once more; minus it, if $D$ is taken back. The *coupling* of a projection is the cosine
# of the two: does what training did here still matter to these problems?
#
# Hooks give it without any `.grad`. A projection is $q = W x + b$, so its gradient is a sum of outer products over
# positions, $G = \sum_t g_t x_t^\top$, with $g_t$ the gradient that arrives at $q_t$. We take 48 problems.

# %%
lines = (FILES / "forget-train.jsonl").read_text().splitlines()[:48]
few = OUT / "few.jsonl"
few.write_text("\n".join(lines))
encoded = encode_problems(mastlens.read_problems(few), tokenizer)
[(_, batch)] = batches(encoded, 48)

LAYER = 5
with hooked.watch("x", "v", layers=[LAYER], gradients=True) as view:
    loss = view.loss(batch)
    arriving = view.gradients(loss)["v", LAYER].flatten(2).double()
    gradient = torch.einsum("bpo,bpi->oi", arriving, view["x", LAYER].detach().double())

before, after = lineage.increments["rlvr"]
projection = next(p for p in after.projections if (p.layer, p.projection) == (LAYER, "v"))
increment = (after.matrix(projection) - before.matrix(projection)).double()
inner = float((gradient * increment).sum())
cosine = inner / float(gradient.norm() * increment.norm())
print(f"{projection.name}: <G, D> = {inner:.2e} nats, cosine {cosine:.3f}")

# %% [markdown]
# `couple` computes the same for all projections in one backward pass, stopping at the lowest, and the two agree.

# %%
small = mastlens.couple(sft=SFT, rlvr=RLVR, forget=few, spectrum=False, progress=False).table.set_index("name")
assert np.isclose(small.loc[projection.name, "forget_inner"], inner, rtol=1e-3)
assert np.isclose(small.loc[projection.name, "forget_cosine"], cosine, rtol=1e-3)

# %% [markdown]
# Is the first order any good? We put the SFT weights back in this one projection, which is $W - D$, and read the
# loss.

# %%
with torch.no_grad(), hooked.watch("x", layers=[LAYER]) as view:
    original = float(view.loss(batch))
    with swapped(model, {projection.name: before.matrix(projection)}):
        restored = float(view.loss(batch))
    again = float(view.loss(batch))
assert again == original  # bit for bit: the weights are back
assert restored < original  # as the sign of <G, D> says
assert np.isclose(restored - original, -inner, rtol=0.5)
print(f"loss with SFT's weights here, minus without: {restored - original:+.2e}; predicted {-inner:+.2e} nats a token")

# %% [markdown]
# ## The map
#
# Now the whole training files, forget and retain. A cosine needs its null as much as any other number: two random
# directions in 9,216 dimensions have a cosine of 0.008 on average. And 32 cosines need a correction for being 32.

# %%
coupling = mastlens.couple(
    sft=SFT,
    rlvr=RLVR,
    forget=FILES / "forget-train.jsonl",
    retain=FILES / "retain-train.jsonl",
    out=OUT,
    progress=False,
)
table = coupling.table
assert table["forget_above_chance"].sum() == 18
assert table["retain_above_chance"].sum() == 28
largest = table.loc[table["forget_cosine"].abs().idxmax()]
alike = table["forget_retain_cosine"]
assert (alike > 0).all()
assert np.isclose(alike.median(), 0.28, atol=0.01)
assert (largest["layer"], largest["projection"]) == (5, "v")
assert np.isclose(largest["forget_cosine"], 0.210, atol=2e-3)
above = {side: int(table[f"{side}_above_chance"].sum()) for side in ("forget", "retain")}
print(f"above chance, of 32 cosines: {above}; largest on forget: {largest['forget_cosine']:.3f}")
print(f"cosine of the forget and the retain gradient: median {alike.median():.2f}, least {alike.min():.2f}")
coupling.plot()

# %% [markdown]
# *What to see.* The cosines are small, and many are beyond chance all the same: dimension is what makes 0.05
# remarkable. The largest is v of layer 5. The retain side couples in *more* projections than the forget side, and the
# two gradients point to the same side in all 32 (median cosine 0.28): what RLVR wrote here was not written for the
# forget problems alone.

# %%
# The sign says more than the size: a positive inner product means that more of D would *raise* the loss.
assert (table["forget_inner"] > 0).sum() == 27
total = table["forget_inner"].sum()
assert np.isclose(total, 0.0042, atol=2e-4)
print(f"adding every attention increment once more: {total:+.4f} nats a token on forget, to first order")

# %% [markdown]
# In 27 of 32 projections the increment has already gone a little past what these problems' reference solutions would
# like. RLVR follows a reward and not a likelihood, so it need not stop where the likelihood is best.
#
# ## Heads and directions
#
# The same numbers come by head, from the same backward pass, and by singular direction of the increment: each
# direction $u_i v_i^\top$ contributes $\sigma_i\, u_i^\top G v_i$, and these add up to the inner product.

# %%
spectrum = coupling.spectrum.query("side == 'forget'")
added = spectrum.groupby("name")["contribution"].sum().reindex(table["name"]).to_numpy()
assert np.allclose(added, table["forget_inner"], rtol=1e-6, atol=1e-9)
heads = coupling.heads
strongest = heads.loc[heads["forget_cosine"].abs().idxmax()]
assert np.isclose(strongest["forget_cosine"], 0.313, atol=3e-3)
print(f"strongest head: layer {strongest['layer']}, {strongest['projection']} head {strongest['head']}", end=", ")
print(f"cosine {strongest['forget_cosine']:.2f}")
coupling.plot_heads()

# %%
coupling.plot_spectrum()

# %% [markdown]
# *What to see.* What a projection's cosine averages over is uneven inside. One head of v in layer 5 has a cosine of
# 0.31, half as much again as the whole projection.

# %% [markdown]
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
#
# Eight problems first; then all, without `limit`.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = {stage: f"organism:{TRY}/{stage}" for stage in ("sft", "rlvr")}
mastlens.couple(**MINE, forget=lineage_folder(TRY) / "forget-train.jsonl", limit=8, progress=False)

# %% [markdown]
# ## What this does not show
#
# - **A gradient is local.** It says what an infinitely small step would do. The step back to SFT is not small, and
#   the one example above is no proof that the prediction is good elsewhere; the causal map in
#   [notebook 04](04_choosing_what_to_edit.ipynb) tests it on all 32.
# - **Beyond chance is not large.** All attention increments together are worth 0.004 nats a token to first order.
#   Going back to SFT altogether costs more than ten times as much: most of it lies outside attention.
# - The reference solutions stand for the behaviour. A model that answers rightly in other words is not measured by
#   them.
