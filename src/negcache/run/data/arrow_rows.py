"""Rows of an Arrow column in many chunks, a window at a time."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa


class ChunkedRows:
    """Picks rows of a column without bringing it together.

    Args:
        column: in chunks, as it is mapped.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.chunks = column.chunks
        self.starts = np.cumsum([0, *(len(chunk) for chunk in self.chunks)])
        self.kind = column.type

    def take(self, rows: np.ndarray) -> pa.Array:
        """Some rows, in their order; only their chunks are touched."""
        order = np.argsort(rows, kind="stable")
        where = np.searchsorted(self.starts, rows[order], side="right") - 1
        bounds = np.flatnonzero(np.diff(where, prepend=-1, append=-1))
        parts = [
            self.chunks[where[first]].take(
                pa.array(rows[order[first:last]] - self.starts[where[first]])
            )
            for first, last in pairwise(bounds.tolist())
        ]
        found = pa.concat_arrays(parts) if parts else pa.array([], self.kind)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return found.take(pa.array(back))

    def after(self, first: int) -> Iterator[pa.Array]:
        """The chunks from the row ``first`` on."""
        start = int(np.searchsorted(self.starts, first, side="right")) - 1
        for number in range(start, len(self.chunks)):
            chunk = self.chunks[number]
            yield chunk.slice(max(0, first - int(self.starts[number])))


def regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of so many, the last perhaps of fewer; holds one of them."""
    held, count = list[pa.RecordBatch](), 0
    for batch in batches:
        while count + len(batch) >= rows:
            held.append(batch.slice(0, rows - count))
            batch = batch.slice(rows - count)
            yield pa.concat_batches(held)
            held, count = [], 0
        if len(batch):
            held.append(batch)
            count += len(batch)
    if held:
        yield pa.concat_batches(held)
