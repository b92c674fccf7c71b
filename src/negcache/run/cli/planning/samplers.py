"""What each sampler costs: one row a word of ``sampler.name``."""

from collections.abc import Callable
from typing import NamedTuple

from negcache.ops.kernels import Quadratic
from negcache.run.training.config_tables import SamplerConfig
from negcache.samplers.budget import MOST


def _num_negatives(keys: SamplerConfig) -> int:
    return keys.num_negatives


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
        features: dimensions -> numbers of a block's sum of kernel features; None: no sums.
        each: draws per query, from the keys of the sampler.
    """

    drawn: Callable[[int, int, int], int]
    keeps_cache: bool = False
    passes: int = 0
    pooled: bool | None = None
    scores_batch: bool = False
    bytes_per_item: int = 0
    features: Callable[[int], int] | None = None
    each: Callable[[SamplerConfig], int] = _num_negatives


def _own(queries: int, each: int, items: int) -> int:
    return min(queries * each, items)


SAMPLER_COSTS = {
    "auto": SamplerCost(
        lambda queries, each, items: min(MOST, max(512, 4 * queries), items // 2),
        keeps_cache=True,
        passes=1,
        pooled=True,
        scores_batch=True,
        bytes_per_item=4,
    ),
    "cached": SamplerCost(_own, keeps_cache=True, passes=1),
    "uniform": SamplerCost(_own),
    "in_batch": SamplerCost(
        lambda queries, each, items: 0, pooled=True, scores_batch=True, bytes_per_item=4
    ),
    "full": SamplerCost(lambda queries, each, items: items, pooled=True),
    "cached_rest": SamplerCost(_own, keeps_cache=True, passes=2, pooled=True, scores_batch=True),
    "mixture": SamplerCost(
        _own, keeps_cache=True, passes=1, each=lambda keys: keys.num_negatives + keys.uniform
    ),
    "popularity": SamplerCost(_own, bytes_per_item=24),
    "distinct": SamplerCost(_own, keeps_cache=True, passes=1, pooled=False),
    "head_tail": SamplerCost(
        _own,
        keeps_cache=True,
        passes=1,
        pooled=False,
        each=lambda keys: keys.num_negatives + keys.head,
    ),
    "quadratic": SamplerCost(_own, keeps_cache=True, features=Quadratic().num_features),
    "rf_softmax": SamplerCost(_own, keeps_cache=True, features=lambda dim: 2 * 1024),
}
"""A word without a row is counted as "cached", the sampler that holds the most."""


def sampler_cost(word: str) -> SamplerCost:
    """The row of a word."""
    return SAMPLER_COSTS.get(word, SAMPLER_COSTS["cached"])
