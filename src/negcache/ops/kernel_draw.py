"""Draws from sums of kernel features: down from a level scored at once, to a block, to a row.

The law of a draw is the product of the branches taken, each as it was really taken: masses that
were negative (random features can be) are raised to the kernel's smallest value, known positives
are taken away, and a block's rows are scored by the exact kernel. So the reported chance is that of
the draw made, however old or rough the sums are; old sums cost efficiency alone.
"""

from typing import NamedTuple

import torch

from negcache.ops.descent import Descent, Excluded, clipped
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.grouped import grouped_dots
from negcache.shapes import Float, Float64, Int, Tensor


@torch.no_grad()
def draw_down(
    descent: Descent,
    noise: Float[Tensor, "B m levels"],
    wanted: Int[Tensor, "B m"] | None = None,
) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
    """Rows by ``K(h, e)``, approximately, and the log of how likely each was; -inf: nothing.

    Args:
        noise: a uniform for every level of the sums and one for the block.
        wanted: rows whose chance is asked for instead of a draw; -1: draw one; None: draw all.
    """
    sums, height = descent.sums, len(descent.sums.levels) - 1
    span = BLOCK * sums.arity**height
    node, log_q = _pick(descent.top, None, noise[..., height + 1], _inside(wanted, None, span))
    for level in range(height - 1, -1, -1):
        span //= sums.arity
        pairs, place = _pairs(node)
        mass, order = _child_masses(descent, level, pairs, span)
        inside = _inside(wanted, node * sums.arity, span)
        child, log_share = _pick(mass, order[place], noise[..., level + 1], inside)
        node, log_q = node * sums.arity + child, log_q + log_share
    pairs, place = _pairs(node)
    mass, order = _row_masses(descent, pairs)
    row, log_share = _pick(mass, order[place], noise[..., 0], _inside(wanted, node * BLOCK, 1))
    slots = (node * BLOCK + row).clamp_(max=descent.rows.num_rows - 1)
    return slots, log_q + log_share


def _inside(wanted: Tensor | None, first: Tensor | None, span: int) -> Tensor | None:
    """Which child of its node each wanted row is below; negative where none is wanted."""
    if wanted is None:
        return None
    child = wanted if span == 1 else wanted // span
    return child if first is None else child - first


class Pairs(NamedTuple):
    """Distinct (query, node) pairs, ordered by node and query."""

    queries: Int[Tensor, "P"]
    nodes: Int[Tensor, "P"]
    keys: Int[Tensor, "P"]
    num_queries: int


def _pairs(nodes: Int[Tensor, "B m"]) -> tuple[Pairs, Int[Tensor, "B m"]]:
    """The distinct pairs, and which of them each draw is at."""
    count = len(nodes)
    queries = torch.arange(count, device=nodes.device)[:, None]
    keys, place = torch.unique(nodes * count + queries, return_inverse=True)
    distinct = keys // count
    return Pairs(keys - distinct * count, distinct, keys, count), place


