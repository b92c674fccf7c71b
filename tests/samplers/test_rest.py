"""The rest form: exact on a fresh store for every subset, item side exact in expectation."""

import itertools

import pytest
import torch
from roster import problem

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.ops.rest import inclusion_chances, item_grad_scale, linear_term, systematic
from negcache.samplers.rest import draw_with_rest
from negcache.testing import reference


def loss_of(draw, request, queries, items):
    """One draw's loss per query, as SoftmaxLoss computes it."""
    drawn = item_grad_scale(items[draw.ids], draw.rest.inclusion)
    terms = request.score(queries, drawn) + draw.log_weight
    rest = linear_term(draw.rest.log_mass, draw.rest.mean, queries, request.score.scale)
    terms = torch.cat([terms, rest], 1)
    positive = request.score.paired(queries, items[request.positives][:, None])[:, 0]
    return nc.estimators.softmax_loss(positive, terms)


def uniform_of(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 3, 20, 300])
def test_fresh_cache_value_and_query_gradient_are_exact_for_every_draw(count):
    request, items, store = problem()
    queries = request.queries.clone().requires_grad_()
    truth = reference.full_softmax_losses(
        request.score(queries, items), request.positives, request.exclude
    )
    wanted = torch.autograd.grad(truth.sum(), queries)[0]
    for start in (0.0, 0.3, 0.99):
        draw = draw_with_rest(request, store, count, uniform_of(start))
        losses = loss_of(draw, request, queries, items)
        torch.testing.assert_close(losses, truth, atol=1e-10, rtol=0)
        found = torch.autograd.grad(losses.sum(), queries)[0]
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("count", [200, 230])
def test_a_small_rest_counts_in_float32(count):
    """A fraction of a percent of the sum is left out of what is encoded: far above rounding."""
    request, items, store = problem(dtype=torch.float32, temperature=0.1)
    truth = reference.full_softmax_losses(
        request.score(request.queries, items).double(), request.positives, request.exclude
    )
    draw = draw_with_rest(request, store, count, uniform_of(0.5))
    log_z = reference.log_partition(request, items)
    share = (draw.rest.log_mass - log_z).exp()
    assert (share > 1e-4).all()
    assert (share < 1e-2).any()
    losses = loss_of(draw, request, request.queries, items)
    torch.testing.assert_close(losses.double(), truth, atol=2e-5, rtol=0)


def test_item_gradient_is_exact_in_expectation_over_all_starts():
    """8 items: the sample is piecewise constant in the start; midpoints of the pieces are exact."""
    request, items, store = problem(num_items=8)
    items = items.clone().requires_grad_()
    truth = reference.full_softmax_losses(
        request.score(request.queries, items), request.positives, request.exclude
    ).sum()
    wanted = torch.autograd.grad(truth, items, retain_graph=True)[0]
    targets = request.targets.unique()
    everything = draw_with_rest(request, store, 2, uniform_of(0.0))
    demand = reference.softmax_law(request, items.detach()).sum(0)
    demand[targets] = 0
    ends = inclusion_chances(demand, 2).cumsum(0)
    ends = torch.cat([torch.zeros(1), (-ends).remainder(1.0), torch.ones(1)]).double().sort().values
    expected, subsets = torch.zeros_like(wanted), set()
    for low, high in itertools.pairwise(ends.tolist()):
        if high - low > 1e-12:
            draw = draw_with_rest(request, store, 2, uniform_of((low + high) / 2))
            subsets.add(tuple(draw.ids.tolist()))
            loss = loss_of(draw, request, request.queries, items).sum()
            expected += (high - low) * torch.autograd.grad(loss, items)[0]
    assert len(subsets) > 1
    assert everything.rest is not None
    torch.testing.assert_close(expected, wanted, atol=1e-10, rtol=0)


