"""Columns of what chooses tensors and edits them: rankings, steps, token weights, traces to steer."""

from mastlens.columns.column import PLACE, Column, Table

NEEDED = "{needed}"
"""In a ranking: whatever columns of other tables the rule's score is made of."""

RANKING = Table(
    "ranking.parquet",
    "mastlens rank",
    "a tensor",
    (
        Column("rank", "1 = first", kind="whole"),
        *PLACE,
        Column(
            "score",
            "the rule's; `mast`: ρ · log(1 + ‖D‖²) · (1 + |forget cosine|), on the RLVR increment",
            kind="number",
        ),
        Column("selected", "whether it is edited", kind="truth"),
        Column("numel", "entries"),
        Column("off_principal", "ρ, as in `geometry.parquet`", source="MAST, arXiv:2606.19222", when="--rule mast"),
        Column("log1p_energy", "log(1 + ‖D‖²)", when="--rule mast"),
        Column("coupling_factor", "1 + |forget cosine|", when="--rule mast"),
        Column(NEEDED, "of another rule: the columns that its score is made of, as in their table", when="--rule NAME"),
        Column("passes", "whether it passes the rule's own cut", when="--rule memflex"),
        Column("reference_parameters", "parameters of the selection it is matched to", when="a matched control"),
    ),
)

_LOSS = "of the step's batch, before its update"
_PROBE = "--probe-forget --probe-retain"

STEPS = Table(
    "steps.parquet",
    "mastlens unlearn",
    "a step",
    (
        Column("step", "from 1; of an arm with a grid, at its learning rate"),
        Column("forget_loss", f"unweighted forget term {_LOSS}"),
        Column("retain_loss", f"unweighted retain term {_LOSS}; NaN without one"),
        Column("grad_norm", "norm of the gradient of the edited tensors before clipping"),
        Column("forget_logprob", f"mean log-probability of the forget solutions' tokens {_LOSS}", "nat per token"),
        Column("trace_loss", f"unweighted trace term {_LOSS}; NaN where nothing is steered"),
        Column("cot_loss", f"unweighted chain-of-thought term {_LOSS}; NaN where nothing is steered"),
        Column("reflection_loss", f"unweighted reflection penalty {_LOSS}; NaN where there is none"),
        Column("anchor_loss", f"pull of the anchor on what has drifted from the source {_LOSS}; NaN without one"),
        Column("forget_probe_logprob", "of the calibration problems to forget; NaN between looks", "nat per token",
               when=_PROBE),
        Column("retain_probe_logprob", "of the calibration problems to keep; NaN between looks", "nat per token",
               when=_PROBE),
        Column("retain_probe_kl", "KL(source || edited) on the solutions of these", "nat per token", "0", when=_PROBE),
        Column("retain_probe_repetition", "share of 4-grams in responses that repeat an earlier one", when=_PROBE),
        Column("lr", "learning rate of the grid", when="mastlens demo, mastlens run"),
    ),
)  # fmt: skip

TOKEN_WEIGHTS = Table(
    "token_weights.parquet",
    "mastlens unlearn",
    "a token of a forget solution, or of a trace",
    (
        Column("item", "from 0 in the forget file", kind="whole"),
        Column("position", "from 0 in the solution, or in the item's traces one after the other"),
        Column("token", "its id"),
        Column("text", "its text"),
        Column("weight", "what the scorer learnt, 0 to 1", source="ATWU"),
        Column("logprob", "log p of the token after unlearning", "nat", when="an objective on tokens"),
        Column("trace", "from 0 within its document", when="an objective on traces"),
        Column(
            "distance", "squared distance to the control vector, over the hidden size", when="an objective on traces"
        ),
    ),
    when="--token-weights",
)

TRACES = Table(
    "traces.parquet",
    "mastlens traces",
    "a segment of a forget text",
    (
        Column("item", "the document, from 0 in its file", kind="whole"),
        Column("segment", "from 0"),
        Column("prompt", "as the model read it", kind="text"),
        Column("trace", "what it thought, without tags"),
        Column("tokens", "generated tokens"),
        Column("truncated", "cut off inside the trace"),
    ),
)

OWN_RESPONSES = Table(
    "rewind.parquet",
    "mastlens unlearn",
    "a response that a model gave itself, for rewind",
    (
        Column("side", "forget: the SFT model's; retain: the source's"),
        Column("item", "the problem, from 0 in its file", kind="whole"),
        Column("sample", "which response to it, from 0"),
        Column("prompt", "as the model read it", kind="text"),
        Column("response", "what it wrote, without special tokens", kind="text"),
        Column("ids", "the token ids that were drawn, the end of sequence included; these are learnt from"),
        Column("stopped", "end, or length where it was cut off"),
        Column("digest", "behaviour digest of the model that wrote it"),
    ),
)

TABLES = (RANKING, STEPS, TOKEN_WEIGHTS, TRACES, OWN_RESPONSES)
