"""One list of every sampler, one of the settings it meets: each law runs over all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import negcache as nc
import negcache.contrib
from negcache.indexes.sg_tree import TreeClusters
from negcache.interfaces import Sampler
from negcache.ops.kernels import Quartic
from negcache.samplers import Auto
from negcache.samplers.look import Choice

Table = nc.DenseCache | nc.SubsetCache


@dataclass(frozen=True)
class Case:
    """A sampler, and what it claims.

    Args:
        name: of the case.
        build: the sampler over a store.
        unbiased: whether its draw claims an unbiased partition.
        by_rows: whether it claims that for the rows of the store alone, each of which stands for
            1 / coverage items; False: for all items, whatever the store holds.
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


def subset(store: nc.DenseCache) -> nc.SubsetCache:
    """Half of the items, with the rows that the dense store has."""
    half = nc.SubsetCache(len(store), DIM, len(store) // 2, dtype=torch.float64)
    half.write(torch.arange(len(store)), store.table.embeddings)
    return half


def mixture(store: Table, scored: float = 1.0, cached: int = 4) -> nc.Mixture:
    return nc.Mixture(nc.CachedSoftmax(store, cached, scored=scored), uniform(store, 2))


def uniform(store: Table, num_negatives: int) -> nc.Uniform:
    return nc.Uniform(range(store.num_items), num_negatives)


def auto(store: Table, choice: Choice) -> Auto:
    """With one choice for good; cached ones have tests of their own."""
    sampler = Auto(range(store.num_items), log_popularity=popularity(store.num_items).log())
    sampler.begin(ROWS, DIM, 0, 0)
    assert sampler.budget is not None
    sampler.budget.choice, sampler.next_look = choice, 10**9
    return sampler


ROSTER = [
    Case("auto", lambda store: auto(store, Choice(30)), unbiased=False),
    Case("uniform", lambda store: uniform(store, 6), by_rows=False),
    Case("cached", lambda store: nc.CachedSoftmax(store, 6)),
    Case("shared_uniform", lambda store: nc.SharedDraws(uniform(store, 6)), by_rows=False),
    Case("shared_cached", lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 6))),
    Case("flat", lambda store: nc.CachedSoftmax(store, 6, power=0.5)),
    Case("scored", lambda store: nc.CachedSoftmax(store, 4, scored=0.67)),
    Case("shared_scored", lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 2, scored=0.34))),
    Case("distinct", lambda store: nc.samplers.CachedDistinct(store, 6)),
    Case("head_tail", lambda store: nc.samplers.HeadTail(store, 3, 3)),
    Case("hard", lambda store: nc.samplers.HeadTail(store, 6, 0), unbiased=False),
    Case("popularity", lambda store: nc.Popularity(popularity(store.num_items), 6), by_rows=False),
    Case(
        "shared_popularity",
        lambda store: nc.SharedDraws(nc.Popularity(popularity(store.num_items), 6)),
        by_rows=False,
    ),
    Case("mixture", mixture, by_rows=False),
    Case("shared_mixture", lambda store: nc.SharedDraws(mixture(store)), by_rows=False),
    Case(
        "scored_mixture",
        lambda store: nc.SharedDraws(mixture(store, scored=0.34, cached=2)),
        by_rows=False,
    ),
    Case(
        "rest",
        lambda store: nc.CachedRest(store, 20),
        unbiased=False,
        refuses=("half", "half_gaps"),
    ),
    Case(
        "thinned",
        lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 6), num_encoded=10),
    ),
    Case(
        "joined",
        lambda store: nc.SharedDraws(
            nc.CachedSoftmax(store, 6), log_popularity=popularity(store.num_items).log()
        ),
        unbiased=False,
    ),
    Case("quadratic", lambda store: nc.quadratic(store, 6)),
    Case("shared_quadratic", lambda store: nc.SharedDraws(nc.quadratic(store, 6))),
    Case("rf_softmax", lambda store: nc.rf_softmax(store, 6, num_frequencies=8, nu=3.0)),
    Case("quartic", lambda store: nc.samplers.ExactKernel(store, 6, Quartic())),
    Case(
        "log_uniform",
        lambda store: nc.samplers.log_uniform(range(store.num_items), 6),
        by_rows=False,
    ),
    Case("stale_top_k", lambda store: nc.samplers.StaleTopK(store, 6, depth=20), unbiased=False),
    Case("stale_top_k_tail", lambda store: nc.samplers.StaleTopK(store, 6, depth=20, tail=4)),
    Case("dynamic_index", lambda store: nc.DynamicIndex(store, 6)),
    Case("shared_dynamic_index", lambda store: nc.SharedDraws(nc.DynamicIndex(store, 6))),
    Case("chain", lambda store: nc.samplers.DynamicIndexChain(store, 6, chain=3), unbiased=False),
    Case("as_printed", lambda store: nc.contrib.ChainAsPrinted(store, 6), unbiased=False),
    Case("grouped_top_k", lambda store: nc.contrib.GroupedTopK(store, 6, 50), unbiased=False),
    Case("index_miner", lambda store: nc.contrib.DynamicIndexMiner(store, 6), unbiased=False),
    Case(
        "index_rejection",
        lambda store: nc.samplers.DynamicIndexRejection(store, 6, tries=64),
        unbiased=False,
    ),
    Case(
        "index_tree",
        lambda store: nc.contrib.DynamicIndexTree(store, 6, TreeClusters()),
        unbiased=False,
    ),
    Case("resampled", lambda store: nc.Resampled(nc.DynamicIndex(store, 9), 3)),
    Case(
        "resampled_uniform",
        lambda store: nc.Resampled(uniform(store, 9), 3, store=store),
        by_rows=False,
    ),
    Case("full", lambda store: nc.FullSoftmax(range(store.num_items)), by_rows=False),
    Case("in_batch", lambda store: nc.InBatch(popularity(store.num_items).log()), unbiased=False),
    Case("given", lambda store: nc.samplers.Given(torch.tensor([[1, 2, -1]] * 5)), unbiased=False),
]

