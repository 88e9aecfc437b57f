"""Columns of what a model answers, and of what changed: responses, comparisons, collateral, choices, traces, safety."""

from dataclasses import replace

from mastlens.columns.column import ITEM, SPLIT_NAME, Column, Table, when, with_interval

SAMPLE = Column("sample", "from 0; one in greedy decoding")
_SUBJECT = Column("subject", "as the file says; may be empty")
_CORRECT = (
    Column("correct", "equal as mathematics (math-verify)", kind="truth"),
    Column("correct_strict", "equal as text", kind="truth"),
)
_SOLUTION = (
    Column(
        "logprob_solution",
        "log-probability of the reference solution, natural, summed; NaN if left out",
        "nat",
        kind="number",
        needed=False,
    ),
    Column("solution_tokens", "its tokens, the end of the sequence included", kind="number", needed=False),
)
_TRUNCATED = Column("truncated", "cut off at `--max-new-tokens`", kind="truth")

RESPONSES = Table(
    "responses.parquet",
    "mastlens evaluate",
    "a response",
    (
        SPLIT_NAME,
        ITEM,
        SAMPLE,
        _SUBJECT,
        Column("prompt", "as the model read it", kind="text"),
        Column("response", "what it wrote", kind="text"),
        Column("gold", "the right answer", kind="text"),
        *_CORRECT,
        *_SOLUTION,
        Column(
            "logprob_answer",
            "of the boxed answer straight after the prompt, natural, summed",
            "nat",
            kind="number",
            needed=False,
        ),
        Column("answer_tokens", "its tokens", kind="number", needed=False),
        _TRUNCATED,
        Column("stopped", "`end`, `answer` or `length`"),
        Column("response_tokens", "generated tokens"),
    ),
)

_PAIRED = (
    Column("n", "items"),
    Column("before", "accuracy before"),
    Column("after", "accuracy after"),
    Column("b", "right before and wrong after"),
    Column("c", "wrong before and right after"),
    Column("mcnemar_p", "exact two-sided McNemar", null="as many lost as gained"),
    Column("holm_p", "`mcnemar_p` adjusted for the number of rows (Holm)"),
    *with_interval(
        Column("difference", "after − before, as a fraction", null="0"),
        "paired, over items",
        low="ci_low",
        high="ci_high",
    ),
    Column("newcombe_low", "lower end of Newcombe's interval: with a width also where nothing changed"),
    Column("newcombe_high", "upper end of it"),
    Column("detectable", "smallest difference that the exact test finds at 5 % with 80 % power on n items"),
    Column("strict_difference", "the difference by the strict grade"),
    Column(
        "verdict",
        "`changed`, `changed, too little to matter`, `no change that matters` or `undecided`, beside the smallest "
        "difference of interest (two one-sided tests at 5 %)",
    ),
)
"""What a comparison of the same items says."""

COMPARE = Table("", "mastlens compare", "a split (printed, and `.table`)", (SPLIT_NAME, *_PAIRED))

_RENAMED = {"ci_low": "low", "ci_high": "high"}


def _of_a_side(side: str) -> tuple[Column, ...]:
    paired = (replace(one, name=f"{side}_{_RENAMED.get(one.name, one.name)}") for one in _PAIRED)
    return (
        *(replace(one, meaning=f"{side}: {one.meaning}") for one in paired),
        Column(f"{side}_repetition", f"{side}: after − before of the share of repeated 4-grams"),
        Column(f"{side}_no_answer", f"{side}: after − before of the share of responses without an answer"),
        Column(f"{side}_truncated", f"{side}: after − before of the share of responses cut off"),
    )


EDITS = Table(
    "edits.parquet",
    "mastlens compare-edits",
    "an edit, against the source on the same items",
    (
        Column("arm", "the edit's label"),
        *_of_a_side("forget"),
        *_of_a_side("retain"),
        *when(
            "collateral in the edit's folder",
            (
                *with_interval(
                    Column("kl", "KL(source || edited) on the retain splits", "nat per token", "0"),
                    "over items",
                ),
                *with_interval(
                    Column("perplexity_ratio", "perplexity on neutral text, after over before", null="1"),
                    "over texts",
                ),
            ),
        ),
        *when(
            "attacks in the edit's folder",
            (
                Column("after_attack", "the attack that brought most back, beyond what it taught the control"),
                Column("after_attack_accuracy", "forget accuracy of the attacked edit"),
                Column("after_attack_control", "of the attacked control"),
                *with_interval(
                    Column("after_attack_difference", "attacked edit − source, on the same forget items"),
                    "paired, over items",
                    low="after_attack_low",
                    high="after_attack_high",
                ),
            ),
        ),
        Column("verdict", "whether the forgetting stays, in a sentence; only what is beyond its null counts"),
    ),
)

EDIT_ATTACKS = Table(
    "edit_attacks.parquet",
    "mastlens compare-edits",
    "an edit as it is, and one an edit and attack, at the reading that brought most back",
    (
        Column("arm", "the edit's label"),
        Column("attack", "the attack; empty for the edit as it is"),
        Column("variant", "of the attack"),
        Column("step", "of the attack"),
        Column("readings", "variants and steps that were tried"),
        Column("null", "what else went through it: `reference`, `control`, or empty for nothing"),
        Column("n", "forget items"),
        *with_interval(
            Column("forgotten", "source − model, share of right forget answers", null="0"), "paired, over items"
        ),
        *with_interval(
            Column("retain_kept", "retain accuracy / the source's; NaN where no retain split was tested", null="1"),
            "over items",
        ),
        *with_interval(
            Column("came_back", "share of what was forgotten, less what the attack taught `null`", null="0"),
            "over items (Fieller); the largest of several",
        ),
        Column("beyond_chance", "whether it did at any reading, corrected for all readings (Bonferroni)"),
        Column("first_step", "the first step at which it did; NaN of what has no steps"),
    ),
)

