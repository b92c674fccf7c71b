"""The laws of the cluster proposal, by enumeration: chains, rejection, weights, bounds."""

import math

import pytest
import torch

from negcache.contrib.miner import highest_distinct
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.indexes.clusters import ClusterTable
from negcache.indexes.nested import group, nest
from negcache.ops import bounds, cluster_draw, metropolis, rejection
from negcache.ops.cluster_draw import ClusterLaw, Partition
from negcache.ops.lloyd import lloyd, nearest
from negcache.score import DotScore

F64 = torch.float64
N, D, B, CLUSTERS, BETA = 40, 4, 3, 7, 5.0
EVERY = torch.arange(N)


def scene(seed, *, stale=0.3):
    """Queries, items and a table of clusters whose centres are not their means."""
    noise = torch.Generator().manual_seed(seed)
    items = torch.randn(N, D, generator=noise, dtype=F64) / D**0.5
    queries = torch.randn(B, D, generator=noise, dtype=F64) / D**0.5
    labels = nearest(items, items[:CLUSTERS])[0]
    centres = (
        items[:CLUSTERS] + stale * torch.randn(CLUSTERS, D, generator=noise, dtype=F64) / D**0.5
    )
    away = (items - centres[labels]).norm(dim=1)
    radius = torch.zeros(CLUSTERS, dtype=F64).scatter_reduce_(0, labels, away, "amax")
    return queries, items, ClusterTable.from_labels(labels, centres, radius)


def partition_of(table, queries):
    values = BETA * queries @ table.centres.T
    fields = (table.offsets[:-1], table.sizes, table.radius)
    return Partition(values, *(field.expand(len(queries), -1) for field in fields))


def whole(partition):
    """The law under test, with nothing excluded."""
    none = torch.empty(0, dtype=torch.long)
    return ClusterLaw(partition, Exclusion.from_pairs(none, none, len(partition.values)))


def law_of(partition, table):
    """log Q of every item."""
    return whole(partition).log_chance(table.ranks[EVERY])


def truth(queries, items):
    scores = BETA * queries @ items.T
    return scores, torch.softmax(scores, dim=1)


def transitions(log_q, ratios, acceptance=metropolis.log_acceptance):
    """The matrix of one query's chain: proposals times acceptance, what is refused stays."""
    moves = log_q.exp() * acceptance(ratios[:, None].expand(N, N), ratios.expand(N, N)).exp()
    moves = moves - torch.diag(moves.diag())
    return moves + torch.diag(1 - moves.sum(dim=1))


def chains(seed, *, spoil=lambda partition: partition, **settings):
    queries, items, table = scene(seed)
    partition = partition_of(table, queries)
    scores, softmax = truth(queries, items)
    log_q = law_of(partition, table)
    ratios = scores - (law_of(spoil(partition), table) + whole(spoil(partition)).log_norm[:, None])
    for row in range(B):
        yield (
            softmax[row],
            log_q[row],
            ratios[row],
            transitions(log_q[row], ratios[row], **settings),
        )


def test_the_law_is_that_of_the_definition():
    queries, _, table = scene(0)
    values = BETA * queries @ table.centres.T
    weight = values.exp()[:, table.labels]
    expected = weight / weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(law_of(partition_of(table, queries), table).exp(), expected)


