# %% [markdown]
# # 06 Evaluation for sceptics
#
# "The edited model forgot the skill and kept everything else." Both halves of that sentence are easily written and
# easily wrong: the first because an accuracy can fall for many reasons, the second because *no difference found* is
# what every experiment reports that was too small to find one.
#
# This notebook makes one edit and then takes the side of the referee. Each section is an objection, and what there is
# to say to it. Some of them stand.

# %%
import operator
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy import stats

import mastlens
from mastlens.organisms import get_organism, lineage_folder
from mastlens.organisms.stage_accuracy import response_style
from mastlens.plots import plot_accuracy
from mastlens.statistics import items_needed, seed_spread, share_interval, smallest_drop

# %%
PROBLEMS = lineage_folder("qwen2")
RLVR = mastlens.Checkpoint("organism:qwen2/rlvr")
SPLITS = {name: PROBLEMS / f"{name}-eval.jsonl" for name in ("forget", "retain-math", "retain-gsm")}
DECODING = {"max_new_tokens": 56, "batch_size": 152, "progress": False}
workspace = tempfile.TemporaryDirectory()
out = Path(workspace.name)


# %%
def make_edit(seed):
    """Gradient difference on the attention of the upper four layers; the seed decides the batches alone."""
    return mastlens.unlearn(
        rlvr=RLVR,
        forget=PROBLEMS / "forget-train.jsonl",
        retain=PROBLEMS / "retain-train.jsonl",
        objective="graddiff",
        where=r"layers\.[4-7]\.self_attn",
        retain_weight=2,
        steps=40,
        lr=3e-4,
        seed=seed,
        progress=False,
    ).edit


# %% [markdown]
# ## The claim
#
# Three kinds of problems never mix: those whose gradients made the edit, those that settings are chosen on
# (calibration), and those below, which are opened to report. Beside the model before and the model after stands the one
# that was never rewarded on the forget side: what perfect unlearning would look like.

# %%
edit = make_edit(seed=0)
before = mastlens.evaluate(model=RLVR, splits=SPLITS, out=out / "before", **DECODING)
after = mastlens.evaluate(model=RLVR, edit=edit, splits=SPLITS, out=out / "after", **DECODING)
aim = mastlens.evaluate(model="organism:qwen2/rlvr-retain", splits={"forget": SPLITS["forget"]}, **DECODING)

arms = {"before": before, "after the edit": after, "rlvr-retain": aim}
plot_accuracy(pd.concat([evaluation.accuracy.assign(arm=arm) for arm, evaluation in arms.items()]))

# %% [markdown]
# ## "Are these the same problems?"
#
# They are, one by one, and that is worth much. `compare` joins the two evaluations by item and counts the items that
# changed: right before and wrong after (*b*), and the other way (*c*). The exact McNemar test asks whether so lopsided
# a split of the changed items would be rare if each could as well have gone the other way. The items that stayed as
# they were say nothing about a change, so they are not asked.

# %%
comparison = mastlens.compare(out / "before", out / "after")
table = comparison.table.set_index("split")
for row in table.itertuples():
    assert np.isclose(row.mcnemar_p, stats.binomtest(int(row.b), int(row.b + row.c)).pvalue)
assert table.loc["forget", "b"] > 10 * max(1, table.loc["forget", "c"])
assert table.loc["forget", "mcnemar_p"] < 1e-6
comparison.plot()

# %% [markdown]
# The forget split lost items and gained none; no chance does that. On the retain splits items went both ways, about as
# many in either, and the difference is not distinguishable from nothing. So far the claim stands.
#
# What did the pairing buy? Below is the width of the 95 % interval of each difference, by item and as if the two
# accuracies came from different problems. The more alike two models are, the more it buys.

# %%
variance = (table["before"] * (1 - table["before"]) + table["after"] * (1 - table["after"])) / table["n"]
pairing = pd.DataFrame({"paired": table["ci_high"] - table["ci_low"], "unpaired": 3.92 * np.sqrt(variance)})
assert (pairing["paired"] < pairing["unpaired"]).all()
assert (table.loc[["retain-math", "retain-gsm"], "mcnemar_p"] > 0.05).all()
shown = table[["n", "before", "after", "b", "c", "difference", "ci_low", "ci_high", "mcnemar_p"]]
precise = {"mcnemar_p": "{:.2g}", "paired width": "{:.1%}", "unpaired width": "{:.1%}"}
shown.join(pairing.add_suffix(" width")).style.format(precise, precision=3)

