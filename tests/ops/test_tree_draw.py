"""The multi-level rejection sampler: its law is the softmax, and only with the right bound."""

from itertools import pairwise

import pytest
import torch
from pace import slow
from torch.nn import functional as F

from negcache.exclusion import Exclusion
from negcache.indexes.sg_tree import SGTree
from negcache.ops.tree_draw import Frontier, draw_from_tree, tree_law
from negcache.testing.conformance import chi_square_p

BASES = [2.0, 1.3]
SCALE = 2.0


def problem(base, seed=0, count=60):
    """A tree over items of norm 1, some of them equal, after items have gone; queries; P."""
    noise = torch.Generator().manual_seed(seed)
    items = torch.randn(count, 3, generator=noise, dtype=torch.float64)
    items[7:12] = items[6]
    items = F.normalize(items, dim=1)
    queries = torch.randn(5, 3, generator=noise, dtype=torch.float64)
    tree = SGTree(base, resolution=0.05)
    tree.build(items)
    tree.remove(torch.tensor([3, 4, 20]))
    wanted = (SCALE * queries @ items.T).masked_fill(~tree.present, -torch.inf).softmax(dim=1)

    def logits(rows, nodes):
        return SCALE * (queries[rows] * items[nodes]).sum(dim=1)

    return tree, logits, SCALE * queries.norm(dim=1), wanted


def pairs(rows, ids, num_rows=5):
    return Exclusion.from_pairs(torch.tensor(rows).long(), torch.tensor(ids).long(), num_rows)


def draw(tree, frontier, logits, slope, count, noise, **settings):
    """With nothing excluded, unless it is said."""
    settings = {"exclude": pairs([], [], len(slope))} | settings
    return draw_from_tree(tree.arrays(), frontier, logits, slope, count, noise, **settings)


def frontiers(tree):
    """At every level: subtrees of the level, and the items above them alone."""
    levels = tree.nodes.level[tree.present.numpy()]
    for level in range(int(levels.min()) - 1, int(levels.max()) + 1):
        heads = tree.cut(level).heads
        yield Frontier(heads, torch.from_numpy(tree.nodes.level)[heads] <= level)


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
@pytest.mark.parametrize("base", BASES)
def test_the_law_is_the_softmax_whatever_the_frontier(base, seed):
    """Test 10."""
    tree, logits, slope, wanted = problem(base, seed)
    chances = []
    for frontier in frontiers(tree):
        law, accepted = tree_law(tree.arrays(), frontier, logits, slope)
        torch.testing.assert_close(law, wanted, atol=1e-12, rtol=0)
        chances.append(accepted)
    torch.testing.assert_close(chances[0], torch.ones(5).double())
    assert (chances[-1] < 0.1).all()
    # One try's acceptance is Z over the mass of the stacks: a frontier of smaller balls has less.
    assert all((a >= b - 1e-12).all() for a, b in pairwise(chances))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("radius", ["reach", "cover"])
def test_the_farthest_item_or_the_covering_radius_is_no_bound(base, radius):
    """Negative control: with MAXD or b^l for UB the children's stacks do not fit."""
    broken = 0
    for seed in range(6):
        tree, logits, slope, wanted = problem(base, seed)
        tree.refresh()
        bounds = getattr(tree.nodes, radius).copy()
        arrays = tree.arrays()._replace(bounds=torch.from_numpy(bounds))
        laws = [tree_law(arrays, frontier, logits, slope)[0] for frontier in frontiers(tree)]
        broken += max(float((law - wanted).abs().max()) for law in laws) > 1e-3
    assert broken >= 3


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
@pytest.mark.parametrize("base", BASES)
def test_draws_follow_the_law(base, seed):
    tree, logits, slope, wanted = problem(base)
    for frontier in worth_drawing(tree, logits, slope):
        noise = torch.Generator().manual_seed(seed)
        drawn = draw(tree, frontier, logits, slope, 4000, noise, rounds=9000)
        assert (drawn.items >= 0).all()
        for row in range(5):
            counts = torch.bincount(drawn.items[row], minlength=60)
            assert (counts[~tree.present] == 0).all()
            assert chi_square_p(counts, wanted[row] * 4000) > 1e-4


def worth_drawing(tree, logits, slope):
    """Frontiers with subtrees of some depth whose tries are not nearly all given up."""
    for frontier in frontiers(tree):
        _, accepted = tree_law(tree.arrays(), frontier, logits, slope)
        if 0.01 < accepted.min() < 0.9:
            yield frontier


def test_restarts_are_those_of_the_acceptance():
    tree, logits, slope, _ = problem(1.3)
    frontier = list(worth_drawing(tree, logits, slope))[-1]
    _, accepted = tree_law(tree.arrays(), frontier, logits, slope)
    noise = torch.Generator().manual_seed(0)
    drawn = draw(tree, frontier, logits, slope, 5000, noise, rounds=20_000)
    expected = float(5000 * (1 / accepted - 1).sum())
    spread = float((5000 * (1 - accepted) / accepted**2).sum() ** 0.5)
    assert abs(drawn.restarts - expected) < 4.5 * spread


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_draws_follow_the_softmax_of_what_is_not_excluded(seed):
    """The likeliest items of four queries are excluded; the first may draw nothing."""
    tree, logits, slope, wanted = problem(1.3)
    frontier = list(worth_drawing(tree, logits, slope))[-1]
    rows, likely = torch.arange(1, 5).repeat_interleave(6), wanted[1:].topk(6, dim=1).indices
    every = tree.present.nonzero().squeeze(1)
    rows = torch.cat([rows, torch.zeros_like(every)])
    exclude = Exclusion.from_pairs(rows, torch.cat([likely.flatten(), every]), 5)
    noise = torch.Generator().manual_seed(seed)
    drawn = draw(tree, frontier, logits, slope, 4000, noise, rounds=9000, exclude=exclude)
    assert drawn.rounds < 9000, "the first query is not waited for"
    assert (drawn.items[0] == -1).all()
    for items, law in zip(drawn.items[1:], wanted[1:].scatter(1, likely, 0.0), strict=True):
        counts = torch.bincount(items, minlength=60)
        assert counts[law == 0].sum() == 0
        assert chi_square_p(counts, law / law.sum() * 4000) > 1e-4


def test_draws_not_through_in_time_are_told_and_equal_noise_gives_equal_draws():
    tree, logits, slope, _ = problem(2.0)
    frontier = list(frontiers(tree))[-1]
    runs = [
        draw(tree, frontier, logits, slope, 50, torch.Generator().manual_seed(1), rounds=3)
        for _ in range(2)
    ]
    assert torch.equal(runs[0].items, runs[1].items)
    assert runs[0].rounds == 3
    assert (runs[0].items == -1).any()


def test_a_tree_of_one_item_draws_it():
    tree = SGTree()
    tree.build(torch.ones(1, 3))
    root = Frontier(torch.tensor([0]), torch.tensor([True]))
    slope = torch.ones(2)
    noise = torch.Generator().manual_seed(0)
    drawn = draw(tree, root, lambda rows, nodes: torch.zeros(len(nodes)), slope, 4, noise)
    assert (drawn.items == 0).all()
