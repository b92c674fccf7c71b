"""Mined negatives: a file of (query, positive, negatives) becomes a table of item rows."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.data.columns import choose, ids_of, is_id, is_list, texts_of
from negcache.run.data.data_report import report_faults
from negcache.run.data.jsonl import json_rows, line_fault, shown
from negcache.run.data.reading import reading, refuse_odd
from negcache.run.data.tables import BATCH_ROWS
from negcache.run.data.task import Task
from negcache.run.data.tsv import read_tsv
from negcache.shapes import Int, Tensor

FORM = "the columns query-id, positive-id (optional) and negative-id, or several such"
LIKE = '{"query-id": "q1", "positive-id": "d1", "negative-ids": ["d2", "d3"]}'
NEGATIVE = re.compile(r"negatives?([-_]ids?)?([-_]?[0-9]+)?")
"""Names of columns of ids."""


def read_mined_negatives(
    path: str | Path, task: Task, *, most: int = 8, strict: bool = False
) -> tuple[Int[Tensor, "Q h"], Counter[str]]:
    """The negatives of every query of a task, in the order of the file, and its faults.

    The file is JSON lines, Parquet, or tab-separated with a header, ``.gz`` or plain. Each row
    has a ``query-id``, the ``positive-id`` it was mined for if you like, and one or more columns
    ``negative``, ``negatives``, ``negative-id`` or ``negative-ids``, numbered or not: an id each,
    or a list of ids. Other columns are left out. Rows of a query add up.

    Args:
        path: the file.
        task: whose ids it speaks of.
        most: so many of a query are kept, the first ones; h is the most that any query has.
        strict: refuse a faulty file, where otherwise a warning counts its faults.

    Returns:
        Rows of ``task.corpus`` for each row of ``task.queries``, padded with -1; and the counts.

    Raises:
        InputError: no such file, no such columns, a line that cannot be read, no negative left.
    """
    path = Path(path)
    if most < 1:
        raise InputError("at least 1 negative a query", f"{most}", "keep 1 or more")
    found = _read(path)
    asked, item = task.query_text.find(found.asked), task.corpus_text.find(found.items)
    own = None if found.own is None else task.corpus_text.find(found.own)
    query, faults = asked[found.row], Counter[str]()
    faults["rows of an unknown query (left out)"] = int((asked < 0).sum())
    if own is not None:
        faults["rows with an unknown positive (kept)"] = int((own < 0).sum())
    faults["negatives that are unknown items (left out)"] = int((item < 0).sum())
    known = (query >= 0) & (item >= 0)
    keys = query[known] * len(task.corpus) + item[known]
    right = np.isin(keys, _positives(task, asked, own))
    faults["negatives that are positives of their query (left out)"] = int(right.sum())
    keys, repeats = _once(keys[~right])
    faults["negatives named before for their query (left out)"] = repeats
    report_faults(path.name, +faults, strict=strict)
    return _table(keys, task, most, path), +faults


class _Mined(NamedTuple):
    """A file of mined negatives.

    Args:
        asked: query of each row.
        own: its positive; None: the file names none.
        row: the row of each negative, ascending, int64.
        items: the negatives.
    """

    asked: pa.ChunkedArray
    own: pa.ChunkedArray | None
    row: np.ndarray
    items: pa.ChunkedArray


def _read(path: Path) -> _Mined:
    """All ids as strings."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _of_lines(path)
    if name.endswith(".tsv"):
        return _of_table(path, read_tsv(path, partial(_choose, path))[0])
    if path.name.endswith(".parquet"):
        refuse_odd(path)
        with reading(path, "a Parquet file"):
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read(_choose(path, file.schema_arrow.names))
            table.validate(full=True)  # finds text that is not UTF-8
        return _of_table(path, table)
    raise InputError("a file that ends in .jsonl, .parquet or .tsv", f"{path}", "rename it")


def _choose(path: Path, there: list[str]) -> list[str]:
    """The columns of ids: of query, of positive, of negatives; ``negative-score`` is none."""
    negative = [name for name in there if NEGATIVE.fullmatch(name)]
    if "query-id" not in there or not negative:
        raise InputError(
            f"{FORM}, in {path}",
            ", ".join(there) or "no column",
            "rename the columns; a TSV file needs a header line",
        )
    return choose(path, there, ["query-id", *negative], ["positive-id"])


