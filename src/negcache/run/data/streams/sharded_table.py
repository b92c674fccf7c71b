"""A table in many Parquet files, of which only footers are read until a row group is asked for."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.data.reading import clause
from negcache.run.data.streams.files import ShardFile
from negcache.run.progress import track

FOOTERS_AT_ONCE = 8
UNREADABLE = (pa.ArrowException, OSError, ValueError, EOFError)


class _Footer(NamedTuple):
    """What is kept of a file: its columns, and rows and bytes of its row groups."""

    schema: pa.Schema
    rows: list[int]
    sizes: list[int]


@dataclass(frozen=True, eq=False)
class ShardedTable:
    """Row groups of many Parquet files, numbered from 0 in the order of the files.

    Args:
        files: the shards.
        schema: the columns that are read; all files have them, with equal types.
        groups: int64 [G, 2]; the number of the file of each row group, and its number there.
        rows: int64 [G]; rows of each row group, none without.
        sizes: int64 [G]; bytes of these columns, neither compressed nor yet decoded: a dictionary
            may make of them several times as many in memory.
    """

    files: tuple[ShardFile, ...]
    schema: pa.Schema
    groups: np.ndarray
    rows: np.ndarray
    sizes: np.ndarray

    @staticmethod
    def open(
        files: Sequence[ShardFile], needed: Sequence[str], optional: Sequence[str] = ()
    ) -> "ShardedTable":
        """Read the footers of all files.

        Args:
            files: Parquet, at least one.
            needed: columns that every file has.
            optional: columns that all files have, or none.

        Raises:
            InputError: a file that is missing, empty or no Parquet, a column that it lacks or has
                with another type than the first file; both are named.
        """
        read = partial(_footer, wanted={*needed, *optional})
        with ThreadPoolExecutor(min(FOOTERS_AT_ONCE, len(files))) as threads:
            footers = list(track("reading footers", total=len(files))(threads.map(read, files)))
        schema = _common_schema(files, [footer.schema for footer in footers], needed, optional)
        groups = [
            (file, group, rows, size)
            for file, footer in enumerate(footers)
            for group, (rows, size) in enumerate(zip(footer.rows, footer.sizes, strict=True))
            if rows
        ]
        table = np.array(groups, np.int64)
        return ShardedTable(tuple(files), schema, table[:, :2], table[:, 2], table[:, 3])

    def __len__(self) -> int:
        return int(self.rows.sum())

    @property
    def fingerprint(self) -> str:
        """A name for the table: names of files, row groups and types; wherever the files lie."""
        names = [PurePosixPath(file.name).name for file in self.files]
        columns = [f"{field.name}: {field.type}" for field in self.schema]
        layout = [self.groups.tolist(), self.rows.tolist(), self.sizes.tolist()]
        return hashlib.sha256(json.dumps([names, columns, layout]).encode()).hexdigest()

    def where(self, group: int, row: int | None = None) -> str:
        """The name of a row group or row, for people; rows are counted from 0."""
        file, inside = self.groups[group].tolist()
        told = f"{self.files[file].told}, row group {inside}"
        return told if row is None else f"{told}, row {row}"

    def read(self, group: int) -> pa.Table:
        """The rows of a row group.

        Raises:
            InputError: it cannot be read, or is not what the footer said at the start; the file
                and the row group are named.
        """
        file, inside = self.groups[group].tolist()
        try:
            with _opened(self.files[file]) as opened:
                found = opened.read_row_group(
                    inside, columns=self.schema.names, use_threads=False
                ).select(self.schema.names)
            found.validate(full=True)  # finds text that is not UTF-8
        except (*UNREADABLE, KeyError) as failure:  # KeyError: a column is there no longer
            raise self._broken(group, clause(failure)) from failure
        if len(found) != self.rows[group] or found.schema.types != self.schema.types:
            raise self._broken(group, f"{len(found):,} rows of {_types(found.schema)}")
        return pa.table(found.columns, schema=self.schema)  # whether null is allowed is forgotten

    def _broken(self, group: int, why: str) -> InputError:
        return InputError(
            f"{self.rows[group]:,} readable rows, as there were at the start",
            f"{self.where(group)}: {why}",
            "restore the file, or skip what is broken (skip_broken=True)",
        )


def _opened(file: ShardFile) -> parquet.ParquetFile:
    return parquet.ParquetFile(
        file.path,
        filesystem=file.arrow_system,
        pre_buffer=True,
        page_checksum_verification=True,  # where the writer put checksums
    )


def _footer(file: ShardFile, *, wanted: set[str]) -> _Footer:
    try:
        with _opened(file) as opened:
            schema, told = opened.schema_arrow, opened.metadata
            groups = [told.row_group(number) for number in range(told.num_row_groups)]
            rows = [group.num_rows for group in groups]
            sizes = [_bytes_of(group, wanted) for group in groups]
    except UNREADABLE as failure:
        raise InputError(
            "a Parquet file",
            f"{file.told}: {clause(failure)}",
            "restore the file, or take it out of the list",
        ) from failure
    if not sum(rows):
        raise InputError(
            f"rows in {file.told}", "none", "write it anew, or take it out of the list"
        )
    return _Footer(schema.remove_metadata(), rows, sizes)


def _bytes_of(group: parquet.RowGroupMetaData, wanted: set[str]) -> int:
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.partition(".")[0] in wanted
    )


def _common_schema(
    files: Sequence[ShardFile],
    schemas: Sequence[pa.Schema],
    needed: Sequence[str],
    optional: Sequence[str],
) -> pa.Schema:
    """The columns of the first file that are asked for; refuses a file that differs in them."""
    there = schemas[0].names
    if missing := [name for name in needed if name not in there]:
        raise InputError(
            f"columns {', '.join(needed)} in {files[0].told}",
            f"{', '.join(there)} (no {', '.join(missing)})",
            "rename them, or say how yours are called",
        )
    wanted = dict.fromkeys([*needed, *optional])
    for file, schema in zip(files, schemas, strict=True):
        for name in wanted:
            expected, got = _type(schemas[0], name), _type(schema, name)
            if got != expected:
                raise InputError(
                    f"one schema in all files: column {name} {_told(expected)} in {files[0].told}",
                    f"{name} {_told(got)} in {file.told}",
                    "write the files with one schema",
                )
    return pa.schema(
        [pa.field(name, schemas[0].field(name).type) for name in wanted if name in there]
    )


def _type(schema: pa.Schema, name: str) -> pa.DataType | None:
    return schema.field(name).type if name in schema.names else None


def _told(kind: pa.DataType | None) -> str:
    return "absent" if kind is None else f"of type {kind}"


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
