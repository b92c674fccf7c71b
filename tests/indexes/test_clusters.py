"""Clusters of items: a partition of what is there, radii that hold, and how they follow a store."""

import copy

import pytest
import torch

import negcache as nc
from negcache.draws import draw
from negcache.indexes.clusters import ClusterIndex, ClusterTable, KMeansClusters
from negcache.indexes.nested import group, nest
from negcache.indexes.sg_tree import TreeClusters
from negcache.messages import RowChange
from negcache.stores import LowRankCache

N, D = 600, 6


def vectors(count, seed=0):
    """Items in clusters, as real ones are."""
    noise = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, D, generator=noise)
    chosen = torch.randint(12, (count,), generator=noise)
    return centres[chosen] + 0.3 * torch.randn(count, D, generator=noise)


def build(rows, written=None, **settings):
    """A dense cache of these rows, and clusters that follow it."""
    store, clusters = nc.DenseCache(len(rows), rows.shape[1]), KMeansClusters(**settings)
    store.observe(clusters)
    store.write(torch.arange(len(rows)) if written is None else written, rows[: len(rows)])
    return store, clusters


def check(table, rows, valid):
    """Every valid slot once, in order, within the radius of its centre; no other slot."""
    assert torch.equal(table.members.sort().values, valid.nonzero().squeeze(1))
    assert table.offsets[0] == 0
    assert table.offsets[-1] == len(table.members)
    assert torch.equal(table.members[table.ranks[valid]], valid.nonzero().squeeze(1))
    assert (table.ranks[~valid] == -1).all()
    labels = table.labels
    assert (labels[~valid] == -1).all()
    for cluster in range(table.num_clusters):
        members = table.members[table.offsets[cluster] : table.offsets[cluster + 1]]
        assert torch.equal(members.sort().values, (labels == cluster).nonzero().squeeze(1))
        away = (rows[members] - table.centres[cluster]).norm(dim=1)
        assert (away <= table.radius[cluster] + 1e-5).all()


def test_a_table_from_labels_with_empty_clusters():
    labels = torch.tensor([2, -1, 0, 2, 0, 4])
    table = ClusterTable.from_labels(labels, torch.zeros(6, 2), torch.zeros(6))
    assert table.offsets.tolist() == [0, 2, 2, 4, 4, 5, 5]
    assert table.members.tolist() == [2, 4, 0, 3, 5]
    assert table.ranks.tolist() == [2, -1, 0, 3, 1, 4]
    assert torch.equal(table.labels, labels)


def test_clusters_are_a_partition_with_means_for_centres():
    rows = vectors(N)
    source, clusters = build(rows, num_clusters=20)
    clusters.update(source)
    table = clusters.table
    assert isinstance(clusters, ClusterIndex)
    assert 12 <= table.num_clusters <= 20
    assert (table.sizes > 0).all()
    check(table, rows, torch.ones(N, dtype=torch.bool))
    for cluster in range(table.num_clusters):
        torch.testing.assert_close(table.centres[cluster], rows[table.labels == cluster].mean(0))


def test_clusters_are_much_smaller_than_the_whole():
    rows = vectors(N)
    source, clusters = build(rows, num_clusters=40)
    clusters.update(source)
    within = (rows - clusters.table.centres[clusters.table.labels]).square().sum()
    assert within < 0.2 * (rows - rows.mean(0)).square().sum()


def test_about_four_sqrt_n_clusters_are_made_unless_told():
    source, clusters = build(vectors(N))
    clusters.update(source)
    assert 70 <= clusters.table.num_clusters <= 98


def test_following_twice_changes_nothing():
    source, clusters = build(vectors(N))
    clusters.update(source)
    table = clusters.table
    clusters.update(source)
    assert clusters.table is table


