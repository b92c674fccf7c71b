"""Users or items: the ids of their rows, and their categories as numbers."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import types

from negcache.errors import InputError
from negcache.run.data.columns import id_column, read_columns
from negcache.shapes import Int, Tensor

UNKNOWN: tuple[str, str] = ("", "unknown")
"""The meaning of code 0."""


@dataclass(frozen=True, eq=False)
class Entities:
    """The users, or the items, of an interaction log, by row.

    Args:
        names: id of each row, as strings [N].
        features: codes of each row's categories, int64 [N, f]; 0 where one is unknown.
        codes: what each code stands for, as (column, value); code 0 is ("", "unknown").
    """

    names: pa.Array
    features: Int[Tensor, "N f"]
    codes: Sequence[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.names)

    def ids(self, rows: Int[Tensor, "M"]) -> list[str]:
        """The ids of some rows."""
        return self.names.take(pa.array(rows.cpu().numpy())).to_pylist()

    def find(self, ids: pa.Array | pa.ChunkedArray | Sequence[str | int]) -> np.ndarray:
        """The row of each id, int64; -1 where the id is unknown."""
        wanted = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
        places = pc.index_in(pc.cast(wanted, pa.string()), value_set=self.names)
        return pc.fill_null(places, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    @property
    def inputs(self) -> Int[Tensor, "N _"]:
        """What `negcache.towers.FeatureTower` takes: the row number, then its codes."""
        return torch.cat([torch.arange(len(self))[:, None], self.features], dim=1)


def entities_of(
    logged: pa.ChunkedArray, path: Path | None, id_name: str, features: Sequence[str]
) -> tuple[Entities, int]:
    """The rows of a table, then what only the log names, in the order of its first mention.

    Args:
        logged: ids in the log.
        path: a Parquet table of ids and categories; None: the log is all there is.
        id_name: the table's column of ids.
        features: the table's columns of categories: strings, integers, booleans, or lists of them.

    Returns:
        The entities, and how many of them the table lacks.
    """
    seen = pc.unique(logged)
    if path is None:
        return Entities(seen, torch.zeros(len(seen), 0, dtype=torch.int64), [UNKNOWN]), 0
    table = read_columns(path, [id_name, *features])
    listed = id_column(path, table, id_name).combine_chunks()
    _check_distinct(path, listed)
    others = seen.filter(pc.invert(pc.is_in(seen, value_set=listed)))
    names = pa.concat_arrays([listed, others])
    codes, meanings = _codes(path, {name: table[name] for name in features}, len(table))
    missing = np.zeros((len(others), codes.shape[1]), np.int64)
    return Entities(names, torch.from_numpy(np.concatenate([codes, missing])), meanings), len(
        others
    )


def _codes(
    path: Path, columns: Mapping[str, pa.ChunkedArray], rows: int
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Every column's values numbered on from the last column's; [rows, f] and the meanings."""
    meanings, blocks = [UNKNOWN], [np.zeros((rows, 0), np.int64)]
    for name, column in columns.items():
        values = _strings(path, name, column.combine_chunks())
        listed = types.is_list(values.type)
        flat = (values.flatten() if listed else values).dictionary_encode()
        places = pc.fill_null(flat.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        numbers = np.where(places < 0, 0, places + len(meanings))
        counts = pc.fill_null(pc.list_value_length(values), 0).to_numpy() if listed else None
        blocks.append(numbers[:, None] if counts is None else _padded(numbers, counts))
        meanings += [(name, value) for value in flat.dictionary.to_pylist()]
    return np.concatenate(blocks, axis=1), meanings


def _padded(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Lists as rows of equal length, filled up with 0."""
    table = np.zeros((len(counts), max(int(counts.max()), 1)), np.int64)
    table[np.arange(table.shape[1]) < counts[:, None]] = numbers
    return table


def _strings(path: Path, name: str, column: pa.Array) -> pa.Array:
    """A column of categories, or of lists of them, as strings."""
    kind = column.type
    listed = types.is_list(kind) or types.is_large_list(kind)
    value = kind.value_type if listed else kind
    if types.is_floating(value) or types.is_nested(value) or types.is_temporal(value):
        raise InputError(
            f"strings, integers, booleans, or lists of them in column {name} of {path}",
            str(kind),
            "put numbers into bins first, or leave the column out",
        )
    return pc.cast(column, pa.list_(pa.string()) if listed else pa.string())


def _check_distinct(path: Path, ids: pa.Array) -> None:
    counts = pc.value_counts(ids)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    if repeated:
        raise InputError(
            f"distinct ids in {path}",
            f"{len(repeated):,} that occur more than once ({', '.join(repeated[:3])})",
            "remove the repeated rows",
        )
