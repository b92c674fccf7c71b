"""Log-masses of blocks of rows, from their scores or int8 inner products, in one compiled pass.

The twin of both is ``ops.two_stage.mass_of_blocks_``. Here scores stand [rows, queries], so that
all that is done for one row is done for many queries at once and nothing is added up along a vector
register.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from negcache.compiled.compiling import compiled

MASKED = np.int32(-(2**31))
"""Stands in place of an inner product that may not count."""

NOTHING, SMALLEST, EXPONENT = np.float32(-3e38), np.float32(-126.0), np.int32(23)
C0, C1, C2, C3, C4, C5 = (
    np.float32(coefficient)
    for coefficient in (
        0.999999925,
        0.693142253,
        0.240172189,
        0.0552797225,
        0.00918861170,
        0.000938788323,
    )
)
"""Of the polynomial that is 2^x on [-1, 0], to a relative 7.5e-8."""


compiled_sum = partial(compiled, fastmath={"contract", "nsz"}, error_model="numpy")


@compiled_sum
def power_of_two(exponent: np.float32) -> np.float32:
    """2^x of what is at most 0; 2^-126 of what is less than that."""
    below = max(exponent, SMALLEST)
    whole = np.int32(below)  # towards 0: what is left is in (-1, 0]
    x = below - np.float32(whole)
    power = ((((C5 * x + C4) * x + C3) * x + C2) * x + C1) * x + C0
    bits = np.float32(power).view(np.int32) + (whole << EXPONENT)
    return np.int32(bits).view(np.float32)


class Masked(NamedTuple):
    """Products that may not count: int64 rows and queries, ascending by row, [E] each."""

    rows: np.ndarray
    queries: np.ndarray


def _masses(
    dots: np.ndarray, masked: Masked, slopes: np.ndarray, scales: np.ndarray, bias: np.ndarray,
    out: np.ndarray,
) -> None:  # fmt: skip
    """log2 of the sum of ``2^(dots slopes scales + bias)`` over each block of rows.

    Args:
        dots: int32 [c, B], c a multiple of the block; what is masked is written over.
        masked: of these rows.
        slopes: float32 [B].
        scales: float32 [c].
        bias: float32 [c], -inf for rows that do not count.
        out: float32 [blocks, B] to write to; -inf where nothing counts.
    """
    size = len(dots) // len(out)
    peak = np.empty(dots.shape[1], np.float32)
    mass = np.empty(dots.shape[1], np.float32)
    for entry in range(len(masked.rows)):
        dots[masked.rows[entry], masked.queries[entry]] = MASKED
    for block in range(len(out)):
        peak[:] = NOTHING
        mass[:] = np.float32(0.0)
        for row in range(block * size, (block + 1) * size):
            for query in range(dots.shape[1]):
                logit = np.float32(dots[row, query]) * (scales[row] * slopes[query]) + bias[row]
                logit = logit if dots[row, query] != MASKED else NOTHING
                peak[query] = max(logit, peak[query])
        for row in range(block * size, (block + 1) * size):
            for query in range(dots.shape[1]):
                logit = np.float32(dots[row, query]) * (scales[row] * slopes[query]) + bias[row]
                logit = logit if dots[row, query] != MASKED else NOTHING
                mass[query] += power_of_two(logit - peak[query])
        for query in range(dots.shape[1]):
            empty = peak[query] <= NOTHING
            out[block, query] = -np.inf if empty else peak[query] + math.log2(mass[query])


def _masses_of_scores(scores: np.ndarray, out: np.ndarray) -> None:
    """log2 of the sum of ``2^scores`` over each block of rows.

    Args:
        scores: float32 [c, B], c a multiple of the block; -inf where nothing may stand.
        out: float32 [blocks, B] to write to; -inf where nothing counts, nan where a score is.
    """
    size = len(scores) // len(out)
    peak = np.empty(scores.shape[1], np.float32)
    mass = np.empty(scores.shape[1], np.float32)
    for block in range(len(out)):
        peak[:] = NOTHING
        mass[:] = np.float32(0.0)
        for row in range(block * size, (block + 1) * size):
            for query in range(scores.shape[1]):
                peak[query] = max(scores[row, query], peak[query])
        for row in range(block * size, (block + 1) * size):
            for query in range(scores.shape[1]):
                mass[query] += power_of_two(scores[row, query] - peak[query])
        for query in range(scores.shape[1]):
            empty = peak[query] <= NOTHING
            out[block, query] = -np.inf if empty else peak[query] + math.log2(mass[query])


masses_of_blocks, masses_of_scores = compiled_sum(_masses), compiled_sum(_masses_of_scores)
