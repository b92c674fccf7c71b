"""What each sampler costs: one row a word of ``sampler.name``."""

from collections.abc import Callable
from typing import NamedTuple


class SamplerCost(NamedTuple):
    """What a sampler keeps, scores and has encoded.

    Args:
        drawn: (queries B, draws per query m, items N) -> items drawn a batch, at most.
        keeps_cache: whether there are cached rows, filled once and refreshed.
        passes: over the cached rows a batch, each with the scores of all queries.
        pooled: whether every query is scored against every drawn item; None: where
            ``sampler.shared`` says so.
        scores_batch: whether the batch's positives are scored for every query.
        bytes_per_item: of anything else it holds.
    """

    drawn: Callable[[int, int, int], int]
    keeps_cache: bool = False
    passes: int = 0
    pooled: bool | None = None
    scores_batch: bool = False
    bytes_per_item: int = 0


def _own(queries: int, each: int, items: int) -> int:
    return min(queries * each, items)


SAMPLER_COSTS = {
    "cached": SamplerCost(_own, keeps_cache=True, passes=1),
    "uniform": SamplerCost(_own),
    "in_batch": SamplerCost(
        lambda queries, each, items: 0, pooled=True, scores_batch=True, bytes_per_item=4
    ),
    "full": SamplerCost(lambda queries, each, items: items, pooled=True),
}
"""A word without a row is counted as "cached", the sampler that holds the most."""


def sampler_cost(word: str) -> SamplerCost:
    """The row of a word."""
    return SAMPLER_COSTS.get(word, SAMPLER_COSTS["cached"])
