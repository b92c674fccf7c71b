"""Chances of columns on a CPU, by compiled code that writes no masses down.

The twin in torch is ``mass_table.MassTable``.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from negcache.ops.cpu_masses import has_numba
from negcache.ops.cumulative import LOG2_E
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.mass_table import LogMasses, parts_of, whole_blocks
from negcache.ops.threads import dealt_out, threads_for
from negcache.shapes import Bool, Float, Float64, Int, Tensor

if TYPE_CHECKING:
    from negcache.compiled.chances import Columns

FEWEST = 1 << 16
"""Log-masses; where there are fewer, torch does it while the code is being compiled or loaded."""


class Chances(NamedTuple):
    """What is known of the chances of some columns, without a table of them.

    Args:
        of: the log-masses.
        sums: float64 [B, blocks]; masses of blocks of columns, added up, in units of ``2^unit``.
        unit: float32 [B]; the largest log-mass of each query, in base 2.
        added: float64 [n]; chances of each column, added up over the queries, but for the pairs.
    """

    of: "Columns"
    sums: np.ndarray
    unit: np.ndarray
    added: np.ndarray

    @property
    def alive(self) -> Bool[Tensor, "B"]:
        """Whether the query has any mass."""
        return torch.from_numpy(self.sums[:, -1] > 0)

    @property
    def expected(self) -> Float64[Tensor, "n"]:
        """Sum over the queries of each column's chance, but for the pairs."""
        return torch.from_numpy(self.added)

    @property
    def log_total(self) -> Float64[Tensor, "B"]:
        """log of the mass of each query; -inf where it has none."""
        unit = torch.from_numpy(self.unit).double() / LOG2_E
        return torch.from_numpy(self.sums[:, -1]).log() + unit

    def draw(self, uniforms: Float64[Tensor, "B m k"]) -> Int[Tensor, "B m"]:
        """As ``MassTable.draw``."""
        from negcache.compiled.chances import draw

        found = np.empty(uniforms.shape[:2], np.int64)
        draw(self.of, self.sums, self.unit, uniforms.contiguous().numpy(), found)
        return torch.from_numpy(found)


def takes(like: Float[Tensor, "B _"], count: int) -> bool:
    """Whether it pays: log-masses of float32, on a CPU, so many of them, and numba.

    Args:
        like: has the type of the log-masses.
        count: of all of them.
    """
    return (
        like.device.type == "cpu"
        and like.dtype == torch.float32
        and count >= FEWEST
        and has_numba()
    )


@torch.no_grad()
def chances_of(of: LogMasses) -> Chances:
    """The chances of columns, some queries by a thread at a time.

    Args:
        of: on a CPU, of float32, with one row of biases.
    """
    columns, queries = in_base_2(of), len(of.logits)
    parts = list(parts_of(queries, whole_blocks(of.logits.shape[1]), of.logits.device))
    threads = threads_for(of.logits, len(parts))
    found = dealt_out(parts, threads, lambda: partial(_part, columns))
    if len(found) == 1:
        return found[0]
    sums, unit, added = zip(*(each[1:] for each in found), strict=True)
    return Chances(columns, np.concatenate(sums), np.concatenate(unit), np.sum(added, axis=0))


def in_base_2(of: LogMasses) -> "Columns":
    """As the compiled code takes them; it has logits as they are."""
    from negcache.compiled.chances import Columns

    bias, instead = of.bias[0] * LOG2_E, of.instead * LOG2_E
    each = of.logits.contiguous(), bias, of.offsets, of.columns, instead
    return Columns(*(field.numpy() for field in each))


def _part(of: "Columns", some: slice) -> Chances:
    return chances_of_some(of, of.logits[some], some)


def chances_of_some(of: "Columns", logits: np.ndarray, some: slice) -> Chances:
    """The chances of columns for some of the queries, by this thread.

    Args:
        of: of all queries.
        logits: float32 [b, n], of these.
    """
    from negcache.compiled.chances import sum_up

    of = of._replace(logits=logits, offsets=of.offsets[some.start : some.stop + 1])
    queries, width = of.logits.shape
    sums = np.empty((queries, whole_blocks(width) // BLOCK))
    unit, added = np.empty(queries, np.float32), np.zeros(width, np.float32)
    sum_up(of, sums, unit, added)
    return Chances(of, sums, unit, added.astype(np.float64))
