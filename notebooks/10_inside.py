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
import tempfile
from pathlib import Path

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
# ## What they know before they write
#
# SFT answers some retain problems by working them out and guesses the others. Is that readable at the end of the
# prompt, before a word of the answer? A direction is found on half of the texts and held against the other half.

# %%
before = Path(tempfile.mkdtemp()) / "before"
asked = {"max_new_tokens": 64, "solution_logprob": False, "progress": False}
mastlens.evaluate(model=PAIR["sft"], splits={"retain": SPLITS["retain"]}, limit=80, out=before, **asked)
directions = mastlens.inside_direct(**PAIR, texts=before / "responses.parquet", probes=["mean"])
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
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
# Two texts without random changes (`draws=0`) are a first look, and leave everything without a verdict. A sparse
# autoencoder of your model is read by `mastlens.inside_dictionary(..., dictionary="folder")`.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = {stage: f"organism:{TRY}/{stage}" for stage in ("sft", "rlvr")}
TEXTS = {"forget": lineage_folder(TRY) / "forget-train.jsonl"}
mastlens.inside_depart(**MINE, splits=TEXTS, limit=2, draws=0, progress=False)

# %% [markdown]
# ## What this does not show
#
# - **Few texts.** Twelve problems a split and eight random changes tell large effects; a row that is not beyond its
#   null is not shown to be nothing.
# - **What can be read need not be used.** A probe finds what a linear reader could find. Here the two kinds of problems
#   are different subjects, so the direction may be one of subjects as well.
# - The reference solutions are worked, as RLVR would write them: SFT reads texts that it would not have written.
# - One model of 0.9 M parameters with tied embeddings, in which the readout and the first layer share a matrix.
