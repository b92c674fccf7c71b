"""Work on things that belong to numbered groups, groups of about the same size at a time."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from negcache.shapes import Float, Int, Tensor

HELD = 1 << 22
"""Numbers of the blocks that are gathered at a time: a bound on memory."""


class Groups(NamedTuple):
    """Some groups of one size, as rows of a table.

    Args:
        numbers: of the groups.
        members: positions of their members.
    """

    numbers: Int[Tensor, "g"]
    members: Int[Tensor, "g w"]


def groups_of(which: Int[Tensor, "P"], at_a_time: int) -> Iterator[Groups]:
    """The groups that positions 0 ... P - 1 belong to, those of one size together.

    There are at most sqrt(2 P) sizes, and no padding.

    Args:
        which: the group of each position, ascending.
        at_a_time: groups in one table, at most.
    """
    numbers, counts = torch.unique_consecutive(which, return_counts=True)
    starts = counts.cumsum(0) - counts
    by_size = counts.argsort(stable=True)
    sizes, groups = torch.unique_consecutive(counts[by_size], return_counts=True)
    for size, some in zip(sizes.tolist(), by_size.split(groups.tolist()), strict=True):
        inside = torch.arange(size, device=which.device)
        for part in some.split(at_a_time):
            yield Groups(numbers[part], starts[part, None] + inside)


@torch.no_grad()
def grouped_dots(
    queries: Float[Tensor, "B F"],
    blocks: Callable[[Tensor], Float[Tensor, "g c F"]],
    block_size: int,
    rows: Int[Tensor, "P"],
    which: Int[Tensor, "P"],
) -> tuple[Float[Tensor, "P c"], Int[Tensor, "P"]]:
    """``queries[rows[i]] . v`` for every vector v of block ``which[i]``, in an order of its own.

    Pairs of one block share a matrix product, and blocks with as many pairs a batch of them: the
    work is that of the pairs, at the speed of matrix products.

    Args:
        queries: left sides.
        blocks: (block numbers [g]) -> their vectors.
        block_size: vectors of a block, c.
        rows: the query of each pair.
        which: the block of each pair, ascending.

    Returns:
        The products, and where each pair's are among them.
    """
    dots = queries.new_empty(len(rows), block_size)
    place, done = torch.empty_like(rows), 0
    for numbers, members in groups_of(which, max(1, HELD // (block_size * queries.shape[1]))):
        pairs, some = members.flatten(), slice(done, done := done + members.numel())
        place[pairs] = torch.arange(some.start, some.stop, device=rows.device)
        left = queries.index_select(0, rows[pairs]).view(*members.shape, -1)
        right = blocks(numbers).to(queries.dtype).mT
        torch.bmm(left, right, out=dots[some].view(*members.shape, block_size))
    return dots, place
