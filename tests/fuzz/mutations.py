"""How inputs are damaged: values, records, tables and bytes, by a seeded generator."""

import copy
import json
import random
from typing import Any

import numpy as np
import pandas as pd

WEIRD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**9, 2**63, -(10**30), 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "x", "x" * 5000, "\0", "\ud800", "é\u2028", "0", "1e9", "NaN", "../../escaped", "/etc/passwd", "~"),
    *("organism:qwen2/rlvr", "organism:evil.py:Evil/rlvr", "evil.py:Evil", '<a href="http://evil.example">x</a>'),
    *("<script>alert(1)</script>", "(a+)+$", "[", "(?P<", "{{ 7 * 7 }}", "%(x)s", "{layer}", "qwen2", "LORA"),
    *([], {}, [[]], [None], [1, "a"], {"a": {"b": []}}, [0] * 1000, {"": 0}, {"layer": [1]}),
)


def weird(rng: random.Random) -> Any:
    """Return a value that hardly any reader expects."""
    if rng.random() < 0.03:
        return nested(rng.choice((10, 70, 300)), rng)
    return copy.deepcopy(rng.choice(WEIRD))


def nested(depth: int, rng: random.Random) -> Any:
    """Return lists or objects in each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def damaged_value(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one place of it changed: removed, renamed, doubled, or something else there."""
    value = copy.deepcopy(value)
    spots: list[tuple[Any, Any]] = []

    def visit(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            spots.append((part, key))
            visit(part[key])

    visit(value)
    if not spots or rng.random() < 0.02:
        return weird(rng)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        holder, key = rng.choice(spots)
        if (isinstance(holder, dict) and key not in holder) or (isinstance(holder, list) and key >= len(holder)):
            continue  # gone with an earlier change
        way = rng.random()
        if way < 0.6:
            holder[key] = weird(rng)
        elif way < 0.75:
            del holder[key]
        elif way < 0.85 and isinstance(holder, dict):
            holder[str(weird(rng))[:40]] = holder[key]
        elif isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * rng.choice((-1, 2, 0.5, 10**6, 10**12))
        elif isinstance(holder[key], str):
            holder[key] = rng.choice((holder[key][:-1], holder[key] * 2, holder[key].upper(), "../" + holder[key]))
    return value


def encoded(value: Any, rng: random.Random) -> bytes:
    """Return a value as JSON, most of the time well formed."""
    try:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except RecursionError:
        text = "[" * 5000
    return (
        damaged_bytes(text.encode(errors="surrogatepass"), rng) if rng.random() < 0.2 else text.encode(errors="replace")
    )


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes that were cut, flipped, filled up or encoded otherwise."""
    place = rng.randrange(len(data) + 1)
    way = rng.randrange(8)
    if way == 0:
        return data[:place]
    if way == 1 and data:
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 3, 20))):
            flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        return bytes(flipped)
    if way == 2:
        return data[:place] + bytes(rng.randrange(256) for _ in range(rng.choice((1, 8, 100)))) + data[place:]
    if way == 3:
        return (
            data[:place] + rng.choice((b"[", b"{", b'{"a":', b'"', b"\\")) * rng.choice((1, 100, 50_000)) + data[place:]
        )
    if way == 4:
        return b"\xef\xbb\xbf" + data
    if way == 5:
        return data.decode("latin-1").encode("utf-16")
    if way == 6:
        return data.replace(b"\n", b"\r\n", 3) + data[-20:]
    return bytes(len(data))


def damaged_table(table: pd.DataFrame, rng: random.Random) -> pd.DataFrame:
    """Return a table with a column removed, renamed, of another kind or with holes, or with other rows."""
    table = table.copy()
    for _ in range(rng.choice((1, 1, 2))):
        if not len(table.columns):
            break
        column = rng.choice(list(table))
        way, size = rng.random(), len(table)
        if way < 0.2:
            table = table.drop(columns=[column])
        elif way < 0.3:
            table = table.rename(columns={column: rng.choice(("name", "layer", "other", "", "rank"))})
            table = table.loc[:, ~table.columns.duplicated()]
        elif way < 0.4:
            table = table.iloc[: rng.choice((0, 1, 2))].reset_index(drop=True)
        elif way < 0.45:
            table = pd.concat([table, table], ignore_index=True)
        else:
            table[column] = _column(size, rng)
    return table


def _column(size: int, rng: random.Random) -> Any:
    kinds = (
        lambda: np.full(size, np.nan),
        lambda: np.full(size, np.inf),
        lambda: np.full(size, rng.choice((-1, 0, 7, 10**9, 2**62))),
        lambda: pd.Series([None] * size, dtype=object),
        lambda: pd.Series([rng.choice(("", "q", "a\u2028", '<a href="x">', "9" * 300, "../x"))] * size, dtype=object),
        lambda: pd.Series([b"\xff"] * size, dtype=object),
        lambda: pd.Series([[1, 2]] * size, dtype=object),
        lambda: pd.Series([{"a": 1}] * size, dtype=object),
        lambda: np.array([rng.random() < 0.5 for _ in range(size)], dtype=bool),
        lambda: pd.Series([pd.Timestamp("2020-01-01")] * size),
        lambda: pd.Categorical(["a"] * size),
        lambda: np.arange(size, dtype=float) / 2,
        lambda: pd.array([1] * (size // 2) + [None] * (size - size // 2), dtype="Int64"),
    )
    return rng.choice(kinds)()
