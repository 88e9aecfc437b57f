"""Columns of whole runs: the demo, studies of many arms, R2MU's table."""

from mastlens.columns.column import SPLIT, SPLIT_NAME, Column, Table, with_interval

_ARM = (Column("arm", "its folder's name"), Column("label", "what it is"))

DEMO_SUMMARY = Table(
    "summary.parquet",
    "mastlens demo",
    "an arm and a split",
    (
        *_ARM,
        SPLIT_NAME,
        Column("n", "items"),
        *with_interval(Column("accuracy", "share of right responses"), "Wilson"),
        Column("b", "right in the source and wrong here"),
        Column("c", "wrong in the source and right here"),
        Column("mcnemar_p", "exact two-sided McNemar", null="as many lost as gained"),
        *with_interval(
            Column("difference", "to the RLVR source, on the same items, as a fraction", null="0"),
            "paired, over items",
            low="ci_low",
            high="ci_high",
        ),
        Column("truncated", "responses cut off"),
    ),
)

DEMO_ARMS = Table(
    "arms.parquet",
    "mastlens demo",
    "an arm",
    (
        *_ARM,
        Column("perplexity", "on neutral text"),
        Column("forget_worked", "share of responses to forget problems that work the problem out, rightly or wrongly"),
        Column("tensors", "edited tensors"),
        Column("parameters", "edited parameters"),
        Column("lr", "learning rate that was chosen on calibration"),
        Column("step", "saved step that was chosen on calibration"),
        Column("reached", "whether it got to the target forget accuracy"),
    ),
)

SEARCH = Table(
    "search.parquet",
    "mastlens demo, mastlens run",
    "a learning rate and a saved step of an arm",
    (
        Column("lr", "learning rate"),
        Column("step", "saved step"),
        Column("correct", "right answers to calibration problems of the forget side"),
        Column("items", "of so many"),
    ),
)

_OF_A_SPLIT = (
    Column(f"{SPLIT}_accuracy", "share of right responses of the split; `retain` is all retain splits together"),
    *with_interval(
        Column(f"{SPLIT}_difference", "accuracy − the source's, on the same items", null="0"),
        "paired, over items",
        low=f"{SPLIT}_low",
        high=f"{SPLIT}_high",
    ),
    Column(f"{SPLIT}_mcnemar_p", "exact two-sided McNemar against the source"),
    Column(f"{SPLIT}_logprob", "log-probability of a solution token", "nat per token"),
    Column(f"{SPLIT}_kl", "KL(model that never learnt it || arm) at the solutions' tokens", "nat per token", "0"),
    Column(f"{SPLIT}_agreement", "share of items with that model's answer"),
)
_COMPARED = (Column("objective", "of unlearning"), Column("selection", "what is edited"))

STUDY = Table(
    "study.parquet",
    "mastlens run",
    "an arm",
    (
        Column("arm", "its folder"),
        Column("kind", "source, reference, edit or negation"),
        *_COMPARED,
        Column("rule", "of the selection"),
        Column("draw", "of a random selection, from 1; 0 where nothing was drawn"),
        Column("seed", "of the batches"),
        Column("lr", "learning rate that was chosen on calibration"),
        Column("step", "saved step that was chosen on calibration"),
        Column("reached", "whether it got to the target forget accuracy"),
        Column("diverged", "learning rates at which it diverged"),
        Column("tensors", "edited tensors"),
        Column("parameters", "edited parameters"),
        *_OF_A_SPLIT,
        Column("perplexity", "on neutral text"),
    ),
)

STUDY_SUMMARY = Table(
    "summary.parquet",
    "mastlens run",
    "an objective, a selection and a measure",
    (
        *_COMPARED,
        Column("rule", "of the selection"),
        Column("measure", "a column of `study.parquet`"),
        Column("arms", "arms"),
        Column("reached", "share of them that got to the target"),
        *with_interval(
            Column("mean", "over seeds of the means over draws", "the measure's"),
            "Student's t over the seeds' means; NaN for one seed",
            low="ci_low",
            high="ci_high",
        ),
        Column("seeds", "seeds"),
        Column("draws", "draws of a random selection; 0 of others"),
        Column("draw_min", "least of the draws' means; NaN of others"),
        Column("draw_low", "their 2.5 percentile"),
        Column("draw_high", "their 97.5 percentile"),
        Column("draw_max", "largest of them"),
    ),
)

STUDY_CONTRASTS = Table(
    "contrasts.parquet",
    "mastlens run",
    "a selection, a random control of the same objective, and a measure with a good side",
    (
        *_COMPARED,
        Column("control", "the random selection"),
        Column("measure", "a column of `study.parquet`"),
        *with_interval(
            Column("mean", "over seeds of selection − mean of the control's draws", "the measure's", "0"),
            "Student's t over seeds",
            low="ci_low",
            high="ci_high",
        ),
        Column("seeds", "seeds"),
        Column("low_seed", "smallest of the seeds' differences"),
        Column("high_seed", "largest of them"),
        Column("draws", "draws of the control"),
        Column("as_good", "draws at least as good as the selection"),
        Column("permutation_p", "(as_good + 1) / (draws + 1), one-sided: at least 1 / 21 with 20 draws"),
    ),
)

