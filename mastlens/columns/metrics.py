"""Columns of the field's metrics: item by item, aggregated, and before and after."""

from mastlens.columns.column import ITEM, SPLIT_NAME, Column, Table, with_interval

_METRIC = Column("metric", "the metric, with what is set of it behind its name", kind="text")
_PLACE = (
    _METRIC,
    Column("split", "the split; `ONE / OTHER` or `ONE + OTHER` of several", kind="text"),
    Column("aggregate", "which of its aggregates; `mean` where there is one", kind="text"),
    Column("n", "items", kind="whole"),
)
_NOTE = Column(
    "note", "what is to be known of the number, e.g. how many responses were empty; may be empty", kind="text"
)
_COMMAND = "mastlens evaluate --metrics"

VALUES = Table(
    "metrics.parquet",
    _COMMAND,
    "an item of a split, metric and part",
    (
        _METRIC,
        Column("part", "which of its numbers; empty where it has one", kind="text"),
        SPLIT_NAME,
        ITEM,
        Column("value", "the metric's number", "as the metric says", "`null`"),
        Column("null", "what chance gives for this item; NaN where nothing is known"),
    ),
)

SUMMARY = Table(
    "metrics_summary.parquet",
    _COMMAND,
    "an aggregate of a metric",
    (
        *_PLACE,
        *with_interval(
            Column("value", "the aggregate", "as the metric says", "`null`"),
            "over items: of a mean Student's or Hall's, of an area Wilson's of as many pairs as it is worth",
            low="ci_low",
            high="ci_high",
        ),
        Column("null", "what chance gives; NaN where nothing is known"),
        Column("beyond_null", "whether the 95 % interval of value − null, item by item, leaves 0 out"),
        _NOTE,
        Column("failed", "why there is no number; empty where there is one", kind="text"),
    ),
)

ITEMS = Table(
    "metric_items.parquet",
    _COMMAND,
    "an item",
    (
        SPLIT_NAME,
        ITEM,
        Column("line", "its line in its file", kind="whole"),
        Column("text_digest", "of its problem and answers: two models were asked the same", kind="text"),
        Column("token_digest", "of their token ids: two models read the same", kind="text"),
        Column("tokens", "of its answer, the end of the sequence included", kind="number"),
        Column("loss", "mean negative log-likelihood of the answer; NaN where no metric needed it", "nat per token"),
    ),
)

CHANGES = Table(
    "metric_changes.parquet",
    "mastlens compare-metrics",
    "an aggregate that both models have",
    (
        *_PLACE,
        Column("before", "before"),
        Column("after", "after"),
        *with_interval(Column("difference", "after − before", null="0"), "paired, over items", "ci_low", "ci_high"),
        Column("p", "two-sided: of a mean by exchanging each item's labels, else by the items' influences"),
        Column(
            "holm_p", "`p` adjusted for the number of aggregates (Holm); NaN of a part that stands there by itself too"
        ),
        Column("reference", "under the reference model; NaN without one"),
        *with_interval(Column("to_reference", "after − reference", null="0"), "paired, over items"),
        Column("to_reference_p", "its two-sided p, as `p`"),
        Column("null", "what chance gives; NaN where nothing is known"),
        _NOTE,
    ),
)

PROTOCOL = Table(
    "protocol.parquet",
    "mastlens run protocol:NAME",
    "an aggregate of an arm",
    (
        Column("arm", "`before`, `reference` or an objective's label", kind="text"),
        *_PLACE,
        *with_interval(
            Column("value", "the aggregate", "as the metric says", "`null`"), "over items", "ci_low", "ci_high"
        ),
        Column("null", "what chance gives; NaN where nothing is known"),
        *with_interval(
            Column("difference", "to before; NaN of before and the reference", null="0"), "paired, over items"
        ),
        Column("p", "its two-sided p, as in `metric_changes.parquet`"),
        _NOTE,
    ),
)

PUBLISHED = Table(
    "protocol_published.parquet",
    "mastlens run protocol:NAME",
    "a number of others, on another model",
    (
        Column("model", "the model that it is of", kind="text"),
        Column("method", "what was done to it", kind="text"),
        Column("metric", "the metric, as it is called here", kind="text"),
        Column("value", "the number"),
        Column("source", "where it stands", kind="text"),
    ),
)

TABLES = (VALUES, SUMMARY, ITEMS, CHANGES, PROTOCOL, PUBLISHED)
