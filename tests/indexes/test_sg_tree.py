"""The SG tree: its invariants through every change, its twin, its cuts, clusters for a query."""

import copy
import math

import numpy as np
import pytest
import torch

import negcache as nc
from negcache.compiled.arrays import NONE, Nodes
from negcache.contrib.query_clusters import clusters_for
from negcache.errors import InputError
from negcache.indexes.clusters import ClusterIndex
from negcache.indexes.sg_tree import SGTree, TreeClusters

BASES = [2.0, 1.3]


def points(count, dim, seed, dtype=torch.float64):
    """Items around a few centres, of norm 1."""
    noise = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, dim, generator=noise, dtype=torch.float64)
    near = torch.randint(5, (count,), generator=noise)
    rows = centres[near] + 0.5 * torch.randn(count, dim, generator=noise, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1).to(dtype)


def moved(rows, share, seed):
    """The rows after steps of this length, and the true drift of a distance, at most."""
    noise = torch.Generator().manual_seed(seed)
    step = torch.randn(rows.shape, generator=noise, dtype=torch.float64)
    there = (rows + share * step / step.norm(dim=1, keepdim=True)).to(rows.dtype)
    return there, 2 * float((there - rows).norm(dim=1).max())


def built(rows, base=1.3, **settings):
    tree = SGTree(base, **settings)
    tree.build(rows)
    return tree


@pytest.mark.parametrize("seed", range(60))
def test_every_invariant_holds_through_build_insert_remove_and_update(seed):
    """Test 21: 60 random trees, moved by 0.1, 0.3, 1 and 3 % with the true drift, and measured."""
    base, share = BASES[seed % 2], (0.001, 0.003, 0.01, 0.03)[seed % 4]
    rows, noise = points(150, 2 + seed % 7, seed), torch.Generator().manual_seed(seed)
    tree = built(rows[:100], base)
    tree.check(exact=True)
    tree.insert(torch.arange(100, 150), rows[100:])
    tree.check(exact=True)
    gone = torch.randperm(150, generator=noise)[:30]
    tree.remove(gone)
    tree.check()
    tree.refresh()
    tree.check(exact=True)
    measured = copy.deepcopy(tree)
    there, drift = moved(rows, share, seed)
    again = tree.update(there, drift)
    tree.check(exact=True)
    fewer = measured.update(there)
    measured.check(exact=True)
    assert fewer <= again
    left = torch.ones(150, dtype=torch.bool)
    left[gone] = False
    for each in (tree, measured):
        assert torch.equal(each.present, left)
        each.insert(gone, there[gone])
        each.check()


def test_less_than_the_true_drift_breaks_the_tree_and_the_check_sees_it():
    """The bound is needed: negative control of the update."""
    broken = 0
    for seed in range(20):
        rows = points(150, 4, seed)
        tree = built(rows)
        there, drift = moved(rows, 0.03, seed)
        tree.update(there, drift / 30)
        try:
            tree.check()
        except AssertionError:
            broken += 1
    assert broken > 10


def test_a_measured_update_inserts_again_what_broke_an_invariant_and_little_else():
    rows = points(3000, 6, 0, torch.float32)
    there, drift = moved(rows, 0.003, 0)
    by_bound, measured = built(rows), built(rows)
    assert measured.update(rows) == 0
    few, many = measured.update(there), by_bound.update(there, drift)
    assert 0 < few < 0.2 * many
    measured.check(exact=True)
    by_bound.check(exact=True)


def spoil(tree, law):
    """Break one invariant of a sound tree."""
    t, inner = tree.nodes, np.flatnonzero((tree.nodes.first >= 0) & (tree.nodes.parent >= 0))
    node = int(inner[0])
    child = int(t.first[node])
    sibling = int(tree.root)
    if law == "covers":
        t.vectors[child] += 9.0
    elif law == "apart":
        family = next(n for n in range(len(t.first)) if t.next[t.first[n]] >= 0 and not t.finest[n])
        t.vectors[t.next[t.first[family]]] = t.vectors[t.first[family]] + 1e-9
        tree.refresh()
    elif law == "reach is no less":
        t.reach[node] *= 0.9
    elif law == "reach is at most":
        t.reach[node] = t.cover[node] * 1.1
    elif law == "bound is no less":
        t.bound[node] *= 0.9
    elif law == "gap is at most":
        t.gap[sibling] += 1.0
    elif law == "size":
        t.size[node] += 1
    elif law == "there once":
        t.first[node] = t.next[child]
    elif law == "twice":
        t.next[child] = child
    elif law == "agree":
        t.parent[child] = t.parent[node]
    elif law == "higher levels":
        t.level[child] = t.level[node]
    elif law == "radius is base":
        t.cover[child] *= 2
    elif law == "one root":
        t.parent[tree.root] = node
    elif law == "last level":
        t.finest[node] = True