def _child_masses(
    descent: Descent, level: int, pairs: Pairs, span: int
) -> tuple[Float[Tensor, "P arity"], Int[Tensor, "P"]]:
    """Masses of the children of each pair's node, less what is excluded there.

    In an order of their own; where each pair is comes second.
    """
    sums, excluded = descent.sums, descent.excluded
    blocks = sums.levels[level].view(-1, sums.arity, descent.features.shape[1])
    mass, order = grouped_dots(
        descent.features,
        lambda n: blocks.index_select(0, n),
        sums.arity,
        pairs.queries,
        pairs.nodes,
    )
    counts = sums.counts[level].view(-1, sums.arity).index_select(0, pairs.nodes)
    left = torch.empty_like(counts).index_copy_(0, order, counts)
    pair, found = _find(pairs, excluded, excluded.slots // (span * sums.arity))
    place = order[pair], excluded.slots[found] // span % sums.arity
    return clipped(mass, left, place, excluded.mass[found], excluded.smallest), order


def _row_masses(
    descent: Descent, pairs: Pairs
) -> tuple[Float[Tensor, "P BLOCK"], Int[Tensor, "P"]]:
    """The exact kernel of the rows of each pair's block, 0 where one may not be drawn.

    In an order of their own; where each pair is comes second.
    """
    rows, excluded = descent.rows, descent.excluded
    inside = torch.arange(BLOCK, device=pairs.nodes.device)

    def slots(nodes: Tensor) -> Tensor:
        return nodes[:, None] * BLOCK + inside

    def blocks(nodes: Tensor) -> Tensor:
        held = slots(nodes).clamp_(max=rows.num_rows - 1).flatten()
        return rows.rows(held).view(len(nodes), BLOCK, -1)

    dots, order = grouped_dots(rows.queries, blocks, BLOCK, pairs.queries, pairs.nodes)
    mass = descent.kernel.kernel(dots, rows.score.scale)
    partial = (descent.sums.counts[0][pairs.nodes] < BLOCK).nonzero().squeeze(1)
    if len(partial):
        some = slots(pairs.nodes[partial])
        there = rows.valid[some.clamp(max=rows.num_rows - 1)] & (some < rows.num_rows)
        mass[order[partial]] *= there
    pair, found = _find(pairs, excluded, excluded.slots // BLOCK)
    mass[order[pair], excluded.slots[found] % BLOCK] = 0.0
    return mass, order


def _find(
    pairs: Pairs, excluded: Excluded, nodes: Int[Tensor, "E"]
) -> tuple[Int[Tensor, "e"], Int[Tensor, "e"]]:
    """Where excluded (query, node) pairs are among ``pairs``: their places, and which they are."""
    keys = nodes * pairs.num_queries + excluded.queries
    place = torch.searchsorted(pairs.keys, keys).clamp_(max=len(pairs.keys) - 1)
    found = (pairs.keys[place] == keys).nonzero().squeeze(1)
    return place[found], found


def _pick(
    mass: Float[Tensor, "P c"],
    place: Int[Tensor, "B m"] | None,
    uniforms: Float[Tensor, "B m"],
    wanted: Int[Tensor, "B m"] | None,
) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
    """For each draw a column by its mass, or the wanted one; and the log of its share.

    Args:
        place: the row of masses that each draw is at; None: that of its query.
        wanted: columns; negative: draw one; None: draw all.

    Where a query has no mass at all its column is the first, which is always there: the last ones
    of a level may be padding without children.
    """
    cdf, width = mass.cumsum(dim=1), mass.shape[1]
    if place is None:
        total = cdf[:, -1:].expand(uniforms.shape)
        column = torch.searchsorted(cdf, _below(uniforms, total), right=True).clamp_(max=width - 1)
        column.mul_(total > 0)
        start = torch.arange(0, mass.numel(), width, device=mass.device)[:, None]
    else:
        start = place * width
        total = _at(cdf, start + (width - 1))
        column = _search(cdf, start, _below(uniforms, total))
    if wanted is not None:
        column = torch.where(wanted < 0, column, wanted.clamp(max=width - 1))
    share = _at(mass, start + column).double()
    return column, (share / total.double().clamp_min(torch.finfo(total.dtype).tiny)).log_()


def _search(
    cdf: Float[Tensor, "P c"], start: Int[Tensor, "B m"], target: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """How many of the first c - 1 entries from ``start`` on are not above the target; c = 2^k."""
    step, first = cdf.shape[1] // 2, start - 1
    found = first.clone()
    while step:
        found += (_at(cdf, found + step) <= target) * step
        step //= 2
    return found - first


def _at(table: Float[Tensor, "P c"], place: Int[Tensor, "B m"]) -> Float[Tensor, "B m"]:
    """Entries by their place in the flattened table."""
    return table.view(-1).index_select(0, place.flatten()).view(place.shape)


def _below(uniforms: Float[Tensor, "B m"], total: Float[Tensor, "B m"]) -> Float[Tensor, "B m"]:
    """``u * total``, less than the total even after rounding."""
    target = (uniforms * total).to(total.dtype)
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
