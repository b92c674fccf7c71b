"""What an index makes of a state: its own is gone on from, that of another starts it anew."""

import copy

import pytest
import torch

import negcache as nc
from negcache.ops.kernels import Quadratic
from negcache.indexes.clusters import KMeansClusters
from negcache.indexes.coordinates import as_coordinates
from negcache.indexes.sg_tree import TreeClusters
from negcache.indexes.sums import KernelSums

N, D = 400, 5
ROWS = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
KINDS = {"k_means": KMeansClusters, "tree": TreeClusters}


def filled(index):
    cache = nc.DenseCache(N, D)
    cache.observe(index)
    cache.write(torch.arange(N), ROWS)
    index.follow(as_coordinates(cache))
    return cache


def resumed(index, cache):
    """The index attached to another cache, which takes the state of this one."""
    other = nc.DenseCache(N, D)
    other.observe(index)
    other.load_state_dict(copy.deepcopy(cache.state_dict()))
    return other


def same(one, other):
    names = ("centres", "offsets", "members", "ranks", "radius")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize(("saved", "now"), [("k_means", "tree"), ("tree", "k_means")])
def test_an_index_of_another_kind_starts_anew(saved, now):
    index = KINDS[now](12)
    cache = resumed(index, filled(KINDS[saved](12)))
    assert index.table.num_clusters == 0
    index.follow(as_coordinates(cache))
    anew = KINDS[now](12)
    filled(anew)
    assert same(index.table, anew.table)


def test_sums_of_another_kind_start_anew_and_those_beside_them_go_on():
    first, second = KMeansClusters(12), KMeansClusters(20)
    cache = filled(first)
    cache.observe(second)
    second.follow(as_coordinates(cache))
    other = nc.DenseCache(N, D)
    sums, beside = KernelSums(other, Quadratic(2.0)), KMeansClusters(20)
    other.observe(sums)
    other.observe(beside)
    other.load_state_dict(copy.deepcopy(cache.state_dict()))
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
def test_cells_of_other_settings_start_anew(before, after):
    index = after()
    cache = resumed(index, filled(before()))
    assert index.table.num_clusters == 0
    index.follow(as_coordinates(cache))
    anew = after()
    filled(anew)
    assert same(index.table, anew.table)


@pytest.mark.parametrize("pair", OTHERS)
def test_cells_of_equal_settings_go_on(pair):
    for build in pair:
        first, second = build(), build()
        cache = filled(first)
        other = resumed(second, cache)
        assert same(first.table, second.table)
        for each, index in ((cache, first), (other, second)):
            each.write(torch.arange(30), ROWS[30:60] + 0.1)
            index.follow(as_coordinates(each))
        assert same(first.table, second.table)


def test_a_tree_may_move_otherwise_than_before():
    index = TreeClusters(8, drift=0.95, rebuild_above=0.2)
    before = TreeClusters(8)
    resumed(index, filled(before))
    assert same(index.table, before.table)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_state_from_ordinary_memory_follows_rows_on_a_gpu():
    index, cache = KMeansClusters(12), nc.DenseCache(N, D, device="cuda")
    cache.observe(index)
    cache.load_state_dict(copy.deepcopy(filled(KMeansClusters(12)).state_dict()))
    cache.write(torch.arange(30).cuda(), ROWS[30:60].cuda() + 0.1)
    index.follow(as_coordinates(cache))
    assert index.table.centres.is_cuda
    assert index.table.radius.is_cuda
    assert len(index.table.members) == N
