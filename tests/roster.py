"""One list of every sampler with its arguments: each law runs over all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

import negcache as nc
from negcache.protocols import Sampler


@dataclass(frozen=True)
class Case:
    """A sampler, and whether its draw claims an unbiased partition."""

    name: str
    build: Callable[[nc.DenseCache], Sampler]
    unbiased: bool = True


ROSTER = [
    Case("uniform", lambda cache: nc.Uniform(cache, 6)),
    Case("cached", lambda cache: nc.CachedSoftmax(cache, 6)),
    Case("shared_uniform", lambda cache: nc.SharedDraws(nc.Uniform(cache, 6))),
    Case("shared_cached", lambda cache: nc.SharedDraws(nc.CachedSoftmax(cache, 6))),
    Case("full", lambda cache: nc.FullSoftmax(cache)),
    Case("in_batch", lambda cache: nc.InBatch(torch.zeros(len(cache))), unbiased=False),
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
