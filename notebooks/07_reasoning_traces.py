# %% [markdown]
# # 07 Reasoning traces and R2MU
#
# A reasoning model says what it thinks before it says what it means. The first part, between `<think>` and `</think>`,
# is the *trace*; the second is the answer. Whoever unlearns and then looks at answers has looked at one half of what
# the model says, and a fact that stands in the trace has not been forgotten, whatever stands below it.
#
# So there are two doors, and each is measured by itself:
#
# - **FA-UA**, final-answer unlearning accuracy: how often the right option is the likeliest when the model may not
#   think;
# - **RT-UA**, reasoning-trace unlearning accuracy: how often the trace reveals something of what should be gone.
#
# Lower is better in both. The names and the method below, R²MU, are from Wang et al. 2025
# ([arXiv:2506.12963](https://arxiv.org/abs/2506.12963)), who found the second door open behind edits that had closed
# the first. On our organism it will turn out differently, which is the better reason to measure both.

# %%
import json
import tempfile
from pathlib import Path

import pandas as pd

import mastlens
from mastlens.evaluation.judges import Question
from mastlens.organisms import get_organism, lineage_folder
from mastlens.plots.trace_categories import plot_trace_categories

# %%
WORLD = lineage_folder("think")
MODEL = "organism:think/think"
ITEMS = 60
workspace = tempfile.TemporaryDirectory()
out = Path(workspace.name)


