"""The cluster proposal without what a query may not draw, against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negcache.exclusion import Exclusion
from negcache.ops import bounds, metropolis, rejection
from negcache.ops.cluster_draw import ClusterLaw, Partition

F64 = torch.float64
EXACT = {"atol": 1e-11, "rtol": 0}


def partition_of(noise, shared, num_queries, num_items, spread):
    """Random clusters, some of them empty; each query's own where they are not shared."""
    width = int(torch.randint(1, num_items + 3, (), generator=noise))
    values = spread * torch.randn(num_queries, width, generator=noise, dtype=F64)
    ends = torch.randint(0, num_items + 1, (num_queries, width - 1), generator=noise).sort().values
    ends = torch.cat([ends, torch.full((num_queries, 1), num_items)], dim=1)
    first = torch.cat([torch.zeros(num_queries, 1).long(), ends[:, :-1]], dim=1)
    radius = torch.rand(num_queries, width, generator=noise, dtype=F64)
    fields = (first, ends - first, radius)
    return Partition(values, *(f[:1].expand(num_queries, -1) if shared else f for f in fields))


def brute(partition, masked):
    """The cluster of every item, and its V; -inf where the query may not draw it."""
    clusters = [
        torch.arange(partition.values.shape[1]).repeat_interleave(partition.size[row])
        for row in range(len(masked))
    ]
    clusters = torch.stack(clusters)
    return clusters, partition.values.gather(1, clusters).masked_fill(masked, -torch.inf)


@st.composite
def laws(draw):
    """A law, the items that it may not draw, and their logits by brute force."""
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    num_queries, num_items = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    share = draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
    partition = partition_of(
        noise, draw(st.booleans()), num_queries, num_items, draw(st.sampled_from([1, 400]))
    )
    masked = torch.rand(num_queries, num_items, generator=noise) < share
    exclude = Exclusion.from_pairs(*masked.nonzero().T, num_rows=num_queries)
    return ClusterLaw(partition, exclude), masked, *brute(partition, masked)


@settings(max_examples=300, deadline=None)
@given(laws())
def test_chances_and_masses_are_those_of_brute_force(case):
    law, masked, clusters, values = case
    norm = torch.logsumexp(values, dim=1)
    torch.testing.assert_close(law.log_norm, norm, **EXACT)
    assert torch.equal(law.empty, masked.all(dim=1))
    chance = (values - norm[:, None]).masked_fill(masked, -torch.inf)
    everyone = torch.arange(masked.shape[1])
    torch.testing.assert_close(law.log_chance(everyone), chance, **EXACT)
    none = torch.tensor([-1, 0, -1])
    assert (law.log_chance(none)[:, [0, 2]] == -torch.inf).all()
    torch.testing.assert_close(law.log_chance(none)[:, 1], chance[:, 0], **EXACT)
    mass = torch.zeros_like(law.partition.values).scatter_add_(1, clusters, chance.exp())
    torch.testing.assert_close((law.log_masses - norm[:, None]).exp().nan_to_num(), mass, **EXACT)


@settings(max_examples=300, deadline=None)
@given(laws())
def test_draws_are_the_law_uniform_by_uniform(case):
    """In the middle of each allowed item's share of the noise that item is drawn, and no other."""
    law, masked, clusters, values = case
    share = torch.softmax(values, dim=1).nan_to_num()
    by_cluster = torch.zeros_like(law.partition.values).scatter_add_(1, clusters, share)
    before = by_cluster.cumsum(1) - by_cluster
    for row, item in (share > 1e-9).nonzero().tolist():
        cluster = clusters[row, item]
        mates = (~masked[row] & (clusters[row] == cluster)).nonzero().squeeze(1)
        inside = ((mates == item).nonzero().squeeze() + 0.5) / len(mates)
        noise = torch.full((len(masked), 1, 2), 0.5, dtype=F64)
        noise[row, 0] = torch.stack([before[row, cluster] + by_cluster[row, cluster] / 2, inside])
        drawn = law.draw(noise)
        assert (drawn.clusters[row, 0], drawn.places[row, 0]) == (cluster, item)


@settings(max_examples=200, deadline=None)
@given(laws(), st.integers(0, 2**32))
def test_what_is_drawn_is_allowed_and_stands_where_it_is(case, seed):
    law, masked, clusters, _ = case
    noise = torch.rand(len(masked), 40, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)
    noise[:, 0], noise[:, 1] = 0.0, 1 - 2**-53
    drawn = law.draw(noise)
    assert ((drawn.places >= 0) & (drawn.places < masked.shape[1])).all()
    able = ~masked.all(dim=1)
    assert not masked.gather(1, drawn.places)[able].any()
    assert torch.equal(clusters.gather(1, drawn.places)[able], drawn.clusters[able])
    rows = torch.randperm(len(masked), generator=torch.Generator().manual_seed(seed))[:2]
    some = law.of(rows)
    torch.testing.assert_close(some.log_norm, law.log_norm[rows], **EXACT)
    assert torch.equal(some.draw(noise[rows]).places, drawn.places[rows])


