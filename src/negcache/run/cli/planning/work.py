"""Encodings and matrix flops of one optimizer step."""

import math
from typing import NamedTuple

from negcache.functional.two_stage import CELL
from negcache.indexes.sums import TOP
from negcache.run.cli.planning.scene import Scene


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


def work_of(scene: Scene) -> Work:
    """Two flops a multiply-add; a backward pass is twice a forward one."""
    config, batches = scene.config, scene.config.accumulation
    return Work(
        items_grad=batches * scene.encoded,
        items_nograd=scene.refreshed,
        fill=scene.facts.num_items if scene.cost.keeps_cache else 0,
        queries=batches * config.batch_size,
        tower_flops=round(batches * _encoding(scene) + _refresh(scene)),
        draw_flops=batches * _draw(scene),
        score_flops=batches
        * 3
        * 2
        * config.batch_size
        * scene.tower.dim
        * (scene.table + scene.columns),
    )


def _encoding(scene: Scene) -> float:
    """Of a batch's queries and items, with gradient."""
    tower, facts = scene.tower, scene.facts
    again = int(tower.recomputes)
    chunked = int(0 < scene.config.tower.mini_batch_size < scene.encoded)  # done once more

    def flops(tokens: float, forwards: int) -> float:
        return 2 * forwards * tower.forward.of(tokens) + 4 * tower.trained_forward.of(tokens)

    queries = scene.config.batch_size * flops(facts.query_tokens, 1 + again)
    return queries + scene.encoded * flops(facts.item_tokens, 1 + again + chunked)


def _refresh(scene: Scene) -> float:
    return 2 * scene.refreshed * scene.tower.forward.of(scene.facts.item_tokens)


def _draw(scene: Scene) -> int:
    """Passes over the cache, then the cells that were drawn, then the law of pooled draws."""
    batch, cost = scene.config.batch_size, scene.cost
    cells = scene.each * CELL
    pooled = scene.drawn if scene.is_pooled else 0
    if cost.features is not None:
        nodes = min(TOP, math.ceil(scene.facts.num_items / CELL))
        features = cost.features(scene.tower.dim)
        return 2 * batch * (nodes * features + scene.tower.dim * (1 + pooled) * cells)
    if not cost.passes:
        return 0
    passed = math.ceil(cost.passes * scene.facts.num_items * scene.config.sampler.scored)
    return 2 * batch * scene.tower.dim * (passed + cells + pooled)