def test_items_that_move_come_or_go_change_clusters():
    rows = vectors(N)
    source, clusters = build(rows, written=torch.arange(N), num_clusters=20)
    clusters.update(source)
    before, labels = clusters.table, clusters.table.labels
    moved = torch.tensor([3, 500, 77])
    rows[moved] = before.centres[torch.tensor([1, 2, 5])] + 0.01
    source.write(moved, rows[moved])
    clusters.update(source)
    assert torch.equal(clusters.table.labels[moved], torch.tensor([1, 2, 5]))
    assert clusters.table.centres is before.centres
    stayed = torch.ones(N, dtype=torch.bool).index_fill(0, moved, False)
    assert torch.equal(clusters.table.labels[stayed], labels[stayed])
    with pytest.raises(nc.InputError, match="before rows of the store changed"):
        before.slots(moved)
    check(clusters.table, rows, torch.ones(N, dtype=torch.bool))


def test_an_item_that_moves_far_widens_its_cluster():
    rows = vectors(N)
    source, clusters = build(rows, num_clusters=20)
    clusters.update(source)
    rows[9] = 50.0
    source.write(torch.tensor([9]), rows[[9]])
    clusters.update(source)
    assert clusters.table.radius.max() > 100
    check(clusters.table, rows, torch.ones(N, dtype=torch.bool))


def test_all_is_built_anew_once_as_many_items_have_moved_as_there_are():
    rows = vectors(N)
    source, clusters = build(rows, num_clusters=20)
    clusters.update(source)
    centres = clusters.table.centres
    rows = vectors(N, seed=1)
    source.write(torch.arange(N - 1), rows[:-1])
    clusters.update(source)
    assert clusters.table.centres is centres
    source.write(torch.tensor([N - 1]), rows[-1:])
    clusters.update(source)
    assert clusters.table.centres is not centres
    within = (rows - clusters.table.centres[clusters.table.labels]).square().sum()
    assert within < 0.2 * (rows - rows.mean(0)).square().sum()


