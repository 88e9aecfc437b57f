# %% [markdown]
# # 09 Your own checkpoints
#
# Everything so far ran on an organism that comes with the package. This notebook runs on yours: what to type, what it
# needs, how long it takes. Change the next cell and run all; as it stands it runs on the organism, which takes a
# minute.
#
# A checkpoint is a local folder, a hub id with an optional `@revision`, or a LoRA adapter (`BASE+ADAPTER`). `"sft":
# None` says that RLVR started from the base. A good line to begin with is Qwen2.5-Math-1.5B and an RLVR run of it:
#
# ```python
# CHECKPOINTS = {
#     "base": "Qwen/Qwen2.5-Math-1.5B",
#     "sft": None,
#     "rlvr": "relex-rlvr/RLVR-Qwen2.5-Math-1.5B",  # its revisions step_1, step_2, ... are the run
# }
# ```

# %%
import itertools
import json
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

import mastlens
from mastlens.organisms import lineage_folder

# %%
CHECKPOINTS = {"base": "organism:qwen2/base", "sft": "organism:qwen2/sft", "rlvr": "organism:qwen2/rlvr"}

logging.disable_progress_bar()
ORGANISM = CHECKPOINTS["rlvr"].startswith("organism:")
DEVICE = "cuda" if torch.cuda.is_available() and not ORGANISM else "cpu"
RESPONSE = 56 if ORGANISM else 1024  # tokens after which a response is cut off
TOP = 12 if ORGANISM else 56  # attention projections to edit
# Give a folder of your own instead, and what is there is not computed again.
workspace = tempfile.TemporaryDirectory()
out = Path(workspace.name)

# %% [markdown]
# ## Is it a lineage?
#
# The first call with a hub id downloads; 1.5 billion parameters in bfloat16 are 3 GB each. Then the checkpoints are
# compared before anything is computed: one architecture, the same shapes, related weights, and not twice the same file.
# Many published "bases" are not what a model was trained from, and a subtraction would not have noticed.

# %%
lineage = mastlens.Lineage.open(CHECKPOINTS["rlvr"], sft=CHECKPOINTS["sft"], base=CHECKPOINTS["base"])
START = lineage.sft or lineage.base  # what RLVR started from
facts = pd.DataFrame({role: mastlens.inspect(checkpoint).summary for role, checkpoint in lineage.stages.items()})
assert not ORGANISM or facts.loc["attention_parameters", "rlvr"] == 221_184
facts.loc[
    ["architecture", "dtypes", "layers", "parameters", "attention_parameters", "heads", "groups", "tied", "biases"]
]

# %% [markdown]
# ## Problems
#
# Two files, *forget* and *retain*, for training; and others of the same kinds to measure on. They are JSON lines in the
# names of MATH (`problem`, `solution`, `answer`) or of GSM8K (`question`, `answer` with `#### n`). `mastlens benchmarks
# mast --math MATH --gsm8k GSM8K --out sets` draws the sets of the MAST paper. A line that does not fit is named with
# its number.

# %%
lines = [
    {"problem": "What is 2 + 3?", "solution": r"We add: $2 + 3 = 5$. So \boxed{5}.", "answer": "5", "subject": "Sums"},
    {"question": "Ann has 4 pens and buys 2. How many now?", "answer": "4 + 2 = <<4+2=6>>6 pens.\n#### 6"},
]
mine = out / "mine.jsonl"
mine.write_text("".join(json.dumps(line) + "\n" for line in lines))
read = mastlens.read_problems(mine)
assert [problem.answer for problem in read] == ["5", "6"]
pd.DataFrame([(p.problem, p.solution, p.answer) for p in read], columns=["problem", "solution", "answer"])

# %%
mine.write_text(json.dumps(lines[0]) + "\n" + json.dumps({"problem": "And 3 + 4?"}) + "\n")
try:
    mastlens.read_problems(mine)
except mastlens.MastlensError as error:
    print(str(error).replace(str(out), "…"))

# %%
PROBLEMS = lineage_folder("qwen2")  # your folder, with files of these names
NAMES = ("forget-train", "retain-train", "forget-eval", "retain-math-eval")
COUNT = 64  # how many of each to use in a first look; None for all


def first(path):
    """The first problems of a file, as a file of their own."""
    with path.open(encoding="utf-8") as stream:
        (out / path.name).write_text("".join(itertools.islice(stream, COUNT)), encoding="utf-8")
    return out / path.name


