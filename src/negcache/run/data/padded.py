"""Rows of unequal length as a table of equal ones, padded with -1."""

import numpy as np
import torch

from negcache.ragged import take_rows
from negcache.shapes import Int, Tensor


def padded_rows(
    offsets: np.ndarray,
    values: np.ndarray,
    rows: Int[Tensor, "B"],
    *,
    most: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "B p"]:
    """Each row's values, padded with -1 to the longest of them.

    Args:
        offsets: int [N + 1]; row r is ``values[offsets[r]:offsets[r + 1]]``.
        values: [offsets[-1]], none negative.
        rows: which rows.
        most: a row that is longer gives so many of its values, chosen at random; None: all.
        generator: chooses; needed with ``most``.
    """
    taken, counts = take_rows(offsets, values, rows.cpu().numpy())
    width = int(counts.max(initial=0))
    table = np.full((len(counts), width), -1, np.int64)
    table[np.arange(width) < counts[:, None]] = taken
    padded = torch.from_numpy(table)
    if most is None or width <= most:
        return padded
    lottery = torch.rand(padded.shape, generator=generator).masked_fill_(padded < 0, 2.0)
    return padded.gather(1, lottery.argsort(dim=1)[:, :most])
