"""Columns of a Parquet file, read and checked: ids, times, weights."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet, types

from negcache.errors import InputError
from negcache.run.data.ids import refuse_unfit
from negcache.run.data.reading import reading, refuse_odd


@dataclass(frozen=True)
class Columns:
    """How the columns of an interaction log are called.

    Args:
        user: id, a string or an integer.
        item: id, a string or an integer.
        time: a number, date or timestamp; without it, the order of the rows is the order in time.
        weight: a number; without it, every interaction counts.
    """

    user: str = "user"
    item: str = "item"
    time: str = "time"
    weight: str = "weight"

    @property
    def needed(self) -> list[str]:
        """User and item; time and weight as well where they were given a name of their own."""
        given = {self.time: "time", self.weight: "weight"}
        return [self.user, self.item, *(name for name, usual in given.items() if name != usual)]


def read_columns(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """These columns of a Parquet file (or a folder of them); the optional ones where they are.

    Raises:
        InputError: no such file, no Parquet, a needed column missing or there twice, or no row.
    """
    refuse_odd(path, folders=True)
    with reading(path, "a Parquet file"):
        wanted = choose(path, parquet.ParquetDataset(path).schema.names, needed, optional)
        table = parquet.read_table(path, columns=wanted, page_checksum_verification=True)
        table.validate(full=True)  # finds text that is not UTF-8
    if not len(table):
        raise InputError(f"rows in {path}", "none", "write the table anew, with its rows")
    return table


def choose(
    path: Path,
    there: Sequence[str],
    needed: Sequence[str],
    optional: Sequence[str] = (),
    remedy: str = "rename them, or say how yours are called",
) -> list[str]:
    """Names of the columns to read: all that are needed, and of the optional ones those there."""
    if missing := [name for name in needed if name not in there]:
        raise InputError(
            f"columns {', '.join(needed)} in {path}",
            f"{', '.join(there) or 'none'} (no {', '.join(missing)})",
            remedy,
        )
    wanted = list(dict.fromkeys([*needed, *(name for name in optional if name in there)]))
    if twice := [name for name in wanted if list(there).count(name) > 1]:
        raise InputError(
            f"each column once in {path}", f"{twice[0]} more than once", "leave out all but one"
        )
    return wanted


def ids_of(path: Path, column: pa.Array | pa.ChunkedArray, name: str) -> Any:
    """Ids as strings, strings or whole numbers before; null ids and fractions are refused."""
    if not is_id(column.type):
        raise InputError(
            f"strings or integers in column {name} of {path}",
            str(column.type),
            "cast the column (ids that became floating point once held a null)",
        )
    found = texts_of(path, column, name)
    if found.null_count:
        raise InputError(
            f"an id in every row of column {name} of {path}",
            f"{found.null_count:,} nulls",
            "fill them in, or leave those rows out",
        )
    return found


def texts_of(path: Path, column: pa.Array | pa.ChunkedArray, name: str) -> Any:
    """A column as strings."""
    with reading(path, f"text in column {name}", "cast the column"):
        return column.cast(pa.string())


def id_column(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    """The ids in a column, as strings, fit to be written down."""
    found = ids_of(path, table[name], name)
    refuse_unfit(path, found, spaces=True)
    return found


def time_column(path: Path, table: pa.Table, name: str) -> np.ndarray:
    """Times as numbers that sort alike, [rows]; of equal type, nulls and NaN are refused."""
    if name not in table.column_names:
        return np.zeros(len(table), np.int64)
    column = table[name]
    if types.is_temporal(column.type):
        wide = types.is_date32(column.type) or types.is_time32(column.type)
        with reading(path, f"times in column {name}", "cast the column"):
            column = pc.cast(column.cast(pa.int32()) if wide else column, pa.int64())
    return _numbers(path, column, name)


def weight_column(path: Path, table: pa.Table, name: str) -> np.ndarray:
    """Weights, [rows]; 1 without such a column; nulls, NaN and infinities are refused."""
    if name not in table.column_names:
        return np.ones(len(table))
    return _numbers(path, table[name], name)


def _numbers(path: Path, column: pa.ChunkedArray, name: str) -> np.ndarray:
    if not (types.is_integer(column.type) or types.is_floating(column.type)):
        raise InputError(
            f"numbers in column {name} of {path}", str(column.type), "cast or rename the column"
        )
    bad = column.null_count + (pc.sum(pc.invert(pc.is_finite(column))).as_py() or 0)
    if bad:
        raise InputError(
            f"finite numbers in column {name} of {path}",
            f"{bad:,} of {len(column):,} that are null, NaN or infinite",
            "fill them in, or leave those rows out",
        )
    return column.to_numpy()


def is_id(kind: pa.DataType) -> bool:
    """Strings or whole numbers, also by a dictionary."""
    return is_text(kind) or types.is_integer(_plain(kind))


def is_text(kind: pa.DataType) -> bool:
    """Strings of any width, also by a dictionary; or bytes, which some writers take for strings."""
    value = _plain(kind)
    strings = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    return strings or types.is_binary(value) or types.is_large_binary(value)


def is_list(kind: pa.DataType) -> bool:
    """Lists of any width."""
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind
