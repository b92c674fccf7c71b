"""Cells of items: a partition of what is there, radii that hold, and how they follow a cache."""

import copy

import pytest
import torch

import negcache as nc
from negcache.stores import LowRankCache
from negcache.indexes.clusters import ClusterIndex, ClusterTable, KMeansClusters
from negcache.indexes.coordinates import as_coordinates
from negcache.indexes.nested import group, nest

N, D = 600, 6


def vectors(count, seed=0):
    """Items in clusters, as real ones are."""
    noise = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, D, generator=noise)
    chosen = torch.randint(12, (count,), generator=noise)
    return centres[chosen] + 0.3 * torch.randn(count, D, generator=noise)


def build(rows, written=None, **settings):
    """A dense cache of these rows, seen as coordinates, and cells that follow it."""
    cache, cells = nc.DenseCache(len(rows), rows.shape[1]), KMeansClusters(**settings)
    cache.observe(cells)
    cache.write(torch.arange(len(rows)) if written is None else written, rows[: len(rows)])
    return as_coordinates(cache), cells


def check(table, rows, valid):
    """Every valid slot once, in order, within the radius of its centre; no other slot."""
    assert torch.equal(table.members.sort().values, valid.nonzero().squeeze(1))
    assert table.offsets[0] == 0
    assert table.offsets[-1] == len(table.members)
    assert torch.equal(table.members[table.ranks[valid]], valid.nonzero().squeeze(1))
    assert (table.ranks[~valid] == -1).all()
    labels = table.labels
    assert (labels[~valid] == -1).all()
    for cell in range(table.num_clusters):
        members = table.members[table.offsets[cell] : table.offsets[cell + 1]]
        assert torch.equal(members.sort().values, (labels == cell).nonzero().squeeze(1))
        away = (rows[members] - table.centres[cell]).norm(dim=1)
        assert (away <= table.radius[cell] + 1e-5).all()


def test_a_table_from_labels_with_empty_cells():
    labels = torch.tensor([2, -1, 0, 2, 0, 4])
    table = ClusterTable.from_labels(labels, torch.zeros(6, 2), torch.zeros(6))
    assert table.offsets.tolist() == [0, 2, 2, 4, 4, 5, 5]
    assert table.members.tolist() == [2, 4, 0, 3, 5]
    assert table.ranks.tolist() == [2, -1, 0, 3, 1, 4]
    assert torch.equal(table.labels, labels)


def test_cells_are_a_partition_with_means_for_centres():
    rows = vectors(N)
    source, cells = build(rows, num_clusters=20)
    cells.follow(source)
    table = cells.table
    assert isinstance(cells, ClusterIndex)
    assert 12 <= table.num_clusters <= 20
    assert (table.sizes > 0).all()
    check(table, rows, torch.ones(N, dtype=torch.bool))
    for cell in range(table.num_clusters):
        torch.testing.assert_close(table.centres[cell], rows[table.labels == cell].mean(0))


def test_cells_are_much_smaller_than_the_whole():
    rows = vectors(N)
    source, cells = build(rows, num_clusters=40)
    cells.follow(source)
    within = (rows - cells.table.centres[cells.table.labels]).square().sum()
    assert within < 0.2 * (rows - rows.mean(0)).square().sum()


def test_about_four_sqrt_n_cells_are_made_unless_told():
    source, cells = build(vectors(N))
    cells.follow(source)
    assert 70 <= cells.table.num_clusters <= 98


def test_following_twice_changes_nothing():
    source, cells = build(vectors(N))
    cells.follow(source)
    table = cells.table
    cells.follow(source)
    assert cells.table is table


def test_items_that_move_come_or_go_change_cells():
    rows = vectors(N)
    source, cells = build(rows, written=torch.arange(N), num_clusters=20)
    cells.follow(source)
    before = cells.table
    moved = torch.tensor([3, 500, 77])
    rows[moved] = before.centres[torch.tensor([1, 2, 5])] + 0.01
    source.write(moved, rows[moved])
    cells.follow(source)
    assert torch.equal(cells.table.labels[moved], torch.tensor([1, 2, 5]))
    assert cells.table.centres is before.centres
    stayed = torch.ones(N, dtype=torch.bool).index_fill(0, moved, False)
    assert torch.equal(cells.table.labels[stayed], before.labels[stayed])
    check(cells.table, rows, torch.ones(N, dtype=torch.bool))


