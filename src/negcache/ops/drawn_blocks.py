"""Scores of the blocks that were drawn: their rows are gathered, or met on a walk over all rows."""

import torch
from torch.nn import functional as F

from negcache.exclusion import Exclusion
from negcache.ops.scored_rows import ScoredRows
from negcache.shapes import Float, Int, Tensor

BLOCK = 128
"""Rows of a block. Part of the law's noise grid: changing it changes which items a seed draws."""

GATHER = 1 << 19
"""Numbers of the rows that are gathered at a time: what a core's own cache takes in."""

TOGETHER = 32
"""Draws of consecutive blocks that a walk scores together, at least."""


def scores_of_blocks(
    rows: ScoredRows, queries: Int[Tensor, "n"], blocks: Int[Tensor, "n"]
) -> Float[Tensor, "n BLOCK"]:
    """Scores of the rows of ``blocks[i]`` for query ``queries[i]``; -inf where one may not stand.

    As many draws as there are blocks meet a block more than once: then every block is read once, in
    order, and scored for the queries that drew it or a neighbour.
    """
    score = _walked if walks(len(blocks), rows.num_rows) else _gathered
    logits = score(rows, queries, blocks)
    if rows.log_weights is not None:
        logits += _in_blocks(rows.log_weights, 0.0)[blocks]
    logits.masked_fill_(~_in_blocks(rows.valid, value=False)[blocks], -torch.inf)
    _mask_excluded(logits, rows.exclude, queries, blocks)
    return logits


def walks(draws: int, num_rows: int) -> bool:
    """Whether so many draws are scored on a walk."""
    return draws * BLOCK >= num_rows


def together(draws: int, num_rows: int) -> int:
    """Consecutive blocks that a walk scores together."""
    blocks = -(-num_rows // BLOCK)
    return min(blocks, -(-TOGETHER * blocks // max(draws, 1)))


def _in_blocks(of_rows: Tensor, value: float | bool) -> Tensor:
    """[blocks, BLOCK] of what is known of each row; ``value`` beyond the last."""
    return F.pad(of_rows, (0, -len(of_rows) % BLOCK), value=value).view(-1, BLOCK)


def _gathered(
    rows: ScoredRows, queries: Int[Tensor, "n"], blocks: Int[Tensor, "n"]
) -> Float[Tensor, "n BLOCK"]:
    """By the rows of each block, for its own query."""
    logits = rows.queries.new_empty(len(blocks), BLOCK)
    places = torch.arange(BLOCK, device=blocks.device)
    size = max(1, GATHER // (BLOCK * rows.queries.shape[1]))
    parts = zip(logits.split(size), queries.split(size), blocks.split(size), strict=True)
    for out, whose, where in parts:
        slots = (where[:, None] * BLOCK + places).clamp_(max=rows.num_rows - 1)
        table = rows.rows(slots.flatten()).view(*slots.shape, -1)
        out.copy_(rows.score.paired(rows.queries[whose], table))
    return logits


def _walked(
    rows: ScoredRows, queries: Int[Tensor, "n"], blocks: Int[Tensor, "n"]
) -> Float[Tensor, "n BLOCK"]:
    """By some consecutive blocks at a time, for the queries that drew any of them."""
    count, span = len(rows.queries), together(len(blocks), rows.num_rows)
    order = blocks.argsort()
    asked, which = torch.unique(blocks // span * count + queries, return_inverse=True)
    edges = torch.arange(-(-rows.num_rows // (span * BLOCK)) + 1, device=blocks.device)
    first_asked = torch.searchsorted(asked, edges * count).tolist()
    first_drawn = torch.searchsorted(blocks[order], edges * span).tolist()
    logits = rows.queries.new_empty(len(blocks), BLOCK)
    for part, (first, chunk) in enumerate(rows.chunks(span * BLOCK)):
        lo, hi = first_asked[part : part + 2]
        if lo == hi:
            continue
        scores = rows.score(rows.queries[asked[lo:hi] % count], chunk)
        scores = F.pad(scores, (0, -len(chunk) % BLOCK)).unflatten(1, (-1, BLOCK))
        drawn = order[first_drawn[part] : first_drawn[part + 1]]
        logits[drawn] = scores[which[drawn] - lo, blocks[drawn] - first // BLOCK]
    return logits


def _mask_excluded(
    logits: Float[Tensor, "n BLOCK"], exclude: Exclusion, queries: Tensor, blocks: Tensor
) -> None:
    """Set to -inf, in place, what query ``queries[i]`` may not draw from block ``blocks[i]``."""
    if not len(exclude.ids):
        return
    span = int(torch.maximum(blocks.max(), exclude.ids.max() // BLOCK)) + 1
    listed = exclude.rows * span + exclude.ids // BLOCK  # ascending, as rows and their ids are
    wanted = queries * span + blocks
    first = torch.searchsorted(listed, wanted)
    counts = torch.searchsorted(listed, wanted, right=True) - first
    draws = torch.repeat_interleave(counts)
    ends = counts.cumsum(0)
    entries = torch.arange(len(draws), device=draws.device) - (ends - counts - first)[draws]
    logits[draws, exclude.ids[entries] % BLOCK] = -torch.inf
