"""What files mean, read slowly and strictly: `RefusalError` wherever there is a doubt.

Nothing of negcache is used here: the standard library for text, rows of Python values for Parquet.
"""

import gzip
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet


class RefusalError(Exception):
    """The input says nothing certain."""


def lines(path: Path) -> list[str]:
    """Lines of a plain file, without their ends; blank ones too."""
    if not path.is_file():
        raise RefusalError("no plain file")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except Exception as failure:
        raise RefusalError(str(failure)) from failure
    found = text.split("\n")
    return found[:-1] if found[-1] == "" else found


def objects(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise RefusalError("a name twice")
        return dict(pairs)

    def constant(name: str) -> None:
        raise RefusalError(name)

    found = []
    for line in lines(path):
        if not line.strip(" \t\r\x0b\x0c"):
            continue
        try:
            row = json.loads(line.rstrip("\r"), object_pairs_hook=once, parse_constant=constant)
            json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as failure:
            raise RefusalError(str(failure)) from failure
        if not isinstance(row, dict):
            raise RefusalError("no object")
        found.append(row)
    return found


def cells(path: Path) -> list[dict[str, str]]:
    """Tab-separated rows by the names of the header."""
    rows = [line.rstrip("\r").split("\t") for line in lines(path) if line.strip("\r")]
    if not rows:
        raise RefusalError("no header")
    names, *rest = rows
    if any("\r" in cell for row in rows for cell in row) or any(len(r) != len(names) for r in rest):
        raise RefusalError("ragged")
    return [{"": ""} | _named(names, row) for row in rest] or [dict.fromkeys(names, "")][:0]


def header(path: Path) -> list[str]:
    """The names in the first line that is not blank."""
    return next((line.rstrip("\r").split("\t") for line in lines(path) if line.strip("\r")), [])


def _named(names: list[str], row: list[str]) -> dict[str, str]:
    return dict(zip(names, row, strict=True))


def once(names: list[str], needed: list[str], optional: tuple[str, ...] = ()) -> None:
    """Refuse a table that lacks a column, or has it twice."""
    if any(names.count(name) != 1 for name in needed) or any(names.count(n) > 1 for n in optional):
        raise RefusalError("columns")


def table(path: Path, needed: list[str], optional: tuple[str, ...] = ()) -> pa.Table:
    """A Parquet file, whole."""
    if not path.is_file():
        raise RefusalError("no plain file")
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            once(file.schema_arrow.names, needed, optional)
            there = [name for name in (*needed, *optional) if name in file.schema_arrow.names]
            found = file.read(there)
        found.validate(full=True)
        return found
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as failure:
        raise RefusalError(str(failure)) from failure


def strings(column: Any) -> list[str | None]:
    """Text, and nothing that is made text."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    values = column.to_pylist()
    if pa.types.is_null(kind):
        return values
    if ("string" not in str(kind) and "binary" not in str(kind)) or pa.types.is_nested(kind):
        raise RefusalError(f"no text: {kind}")
    return [_text(value) for value in values]


def _text(value: Any) -> str | None:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as failure:
        raise RefusalError(str(failure)) from failure


def names_of(column: Any, *, nulls: bool = False) -> list[Any]:
    """Ids: text or whole numbers."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    whole = pa.types.is_integer(kind)
    values = column.to_pylist() if whole else strings(column)
    if None in values and not nulls:
        raise RefusalError("null")
    return [None if value is None else str(value) for value in values]


def unfit(name: str, *, spaces: bool) -> bool:
    """Whether an id could not be written into a table, or a run file."""
    if spaces:
        return "\0" in name or "\t" in name or len(f"{name}.".splitlines()) > 1
    return "\0" in name or name.split() != [name]


def texts(path: Path, columns: list[str]) -> list[tuple[str | None, ...]]:
    """Rows of a corpus or of queries."""
    needed, optional = ["_id", "text"], ("title",) if "title" in columns else ()
    if path.suffix == ".parquet":
        found = table(path, needed, optional)
        there = {
            n: strings(found[n]) if n != "_id" else names_of(found[n]) for n in found.column_names
        }
        rows = [{n: there[n][i] for n in there} for i in range(len(found))]
    else:
        rows = objects(path)
        for row in rows:
            if any(not isinstance(row.get(name), str | None) for name in columns):
                raise RefusalError("no text")
    ids: list[Any] = [row.get("_id") for row in rows]
    if any(not isinstance(one, str) or unfit(one, spaces=False) for one in ids):
        raise RefusalError("an id")
    return [tuple(row.get(name) for name in columns) for row in rows]


def judgements(path: Path) -> list[tuple[str, str, int]]:
    """(query, item, score) rows."""
    needed = ["query-id", "corpus-id", "score"]
    if path.suffix == ".parquet":
        found = table(path, needed)
        kind = found["score"].type
        if pa.types.is_nested(kind) or not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or "string" in str(kind)
            or "binary" in str(kind)
        ):
            raise RefusalError("scores")
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        scores = found["score"].to_pylist() if number else strings(found["score"])
        ids = [names_of(found[name]) for name in needed[:2]]
        return [(q, d, _score(s)) for q, d, s in zip(*ids, scores, strict=True)]
    once(header(path), needed)
    return [(row["query-id"], row["corpus-id"], _score(row["score"])) for row in cells(path)]