@pytest.mark.parametrize(
    "law",
    [
        "covers", "apart", "reach is no less", "reach is at most", "bound is no less",
        "gap is at most", "size", "there once", "twice", "agree", "higher levels",
        "radius is base", "one root", "last level",
    ],
)  # fmt: skip
def test_the_check_names_the_invariant_that_is_broken(law):
    """Negative controls of the check itself."""
    tree = built(points(200, 4, 0))
    tree.check(exact=True)
    spoil(tree, law)
    with pytest.raises(AssertionError, match=law):
        tree.check()


def same(one, other):
    assert one.work == other.work
    for name, left, right in zip(Nodes._fields, one.nodes, other.nodes, strict=True):
        if left.dtype == np.float64:
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(left, right, err_msg=name)


def grid(count, dim, seed):
    """Whole numbers: no rounding, equal distances and equal items everywhere."""
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, (count, dim), generator=noise).double()


def single(count, dim, seed):
    return points(count, dim, seed, torch.float32)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("make", [points, grid, single])
def test_the_compiled_loops_give_the_tree_of_their_readable_twin(make, base):
    rows = make(150, 3, 1)
    pair = [SGTree(base, resolution=0.1, compiled=compiled) for compiled in (True, False)]
    for tree in pair:
        tree.build(rows[:120])
    same(*pair)
    there = make(150, 3, 1) * 1.03125  # few bits: a grid stays without rounding
    there[::7] = make(150, 3, 2)[::7]
    outlier = torch.full_like(there[:1], 50.0)
    steps = [
        lambda tree: tree.insert(torch.arange(120, 150), rows[120:]),
        lambda tree: tree.remove(torch.arange(0, 150, 5)),
        lambda tree: tree.insert(torch.arange(0, 150, 5), rows[::5]),
        lambda tree: tree.update(there),
        lambda tree: tree.insert(torch.tensor([150]), outlier),
        lambda tree: tree.update(torch.cat([there * 0.984375, outlier]), 0.2),
    ]
    for step in steps:
        for tree in pair:
            step(tree)
        same(*pair)
        pair[0].check()


@pytest.mark.parametrize("count", [1, 2, 500])
def test_items_all_alike_are_one_flat_level(count):
    tree = built(torch.ones(count, 4))
    tree.check(exact=True)
    assert tree.nodes.level.min() >= tree.shape.floor - 1
    assert tree.work == 4 * count - 2  # the root chosen, raised; then its ball and the leaf
    there = torch.ones(count, 4) + torch.eye(count, 4)
    tree.update(there)
    tree.check(exact=True)


def test_equal_items_keep_one_place_each_and_short_chains():
    rows = points(100, 4, 0).repeat(20, 1)
    tree = built(rows, resolution=0.01)
    tree.check(exact=True)
    up, depth = tree.nodes.parent, 0
    while (up >= 0).any():
        up, depth = np.where(up >= 0, tree.nodes.parent[up], -1), depth + 1
    assert depth <= tree.nodes.level.max() - tree.shape.floor + 1
    tree.remove(torch.arange(0, 2000, 3))
    tree.check()
    assert len(tree) == 2000 - 667


def test_without_its_root_the_tree_is_built_of_the_others():
    tree = built(points(80, 4, 0))
    root = tree.root
    assert tree.remove(torch.tensor([root])) == 79
    tree.check(exact=True)
    assert not tree.present[root]


def test_an_inner_node_leaves_its_children_in_the_tree():
    tree = built(points(300, 3, 0))
    t = tree.nodes
    inner = int(np.flatnonzero((t.parent == tree.root) & (t.size > 10))[0])
    below = int(t.size[inner]) - 1
    assert tree.remove(torch.tensor([inner])) == below
    tree.check()
    assert len(tree) == 299


