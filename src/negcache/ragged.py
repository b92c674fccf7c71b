"""Rows of unequal length, kept as one flat array and the offsets of its rows."""

import numpy as np

from negcache.errors import InputError


def take_rows(
    offsets: np.ndarray, values: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gather rows end to end: row r is ``values[offsets[r]:offsets[r + 1]]``.

    Args:
        offsets: int [N + 1]; both arrays may be memory-mapped.
        values: [offsets[-1]].
        rows: int [M] in 0..N-1, in any order, repeats allowed.

    Returns:
        The gathered values [T] and the length of each row, int64 [M].
    """
    check_rows(rows, len(offsets) - 1)
    first = offsets[rows].astype(np.int64)
    counts = offsets[rows + 1] - first
    starts = np.cumsum(counts) - counts
    places = np.arange(counts.sum()) + np.repeat(first - starts, counts)
    return values[places], counts


def check_rows(rows: np.ndarray, num_rows: int) -> None:
    """Refuse a row that the table does not have."""
    if rows.size and (rows.min() < 0 or rows.max() >= num_rows):
        strange = rows[(rows < 0) | (rows >= num_rows)][0]
        raise InputError(
            f"rows from 0 to {num_rows - 1}",
            f"row {strange}",
            "index the table that these ids were made for",
        )
