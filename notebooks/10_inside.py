# %% [markdown]
# # 10 What did RLVR change inside?
#
# Geometry says what moved in the weights, the causal map what putting weights back does. In between lies the
# computation: where in the residual stream do SFT and RLVR part, who writes what they say otherwise, what does it do
# to give one model the other's activations, and what do they know before they write?
#
# Two models that differ at all differ everywhere. So every number here stands beside what *random changes of RLVR's
# size* do to the SFT model: its increments with the signs of their rows and columns redrawn.

# %%
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.utils import logging

import mastlens
from mastlens.organisms import get_organism, lineage_folder

logging.disable_progress_bar()
PROBLEMS = lineage_folder("qwen2")
PAIR = {"sft": "organism:qwen2/sft", "rlvr": "organism:qwen2/rlvr", "progress": False}
SPLITS = {"forget": PROBLEMS / "forget-train.jsonl", "retain": PROBLEMS / "retain-train.jsonl"}

# %% [markdown]
# ## Where they part
#
# Both models read the same solutions. Compared are the states that each token of a solution is predicted from.

# %%
departure = mastlens.inside_depart(**PAIR, splits=SPLITS, limit=12, positions=4)
departure

# %%
departure.plot("difference")

# %% [markdown]
# *What to see.* Filled marks are beyond the null, open ones are not. The embedding moved exactly as far as random
# changes move it, by construction: their entries have the same size. Behind every block the stream has moved three to
# five times as far as random changes move it: RLVR's increments lie along what the texts put there.

# %%
whole = departure.table.query("position == -1").set_index(["split", "site", "layer"])
lift = whole["difference"] / whole["difference_null"]
assert lift.loc[[("forget", "embed", -1), ("retain", "embed", -1)]].between(0.999, 1.001).all()
assert (lift.drop("embed", level="site").dropna() > 3).all()
assert departure.forks["position"].eq(0).mean() > 0.9
departure.forks[["split", "item", "position", "token", "sft_token", "rlvr_token", "kl", "kl_null"]].head()

# %%
departure.plot("kl")

# %% [markdown]
# They part at the *first* token: there SFT would begin a guess (*Perhaps*, *Looks*, *Maybe*) and RLVR the working, 1 to
# 2.5 nats apart where random changes leave thousandths. Once the first word stands they go on nearly alike. All tokens
# together are beyond chance (the card above: 2 of 2 splits). No single position is: the random changes differ there by
# factors among themselves, and eight of them are too few to rule that out, however far the marks lie from the dots.
#
# ## Who writes it
#
# At the first token of each solution, the logit of the text's token minus that of SFT's strongest other one is a sum of
# what each part writes. Its change is split, exactly: the part's own weights, what it reads, and the readout behind it.

# %%
writers = mastlens.inside_write(**PAIR, splits=SPLITS, limit=12, first=1)
writers

# %%
writers.plot()

# %%
shares = writers.table.groupby(["split", "site"], sort=False)[["change", "by_weights", "by_input", "by_readout"]].sum()
assert float(writers.table["completeness_error"].max()) < 1e-4, "parts are the whole"
total = writers.table[writers.table["site"] != "logits"].groupby("split")["change"].sum()
logits = shares.xs("logits", level="site")
assert ((total - logits["change"]).abs() < 1e-4).all(), "and so are their changes"
assert logits["change"].gt(3).all()
assert (logits["by_readout"] / logits["change"]).between(0.6, 0.75).all()
shares

# %% [markdown]
# *What to see.* The MLPs carry most of the change, the last and the first one foremost; heads little. But two thirds
# are `by_readout`: what these parts write changed less than how it is read, by the final norm and the output embedding,
# which here is the embedding itself. Hardly anything is `by_input`, handed on from a part below.
#
# ## What it does when exchanged
#
# SFT's activations put into RLVR (*restore*) and the other way round (*insert*), one at a time: the directions and the
# measure of the causal map, which does the same with weights.

# %%
patches = mastlens.inside_patch(**PAIR, splits={"forget": SPLITS["forget"]}, limit=6, sites=("resid_post", "z"))
patches

# %%
patches.plot("insert")

# %%
last = patches.table.query("site == 'resid_post' and layer == 7").set_index("direction")
share = last["effect"] / last["total"]
assert share["restore"] < 0.25 < share["insert"] < 0.75
last[["effect", "effect_low", "effect_high", "effect_null", "total"]].assign(share=share)

# %% [markdown]
# *What to see.* What the stream carries adds up layer by layer; of single heads, the largest is head 1 of layer 6, at a
# tenth of it or less. The whole last stream of RLVR put into SFT brings about half of what the whole of RLVR brings;
# SFT's put into RLVR takes back about a tenth. A stream is worth what its reader makes of it, and the readout is the
# rest: what the split by parts says, found by doing it.
#
# ## What one component tells another
#
# The head above acts through what reads it. Path patching follows one edge: the head's output is exchanged while
# everything behind it is held at its own, so that the change reaches one receiver alone.