def _of_lines(path: Path) -> _Mined:
    rows, count = _lines(path), 0
    asked, own, row, items = list[pa.Array](), list[pa.Array](), [np.zeros(0, np.int64)], []
    while block := list(islice(rows, BATCH_ROWS)):
        queries, positives, found = zip(*block, strict=True)
        asked.append(pa.array(queries, pa.string()))
        own.append(pa.array(positives, pa.string()))
        row.append(count + np.repeat(np.arange(len(block)), [len(ids) for ids in found]))
        items.append(pa.array([one for ids in found for one in ids], pa.string()))
        count += len(block)
    if not count:
        raise InputError(f"rows in {path}", "none", "write the file anew")
    if not len(np.concatenate(row)):
        raise InputError(f"{FORM}, in {path}", "no negative", "rename the fields")
    told = any(len(part) > part.null_count for part in own)
    return _Mined(
        pa.chunked_array(asked),
        pa.chunked_array(own) if told else None,
        np.concatenate(row),
        pa.chunked_array(items),
    )


def _lines(path: Path) -> Iterator[tuple[str, str | None, list[str]]]:
    """Query, positive and negatives of each line."""
    for number, line in json_rows(path, LIKE):
        found = [one for name in line if NEGATIVE.fullmatch(name) for one in _listed(line[name])]
        query, positive = line.get("query-id"), line.get("positive-id")
        named = [query, *([] if positive is None else [positive]), *found]
        if wrong := [one for one in named if not _is_id(one)]:
            told = f"{shown(wrong[0])}, which is no id: {shown(line)}"
            raise line_fault(path, number, told, LIKE)
        yield str(query), None if positive is None else str(positive), [str(one) for one in found]


def _listed(value: Any) -> list[Any]:
    """The ids in a field: one, a list of them, or none."""
    many = value if isinstance(value, list) else [value]
    return [one for one in many if one is not None and one != ""]


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _of_table(path: Path, table: pa.Table) -> _Mined:
    own = table["positive-id"] if "positive-id" in table.column_names else None
    if own is not None:
        own = texts_of(path, _ids(path, own, "positive-id"), "positive-id")
    rows, items = zip(*_each_column(path, table), strict=True)
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    ids = pa.chunked_array([chunk for item in items for chunk in item.chunks], pa.string())
    return _Mined(
        ids_of(path, table["query-id"], "query-id"), own, row[order], ids.take(pa.array(order))
    )


def _each_column(path: Path, table: pa.Table) -> Iterator[tuple[np.ndarray, pa.ChunkedArray]]:
    """(row, id) of every negative in each column; a cell may stay empty."""
    for name in filter(NEGATIVE.fullmatch, table.column_names):
        column, row = table[name], np.arange(len(table))
        if is_list(column.type):
            row = row.repeat(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
            column = pc.list_flatten(column)
        column = texts_of(path, _ids(path, column, name), name)
        there = pc.fill_null(pc.not_equal(column, ""), False)
        yield row[there.to_numpy()], column.filter(there)


def _ids(path: Path, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column that may hold ids, nulls among them."""
    if not is_id(column.type) and not pa.types.is_null(column.type):
        raise InputError(
            f"strings or integers, or lists of them, in column {name} of {path}",
            str(column.type),
            "cast the column",
        )
    return column


def _positives(task: Task, asked: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Keys of the training positives, and of those that the file itself names."""
    known = task.known_positives("train")
    queries = np.repeat(np.arange(len(known)), np.diff(known.offsets))
    keys = queries * len(task.corpus) + known.items
    if own is None:
        return keys
    both = (asked >= 0) & (own >= 0)
    return np.concatenate([keys, asked[both] * len(task.corpus) + own[both]])


def _once(keys: np.ndarray) -> tuple[np.ndarray, int]:
    """Keys at their first place, and how many were repeats."""
    first = np.sort(np.unique(keys, return_index=True)[1])
    return keys[first], len(keys) - len(first)


def _table(keys: np.ndarray, task: Task, most: int, path: Path) -> Int[Tensor, "Q h"]:
    """Keys in the order of the file -> the first ``most`` items of each query."""
    if not len(keys):
        raise InputError(
            f"negatives for the queries of {task.name}",
            f"none that can be used in {path}",
            "check that its ids are those of queries and corpus",
        )
    query, item = np.divmod(keys, len(task.corpus))
    order = np.argsort(query, kind="stable")
    query, item = query[order], item[order]
    starts = np.searchsorted(query, query)  # where the query's own begin
    rank = np.arange(len(query)) - starts
    kept = rank < most
    table = torch.full((len(task.queries), int(rank[kept].max()) + 1), -1, dtype=torch.int64)
    table[torch.from_numpy(query[kept]), torch.from_numpy(rank[kept])] = torch.from_numpy(
        item[kept]
    )
    return table