def _score(value: Any) -> int:
    if isinstance(value, str):
        if not value.isascii() or not re.fullmatch(r"[+-]?\d+(\.0+)?", value):
            raise RefusalError(value)
        value = int(value.partition(".")[0])
    if value is None or not math.isfinite(value) or value != int(value) or abs(value) > 10_000:
        raise RefusalError(str(value))
    return int(value)


def is_negative(name: str) -> bool:
    """Whether a column holds ids of negatives."""
    return bool(re.fullmatch(r"negatives?(-ids?)?(-?[0-9]+)?", name.replace("_", "-")))


def mined(path: Path) -> list[tuple[str, str | None, list[str]]]:
    """(query, positive, negatives) of each row."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return [_mined_object(row) for row in objects(path)]
    if path.suffix == ".parquet":
        if not path.is_file():
            raise RefusalError("no file")
        try:
            names = parquet.read_schema(path).names
        except Exception as failure:
            raise RefusalError(str(failure)) from failure
        columns = [name for name in dict.fromkeys(names) if is_negative(name)]
        found = table(path, ["query-id", *columns], ("positive-id",))
        rows: list[Any] = [{} for _ in range(len(found))]
        for name in found.column_names:
            values = (
                _lists(found[name])
                if is_negative(name)
                else names_of(found[name], nulls=name[0] == "p")
            )
            for row, value in zip(rows, values, strict=True):
                row[name] = value
    else:
        names = header(path)
        columns = [name for name in names if is_negative(name)]
        once(names, ["query-id", *columns], ("positive-id",))
        rows = cells(path)
    if not columns:
        raise RefusalError("no column of negatives")
    return [_mined_object({k: v for k, v in row.items() if k}) for row in rows]


def _lists(column: Any) -> list[Any]:
    kind = column.type
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        return names_of(column, nulls=True)
    inner = pa.chunked_array([pa.array([], kind.value_type)])
    names_of(inner, nulls=True)
    return [
        None if row is None else [None if v is None else str(_text(v)) for v in row]
        for row in column.to_pylist()
    ]


def _mined_object(row: dict[str, Any]) -> tuple[str, str | None, list[str]]:
    named = [
        row.get("query-id"),
        *([row["positive-id"]] if row.get("positive-id") is not None else []),
    ]
    found = []
    for name in (name for name in row if is_negative(name)):
        value = row[name]
        found += [
            one for one in (value if isinstance(value, list) else [value]) if one not in (None, "")
        ]
    if any(isinstance(one, bool) or not isinstance(one, str | int) for one in [*named, *found]):
        raise RefusalError("no id")
    positive = row.get("positive-id")
    return (
        str(row["query-id"]),
        None if positive is None else str(positive),
        [str(one) for one in found],
    )


def points(path: Path) -> tuple[tuple[int, int, int], list[tuple[set[int], dict[int, float]]]]:
    """The header, and labels and features of each point."""
    first, *rest = lines(path) or [""]
    if not re.fullmatch(r"\s*[0-9]{1,18}(\s+[0-9]{1,18}){2}\s*", first, re.ASCII):
        raise RefusalError("header")
    counts = tuple(map(int, first.split()))
    found = []
    for line in filter(str.strip, rest):
        words = re.split(r"[ \t]+", line.removesuffix("\r").rstrip(" \t"))
        labels = words.pop(0) if words and ":" not in words[0] else ""
        pairs = [word.partition(":") for word in words if word]
        digits = [*(labels.split(",") if labels else []), *(pair[0] for pair in pairs)]
        if not all(re.fullmatch("[0-9]{1,10}", one) for one in digits):
            raise RefusalError("numbers")
        if not all(
            re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", p[2]) for p in pairs
        ):
            raise RefusalError("values")
        numbers = [int(pair[0]) for pair in pairs]
        if numbers != sorted(set(numbers)):
            raise RefusalError("order")
        values = [float(pair[2]) for pair in pairs]
        found.append(
            (
                {int(one) for one in labels.split(",") if one},
                dict(zip(numbers, values, strict=True)),
            )
        )
    n, features, num_labels = counts
    if len(found) != n or max(counts) >= 2**31:
        raise RefusalError("counts")
    for own, bag in found:
        if any(one >= num_labels for one in own) or any(one >= features for one in bag):
            raise RefusalError("beyond the header")
        if any(not math.isfinite(value) or abs(value) > 3.4028235e38 for value in bag.values()):
            raise RefusalError("values")
    return (n, features, num_labels), found


def interactions(path: Path) -> dict[str, set[tuple[str, str]]]:
    """(user, item) pairs of each split."""
    found = table(path, ["user", "item"], ("time", "weight"))
    users, items = (names_of(found[name]) for name in ("user", "item"))
    if any(unfit(name, spaces=True) for name in (*users, *items)):
        raise RefusalError("an id")
    n, kinds = len(found), dict(zip(found.column_names, found.schema.types, strict=True))
    times = _numbers(found["time"], temporal=True) if "time" in kinds else [0] * n
    weights = _numbers(found["weight"]) if "weight" in kinds else [1] * n
    order = sorted((times[i], i) for i in range(n) if weights[i] > 0)
    seen, by_user = set(), defaultdict(list)
    for _, i in order:
        if (users[i], items[i]) not in seen:
            seen.add((users[i], items[i]))
            by_user[users[i]].append(items[i])
    if not seen or len(set(items)) < 2:
        raise RefusalError("nothing left")
    splits: dict[str, set[tuple[str, str]]] = {"train": set(), "dev": set(), "test": set()}
    for user, own in by_user.items():
        ends = len(own) if len(own) < 3 else len(own) - 2
        for split, part in (
            ("train", own[:ends]),
            ("dev", own[ends : ends + 1]),
            ("test", own[ends + 1 :]),
        ):
            splits[split] |= {(user, item) for item in part}
    return splits


def _numbers(column: Any, *, temporal: bool = False) -> list[Any]:
    kind = column.type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or (temporal and pa.types.is_temporal(kind))
    ):
        raise RefusalError(f"numbers: {kind}")
    moments = pa.types.is_temporal(kind)  # of which some are beyond Python's
    values = [one.value for one in column] if moments else column.to_pylist()
    if any(
        value is None or (isinstance(value, float) and not math.isfinite(value)) for value in values
    ):
        raise RefusalError("not finite")
    return values


def pairs(path: Path) -> list[tuple[str | int, str, str]]:
    """(item, query, text) rows of a shard of JSON lines."""
    rows = objects(path)
    if not rows:
        raise RefusalError("no rows")
    there = {name for row in rows[:256] for name in row}
    if not {"item", "query", "text"} <= there:
        raise RefusalError("fields")
    kind = next((type(row["item"]) for row in rows[:256] if row.get("item") is not None), None)
    if kind not in (int, str):
        raise RefusalError("ids")
    found = []
    for row in rows:
        item, words = row.get("item"), [row.get(name) for name in ("query", "title", "text")]
        if type(item) is not kind or any(not isinstance(word, str | None) for word in words):
            raise RefusalError("types")
        if isinstance(item, int) and not 0 <= item < 2**63:
            raise RefusalError("ids")
        query, title, text = (word or "" for word in words)
        found.append((item, query, f"{title} {text}".strip()))
    return found
