"""Clusters and low-rank coordinates at the size of the roster's problem."""

import torch
from roster import NUM_ITEMS

from negcache.indexes.clusters import KMeansClusters
from negcache.stores import LowRankCache

EVERY = torch.arange(NUM_ITEMS)


def clusters(count=20):
    return KMeansClusters(num_clusters=count)


def low_rank(items, **settings):
    """A low-rank cache of these items, filled."""
    store = LowRankCache(
        NUM_ITEMS, 8, landmarks=6, every=1, sample=60, dtype=torch.float64, **settings
    )
    while len(missing := store.missing()):
        store.write(missing, items[missing])
    return store


def refresh(store, items):
    """Items have moved: a sample of them is encoded and the re-encoder learns."""
    planned = store.plan()
    store.commit()
    store.write(planned, items[planned])
    store.step()


class Counting:
    """Counts the rows that are asked of a store."""

    def __init__(self, store):
        self.rows, self.count = store.rows, 0
        store.rows = self.ask

    def ask(self, slots):
        self.count += slots.numel()
        return self.rows(slots)