def test_a_far_item_raises_the_root_and_an_update_levels_its_children_again():
    rows = points(100, 3, 0)
    tree = built(rows)
    before = tree.nodes.level[tree.root]
    tree.insert(torch.tensor([100, 101]), torch.tensor([[30.0, 0, 0], [31, 0, 0]]).double())
    tree.check(exact=True)
    assert tree.nodes.level[tree.root] > before
    there = torch.cat([rows, rows[:2] * 0.5])
    tree.update(there, 62.0)
    tree.check(exact=True)


def test_more_drift_than_a_share_builds_anew():
    rows = points(400, 4, 0)
    tree, (there, drift) = built(rows), moved(rows, 0.2, 0)
    assert tree.update(there, drift, rebuild_above=0.5) == 400
    same_as_new = built(there)
    assert torch.equal(tree.arrays().children, same_as_new.arrays().children)


def bad(change):
    tree = built(points(20, 3, 0))
    with pytest.raises(InputError):
        change(tree)
    tree.check(exact=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.insert(torch.tensor([3]), torch.zeros(1, 3)),
        lambda tree: tree.insert(torch.tensor([30, 30]), torch.zeros(2, 3)),
        lambda tree: tree.insert(torch.tensor([-1]), torch.zeros(1, 3)),
        lambda tree: tree.insert(torch.tensor([20]), torch.zeros(1, 4)),
        lambda tree: tree.insert(torch.tensor([20]), torch.full((1, 3), math.nan)),
        lambda tree: tree.remove(torch.tensor([25])),
        lambda tree: tree.remove(torch.tensor([-1])),
        lambda tree: tree.remove(torch.arange(20)),
        lambda tree: tree.update(torch.zeros(21, 3)),
        lambda tree: tree.update(torch.zeros(20, 3), -1.0),
        lambda tree: tree.update(torch.full((20, 3), math.inf)),
        lambda tree: tree.build(torch.full((20, 3), math.nan)),
        lambda tree: tree.build(torch.zeros(0, 3)),
        lambda tree: tree.cut_into(0),
        lambda tree: clusters(tree, torch.zeros(2, 3), gamma=0.5),
        lambda tree: clusters(tree, torch.full((2, 3), math.nan)),
        lambda tree: SGTree(1.0),
        lambda tree: SGTree(2.0, resolution=0.0),
        lambda tree: TreeClusters(0),
        lambda tree: TreeClusters(4, level=1),
        lambda tree: TreeClusters(centre="median"),
        lambda tree: TreeClusters(drift=1.5),
    ],
)
def test_bad_input_is_refused_before_the_tree_is_touched(change):
    bad(change)


def test_items_that_are_not_there_may_hold_anything():
    rows = points(50, 3, 0)
    rows[7] = math.nan
    there = torch.arange(50) != 7
    tree = SGTree()
    tree.build(rows, there)
    tree.check(exact=True)
    assert torch.equal(tree.present, there)


def test_a_restored_tree_goes_on_as_if_it_had_never_stopped():
    rows = points(200, 4, 0)
    tree = built(rows)
    tree.remove(torch.arange(10, 30))
    again = SGTree(1.3)
    again.load_state_dict(copy.deepcopy(tree.state_dict()))
    there, drift = moved(rows, 0.01, 1)
    for each in (tree, again):
        each.update(there)
        each.insert(torch.arange(10, 30), there[10:30])
        each.update(rows, drift)
    for name, array in tree.state_dict().items():
        assert torch.equal(array, again.state_dict()[name]), name


@pytest.mark.parametrize("base", BASES)
def test_a_cut_at_a_level_has_the_radius_of_its_level(base):
    tree = built(points(300, 4, 0), base)
    t = tree.nodes
    for level in range(int(t.level.min()), int(t.level.max()) + 1):
        cut = tree.cut(level)
        assert torch.equal(cut.labels[cut.heads], torch.arange(len(cut.heads)))
        assert torch.equal(torch.bincount(cut.labels) == 1, ~cut.whole | one_item(tree, cut.heads))
        away = (tree.vectors - tree.vectors[cut.heads[cut.labels]]).norm(dim=1)
        assert float(away.max()) <= base**level + 1e-9
    assert len(tree.cut(int(t.level.max())).heads) == 1
    assert len(tree.cut(int(t.level.min()) - 1).heads) == 300


