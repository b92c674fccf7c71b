"""What tables of clusters hold, and that partitions shared by all queries read like any others."""

import torch
from dynamic import clusters
from roster import NUM_ITEMS, problem

import negcache as nc
from negcache.draws import draw, propose
from negcache.indexes import nested
from negcache.ops.cluster_draw import ClusterLaw, Partition


def test_bytes_of_tables_are_centres_there_and_items_here():
    request, _, store = problem()
    flat = nc.DynamicIndex(store, 6, index=clusters())
    draw(flat, request, torch.Generator())
    table, held = flat.clusters.index.table, flat.clusters.held
    assert held == table.held
    assert held.on_device == table.centres.nbytes + table.offsets.nbytes + table.radius.nbytes
    with_room = NUM_ITEMS + NUM_ITEMS // 4 + 4 * table.num_clusters
    assert 4 * 3 * NUM_ITEMS < held.in_memory <= 4 * (2 * NUM_ITEMS + with_room)
    two = nc.DynamicIndex(store, 6, index=clusters(), expand=3)
    draw(two, request, torch.Generator())
    both = two.clusters.held
    assert both.in_memory == held.in_memory, "coarse and fine share their members"
    assert 2 * held.on_device < both.on_device < 4 * held.on_device


def test_places_and_slots_are_inverse():
    request, _, store = problem()
    flat = nc.DynamicIndex(store, 6, index=clusters())
    draw(flat, request, torch.Generator())
    table, slots = flat.clusters.index.table, torch.arange(NUM_ITEMS).view(2, -1)
    assert torch.equal(table.slots(table.places(slots)), slots)


def test_clusters_of_one_row_are_found_as_clusters_of_many():
    noise = torch.Generator().manual_seed(0)
    size = torch.tensor([3, 0, 2, 5])
    first = torch.tensor([0, 3, 3, 5])
    values = torch.randn(4, 4, generator=noise, dtype=torch.float64)
    partition = Partition(values, *(each.expand(4, -1) for each in (first, size, torch.ones(4))))
    copy = Partition(*(each.clone(memory_format=torch.contiguous_format) for each in partition))
    assert copy.first.stride(0) == 4
    pairs = torch.tensor([0, 0, 2, 2]), torch.tensor([1, 9, 3, 4])
    exclude = nc.exclusion.Exclusion.from_pairs(*pairs, 4)
    shared, apart = ClusterLaw(partition, exclude), ClusterLaw(copy, exclude)
    places, rows = torch.arange(10), torch.tensor([2, 0])
    for one, other in ((shared, apart), (shared.of(rows), apart.of(rows))):
        assert torch.equal(one.log_chance(places), other.log_chance(places))
        assert torch.equal(one.log_norm, other.log_norm)
        noise = torch.rand(len(one.partition.values), 50, 2, dtype=torch.float64)
        assert all(map(torch.equal, one.draw(noise), other.draw(noise)))
    assert shared.of(rows).partition.first.stride(0) == 0


def test_children_are_scored_alike_by_one_product_and_one_by_one(monkeypatch):
    request, _, store = problem()
    sampler = nc.DynamicIndex(store, 6, index=clusters(60), expand=3)
    product = propose(sampler, request, torch.Generator()).log_prob(torch.arange(NUM_ITEMS))
    monkeypatch.setattr(nested, "PRODUCT", 0)
    gathered = propose(sampler, request, torch.Generator()).log_prob(torch.arange(NUM_ITEMS))
    torch.testing.assert_close(product, gathered)