ARM_ANSWERS = Table(
    "responses.parquet",
    "mastlens run",
    "an item of an arm",
    (
        SPLIT_NAME,
        Column("item", "from 0 in its file", kind="whole"),
        Column("subject", "as the file says; may be empty"),
        Column("prompt", "as the model read it", kind="text"),
        Column("response", "what it wrote", kind="text"),
        Column("gold", "the right answer", kind="text"),
        Column("answer", "the answer taken out of the response"),
        Column("correct", "equal as mathematics (math-verify)", kind="truth"),
        Column("correct_strict", "equal as text", kind="truth"),
        Column("truncated", "cut off", kind="truth"),
        Column("logprob_solution", "natural, summed", "nat", kind="number", needed=False),
        Column("solution_tokens", "tokens of the reference solution", kind="number", needed=False),
        Column("kl_reference", "KL(model that never learnt it || arm), summed over them; NaN without one", "nat"),
    ),
)

ARM_MEASURES = Table(
    "measures.parquet",
    "mastlens run",
    "a split of an arm; `retain` is all but `forget`",
    (
        SPLIT_NAME,
        Column("n", "items"),
        Column("accuracy", "share of right responses"),
        *with_interval(
            Column("difference", "to the source, on the same items", null="0"),
            "paired, over items",
            low="ci_low",
            high="ci_high",
        ),
        Column("lost", "right in the source and wrong here"),
        Column("gained", "wrong in the source and right here"),
        Column("mcnemar_p", "exact two-sided McNemar"),
        Column("truncated", "share of responses cut off"),
        Column("logprob", "of a solution token", "nat per token"),
        Column("kl", "KL(model that never learnt it || arm) of a solution token", "nat per token", "0"),
        Column("agreement", "share of items with that model's answer"),
        Column("perplexity", "on neutral text; the same in each row"),
    ),
)

_METHOD = (Column("method", "its short name"), Column("label", "what it is called"))
_MEASURES = {
    "fa_ua": "share of questions whose right option is the likeliest, without thinking (FA-UA)",
    "rt_ua": "share of traces that reveal something, C2 to C4 (RT-UA)",
    "avg_ua": "mean of the two",
    "forget_accuracy": "share of right answers behind a trace, on what is to be forgotten",
    "maths": "share of mathematics problems solved",
    "utility": "share of questions about the rest whose right option is the likeliest, without thinking",
    "utility_accuracy": "share of right answers about the rest, behind a trace",
}


def _measures(interval: str) -> tuple[Column, ...]:
    source = "R2MU, arXiv:2506.12963"
    found = (with_interval(Column(name, said, source=source), interval) for name, said in _MEASURES.items())
    return tuple(column for columns in found for column in columns)


R2MU = Table(
    "r2mu.parquet",
    "mastlens reasoning-table",
    "a method, mean over its seeds",
    (*_METHOD, Column("seeds", "seeds"), *_measures("Student's t over seeds; of a model as it is, as in r2mu_arms")),
)

R2MU_ARMS = Table(
    "r2mu_arms.parquet",
    "mastlens reasoning-table",
    "a method and a seed",
    (*_METHOD, Column("seed", "of the batches"), *_measures("Wilson; of avg_ua, over people or items")),
)

R2MU_CATEGORIES = Table(
    "r2mu_categories.parquet",
    "mastlens reasoning-table",
    "a method, a seed and a category of the traces about what is to be forgotten",
    (
        *_METHOD,
        Column("seed", "of the batches"),
        Column("category", "C1 nothing, C2 other knowledge, C3 rules out options, C4 the answer"),
        Column("count", "traces"),
        Column("n", "of so many"),
        *with_interval(Column("share", "count / n"), "Wilson", low="ci_low", high="ci_high"),
    ),
)

SOLVED = Table(
    "solved.parquet",
    "mastlens reasoning-table",
    "a mathematics problem",
    (
        Column("item", "from 0 in its file", kind="whole"),
        Column("response", "what the model wrote", kind="text"),
        Column("correct", "whether its answer is right"),
    ),
)

REQUESTS = Table(
    "requests.parquet",
    "mastlens.unlearn_requests",
    "an order, stage and split",
    (
        Column("order", "the requests in their order, or `at once`"),
        Column("stage", "how many were made; 0 is the source", kind="whole"),
        Column("request", "the latest; empty for the source and for all at once"),
        Column("split", "the split's name", kind="text"),
        Column("side", "`forgotten` (requested by now), `waiting` (requested later) or `retain`"),
        Column("n", "items"),
        *with_interval(Column("accuracy", "share of right responses"), "Wilson", low="ci_low", high="ci_high"),
        *with_interval(
            Column("change", "accuracy − that since it was forgotten, of others since the source", null="0"),
            "paired, over items",
        ),
    ),
)

TABLES = (
    DEMO_SUMMARY,
    DEMO_ARMS,
    SEARCH,
    STUDY,
    STUDY_SUMMARY,
    STUDY_CONTRASTS,
    ARM_ANSWERS,
    ARM_MEASURES,
    R2MU,
    R2MU_ARMS,
    R2MU_CATEGORIES,
    SOLVED,
    REQUESTS,
)
