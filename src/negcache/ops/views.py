"""Some blocks of rows, as if they were all: what a step that scores a fraction looks at."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from negcache.ops.scored_rows import ScoredRows
from negcache.ops.two_stage import BLOCK
from negcache.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class BlockView:
    """The given blocks of rows, in order, with slots of their own.

    Args:
        num_base: rows in all.
        blocks: distinct, ascending.
    """

    num_base: int
    blocks: Int[Tensor, "blocks"]

    @property
    def num_rows(self) -> int:
        whole = len(self.blocks) * BLOCK
        last = (int(self.blocks[-1]) + 1) * BLOCK
        return whole - max(0, last - self.num_base)

    @property
    def share(self) -> float:
        """Chance that a block is among them."""
        return len(self.blocks) / _num_blocks(self.num_base)

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
            for slots in every.split(size):
                yield int(slots[0]), some(slots)

        every = torch.arange(self.num_rows, device=self.blocks.device)
        exclude = rows.exclude.renumbered(self.from_base(rows.exclude.ids))
        valid = rows.valid[self.to_base(every)]
        return replace(
            rows, num_rows=len(every), valid=valid, exclude=exclude, chunks=chunks, rows=some
        )


def some_blocks(
    num_rows: int, fraction: float, generator: torch.Generator, device: torch.device
) -> BlockView:
    """A stratified random share of the blocks: each is in with the same chance, evenly spread.

    Systematic sampling: one uniform decides the place within all of the equally long strata.
    """
    total = _num_blocks(num_rows)
    count = min(total, max(1, round(fraction * total)))
    start = torch.rand((), generator=generator, dtype=torch.float64)
    blocks = ((torch.arange(count) + start) * (total / count)).long()
    return BlockView(num_rows, blocks.clamp_(max=total - 1).to(device))


def _num_blocks(num_rows: int) -> int:
    return math.ceil(num_rows / BLOCK)
