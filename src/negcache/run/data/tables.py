"""A task before preparation: tables of texts and judgements, and the files they come from."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

BATCH_ROWS = 8192
CORPUS = pa.schema([("_id", pa.string()), ("title", pa.string()), ("text", pa.string())])
QUERIES = pa.schema([("_id", pa.string()), ("text", pa.string())])
JUDGED = pa.schema([("query-id", pa.string()), ("corpus-id", pa.string()), ("score", pa.int64())])


@dataclass(frozen=True)
class Tables:
    """What every source of a task, a BEIR folder or a built-in one, offers to preparation.

    Args:
        name: of the task.
        files: the files it is read from; their content is the identity of the data.
        corpus: opens a stream of record batches with the schema `CORPUS`.
        queries: opens a stream of record batches with the schema `QUERIES`.
        splits: reads the judgements of each split, with the schema `JUDGED`.
    """

    name: str
    files: tuple[Path, ...]
    corpus: Callable[[], Iterator[pa.RecordBatch]]
    queries: Callable[[], Iterator[pa.RecordBatch]]
    splits: Callable[[], dict[str, pa.Table]]


class Rows(NamedTuple):
    """A task small enough for memory: (id, text) rows, (query id, item id) pairs."""

    corpus: Sequence[tuple[str, str]]
    queries: Sequence[tuple[str, str]]
    judged: Mapping[str, Sequence[tuple[str, str]]]


def from_rows(name: str, files: tuple[Path, ...], rows: Callable[[], Rows]) -> Tables:
    """Tables of a task that fits in memory; ``rows`` is called once, when something is read."""
    rows = cache(rows)
    return Tables(
        name=name,
        files=files,
        corpus=lambda: _batches([(key, "", text) for key, text in rows().corpus], CORPUS),
        queries=lambda: _batches(rows().queries, QUERIES),
        splits=lambda: {
            split: _table([(query, item, 1) for query, item in pairs], JUDGED)
            for split, pairs in rows().judged.items()
        },
    )


def _batches(rows: Sequence[tuple], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    return iter(_table(rows, schema).to_batches(max_chunksize=BATCH_ROWS))


def _table(rows: Sequence[tuple], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([list(column) for column in columns], schema=schema)


def digest(key: str) -> str:
    """Sixteen hex digits that name a text, the same on every machine."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def stable_split(key: str) -> str:
    """Train, dev or test (80, 10, 10 % of all keys), decided by the key alone."""
    place = int(digest(key), 16) % 10
    return {8: "dev", 9: "test"}.get(place, "train")