# %%
SENDER = "z.6.1"
paths = mastlens.inside_path(
    **PAIR, senders=[SENDER], receivers=["mlp_in.7", "logits"], splits={"forget": SPLITS["forget"]}, limit=6
)
paths

# %%
edges = paths.table.set_index(["direction", "receiver"])
assert (edges["effect"].abs() < 0.1 * edges["total"].abs()).all(), "little goes along either edge"
assert edges["effect_low"].lt(0).all(), "and problems differ in its sign"
assert edges["effect_high"].gt(0).all()
edges[["effect", "effect_low", "effect_high", "effect_null", "resampled", "total"]]

# %% [markdown]
# *What to see.* Little goes along either edge: less than a tenth of what RLVR does. Random changes send still less, but
# over six problems every interval reaches both sides of zero: of one head, no story can be told from so few.
# `resampled`, the same head reading another problem, says how much an edge matters at all.
#
# ## What they know before they write
#
# SFT answers some retain problems by working them out and guesses the others. Is that readable at the end of the
# prompt, before a word of the answer? A direction is found on half of the texts and held against the other half.

# %%
before = Path(tempfile.mkdtemp()) / "before"
asked = {"max_new_tokens": 64, "solution_logprob": False, "progress": False}
mastlens.evaluate(model=PAIR["sft"], splits={"retain": SPLITS["retain"]}, limit=80, out=before, **asked)
found = before.with_name("directions")
directions = mastlens.inside_direct(**PAIR, texts=before / "responses.parquet", probes=["mean"], out=found)
directions

# %%
directions.plot()

# %%
directions.plot("writes")

# %%
table = directions.table.set_index("layer")
assert table.loc[7, ["auc_before", "auc_after"]].min() > 0.9
assert table.loc[7, ["auc_before_distinguishable", "auc_after_distinguishable"]].all()
assert table["writes"].loc[2:].abs().max() < 0.5
assert not table[["writes_distinguishable", "reads_distinguishable"]].to_numpy().any()
table[["auc_before", "auc_before_null", "auc_after", "writes", "writes_chance_low", "writes_chance_high", "reads"]]

# %% [markdown]
# *What to see.* Yes: and in RLVR, which works all of them out, the same direction is still there. RLVR did not erase
# which problems SFT would have guessed, and it did not carry them over to the other side: it moved texts by a small
# part of the distance between the two kinds, no farther than along directions that mean nothing (the band: those of
# shuffled labels). The knowledge is where it was; the answer to it is another one.
#
# ## Steering along it
#
# If the behaviour hung on that direction, pushing states along it would be a rival to unlearning: no gradient, one
# vector. A dose of 1 is as far as the two kinds of texts are apart; beside it, directions drawn from the states' own
# spread.

# %%
steered = mastlens.inside_steer(
    **PAIR,
    splits=SPLITS,
    limit=12,
    directions=found / "inside_directions.safetensors",
    direction="sft/mean/resid_post/7/-1/0",
    doses=[-1, -0.5, 0.5, 1],
)
steered.plot()

# %%
doses = steered.table.set_index(["split", "dose"])
assert not doses["effect_distinguishable"].any()
assert (doses["effect"].xs(1.0, level="dose") < 0).all(), "either way it costs log-probability"
assert (doses["effect"].xs(-1.0, level="dose") < 0).all()
doses[["effect", "effect_low", "effect_high", "effect_null", "effect_chance_low", "effect_chance_high", "total"]]

# %% [markdown]
# *What to see.* No rival here. Either way along the direction worked solutions become less likely, on both splits
# alike, as along directions that mean nothing. Nothing here says that the behaviour hangs on what tells texts apart.
#
# ## Features of a dictionary
#
# A sparse autoencoder names directions. The organism has none that somebody looked at, so a small one is trained
# here, on SFT's states behind layer 5, and written as SAELens writes them. RLVR's states are then read through the
# same features.

# %%
LAYER, WIDE, ON = 5, 256, 16
checkpoint = mastlens.Checkpoint("organism:qwen2/sft")
model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
problems = [problem for path in SPLITS.values() for problem in mastlens.read_problems(path)[:60]]
states = []
with torch.no_grad(), mastlens.HookedModel(model).watch("resid_post", layers=[LAYER]) as view:
    for problem in problems:
        model(**tokenizer(f"{problem.problem}\n{problem.solution}", return_tensors="pt"))
        states.append(view["resid_post", LAYER][0])
states = torch.cat(states)

