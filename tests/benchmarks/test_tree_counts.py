"""Counted distances are those that were worked out; the bounds are bounds."""

from itertools import combinations

import pytest
import torch

from benchmarks.tree_counts import bounds, counted, disjoint
from negcache.compiled.arrays import ROOT
from negcache.indexes.sg_tree import SGTree, reference
from negcache.indexes.sg_tree.check import check


def points(count, seed, dim=3):
    noise = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=noise), dim=1)


def moved(rows, share, seed):
    return rows + share * points(len(rows), seed, rows.shape[1])


def built(rows, **settings):
    tree = SGTree(1.3, **settings)
    tree.build(rows)
    return tree


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3])
def test_work_is_every_distance_that_the_loops_worked_out(share, monkeypatch):
    """Both twins; what a build or a new root takes beside the loops is one a looked-at item."""
    rows = points(120, 1)
    there, seen, truth = moved(rows, share, 2), [], reference.distances

    def spied(t, item, others):
        seen.append(len(others))
        return truth(t, item, others)

    monkeypatch.setattr(reference, "distances", spied)
    compiled, slow = built(rows), built(rows, compiled=False)
    assert slow.work == sum(seen) + 2 * len(rows)
    assert compiled.work == slow.work
    before, raised = slow.work, []
    monkeypatch.setattr(slow, "_raise_root", lambda items, of=slow._raise_root: (
        raised.append(len(items)), of(items)))  # fmt: skip
    seen.clear()
    slow.update(there)
    compiled.update(there)
    assert slow.work - before == sum(seen) + sum(raised)
    assert compiled.work == slow.work


def test_an_update_of_what_stays_looks_twice_at_all_above_and_beside_it():
    """By the parents alone: every item with each above, every two siblings; each step once more."""
    rows = points(200, 3)
    tree = built(rows)
    parent, finest = tree.nodes.parent, tree.nodes.finest
    depth = 0
    for item in range(200):
        while (item := parent[item]) != ROOT:
            depth += 1
    pairs = combinations(range(200), 2)
    beside = sum(parent[i] == parent[j] != ROOT and not finest[parent[i]] for i, j in pairs)
    before = tree.work
    assert tree.update(rows) == 0
    assert tree.work - before == 2 * depth + 2 * beside + 199


def broken_relations(t):
    """Every one, by brute force, as the items of which one has to change."""
    found = []
    for item in range(len(t.parent)):
        path = [item]
        for node in reference.above(t, item):
            path.append(node)
            if reference.distances(t, item, [node])[0] > t.cover[node]:
                found.append(set(path))
    for one, two in combinations(range(len(t.parent)), 2):
        if t.parent[one] == t.parent[two] >= 0 and not t.finest[t.parent[one]]:
            far = reference.distances(t, one, [two])[0]
            if far < min(t.cover[one], t.cover[two]):
                found.append({one, two})
    return found


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_fewer_items_than_disjoint_relations_can_mend_a_tree(share, seed):
    """No set of items that meets every broken relation is smaller, where all are few enough."""
    rows = points(14, seed, 2)
    tree = built(rows)
    t = tree.nodes._replace(vectors=moved(rows, share, seed + 50).numpy())
    relations, least = broken_relations(t), disjoint(t)
    assert (least > 0) == bool(relations)
    fewer = combinations(range(14), least - 1) if least else ()
    assert not any(all(relation & {*some} for relation in relations) for some in fewer)


def test_nothing_is_broken_where_nothing_moved_and_something_where_the_check_sees_it():
    rows = points(300, 5)
    tree = built(rows)
    assert disjoint(tree.nodes) == 0
    t = tree.nodes._replace(vectors=moved(rows, 0.1, 6).numpy())
    with pytest.raises(AssertionError):
        check(t, tree.shape)
    assert disjoint(t) > 0


def test_bounds_are_in_order_and_those_of_the_counts():
    for share in (0.0, 0.003, 0.03, 0.3):
        rows = points(400, 7, 8)
        row = counted(rows, moved(rows, share, 8))
        assert row["update"] >= row["items"] - 1
        assert row["disjoint"] <= row["again"]
        assert row["at_most_by_inserts"] >= row["at_most_published"]
    assert bounds({"items": 101, "anew": 1000, "again": 101, "disjoint": 0}) == {
        "at_most_by_inserts": 10.0,
        "at_most_published": round(1 / 1.1, 3),
    }
