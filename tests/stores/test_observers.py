"""Who is told of changes: each observer once, by a name of its own."""

import torch

from negcache.indexes.clusters import KMeansClusters
from negcache.samplers import DynamicIndex, DynamicIndexChain
from negcache.stores import DenseCache


def test_an_index_that_two_samplers_share_is_told_of_a_row_once():
    store, index = DenseCache(40, 3), KMeansClusters(4)
    store.write(torch.arange(40), torch.randn(40, 3, generator=torch.Generator().manual_seed(0)))
    _samplers = DynamicIndex(store, 2, index=index), DynamicIndexChain(store, 2, index=index)
    index.update(store)
    store.write(torch.arange(5), torch.zeros(5, 3))
    assert index.moved == 5
    assert list(store.state_dict()["observers"]) == ["KMeansClusters"]
    another = KMeansClusters(4)
    store.observe(another)
    assert list(store.state_dict()["observers"]) == ["KMeansClusters", "KMeansClusters-2"]
