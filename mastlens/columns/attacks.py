"""Columns of attacks on an edit."""

from mastlens.columns.column import ITEM, PLACE, SPLIT_NAME, Column, Table, with_interval

_KEYS = (
    Column("attack", "its name"),
    Column("variant", "e.g. the format, or the number of examples"),
    Column("model", "`edited`, `source`, `control`, which never had the skill, or `reference`, retrained without it"),
    Column("step", "steps of relearning, or of a soft prompt's training; 0 of other attacks"),
)
_BASELINE = Column("baseline", "whether the model is not attacked there")

ATTACK = Table(
    "attack.parquet",
    "mastlens attack",
    "a variant, model, step and split",
    (
        *_KEYS,
        SPLIT_NAME,
        _BASELINE,
        Column("n", "items"),
        Column("correct", "right responses"),
        *with_interval(
            Column("accuracy", "share of right responses, of `samples` of items of which any of k is right"),
            "Wilson",
            low="ci_low",
            high="ci_high",
        ),
        Column("logprob_solution", "mean over the solutions' tokens", "nat per token", kind="number", needed=False),
        Column("truncated", "responses cut off"),
        *with_interval(
            Column("recovered", "(attacked − edited) / (source − edited), of accuracies", null="0"),
            "over items (Fieller), all three together; NaN where it has no bound",
        ),
        *with_interval(
            Column("recovered_beyond_control", "the same less what the attack taught the control", null="0"),
            "over items (Fieller), all five together; NaN where it has no bound",
        ),
        *with_interval(
            Column("recovered_beyond_reference", "the same less what it taught the reference", null="0"),
            "over items (Fieller), all five together; NaN where it has no bound",
        ),
    ),
)

ATTACK_ITEMS = Table(
    "attack_items.parquet",
    "mastlens attack",
    "an item of these",
    (
        *_KEYS,
        _BASELINE,
        SPLIT_NAME,
        ITEM,
        Column("correct", "equal as mathematics (math-verify)"),
        Column("correct_strict", "equal as text"),
        Column(
            "logprob_solution", "natural, summed over what the attack has not given", "nat", kind="number", needed=False
        ),
        Column("solution_tokens", "tokens of that", kind="number", needed=False),
        Column("truncated", "cut off at `--max-new-tokens`"),
        Column("given", "the beginning of the response that the attack wrote itself; may be empty"),
        Column("response", "what the model wrote after it", kind="text"),
        Column("rate", "the chance that any of k is right (pass@k), from all draws", when="attack samples"),
        Column("samples", "responses drawn", when="attack samples"),
    ),
)

ATTACK_TENSORS = Table(
    "attack_tensors.parquet",
    "mastlens attack quantise",
    "a format and an edited tensor; one a format over all, with layer −1",
    (
        Column("format", "of quantisation"),
        *PLACE,
        Column("entries", "entries of the tensor"),
        Column("edited", "entries that the edit changed"),
        Column(
            "code_changed", "share of these whose quantised code differs, own scales", null="`code_changed_expected`"
        ),
        Column("code_changed_source_scales", "the same with the source's scales on both sides"),
        Column("code_changed_expected", "mean of min(1, change / width of the bin): entries anywhere in their bins"),
        Column("change_per_bin", "median of change / width of the source's bin"),
        Column("kept_along_edit", "share of the edit that quantisation keeps along its direction; 1 is all"),
        Column("noise", "‖Q(after) − after‖ / ‖after − before‖"),
    ),
    when="attack quantise with --edit",
)

TABLES = (ATTACK, ATTACK_ITEMS, ATTACK_TENSORS)
