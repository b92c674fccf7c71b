"""Cells and low-rank coordinates at the size of the roster's problem."""

import torch
from roster import NUM_ITEMS

from negcache.stores import LowRankCache
from negcache.indexes.clusters import KMeansClusters

EVERY = torch.arange(NUM_ITEMS)


def cells(count=20):
    return KMeansClusters(num_clusters=count)


def low_rank(items, **settings):
    """A low-rank cache of these items, filled."""
    cache = LowRankCache(
        NUM_ITEMS, 8, landmarks=6, every=1, sample=60, dtype=torch.float64, **settings
    )
    while len(missing := cache.missing()):
        cache.write(missing, items[missing])
    return cache


def refresh(cache, items):
    """Items have moved: a sample of them is encoded and the re-encoder learns."""
    due = cache.due()
    cache.write(due, items[due])
    cache.tick()


class Counting:
    """Counts the rows that are asked of a cache."""

    def __init__(self, cache):
        self.rows, self.count = cache.rows, 0
        cache.rows = self.ask

    def ask(self, slots):
        self.count += slots.numel()
        return self.rows(slots)
