"""Columns of the unlearning depth score."""

from mastlens.columns.column import ITEM, SPLIT_NAME, Column, Table, with_interval

_SOURCE = "arXiv:2605.24614"
_LAYER = Column("layer", "whose states are put in, from 0; -1 over all layers", kind="whole")
_NATS = "nats per token"
_DROPS = (
    Column("reference_drop", "log-probability that the source loses with the reference's states", _NATS, "0", _SOURCE),
    Column("edited_drop", "log-probability that it loses with the edited model's states", _NATS, "0", _SOURCE),
)
_ERASED = Column(
    "erased",
    "share of the reference's drop that the edited model has too, from 0 to 1; over all layers the depth score",
    null="0 with the source's own states, 1 with the reference's",
    source=_SOURCE,
)

DEPTH = Table(
    "depth.parquet",
    "mastlens depth-score",
    "a split and layer; one a split over all, with layer −1",
    (
        SPLIT_NAME,
        _LAYER,
        Column("items", "items"),
        Column("encoding", "items of which the layer encodes what the reference lacks"),
        *(each for drop in _DROPS for each in with_interval(drop, "over items")),
        *with_interval(_ERASED, "over items that are encoded"),
    ),
)

DEPTH_ITEMS = Table(
    "depth_items.parquet",
    "mastlens depth-score",
    "an item and layer; one an item over all, with layer −1",
    (
        SPLIT_NAME,
        ITEM,
        _LAYER,
        Column("tokens", "tokens that count"),
        Column("logprob", "of the source, mean over them", _NATS),
        *_DROPS,
        Column("encodes", "whether the reference's drop is above `--threshold`"),
        _ERASED,
    ),
)

TABLES = (DEPTH, DEPTH_ITEMS)
