"""From ids to rows: sorted hashes in mapped files, 12 bytes a row, no object for any of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from negcache.run.atomic import atomic_write
from negcache.run.data.arrow_rows import ChunkedRows
from negcache.run.data.tables import BATCH_ROWS
from negcache.run.data.text_hashes import hash_texts

HASHES, ROWS = "id_hashes.npy", "id_rows.npy"


class IdIndex:
    """Finds the row of an id by its hash, and compares the id itself.

    Args:
        ids: of all rows.
        hashes: uint64 [N], ascending.
        rows: uint [N]; the row of each hash, ascending where hashes are equal.
    """

    def __init__(self, ids: ChunkedRows, hashes: np.ndarray, rows: np.ndarray) -> None:
        self.ids, self.hashes, self.rows = ids, hashes, rows

    @staticmethod
    def open(folder: Path, ids: ChunkedRows) -> "IdIndex":
        """Map the files; reads nothing yet."""
        hashes, rows = (np.load(folder / name, mmap_mode="r") for name in (HASHES, ROWS))
        return IdIndex(ids, hashes, rows)

    @staticmethod
    def build(folder: Path, ids: ChunkedRows) -> None:
        """Hash and sort; files that are there stay. Needs 32 bytes a row while it sorts."""
        if (folder / ROWS).exists():
            return
        size = int(ids.starts[-1])
        hashes = np.empty(size, np.uint64)
        for chunk, first in zip(ids.chunks, ids.starts, strict=False):
            hashes[first : first + len(chunk)] = hash_texts(chunk.to_pylist())
        order = np.argsort(hashes, kind="stable")
        rows = order.astype(np.min_scalar_type(max(size, 2**16)))
        for name, column in ((HASHES, hashes[order]), (ROWS, rows)):
            with atomic_write(folder / name) as part, part.open("wb") as stream:
                np.save(stream, column)

    def find(self, wanted: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The row of each id, int64 [n]; -1 where it is unknown or null."""
        found = np.full(len(wanted), -1, np.int64)
        for first in range(0, len(wanted), BATCH_ROWS):
            some = wanted.slice(first, BATCH_ROWS)
            if isinstance(some, pa.ChunkedArray):
                some = pa.concat_arrays(some.chunks)
            found[first : first + len(some)] = self._find(some)
        return found

    def repeated(self) -> pa.Array:
        """The ids that stand in more than one row, by their first row."""
        same = np.flatnonzero(self.hashes[1:] == self.hashes[:-1])
        suspects = np.unique(self.rows[np.concatenate([same, same + 1])]).astype(np.int64)
        counts = self.ids.take(suspects).value_counts()
        return counts.field("values").filter(pc.greater(counts.field("counts"), 1))  # pyright: ignore[reportAttributeAccessIssue]

    def _find(self, wanted: pa.Array) -> np.ndarray:
        found = np.full(len(wanted), -1, np.int64)
        known = np.flatnonzero(wanted.is_valid().to_numpy(zero_copy_only=False))
        wanted = wanted.take(pa.array(known))
        keys = hash_texts(wanted.to_pylist())
        first = np.searchsorted(self.hashes, keys, side="left")
        last = np.searchsorted(self.hashes, keys, side="right")
        while len(open_ := np.flatnonzero(first < last)):  # a second turn where hashes collide
            rows = self.rows[first[open_]].astype(np.int64)
            there = self.ids.take(rows)
            right = pc.equal(there, wanted.take(pa.array(open_)))  # pyright: ignore[reportAttributeAccessIssue]
            hit = right.to_numpy(zero_copy_only=False)
            found[known[open_[hit]]] = rows[hit]
            first[open_] += 1
            last[open_[hit]] = 0
        return found