EDIT_CONTRASTS = Table(
    "edit_contrasts.parquet",
    "mastlens compare-edits",
    "an edit but the first, and a side",
    (
        Column("arm", "the edit"),
        Column("reference", "the first edit, against which it is compared"),
        Column("side", "`forget` or `retain`"),
        *(replace(one, name=_RENAMED.get(one.name, one.name)) for one in _PAIRED),
    ),
)

COLLATERAL = Table(
    "collateral.parquet",
    "mastlens measure-collateral",
    "a measure and a split",
    (
        Column(
            "measure", "`kl`, `same_top`, `perplexity`, `repetition`, `wrong`, `no answer` or `truncated`"
        ),
        SPLIT_NAME,
        Column("items", "items"),
        Column("before", "before the edit, where the measure has it"),
        Column("after", "after it"),
        *with_interval(
            Column("value", "the measure; of perplexity after / before, of shares after − before", "as `unit` says"),
            "over items",
            low="ci_low",
            high="ci_high",
        ),
        Column("unit", "the measure's unit"),
    ),
)  # fmt: skip

COLLATERAL_ITEMS = Table(
    "collateral_items.parquet",
    "mastlens measure-collateral",
    "an item that the divergence was taken on",
    (
        SPLIT_NAME,
        ITEM,
        Column("tokens", "solution tokens"),
        Column("kl", "KL(source || edited), summed over them", "nat", "0"),
        Column("same_top", "tokens at which both find the same token most probable"),
    ),
)

_PERSON = Column("person", "whom it asks about; may be empty")

CHOICES = Table(
    "choices.parquet",
    "mastlens choices",
    "a question with options",
    (
        SPLIT_NAME,
        ITEM,
        _SUBJECT,
        _PERSON,
        Column("answer", "the right option, from 0"),
        Column("chosen", "the likeliest option, from 0"),
        Column("correct", "whether it is the right one", null="1 / options", source="R2MU's FA-UA, arXiv:2506.12963"),
        Column("chosen_per_byte", "the likeliest by log-probability over the option's length in bytes"),
        Column("correct_per_byte", "whether that is the right one (the harness' `acc_norm`)", null="1 / options"),
        Column("probability_answer", "p(answer) over the options' sum of p"),
        Column("logprobs", "log-probability of each option, natural, summed", "nat"),
    ),
)

TRACE_JUDGEMENTS = Table(
    "trace_judgements.parquet",
    "mastlens evaluate-traces",
    "a response",
    (
        SPLIT_NAME,
        ITEM,
        SAMPLE,
        _SUBJECT,
        _PERSON,
        Column("prompt", "as the model read it", kind="text"),
        Column("response", "what it wrote", kind="text"),
        Column("trace", "what it thought"),
        Column("answer", "what stands behind the thinking"),
        Column("gold", "the right answer"),
        Column("correct", "whether the answer is right"),
        _TRUNCATED,
        Column("response_tokens", "generated tokens"),
        Column("judged", "which part was judged"),
        Column("category", "C1 nothing, C2 other knowledge, C3 rules out options, C4 the answer, or `unjudged`",
               source="R2MU, arXiv:2506.12963"),
        Column("reason", "the judge's, in a few words"),
        Column("leak", "C2, C3 or C4; its share is RT-UA"),
        Column("sentences", "the judged part, sentence by sentence"),
        Column("sentence_categories", "what each sentence alone reveals"),
        Column("choice_correct", "whether the likeliest option, without reasoning, is the right one (FA-UA)"),
        Column("steps", "the judged part, cut into steps", when="--prm"),
        Column("step_scores", "how likely each step is right, by the process reward model; NaN where it did not fit",
               source="Qwen2.5-Math-PRM, arXiv:2501.07301", when="--prm"),
    ),
)  # fmt: skip

SAFETY = Table(
    "safety.parquet",
    "mastlens evaluate-safety",
    "a response to a request",
    (
        Column("data", "the benchmark"),
        Column("item", "the request's line in its file", kind="whole"),
        SAMPLE,
        Column("kind", "the benchmark's kind of request"),
        Column("harmful", "whether the request is harmful: refusing it is right"),
        Column("category", "the benchmark's category; may be empty"),
        Column("prompt", "as the model was asked", kind="text"),
        Column("response", "what it wrote", kind="text"),
        Column("trace", "what it thought"),
        Column("answer", "what stands behind the thinking"),
        _TRUNCATED,
        Column("judged", "which part was judged"),
        Column("verdict", "the judge's category, or `unjudged`"),
        Column("reason", "the judge's, in a few words"),
    ),
)

_HARNESS = (
    Column("task", "the task of lm-evaluation-harness"),
    Column("metric", "its measure"),
    Column("filter", "the harness' filter"),
    Column("value", "the measure's value"),
)

HARNESS = Table(
    "harness.parquet",
    "mastlens evaluate --harness",
    "a task and a measure",
    (*_HARNESS, Column("n", "items"), Column("version", "the task's version")),
)

HARNESS_ITEMS = Table(
    "harness_items.parquet",
    "mastlens evaluate --harness",
    "an item of a task and a measure",
    (
        *_HARNESS,
        Column("item", "the harness' document", kind="whole"),
        Column("response", "what was graded", kind="text"),
    ),
)

TABLES = (
    RESPONSES,
    COMPARE,
    EDITS,
    EDIT_CONTRASTS,
    EDIT_ATTACKS,
    COLLATERAL,
    COLLATERAL_ITEMS,
    CHOICES,
    TRACE_JUDGEMENTS,
    SAFETY,
    HARNESS,
    HARNESS_ITEMS,
)
