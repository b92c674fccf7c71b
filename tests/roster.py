"""One list of every sampler with its arguments: each law runs over all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

import negcache as nc
from negcache.functional.features import Quartic
from negcache.indexes.sg_tree import TreeCells
from negcache.protocols import Sampler


@dataclass(frozen=True)
class Case:
    """A sampler, and whether its draw claims an unbiased partition."""

    name: str
    build: Callable[[nc.DenseCache], Sampler]
    unbiased: bool = True


def popularity(num_items: int) -> torch.Tensor:
    """Shares of 1/rank: the first items are the popular ones."""
    rank = torch.arange(1, num_items + 1).double()
    return 1 / (rank * (1 / rank).sum())


def subset(cache: nc.DenseCache) -> nc.SubsetCache:
    """Half of the items, with the rows that the dense cache has."""
    half = nc.SubsetCache(len(cache), DIM, len(cache) // 2, dtype=torch.float64)
    half.write(torch.arange(len(cache)), cache.table)
    return half


def mixture(cache: nc.DenseCache, scored: float = 1.0) -> nc.Mixture:
    return nc.Mixture(nc.CachedSoftmax(cache, 4, scored=scored), nc.Uniform(cache, 2))


ROSTER = [
    Case("uniform", lambda cache: nc.Uniform(cache, 6)),
    Case("cached", lambda cache: nc.CachedSoftmax(cache, 6)),
    Case("shared_uniform", lambda cache: nc.SharedDraws(nc.Uniform(cache, 6))),
    Case("shared_cached", lambda cache: nc.SharedDraws(nc.CachedSoftmax(cache, 6))),
    Case("subset", lambda cache: nc.CachedSoftmax(subset(cache), 6), unbiased=False),
    Case("flat", lambda cache: nc.CachedSoftmax(cache, 6, power=0.5)),
    Case("scored", lambda cache: nc.CachedSoftmax(cache, 6, scored=0.67)),
    Case("shared_scored", lambda cache: nc.SharedDraws(nc.CachedSoftmax(cache, 6, scored=0.34))),
    Case("distinct", lambda cache: nc.CachedDistinct(cache, 6)),
    Case("head_tail", lambda cache: nc.HeadTail(cache, 3, 3)),
    Case("hard", lambda cache: nc.HeadTail(cache, 6, 0), unbiased=False),
    Case("popularity", lambda cache: nc.Popularity(popularity(len(cache)), 6)),
    Case(
        "shared_popularity", lambda cache: nc.SharedDraws(nc.Popularity(popularity(len(cache)), 6))
    ),
    Case("mixture", mixture),
    Case("shared_mixture", lambda cache: nc.SharedDraws(mixture(cache))),
    Case("scored_mixture", lambda cache: nc.SharedDraws(mixture(cache, scored=0.34))),
    Case("rest", lambda cache: nc.CachedRest(cache, 20), unbiased=False),
    Case(
        "thinned",
        lambda cache: nc.SharedDraws(nc.CachedSoftmax(cache, 6), num_encoded=10),
    ),
    Case(
        "joined",
        lambda cache: nc.SharedDraws(
            nc.CachedSoftmax(cache, 6), log_popularity=popularity(len(cache)).log()
        ),
        unbiased=False,
    ),
    Case("quadratic", lambda cache: nc.quadratic(cache, 6)),
    Case("subset_quadratic", lambda cache: nc.quadratic(subset(cache), 6), unbiased=False),
    Case("shared_quadratic", lambda cache: nc.SharedDraws(nc.quadratic(cache, 6))),
    Case("rf_softmax", lambda cache: nc.rf_softmax(cache, 6, num_frequencies=8, nu=3.0)),
    Case("quartic", lambda cache: nc.ExactKernel(cache, 6, Quartic())),
    Case("log_uniform", lambda cache: nc.log_uniform(cache, 6)),
    Case("stale_top_k", lambda cache: nc.StaleTopK(cache, 6, depth=20), unbiased=False),
    Case("stale_top_k_tail", lambda cache: nc.StaleTopK(cache, 6, depth=20, tail=4)),
    Case("dynamic_index", lambda cache: nc.DynamicIndex(cache, 6)),
    Case("shared_dynamic_index", lambda cache: nc.SharedDraws(nc.DynamicIndex(cache, 6))),
    Case("chain", lambda cache: nc.DynamicIndexChain(cache, 6, chain=3), unbiased=False),
    Case("as_printed", lambda cache: nc.as_printed(cache, 6), unbiased=False),
    Case("index_miner", lambda cache: nc.DynamicIndexMiner(cache, 6), unbiased=False),
    Case(
        "index_rejection",
        lambda cache: nc.DynamicIndexRejection(cache, 6, tries=64),
        unbiased=False,
    ),
    Case("index_tree", lambda cache: nc.DynamicIndexTree(cache, 6, TreeCells()), unbiased=False),
    Case("resampled", lambda cache: nc.Resampled(nc.DynamicIndex(cache, 9), 3)),
    Case("resampled_uniform", lambda cache: nc.Resampled(nc.Uniform(cache, 9), 3, cache=cache)),
    Case("full", lambda cache: nc.FullSoftmax(cache)),
    Case("in_batch", lambda cache: nc.InBatch(popularity(len(cache)).log()), unbiased=False),
    Case("given", lambda cache: nc.Given(torch.tensor([[1, 2, -1]] * 5)), unbiased=False),
]

NUM_ITEMS, DIM, ROWS = 300, 8, 5


def problem(drift: float = 0.0, num_items: int = NUM_ITEMS, temperature: float = 0.3):
    """(request, fresh items, cache): five queries, three with further positives; float64.

    Args:
        drift: relative noise between the fresh items and what the cache remembers.
    """
    noise = torch.Generator().manual_seed(11)
    score = nc.DotScore(temperature).double().requires_grad_(False)
    items = score.embed(torch.randn(num_items, DIM, generator=noise, dtype=torch.float64))
    queries = score.embed(torch.randn(ROWS, DIM, generator=noise, dtype=torch.float64))
    cache = nc.DenseCache(num_items, DIM, dtype=torch.float64)
    stale = (
        items + drift * torch.randn(items.shape, generator=noise, dtype=torch.float64) / DIM**0.5
    )
    cache.write(torch.arange(num_items), score.embed(stale))
    positives = torch.tensor([0, 1, 2, 1, num_items - 1])
    rows = torch.tensor([0, 1, 2, 3, 4, 0, 0, 2, 4])
    known = torch.cat([positives, torch.tensor([7, 8, num_items - 2, 5])])
    exclude = nc.Exclusion.from_pairs(rows, known, ROWS)
    return nc.Request(queries, score, positives, exclude), items, cache