def test_golden_vector_d1():
    items = torch.tensor([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8], [-1, 0]], dtype=F64)
    query = torch.tensor([[0.6, 0.8]], dtype=F64)
    table = ClusterTable.from_labels(
        torch.tensor([0, 0, 1, 1, 2]), items[[0, 2, 4]], torch.zeros(3, dtype=F64)
    )
    values = 2 * query @ table.centres.T
    partition = Partition(values, table.offsets[None, :-1], table.sizes[None], table.radius[None])
    scores = 2 * query @ items.T
    log_q = whole(partition).log_chance(table.ranks)[0]
    ratios = scores - values[:, table.labels]

    def close(ours, theirs):
        torch.testing.assert_close(ours, torch.tensor(theirs, dtype=F64), atol=1e-9, rtol=0)

    close(scores[0], [1.2, 1.92, 1.6, 0.56, -1.2])
    close(whole(partition).log_norm, [2.824201857])
    close(log_q.exp(), [0.197068902, 0.197068902, 0.293992255, 0.293992255, 0.017877687])
    close(torch.softmax(whole(partition).log_masses, 1)[0], [0.394137803, 0.587984509, 0.017877687])
    exact = bounds.enumerate_chain(ratios, log_q[None])
    close(exact.log_gamma.exp(), [2.018669098])
    moves = metropolis.log_acceptance(ratios[0, [0, 1, 1, 3]], ratios[0, [1, 3, 2, 4]]).exp()
    close(moves, [1.0, 0.172044864, 0.486752256, 1.0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_softmax_is_stationary_and_chains_come_as_near_as_promised(seed):
    """Test 10: P K = P to 1e-12; TV(s) <= exp(-(s - 1) / gamma)."""
    for softmax, log_q, ratios, matrix in chains(seed):
        torch.testing.assert_close(softmax @ matrix, softmax, atol=1e-12, rtol=0)
        exact = bounds.enumerate_chain(ratios[None], log_q[None])
        law = log_q.exp()
        for length in range(1, 9):
            far = (law - softmax).abs().sum() / 2
            assert far <= metropolis.total_variation_bound(exact.log_gamma, length)
            law = law @ matrix
        assert float((log_q.exp() - softmax).abs().sum()) > 0.05, "the proposal is not the softmax"


def reversed_acceptance(here, there):
    return metropolis.log_acceptance(there, here)


def without_beta(partition):
    return partition._replace(values=partition.values / BETA)


@pytest.mark.parametrize(
    "broken",
    [{"acceptance": reversed_acceptance}, {"spoil": without_beta}],
    ids=["reversed", "beta"],
)
def test_broken_chains_leave_the_softmax(broken):
    """Acceptance the wrong way round, or ratios against centres scored without beta."""
    for softmax, _, _, matrix in chains(0, **broken):
        assert (softmax @ matrix - softmax).abs().max() > 1e-3


def test_a_proposal_without_cluster_sizes_does_not_follow_the_reported_law():
    queries, _, table = scene(0)
    partition = partition_of(table, queries)
    by_cluster = torch.softmax(partition.values, dim=1) / table.sizes
    assert (by_cluster[:, table.labels] - law_of(partition, table).exp()).abs().max() > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gamma_and_its_bounds(seed):
    queries, items, table = scene(seed)
    partition = partition_of(table, queries)
    scores, softmax = truth(queries, items)
    log_q = law_of(partition, table)
    exact = bounds.enumerate_chain(scores - partition.values[:, table.labels], log_q)
    torch.testing.assert_close(exact.log_gamma, (softmax.log() - log_q).amax(1))
    lipschitz = BETA * queries.norm(dim=1)
    bound = bounds.log_gamma_bound(whole(partition), lipschitz)
    assert (exact.log_gamma <= bound).all()
    assert (bound <= 2 * lipschitz * table.radius.max() + 1e-12).all()
    if seed == 0:
        tight = bounds.log_gamma_bound(whole(partition), lipschitz * 0)
        assert (tight < exact.log_gamma).any(), "a bound that leaves the radius out is none"


def test_gamma_stays_below_its_bound_where_a_centre_scores_above_most_of_its_members():
    """A head between one item ahead of it and a hundred behind: Zhat is far above Z."""
    items = torch.cat([torch.ones(1), -torch.ones(100)]).double()[:, None]
    table = ClusterTable.from_labels(
        torch.zeros(101, dtype=torch.long), torch.zeros(1, 1, dtype=F64), torch.ones(1, dtype=F64)
    )
    queries = torch.tensor([[0.2], [0.1]], dtype=F64)
    partition = partition_of(table, queries)
    scores, _ = truth(queries, items)
    log_q = whole(partition).log_chance(table.ranks)
    exact = bounds.enumerate_chain(scores - partition.values[:, table.labels], log_q)
    lipschitz = BETA * queries.norm(dim=1)
    assert (exact.log_gamma > 1.3 * lipschitz).all(), "the radius of one side is not enough"
    assert (exact.log_gamma <= bounds.log_gamma_bound(whole(partition), lipschitz)).all()


def test_the_acceptance_of_a_chain_at_rest_is_counted_over_all_pairs():
    for softmax, log_q, ratios, _ in chains(0):
        exact = bounds.enumerate_chain(ratios[None], log_q[None])
        pairs = (ratios[None] - ratios[:, None]).clamp(max=0).exp()
        expected = softmax @ pairs @ log_q.exp()
        torch.testing.assert_close(exact.acceptance[0], expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flat_rejection_is_exact(seed):
    """Test 10: the law of what is kept is P to 1e-12; what is kept is Z over the envelope."""
    queries, items, table = scene(seed)
    scores, softmax = truth(queries, items)
    partition = partition_of(table, queries).envelope(BETA * queries.norm(dim=1))
    proposed = law_of(partition, table)
    ratios = scores - partition.values[:, table.labels]
    kept = (proposed + rejection.log_keep(ratios)).exp()
    law = kept / kept.sum(dim=1, keepdim=True)
    torch.testing.assert_close(law, softmax, atol=1e-12, rtol=0)
    expected = (torch.logsumexp(scores, dim=1) - whole(partition).log_norm).exp()
    torch.testing.assert_close(kept.sum(dim=1), expected)


def test_an_envelope_that_does_not_hold_is_refused_and_would_be_biased():
    queries, items, table = scene(0)
    scores, softmax = truth(queries, items)
    partition = partition_of(table, queries).envelope(queries.norm(dim=1))  # beta is missing
    ratios = scores - partition.values[:, table.labels]
    with pytest.raises(InputError, match="radius"):
        rejection.log_keep(ratios)
    kept = (law_of(partition, table) + ratios.clamp(max=0)).exp()
    assert (kept / kept.sum(dim=1, keepdim=True) - softmax).abs().max() > 1e-3


def excluded_pairs():
    """(query, item) pairs: one, five and no items excluded; of one query a whole cluster."""
    return torch.tensor([0, 1, 1, 1, 1, 1]), torch.tensor([3, 0, 7, 20, 39, 11])


def test_the_partition_is_unbiased_with_some_items_excluded():
    """Sum over proposals of q exp(s~) / q = Z-, with q from sizes less the excluded."""
    queries, items, table = scene(1)
    rows, ids = excluded_pairs()
    partition = partition_of(table, queries)
    law = ClusterLaw(partition, Exclusion.from_pairs(rows, table.ranks[ids], B))
    masked = torch.zeros(B, N, dtype=torch.bool)
    masked[rows, ids] = True
    scores, _ = truth(queries, items)
    log_q, norm = law.log_chance(table.ranks), law.log_norm
    assert torch.equal(log_q == -torch.inf, masked)
    left = law_of(partition, table).masked_fill(masked, -torch.inf)
    torch.testing.assert_close(log_q, torch.log_softmax(left, dim=1), atol=1e-12, rtol=0)
    values = partition.values[:, table.labels]
    torch.testing.assert_close(norm, torch.logsumexp(values.masked_fill(masked, -torch.inf), 1))
    ratios = (scores - values).masked_fill(masked, -torch.inf)
    single = torch.stack([metropolis.log_partition(ratios[:, [y]], norm) for y in range(N)], dim=1)
    expected = torch.logsumexp(scores.masked_fill(masked, -torch.inf), dim=1)
    estimate = torch.logsumexp(log_q + single, dim=1)
    torch.testing.assert_close(estimate, expected, atol=1e-12, rtol=0)
    lipschitz = BETA * queries.norm(dim=1)
    exact = bounds.enumerate_chain(ratios, log_q)
    assert (exact.log_gamma <= bounds.log_gamma_bound(law, lipschitz)).all()


def test_a_partition_without_any_proposal_left_is_nothing():
    ratios = torch.full((2, 3), -torch.inf, dtype=F64)
    ratios[1, 1] = 0.5
    ours = metropolis.log_partition(ratios, torch.zeros(2, dtype=F64))
    assert ours.tolist() == [-math.inf, 0.5]


@pytest.mark.parametrize("expand", [1, 2, 3])
def test_the_adaptive_cut_is_a_partition_with_the_law_of_its_clusters(expand):
    queries, items, _ = scene(2)
    centres = items[:20]
    labels, away = nearest(items, centres)
    labels[5], labels[22] = -1, -1
    radius = torch.zeros(20, dtype=F64).scatter_reduce_(0, labels.clamp_min(0), away, "amax")
    table = ClusterTable.from_labels(labels, centres, radius)
    parents = group(centres)
    nested = nest(table, parents)
    coarse = partition_of(nested.coarse, queries)

    score = DotScore(1.0, normalize=False).double()
    queries = BETA * queries
    partition = nested.partition(queries, score, nested.fine.centres, coarse, expand)
    held = labels >= 0
    log_q = whole(partition).log_chance(nested.fine.ranks[held])
    torch.testing.assert_close(log_q.exp().sum(dim=1), torch.ones(B, dtype=F64))
    assert (partition.size.sum(dim=1) == held.sum()).all()
    for row in range(B):
        best = coarse.values[row].topk(expand).indices
        fine = torch.isin(parents[labels[held]], best)
        own = queries[row] @ centres[labels[held]].T
        above = coarse.values[row, parents[labels[held]]]
        expected = torch.where(fine, own, above)
        torch.testing.assert_close(log_q[row], torch.log_softmax(expected, dim=0))
    clusters = cluster_draw.clusters_holding(
        partition,
        torch.arange(B)[:, None].expand(-1, int(held.sum())),
        nested.fine.ranks[held].expand(B, -1),
    )
    exact = queries @ items[held].T
    within = partition.values + queries.norm(dim=1, keepdim=True) * partition.radius
    assert (exact <= within.gather(1, clusters) + 1e-12).all(), "the radius of each cluster holds"


def test_an_empty_cluster_is_never_drawn_and_never_holds():
    table = ClusterTable.from_labels(
        torch.tensor([1, 1, 3, 3, -1]), torch.zeros(5, 2, dtype=F64), torch.zeros(5, dtype=F64)
    )
    partition = partition_of(table, torch.ones(1, 2, dtype=F64))
    held = cluster_draw.clusters_holding(
        partition, torch.zeros(4, dtype=torch.long), torch.arange(4)
    )
    assert held.tolist() == [1, 1, 3, 3]
    noise = torch.rand(1, 500, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    noise[0, 0], noise[0, 1] = 0.0, 1 - 2**-53
    drawn = whole(partition).draw(noise)
    assert set(drawn.clusters[0].tolist()) == {1, 3}
    assert torch.bincount(drawn.places[0], minlength=4).min() > 80


def test_best_clusters_are_those_of_the_highest_centres():
    queries, _, table = scene(0)
    partition = partition_of(table, queries)
    kept = whole(partition).best(3).partition.values > -torch.inf
    assert (kept.sum(dim=1) == 3).all()
    best = partition.values.topk(3, dim=1).values
    assert torch.equal(partition.values[kept].view(B, 3).sort(descending=True).values, best)


def test_an_empty_cluster_takes_no_place_among_the_best():
    labels, values = torch.tensor([0, 0, 2, 2, 3]), torch.tensor([[1.0], [9.0], [3.0], [2.0]])
    table = ClusterTable.from_labels(labels, values.double(), torch.zeros(4, dtype=F64))
    kept = whole(partition_of(table, torch.ones(1, 1, dtype=F64))).best(2)
    assert torch.softmax(kept.log_masses, dim=1)[0].nonzero().tolist() == [[2], [3]]


def test_chains_leave_what_is_excluded_and_never_go_there():
    no = -torch.inf
    ratios = torch.tensor([[[no, 1.0, no], [no, no, no], [0.0, -9.0, 5.0]]], dtype=F64)
    walked = metropolis.walk(ratios, torch.full_like(ratios, 0.5))
    assert walked.ends.tolist() == [[1, 0, 2]]
    assert walked.accepted.tolist() == [[[True, False], [False, False], [False, True]]]


def test_shares_of_draws_that_were_not_found_are_their_importance():
    found = torch.tensor([[True, True, False, False], [False] * 4, [False] * 4])
    ratios = torch.tensor([[-3, -4, -1, -torch.inf], [-torch.inf] * 4, [-1.0] * 4], dtype=F64)
    norm = torch.tensor([3 + math.log(2), -torch.inf, 0], dtype=F64)
    log_z = torch.tensor([2, -torch.inf, -torch.inf], dtype=F64)
    shares = rejection.log_shares(found, ratios, norm, log_z).exp()
    torch.testing.assert_close(shares[0], torch.tensor([0.25, 0.25, 0.5, 0.0], dtype=F64))
    assert (shares[1:] == 0).all()


def test_the_highest_are_distinct():
    slots = torch.tensor([[4, 2, 4, 9, 2]])
    scores = torch.tensor([[3.0, 5.0, 3.0, 1.0, 5.0]], dtype=F64)
    best, values = highest_distinct(scores, slots, 4)
    assert slots[0, best[0, :3]].tolist() == [2, 4, 9]
    assert values[0].tolist() == [5.0, 3.0, 1.0, -math.inf]


def test_equal_points_make_one_centre():
    points = torch.ones(50, 3)
    centres = lloyd(points, 8, 4, torch.Generator().manual_seed(0))
    assert torch.equal(centres, torch.ones(1, 3))
