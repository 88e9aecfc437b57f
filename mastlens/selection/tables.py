"""The tables that rules read: where they are, what must be in them, and how they come together."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from mastlens.architectures.projections import ORDER
from mastlens.columns import describe_columns
from mastlens.errors import BadFile, BadSetting, NotTogether, unknown

KEYS = ("layer", "projection", "name")
_SIZES = ("rows", "cols")


@dataclass(frozen=True)
class Source:
    """Where a table comes from.

    Attributes:
        file: Its name in an output folder.
        stage: The stage of the run record that wrote it.
        command: The command that writes it.
        rows: Takes the rows that rules are about: those of whole tensors, on the RLVR increment.
        shaped: Whether it has the shapes of the tensors.
    """

    file: str
    stage: str
    command: str
    rows: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table
    shaped: bool = True


def _rlvr(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["increment"] == "rlvr"]


def _restored(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["direction"] == "restore") & (table["head"] == -1)]


SCORED = "score of "
"""Before the name of a scorer: the table that it wrote."""


def _scored(rule: str) -> Source:
    return Source(f"score_{rule}.parquet", f"score-{rule}", f"mastlens score {rule}")


SOURCES = {
    "geometry": Source("geometry.parquet", "geometry", "mastlens geometry", _rlvr),
    "coupling": Source("coupling.parquet", "couple", "mastlens couple"),
    "causal": Source("causal_map.parquet", "causal-map", "mastlens causal-map", _restored, shaped=False),
    **{f"{SCORED}{rule}": _scored(rule) for rule in ("path", "behaviour", "gates", "search", "shapley", "seta")},
}


def source_of(name: str) -> Source:
    """Return where a table comes from; ``score of NAME`` is what the scorer of that name wrote, shipped or not.

    Raises:
        MastlensError: If there is no such table.
    """
    if name.startswith(SCORED):
        return _scored(name.removeprefix(SCORED))
    if name not in SOURCES:
        raise unknown("table", name, SOURCES)
    return SOURCES[name]


def tables_for(needs: Collection[str], present: Collection[str]) -> list[str]:
    """Return the tables to join: those needed, and one with shapes in it where none of them has any.

    Args:
        needs: The tables that a rule needs.
        present: The tables that are there.
    """
    if any(source_of(name).shaped for name in needs):
        return list(needs)
    return ["coupling" if "coupling" in present and "geometry" not in present else "geometry", *needs]


def join(tables: Mapping[str, pd.DataFrame], needs: Mapping[str, Collection[str]], *, rule: str) -> pd.DataFrame:
    """Return one row a tensor with its shape, ``numel`` and the needed columns, by layer, then q < k < v < o.

    Args:
        tables: ``geometry``, ``coupling`` and ``causal``, as the commands write them, or those of them that are needed.
        needs: Table to columns.
        rule: Who needs them, for the message.

    Raises:
        MastlensError: If a table or column is missing, or the tables are about different tensors.
    """
    for name in tables:
        source_of(name)
    joined = pd.DataFrame()
    for name in tables_for(needs, tables):
        wanted = list(needs.get(name, ()))
        if joined.empty:
            joined = _part(tables, name, [*KEYS, *_SIZES, *wanted], rule)
            continue
        part = _part(tables, name, ["name", *wanted], rule)
        if alone := sorted(set(joined["name"]) ^ set(part["name"])):
            raise NotTogether(
                f"The {name} table is about other tensors than the one before it, e.g. {alone[0]}. Make all tables "
                "anew from one lineage, with the same --where."
            )
        joined = joined.merge(part[["name", *(c for c in part if c not in joined)]], on="name", validate="1:1")
    joined = joined.assign(numel=joined["rows"] * joined["cols"])
    return in_order(joined)


def _part(tables: Mapping[str, pd.DataFrame], name: str, columns: list[str], rule: str) -> pd.DataFrame:
    source = source_of(name)
    if name not in tables:
        raise BadSetting(f"Rule '{rule}' needs the {name} table. Write it first: {source.command} ... --out DIR")
    table = tables[name]
    if missing := [column for column in columns if column not in table]:
        declared = name in SOURCES  # the columns of a scorer of one's own are what it writes
        written = describe_columns(source.file)["column"].tolist() if declared else list(map(str, table))
        for column in missing:
            if column not in written:
                raise unknown("column", column, written, of=f"the {name} table, which rule '{rule}' needs")
        raise BadSetting(
            f"Rule '{rule}' needs {' and '.join(missing)}, which the {name} table does not have. Write it anew: "
            f"{source.command} ... {_options(missing)}--out DIR --overwrite"
        )
    part = source.rows(table)[columns]
    if part.empty or part["name"].duplicated().any():
        raise BadFile(f"The {name} table does not have one row a tensor. Write it anew: {source.command}.")
    return part


def _options(columns: list[str]) -> str:
    """Return the options of ``couple`` that these columns hang on."""
    retain = any("retain" in column or column == "forget_wagle" for column in columns)
    fisher = any(column.endswith("_fisher") for column in columns)
    return "--retain FILE " * retain + "--fisher " * fisher


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by layer, then q < k < v < o, then what is not attention, by name."""
    places = {projection: place for place, projection in enumerate(ORDER)}
    order = table["projection"].map(places).fillna(len(ORDER))
    sorted_rows = table.assign(order=order).sort_values(["layer", "order", "name"], kind="stable", ignore_index=True)
    return sorted_rows.drop(columns="order")
