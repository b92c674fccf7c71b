"""What an index makes of a state: its own is gone on from, that of another starts it anew."""

import copy

import pytest
import torch

import negcache as nc
from negcache.indexes.clusters import KMeansClusters
from negcache.indexes.sg_tree import TreeClusters
from negcache.indexes.sums import KernelSums
from negcache.ops.kernels import Quadratic

N, D = 400, 5
ROWS = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
KINDS = {"k_means": KMeansClusters, "tree": TreeClusters}


def filled(index):
    """A store of all rows that the index observes, for as long as somebody holds it."""
    store = nc.DenseCache(N, D)
    store.observe(index, "index")
    store.write(torch.arange(N), ROWS)
    index.update(store)
    return store


def saved_with(index):
    """The state of a store that this index observes."""
    return copy.deepcopy(filled(index).state_dict())


def resumed(index, state):
    """Another store, observed by the index under the same name, which takes this state."""
    other = nc.DenseCache(N, D)
    other.observe(index, "index")
    other.load_state_dict(state)
    return other


def same(one, other):
    names = ("centres", "offsets", "members", "ranks", "radius")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize(("saved", "now"), [("k_means", "tree"), ("tree", "k_means")])
def test_an_index_of_another_kind_starts_anew(saved, now):
    index = KINDS[now](12)
    store = resumed(index, saved_with(KINDS[saved](12)))
    assert index.table.num_clusters == 0
    index.update(store)
    anew = KINDS[now](12)
    filled(anew)
    assert same(index.table, anew.table)


def test_sums_of_another_kind_start_anew_and_those_beside_them_go_on():
    first, second = KMeansClusters(12), KMeansClusters(20)
    store = filled(first)
    store.observe(second, "beside")
    second.update(store)
    other = nc.DenseCache(N, D)
    sums, beside = KernelSums(other, Quadratic(2.0)), KMeansClusters(20)
    other.observe(sums, "index")
    other.observe(beside, "beside")
    other.load_state_dict(copy.deepcopy(store.state_dict()))
    assert sums.levels == []
    assert same(beside.table, second.table)


OTHERS = [
    (lambda: KMeansClusters(), lambda: KMeansClusters(8)),
    (lambda: KMeansClusters(8), lambda: KMeansClusters(8, iterations=0)),
    (lambda: KMeansClusters(8), lambda: KMeansClusters(8, sample=30)),
    (lambda: TreeClusters(), lambda: TreeClusters(8)),
    (lambda: TreeClusters(8), lambda: TreeClusters(8, centre="head")),
    (lambda: TreeClusters(level=1), lambda: TreeClusters(level=0)),
    (lambda: TreeClusters(8), lambda: TreeClusters(8, base=1.5)),
    (lambda: TreeClusters(8), lambda: TreeClusters(8, resolution=1.0)),
]


@pytest.mark.parametrize(("before", "after"), OTHERS)
def test_clusters_of_other_settings_start_anew(before, after):
    index = after()
    store = resumed(index, saved_with(before()))
    assert index.table.num_clusters == 0
    index.update(store)
    anew = after()
    filled(anew)
    assert same(index.table, anew.table)


@pytest.mark.parametrize("pair", OTHERS)
def test_clusters_of_equal_settings_go_on(pair):
    for build in pair:
        first, second = build(), build()
        store = filled(first)
        other = resumed(second, copy.deepcopy(store.state_dict()))
        assert same(first.table, second.table)
        for each, index in ((store, first), (other, second)):
            each.write(torch.arange(30), ROWS[30:60] + 0.1)
            index.update(each)
        assert same(first.table, second.table)


def test_a_tree_may_move_otherwise_than_before():
    index = TreeClusters(8, drift=0.95, rebuild_above=0.2)
    before = TreeClusters(8)
    resumed(index, saved_with(before))
    assert same(index.table, before.table)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_state_from_ordinary_memory_follows_rows_on_a_gpu():
    index, store = KMeansClusters(12), nc.DenseCache(N, D, device="cuda")
    store.observe(index, "index")
    store.load_state_dict(saved_with(KMeansClusters(12)))
    store.write(torch.arange(30).cuda(), ROWS[30:60].cuda() + 0.1)
    index.update(store)
    assert index.table.centres.is_cuda
    assert index.table.radius.is_cuda
    assert len(index.table.members) == N