def test_a_resumed_index_goes_on_as_if_it_had_never_stopped():
    rows = vectors(N)
    source, clusters = build(rows, num_clusters=20)
    clusters.update(source)
    source.write(torch.arange(50), rows[:50] + 0.5)
    clusters.update(source)
    other = nc.DenseCache(N, D)
    twin = KMeansClusters(num_clusters=20)
    other.observe(twin)
    other.load_state_dict(copy.deepcopy(source.state_dict()))
    twin.update(other)
    for step in range(2 * N // 50):  # past the next time that all is built anew
        ids = torch.arange(50 * step, 50 * step + 50) % N
        fresh = vectors(50, seed=step)
        for store, index in ((source, clusters), (other, twin)):
            store.write(ids, fresh)
            index.update(store)
        for name in ("centres", "offsets", "members", "ranks", "radius"):
            assert torch.equal(getattr(clusters.table, name), getattr(twin.table, name)), name
    assert clusters.moved < N


def test_fewer_items_than_clusters():
    source, clusters = build(vectors(5), num_clusters=64)
    clusters.update(source)
    check(clusters.table, vectors(5), torch.ones(5, dtype=torch.bool))
    assert clusters.table.num_clusters <= 5


def test_identical_items_are_one_cluster_of_radius_zero():
    rows = torch.ones(100, D)
    source, clusters = build(rows, num_clusters=10)
    clusters.update(source)
    assert clusters.table.num_clusters == 1
    assert clusters.table.radius.tolist() == [0.0]
    assert len(clusters.table.members) == 100


def test_duplicates_share_a_cluster():
    rows = vectors(50).repeat(4, 1)
    source, clusters = build(rows, num_clusters=10)
    clusters.update(source)
    labels = clusters.table.labels.view(4, 50)
    assert (labels == labels[0]).all()
    check(clusters.table, rows, torch.ones(200, dtype=torch.bool))


def test_items_never_written_are_in_no_cluster():
    store, clusters = nc.DenseCache(N, D), KMeansClusters(num_clusters=10)
    store.observe(clusters)
    rows = torch.zeros(N, D)
    some = torch.arange(0, N, 3)
    rows[some] = vectors(len(some))
    store.write(some, rows[some])
    clusters.update(store)
    check(clusters.table, rows, store.valid)


@pytest.mark.parametrize("kind", [KMeansClusters, TreeClusters])
def test_a_store_without_items_has_no_clusters_and_its_law_is_empty(kind):
    store, clusters = nc.DenseCache(N, D), kind()
    store.observe(clusters)
    clusters.update(store)
    assert clusters.table.num_clusters == 0
    none = torch.empty(0, dtype=torch.long)
    exclude = nc.exclusion.Exclusion.from_pairs(torch.arange(3), torch.arange(3), 3)
    request = nc.messages.Request(vectors(3), nc.DotScore(), torch.arange(3), exclude)
    for expand in (0, 3):
        sampler = nc.DynamicIndex(store, 4, index=clusters, expand=expand)
        drawn = draw(sampler, request, torch.Generator().manual_seed(0))
        assert (drawn.log_weight == -torch.inf).all()
        shared = draw(nc.SharedDraws(sampler), request, torch.Generator().manual_seed(0))
        assert torch.equal(shared.ids, none)
        assert len(draw(nc.Resampled(sampler), request, torch.Generator()).ids) == 0


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_coordinates_that_are_not_finite_are_refused(poison):
    rows = vectors(N)
    rows[7, 2] = poison
    source, clusters = build(rows)
    with pytest.raises(nc.InputError, match="finite"):
        clusters.update(source)
    source, clusters = build(vectors(N))
    clusters.update(source)
    with pytest.raises(nc.InputError, match="finite"):
        source.write(torch.tensor([7]), rows[[7]])


@pytest.mark.parametrize("settings", [{"num_clusters": 0}, {"sample": 0}, {"iterations": -1}])
def test_settings_that_make_no_clusters_are_refused(settings):
    with pytest.raises(nc.InputError, match="num_clusters"):
        KMeansClusters(**settings)


def low_rank(count=N, **settings):
    """A filled low-rank cache and its clusters."""
    store = LowRankCache(count, D, landmarks=4, every=3, sample=40, **settings)
    clusters = KMeansClusters(num_clusters=12)
    store.observe(clusters)
    fill(store, vectors(count))
    return store, clusters


def fill(store, rows):
    while len(missing := store.missing()):
        store.write(missing, rows[missing])


def test_clusters_follow_a_low_rank_cache():
    store, clusters = low_rank()
    clusters.update(store)
    check(clusters.table, store.rows(torch.arange(N)), store.valid)
    store.remove(torch.tensor([0, 5, 9]))
    clusters.update(store)
    assert (clusters.table.ranks[torch.tensor([0, 5, 9])] == -1).all()
    check(clusters.table, store.rows(torch.arange(N)), store.valid)
    store.add(torch.tensor([5]))
    fill(store, vectors(N))
    clusters.update(store)
    assert clusters.table.ranks[5] >= 0
    check(clusters.table, store.rows(torch.arange(N)), store.valid)


def test_clusters_are_built_anew_after_a_full_pass():
    store, clusters = low_rank(full_below=1.0)
    clusters.update(store)
    centres, fresh = clusters.table.centres, vectors(N, seed=5)
    for _ in range(6):
        planned = store.plan()
        store.commit()
        store.write(planned, fresh[planned])
        store.step()
    assert clusters.cells is None
    clusters.update(store)
    assert clusters.table.centres is not centres
    check(clusters.table, store.rows(torch.arange(N)), store.valid)


def test_a_corpus_that_grew_by_half_between_two_runs():
    store, clusters = low_rank()
    clusters.update(store)
    state = copy.deepcopy(store.state_dict())
    grown = LowRankCache(N * 3 // 2, D, landmarks=4, every=3, sample=40)
    more = KMeansClusters(num_clusters=12)
    grown.observe(more)
    grown.load_state_dict(state)
    more.update(grown)
    check(more.table, grown.rows(torch.arange(len(grown))), grown.valid)
    fill(grown, vectors(N * 3 // 2, seed=3))
    more.update(grown)
    assert len(more.table.members) == N * 3 // 2
    check(more.table, grown.rows(torch.arange(len(grown))), grown.valid)


def test_everyone_leaves():
    rows = vectors(8)
    store, clusters = nc.SubsetCache(16, D, 8), KMeansClusters(num_clusters=3)
    store.observe(clusters)
    ids = store.ids(torch.arange(8))
    store.write(ids, rows)
    clusters.update(store)
    gone = RowChange(
        torch.arange(8),
        rows,
        torch.ones(8, dtype=torch.bool),
        rows,
        torch.zeros(8, dtype=torch.bool),
    )
    clusters.rows_changed(gone)
    clusters.update(store)  # the store holds them still: all is built anew
    assert len(clusters.table.members) == 8


def test_clusters_that_everyone_has_left_are_forgotten():
    """Fewer have moved than there are rows, so that nothing else would build the clusters anew."""
    rows, clusters = vectors(16), KMeansClusters(num_clusters=3)
    store = nc.SubsetCache(32, D, 16, refresh=0.5)
    store.observe(clusters)
    store.write(store.ids(torch.arange(8)), rows[:8])  # those that leave first
    clusters.update(store)
    old, new = clusters.table.centres, store.plan()
    store.commit()
    assert not store.valid.any()
    assert clusters.table.num_clusters == 0
    clusters.update(store)
    assert clusters.table.num_clusters == 0
    store.write(new, rows[8:] + 100)
    clusters.update(store)
    assert torch.cdist(clusters.table.centres, old).min() > 100
    check(clusters.table, store.table.embeddings, store.valid)


def test_coarse_clusters_hold_their_fine_clusters():
    rows = vectors(N)
    source, clusters = build(rows, num_clusters=40)
    clusters.update(source)
    parents = group(clusters.table.centres)
    nested = nest(clusters.table, parents)
    everyone = torch.ones(N, dtype=torch.bool)
    check(nested.fine, rows, everyone)
    check(nested.coarse, rows, everyone)
    assert 1 < nested.coarse.num_clusters < nested.fine.num_clusters
    for cluster in range(nested.coarse.num_clusters):
        inside = nested.fine.labels[nested.coarse.labels == cluster].unique()
        assert torch.equal(inside, torch.arange(*nested.offsets[cluster : cluster + 2].tolist()))
    assert torch.equal(group(clusters.table.centres), parents)


def test_a_stream_begins_with_no_clusters_and_they_grow_with_it():
    """Found again each time that as many rows were written as there were then."""
    store = nc.StreamingCache(8192, D)
    tower = torch.nn.Linear(D, D)
    sampler = nc.SharedDraws(nc.DynamicIndex(store, 2))
    loss_fn = nc.SoftmaxLoss(tower, store, sampler, nc.DotScore())
    clusters, rows, found = sampler.sampler.clusters.index, vectors(640), []
    for ids in torch.arange(640).split(64):
        store.receive(ids, rows[ids])
        loss = loss_fn(tower(rows[ids]), ids)
        assert loss.isfinite()
        found.append(clusters.built)
        loss_fn.step()
    assert found[0] == 0, "the first batch found nobody"
    assert found[1] == 64, "the second the first"
    assert len(set(found)) < len(found), "not in every step"
    assert found[-1] > 320, "never of less than half"
    assert clusters.table.num_clusters > 60


def test_centres_that_are_found_again_begin_where_they_are(monkeypatch):
    """No sample is clustered from nothing; clusters keep their numbers, and are as good as new."""
    rows = vectors(N)
    source, clusters = build(rows, num_clusters=20)
    clusters.update(source)
    before = clusters.table.centres
    monkeypatch.setattr("negcache.indexes.clusters.lloyd", None)
    source.write(torch.arange(N), rows + 0.02 * vectors(N, seed=7))
    clusters.update(source)
    now = clusters.table
    assert now.centres is not before
    assert clusters.moved == 0
    assert clusters.built == N
    assert (now.centres - before).norm(dim=1).max() < 0.5
    moved = source.rows(torch.arange(N))
    fresh = KMeansClusters(num_clusters=20)
    monkeypatch.undo()
    fresh.update(source)
    ours, anew = ((moved - t.centres[t.labels]).square().sum() for t in (now, fresh.table))
    assert ours < 1.3 * anew