# %%
torch.manual_seed(0)
start = torch.randn(WIDE, states.shape[1])
sae = {"W_dec": start / start.norm(dim=1, keepdim=True), "b_enc": torch.zeros(WIDE), "b_dec": states.mean(0)}
sae["W_enc"] = sae["W_dec"].T.clone()
optimiser = torch.optim.Adam([tensor.requires_grad_() for tensor in sae.values()], lr=3e-3)
for _ in range(300):
    batch = states[torch.randint(len(states), (512,))]
    most = ((batch - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"]).topk(ON)
    features = torch.zeros(len(batch), WIDE).scatter(1, most.indices, most.values.relu())
    loss = (features @ sae["W_dec"] + sae["b_dec"] - batch).square().sum(1).mean() / states.var(0).sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %%
folder = before.with_name("sae")
folder.mkdir()
save_file({name: tensor.detach().contiguous() for name, tensor in sae.items()}, folder / "sae_weights.safetensors")
hook = {"hook_name": f"blocks.{LAYER}.hook_resid_post", "model_name": "qwen2", "sae_lens_version": "6.54.12"}
config = {"architecture": "topk", "k": ON, "d_in": states.shape[1], "d_sae": WIDE, "metadata": hook}
(folder / "cfg.json").write_text(json.dumps(config))
print(f"{len(states):,} states; {ON} of {WIDE} features on at a token; {loss.item():.0%} of the variance missed")

# %%
features = mastlens.inside_dictionary(**PAIR, dictionary=folder, splits={"forget": SPLITS["forget"]}, limit=12)
features

# %%
features.plot()

# %%
changed = features.table[features.table["change_distinguishable"]]
assert 5 <= len(changed) <= 80
assert (changed["change"] < 0).mean() > 0.5
assert features.fit.filter(like="fvu_").drop(columns=["fvu_null"], errors="ignore").iloc[0, :2].max() < 0.15
features.fit

# %% [markdown]
# *What to see.* About one feature in ten changed beyond both nulls, and most of these became quieter. The dictionary
# gives the states of both models back about as well, so that it may speak of both.
#
# ## Unlearning, seen inside
#
# Does an edit take back what RLVR changed in the states, or does it break the answer? Ten steps of NPO on all attention
# projections, at a rate that forgets.

# %%
npo = mastlens.unlearn(
    rlvr=PAIR["rlvr"],
    forget=SPLITS["forget"],
    retain=SPLITS["retain"],
    where="self_attn",
    objective="npo",
    steps=10,
    lr=1e-3,
    out=before.with_name("npo"),
    progress=False,
)
mastlens.apply_edit(before.with_name("npo") / "edit.safetensors", to=PAIR["rlvr"], out=before.with_name("edited"))
undone = mastlens.inside_undo(**PAIR, edited=before.with_name("edited"), splits=SPLITS, limit=12, sites=["resid_post"])
undone

# %%
undone.plot()

# %%
inside = undone.table.set_index(["split", "site", "layer"])
answer = inside.xs("logits", level="site")
assert (answer["said_back"] > 3).all(), "the answer is worse than before RLVR"
stream = inside.xs("resid_post", level="site").query("layer > 1")
assert (stream["left"] > 1.5).all(), "and the states are farther from SFT than RLVR's were"
assert (stream["back"] < 0.3).all()
inside[["back", "left", "said_back", "kl_left"]].dropna(how="all")

# %% [markdown]
# *What to see.* It forgets, and it does not go back. The solutions lost many times as much log-probability as RLVR
# gave them, on the problems to keep as well; in no layer are the states nearer to SFT than before, but several times
# as far away. An edit that takes the mechanism back has `back` near 1 and `left` near 0 along the whole stream.
#
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
# Two texts without random changes (`draws=0`) are a first look, and leave everything without a verdict. A crosscoder of
# your pair is read by `mastlens.inside_crosscoder(..., crosscoder="folder", layer=12)`.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = {stage: f"organism:{TRY}/{stage}" for stage in ("sft", "rlvr")} | {"progress": False}
FEW = {"splits": {"forget": lineage_folder(TRY) / "forget-train.jsonl"}, "limit": 2, "draws": 0}
mastlens.inside_depart(**MINE, **FEW)

# %%
mastlens.inside_write(**MINE, **FEW, first=1)

# %% [markdown]
# `exact=False` leaves out patching one by one: gradients tell of all layers and heads at once.

# %%
mastlens.inside_patch(**MINE, **FEW, sites=("resid_post", "z"), exact=False)

# %% [markdown]
# ## What this does not show
#
# - **Few texts.** Twelve problems a split and eight random changes tell large effects; a row that is not beyond its
#   null is not shown to be nothing.
# - **What can be read need not be used.** A probe finds what a linear reader could find. Here the two kinds of problems
#   are different subjects, so the direction may be one of subjects as well.
# - The reference solutions are worked, as RLVR would write them: SFT reads texts that it would not have written.
# - One model of 0.9 M parameters with tied embeddings, in which the readout and the first layer share a matrix.
