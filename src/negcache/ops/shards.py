"""Which rows of a table a process holds, and how a process is drawn by the mass of its rows."""

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch.nn import functional as F

from negcache.distributed import ALONE, Mesh
from negcache.errors import InputError
from negcache.ops.cumulative import add_up, invert
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.uniform import draw_distinct
from negcache.shapes import Bool, Float, Float64, Int, Tensor

PARTS = 1024
"""Parts that a table is dealt out in, at most: so many keys, at most, a checkpoint has of it."""

PART = re.compile(r"rows (\d+) to (\d+)")
"""What a state calls that which belongs to some of the rows."""


@dataclass(frozen=True)
class Shard:
    """The rows ``first`` to ``first + size`` of a table of ``total`` rows.

    A table is dealt out in parts of whole blocks, as even as they allow and in order of rank. Where
    the parts lie depends on the table alone: they are the keys of a checkpoint, so that any number
    of processes reads it.

    Args:
        mesh: the processes that hold the table.
        first: row of the table that is row 0 here.
        size: rows here.
        total: rows of the table.
        tables: of several tables that are one, what is here of each; else none.

    Examples:
        >>> Shard.whole(300)
        Shard(first=0, size=300, total=300)
    """

    mesh: Mesh
    first: int
    size: int
    total: int
    tables: tuple["Shard", ...] = ()

    @staticmethod
    def of(mesh: Mesh, total: int) -> "Shard":
        """The share of this process.

        Raises:
            InputError: there are more processes than parts.
        """
        sizes = rows_of_each(total, mesh.size)
        return Shard(mesh, sum(sizes[: mesh.rank]), sizes[mesh.rank], total)

    @staticmethod
    def whole(total: int) -> "Shard":
        """All rows are here."""
        return Shard(ALONE, 0, total, total)

    def __repr__(self) -> str:
        return f"Shard(first={self.first}, size={self.size}, total={self.total})"

    @property
    def blocks(self) -> range:
        """Numbers of its blocks in the table."""
        return range(self.first // BLOCK, -(-(self.first + self.size) // BLOCK))

    @property
    def bounds(self) -> slice:
        """Of its rows in the table."""
        return slice(self.first, self.first + self.size)

    @property
    def name(self) -> str:
        """Of what belongs to all rows here, in a state."""
        return f"rows {self.first} to {self.first + self.size}"

    @property
    def parts(self) -> dict[str, slice]:
        """The parts that are here by name, and their rows here: alike for any number of processes.

        Examples:
            >>> Shard.whole(200).parts
            {'rows 0 to 128': slice(0, 128, None), 'rows 128 to 200': slice(128, 200, None)}
        """
        step = part_rows(self.total)
        starts = range(0, self.size, step)
        inside = [Shard(ALONE, start, min(step, self.size - start), 0) for start in starts]
        return {replace(each, first=self.first + each.first).name: each.bounds for each in inside}

    def has(self, name: str) -> bool:
        """Whether what a state calls so belongs to rows here, or to no rows.

        The state may be that of a table of fewer rows, which was dealt out in other parts. That of
        several tables has entries of such names for each: what any of them wants is read.
        """
        if any(table.has(name) for table in self.tables):
            return True
        return PART.fullmatch(name) is None or bool(self.rows_of(name))

    def rows_of(self, name: str) -> range:
        """The rows of the table that are here and in the part of this name; of no part: none.

        Examples:
            >>> Shard.whole(200).rows_of("rows 128 to 256")
            range(128, 200)
        """
        found = PART.fullmatch(name)
        start, stop = map(int, found.groups()) if found else (0, 0)
        return range(max(start, self.first), min(stop, self.first + self.size))

    def local(self, rows: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Rows of the table by their number here; -1 for those of other processes, and for -1."""
        if self.size == self.total:
            return rows
        here = rows - self.first
        return here.where((here >= 0) & (here < self.size), -1)

    def ids(self, rows: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Rows here by their number in the table."""
        return rows + self.first if self.first else rows

    def counts(self, rows: Int[Tensor, "M"]) -> list[int]:
        """How many of some rows of the table, ascending, each process holds: one after the other.

        Examples:
            >>> Shard.whole(300).counts(torch.tensor([3, 7, 299]))
            [3]
        """
        if self.mesh.size == 1:
            return [len(rows)]
        ends = torch.tensor(rows_of_each(self.total, self.mesh.size)).cumsum(0)[:-1]
        cuts = torch.searchsorted(rows, ends.to(rows.device)).tolist()
        return [after - before for before, after in pairwise([0, *cuts, len(rows)])]


def part_rows(total: int) -> int:
    """Rows of a part: whole blocks, as many as make at most ``PARTS`` parts."""
    return BLOCK * max(1, math.ceil(math.ceil(total / BLOCK) / PARTS))


def rows_of_each(total: int, processes: int) -> list[int]:
    """Rows that each process holds.

    Raises:
        InputError: there are more processes than parts.

    Examples:
        >>> rows_of_each(1000, 3)
        [256, 384, 360]
    """
    step = part_rows(total)
    parts = -(-total // step)
    if processes > parts:
        raise InputError(
            f"at most {parts} processes for a store of {total} rows",
            f"{processes}",
            f"start fewer: each holds blocks of {step} rows",
        )
    ends = [min(total, step * (parts * rank // processes)) for rank in range(processes + 1)]
    return [end - start for start, end in pairwise(ends)]


class Turns(NamedTuple):
    """Which of the draws this process makes, and the uniforms it makes them by."""

    here: Bool[Tensor, "B m"]
    uniforms: Float64[Tensor, "B m *shape"]


@dataclass(frozen=True)
class Masses:
    """Unnormalised mass of the rows of every process: who draws is drawn by it.

    The first uniform of a draw picks the process, by cumulative mass; what is left of it, which is
    uniform again, takes its place. Where processes hold consecutive rows and the first uniform
    picks a block of rows by cumulative mass, the draws are those of one process that holds them
    all.

    Args:
        mesh: the processes.
        log_mass: of the rows here.
    """

    mesh: Mesh
    log_mass: Float[Tensor, "B"]

    @cached_property
    def log_masses(self) -> Float[Tensor, "B K"]:
        """Those of all processes."""
        every = self.mesh.gather(self.log_mass)
        return every.view(self.mesh.size, -1).T.contiguous()

    @cached_property
    def log_total(self) -> Float[Tensor, "B"]:
        if self.mesh.size == 1:
            return self.log_mass
        return torch.logsumexp(self.log_masses, dim=1)

    @property
    def log_share(self) -> Float[Tensor, "B"]:
        """log of the chance that a draw is made here; 0 where none is."""
        share = self.log_mass - self.log_total
        return share.masked_fill(self.log_total == -torch.inf, 0.0)

    def turns(self, uniforms: Float64[Tensor, "B m *shape"]) -> Turns:
        """Who makes each draw, by its first uniform."""
        if self.mesh.size == 1:
            return Turns(torch.ones((), dtype=torch.bool, device=uniforms.device), uniforms)
        first = uniforms[..., 0].contiguous()
        sums = add_up(self.log_masses.double()).sums
        chosen = invert(sums, first)
        below = torch.cat([torch.zeros_like(sums[:, :1]), sums], dim=1)
        before, after = (below.gather(1, chosen + more) for more in (0, 1))
        left = (first * sums[:, -1:] - before) / (after - before)
        uniforms = uniforms.clone()
        uniforms[..., 0] = left.nan_to_num(0.0).clamp(0.0, 1 - torch.finfo(left.dtype).eps)
        return Turns(chosen == self.mesh.rank, uniforms)


def best_of_all(
    mesh: Mesh, ids: Int[Tensor, "B k"], scores: Float[Tensor, "B k"], count: int
) -> tuple[Int[Tensor, "B _"], Float[Tensor, "B _"]]:
    """The ``count`` best of what every process found, best first, ties by the lower rank.

    Args:
        ids: of this process' best, best first; at most ``count`` of them.
        scores: theirs; -inf: none.
    """
    if mesh.size == 1:
        return ids, scores
    missing = (0, count - ids.shape[1])
    scores = F.pad(scores, missing, value=-torch.inf)
    every = mesh.gather(scores).view(mesh.size, *scores.shape).transpose(0, 1).flatten(1)
    found = mesh.gather(F.pad(ids, missing)).view(mesh.size, *scores.shape)
    best = every.sort(dim=1, descending=True, stable=True)
    places = best.indices[:, :count]
    return found.transpose(0, 1).flatten(1).gather(1, places), best.values[:, :count]


def some_of_all(
    mesh: Mesh, ids: Int[Tensor, "n"], count: int, generator: torch.Generator
) -> Int[Tensor, "_"]:
    """``count`` random ids of those that all processes have; the same on all, in order of rank.

    Which they are does not depend on how the ids are dealt out.

    Args:
        ids: of this process; those of all, in order of rank, are the list that is chosen from.
        generator: in the same state on all.
    """
    (sizes,) = mesh.each(len(ids))
    places = draw_distinct(sum(sizes), count, generator).to(ids.device) - sum(sizes[: mesh.rank])
    here = (places >= 0) & (places < len(ids))
    found = torch.zeros_like(places)
    found[here] = ids[places[here]]
    return mesh.total(found)
