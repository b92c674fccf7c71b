"""Columns of a Parquet file, read and checked: ids, times, weights."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet, types

from negcache.errors import InputError


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
        InputError: no such file, no Parquet, a needed column missing, or no row.
    """
    try:
        there = parquet.ParquetDataset(path).schema.names
        if missing := [name for name in needed if name not in there]:
            raise InputError(
                f"columns {', '.join(needed)} in {path}",
                f"{', '.join(there)} (no {', '.join(missing)})",
                "rename them, or say how yours are called",
            )
        wanted = dict.fromkeys([*needed, *(name for name in optional if name in there)])
        table = parquet.read_table(path, columns=list(wanted))
    except (pa.ArrowInvalid, OSError) as failure:
        raise InputError("a Parquet file", f"{path}: {failure}", "write it anew") from failure
    if not len(table):
        raise InputError(f"rows in {path}", "none", "write the table anew, with its rows")
    return table


def id_column(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    """Ids as strings, whatever they were; null ids and fractions are refused."""
    column = table[name]
    if column.null_count:
        raise InputError(
            f"an id in every row of column {name} of {path}",
            f"{column.null_count:,} nulls",
            "fill them in, or leave those rows out",
        )
    if not _is_category(column.type):
        raise InputError(
            f"strings or integers in column {name} of {path}",
            str(column.type),
            "cast the column (ids that became floating point once held a null)",
        )
    return pc.cast(column, pa.string())


def time_column(path: Path, table: pa.Table, name: str) -> np.ndarray:
    """Times as numbers that sort alike, [rows]; of equal type, nulls and NaN are refused."""
    if name not in table.column_names:
        return np.zeros(len(table), np.int64)
    column = table[name]
    if types.is_temporal(column.type):
        wide = types.is_date32(column.type) or types.is_time32(column.type)
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


def _is_category(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return _is_category(kind.value_type)
    strings = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return strings or types.is_integer(kind)
