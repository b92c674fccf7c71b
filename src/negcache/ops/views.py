"""Some blocks of rows, as if they were all: what a step that scores a fraction looks at."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.shards import Shard
from negcache.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class BlockView:
    """The given blocks of rows, in order, with slots of their own.

    Args:
        num_base: rows in all.
        blocks: distinct, ascending.
        share: chance that a block is among them.
    """

    num_base: int
    blocks: Int[Tensor, "blocks"]
    share: float

    @property
    def num_rows(self) -> int:
        whole = len(self.blocks) * BLOCK
        last = (int(self.blocks[-1]) + 1) * BLOCK if whole else 0
        return whole - max(0, last - self.num_base)

    def to_base(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.blocks[slots // BLOCK] * BLOCK + slots % BLOCK

    def from_base(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The view's slot of each row; -1: not in view."""
        place = torch.full((_num_blocks(self.num_base),), -1, device=self.blocks.device)
        place[self.blocks] = torch.arange(len(self.blocks), device=self.blocks.device)
        block = place[slots // BLOCK]
        return torch.where(block >= 0, block * BLOCK + slots % BLOCK, -1)

    def of(self, rows: ScoredRows) -> ScoredRows:
        """The rows in view."""

        def some(slots: Tensor) -> Tensor:
            return rows.rows(self.to_base(slots))

        def chunks(size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
            for first in range(0, len(every), size):
                yield first, some(every[first : first + size])

        every = torch.arange(self.num_rows, device=self.blocks.device)
        exclude = rows.exclude.renumbered(self.from_base(rows.exclude.ids))
        base, weights = self.to_base(every), rows.log_weights
        return replace(
            rows,
            num_rows=len(every),
            valid=rows.valid[base],
            exclude=exclude,
            chunks=chunks,
            rows=some,
            log_weights=None if weights is None else weights[base],
            masses=None,
        )


def some_blocks(
    shard: Shard, fraction: float, generator: torch.Generator, device: torch.device
) -> BlockView:
    """A stratified random share of the blocks: each is in with the same chance, evenly spread.

    Systematic sampling: one uniform decides the place within all of the equally long strata. The
    choice is among the blocks of the whole table; those here are in view.
    """
    total = _num_blocks(shard.total)
    count = min(total, max(1, round(fraction * total)))
    start = torch.rand((), generator=generator, dtype=torch.float64)
    blocks = ((torch.arange(count) + start) * (total / count)).long()
    blocks = blocks.clamp_(max=total - 1)
    here = (blocks >= shard.blocks.start) & (blocks < shard.blocks.stop)
    return BlockView(shard.size, (blocks[here] - shard.blocks.start).to(device), count / total)


def _num_blocks(num_rows: int) -> int:
    return math.ceil(num_rows / BLOCK)
