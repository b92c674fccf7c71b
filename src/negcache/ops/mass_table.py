"""Chances of columns for each query, from their log-masses: a table in the scores' own precision.

One pass of exponentials in place, and sums of ``BLOCK`` columns; what these add up to is float64. A
draw picks a block by its mass, then a column of it: as exact as inverting all the masses at once,
and nothing of the size of the table is float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from negcache.ops.cumulative import LOG2_E, invert
from negcache.ops.drawn_blocks import BLOCK
from negcache.shapes import Float, Float64, Int, Tensor

HELD = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Masses worked on at a time: what a core's own cache takes in, or a GPU is busy with."""

AT_LEAST = 64
"""Queries worked on at a time: the product of fewer is made at half the rate."""

GATHER = 1 << 12
"""Drawn blocks looked at at a time: a bound on memory."""


class LogMasses(NamedTuple):
    """Log-masses of columns: logits and a bias, but for some pairs of a query and a column.

    Args:
        logits: of the columns.
        bias: of each column, added to its logits; a row, or one for each query.
        offsets: the pairs of query ``b`` are ``offsets[b]`` to ``offsets[b + 1]``; others may be
            listed.
        columns: of the pairs, distinct for each query.
        instead: log-mass of each pair.
    """

    logits: Float[Tensor, "B n"]
    bias: Float[Tensor, "_ n"]
    offsets: Int[Tensor, "_"]
    columns: Int[Tensor, "E"]
    instead: Float[Tensor, "E"]


class MassTable(NamedTuple):
    """Masses of the columns, in units of ``exp(log_unit)``.

    Args:
        masses: of whole blocks of columns.
        sums: of the blocks, added up.
        log_unit: the largest log-mass of each query.
    """

    masses: Float[Tensor, "B n"]
    sums: Float64[Tensor, "B blocks"]
    log_unit: Float[Tensor, "B"]

    @property
    def total(self) -> Float64[Tensor, "B"]:
        """Mass of each query, in its unit; 0 where it has none."""
        return self.sums[:, -1]

    @property
    def log_total(self) -> Float64[Tensor, "B"]:
        """log of the mass of each query; -inf where it has none."""
        return self.total.log() + self.log_unit

    def draw(self, uniforms: Float64[Tensor, "B m k"]) -> Int[Tensor, "B m"]:
        """Columns by their mass; any where the query has no mass.

        Args:
            uniforms: for the block, and for the column inside it; where there is one alone, what is
                left of it serves there.
        """
        blocks, left = self.draw_blocks(uniforms[..., 0].contiguous())
        return self.draw_inside(blocks, uniforms[..., 1] if uniforms.shape[2] > 1 else left)

    def draw_blocks(
        self, uniforms: Float64[Tensor, "B m"]
    ) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
        """Blocks by their mass; and what is left of the uniforms, which is uniform again."""
        blocks = invert(self.sums, uniforms)
        after = self.sums.gather(1, blocks)
        before = self.sums.gather(1, (blocks - 1).clamp_min(0)).masked_fill(blocks == 0, 0.0)
        left = (uniforms * self.total[:, None] - before) / (after - before)
        return blocks, left.nan_to_num(0.0).clamp(0.0, 1 - torch.finfo(left.dtype).eps)

    def draw_inside(
        self, blocks: Int[Tensor, "B m"], uniforms: Float64[Tensor, "B m"]
    ) -> Int[Tensor, "B m"]:
        """A column of each block by its mass; any where the query has no mass."""
        every, width = self.masses.view(-1, BLOCK), self.masses.shape[1] // BLOCK
        rows = (blocks + width * torch.arange(len(blocks), device=blocks.device)[:, None]).flatten()
        parts = zip(rows.split(GATHER), uniforms.flatten().split(GATHER), strict=True)
        found = [
            invert(every[some].cumsum(1, dtype=torch.float64), noise[:, None])
            for some, noise in parts
        ]
        return blocks * BLOCK + torch.cat(found).view(blocks.shape)

    def expected(self, weights: Float64[Tensor, "B"]) -> Float64[Tensor, "n"]:
        """Sum over the queries of each column's chance, times the weight of the query."""
        scales = (weights / self.total).nan_to_num(posinf=0.0).to(self.masses.dtype)
        found = self.sums.new_zeros(self.masses.shape[1])
        for some in parts_of(len(scales), len(found), found.device):
            found += scales[some] @ self.masses[some]
        return found


def whole_blocks(width: int) -> int:
    """Columns of the blocks that hold so many."""
    return -(-max(width, 1) // BLOCK) * BLOCK


def parts_of(num_queries: int, width: int, device: torch.device) -> Iterator[slice]:
    """Queries to work on at a time; one part at least."""
    step = max(AT_LEAST, HELD.get(device.type, HELD["cpu"]) // width)
    for first in range(0, max(num_queries, 1), step):
        yield slice(first, min(first + step, num_queries))


def masses_(log_masses: Float[Tensor, "b n"]) -> MassTable:
    """The table in place of its log-masses: whole blocks, -inf for what has no mass."""
    floor = torch.finfo(log_masses.dtype).min / 2  # a query without mass: -inf - floor is -inf
    peak = log_masses.amax(dim=1, keepdim=True).clamp_min_(floor)
    torch.add(peak * -LOG2_E, log_masses, alpha=LOG2_E, out=log_masses).exp2_()
    blocks = log_masses.unflatten(1, (-1, BLOCK)).sum(dim=2)
    return MassTable(log_masses, blocks.double().cumsum_(dim=1), peak.squeeze(1))


def table_of(of: LogMasses, masses: Float[Tensor, "B w"]) -> MassTable:
    """The table of these log-masses.

    Args:
        masses: memory for it, of whole blocks; the logits may stand in it already.
    """
    width, ends, parts = of.logits.shape[1], of.offsets.tolist(), []
    rows = torch.repeat_interleave(of.offsets.diff(), output_size=ends[-1] - ends[0])
    for some in parts_of(len(masses), masses.shape[1], masses.device):
        part, bias = masses[some], of.bias if len(of.bias) == 1 else of.bias[some]
        torch.add(of.logits[some], bias, out=part[:, :width])
        part[:, width:] = -torch.inf
        lo, hi = ends[some.start], ends[some.stop]
        whose = rows[lo - ends[0] : hi - ends[0]] - some.start
        part[whose, of.columns[lo:hi]] = of.instead[lo:hi]
        parts.append(masses_(part))
    sums, log_unit = (torch.cat(each) for each in list(zip(*parts, strict=True))[1:])
    return MassTable(masses, sums, log_unit)