def test_a_learned_scale_gets_the_full_derivative():
    request, items, store = problem()
    score = nc.DotScore(0.3, learn_temperature=True).double()
    learned = nc.messages.Request(request.queries, score, request.positives, request.exclude)
    truth = reference.full_softmax_losses(
        score(request.queries, items), request.positives, request.exclude
    )
    draw = draw_with_rest(learned, store, 10, uniform_of(0.5))
    ours = loss_of(draw, learned, request.queries, items)
    found, wanted = (
        torch.autograd.grad(x.sum(), score.log_scale, retain_graph=True)[0] for x in (ours, truth)
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_graph_of_the_rest_holds_no_row_of_the_cache():
    """What backward keeps of the rest is [B, D], not [B, N]."""
    request, _items, store = problem()
    queries = request.queries.clone().requires_grad_()
    draw = draw_with_rest(request, store, 3, uniform_of(0.5))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        linear_term(draw.rest.log_mass, draw.rest.mean, queries, request.score.scale)
    assert max(kept) <= queries.numel()


@pytest.mark.parametrize("count", [1, 5, 37, 200, 1000])
def test_chances_sum_to_the_count(count):
    demand = torch.rand(200, generator=torch.Generator().manual_seed(0)).double() ** 6
    demand[:20] = 0
    chances = inclusion_chances(demand, count)
    assert chances.sum() == pytest.approx(min(count, 180))
    assert ((chances >= 0) & (chances <= 1)).all()
    assert (chances[:20] == 0).all()
    inner = (chances > 0) & (chances < 1)
    if inner.any():
        factor = chances[inner] / demand[inner]
        torch.testing.assert_close(factor, factor[:1].expand_as(factor))
        assert (demand[chances == 1] >= demand[inner].max()).all()


@pytest.mark.parametrize(
    ("demand", "count"),
    [([100.0, 28.0] + [1e-20] * 1000 + [0.0], 5), ([1 / 3, 0.1, 0.7, 0.05] + [1e-18] * 500, 6)],
)
def test_chances_sum_to_the_count_also_where_demand_is_peaked(demand, count):
    chances = inclusion_chances(torch.tensor(demand, dtype=torch.float64), count)
    assert chances.sum() == pytest.approx(count)


@pytest.mark.parametrize("inclusion", [1.0, 1e-3, 1e-7, 1e-9])
def test_scaling_a_gradient_leaves_a_float32_value_alone(inclusion):
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    scaled = item_grad_scale(rows, torch.full((3,), inclusion))
    assert torch.equal(scaled, rows)
    found = torch.autograd.grad(scaled.sum(), rows)[0]
    torch.testing.assert_close(found, torch.full_like(rows, 1 / inclusion))


def test_systematic_draws_each_row_with_its_chance():
    chances = inclusion_chances(torch.arange(1, 31).double(), 7)
    starts = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1] + 2.5e-5
    counts = torch.zeros(30)
    for start in starts:
        rows = systematic(chances, start)
        assert len(rows) in (6, 7, 8)
        counts[rows] += 1
    torch.testing.assert_close(counts.double() / 20_000, chances, atol=1e-4, rtol=0)


def test_a_partial_cache_and_an_absolute_score_are_refused():
    request, _, store = problem()
    with pytest.raises(nc.InputError, match="row for every item"):
        nc.CachedRest(nc.SubsetCache(300, 8, 20), 10)
    with pytest.raises(nc.InputError, match="row for every item"):  # all of them, in another order
        nc.CachedRest(nc.SubsetCache(300, 8, 300), 10)
    score = nc.DotScore(0.3, absolute=True).double()
    with pytest.raises(nc.InputError, match="linear"):
        draw_from(
            nc.CachedRest(store, 10),
            nc.messages.Request(request.queries, score, request.positives, request.exclude),
            torch.Generator(),
        )


def test_a_rest_of_coordinates_takes_queries_of_any_precision():
    request, items, _ = problem()
    store = nc.LowRankCache(300, 8, landmarks=8, every=1, sample=60)
    while len(missing := store.missing()):
        store.write(missing, items[missing].float())
    draw = draw_from(nc.CachedRest(store, 10), request, torch.Generator().manual_seed(0))
    assert draw.rest.mean.dtype == request.queries.dtype == torch.float64
    assert draw.rest.log_mass.isfinite().all()