def test_an_item_that_moves_far_widens_its_cell():
    rows = vectors(N)
    source, cells = build(rows, num_clusters=20)
    cells.follow(source)
    rows[9] = 50.0
    source.write(torch.tensor([9]), rows[[9]])
    cells.follow(source)
    assert cells.table.radius.max() > 100
    check(cells.table, rows, torch.ones(N, dtype=torch.bool))


def test_all_is_built_anew_once_as_many_items_have_moved_as_there_are():
    rows = vectors(N)
    source, cells = build(rows, num_clusters=20)
    cells.follow(source)
    centres = cells.table.centres
    rows = vectors(N, seed=1)
    source.write(torch.arange(N - 1), rows[:-1])
    cells.follow(source)
    assert cells.table.centres is centres
    source.write(torch.tensor([N - 1]), rows[-1:])
    cells.follow(source)
    assert cells.table.centres is not centres
    within = (rows - cells.table.centres[cells.table.labels]).square().sum()
    assert within < 0.2 * (rows - rows.mean(0)).square().sum()


def test_a_resumed_index_goes_on_as_if_it_had_never_stopped():
    rows = vectors(N)
    source, cells = build(rows, num_clusters=20)
    cells.follow(source)
    source.write(torch.arange(50), rows[:50] + 0.5)
    cells.follow(source)
    other = nc.DenseCache(N, D)
    twin = KMeansClusters(num_clusters=20)
    other.observe(twin)
    other.load_state_dict(copy.deepcopy(source.state_dict()))
    twin.follow(as_coordinates(other))
    for step in range(2 * N // 50):  # past the next time that all is built anew
        ids = torch.arange(50 * step, 50 * step + 50) % N
        fresh = vectors(50, seed=step)
        for cache, index in ((source, cells), (as_coordinates(other), twin)):
            cache.write(ids, fresh)
            index.follow(cache)
        for name in ("centres", "offsets", "members", "ranks", "radius"):
            assert torch.equal(getattr(cells.table, name), getattr(twin.table, name)), name
    assert cells.moved < N


def test_fewer_items_than_cells():
    source, cells = build(vectors(5), num_clusters=64)
    cells.follow(source)
    check(cells.table, vectors(5), torch.ones(5, dtype=torch.bool))
    assert cells.table.num_clusters <= 5


def test_identical_items_are_one_cell_of_radius_zero():
    rows = torch.ones(100, D)
    source, cells = build(rows, num_clusters=10)
    cells.follow(source)
    assert cells.table.num_clusters == 1
    assert cells.table.radius.tolist() == [0.0]
    assert len(cells.table.members) == 100


def test_duplicates_share_a_cell():
    rows = vectors(50).repeat(4, 1)
    source, cells = build(rows, num_clusters=10)
    cells.follow(source)
    labels = cells.table.labels.view(4, 50)
    assert (labels == labels[0]).all()
    check(cells.table, rows, torch.ones(200, dtype=torch.bool))


def test_items_never_written_are_in_no_cell():
    cache, cells = nc.DenseCache(N, D), KMeansClusters(num_clusters=10)
    cache.observe(cells)
    rows = torch.zeros(N, D)
    some = torch.arange(0, N, 3)
    rows[some] = vectors(len(some))
    cache.write(some, rows[some])
    cells.follow(as_coordinates(cache))
    check(cells.table, rows, cache.valid)


def test_a_cache_without_items_is_refused():
    cache, cells = nc.DenseCache(N, D), KMeansClusters()
    cache.observe(cells)
    with pytest.raises(nc.InputError, match="holds items"):
        cells.follow(as_coordinates(cache))
    assert cells.table.num_clusters == 0


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_coordinates_that_are_not_finite_are_refused(poison):
    rows = vectors(N)
    rows[7, 2] = poison
    source, cells = build(rows)
    with pytest.raises(nc.InputError, match="finite"):
        cells.follow(source)
    source, cells = build(vectors(N))
    cells.follow(source)
    with pytest.raises(nc.InputError, match="finite"):
        source.write(torch.tensor([7]), rows[[7]])


@pytest.mark.parametrize("settings", [{"num_clusters": 0}, {"sample": 0}, {"iterations": -1}])
def test_settings_that_make_no_cells_are_refused(settings):
    with pytest.raises(nc.InputError, match="num_clusters"):
        KMeansClusters(**settings)


def low_rank(count=N, **settings):
    """A filled low-rank cache and its cells."""
    cache = LowRankCache(count, D, landmarks=4, every=3, sample=40, **settings)
    cells = KMeansClusters(num_clusters=12)
    cache.observe(cells)
    fill(cache, vectors(count))
    return cache, cells


def fill(cache, rows):
    while len(missing := cache.missing()):
        cache.write(missing, rows[missing])


def test_cells_follow_a_low_rank_cache():
    cache, cells = low_rank()
    cells.follow(cache)
    check(cells.table, cache.coordinates(torch.arange(N)), cache.valid)
    cache.remove(torch.tensor([0, 5, 9]))
    cells.follow(cache)
    assert (cells.table.ranks[torch.tensor([0, 5, 9])] == -1).all()
    check(cells.table, cache.coordinates(torch.arange(N)), cache.valid)
    cache.add(torch.tensor([5]))
    fill(cache, vectors(N))
    cells.follow(cache)
    assert cells.table.ranks[5] >= 0
    check(cells.table, cache.coordinates(torch.arange(N)), cache.valid)


def test_cells_are_built_anew_after_a_full_pass():
    cache, cells = low_rank(full_below=1.0)
    cells.follow(cache)
    centres, fresh = cells.table.centres, vectors(N, seed=5)
    for _ in range(6):
        due = cache.due()
        cache.write(due, fresh[due])
        cache.tick()
    assert cells.labels is None
    cells.follow(cache)
    assert cells.table.centres is not centres
    check(cells.table, cache.coordinates(torch.arange(N)), cache.valid)


def test_a_corpus_that_grew_by_half_between_two_runs():
    cache, cells = low_rank()
    cells.follow(cache)
    state = copy.deepcopy(cache.state_dict())
    grown = LowRankCache(N * 3 // 2, D, landmarks=4, every=3, sample=40)
    more = KMeansClusters(num_clusters=12)
    grown.observe(more)
    grown.load_state_dict(state)
    more.follow(grown)
    check(more.table, grown.coordinates(torch.arange(len(grown))), grown.valid)
    fill(grown, vectors(N * 3 // 2, seed=3))
    more.follow(grown)
    assert len(more.table.members) == N * 3 // 2
    check(more.table, grown.coordinates(torch.arange(len(grown))), grown.valid)


def test_everyone_leaves():
    rows = vectors(8)
    cache, cells = nc.SubsetCache(16, D, 8), KMeansClusters(num_clusters=3)
    cache.observe(cells)
    ids = cache.ids(torch.arange(8))
    cache.write(ids, rows)
    cells.follow(as_coordinates(cache))
    gone = nc.protocols.Change(
        torch.arange(8),
        rows,
        torch.ones(8, dtype=torch.bool),
        rows,
        torch.zeros(8, dtype=torch.bool),
    )
    cells.rows_changed(gone)
    cells.follow(as_coordinates(cache))  # the cache holds them still: all is built anew
    assert len(cells.table.members) == 8


def test_cells_that_everyone_has_left_are_forgotten():
    """Fewer have moved than there are rows, so that nothing else would build the cells anew."""
    rows, cells = vectors(16), KMeansClusters(num_clusters=3)
    cache = nc.SubsetCache(32, D, 16, refresh=0.5)
    cache.observe(cells)
    cache.write(cache.ids(torch.arange(8)), rows[:8])  # those that leave first
    cells.follow(as_coordinates(cache))
    old, new = cells.table.centres, cache.due()
    assert not cache.valid.any()
    assert cells.table.num_clusters == 0
    with pytest.raises(nc.InputError, match="holds items"):
        cells.follow(as_coordinates(cache))
    cache.write(new, rows[8:] + 100)
    cells.follow(as_coordinates(cache))
    assert torch.cdist(cells.table.centres, old).min() > 100
    check(cells.table, cache.table, cache.valid)


def test_coarse_cells_hold_their_fine_cells():
    rows = vectors(N)
    source, cells = build(rows, num_clusters=40)
    cells.follow(source)
    parents = group(cells.table.centres)
    nested = nest(cells.table, parents)
    everyone = torch.ones(N, dtype=torch.bool)
    check(nested.fine, rows, everyone)
    check(nested.coarse, rows, everyone)
    assert 1 < nested.coarse.num_clusters < nested.fine.num_clusters
    for cell in range(nested.coarse.num_clusters):
        inside = nested.fine.labels[nested.coarse.labels == cell].unique()
        assert torch.equal(inside, torch.arange(*nested.offsets[cell : cell + 2].tolist()))
    assert torch.equal(group(cells.table.centres), parents)
