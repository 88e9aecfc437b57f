# %% [markdown]
# # 08 Trajectories
#
# A training run that keeps its steps is a path through the weights. It has been said of the paths of RLVR that each
# tensor's updates lie along *one direction in time*, whose coefficient grows along a *straight line*, so that the end
# of a run could be read off its beginning (RELEX, [arXiv:2605.21468](https://arxiv.org/abs/2605.21468)).
#
# Such shares impress, and mean nothing before one knows what a path *without* any direction gives. So we make a run,
# then we make one that learns nothing, and look at both with the same eyes.

# %%
import tempfile
from pathlib import Path

import pandas as pd
import torch
from transformers.utils import logging

import mastlens
from mastlens.attacks.reinforcing import reinforce
from mastlens.organisms import get_organism, lineage_folder
from mastlens.plots import plot_accuracy
from mastlens.problems.reading import read_problems

logging.disable_progress_bar()
PROBLEMS = lineage_folder("qwen2")
BASE = mastlens.Checkpoint("organism:qwen2/base")
STEPS, EARLY = 24, 8  # steps of the run; how many of them a prediction may see
LR = 3e-5
workspace = tempfile.TemporaryDirectory()
out = Path(workspace.name)

# %% [markdown]
# ## A run
#
# The organism's base can work its problems and often guesses instead. GRPO rewards right answers: 24 steps, eight
# samples each of eight prompts, started from the base without any SFT. We keep every step. (`mastlens organism
# trajectory qwen2` runs the longer RLVR of the shipped lineage again, in eight minutes.)

# %%
model, tokenizer = BASE.load_model(), BASE.load_tokenizer()
files = (PROBLEMS / "forget-train.jsonl", PROBLEMS / "retain-train.jsonl")
prompts = [problem for file in files for problem in read_problems(file)[:240]]


def keep(model, step, name):
    """Save the model as it is after a step."""
    model.save_pretrained(out / name / f"step_{step}")
    tokenizer.save_pretrained(out / name / f"step_{step}")


# %%
reinforce(
    model,
    tokenizer,
    prompts,
    lr=LR,
    steps=STEPS,
    max_new_tokens=56,
    seed=0,
    after_step=lambda step: keep(model, step, "run"),
)

# %% [markdown]
# ## One direction in time
#
# For each tensor, `trajectory` lines up the updates $\theta_t - \theta_0$, finds the direction that explains most of
# them, and fits a line to how far along it the run is at each step. Beside each measure stands what a random walk of
# independent steps gives, by formula.

# %%
whole = mastlens.trajectory(BASE, out / "run", progress=False)
whole.plot_explained()

# %%
MEASURES = ["explained_variance", "linearity", "increment_cosine"]


def medians(trajectory):
    """Medians over the attention projections."""
    return trajectory.table.query("projection != ''")[MEASURES].median()


null = whole.table[["explained_variance_walk", "linearity_walk"]].iloc[0]
assert medians(whole)["explained_variance"] > 0.7
assert 0.75 < null["explained_variance_walk"] < 0.85
found = medians(whole)
print(f"one direction explains {found['explained_variance']:.2f} of the median projection's updates,")
print(f"its line has R² {found['linearity']:.2f}; a walk, by formula, has {null.iloc[0]:.2f} and {null.iloc[1]:.2f}")

# %% [markdown]
# ## A run that learns nothing
#
# So the run beats the walk? A walk's steps are independent and equally long. Those of an optimiser are neither: AdamW
# goes along an average of the last ten gradients or so, and its first steps are its longest. A null has to share that.
# So let us give AdamW, from the same base and at the same learning rate, gradients that are *pure noise*.

# %%
noisy = BASE.load_model().requires_grad_(True)
optimiser = torch.optim.AdamW(noisy.parameters(), lr=LR, weight_decay=0.0)
generator = torch.Generator().manual_seed(0)
for step in range(1, STEPS + 1):
    for parameter in noisy.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimiser.step()
    keep(noisy, step, "noise")

noise = mastlens.trajectory(BASE, out / "noise", progress=False)
both = pd.DataFrame({"the run": medians(whole), "AdamW on noise": medians(noise)})
assert (both["the run"] - both["AdamW on noise"]).abs().max() < 0.05
both.round(3)

# %% [markdown]
# There is no telling them apart. One direction in time, a straight line, steps that point where the step before them
# pointed (`increment_cosine`): all of it is the optimiser. None of it says that anything was learnt.
#
# ## Does the beginning predict the end?
#
# The claim that matters is the prediction. The fit may see the first third of the steps; the line is then drawn on to
# the last step. The easy rival is *staying*: taking the last step seen for the last one.

# %%
early = mastlens.trajectory(BASE, out / "run", window=EARLY, extrapolate=STEPS, out=out / "early", progress=False)
early.plot()

# %%
noise_early = mastlens.trajectory(BASE, out / "noise", window=EARLY, progress=False)
ERRORS = {"last_error": "the line", "last_error_stay": "staying"}
errors = pd.DataFrame(
    {
        name: trajectory.table.query("projection != ''")[list(ERRORS)].median()
        for name, trajectory in {"the run": early, "AdamW on noise": noise_early}.items()
    }
)
assert (errors.loc["last_error"] > errors.loc["last_error_stay"]).all()
assert (errors["the run"] - errors["AdamW on noise"]).abs().max() < 0.1
print("distance from the last step, as a share of the whole update (median projection):")
errors.rename(ERRORS).round(3)