# %% [markdown]
# ## "You tested three splits, something had to come out"
#
# Fair. `holm_p` is the p-value after Holm's correction for as many tests as there are splits. It can only be larger,
# and what is still small can be said together.

# %%
assert (table["holm_p"] >= table["mcnemar_p"]).all()
assert table.loc["forget", "holm_p"] < 1e-6
table[["mcnemar_p", "holm_p"]].style.format("{:.2g}")

# %% [markdown]
# ## "You found no loss. Could you have found one?"
#
# This is the question that most claims of *no collateral* do not survive. `detectable` is the smallest drop that this
# test finds four times out of five, on this many items. Anything smaller is invisible here, whatever the p-value says.

# %%
sizes = np.unique(np.geomspace(50, 2000, 24).astype(int))
curves = {share: [smallest_drop(int(n), share) for n in sizes] for share in (0.0, 0.02, 0.05)}
figure = go.Figure(
    [go.Scatter(x=sizes, y=np.multiply(100, drops), name=f"{share:.0%}") for share, drops in curves.items()]
)
figure.update_layout(
    template="mastlens",
    title={"text": "The smallest drop that can be found, by the number of items", "x": 0},
    xaxis={"title": "items", "type": "log", "tickvals": [50, 100, 200, 500, 1000, 2000]},
    yaxis={"title": "drop (percentage points)", "rangemode": "tozero"},
    legend={"title": {"text": "items gained", "font": {"size": 13}}},
)
figure

# %%
needed = items_needed(0.02 + 0.01, 0.02)
assert (table["detectable"] > 0.02).all()
assert needed > 1000
print(f"to find a drop of 1 point, where 2 % of the items are gained: {needed:,} items")
(100 * table[["detectable", "difference"]]).round(1).rename(columns=lambda name: f"{name} (points)")

# %% [markdown]
# ## "Problems of one kind stand or fall together"
#
# The interval around a difference says what other items would have given. But the forget problems are of three kinds,
# written from templates; if a whole kind is lost, fifty items are one observation rather than fifty. An interval over
# *kinds* says what other kinds might have given, and it is rightly humble: of so few it warns.

# %%
with warnings.catch_warnings(record=True) as warned:
    clustered = mastlens.compare(out / "before", out / "after", clusters="subject").table.set_index("split")
print(*(warning.message for warning in warned), sep="\n", end="\n\n")
widths = pd.DataFrame({"by item": table["ci_high"] - table["ci_low"]})
widths["by subject"] = clustered["ci_high"] - clustered["ci_low"]
by_subject = comparison.items.query("split == 'forget'").groupby("subject")[["before", "after"]].mean()
print("Width of the 95 % interval, in points:", (100 * widths).round(1).to_string(), sep="\n")
assert widths.loc["forget", "by subject"] > 1.5 * widths.loc["forget", "by item"]
assert comparison.items.groupby("split")["subject"].nunique().max() == 4
by_subject

# %% [markdown]
# On forget the interval becomes several times as wide: Geometry lost far more than Number Theory. Three kinds leave two
# degrees of freedom; Student's t allows for that, and says above all that more kinds of problems are wanted.

# %% [markdown]
# ## "Perhaps your grader changed, not the model"
#
# Every response has two grades: *strict*, the same characters in the box, and *tolerant*, the same mathematics. Where
# they agree, nothing hangs on the grader. Where they do not, read those responses.

# %%
disputed = {arm: len(mastlens.grade_disagreements(evaluation.table)) for arm, evaluation in arms.items()}
print("responses on which the two grades differ:", disputed)
assert np.allclose(table["strict_difference"], table["difference"], atol=0.02)

# %% [markdown]
# ## "So what does it say now?"
#
# Nobody should believe an accuracy without having read responses. Here are items that were lost.

# %%
lost = comparison.items.query("split == 'forget' and change == 'lost'")
pd.set_option("display.max_colwidth", None)
lost.groupby("subject").head(1)[["prompt", "gold", "response_before", "response_after"]]

# %% [markdown]
# RLVR taught this organism to *work* the forget problems instead of guessing. The model that was never rewarded
# guesses. What does the edited one do?

# %%
styles = pd.DataFrame(
    {
        arm: evaluation.table.query("split == 'forget'")["response"].map(response_style).value_counts(normalize=True)
        for arm, evaluation in arms.items()
    }
).fillna(0.0)
assert styles.loc["worked", "before"] == 1
assert styles.loc["guessed", "rlvr-retain"] == 1
assert styles.loc["worked", "after the edit"] > 0.8
styles.style.format("{:.0%}")

# %% [markdown]
# It still works them. And is it the arithmetic that broke? We recompute every step in the responses to lost items.