def one_item(tree, heads):
    return torch.from_numpy(tree.nodes.size)[heads] == 1


@pytest.mark.parametrize("num_clusters", [1, 2, 7, 40, 300, 999])
def test_a_cut_into_clusters_gives_as_many_and_every_item_to_a_head_above_it(num_clusters):
    tree = built(points(300, 4, 0))
    cut, t = tree.cut_into(num_clusters), tree.nodes
    assert len(cut.heads) == min(num_clusters, 300)
    assert torch.equal(cut.labels.unique(), torch.arange(len(cut.heads)))
    for item in range(300):
        node = item
        while node not in cut.heads:
            node = int(t.parent[node])
        assert cut.heads[cut.labels[item]] == node


def clusters(tree, queries, gamma=10.0, scale=5.0, floor_level=-8, cap=None):
    settings = {"scale": scale, "gamma": gamma, "floor_level": floor_level, "cap": cap}
    return clusters_for(tree.nodes, tree.shape, queries, **settings)


@pytest.mark.parametrize("cap", [None, 3, 0])
@pytest.mark.parametrize("gamma", [1.0, 3.0, 100.0, 1e6])
@pytest.mark.parametrize("base", BASES)
def test_clusters_for_a_query_part_the_items_and_obey_the_bound(base, gamma, cap):
    """4.4: a partition; radii within log(gamma) / (2 scale); closed only for a reason."""
    rows, queries = points(300, 4, 0), points(9, 4, 5)
    tree = built(rows, base)
    tree.remove(torch.arange(0, 40))
    tree.refresh()
    found = clusters(tree, queries, gamma, cap=cap)
    t, floor = tree.nodes, -8
    for b, query in enumerate(queries):
        seen, opened = [], 0
        for k in range(int(found.offsets[b]), int(found.offsets[b + 1])):
            head = int(found.heads[k])
            members = found.order[int(found.starts[k]) : int(found.ends[k])]
            assert members[0] == head
            seen.append(members)
            radius = float((rows[members] - rows[head]).norm(dim=1).max())
            assert radius <= math.log(gamma) / 10 + 1e-9
            if len(members) == 1:
                opened += int(t.size[head]) > 1
                continue
            assert len(members) == t.size[head]
            far = float((query - rows[head]).norm()) > t.reach[head] + base**floor
            assert far or t.level[head] <= floor or cap is not None
        together = torch.cat(seen)
        assert torch.equal(together.sort().values, tree.present.nonzero().squeeze(1))
        assert len(seen) < 260 or gamma == 1.0
        scores = 5.0 * rows @ query
        gap = gamma_of(scores, seen)
        assert gap <= gamma * (1 + 1e-9)


def gamma_of(scores, members):
    """max P / Q where a cluster stands for its members by the score of its head."""
    log_q = torch.full_like(scores, -torch.inf)
    for some in members:
        log_q[some] = scores[some[0]]
    there = log_q > -torch.inf
    return float((scores[there].log_softmax(0) - log_q[there].log_softmax(0)).max().exp())


def test_a_query_is_seen_finer_the_nearer_it_is_and_a_cap_closes_the_far_ones():
    tree = built(points(2000, 3, 0), 1.3)
    near, far = tree.vectors[:1], torch.full((1, 3), 40.0).double()
    fine = clusters(tree, near, 1e6, scale=1.0, floor_level=-12)
    coarse = clusters(tree, far, 1e6, scale=1.0, floor_level=-12)
    capped = clusters(tree, near, 1e6, scale=1.0, floor_level=-12, cap=2)
    assert len(coarse.heads) == 1
    assert len(coarse.heads) < len(capped.heads) < len(fine.heads)
    some = fine.heads[fine.ends - fine.starts == 1]
    away = (tree.vectors - near).norm(dim=1)
    assert away[some].mean() < away.mean()


