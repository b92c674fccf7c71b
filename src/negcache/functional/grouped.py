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
        which: the group of each position.
        at_a_time: groups in one table, at most.
    """
    order = which.argsort()
    numbers, counts = torch.unique_consecutive(which[order], return_counts=True)
    starts = counts.cumsum(0) - counts
    by_size = counts.argsort(stable=True)
    sizes, groups = torch.unique_consecutive(counts[by_size], return_counts=True)
    for size, some in zip(sizes.tolist(), by_size.split(groups.tolist()), strict=True):
        inside = torch.arange(size, device=which.device)
        for part in some.split(at_a_time):
            yield Groups(numbers[part], order[starts[part, None] + inside])


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
        which: the block of each pair.

    Returns:
        The products, and where each pair's are among them.
    """
    parts, pairs = [], []
    at_a_time = max(1, HELD // (block_size * queries.shape[1]))
    for numbers, members in groups_of(which, at_a_time):
        dots = queries[rows[members]] @ blocks(numbers).to(queries.dtype).mT
        parts.append(dots.flatten(0, 1))
        pairs.append(members.flatten())
    order = torch.cat(pairs)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return torch.cat(parts), place