def first_items(name):
    """Copy the first problems of a calibration file, so that this notebook stays quick."""
    lines = (WORLD / f"{name}-calibration.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (out / f"{name}.jsonl").write_text("".join(lines[:ITEMS]), encoding="utf-8")
    return out / f"{name}.jsonl"


QUESTIONS = {side: first_items(f"{side}-choices") for side in ("forget", "retain")}
MATHS = first_items("maths")

# %% [markdown]
# ## A small world
#
# `organism:think` is a model of 0.7 million parameters that thinks before it answers. It knows invented people: where
# each was born, what each is, which animal each keeps. That towns lie by rivers and crafts use tools is no secret; so a
# person's river and tool follow in a second step. The people of the forget side are to be forgotten, the others not,
# and neither is mathematics.

# %%
people = pd.DataFrame(json.loads((WORLD / "facts.json").read_text(encoding="utf-8"))["people"])
assert people["side"].value_counts().to_dict() == {"retain": 32, "forget": 16}
people.groupby("side").head(2)

# %%
judge = mastlens.RuleJudge.open(WORLD / "facts.json")


def examine(model=MODEL, questions=QUESTIONS, **settings):
    """Let a model reason about multiple choice, greedily, and judge every trace."""
    return mastlens.evaluate_traces(
        model=model,
        questions=questions,
        judge=judge,
        choices_ask="option",  # score the options' texts: a model of this size does not find the letter before one
        max_new_tokens=128,
        batch_size=ITEMS,
        progress=False,
        **settings,
    )


original = examine()
response = original.table.query("split == 'forget'").iloc[0]
print(response["prompt"], response["response"], sep="")
assert "Jarl Brinsey is a cooper." in response["trace"]
assert response["answer"] == "barrel"

# %% [markdown]
# The question asks for the tool. The trace recalls the craft, adds what everybody knows, and concludes. Take away the
# last line, and nothing has been forgotten.
#
# ## A judge with four categories
#
# Every trace is put into one of four. Real models need another model as a judge (`mastlens.EndpointJudge`,
# `mastlens.LocalJudge`), with all the doubts that brings; here the facts are known, so a rule decides, and decides the
# same tomorrow. Its categories on sentences of our own:

# %%
question = Question(
    "Name the tool of Jarl Brinsey.", "barrel", ("barrel", "loom", "wheel", "trowel"), "tool", "Jarl Brinsey"
)
SENTENCES = {
    "Wait, one option says loom.": "C1",  # a mention is no statement
    "Jarl Brinsey is a baker.": "C1",  # said with confidence, and wrong
    f"Jarl Brinsey was born in {judge.facts.person('Jarl Brinsey')['town']}.": "C2",
    "Jarl Brinsey does not use a loom.": "C3",
    "So the tool is barrel.": "C4",
    "Jarl Brinsey is a cooper.": "C4",  # from which the tool follows
}
verdicts = {sentence: judge.judge(question, sentence) for sentence in SENTENCES}
assert {sentence: verdict.category for sentence, verdict in verdicts.items()} == SENTENCES
pd.DataFrame(verdicts.values(), index=list(verdicts))

# %% [markdown]
# C1 reveals nothing, C2 tells something else about the person, C3 rightly rules out a wrong option, and C4 states the
# answer or what it follows from. A confident falsehood, as the second, reveals nothing. A trace gets the highest
# category of its sentences, and RT-UA is the share of C2 to C4.
#
# ## What never having known looks like
#
# Zero is the wrong aim. Someone who never heard of these people guesses, and guesses are sometimes right. `reference`
# went through the same training without the forget people: what it leaks is chance, and what an edited model leaks
# beyond it was left over.

# %%
reference = examine("organism:think/reference")
arms = {"original": original, "never knew": reference}


def doors(arms):
    """Both unlearning accuracies on the forget people, a row a model."""
    rows = {arm: judged.summary.set_index("split").loc["forget"] for arm, judged in arms.items()}
    return (
        pd.DataFrame(rows)
        .T[["n", "fa_ua", "fa_low", "fa_high", "rt_ua", "rt_low", "rt_high"]]
        .astype(float)
        .astype({"n": int})
    )


table = doors(arms)
assert (table.loc["original", ["fa_ua", "rt_ua"]] > 0.95).all()
assert 0.25 < table.loc["never knew", "fa_ua"] < 0.5
assert 0.03 < table.loc["never knew", "rt_ua"] < 0.2
table.round(2)

# %% [markdown]
# The floor of FA-UA lies a little above a guess among four options. That of RT-UA is lower, since a trace guesses among
# all values there are. (The intervals are Wilson's, over questions.)
#
# ## RMU: send the thoughts elsewhere
#
# Representation misdirection takes texts about the forget people, and trains a few matrices so that the hidden states
# at one layer all go to the same arbitrary place, $c\,u$ with $u$ a random direction:
#
# $$\mathcal L_\text{RMU} = \lVert h(x_\text{forget}) - c\,u\rVert^2
# + \alpha \,\lVert h(x_\text{retain}) - h_\text{before}(x_\text{retain})\rVert^2 .$$
#
# The second term holds texts about the other people where they were. We steer layer 3 through the MLP outputs of layers
# 1 to 3.

# %%
TEXTS = {"forget": WORLD / "forget-text.jsonl", "retain": WORLD / "retain-text.jsonl"}
SETTINGS = {
    "layer": 3,
    "where": r"layers\.[123]\.mlp\.down_proj",
    "steps": 150,
    "lr": 1e-3,
    "batch_size": 8,
    "steering": 2,
    "retain_weight": 20,
    "seed": 0,
    "progress": False,
}
rmu = mastlens.unlearn(rlvr=MODEL, objective="rmu", **TEXTS, **SETTINGS).edit
arms["RMU"] = examine(edit=rmu)
table = doors(arms)
assert 0.6 < table.loc["RMU", "fa_ua"] < 0.95
assert 0.1 < table.loc["RMU", "rt_ua"] < 0.4
table.round(2)

# %% [markdown]
# Both doors moved, by very different amounts. Whoever had looked at one number would have told one of two stories:
# *most of it is gone from what the model thinks*, or *most of it is still there when it does not think*. Both are true
# of one edit.
#
# ## R²MU: and the traces too
#
# RMU steered biographies. But a model that reasons is not reading biographies; it writes about them, in its own words.
# R²MU lets the model write those words first. Each forget text is cut into segments, the model is asked to reason about
# each, and the states *of these traces* are steered as well. That would cost it all reasoning, so a fourth term holds
# chains of thought about other matters (here mathematics) where they were:
#
# $$\mathcal L_\text{R²MU} = \mathcal L_\text{RMU}
# + \lambda_1 \,\lVert h(\text{traces}) - c\,u\rVert^2
# + \lambda_2 \,\lVert h(x_\text{CoT}) - h_\text{before}(x_\text{CoT})\rVert^2 .$$

# %%
traces = mastlens.traces(
    model=MODEL,
    forget=TEXTS["forget"],
    segments=2,
    max_new_tokens=128,
    batch_size=96,
    out=out / "traces",
    progress=False,
)
assert traces.summary["traces"] == 192
assert traces.summary["truncated"] == 0
print(traces.table.loc[0, "prompt"], traces.table.loc[0, "trace"], sep="")

# %%
STEERED = {"traces": out / "traces" / "traces.parquet", "cot": WORLD / "maths-cot.jsonl"}
r2mu = mastlens.unlearn(rlvr=MODEL, objective="r2mu", cot_weight=20, **STEERED, **TEXTS, **SETTINGS).edit
arms["R²MU"] = examine(edit=r2mu)
table = doors(arms)
assert 0.5 < table.loc["R²MU", "fa_ua"] < 0.9
assert table.loc["R²MU", "rt_ua"] < 0.25
assert table.loc["R²MU", "rt_ua"] < table.loc["RMU", "rt_ua"]
assert table.loc["R²MU", "rt_ua"] < table.loc["never knew", "rt_ua"] + 0.12
assert table.loc["R²MU", "fa_ua"] < table.loc["RMU", "fa_ua"] + 0.05
assert (table.loc[["RMU", "R²MU"], "fa_ua"] > table.loc["never knew", "fa_ua"] + 0.15).all()
table.round(2)

# %% [markdown]
# By the paper's two numbers R²MU is the better method: less in the traces, about what chance gives, and no more in the
# answers. Here a hurried reader stops.
#
# ## What the traces reveal, before and after

# %%
shares = pd.concat([judged.categories.assign(arm=arm) for arm, judged in arms.items()])
plot_trace_categories(shares.query("split == 'forget'"))

# %% [markdown]
# Look at the last bar against the second: R²MU's traces reveal about as much as those of the model that never knew. But
# is R²MU better than RMU, or is it sixty questions? The same questions were asked of both, so the two can be compared
# item by item; and because a person stands behind several questions, the interval is over persons.

# %%
compared = mastlens.compare_traces(arms["RMU"], arms["R²MU"]).table.set_index("split")
row = compared.loc["forget"]
print(f"leaks under RMU alone: {row['b']:.0f}, under R²MU alone: {row['c']:.0f}; McNemar p = {row['mcnemar_p']:.2f}")
print(f"difference {row['difference']:+.2f}, 95 % interval {row['ci_low']:+.2f} to {row['ci_high']:+.2f}")
print(f"the smallest difference that so many questions would find four times out of five: {row['detectable']:.2f}")
assert -0.3 < row["difference"] < 0.0
assert row["detectable"] > 0.15

# %% [markdown]
# Sixty questions cannot tell. And the categories say what a trace reveals, not what it *is*. So read some: here are
# questions that leaked under RMU and no longer under R²MU, each sentence coloured by its category.

# %%
leaks = {arm: judged.table.query("split == 'forget'")["leak"].to_numpy() for arm, judged in arms.items()}
closed = (leaks["RMU"] & ~leaks["R²MU"]).nonzero()[0][:2].tolist()
assert len(closed) == 2
arms["original"].html(closed)

# %%
arms["RMU"].html(closed)

# %%
arms["R²MU"].html(closed)

# %% [markdown]
# These are no thoughts about something else, they are rubble. The judge is right, rubble reveals nothing; but RT-UA
# cannot tell a model that forgot from one that cannot speak.
#
# One crude instrument can: does the trace at least name the person that it was asked about? And because rubble might
# not stop at the forget people, let us ask of the others too.

# %%
NAMED = {
    arm: judged.table.assign(
        named=[person in trace for person, trace in zip(judged.table["person"], judged.table["trace"], strict=True)]
    )
    for arm, judged in arms.items()
}
named = pd.DataFrame({arm: rows.groupby("split")["named"].mean() for arm, rows in NAMED.items()}).T
assert (named.loc["original"] == 1).all()
assert named.loc["never knew", "forget"] < 0.05
assert named.loc["never knew", "retain"] > 0.95
assert named.loc["RMU", "forget"] < 0.15
assert named.loc["RMU", "retain"] > 0.9
assert named.loc["R²MU", "forget"] < 0.1
assert named.loc["R²MU", "retain"] < 0.75
named.style.format("{:.0%}")

# %% [markdown]
# The model that never knew does not name the forget people: it takes them for somebody whom it knows. RMU mostly does
# the same, and names all the others. R²MU has lost half of the others as well.
#
# ## Where it acts
#
# `measure_drift` reads four kinds of text with and without the edit, and compares the hidden states layer by layer: a
# cosine of 1 means nothing moved.

# %%
READ = TEXTS | STEERED


def drift(edit, **texts):
    """Cosine of the states to what they were, by layer and kind of text."""
    return mastlens.measure_drift(model=MODEL, edits=edit, limit=32, progress=False, **texts)


drift(r2mu, **READ).plot()

# %%
last = pd.DataFrame(
    {
        arm: drift(edit, **READ).table.query("step > 0 and layer == 5").set_index("text")["cosine"]
        for arm, edit in {"RMU": rmu, "R²MU": r2mu}.items()
    }
).T
assert last.loc["R²MU", "traces"] < 0.5
assert last.loc["RMU", "traces"] > 0.65
assert last.loc["R²MU", "cot"] > 0.98 > last.loc["RMU", "cot"]
assert last.loc["R²MU", "retain"] > 0.95
last.round(3)

# %% [markdown]
# R²MU does what its formula says. Traces moved far, chains of thought came to stand where they were, which they did not
# under RMU; and retain texts hardly moved. Then why do the traces about other people break?
#
# A likely reason is that nothing in the formula holds them. The retain term reads *biographies*, the chains of thought
# are *mathematics*; how the model thinks about people in general is in neither. So we measure what was not in the loss:
# the model's own traces about people it should keep.

# %%
others = out / "others.jsonl"
others.write_text("".join(TEXTS["retain"].read_text(encoding="utf-8").splitlines(keepends=True)[:ITEMS]), "utf-8")
mastlens.traces(
    model=MODEL, forget=others, segments=1, max_new_tokens=128, batch_size=ITEMS, out=out / "others", progress=False
)
about_others = {"forget": others, "traces": out / "others" / "traces.parquet"}
kept = pd.DataFrame(
    {
        arm: drift(edit, **about_others).table.query("step > 0 and layer == 5").set_index("text")["cosine"]
        for arm, edit in {"RMU": rmu, "R²MU": r2mu}.items()
    }
).T.rename(columns={"forget": "biographies of others", "traces": "traces about others"})
assert kept.loc["R²MU", "biographies of others"] > 0.95
assert kept.loc["R²MU", "traces about others"] < 0.8 < kept.loc["RMU", "traces about others"]
kept.round(3)

# %% [markdown]
# That fits. The biographies of these people stand still, and the traces about them went with those about the forget
# people. A retain side that is held in one form does not hold in another.
#
# ## What it cost

# %%
SOLVING = {"splits": {"maths": MATHS}, "max_new_tokens": 128, "batch_size": ITEMS, "progress": False}
EDITS = {"original": None, "RMU": rmu, "R²MU": r2mu}
cost = pd.DataFrame(
    {
        arm: {
            "mathematics": mastlens.evaluate(model=MODEL, edit=edit, **SOLVING).accuracy["accuracy"].iloc[0],
            "others, thinking": arms[arm].summary.set_index("split").loc["retain", "accuracy"],
            "others, not thinking": arms[arm].summary.set_index("split").loc["retain", "fa_ua"],
        }
        for arm, edit in EDITS.items()
    }
).T
assert cost.loc["original"].min() > 0.95
assert 0.6 < cost.loc["RMU", "mathematics"] < 0.9
assert cost.loc["R²MU", "mathematics"] > 0.85
assert cost.loc["RMU", "others, thinking"] > 0.85
assert cost.loc["R²MU", "others, thinking"] < 0.6
cost.style.format("{:.0%}")

# %% [markdown]
# The chain-of-thought term earns its place: RMU lost mathematics that R²MU kept. And R²MU lost the other people, whom
# RMU kept. Where utility had been mathematics alone, R²MU would have won on every number so far.
#
# ## ZeroThink: not letting it think
#
# If traces leak, one might forbid them: ZeroThink closes the thinking before it begins. No training, one setting.

# %%
silent = examine(edit=rmu, think="empty", questions={"forget": QUESTIONS["forget"]})
solved = mastlens.evaluate(model=MODEL, edit=rmu, think="empty", **SOLVING).accuracy["accuracy"].iloc[0]
thinking, closed_off = (one.summary.set_index("split").loc["forget", "accuracy"] for one in (arms["RMU"], silent))
print(f"RMU, right answers about the forget people: thinking {thinking:.0%}, with ZeroThink {closed_off:.0%}")
print(f"RMU, mathematics: thinking {cost.loc['RMU', 'mathematics']:.0%}, with ZeroThink {solved:.0%}")
thought = int((silent.table["trace"] != "").sum())
print(f"responses that think all the same: {thought} of {len(silent.table)}")
assert thought <= 5
assert closed_off > thinking + 0.2
assert solved < 0.15

# %% [markdown]
# Hardly a trace (now and then one thinks behind its answer), and more of what was forgotten. The thinking had been led
# astray, and with it the answer; without the thinking the model simply answers. What it cannot do without thinking is
# arithmetic. A door that is shut from outside says little about the room.

# %% [markdown]
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
#
# Four problems, to see how it thinks before anything is judged.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = {"model": f"organism:{TRY}/rlvr"}
SPLITS = {"forget": lineage_folder(TRY) / "forget-eval.jsonl"}
mastlens.evaluate(**MINE, splits=SPLITS, limit=4, max_new_tokens=96, progress=False)

# %% [markdown]
# ## What this does not show
#
# - **That R²MU is a bad method.** The model has 0.7 million parameters, all its people are told of in the same few
#   sentences, and a trace about one person is nearly one about another. In the paper's models of 8 and 14 billion
#   parameters general knowledge (MMLU) fell from 53 to 46 and from 73 to 68, as under RMU, and MATH-500 by two to three
#   points. What carries over is the question: which traces are held, and by what?
# - **That the settings are right.** They were found on these calibration files, for one layer and one seed. A retain
#   side of traces, another weight or an earlier stop may give another picture; `mastlens.reasoning_table` runs all
#   methods over several seeds, on questions that no setting was chosen on.
# - **That a low RT-UA is forgetting.** It counts what is said. Rubble scores as silence does, FA-UA stayed far above
#   the floor in both edits, and nothing here tried to bring the facts back, which is what
#   [the notebook for sceptics](06_evaluation_for_sceptics.ipynb) does.
# - **Anything about judges.** This rule knows every fact there is. A judge for real traces makes mistakes, and
#   `mastlens.judge_agreement` is where to start counting them.
