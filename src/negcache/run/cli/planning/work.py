"""Encodings and matrix flops of one optimizer step, of one process."""

import math
from typing import NamedTuple

from negcache.indexes.sums import TOP
from negcache.ops.drawn_blocks import BLOCK, together, walks
from negcache.ops.two_stage import ALL_SCORES, scores_all
from negcache.run.cli.planning.planned_run import PlannedRun


class Work(NamedTuple):
    """One optimizer step, all its batches.

    Args:
        items_grad: items encoded with gradient, at most.
        items_nograd: rows looked at again, on average.
        fill: items encoded once, before the first step.
        queries: encoded with gradient.
        tower_flops: of the towers' matrix products, forward and backward.
        draw_flops: of cached scores, without gradient.
        score_flops: of fresh scores, forward and backward.
    """

    items_grad: int
    items_nograd: int
    fill: int
    queries: int
    tower_flops: int
    draw_flops: int
    score_flops: int


def work_of(planned: PlannedRun) -> Work:
    """Two flops a multiply-add; a backward pass is twice a forward one."""
    batches = planned.config.accumulation
    return Work(
        items_grad=batches * planned.encoded_here,
        items_nograd=planned.refreshed,
        fill=planned.rows if planned.cost.keeps_cache and not planned.is_streaming else 0,
        queries=batches * planned.queries,
        tower_flops=round(batches * _encoding(planned) + _refresh(planned)),
        draw_flops=batches * _draw(planned),
        score_flops=batches
        * 3
        * 2
        * planned.queries
        * planned.tower.dim
        * (planned.table + planned.columns),
    )


def _encoding(planned: PlannedRun) -> float:
    """Of a batch's queries and items, with gradient."""
    tower, facts = planned.tower, planned.facts
    again = int(tower.recomputes)
    here = planned.encoded_here
    chunked = int(0 < planned.config.tower.mini_batch_size < here)  # done once more

    def flops(tokens: float, forwards: int) -> float:
        return 2 * forwards * tower.forward.of(tokens) + 4 * tower.trained_forward.of(tokens)

    queries = planned.queries * flops(facts.query_tokens, 1 + again)
    return queries + here * flops(facts.item_tokens, 1 + again + chunked)


def _refresh(planned: PlannedRun) -> float:
    return 2 * planned.refreshed * planned.tower.forward.of(planned.facts.item_tokens)


def _draw(planned: PlannedRun) -> int:
    """Passes over the cache, then stage two, then the law of pooled draws."""
    batch, cost = planned.asked, planned.cost
    pooled = planned.drawn if planned.is_pooled else 0
    if cost.features is not None:
        nodes, rows = min(TOP, math.ceil(planned.rows / BLOCK)), planned.each * BLOCK
        features = cost.features(planned.tower.dim)
        return 2 * batch * (nodes * features + planned.tower.dim * (1 + pooled) * rows)
    if not cost.passes:
        return 0
    passed = math.ceil(cost.passes * planned.rows * planned.config.sampler.scored)
    return 2 * batch * planned.tower.dim * (passed + _stage_two(planned) + pooled)


def _stage_two(planned: PlannedRun) -> int:
    """Rows that are scored once more for each query, at most."""
    items, draws = planned.rows, planned.asked * planned.each
    if planned.asked * items <= ALL_SCORES and scores_all(planned.each, items):
        return 0
    beside = together(draws, items) if walks(draws, items) else 1
    return min(items, planned.each * beside * BLOCK)