forget, retain, forget_eval, retain_eval = (first(PROBLEMS / f"{name}.jsonl") for name in NAMES)
assert len(mastlens.read_problems(forget)) == COUNT

# %% [markdown]
# ## How long will it take here?
#
# Before starting hours of work one wants to know that they are hours. The cost of nearly everything is that of passing
# tokens through layers, and a layer can be timed alone: below one decoder layer of the size of Qwen2.5-Math-1.5B, with
# random weights, on this machine. The rest is arithmetic: a pass costs in proportion to the parameters that it goes
# through.

# %%
SIZE = {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2}
with torch.device("meta"):  # counts parameters without having any
    whole = Qwen2ForCausalLM(Qwen2Config(**SIZE, num_hidden_layers=28, vocab_size=151_936, tie_word_embeddings=True))
layer = Qwen2ForCausalLM(Qwen2Config(**SIZE, num_hidden_layers=1, vocab_size=64)).to(DEVICE)
share = whole.num_parameters() / sum(weight.numel() for weight in layer.model.layers.parameters())
assert whole.num_parameters() == 1_543_714_304


# %%
def seconds(work, repeats=3):
    """The fastest of a few repeats."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found)


# %%
texts = torch.randint(64, (2, 256), device=DEVICE)
answers = torch.randint(64, (32, 1), device=DEVICE)
# Seconds a token; and seconds to write one token of each of 32 responses.
training = share * seconds(lambda: layer(texts, labels=texts).loss.backward()) / texts.numel()
with torch.no_grad():
    decoding = share * seconds(lambda: layer(answers))
print(f"1.5 billion parameters on this {DEVICE}, in float32:")
print(f"{1 / training:,.1f} tokens a second in training, {32 / decoding:,.1f} in writing")

# %% [markdown]
# Geometry is timed by itself: the attention of that one layer, twice, in bfloat16, as the checkpoints would be.

# %%
with torch.no_grad():
    layer.to(torch.bfloat16).save_pretrained(out / "before")
    for weight in layer.parameters():
        weight.mul_(1 + 0.01 * torch.randn_like(weight))
    layer.save_pretrained(out / "after")
geometric = seconds(
    lambda: mastlens.geometry(base=out / "before", rlvr=out / "after", device=DEVICE, progress=False), repeats=1
)

# %%
length = 300  # tokens of a problem with its solution: a guess, put your own
attention = 28 * sum(p.numel() for name, p in layer.named_parameters() if "self_attn" in name and p.dim() == 2)
estimates = pd.DataFrame(
    [
        ("download, each checkpoint", None, 2 * whole.num_parameters()),
        ("geometry, 112 projections", 28 * geometric, None),
        ("couple, 500 + 500 problems", 1000 * length * training, 4 * (whole.num_parameters() + attention)),
        ("unlearn, 50 steps of 8 + 8", 50 * 16 * length * training, 4 * (whole.num_parameters() + 4 * attention)),
        ("evaluate, 600 responses of 500 tokens", 600 / 32 * 500 * decoding, 4 * whole.num_parameters()),
    ],
    columns=["stage, for 1.5 billion parameters", "minutes here", "GB, weights alone"],
)
estimates["minutes here"] /= 60
estimates["GB, weights alone"] /= 1e9
assert attention == 154_140_672
estimates.style.format("{:,.1f}", subset=list(estimates.columns[1:]), na_rep="–").hide()

# %% [markdown]
# Read it as orders of magnitude: texts differ in length, a loaded machine is slower than itself, activations come on
# top of the weights. `unlearn` counts the most that a selection of the attention can need, a float32 copy, its gradient
# and the optimiser's two moments; a smaller selection needs less, and one in the upper layers is faster too.
#
# ## The chain
#
# The rest is the method, in five calls. Each writes into `out`; each says in `run.json` what it was made from.

# %%
geometry = mastlens.geometry(
    base=lineage.base, sft=lineage.sft, rlvr=lineage.rlvr, device=DEVICE, out=out / "run", progress=False
)
coupling = mastlens.couple(
    sft=START, rlvr=lineage.rlvr, forget=forget, retain=retain, device=DEVICE, out=out / "run", progress=False
)
ranking = mastlens.rank(out / "run", top=TOP)
assert len(ranking.selected) == TOP
geometry.plot()

# %%
ranking.plot()

# %% [markdown]
# The learning rate is the one number that does not carry over: AdamW moves each entry by about that much a step, and
# the entries of large models are smaller and stored more coarsely. Begin at 5e-6, and let probes on calibration
# problems stop the run (`probes=mastlens.ProbeSettings(...)`) before the model is wrecked.

# %%
edited = mastlens.unlearn(
    rlvr=lineage.rlvr,
    forget=forget,
    retain=retain,
    ranking=out / "run" / "ranking.parquet",
    objective="npo",
    steps=20,
    lr=1e-4 if ORGANISM else 5e-6,
    device=DEVICE,
    out=out / "run",
    progress=False,
)
print(f"{len(edited.edit.names)} tensors edited; rounding lost {edited.swallowed:.1%} of the changed entries")
assert sorted(edited.edit.names) == sorted(ranking.selected)

# %%
asked = {
    "splits": {"forget": forget_eval, "retain-math": retain_eval},
    "max_new_tokens": RESPONSE,
    "device": DEVICE,
    "progress": False,
}
mastlens.evaluate(model=lineage.rlvr, out=out / "source", **asked)
mastlens.evaluate(model=lineage.rlvr, edit=edited.edit, out=out / "edited", **asked)
verdict = mastlens.compare(out / "source", out / "edited").table.set_index("split")
assert not ORGANISM or (verdict["difference"] < -0.1).all()
verdict[["n", "before", "after", "b", "c", "mcnemar_p", "difference", "ci_low", "ci_high", "detectable"]]

# %% [markdown]
# A first shot, with nothing tuned; on the organism it takes nearly as much from the retain problems as from the forget
# problems. Looking at it that way is what the other notebooks are for.
#
# ## What it cost
#
# `run.json` kept the time and the memory of every stage, beyond what the process held before. With your checkpoints in
# the first cell this is your price list.

# %%
costs = [
    {"stage": stage, "folder": folder, **record["cost"]}
    for folder in ("run", "source", "edited")
    for stage, record in json.loads((out / folder / "run.json").read_text())["stages"].items()
]
assert {row["stage"] for row in costs} == {"geometry", "couple", "rank", "unlearn", "evaluate"}
pd.DataFrame(costs)

# %% [markdown]
# Interrupt it whenever you like. The same call with the same inputs goes on where it stopped, or finds its result and
# does nothing; with other inputs it is refused, so that no table is of something else than its neighbour.

# %%
start = time.perf_counter()
again = mastlens.couple(
    sft=START, rlvr=lineage.rlvr, forget=forget, retain=retain, device=DEVICE, out=out / "run", progress=False
)
print(f"the second time: {time.perf_counter() - start:.2f} s")
pd.testing.assert_frame_equal(again.table, coupling.table)

try:
    mastlens.couple(sft=START, rlvr=lineage.rlvr, forget=retain, device=DEVICE, out=out / "run", progress=False)
except mastlens.MastlensError as error:
    print(str(error).replace(str(out), "…"))

# %% [markdown]
# ## The same in a terminal
#
# For hours of work a terminal is the better place. The commands have the names of the functions:
#
# ```
# mastlens geometry --base Qwen/Qwen2.5-Math-1.5B --rlvr relex-rlvr/RLVR-Qwen2.5-Math-1.5B --out run
# mastlens couple --sft Qwen/Qwen2.5-Math-1.5B --rlvr relex-rlvr/RLVR-Qwen2.5-Math-1.5B \
#                 --forget sets/forget-train.jsonl --retain sets/retain-train.jsonl --device cuda --out run
# mastlens rank run --top 56
# mastlens unlearn --rlvr relex-rlvr/RLVR-Qwen2.5-Math-1.5B --ranking run/ranking.parquet --objective npo \
#                  --forget sets/forget-train.jsonl --retain sets/retain-train.jsonl --steps 50 --lr 5e-6 \
#                  --probe-forget sets/forget-calibration.jsonl --probe-retain sets/retain-calibration.jsonl \
#                  --device cuda --out run
# ```
#
# ## What this does not show
#
# - **That it works on your model.** The chain ran; whether the selection beats a random one of its size, and whether
#   what it forgot stays forgotten, are questions of their own ([04](04_choosing_what_to_edit.ipynb),
#   [06](06_evaluation_for_sceptics.ipynb)). On the organism the answers were sobering.
# - **That 64 problems are enough.** `detectable` above says what could not have been seen.
# - **The times of your run.** The estimate is from one layer; the price list is from the organism until you change the
#   first cell.
