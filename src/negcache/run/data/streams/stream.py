"""Training data from many files: batches by number, a function of the seed and the number."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from negcache.distributed import ALONE, Mesh
from negcache.errors import InputError
from negcache.run.data.streams.batch import (
    PAIRS,
    StreamBatch,
    StreamColumns,
    make_batch,
    query_ids,
)
from negcache.run.data.streams.files import Source, find_files
from negcache.run.data.streams.ids import Where, is_text, item_ids
from negcache.run.data.streams.json_shards import converted
from negcache.run.data.streams.order import WindowOrder
from negcache.run.data.streams.sharded_table import ShardedTable
from negcache.run.data.streams.windows import Reads, WindowReader
from negcache.run.together import on_first

PAIRS_AT_ONCE = 8192
"""Rows whose ids are hashed at a time."""


class Stream:
    """Pairs or items of many files; ``batch(number)`` is all there is, and the number all state.

    A batch of several processes is the batch of one, cut at fixed places. So any number of
    processes, and a run that goes on from any batch, reads the same batches. Of the files, one
    window of row groups is in memory, and while it is read ahead the next.

    Args:
        table: the rows.
        columns: how they are called.
        batch_size: rows of the global batch.
        seed: of the shuffles.
        window: row groups whose rows are shuffled together.
        mesh: the processes that share each batch.
        skip_broken: leave out the rows of a row group that cannot be read, and warn of it, once.
            They keep their places, so that batches have fewer rows and the order is as it was.
        read_ahead: read the next window in a thread.

    Raises:
        InputError: a batch, window or seed that cannot be, or columns of other types.
    """

    def __init__(
        self,
        table: ShardedTable,
        columns: StreamColumns,
        batch_size: int,
        *,
        seed: int,
        window: int = 8,
        mesh: Mesh = ALONE,
        skip_broken: bool = False,
        read_ahead: bool = True,
    ) -> None:
        columns.check(table.schema, table.files[0].told)
        self.table, self.columns = table, columns
        self.order = WindowOrder(table.rows, batch_size, seed, window)
        self._part = mesh.part(batch_size)
        self._reader = WindowReader(table, ahead=read_ahead, skip_broken=skip_broken, tell=_warn)

    @staticmethod
    def open(
        source: Source,
        columns: StreamColumns = PAIRS,
        *,
        batch_size: int,
        seed: int,
        storage_options: Mapping[str, Any] | None = None,
        cache_dir: Path | str | None = None,
        mesh: Mesh = ALONE,
        **options: Any,
    ) -> "Stream":
        """Find the files and read their footers; JSON lines are converted to Parquet, once.

        Args:
            source: Parquet or JSON lines: a folder, a glob, a file, or a list of them; local paths
                or fsspec addresses.
            columns: how they are called; `PAIRS` or `ITEMS` for the usual names.
            batch_size: rows of the global batch.
            seed: of the shuffles.
            storage_options: for the file system, as fsspec takes them.
            cache_dir: where what is converted is kept; None: ``$NEGCACHE_CACHE``, else the user's
                cache folder.
            mesh: the processes that share each batch; the first of them converts.
            options: ``window``, ``skip_broken``, ``read_ahead`` of `Stream`.

        Raises:
            InputError: nothing to read, or files that cannot be read or differ; see docs/data.md.
        """
        files = find_files(source, storage_options)
        if files[0].is_json:
            on_first(mesh, lambda: len(converted(files, columns, cache_dir)))
            files = converted(files, columns, cache_dir)
        table = ShardedTable.open(files, columns.needed, columns.optional)
        return Stream(table, columns, batch_size, seed=seed, mesh=mesh, **options)

    @property
    def fingerprint(self) -> str:
        """Of the table; a resumed run compares it."""
        return self.table.fingerprint

    @property
    def reads(self) -> Reads:
        """What was read so far."""
        return self._reader.reads

    @property
    def broken(self) -> list[str]:
        """The row groups that were skipped so far."""
        return sorted(self._reader.broken.values())

    def batch(self, number: int) -> StreamBatch:
        """The rows that this process has of the global batch ``number``, from 0 over all epochs.

        Raises:
            InputError: a row group that cannot be read, an id or a feature that is no such; the
                file, the row group and the row are named.
        """
        parts, places = [], []
        for piece in self.order.batch(number, self._part):
            rows, there = self._reader.take(piece, self.order.following)
            parts.append(rows)
            places.append(np.stack([piece.groups[there], piece.rows[there]], axis=1))
        table = pa.concat_tables(parts) if parts else self.table.schema.empty_table()
        if parts and not len(table):
            raise InputError(
                f"a row of batch {number} that can be read",
                "row groups that are all broken",
                "restore the files that were told of, or enlarge the window or the batch",
            )
        where = np.concatenate(places) if places else np.empty((0, 2), np.int64)
        return make_batch(
            number, table, where, self.columns, lambda row: self.table.where(*where[row].tolist())
        )

    def first(self, rows: int) -> Iterator[StreamBatch]:
        """The rows of the first row groups, in the order of the files, a row group at a time.

        Args:
            rows: at most, of all.
        """
        for group, table in self._groups(self.table):
            found = table.slice(0, rows)
            rows -= len(found)
            places = np.stack([np.full(len(found), group), np.arange(len(found))], axis=1)
            yield make_batch(0, found, places, self.columns, partial(self.table.where, group))
            if rows <= 0:
                return

    def ids(self) -> Iterator[np.ndarray]:
        """Ids of all items, int64 [n] a row group; no other column is read."""
        column = self.columns.item
        schema = pa.schema([self.table.schema.field(column)])
        for group, table in self._groups(replace(self.table, schema=schema)):
            yield item_ids(table[column], partial(self.table.where, group)).ids

    def _groups(self, table: ShardedTable) -> Iterator[tuple[int, pa.Table]]:
        """Row groups that can be read, by number, in the order of the files."""
        for group in range(len(table.rows)):
            try:
                found = table.read(group)
            except InputError:
                if not self._reader.skip_broken:
                    raise
                continue
            yield group, found

    @property
    def pair_columns(self) -> pa.Schema:
        """The columns that say who a pair is: the query's, where there is one, and the item's."""
        names = self.columns.query_key(self.table.schema.names), self.columns.item
        found = dict.fromkeys(name for name in names if name is not None)
        return pa.schema([self.table.schema.field(name) for name in found])

    def pairs(self, group: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Query and item ids of a row group, int64 [n] each, some rows at a time.

        Reads no other columns. Of one that is broken there are none where those are skipped; it is
        told of when its rows are wanted.
        """
        try:
            found = replace(self.table, schema=self.pair_columns).read(group)
        except InputError:
            if not self._reader.skip_broken:
                raise
            return
        for first in range(0, len(found), PAIRS_AT_ONCE):
            some = found.slice(first, PAIRS_AT_ONCE)
            where = partial(_further, partial(self.table.where, group), first)
            queries = query_ids(some, self.columns, where)
            assert queries is not None
            yield queries, item_ids(some[self.columns.item], where).ids

    def begin_worker(self, told: list[str]) -> None:
        """Start anew in a worker process, which reads nothing ahead; warnings go to a list."""
        self._reader = WindowReader(
            self.table, ahead=False, skip_broken=self._reader.skip_broken, tell=told.append
        )

    def close(self) -> None:
        """Let go of what is held."""
        self._reader.close()


def check_alike_ids(*streams: Stream) -> None:
    """Refuse streams of one corpus of which one numbers its items and another names them.

    Raises:
        InputError: the columns and their types are named.
    """
    kinds = [stream.table.schema.field(stream.columns.item).type for stream in streams]
    for stream, kind in zip(streams, kinds, strict=True):
        if is_text(kind) != is_text(kinds[0]):
            first = streams[0]
            raise InputError(
                f"ids alike: {first.columns.item} of {first.table.files[0].told} is {kinds[0]}",
                f"{kind} in column {stream.columns.item} of {stream.table.files[0].told}",
                "write both as strings, or both as whole numbers",
            )


def _further(where: Where, first: int, row: int) -> str:
    return where(first + row)


def _warn(what: str) -> None:
    warnings.warn(f"{what}.", stacklevel=6)