# %% [markdown]
# The line goes too far: steps become shorter, and a line cannot know that. Whoever had stayed where the fit ended would
# have been nearer to the end. And again the noise does the same.
#
# ## What the predicted model can do
#
# Distances in the weights are not yet abilities. A prediction is written as a checkpoint, so it can be asked.

# %%
MODELS = {
    "base": BASE,
    f"step {EARLY}, the last one seen": out / "run" / f"step_{EARLY}",
    f"the line at step {STEPS}": early.checkpoints[f"extrapolated-{STEPS}"],
    f"step {STEPS}": out / "run" / f"step_{STEPS}",
    f"AdamW on noise, step {STEPS}": out / "noise" / f"step_{STEPS}",
}
SPLITS = {"forget": PROBLEMS / "forget-eval.jsonl", "retain-gsm": PROBLEMS / "retain-gsm-eval.jsonl"}
asked = {
    name: mastlens.evaluate(model=path, splits=SPLITS, max_new_tokens=56, batch_size=204, progress=False)
    for name, path in MODELS.items()
}
accuracies = pd.concat([evaluation.accuracy.assign(arm=name) for name, evaluation in asked.items()])
plot_accuracy(accuracies, title="What the models can do: on the path, and on the line")

# %%
right = accuracies.pivot(index="arm", columns="split", values="accuracy").loc[list(MODELS)]
start, seen, line, end, nothing = right.mean(axis=1)
assert start + 0.05 < seen < line < end
assert nothing < start + 0.05
right.style.format("{:.1%}")

# %% [markdown]
# Here they part: noise of the same length teaches nothing. And the claim does better than its distance. The line misses
# the end by more than the whole way, and still the model on it can do more than the last one that the fit has seen, if
# not what the real end can. Going on in the direction of the update helps; how far to go the line did not know.
#
# ## Where the path lies
#
# Is there nothing in the weights, then, that tells the run from noise? There is, and it is not in time but in space.
# First, the geometry of [notebook 02](02_subspaces_and_nulls.ipynb), step by step: how much of the update so far lies
# outside of the base weight's principal subspaces, with what chance gives as a dashed line.

# %%
whole.plot_geometry()

# %% [markdown]
# Second, how much of a matrix's whole update lies in its *first singular triple*, which is said to carry most of what
# RLVR does (AlphaRL, [arXiv:2510.00553](https://arxiv.org/abs/2510.00553)).

# %%
SPACE = ["off_principal", "off_principal_null", "matrix_rank_1", "matrix_rank_1_null"]
space = pd.DataFrame()
for name, trajectory in {"the run": whole, "AdamW on noise": noise}.items():
    last = trajectory.steps.query(f"step == {STEPS}")[["name", "off_principal", "off_principal_null"]]
    space[name] = trajectory.table.query("projection != ''").merge(last, on="name")[SPACE].median()
ours, theirs = space["the run"], space["AdamW on noise"]
assert ours["off_principal"] < ours["off_principal_null"] - 0.1
assert ours["matrix_rank_1"] > 3 * ours["matrix_rank_1_null"]
assert abs(theirs["off_principal"] - theirs["off_principal_null"]) < 0.02
assert abs(theirs["matrix_rank_1"] - theirs["matrix_rank_1_null"]) < 0.02
space.round(3)

# %% [markdown]
# The noise lies where chance puts it, in both. The run lies more *inside* of the principal subspaces, and its update
# has a few directions of its own. (A fifth or so in the first triple is far more than chance and far from most.)
#
# ## Your own run
#
# Step folders named `step_N`, `checkpoint-N` or `global_step_N` are found by themselves, and revisions of a hub
# repository count as steps:
#
# ```
# mastlens trajectory THETA_0 RUN_FOLDER --window 0.3 --extrapolate 500 --out steps
# mastlens trajectory THETA_0 ORG/RUN@step_10 ORG/RUN@step_20 ORG/RUN@step_30 --out steps
# ```

# %% [markdown]
# ## With your own checkpoints
#
# Put your own in place of `organism:...`, a folder or a hub id (`OWNER/NAME@REVISION`). Here stands a real model of
# 135 M parameters where it is in the cache (`mastlens organism build smollm2-short` makes it), else the shipped one.
#
# Three checkpoints of one line in their order; a run has more, and needs thirteen for a verdict.

# %%
TRY = "smollm2-short" if get_organism("smollm2-short").present else "qwen2"
MINE = [f"organism:{TRY}/{stage}" for stage in ("base", "sft", "rlvr")]
mastlens.trajectory(*MINE, steps=[1, 2], progress=False)

# %% [markdown]
# ## What this does not show
#
# - **That RELEX is right or wrong.** It reports runs of hundreds of steps on models of billions of parameters. What
#   holds there as here is that explained variance and a straight line are no evidence by themselves.
# - **What another run would give.** GRPO samples; this is one run, and on another machine it is another one. Its
#   learning rate is the third that was tried: with larger ones the run was over in a few steps, or went wrong.
