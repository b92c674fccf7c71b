"""The chance of drawing given rows by sums of kernel features, for every query."""

import torch

from negcache.ops.descent import Descent, Excluded, clipped
from negcache.ops.drawn_blocks import BLOCK
from negcache.shapes import Float, Float64, Int, Tensor

MASSES = 1 << 22
"""Masses of (query, row) pairs held at a time: a bound on memory."""


@torch.no_grad()
def log_prob_down(descent: Descent, slots: Int[Tensor, "M"]) -> Float64[Tensor, "B M"]:
    """The way down to every slot for every query: matrix products, since all go all ways."""
    size = max(1, MASSES // (BLOCK * max(1, len(descent.features))))
    parts = [_all_ways(descent, some) for some in slots.split(size)]
    return torch.cat(parts, dim=1) if parts else descent.top.new_zeros(len(descent.top), 0).double()


def _all_ways(descent: Descent, slots: Int[Tensor, "M"]) -> Float64[Tensor, "B M"]:
    sums, span = descent.sums, BLOCK * descent.sums.arity ** (len(descent.sums.levels) - 1)
    node = slots // span
    log_q = _log_share(descent.top[:, node], descent.top.sum(dim=1, keepdim=True))
    for level in range(len(sums.levels) - 2, -1, -1):
        parents, place = torch.unique(node, return_inverse=True)
        table = sums.levels[level].view(-1, sums.arity, descent.features.shape[1])[parents]
        counts = sums.counts[level].view(-1, sums.arity)[parents]
        mass = descent.features @ table.flatten(0, 1).T
        span //= sums.arity
        mass = _all_clipped(
            mass.unflatten(1, counts.shape), counts, parents, descent.excluded, span
        )
        child = slots // span
        log_q += _log_share(mass[:, place, child - node * sums.arity], mass.sum(2)[:, place])
        node = child
    blocks, place = torch.unique(node, return_inverse=True)
    mass = _all_rows(descent, blocks)
    return log_q + _log_share(mass[:, place, slots % BLOCK], mass.sum(2)[:, place])


def _all_rows(descent: Descent, blocks: Int[Tensor, "g"]) -> Float[Tensor, "B g BLOCK"]:
    """The exact kernel of the rows of some blocks, 0 where one may not be drawn."""
    rows = descent.rows
    slots = blocks[:, None] * BLOCK + torch.arange(BLOCK, device=blocks.device)
    inside = slots.clamp(max=rows.num_rows - 1)
    dots = rows.queries @ rows.rows(inside.flatten()).to(rows.queries.dtype).T
    mass = descent.kernel.kernel(dots, rows.score.scale).unflatten(1, slots.shape)
    mass *= rows.valid[inside] & (slots < rows.num_rows)
    place, found = _among(blocks, descent.excluded.slots // BLOCK)
    mass[descent.excluded.queries[found], place, descent.excluded.slots[found] % BLOCK] = 0.0
    return mass


def _log_share(mass: Float[Tensor, "B M"], total: Float[Tensor, "B _"]) -> Float64[Tensor, "B M"]:
    return (mass.double() / total.double().clamp_min(torch.finfo(total.dtype).tiny)).log_()


def _all_clipped(
    mass: Float[Tensor, "B g c"],
    counts: Float[Tensor, "g c"],
    parents: Int[Tensor, "g"],
    excluded: Excluded,
    span: int,
) -> Float[Tensor, "B g c"]:
    """Masses of the children of some nodes less what is excluded there, for every query."""
    arity = counts.shape[1]
    place, found = _among(parents, excluded.slots // (span * arity))
    where = excluded.queries[found], place, excluded.slots[found] // span % arity
    return clipped(
        mass, counts.expand(mass.shape).clone(), where, excluded.mass[found], excluded.smallest
    )


def _among(
    sorted_nodes: Int[Tensor, "g"], nodes: Int[Tensor, "E"]
) -> tuple[Int[Tensor, "e"], Int[Tensor, "e"]]:
    """Where some nodes are among distinct sorted ones: their places, and which they are."""
    place = torch.searchsorted(sorted_nodes, nodes).clamp_(max=len(sorted_nodes) - 1)
    found = (sorted_nodes[place] == nodes).nonzero().squeeze(1)
    return place[found], found