def held(count, dim=4, seed=0, room=None):
    """A store of whole rows, some not yet written, and clusters that observe it."""
    rows = points(room or count, dim, seed)
    store = nc.DenseCache(room or count, dim, dtype=torch.float64)
    index = TreeClusters(12, base=1.3)
    store.observe(index)
    store.write(torch.arange(count), rows[:count])
    return store, index, rows


def fits(index, store, rows):
    """The table is a partition of the valid items with true means and radii; the tree is sound."""
    index.tree.check()
    table = index.table
    assert torch.equal(table.members.sort().values, store.valid.nonzero().squeeze(1))
    assert (table.sizes > 0).all()
    for g in range(table.num_clusters):
        mine = rows[table.members[table.offsets[g] : table.offsets[g + 1]]]
        away = (mine - table.centres[g]).norm(dim=1).max()
        torch.testing.assert_close(table.radius[g], away)
        if index.centre == "mean":
            torch.testing.assert_close(table.centres[g], mine.mean(dim=0))
        else:
            assert (mine == table.centres[g]).all(dim=1).any()


@pytest.mark.parametrize("drift", [None, 1.0, 0.95])
def test_clusters_follow_a_store_through_every_change(drift):
    store, index, rows = held(250, room=300)
    index.drift = drift
    index.update(store)
    assert isinstance(index, ClusterIndex)
    fits(index, store, rows)
    table = index.table
    index.update(store)
    assert index.table is table
    store.write(torch.arange(250, 300), rows[250:])
    index.update(store)
    assert index.reinserted == 50
    fits(index, store, rows)
    few = torch.tensor([index.tree.root, 5, 17])
    rows[few] = -rows[few]
    store.write(few, rows[few])
    index.update(store)
    fits(index, store, rows)
    for share in (0.001, 0.003, 0.3):
        rows = moved(rows, share, 1)[0]
        store.table.embeddings.copy_(rows)
        index.invalidate()
        index.update(store)
        if drift != 0.95:
            fits(index, store, rows)
    store.table.written[40:90] = -1
    index.invalidate()
    index.update(store)
    assert index.table.members.numel() == 250
    store.table.written[:] = -1
    index.invalidate()
    index.update(store)
    assert index.table.num_clusters == 0


def test_a_corpus_that_grows_keeps_its_tree():
    store, index, rows = held(200)
    index.update(store)
    more = points(300, 4, 0)
    more[:200] = rows
    larger = nc.DenseCache(300, 4, dtype=torch.float64)
    larger.observe(index)
    larger.write(torch.arange(300), more)
    index.update(larger)
    fits(index, larger, more)


@pytest.mark.parametrize("settings", [{"centre": "head"}, {"level": 1}, {"num_clusters": 1}, {}])
def test_clusters_are_cut_as_asked(settings):
    store, _, rows = held(250)
    index = TreeClusters(base=1.3, **settings)
    index.update(store)
    fits(index, store, rows)
    wanted = {"num_clusters": 1}.get(next(iter(settings), ""), round(4 * 250**0.5))
    if "level" in settings:
        wanted = len(index.tree.cut(1).heads)
    assert index.table.num_clusters == wanted


def test_fewer_items_than_clusters_make_a_cluster_each():
    store = nc.DenseCache(2, 3)
    store.write(torch.arange(2), torch.eye(2, 3))
    index = TreeClusters(50)
    index.update(store)
    assert index.table.num_clusters == 2


def test_restored_clusters_go_on_as_if_they_had_never_stopped():
    store, index, rows = held(250)
    index.update(store)
    store.write(torch.arange(3), rows[3:6])
    other = TreeClusters(12, base=1.3)
    other.load_state_dict(copy.deepcopy(index.state_dict()))
    for name in ("centres", "offsets", "members", "radius"):
        assert torch.equal(getattr(index.table, name), getattr(other.table, name))
    for each in (index, other):
        each.update(store)
        each.invalidate()
    store.table.embeddings.copy_(moved(store.table.embeddings, 0.01, 2)[0])
    for each in (index, other):
        each.update(store)
    assert index.reinserted == other.reinserted
    for name in ("centres", "offsets", "members", "radius"):
        assert torch.equal(getattr(index.table, name), getattr(other.table, name))
    assert (index.tree.nodes.parent != NONE).all()