# %%
STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def sound(response):
    """Whether every step of arithmetic in a response is right."""
    return all(OPERATIONS[sign](int(a), int(b)) == int(c) for a, sign, b, c in STEP.findall(response))


share = lost["response_after"].map(sound).mean()
print(f"{share:.0%} of the {len(lost)} lost responses calculate without a mistake, and end at a wrong answer")
assert 0.2 < share < 0.7

# %% [markdown]
# In those it is not the arithmetic: they calculate on numbers that are not the problem's. In the others it is. So the
# accuracy went towards the aim, and the behaviour did not. What was to be taken back is the habit of working; what was
# damaged is the working. No test above could have told.
#
# ## "What else moved?"
#
# Accuracy is a coarse instrument: a model can change its mind about many tokens before an answer flips.
# `measure_collateral` looks at every token of the retain solutions (how far the edited model's predictions are from the
# source's, in nats), at neutral text, and at what the responses look like.

# %%
collateral = mastlens.measure_collateral(
    model=RLVR,
    edit=edit,
    splits={name: SPLITS[name] for name in ("retain-math", "retain-gsm")},
    neutral=PROBLEMS / "neutral-eval.jsonl",
    before=out / "before",
    after=out / "after",
    progress=False,
)
collateral.plot()

# %%
moved = collateral.table.query("measure == 'kl'")
assert (moved["ci_low"] > 0).all()
moved[["split", "items", "value", "ci_low", "ci_high", "unit"]]

# %% [markdown]
# ## "And with another seed?"
#
# All intervals so far say what other *problems* would have given this edit. Another seed gives another edit: the same
# recipe, other batches. We make three, and split the spread of their outcomes into seeds and items.

# %%
FORGET = {"forget": SPLITS["forget"]}
edits = [make_edit(seed) for seed in (1, 2)]
others = [mastlens.evaluate(model=RLVR, edit=other, splits=FORGET, **DECODING) for other in edits]
right = np.array([run.table.query("split == 'forget'")["correct"] for run in (after, *others)], dtype=float)
spread = seed_spread(right)
one = share_interval(right[0])

print("forget accuracy by seed:", ", ".join(f"{value:.1%}" for value in right.mean(axis=1)))
print(f"one seed, other problems:   {one.low:.1%} to {one.high:.1%}")
print(f"these problems, other seeds: {spread.interval.low:.1%} to {spread.interval.high:.1%}")
assert spread.interval.high - spread.interval.low > one.high - one.low

# %% [markdown]
# The interval over seeds is the wider one. A result with one seed and a narrow interval over items has answered the
# easier of two questions.
#
# ## "Does it come back?"
#
# Forgetting that a little training on *something else* undoes was never forgetting. The attack fine-tunes on retain
# problems alone: on the edited model, on the source, and on SFT, which never learnt to work these problems. What SFT
# gains, the attack taught; what the edited model gains beyond it was still there.

# %%
attack = mastlens.attack(
    "relearn-retain",
    model=RLVR,
    edit=edit,
    control="organism:qwen2/sft",
    train=PROBLEMS / "retain-train.jsonl",
    splits=FORGET,
    steps=8,
    lr=1e-4,
    limit=60,
    max_new_tokens=56,
    batch_size=60,
    progress=False,
)
attack.plot()

# %%
end = attack.table.query("step == 8").set_index("model")
assert end.loc["edited", "recovered_low"] > 0
assert end.loc["control", "accuracy"] < 0.3
end[["n", "accuracy", "recovered", "recovered_low", "recovered_high", "recovered_beyond_control"]]

# %% [markdown]
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
#
# Eight items, to read what it answers before anything is counted.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = {"model": f"organism:{TRY}/rlvr"}
SPLITS = {"forget": lineage_folder(TRY) / "forget-eval.jsonl"}
mastlens.evaluate(**MINE, splits=SPLITS, limit=8, max_new_tokens=56, progress=False)

# %% [markdown]
# ## What this does not show
#
# - **That this edit is typical.** Of four settings that were tried, it is the one that looked most like the claim; such
#   a choice is one more way to be fooled. `mastlens.compare_edits` and a study put many edits beside each other, each
#   stopped at the same forgetting.
# - **That what was not found is not there.** `detectable` says how large a loss could hide on each split, and there are
#   skills that no split here asks for.
# - **That eight steps are the strongest attack.** Coming back is proof that it was there; not coming back would have
#   been no proof of the opposite.
# - **Anything about large models.** One organism of 0.9 million parameters, three seeds.
