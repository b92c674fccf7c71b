"""Draws in two stages: unbiased whatever is stale, and the cached softmax where the pool is all."""

import math

import pytest
import torch
from dynamic import EVERY, clusters, low_rank, refresh
from pace import slow
from partition import log_prob
from roster import NUM_ITEMS, ROWS, problem, subset
from setting import Setting

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.interfaces import Proposal
from negcache.stores import LowRankCache
from negcache.testing import reference
from negcache.testing.conformance import check_sampler, tile

POOLS = {
    "index": lambda store: nc.DynamicIndex(store, 9, index=clusters()),
    "two_levels": lambda store: nc.DynamicIndex(store, 9, index=clusters(60), expand=3),
    "uniform": lambda store: nc.Uniform(store, 9),
    "cached": lambda store: nc.CachedSoftmax(store, 9),
}


def resampled(store, name="index", count=3):
    return nc.Resampled(POOLS[name](store), count, store=store)


class Everything:
    """Proposes every item once to every query, each with the chance 1 / N."""

    has_density, num_negatives = True, NUM_ITEMS

    def __init__(self, store):
        self.store = store

    def propose(self, request, generator):
        def log_prob(ids):
            shape = (len(request.queries), len(ids))
            return torch.full(shape, -math.log(NUM_ITEMS), dtype=torch.float64)

        everything = EVERY.expand(len(request.queries), -1)
        return Proposal(lambda noise: (everything, log_prob(EVERY)), log_prob)


@pytest.mark.parametrize("drift", [slow(0.0), 0.5])
@pytest.mark.parametrize("name", POOLS)
def test_laws(name, drift):
    request, items, store = problem(drift)
    check_sampler(resampled(store, name), request, items, rounds=50)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("moving", [False, True], ids=["dense", "low_rank"])
def test_the_partition_is_unbiased_though_clusters_and_rows_are_stale(moving, count):
    request, items, store = problem(drift=0.5)
    store = low_rank(items) if moving else store
    sampler = resampled(store, count=count)
    draw_from(sampler, request, torch.Generator())  # clusters are built before anything moves
    noise = torch.Generator().manual_seed(3)
    moved = items + 0.3 * torch.randn(items.shape, generator=noise, dtype=items.dtype)
    if moving:
        refresh(store, moved)
    else:
        some = torch.randperm(NUM_ITEMS, generator=noise)[:100]
        store.write(some, moved[some])
    request = tile(request, 16)
    truth = reference.log_partition(request, moved)
    generator, ratios = torch.Generator().manual_seed(0), []
    for _ in range(300):
        draw = draw_from(sampler, request, generator)
        terms = request.score(request.queries, moved[draw.ids]) + draw.log_weight
        ratios.append((torch.logsumexp(terms, dim=1) - truth).exp())
    error = torch.stack(ratios) - 1
    z = error.mean(0) / error.std(0) * len(error) ** 0.5
    assert (z.abs() < 4.5).all(), z
    assert (error.std(0) / len(error) ** 0.5 < 0.02).all(), "the test could not tell"


