"""In what order the rows of several tables stand as one, alike for any number of processes."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate, groupby
from typing import NamedTuple

import torch

from negcache.ops.shards import Shard, part_rows
from negcache.shapes import Float, Int, Tensor


class Run(NamedTuple):
    """Consecutive rows of one table.

    Args:
        table: its number.
        first: row of the table, of those here.
        rows: how many.
    """

    table: int
    first: int
    rows: int


class Interleaved:
    """The rows here of several tables, as rows of one.

    Each table is dealt out among the processes by itself. Of all parts those come first that end
    first, by the share of its table's parts that end with it or before it. So every process has
    consecutive rows of the whole, and only the last one parts that are no whole blocks: order and
    grid of blocks are those of one process, and so are the draws.

    Args:
        shards: of each table, what is here.
        device: where rows are asked for.

    Attributes:
        shard: of the whole.
        runs: the rows here, in order.

    Examples:
        >>> [tuple(run) for run in Interleaved([Shard.whole(200), Shard.whole(300)]).runs]
        [(1, 0, 128), (0, 0, 128), (1, 128, 128), (0, 128, 72), (1, 256, 44)]
    """

    def __init__(self, shards: Sequence[Shard], device: torch.device | str = "cpu") -> None:
        self.shard, self.steps = _of_several(shards), [part_rows(each.total) for each in shards]
        parts = _parts(shards)
        starts = [0, *accumulate(part.rows for part in parts)]
        self.runs = [_joined(list(some)) for _, some in groupby(parts, lambda part: part.table)]
        self.starts, self.tables, self.firsts = (
            torch.tensor(each, device=device)
            for each in (starts[:-1], *list(zip(*parts, strict=True))[:2])
        )
        self.places = [self.starts[self.tables == table] for table in range(len(shards))]

    def slots(self, table: int, rows: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The rows of the whole that these of a table are; -1 for -1."""
        step = self.steps[table]
        return (self.places[table][rows // step] + rows % step).where(rows >= 0, -1)

    def rows(
        self, slots: Int[Tensor, "*shape"]
    ) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """Of rows of the whole: the number of the table of each, and the row there."""
        part = torch.searchsorted(self.starts, slots.contiguous(), right=True) - 1
        return self.tables[part], self.firsts[part] + slots - self.starts[part]

    def merged(self, columns: Sequence[Tensor]) -> Tensor:
        """A column of the whole, of the column of each table."""
        return torch.cat(
            [columns[run.table][run.first : run.first + run.rows] for run in self.runs]
        )

    def chunks(
        self, tables: Sequence[Iterator[tuple[int, Float[Tensor, "c D"]]]], size: int
    ) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        """Blocks of so many rows of the whole, of blocks of each table that are read in order."""
        readers = [_Reader(blocks) for blocks in tables]
        first, left, parts = 0, size, list[Tensor]()
        for run in self.runs:
            ahead = run.rows
            while ahead:
                parts.append(readers[run.table].take(min(ahead, left)))
                ahead, left = ahead - len(parts[-1]), left - len(parts[-1])
                if not left:
                    yield first, torch.cat(parts) if len(parts) > 1 else parts[0]
                    first, left, parts = first + size, size, []
        if parts:
            yield first, torch.cat(parts)


class _Reader:
    """Rows that come in blocks, as many as are wanted at a time."""

    def __init__(self, blocks: Iterator[tuple[int, Tensor]]) -> None:
        self.blocks, self.rest = blocks, torch.empty(0)

    def take(self, most: int) -> Tensor:
        """The next ones: one at least, and not beyond the block."""
        if not len(self.rest):
            _, self.rest = next(self.blocks)
        found, self.rest = self.rest[:most], self.rest[most:]
        return found


def _parts(shards: Sequence[Shard]) -> list[Run]:
    """The parts that are here, in order."""
    found = list[tuple[Fraction, Run]]()
    for table, shard in enumerate(shards):
        step = part_rows(shard.total)
        parts = -(-shard.total // step)
        for rows in shard.parts.values():
            ends = Fraction((shard.first + rows.start) // step + 1, parts)
            found.append((ends, Run(table, rows.start, rows.stop - rows.start)))
    return [part for _, part in sorted(found)]


def _joined(parts: list[Run]) -> Run:
    """Parts of one table that follow each other."""
    return parts[0]._replace(rows=sum(part.rows for part in parts))


def _of_several(shards: Sequence[Shard]) -> Shard:
    first = sum(each.first for each in shards)
    size, total = sum(each.size for each in shards), sum(each.total for each in shards)
    return Shard(shards[0].mesh, first, size, total, tuple(shards))
