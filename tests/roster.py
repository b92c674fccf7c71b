"""One list of every sampler, one of the settings it meets: each law runs over all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import negcache as nc
import negcache.contrib
from negcache.ops.kernels import Quartic
from negcache.indexes.sg_tree import TreeClusters
from negcache.interfaces import Sampler

Table = nc.DenseCache | nc.SubsetCache


@dataclass(frozen=True)
class Case:
    """A sampler, and what it claims.

    Args:
        name: of the case.
        build: the sampler over a cache.
        unbiased: whether its draw claims an unbiased partition.
        by_rows: whether it claims that for the rows of the cache alone, each of which stands for
            1 / coverage items; False: for all items, whatever the cache holds.
        refuses: the settings that it does not take.
    """

    name: str
    build: Callable[[Table], Sampler]
    unbiased: bool = True
    by_rows: bool = True
    refuses: tuple[str, ...] = ()


def popularity(num_items: int) -> torch.Tensor:
    """Shares of 1/rank: the first items are the popular ones."""
    rank = torch.arange(1, num_items + 1).double()
    return 1 / (rank * (1 / rank).sum())


def subset(cache: nc.DenseCache) -> nc.SubsetCache:
    """Half of the items, with the rows that the dense cache has."""
    half = nc.SubsetCache(len(cache), DIM, len(cache) // 2, dtype=torch.float64)
    half.write(torch.arange(len(cache)), cache.table.embeddings)
    return half


def mixture(cache: Table, scored: float = 1.0, cached: int = 4) -> nc.Mixture:
    return nc.Mixture(nc.CachedSoftmax(cache, cached, scored=scored), uniform(cache, 2))


def uniform(cache: Table, num_negatives: int) -> nc.Uniform:
    return nc.Uniform(range(cache.num_items), num_negatives)


ROSTER = [
    Case("uniform", lambda cache: uniform(cache, 6), by_rows=False),
    Case("cached", lambda cache: nc.CachedSoftmax(cache, 6)),
    Case("shared_uniform", lambda cache: nc.SharedDraws(uniform(cache, 6)), by_rows=False),
    Case("shared_cached", lambda cache: nc.SharedDraws(nc.CachedSoftmax(cache, 6))),
    Case("flat", lambda cache: nc.CachedSoftmax(cache, 6, power=0.5)),
    Case("scored", lambda cache: nc.CachedSoftmax(cache, 4, scored=0.67)),
    Case("shared_scored", lambda cache: nc.SharedDraws(nc.CachedSoftmax(cache, 2, scored=0.34))),
    Case("distinct", lambda cache: nc.samplers.CachedDistinct(cache, 6)),
    Case("head_tail", lambda cache: nc.samplers.HeadTail(cache, 3, 3)),
    Case("hard", lambda cache: nc.samplers.HeadTail(cache, 6, 0), unbiased=False),
    Case("popularity", lambda cache: nc.Popularity(popularity(cache.num_items), 6), by_rows=False),
    Case(
        "shared_popularity",
        lambda cache: nc.SharedDraws(nc.Popularity(popularity(cache.num_items), 6)),
        by_rows=False,
    ),
    Case("mixture", mixture, by_rows=False),
    Case("shared_mixture", lambda cache: nc.SharedDraws(mixture(cache)), by_rows=False),
    Case(
        "scored_mixture",
        lambda cache: nc.SharedDraws(mixture(cache, scored=0.34, cached=2)),
        by_rows=False,
    ),
    Case(
        "rest",
        lambda cache: nc.CachedRest(cache, 20),
        unbiased=False,
        refuses=("half", "half_gaps"),
    ),
    Case(
        "thinned",
        lambda cache: nc.SharedDraws(nc.CachedSoftmax(cache, 6), num_encoded=10),
    ),
    Case(
        "joined",
        lambda cache: nc.SharedDraws(
            nc.CachedSoftmax(cache, 6), log_popularity=popularity(cache.num_items).log()
        ),
        unbiased=False,
    ),
    Case("quadratic", lambda cache: nc.quadratic(cache, 6)),
    Case("shared_quadratic", lambda cache: nc.SharedDraws(nc.quadratic(cache, 6))),
    Case("rf_softmax", lambda cache: nc.rf_softmax(cache, 6, num_frequencies=8, nu=3.0)),
    Case("quartic", lambda cache: nc.samplers.ExactKernel(cache, 6, Quartic())),
    Case("log_uniform", lambda cache: nc.samplers.log_uniform(range(cache.num_items), 6), by_rows=False),
    Case("stale_top_k", lambda cache: nc.samplers.StaleTopK(cache, 6, depth=20), unbiased=False),
    Case("stale_top_k_tail", lambda cache: nc.samplers.StaleTopK(cache, 6, depth=20, tail=4)),
    Case("dynamic_index", lambda cache: nc.DynamicIndex(cache, 6)),
    Case("shared_dynamic_index", lambda cache: nc.SharedDraws(nc.DynamicIndex(cache, 6))),
    Case("chain", lambda cache: nc.samplers.DynamicIndexChain(cache, 6, chain=3), unbiased=False),
    Case("as_printed", lambda cache: nc.contrib.ChainAsPrinted(cache, 6), unbiased=False),
    Case("index_miner", lambda cache: nc.contrib.DynamicIndexMiner(cache, 6), unbiased=False),
    Case(
        "index_rejection",
        lambda cache: nc.samplers.DynamicIndexRejection(cache, 6, tries=64),
        unbiased=False,
    ),
    Case("index_tree", lambda cache: nc.contrib.DynamicIndexTree(cache, 6, TreeClusters()), unbiased=False),
    Case("resampled", lambda cache: nc.Resampled(nc.DynamicIndex(cache, 9), 3)),
    Case(
        "resampled_uniform",
        lambda cache: nc.Resampled(uniform(cache, 9), 3, store=cache),
        by_rows=False,
    ),
    Case("full", lambda cache: nc.FullSoftmax(range(cache.num_items)), by_rows=False),
    Case("in_batch", lambda cache: nc.InBatch(popularity(cache.num_items).log()), unbiased=False),
    Case("given", lambda cache: nc.samplers.Given(torch.tensor([[1, 2, -1]] * 5)), unbiased=False),
]

NUM_ITEMS, DIM, ROWS = 300, 8, 5


def forget(cache: Table, slots: torch.Tensor) -> None:
    """These rows were never written, but look like rows, as in places that items have left."""
    state = cache.state_dict()
    written = state["written"].clone()
    written[slots] = -1
    cache.load_state_dict(state | {"written": written})


SETTINGS: dict[str, dict[str, Any]] = {
    "fresh": {},
    "drifted": {"drift": 0.3},
    "half": {"drift": 0.3, "half": True},
    "gaps": {"drift": 0.3, "gaps": True},
    "half_gaps": {"drift": 0.3, "half": True, "gaps": True},
    "large": {"drift": 0.3, "num_items": 3400},
    "large_gaps": {"drift": 0.3, "num_items": 3400, "gaps": True},
    "barred": {"drift": 0.3, "barred": True},
    "single": {"drift": 0.3, "dtype": torch.float32},
}
"""What ``problem`` is asked for, by name."""


def problem(
    drift: float = 0.0,
    num_items: int = NUM_ITEMS,
    temperature: float = 0.3,
    *,
    half: bool = False,
    gaps: bool = False,
    barred: bool = False,
    dtype: torch.dtype = torch.float64,
) -> tuple[nc.messages.Request, torch.Tensor, Table]:
    """(request, fresh items, cache): five queries, three with further positives.

    Args:
        drift: relative noise between the fresh items and what the cache remembers.
        half: the cache holds half of the items.
        gaps: half of the cache's rows were never written.
        barred: one of the queries may draw nothing.
    """
    noise = torch.Generator().manual_seed(11)
    normal = partial(torch.randn, generator=noise, dtype=torch.float64)
    score = nc.DotScore(temperature).to(dtype).requires_grad_(False)
    items = score.embed(normal((num_items, DIM)))
    queries = score.embed(normal((ROWS, DIM)))
    stale = score.embed(items + drift * normal(items.shape) / DIM**0.5)
    cache = (
        nc.SubsetCache(num_items, DIM, num_items // 2, dtype=dtype)
        if half
        else nc.DenseCache(num_items, DIM, dtype=dtype)
    )
    cache.write(torch.arange(num_items), stale.to(dtype))
    if gaps:
        forget(cache, torch.randperm(cache.num_rows, generator=noise)[: cache.num_rows // 2])
    positives = torch.tensor([0, 1, 2, 1, num_items - 1])
    rows = torch.tensor([0, 1, 2, 3, 4, 0, 0, 2, 4])
    known = torch.cat([positives, torch.tensor([7, 8, num_items - 2, 5])])
    exclude = nc.exclusion.Exclusion.from_pairs(rows, known, ROWS)
    if barred:
        everything = torch.arange(num_items)
        exclude = exclude.and_also(torch.full_like(everything, 3), everything)
    return nc.messages.Request(queries.to(dtype), score, positives, exclude), items.to(dtype), cache
