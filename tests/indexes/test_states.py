"""What an index makes of a state: its own is gone on from, that of another starts it anew."""

import copy

import pytest
import torch

import negcache as nc
from negcache.functional.features import Quadratic
from negcache.indexes.cells import KMeansCells
from negcache.indexes.coordinates import as_coordinates
from negcache.indexes.sg_tree import TreeCells
from negcache.indexes.sums import KernelSums

N, D = 400, 5
ROWS = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
KINDS = {"k_means": KMeansCells, "tree": TreeCells}


def filled(index):
    cache = nc.DenseCache(N, D)
    cache.attach(index)
    cache.write(torch.arange(N), ROWS)
    index.follow(as_coordinates(cache))
    return cache


def resumed(index, cache):
    """The index attached to another cache, which takes the state of this one."""
    other = nc.DenseCache(N, D)
    other.attach(index)
    other.load_state_dict(copy.deepcopy(cache.state_dict()))
    return other


def same(one, other):
    names = ("centres", "offsets", "members", "ranks", "radius")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize(("saved", "now"), [("k_means", "tree"), ("tree", "k_means")])
def test_an_index_of_another_kind_starts_anew(saved, now):
    index = KINDS[now](12)
    cache = resumed(index, filled(KINDS[saved](12)))
    assert index.table.num_cells == 0
    index.follow(as_coordinates(cache))
    anew = KINDS[now](12)
    filled(anew)
    assert same(index.table, anew.table)


def test_sums_of_another_kind_start_anew_and_those_beside_them_go_on():
    first, second = KMeansCells(12), KMeansCells(20)
    cache = filled(first)
    cache.attach(second)
    second.follow(as_coordinates(cache))
    other = nc.DenseCache(N, D)
    sums, beside = KernelSums(other, Quadratic(2.0)), KMeansCells(20)
    other.attach(sums)
    other.attach(beside)
    other.load_state_dict(copy.deepcopy(cache.state_dict()))
    assert sums.levels == []
    assert same(beside.table, second.table)


OTHERS = [
    (lambda: KMeansCells(), lambda: KMeansCells(8)),
    (lambda: KMeansCells(8), lambda: KMeansCells(8, iterations=0)),
    (lambda: KMeansCells(8), lambda: KMeansCells(8, sample=30)),
    (lambda: TreeCells(), lambda: TreeCells(8)),
    (lambda: TreeCells(8), lambda: TreeCells(8, centre="head")),
    (lambda: TreeCells(level=1), lambda: TreeCells(level=0)),
    (lambda: TreeCells(8), lambda: TreeCells(8, base=1.5)),
    (lambda: TreeCells(8), lambda: TreeCells(8, resolution=1.0)),
]


@pytest.mark.parametrize(("before", "after"), OTHERS)
def test_cells_of_other_settings_start_anew(before, after):
    index = after()
    cache = resumed(index, filled(before()))
    assert index.table.num_cells == 0
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
    index = TreeCells(8, drift=0.95, rebuild_above=0.2)
    before = TreeCells(8)
    resumed(index, filled(before))
    assert same(index.table, before.table)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_state_from_ordinary_memory_follows_rows_on_a_gpu():
    index, cache = KMeansCells(12), nc.DenseCache(N, D, device="cuda")
    cache.attach(index)
    cache.load_state_dict(copy.deepcopy(filled(KMeansCells(12)).state_dict()))
    cache.write(torch.arange(30).cuda(), ROWS[30:60].cuda() + 0.1)
    index.follow(as_coordinates(cache))
    assert index.table.centres.is_cuda
    assert index.table.radius.is_cuda
    assert len(index.table.members) == N
