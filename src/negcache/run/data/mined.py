"""Mined negatives: a file of (query, positive, negatives) becomes a table of item rows."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import csv, parquet
from pyarrow import json as arrow_json

from negcache.errors import InputError
from negcache.run.data.data_report import report_faults
from negcache.run.data.jsonl import encoding_fault, lines_of
from negcache.run.data.task import Task
from negcache.shapes import Int, Tensor

FORM = "the columns query-id, positive-id (optional) and negative-id, or more that begin so"


def read_mined_negatives(
    path: str | Path, task: Task, *, most: int = 8, strict: bool = False
) -> tuple[Int[Tensor, "Q h"], Counter[str]]:
    """The negatives of every query of a task, in the order of the file, and its faults.

    The file is JSON lines, Parquet, or tab-separated with a header, ``.gz`` or plain. Each row
    has a ``query-id``, the ``positive-id`` it was mined for if you like, and one or more columns
    that begin with ``negative``: an id each, or a list of ids. Rows of a query add up.

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
    table = _read(path)
    asked = task.query_text.find(table["query-id"])
    own = None
    if "positive-id" in table.column_names:
        own = task.corpus_text.find(table["positive-id"])
    row, item = _negatives(table, task)
    query, faults = asked[row], Counter[str]()
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


def _read(path: Path) -> pa.Table:
    """All columns, ids as strings."""
    if not path.is_file():
        raise InputError("a file of mined negatives", f"no file {path}", "check the path")
    try:
        table = _by_ending(path)
        table.validate(full=True)  # finds text that is not UTF-8
    except (pa.ArrowInvalid, OSError) as failure:
        raise _fault(path, str(failure)) from failure
    negative = [name for name in table.column_names if name.startswith("negative")]
    if "query-id" not in table.column_names or not negative:
        raise InputError(
            f"{FORM}, in {path}",
            ", ".join(table.column_names) or "no column",
            "rename the columns; a TSV file needs a header line",
        )
    wanted = [n for n in table.column_names if n in ("query-id", "positive-id") or n in negative]
    try:
        columns = [_as_ids(table[name]) for name in wanted]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as failure:
        raise _fault(path, str(failure)) from failure
    return pa.table(columns, wanted)


def _by_ending(path: Path) -> pa.Table:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return parquet.read_table(path)
    if name.endswith(".jsonl"):
        with pa.input_stream(str(path), compression="detect") as stream:
            return arrow_json.read_json(stream)
    if name.endswith(".tsv"):
        return _read_tsv(path)
    raise InputError("a file that ends in .jsonl, .parquet or .tsv", f"{path}", "rename it")


def _read_tsv(path: Path) -> pa.Table:
    """Every column as strings, so that an id like 007 stays what it is."""
    tabs = csv.ParseOptions(delimiter="\t")
    with csv.open_csv(path, parse_options=tabs) as reader:
        names = reader.schema.names
    return csv.read_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False),  # so that errors name the row
        parse_options=tabs,
        convert_options=csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=False
        ),
    )


def _as_ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings, or lists of strings; ids that were written as whole numbers too."""
    many = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    return column.cast(pa.list_(pa.string()) if many else pa.string())


def _fault(path: Path, message: str) -> InputError:
    if not path.name.endswith((".parquet", ".parquet.gz")):
        for number, line in lines_of(path):
            try:
                line.decode()
            except UnicodeDecodeError:
                return encoding_fault(path, number)
    return InputError(FORM, f"{path}: {message.splitlines()[0]}", "correct the file")


def _negatives(table: pa.Table, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """(row of the file, item) of every negative, by row and then by column."""
    rows, items = zip(*_each_column(table), strict=True)
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    ids = pa.chunked_array([chunk for item in items for chunk in item.chunks], pa.string())
    return row[order], task.corpus_text.find(ids)[order]


def _each_column(table: pa.Table) -> Iterator[tuple[np.ndarray, pa.ChunkedArray]]:
    for name in table.column_names:
        if not name.startswith("negative"):
            continue
        column = table[name]
        row = np.arange(len(column))
        if pa.types.is_list(column.type):
            row = row.repeat(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
            column = pc.list_flatten(column)
        there = pc.fill_null(pc.not_equal(column, ""), False)  # a cell may stay empty
        yield row[there.to_numpy()], column.filter(there)


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