@settings(max_examples=200, deadline=None)
@given(laws(), st.integers(1, 4))
def test_the_best_clusters_are_those_with_something_to_draw(case, count):
    law, masked, clusters, values = case
    kept = law.best(count)
    for row in range(len(masked)):
        left = clusters[row, ~masked[row]].unique()
        best = left[law.partition.values[row, left].argsort(descending=True)][:count]
        wanted = values[row].masked_fill(~torch.isin(clusters[row], best), -torch.inf)
        ours = torch.zeros_like(law.partition.values[row])
        ours.scatter_add_(0, clusters[row], torch.softmax(wanted, dim=0).nan_to_num())
        torch.testing.assert_close(kept.log_masses[row].softmax(0).nan_to_num(), ours, **EXACT)


@settings(max_examples=200, deadline=None)
@given(laws())
def test_gamma_never_exceeds_its_bound_and_is_infinite_of_nothing(case):
    """Items anywhere within the radius: the worst is one at its edge above all others."""
    law, masked, clusters, values = case
    lipschitz = torch.ones(len(masked), dtype=F64)
    bound = bounds.log_gamma_bound(law, lipschitz)
    assert torch.equal(bound == torch.inf, masked.all(dim=1))
    away = law.partition.radius.gather(1, clusters)
    for item in range(masked.shape[1]):
        scores = values - away
        scores[:, item] += 2 * away[:, item]
        ratios = (scores - values).masked_fill(masked, -torch.inf)
        gamma = bounds.enumerate_chain(ratios, law.log_chance(torch.arange(masked.shape[1])))
        assert (gamma.log_gamma <= bound + 1e-9).all()


def dominated(seed):
    """Eight clusters of five: one of known positives alone, far ahead, and one of them in part."""
    noise = torch.Generator().manual_seed(seed)
    fields = (5 * torch.arange(8), torch.full((8,), 5), torch.rand(8, generator=noise, dtype=F64))
    values = torch.randn(3, 8, generator=noise, dtype=F64)
    masked = torch.zeros(3, 40, dtype=torch.bool)
    for row, cluster in enumerate((2, 0, 7)):
        values[row, cluster] += 40
        masked[row, 5 * cluster : 5 * cluster + 5] = True
        masked[row, 15 + row : 17 + row] = True
    partition = Partition(values, *(field.expand(3, -1) for field in fields))
    clusters, left = brute(partition, masked)
    away = partition.radius.gather(1, clusters)
    scores = left + away * (2 * torch.rand(3, 40, generator=noise, dtype=F64) - 1)
    law = ClusterLaw(partition, Exclusion.from_pairs(*masked.nonzero().T, num_rows=3))
    return law, masked, left, scores


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_chains_and_partitions_over_what_is_allowed(seed):
    """P K = P; TV below its bound; the mean of every single proposal's partition is Z-."""
    law, masked, values, scores = dominated(seed)
    log_q, softmax = law.log_chance(torch.arange(40)), torch.softmax(scores, dim=1)
    ratios = (scores - values).masked_fill(masked, -torch.inf)
    gamma = bounds.enumerate_chain(ratios, log_q).log_gamma
    single = [metropolis.log_partition(ratios[:, [y]], law.log_norm) for y in range(40)]
    estimate = torch.logsumexp(log_q + torch.stack(single, dim=1), dim=1)
    torch.testing.assert_close(estimate, torch.logsumexp(scores, dim=1), **EXACT)
    for row in range(3):
        there = ratios[row].expand(40, 40)
        moves = log_q[row].exp() * metropolis.log_acceptance(there.T, there).exp()
        moves = moves - torch.diag(moves.diag())
        moves = moves + torch.diag(1 - moves.sum(dim=1))
        torch.testing.assert_close(softmax[row] @ moves, softmax[row], **EXACT)
        state = log_q[row].exp()
        for length in range(1, 9):
            assert state[masked[row]].sum() == 0
            far = (state - softmax[row]).abs().sum() / 2
            assert far <= metropolis.total_variation_bound(gamma[row : row + 1], length) + 1e-12
            state = state @ moves


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rejection_over_what_is_allowed_is_exact(seed):
    law, masked, _, scores = dominated(seed)
    law = ClusterLaw(law.partition.envelope(torch.ones(3, dtype=F64)), law.exclude)
    _, envelope = brute(law.partition, masked)
    kept = law.log_chance(torch.arange(40)) + rejection.log_keep(
        (scores - envelope).masked_fill(masked, -torch.inf)
    )
    torch.testing.assert_close(torch.softmax(kept, dim=1), torch.softmax(scores, dim=1), **EXACT)
    chance = torch.logsumexp(kept, dim=1)
    torch.testing.assert_close(chance, torch.logsumexp(scores, dim=1) - law.log_norm, **EXACT)
    assert (chance > -2 * law.partition.radius.max()).all(), "positives cost no proposals"
