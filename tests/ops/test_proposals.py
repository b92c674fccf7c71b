"""Alias table, mixtures, parts of a store: expectations by enumeration."""

import itertools
import math

import pytest
import torch
from partition import log_prob
from roster import mixture, problem

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.ops.alias import build_alias
from negcache.ops.views import CellView, some_clusters
from negcache.testing import reference


@pytest.mark.parametrize("size", [1, 2, 5, 100, 1000])
@pytest.mark.parametrize("power", [0.0, 1.0, 8.0])
def test_the_alias_table_is_the_distribution(size, power):
    """Each item's keep and all that is handed to it sum to its chance, to rounding."""
    chances = torch.rand(size, generator=torch.Generator().manual_seed(size)).double() ** power
    chances = chances / chances.sum()
    table = build_alias(chances)
    assert ((table.keep >= 0) & (table.keep <= 1)).all()
    law = table.keep.clone().index_add_(0, table.alias, 1 - table.keep) / size
    torch.testing.assert_close(law, chances, atol=1e-12, rtol=0)


def test_the_alias_table_keeps_items_without_a_count_out():
    chances = torch.tensor([0.0, 0.7, 0.0, 0.3, 0.0], dtype=torch.float64)
    table = build_alias(chances)
    assert (table.keep[chances == 0] == 0).all()
    assert (chances[table.alias[table.keep < 1]] > 0).all()


@pytest.mark.parametrize("counts", [[1.0, -1.0], [0.0, 1.0], [1.0, float("nan")]])
def test_bad_counts_are_refused(counts):
    with pytest.raises(nc.InputError, match="counts"):
        nc.Popularity(torch.tensor(counts), 2)


@pytest.mark.parametrize("scored", [1.0, 0.34])
def test_a_mixture_is_unbiased_at_any_staleness(scored):
    """Given the law that was drawn: sum_y q_mix(y) exp(s_y) / q_mix(y) = Z-, since q_mix > 0."""
    request, _items, store = problem(drift=0.5)
    sampler = mixture(store, scored)
    for seed in range(3):
        draw = draw_from(sampler, request, torch.Generator().manual_seed(seed))
        log_q = log_prob(sampler, request, torch.arange(300), draw.law)
        excluded = request.exclude.mask(torch.arange(300))
        assert (log_q[~excluded] > -torch.inf).all()
        total = log_q.exp().sum(1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-10, rtol=0)
        drawn = log_q.gather(1, draw.ids[draw.columns])
        weight = -(drawn + math.log(6))
        torch.testing.assert_close(draw.log_weight, weight, atol=1e-10, rtol=0)
    bound = math.log(300 / 2)  # two of the six draws are uniform
    assert (draw.log_weight <= bound + 1e-9).all()


def test_mixtures_that_cannot_be_right_are_refused():
    _, _, store = problem()
    part = nc.CachedSoftmax(store, 2, scored=0.5)
    with pytest.raises(nc.InputError, match="reaches every item"):
        nc.Mixture(part, nc.CachedSoftmax(store, 2, scored=0.5))
    with pytest.raises(nc.InputError, match="over one store"):
        nc.Mixture(nc.CachedSoftmax(store, 2), nc.CachedSoftmax(nc.DenseCache(300, 8), 2))
    with pytest.raises(nc.InputError, match="has_density"):
        nc.Mixture(nc.Uniform(store, 2), nc.FullSoftmax(store))


def test_every_cluster_is_scored_with_the_same_chance():
    """300 rows are three clusters, the last of 44; two of three are scored."""
    _, _, store = problem()
    counts = torch.zeros(3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        clusters = some_clusters(store, 0.67, generator)
        view = CellView(store, clusters)
        assert len(clusters.unique()) == 2
        assert view.num_rows == sum(128 if cluster < 2 else 44 for cluster in clusters.tolist())
        ids = view.ids(torch.arange(view.num_rows))
        assert torch.equal(view.slots(ids), torch.arange(view.num_rows))
        assert torch.equal(torch.cat([b for _, b in view.chunks(128)]), store.table.embeddings[ids])
        counts[clusters] += 1
    torch.testing.assert_close(counts / 3000, torch.full((3,), 2 / 3), atol=0.04, rtol=0)


def test_a_scored_fraction_is_unbiased_over_clusters_and_draws():
    """Both stages enumerated: every pair of clusters of three, every item of its law."""
    request, items, store = problem(drift=0.4)
    sampler = nc.CachedSoftmax(store, 1, scored=0.67)
    fresh = request.score(request.queries, items)
    estimates = []
    for clusters in itertools.combinations(range(3), 2):
        law = nc.protocols.Law(None, torch.tensor(clusters))
        log_q = log_prob(sampler, request, torch.arange(300), law)
        weight = -log_q - math.log(sampler.coverage)
        estimates.append((log_q.exp() * (fresh + weight).exp()).nan_to_num(0.0).sum(1))
    truth = reference.log_partition(request, items)
    torch.testing.assert_close(torch.stack(estimates).mean(0).log(), truth, atol=1e-10, rtol=0)


def test_a_tempered_draw_has_no_pinned_form():
    request, _, store = problem()
    draw = draw_from(nc.CachedSoftmax(store, 2, power=0.5), request, torch.Generator())
    with pytest.raises(nc.InputError, match="log_z"):
        nc.cached_partition(torch.zeros(5, 2, dtype=torch.float64), draw)
