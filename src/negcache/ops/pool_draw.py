"""Draws from a softmax over a pool of rows, and how often each row is expected: one pass.

A few queries at a time: their scores become masses in place, these are drawn from, and their
chances added up; no score is worked out twice, and none is kept.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from negcache.exclusion import Exclusion
from negcache.ops.mass_table import masses_, parts_of, whole_blocks
from negcache.score import Score, is_product
from negcache.shapes import Bool, Float, Float64, Int, Tensor


class PoolDraw(NamedTuple):
    """What all queries drew from a pool.

    Args:
        places: of the rows drawn; any row where a query may draw nothing.
        alive: whether it may draw something.
        expected: how often each row is drawn in one draw for every query.
    """

    places: Int[Tensor, "B m"]
    alive: Bool[Tensor, "B"]
    expected: Float64[Tensor, "M"]


@torch.no_grad()
def draw_from_pool(
    queries: Float[Tensor, "B K"],
    rows: Float[Tensor, "M K"],
    weight: Float[Tensor, "M"],
    score: Score,
    exclude: Exclusion,
    noise: Float64[Tensor, "B m 2"],
) -> PoolDraw:
    """By ``softmax(score + weight)`` over the rows that may stand for each query.

    Args:
        weight: -inf: the row is never drawn.
        exclude: the rows that may not stand, by their number.
        noise: a uniform for the block of rows, one for the row inside it.
    """
    count, pad = len(rows), whole_blocks(len(rows)) - len(rows)
    columns, weight = F.pad(rows, (0, 0, 0, pad)), F.pad(weight, (0, pad), value=-torch.inf)
    columns, ends, whose = columns.T, exclude.offsets.tolist(), exclude.rows
    scaled = queries * score.scale if is_product(score) else queries
    memory, places, alive = None, [], []
    expected = torch.zeros(count, dtype=torch.float64, device=rows.device)
    for some in parts_of(len(queries), count + pad, rows.device):
        if memory is None:
            memory = queries.new_empty(some.stop - some.start, count + pad)
        terms = memory[: some.stop - some.start]
        if is_product(score):
            torch.addmm(weight, scaled[some], columns, out=terms)
        else:
            terms.copy_(score(queries[some], columns.T, out=terms)).add_(weight)
        lo, hi = ends[some.start], ends[some.stop]
        terms[whose[lo:hi] - some.start, exclude.ids[lo:hi]] = -torch.inf
        table = masses_(terms)
        blocks, _ = table.draw_blocks(noise[some, :, 0].contiguous())
        places.append(table.draw_inside(blocks, noise[some, :, 1]).clamp_(max=count - 1))
        alive.append(table.total > 0)
        expected += table.expected(torch.ones_like(table.total))[:count]
    return PoolDraw(torch.cat(places), torch.cat(alive), expected)
