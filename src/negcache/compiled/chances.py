"""Chances of columns by their log-masses, added up over the queries, and draws from them; compiled.

The twin is ``ops.mass_table.MassTable``. A row of logits is worked on while it stands in a core's
own cache: nothing of the size of the table is written. What is less than 2^-126 of a query's
largest mass is nothing here.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from negcache.compiled.block_masses import NOTHING, SMALLEST, compiled_sum, power_of_two
from negcache.compiled.compiling import compiled

BLOCK = 128
"""As ``ops.drawn_blocks.BLOCK``; a number that the compiler knows."""

GROUP = 16
"""Masses that are passed over at once."""

LOG2_E = np.float32(math.log2(math.e))

sum_in_any_order = partial(
    compiled, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy"
)  # numbers that are none stay what they are


class Columns(NamedTuple):
    """As ``ops.mass_table.LogMasses``, each in one stretch of memory.

    Args:
        logits: float32 [b, n].
        bias: float32 [n], in base 2.
        offsets: int64 [b + 1].
        columns: int64 [E].
        instead: float32 [E], in base 2.
    """

    logits: np.ndarray
    bias: np.ndarray
    offsets: np.ndarray
    columns: np.ndarray
    instead: np.ndarray


@compiled_sum
def _mass(exponent: np.float32) -> np.float32:
    """2^x of what is at most 0; nothing where that is less than 2^-126."""
    return np.float32(0.0) if exponent < SMALLEST else power_of_two(exponent)


def _sum_up(of: Columns, sums: np.ndarray, units: np.ndarray, expected: np.ndarray) -> None:
    """Masses of each query in units of the largest, block by block; and all queries' chances.

    Args:
        sums: float64 [b, blocks] to write to: masses of the blocks, added up.
        units: float32 [b] to write to: the largest log-mass, in base 2.
        expected: float32 [n], to which the chances of every query are added, but for pairs.
    """
    logits, bias, width = of.logits, of.bias, of.logits.shape[1]
    row = np.full(sums.shape[1] * BLOCK, np.float32(-np.inf))
    peaks = np.empty(BLOCK, np.float32)
    for query in range(len(logits)):
        pairs = range(of.offsets[query], of.offsets[query + 1])
        for column in range(width):
            row[column] = logits[query, column] * LOG2_E + bias[column]
        for pair in pairs:
            row[of.columns[pair]] = of.instead[pair]
        peaks[:] = NOTHING
        for block in range(sums.shape[1]):  # a range of steps would not be vectorised
            for lane in range(BLOCK):
                peaks[lane] = max(row[block * BLOCK + lane], peaks[lane])
        peak = peaks.max()
        total = 0.0
        for block in range(sums.shape[1]):
            mass = np.float32(0.0)
            for column in range(block * BLOCK, (block + 1) * BLOCK):
                here = _mass(row[column] - peak)
                row[column] = here
                mass += here
            total += mass
            sums[query, block] = total
        units[query] = peak
        for pair in pairs:
            row[of.columns[pair]] = np.float32(0.0)
        if total != 0.0:
            scale = np.float32(1.0 / total)
            for column in range(width):
                expected[column] += row[column] * scale
        row[width:] = np.float32(-np.inf)


def _draw(
    of: Columns, sums: np.ndarray, units: np.ndarray, uniforms: np.ndarray, out: np.ndarray
) -> None:
    """Columns by their chance; any where a query has no mass.

    Args:
        sums: as ``_sum_up`` wrote them.
        units: so too.
        uniforms: float64 [b, m, k]: for the block, and, where k > 1, for the column inside it; else
            what is left of the first serves there.
        out: int64 [b, m] to write to.
    """
    last = of.logits.shape[1] - 1
    masses, groups = np.empty(BLOCK, np.float32), np.empty(BLOCK // GROUP)
    for query in range(len(of.logits)):
        added, total = sums[query], sums[query, -1]
        for place in range(out.shape[1]):
            wanted = uniforms[query, place, 0] * total
            target = min(wanted, np.nextafter(total, 0.0))
            block = min(np.searchsorted(added, target, side="right"), len(added) - 1)
            before = added[block - 1] if block else 0.0
            left = (wanted - before) / (added[block] - before)
            left = min(max(left, 0.0), 1.0 - 2.0**-52) if left == left else 0.0
            left = uniforms[query, place, 1] if uniforms.shape[2] > 1 else left
            _masses_of(of, query, block * BLOCK, units[query], masses)
            out[query, place] = min(block * BLOCK + _invert(masses, groups, left), last)


def _masses_of(of: Columns, query: int, first: int, unit: np.float32, masses: np.ndarray) -> None:
    """Of one block of columns, in the unit of the query."""
    logits, bias = of.logits[query, first : first + BLOCK], of.bias[first : first + BLOCK]
    masses[:] = np.float32(0.0)
    for place in range(len(logits)):
        masses[place] = _mass(logits[place] * LOG2_E + bias[place] - unit)
    for pair in range(of.offsets[query], of.offsets[query + 1]):
        if first <= of.columns[pair] < first + BLOCK:
            masses[of.columns[pair] - first] = _mass(of.instead[pair] - unit)


def _invert(masses: np.ndarray, groups: np.ndarray, uniform: float) -> int:
    """The first whose masses, added up, pass so much of them all; one that has mass, if any has.

    Args:
        groups: memory for sums of ``GROUP`` masses.
    """
    total = 0.0
    for group in range(len(groups)):
        inside = 0.0
        for mass in masses[group * GROUP : (group + 1) * GROUP]:
            inside += np.float64(mass)
        total += inside
        groups[group] = inside
    target, passed, group = min(uniform * total, np.nextafter(total, 0.0)), 0.0, 0
    while group < len(groups) - 1 and passed + groups[group] <= target:
        passed += groups[group]
        group += 1
    found = group * GROUP
    for place in range(group * GROUP, (group + 1) * GROUP):
        found = place if masses[place] > 0.0 else found
        passed += np.float64(masses[place])
        if passed > target:
            break
    return found


_masses_of, _invert = compiled_sum(_masses_of), sum_in_any_order(_invert)
sum_up, draw = sum_in_any_order(_sum_up), compiled(_draw, error_model="numpy")