NUM_ITEMS, DIM, ROWS = 300, 8, 5


def forget(store: Table, slots: torch.Tensor) -> None:
    """These rows were never written, but look like rows, as in places that items have left."""
    store.table.written[slots] = -1
    store.load_state_dict(store.state_dict())  # indexes hear of it


SETTINGS: dict[str, dict[str, Any]] = {
    "fresh": {},
    "drifted": {"drift": 0.3},
    "half": {"drift": 0.3, "half": True},
    "gaps": {"drift": 0.3, "gaps": True},
    "half_gaps": {"drift": 0.3, "half": True, "gaps": True},
    "large": {"drift": 0.3, "num_items": 3400},
    "large_gaps": {"drift": 0.3, "num_items": 3400, "gaps": True},
    "excluded": {"drift": 0.3, "excluded": True},
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
    excluded: bool = False,
    dtype: torch.dtype = torch.float64,
) -> tuple[nc.messages.Request, torch.Tensor, Table]:
    """(request, fresh items, store): five queries, three with further positives.

    Args:
        drift: relative noise between the fresh items and what the store remembers.
        half: the store holds half of the items.
        gaps: half of the store's rows were never written.
        excluded: one of the queries may draw nothing.
    """
    noise = torch.Generator().manual_seed(11)
    normal = partial(torch.randn, generator=noise, dtype=torch.float64)
    score = nc.DotScore(temperature).to(dtype).requires_grad_(False)
    items = score.embed(normal((num_items, DIM)))
    queries = score.embed(normal((ROWS, DIM)))
    stale = score.embed(items + drift * normal(items.shape) / DIM**0.5)
    store = (
        nc.SubsetCache(num_items, DIM, num_items // 2, dtype=dtype)
        if half
        else nc.DenseCache(num_items, DIM, dtype=dtype)
    )
    store.write(torch.arange(num_items), stale.to(dtype))
    if gaps:
        forget(store, torch.randperm(store.num_rows, generator=noise)[: store.num_rows // 2])
    positives = torch.tensor([0, 1, 2, 1, num_items - 1])
    rows = torch.tensor([0, 1, 2, 3, 4, 0, 0, 2, 4])
    known = torch.cat([positives, torch.tensor([7, 8, num_items - 2, 5])])
    exclude = nc.exclusion.Exclusion.from_pairs(rows, known, ROWS)
    if excluded:
        everything = torch.arange(num_items)
        exclude = exclude.and_also(torch.full_like(everything, 3), everything)
    return nc.messages.Request(queries.to(dtype), score, positives, exclude), items.to(dtype), store