def counts_of(draw, request, law, count):
    """How often each item was drawn, if weights are those of shared draws by this law."""
    log_expected = torch.logsumexp(law[:, draw.ids], dim=0) + math.log(count)
    excluded = request.exclude.mask(draw.ids)
    seen = (draw.log_weight + log_expected).exp()
    assert torch.equal(seen == 0, excluded)
    own = seen.amax(dim=0)
    torch.testing.assert_close(
        seen, own.expand_as(seen).masked_fill(excluded, 0), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(own, own.round(), rtol=1e-9, atol=0)
    return torch.zeros(NUM_ITEMS).double().index_add_(0, draw.ids, own)


def test_where_the_pool_is_everything_it_draws_from_the_cached_softmax():
    """Weights and counts are those of ``SharedDraws(CachedSoftmax)``, the latter by chi-square."""
    request, _, store = problem(drift=0.5)
    request = tile(request, 600)
    sampler = nc.Resampled(Everything(store), 8)
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    law = log_prob(nc.CachedSoftmax(store, 8), request, EVERY)
    counts = counts_of(draw, request, law, 8)
    assert counts.sum() == pytest.approx(600 * ROWS * 8, rel=1e-9)
    chi_square(counts, 8 * law.exp())
    with pytest.raises(AssertionError, match="chi-square"):
        chi_square(counts, 8 * torch.log_softmax(0.7 * law, dim=1).exp())


def chi_square(counts, expected_by_query):
    """Standardised by the variance of independent draws from a law for each query."""
    expected = expected_by_query.sum(0)
    often = expected >= 10
    value = ((counts - expected)[often].square() / expected[often]).sum()
    freedom = int(often.sum()) - 1
    z = (value - freedom) / (2 * freedom) ** 0.5
    assert abs(z) < 4.5, f"chi-square of {value:.0f} at {freedom} degrees"


def test_a_pool_of_everything_gives_the_weights_of_one_query():
    """One query, one draw: log weight = log Z~ - s~, so that the cached partition is exact."""
    request, _, store = problem(drift=0.5)
    alone = request.slice(2, 3)
    draw = draw_from(nc.Resampled(Everything(store), 1), alone, torch.Generator().manual_seed(1))
    assert len(draw.ids) == 1
    found = request.score(alone.queries, store.table.embeddings[draw.ids]) + draw.log_weight
    torch.testing.assert_close(found[:, 0], reference.log_partition(alone, store.table.embeddings))


def with_excluded(request, rows):
    """The request, with every item excluded for these queries."""
    rows = torch.tensor(rows).repeat_interleave(NUM_ITEMS)
    exclude = request.exclude.and_also(rows, EVERY.repeat(len(rows) // NUM_ITEMS))
    return nc.messages.Request(request.queries, request.score, request.positives, exclude)


@pytest.mark.parametrize("name", POOLS)
def test_a_query_whose_items_are_all_excluded_has_nothing(name):
    request, items, store = problem()
    draw = draw_from(resampled(store, name), with_excluded(request, [0, 3]), torch.Generator())
    assert (draw.log_weight[[0, 3]] == -torch.inf).all()
    assert draw.log_weight[[1, 2, 4]].isfinite().any(dim=1).all()
    check_sampler(resampled(store, name), with_excluded(request, [0]), items, rounds=50)


@pytest.mark.parametrize("name", POOLS)
def test_where_nobody_may_draw_anything_the_draw_is_empty(name):
    request, _, store = problem()
    draw = draw_from(
        resampled(store, name),
        with_excluded(request, [0, 1, 2, 3, 4]),
        torch.Generator().manual_seed(0),
    )
    assert draw.log_weight.shape == (ROWS, 0)
    assert draw.ids.shape == (0,)


def test_items_without_cached_rows_are_still_drawn():
    """What proposes reaches items that the store of scores does not hold: these score 0."""
    request, items, store = problem()
    sampler = nc.Resampled(nc.Uniform(store, 9), 3, store=subset(store))
    check_sampler(sampler, request, items, rounds=50)
    half = nc.DenseCache(NUM_ITEMS, items.shape[1], dtype=torch.float64)
    half.write(torch.arange(150), store.table.embeddings[:150])
    check_sampler(nc.Resampled(nc.Uniform(store, 9), 3, store=half), request, items, rounds=50)


def test_items_that_are_not_held_are_chosen_as_if_they_scored_zero():
    request, _, full = problem()
    request, store = tile(request, 200), subset(full)
    held = store.slots(EVERY) >= 0
    draw = draw_from(nc.Resampled(Everything(store), 8), request, torch.Generator().manual_seed(0))
    scores = request.score(request.queries, full.table.embeddings).where(held, 0.0)
    law = torch.log_softmax(scores.masked_fill(request.exclude.mask(EVERY), -torch.inf), dim=1)
    chi_square(counts_of(draw, request, law, 8), 8 * law.exp())


def test_only_what_is_drawn_last_is_encoded():
    request, _, store = problem()
    draw = draw_from(
        nc.Resampled(nc.DynamicIndex(store, 30, index=clusters()), 2),
        request,
        torch.Generator().manual_seed(0),
    )
    assert 1 < len(draw.ids) <= 2 * ROWS


def test_settings_that_cannot_draw_are_refused():
    _, _, store = problem()
    with pytest.raises(nc.InputError, match="num_negatives"):
        nc.Resampled(nc.DynamicIndex(store, 9), 0)
    with pytest.raises(nc.InputError, match="store"):
        nc.Resampled(nc.Popularity(torch.ones(NUM_ITEMS), 9))
    with pytest.raises(nc.InputError, match="has_density"):
        nc.Resampled(nc.samplers.DynamicIndexChain(store, 9))


@pytest.mark.parametrize("low", [True, False], ids=["low_rank", "dense"])
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(low):
    def start():
        store = LowRankCache(300, 8, landmarks=5, every=4, sample=40) if low else None
        return Setting(lambda dense: resampled(store or dense, count=2))

    one = start()
    for _ in range(7):
        one.step()
    other = start()
    other.load(one.state())
    ours, theirs = ([run.step() for _ in range(15)] for run in (one, other))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
