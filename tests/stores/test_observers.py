"""Those who follow a store: told while somebody holds them, restored by name, copied with it."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from pace import slow
from setting import Setting

import negcache as nc
from negcache.draws import draw
from negcache.indexes.clusters import KMeansClusters
from negcache.indexes.sg_tree import TreeClusters
from negcache.interfaces import Observer

N, D = 200, 5
ROWS = torch.randn(N, D, generator=torch.Generator().manual_seed(0))


class Counted(KMeansClusters):
    """Clusters that note down every change that they are told, in a list that outlives them."""

    def __init__(self, told, **settings):
        super().__init__(**settings)
        self.told = told

    def rows_changed(self, change):
        self.told.append(len(change.slots))
        super().rows_changed(change)


def filled():
    store = nc.DenseCache(N, D)
    store.write(torch.arange(N), ROWS)
    return store


def observed(*named):
    """A store of all rows and the clusters that observe it, up to date."""
    store = filled()
    for name, clusters in named:
        store.observe(clusters, name)
        clusters.update(store)
    return store


def same(one, other):
    fields = ("centres", "offsets", "members", "ranks", "radius")
    return all(torch.equal(getattr(one.table, each), getattr(other.table, each)) for each in fields)


def test_an_index_that_nobody_holds_is_told_no_more_and_freed():
    told, store = [], filled()
    sampler = nc.DynamicIndex(store, 4, index=Counted(told))
    sampler.clusters.index.update(store)
    store.write(torch.arange(3), ROWS[3:6])
    assert told == [3]
    index = weakref.ref(sampler.clusters.index)
    del sampler
    gc.collect()
    assert index() is None
    assert not store.observers
    store.write(torch.arange(3), ROWS[:3])
    assert told == [3]
    assert "observers" not in store.state_dict()


@pytest.mark.parametrize(
    ("build", "index"),
    [
        slow(lambda store: nc.quadratic(store, 4), lambda sampler: sampler.sums),
        slow(lambda store: nc.DynamicIndex(store, 4), lambda sampler: sampler.clusters.index),
        (
            lambda store: nc.DynamicIndex(store, 4, index=TreeClusters(8)),
            lambda sampler: sampler.clusters.index,
        ),
    ],
    ids=["sums", "k_means", "tree"],
)
def test_samplers_that_come_and_go_leave_nothing_behind(build, index):
    """As in a loop over settings, all on one store."""
    store, zero = filled(), torch.zeros(1, dtype=torch.long)
    own = nc.exclusion.Exclusion.from_pairs(zero, zero, 1)
    request = nc.messages.Request(ROWS[:1], nc.DotScore(0.3), zero, own)
    gone = []
    for _ in range(3):
        sampler = build(store)
        draw(sampler, request, torch.Generator())
        assert isinstance(index(sampler), Observer)
        gone.append(weakref.ref(index(sampler)))
        (name,) = store.state_dict()["observers"][store.shard.name]
        assert name.split()[0] == type(index(sampler)).__name__
        del sampler
        gc.collect()
    assert not any(each() for each in gone)


def test_an_index_that_two_samplers_share_is_told_of_a_row_once():
    store, index = filled(), KMeansClusters(4)
    _samplers = (
        nc.DynamicIndex(store, 2, index=index),
        nc.samplers.DynamicIndexChain(store, 2, index=index),
    )
    index.update(store)
    store.write(torch.arange(5), torch.zeros(5, D))
    assert index.moved == 5
    assert list(store.state_dict()["observers"][store.shard.name]) == ["KMeansClusters"]
    another = KMeansClusters(4)
    store.observe(another)
    assert list(store.state_dict()["observers"][store.shard.name]) == [
        "KMeansClusters",
        "KMeansClusters-2",
    ]


def test_a_state_is_restored_by_name_in_whatever_order_indexes_came():
    few, many = KMeansClusters(8, seed=1), KMeansClusters(20, seed=2)
    state = copy.deepcopy(observed(("few", few), ("many", many)).state_dict())
    other, fewer, more = filled(), KMeansClusters(8, seed=3), KMeansClusters(20, seed=4)
    other.observe(more, "many")
    other.observe(fewer, "few")
    other.load_state_dict(state)
    assert same(fewer, few)
    assert same(more, many)


def test_an_index_of_another_kind_or_name_starts_anew_and_the_others_go_on():
    clusters, beside = KMeansClusters(8), KMeansClusters(20)
    first = observed(("index", clusters), ("beside", beside))
    first.write(torch.arange(N), ROWS.flip(0))
    state = copy.deepcopy(first.state_dict())
    tree, stranger, kept = TreeClusters(8), KMeansClusters(8), KMeansClusters(20)
    other = observed(("index", tree), ("stranger", stranger), ("beside", kept))
    assert tree.table.num_clusters == stranger.table.num_clusters == 8
    other.load_state_dict(state)
    assert same(kept, beside)
    assert stranger.table.num_clusters == 0
    tree.update(other)
    now, labels = other.rows(torch.arange(N)), tree.table.labels
    for cluster, centre in enumerate(tree.table.centres):
        torch.testing.assert_close(centre, now[labels == cluster].mean(dim=0))


def trained(told):
    setting = Setting(lambda store: nc.DynamicIndex(store, 4, index=Counted(told)))
    setting.step()
    return setting


def test_a_copy_of_a_loss_tells_its_own_index_and_not_the_first():
    setting = trained([])
    first, second = setting.loss, copy.deepcopy(setting.loss)
    index, copied = first.sampler.clusters.index, second.sampler.clusters.index
    assert copied is not index
    assert second.store is second.sampler.store is not first.store
    assert second.store.observers._by_name["Counted"] is copied
    index.told.clear()
    copied.told.clear()
    second.store.write(torch.arange(5), torch.ones(5, second.corpus.shape[1]))
    assert (index.told, copied.told) == ([], [5])
    first.store.write(torch.arange(7), torch.ones(7, first.corpus.shape[1]))
    assert (index.told, copied.told) == ([7], [5])


def by_torch(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("again", [by_torch, by_pickle, copy.deepcopy])
@pytest.mark.parametrize("build", [nc.DynamicIndex, nc.quadratic], ids=["clusters", "sums"])
def test_a_saved_sampler_brings_its_store_and_both_go_on_as_the_first(again, build):
    sampler = build(filled(), 4)
    zero = torch.zeros(1, dtype=torch.long)
    own = nc.exclusion.Exclusion.from_pairs(zero, zero, 1)
    request = nc.messages.Request(ROWS[:1], nc.DotScore(0.3), zero, own)
    draw(sampler, request, torch.Generator())
    loaded = again(sampler)
    assert len(loaded.store.state_dict()["observers"][loaded.store.shard.name]) == 1
    drawn = []
    for each in (sampler, loaded):
        each.store.write(torch.arange(N // 2), ROWS.flip(0)[: N // 2])
        found = draw(each, request, torch.Generator().manual_seed(1))
        drawn.append((found.ids[found.columns], found.log_weight))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])


@pytest.mark.parametrize("again", [by_torch, by_pickle, copy.deepcopy])
def test_a_store_saved_by_itself_comes_back_without_those_who_observed_it(again):
    clusters = KMeansClusters(8)
    store = again(observed(("index", clusters)))
    gc.collect()
    assert not store.observers
    assert torch.equal(store.rows(torch.arange(N)), ROWS)
    store.write(torch.arange(3), ROWS[3:6])
    assert clusters.moved == 0


def test_sums_of_two_kernels_find_their_own_state_in_any_order():
    store, other = filled(), filled()
    held = nc.quadratic(store, 2), nc.rf_softmax(store, 2, num_frequencies=8, nu=1.0)
    again = nc.rf_softmax(other, 2, num_frequencies=8, nu=1.0, seed=1), nc.quadratic(other, 2)
    queries = torch.nn.functional.normalize(torch.randn(3, D), dim=1)
    held[0].sums.build(queries, torch.tensor(20.0))
    other.load_state_dict(store.state_dict())
    assert torch.equal(again[1].sums.levels[0], held[0].sums.levels[0])
    assert torch.equal(again[0].kernel.frequencies, held[1].kernel.frequencies)
