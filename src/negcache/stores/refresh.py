"""What to look at again, and when: pure rules over the ages of rows."""

import math
from typing import final

import torch

from negcache.errors import InputError
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.shards import Shard
from negcache.shapes import Int, Tensor


@final
class Oldest:
    """The oldest ``rho`` of the rows after each step, so that none is older than ceil(1 / rho).

    Turns are dealt out to blocks of 128 rows, one row at a time and in proportion to their rows;
    each block looks again at its oldest. So a plan reads the blocks that have a turn alone, every
    process has as much to do, and all together do what one would.

    In a ``DenseCache`` a row's age counts from its last write; in a ``SubsetCache`` from its entry:
    first in, first out. 0: never. Source: Lindgren et al., NeurIPS 2021.

    Args:
        rho: rows a step, as a fraction of all.
    """

    takes_training_rows = True

    def __init__(self, rho: float) -> None:
        if not 0 <= rho <= 1:
            raise InputError("rho between 0 and 1", f"{rho}", "rows per step / rows is a fraction")
        self.rho = rho

    def plan(self, written: Int[Tensor, "S"], step: int, shard: Shard) -> Int[Tensor, "R"]:
        """The smaller slot first in a tie."""
        until = rows_due_by(self.rho, shard.total, step)
        turns = torch.arange(until, until + rows_due(self.rho, shard.total, step))
        counts = torch.bincount(block_of_turn(turns, shard.total), minlength=shard.blocks.stop)
        counts = counts[shard.blocks.start : shard.blocks.stop].to(written.device)
        blocks = counts.nonzero().squeeze(1)
        slots = blocks[:, None] * BLOCK + torch.arange(BLOCK, device=written.device)
        last = written[slots.clamp(max=len(written) - 1)].long()
        seniority = last * len(written) + slots
        seniority = seniority.where(slots < len(written), torch.iinfo(seniority.dtype).max)
        ordered, order = seniority.sort(dim=1)
        chosen = torch.arange(BLOCK, device=written.device) < counts[blocks][:, None]
        return slots.gather(1, order)[chosen][ordered[chosen].argsort()]


@final
class Snapshot:
    """All rows together every ``every`` steps; in between they stay as they were.

    So all rows come from the same weights: rows that a training step encodes are passed over. This
    is how mined negatives are kept by ANCE (a whole corpus in a ``DenseCache``, Xiong et al., ICLR
    2021) and by stochastic negative mining (a pool of items drawn anew each time, a
    ``SubsetCache``). The snapshot is taken between two steps, not beside them.

    Args:
        every: optimizer steps from one snapshot to the next; N encodings each time, or the pool's.
    """

    takes_training_rows = False

    def __init__(self, every: int) -> None:
        if every < 1:
            raise InputError("every of 1 or more steps", f"{every}", "1 encodes all rows each step")
        self.every = every

    def plan(self, written: Int[Tensor, "S"], step: int, shard: Shard) -> Int[Tensor, "R"]:
        if (step + 1) % self.every:
            return torch.empty(0, dtype=torch.long, device=written.device)
        return Oldest(1.0).plan(written, 0, shard)


def rows_due(rho: float, num_rows: int, step: int) -> int:
    """Rows to refresh in step ``step`` (from 0) so that ``rho * num_rows`` a step holds on average.

    After t steps exactly ``ceil(rho * num_rows * t)`` rows have been due, also when that is less
    than one a step: plain ``int(rho * num_rows)`` would then never refresh anything.

    Examples:
        >>> [rows_due(0.01, 37, step) for step in range(6)]
        [1, 0, 1, 0, 0, 1]
        >>> sum(rows_due(0.01, 37, step) for step in range(100))
        37
    """

    return rows_due_by(rho, num_rows, step + 1) - rows_due_by(rho, num_rows, step)


def rows_due_by(rho: float, num_rows: int, steps: int) -> int:
    """Rows that have been due after so many steps."""
    return math.ceil(round(rho * num_rows * steps, 6))


def block_of_turn(turns: Int[Tensor, "t"], num_rows: int) -> Int[Tensor, "t"]:
    """The block that has each turn; in ``num_rows`` turns on end a block has one for each row.

    Round after round of all blocks; the last, where it is shorter than the others, sits out once
    it has had its turns.

    Examples:
        >>> block_of_turn(torch.arange(300)[-3:], 300), block_of_turn(torch.arange(300, 302), 300)
        (tensor([1, 0, 1]), tensor([0, 1]))
    """
    blocks = -(-num_rows // BLOCK)
    together = (num_rows - BLOCK * (blocks - 1)) * blocks
    place = turns % num_rows
    late = (place - together) % max(1, blocks - 1)
    return torch.where(place < together, place % blocks, late)
