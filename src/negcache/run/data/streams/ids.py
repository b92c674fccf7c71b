"""Item ids as the user has them, as int64: whole numbers as they are, strings by a hash."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from negcache.errors import InputError

Where: TypeAlias = Callable[[int], str]
"""The file, row group and row of a row of the batch, for people."""


class Ids(NamedTuple):
    """Ids of some rows.

    Args:
        ids: int64 [n], none negative.
        checks: uint32 [n]; another hash of the same strings, 0 of numbers: equal ids with unequal
            checks are two strings whose hashes collide.
        keys: the strings; None: the ids are the user's own.
    """

    ids: np.ndarray
    checks: np.ndarray
    keys: list[str] | None

    def shown(self, row: int) -> str:
        """The user's own id of a row, for people."""
        return str(self.ids[row]) if self.keys is None else repr(self.keys[row])


def hash_ids(keys: Sequence[str]) -> Ids:
    """63 bits of BLAKE2b for each string as its id, 32 more as its check.

    Equal on every machine. Among n strings, some two have one id with a chance of about
    ``n^2 / 2^64``: 5e-4 for 10^8 strings, 5e-6 for 10^7.
    """
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=12).digest() for key in keys)
    words = np.frombuffer(digests, "<u4").reshape(-1, 3).astype(np.uint64)
    ids = (words[:, 0] | words[:, 1] << np.uint64(32)) >> np.uint64(1)
    return Ids(ids.astype(np.int64), words[:, 2].astype(np.uint32), list(keys))


def item_ids(column: pa.ChunkedArray, where: Where) -> Ids:
    """Ids of a column of whole numbers or strings.

    Raises:
        InputError: an id that is null, negative or beyond int64; its row is named.
    """
    if column.null_count:
        bad = int(np.flatnonzero(pc.is_null(column).to_numpy())[0])
        raise InputError("an id in every row", f"none in {where(bad)}", "leave that row out")
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not types.is_integer(column.type):
        return hash_ids(column.cast(pa.string()).to_pylist())
    values = column.to_numpy()
    strange = np.flatnonzero((values < 0) | (values > np.iinfo(np.int64).max))
    if len(strange):
        bad = int(strange[0])
        raise InputError(
            "ids of 0 or more, below 2^63",
            f"{values[bad]} in {where(bad)}",
            "number the items from 0 on, or write their ids as strings",
        )
    return Ids(values.astype(np.int64), np.zeros(len(values), np.uint32), None)


def check_id_type(kind: pa.DataType, what: str) -> None:
    """Refuse a column that cannot hold ids."""
    value = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(value) or is_text(value)):
        raise InputError(
            f"whole numbers or strings as ids in {what}",
            str(kind),
            "cast the column (ids that became floating point once held a null)",
        )


def is_text(kind: pa.DataType) -> bool:
    """Strings of any width, also by a dictionary."""
    value = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
