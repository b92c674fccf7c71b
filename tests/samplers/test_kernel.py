"""Kernel samplers: the closed form where the sums are exact, the reported law everywhere."""

import math
from dataclasses import replace

import pytest
import torch
from pace import slow
from partition import log_prob
from roster import problem

import negcache as nc
from negcache import validation
from negcache.draws import draw as draw_from
from negcache.indexes import sums as sums_module
from negcache.ops.descent import Descent
from negcache.ops.kernel_draw import draw_down
from negcache.ops.kernel_law import log_prob_down
from negcache.ops.kernels import Quadratic, Quartic, fourier, positive
from negcache.samplers import kernel as kernel_module
from negcache.stores.reading import scored_rows
from negcache.testing.conformance import chi_square_p, tile


@pytest.fixture(params=[2048, 8], ids=["flat", "tree"])
def top(request, monkeypatch):
    """A structure of one level, and one of two."""
    monkeypatch.setattr(sums_module, "TOP", request.param)
    return request.param


def law_of_kernel(request, store, kernel):
    """K / sum K over what each query may draw, float64."""
    dots = request.queries @ store.table.embeddings.T
    mass = kernel.log_kernel(dots, request.score.scale).exp()
    mass = mass.masked_fill(request.exclude.mask(torch.arange(len(store))), 0.0)
    return mass / mass.sum(dim=1, keepdim=True)


def golden():
    """K-1: four items, item 0 the positive or nothing excluded."""
    items = torch.tensor([[1, 0], [0, 1], [-1, 1], [0.5, -0.5]], dtype=torch.float64)
    store = nc.DenseCache(4, 2, dtype=torch.float64)
    store.write(torch.arange(4), items)
    score = nc.DotScore(1.0, normalize=False).double()
    return store, score, torch.tensor([[1.0, 0.5]], dtype=torch.float64)


def test_golden_vector_k1():
    store, score, query = golden()
    nothing = torch.empty(0, dtype=torch.long)
    none = nc.exclusion.Exclusion.from_pairs(nothing, nothing, 1)
    free = nc.messages.Request(query, score, torch.tensor([0]), none)
    sampler = nc.quadratic(store, 2)
    q = log_prob(sampler, free, torch.arange(4)).exp()[0]
    wanted = torch.tensor([0.630265211, 0.162246490, 0.162246490, 0.045241810], dtype=torch.float64)
    torch.testing.assert_close(q, wanted, atol=1e-8, rtol=0)
    one = torch.zeros(1, dtype=torch.long)
    asked = nc.messages.Request(query, score, one, nc.exclusion.Exclusion.from_pairs(one, one, 1))
    q = log_prob(sampler, asked, torch.arange(4)).exp()[0]
    wanted = torch.tensor([0, 0.438818565, 0.438818565, 0.122362869], dtype=torch.float64)
    torch.testing.assert_close(q, wanted, atol=1e-8, rtol=0)
    items = store.table.embeddings[torch.tensor([1, 3])]
    terms = score(query, items) - (2 * q[[1, 3]]).log()
    loss = nc.estimators.softmax_loss(
        score.paired(query, store.table.embeddings[None, :1])[:, 0], terms
    )
    assert abs(float(loss) - 1.286828244) < 1e-8


@pytest.mark.parametrize("num_items", [300, 3000])
def test_branches_multiply_to_the_closed_form(top, num_items):
    """Test 7: K / sum K, the positives taken away, whatever the depth."""
    request, _, store = problem(0.2, num_items)
    log_q = log_prob(nc.quadratic(store, 6, alpha=3.0), request, torch.arange(num_items))
    wanted = law_of_kernel(request, store, Quadratic(3.0))
    torch.testing.assert_close(log_q.exp(), wanted, atol=1e-12, rtol=1e-8)


def test_the_exact_kernel_sampler_is_the_closed_form():
    request, _, store = problem(0.2)
    log_q = log_prob(nc.samplers.ExactKernel(store, 6, Quartic()), request, torch.arange(300))
    wanted = law_of_kernel(request, store, Quartic())
    torch.testing.assert_close(log_q.exp(), wanted, atol=1e-12, rtol=1e-8)


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_frequencies_after_a_thousand_moves(top, seed):
    """Test 14: draws follow K / sum K, with positives excluded, once rows have moved."""
    request, _, store = problem(0.0, 1100)
    sampler = nc.quadratic(store, 40, alpha=3.0)
    draw_from(sampler, request, torch.Generator().manual_seed(seed))
    noise = torch.Generator().manual_seed(seed)
    for _ in range(100):
        ids = torch.randperm(1100, generator=noise)[:10]
        store.write(ids, torch.randn(10, 8, generator=noise, dtype=torch.float64))
    drawn, law = [], law_of_kernel(request, store, Quadratic(3.0))
    for _ in range(10):
        draw = draw_from(sampler, tile(request, 50), noise)
        drawn.append(draw.ids[draw.columns].view(50, 5, -1).transpose(0, 1).flatten(1))
    for row, items in enumerate(torch.cat(drawn, dim=1)):
        counts = torch.bincount(items, minlength=1100)
        assert (counts[law[row] == 0] == 0).all()
        assert chi_square_p(counts, law[row] * len(items)) > 1e-4


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("kind", [fourier, positive])
def test_random_features_draw_what_they_report(top, kind, floor, seed):
    """Test 15: few frequencies, so that many node masses are negative and clipped."""
    request, _, store = problem(0.0, 1100)
    kernel = kind(8, 8, 2.0, seed=seed)
    sampler = nc.samplers.KernelSoftmax(store, 40, kernel, floor=floor)
    law = log_prob(sampler, request, torch.arange(1100)).exp()
    torch.testing.assert_close(law.sum(1), torch.ones(5).double(), atol=1e-9, rtol=0)
    noise, counts = torch.Generator().manual_seed(seed), torch.zeros(5, 1100, dtype=torch.long)
    for _ in range(10):
        draw = draw_from(sampler, tile(request, 50), noise)
        items = draw.ids[draw.columns].view(50, 5, -1)
        for row in range(5):
            counts[row] += torch.bincount(items[:, row].flatten(), minlength=1100)
    for row in range(5):
        assert chi_square_p(counts[row], law[row] * counts[row].sum()) > 1e-4


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_rounded_masses_draw_what_they_report(top, seed, monkeypatch):
    """The uppermost product in bfloat16: each weight is that of the draw made, and log_prob's."""
    monkeypatch.setattr(sums_module, "_fast", lambda table: True)
    request, items, _ = problem(0.0, 1100)
    store = nc.DenseCache(1100, 8)
    store.write(torch.arange(1100), items.float())
    asked = nc.messages.Request(
        request.queries.float(), nc.DotScore(1.0), request.positives, request.exclude
    )
    sampler = nc.quadratic(store, 40, alpha=3.0)
    law = log_prob(sampler, asked, torch.arange(1100)).double().exp()
    assert sampler.sums.rounded is not None
    torch.testing.assert_close(law.sum(1), torch.ones(5).double(), atol=1e-4, rtol=0)
    noise, counts = torch.Generator().manual_seed(seed), torch.zeros(5, 1100, dtype=torch.long)
    for _ in range(10):
        draw = draw_from(sampler, tile(asked, 50), noise)
        drawn = draw.ids[draw.columns].view(50, 5, -1)
        reported = (-draw.log_weight.double() - math.log(40)).exp().view(50, 5, -1)
        for row in range(5):
            torch.testing.assert_close(reported[:, row], law[row][drawn[:, row]], atol=0, rtol=0.01)
            counts[row] += torch.bincount(drawn[:, row].flatten(), minlength=1100)
    for row in range(5):
        assert chi_square_p(counts[row], law[row] / law[row].sum() * counts[row].sum()) > 1e-4


def test_clipped_masses_leave_the_closed_form_and_the_report_with_them():
    """Negative masses occur here, and the law differs from exp(nu <h, e>): the product rule."""
    request, _, store = problem(0.0, 1100)
    sampler = nc.samplers.KernelSoftmax(store, 6, fourier(8, 2, 3.0))
    draw_from(sampler, request, torch.Generator().manual_seed(0))
    features = sampler.kernel.query_features(request.queries, request.score.scale)
    assert ((features @ sampler.sums.levels[0].T) < 0).any()
    law = log_prob(sampler, request, torch.arange(1100)).exp()
    distance = 0.5 * (law - law_of_kernel(request, store, sampler.kernel)).abs().sum(1)
    assert (distance > 0.05).all()


def test_the_floor_bounds_every_weight():
    request, _, store = problem(0.0, 1100)
    sampler = nc.rf_softmax(store, 6, num_frequencies=4, nu=3.0, floor=0.1)
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    assert (draw.log_weight <= math.log(1100 / (0.1 * 6))).all()


def test_old_sums_keep_the_weights_honest():
    """Blocks weighed by old sums, rows by the kernel of today: the reported law is still drawn."""
    request, items, store = problem(0.0, 1100)
    sampler = nc.quadratic(store, 6, alpha=3.0, update_every=1000)
    draw_from(sampler, request, torch.Generator().manual_seed(0))
    store.write(torch.arange(200), items[torch.arange(200, 400)])
    law = log_prob(sampler, request, torch.arange(1100)).exp()
    torch.testing.assert_close(law.sum(1), torch.ones(5).double(), atol=1e-9, rtol=0)
    closed = law_of_kernel(request, store, Quadratic(3.0))
    assert (0.5 * (law - closed).abs().sum(1) > 0.01).any(), "the sums are old"
    logits = request.score(request.queries, store.table.embeddings)
    total = (law * (logits.exp() / law).nan_to_num(posinf=0.0, nan=0.0)).sum(1)
    allowed = ~request.exclude.mask(torch.arange(1100))
    torch.testing.assert_close(total, (logits.exp() * allowed).sum(1), atol=0, rtol=1e-9)


def test_a_query_that_may_draw_nothing_in_a_block_draws_elsewhere():
    request, _, store = problem(0.0, 300)
    rows = torch.arange(5).repeat_interleave(128)
    excluded = torch.arange(128).repeat(5)
    asked = nc.messages.Request(
        request.queries, request.score, request.positives, request.exclude.and_also(rows, excluded)
    )
    draw = draw_from(nc.quadratic(store, 50), asked, torch.Generator().manual_seed(0))
    assert (draw.ids >= 128).all()
    everything = torch.arange(300).repeat(5), torch.arange(5).repeat_interleave(300)
    none = nc.messages.Request(
        request.queries,
        request.score,
        request.positives,
        nc.exclusion.Exclusion.from_pairs(everything[1], everything[0], 5),
    )
    draw = draw_from(nc.quadratic(store, 50), none, torch.Generator().manual_seed(0))
    assert (draw.log_weight == -torch.inf).all()


@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("num_items", [1152, 1300])
def test_a_query_without_negatives_draws_nothing(top, num_items, floor):
    """Nine blocks and more: in a tree the uppermost level is padded with nodes that have none."""
    request, _, store = problem(num_items=num_items)
    rows, ids = torch.zeros(num_items, dtype=torch.long), torch.arange(num_items)
    asked = replace(request, exclude=request.exclude.and_also(rows, ids))
    sampler = nc.samplers.KernelSoftmax(store, 6, Quadratic(), floor=floor)
    draw = draw_from(sampler, asked, torch.Generator().manual_seed(0))
    assert (draw.log_weight[0] == -torch.inf).all()
    assert (log_prob(sampler, asked, ids)[0] == -torch.inf).all()
    alone = draw_from(sampler, request, torch.Generator().manual_seed(0))
    assert torch.equal(draw.ids[draw.columns][1:], alone.ids[alone.columns][1:])
    assert draw.log_weight[1:].isfinite().all()


def test_rows_never_written_are_never_drawn():
    request, items, full = problem(0.0, 300)
    store = nc.DenseCache(300, 8, dtype=torch.float64)
    written = torch.arange(0, 300, 2)
    store.write(written, full.table.embeddings[written])
    sampler = nc.quadratic(store, 50)
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    assert (draw.ids % 2 == 0).all()
    store.write(torch.tensor([1]), items[1:2])
    log_q = log_prob(sampler, request, torch.arange(300))
    assert log_q[0, 1] > -torch.inf
    assert (log_q[:, 3] == -torch.inf).all()


@pytest.mark.parametrize("num_negatives", [0, -1])
def test_no_draws_are_refused(num_negatives):
    with pytest.raises(nc.InputError, match="num_negatives"):
        nc.quadratic(problem()[2], num_negatives)


def test_rows_that_are_not_normalised_are_refused():
    request, items, store = problem()
    store.write(torch.arange(300), 3 * items)
    with pytest.raises(nc.InputError, match="norm"):
        draw_from(nc.rf_softmax(store, 4, nu=2.0), request, torch.Generator())


def test_a_kernel_sharper_than_the_score_is_refused():
    request, _, store = problem(temperature=0.5)
    with pytest.raises(nc.InputError, match="nu"):
        draw_from(nc.rf_softmax(store, 4, nu=4.0), request, torch.Generator())


def test_rows_that_are_not_finite_are_refused():
    request, items, store = problem()
    store.write(torch.arange(300), items.masked_fill(torch.eye(300, 8).bool(), torch.nan))
    with pytest.raises(nc.InputError, match="finite"):
        draw_from(nc.quadratic(store, 4), request, torch.Generator())


def test_sums_larger_than_memory_are_refused_with_their_size(monkeypatch):
    request, _, store = problem()
    with pytest.raises(nc.InputError, match=r"frequencies within(.|\n)*GiB"):
        nc.rf_softmax(store, 4, num_frequencies=10**12, nu=1.0)
    sampler = nc.rf_softmax(store, 4, nu=1.0)
    monkeypatch.setattr(
        validation.os, "sysconf", lambda name: 2 if name == "SC_PHYS_PAGES" else 4096
    )
    with pytest.raises(nc.InputError, match=r"3 sums of 2048 features within(.|\n)*GiB"):
        draw_from(sampler, request, torch.Generator())


def test_wanted_rows_are_not_drawn():
    """Asking for chances and drawing go the same way down."""
    request, _, store = problem(0.0, 1100)
    sampler = nc.quadratic(store, 6)
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    noise = torch.rand(5, 6, 4, dtype=torch.float64)
    drawn = draw.ids[draw.columns]
    descent = Descent.begin(scored_rows(request, store), sampler.sums, sampler.kernel)
    slots, log_q = draw_down(descent, noise, drawn)
    assert torch.equal(slots, drawn)
    torch.testing.assert_close(draw.log_weight, -(log_q + math.log(6)), atol=1e-12, rtol=0)
    by_all_ways = log_prob_down(descent, torch.arange(1100)).gather(1, drawn)
    torch.testing.assert_close(by_all_ways, log_q, atol=1e-12, rtol=0)


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_validity_is_that_of_each_block(top, floor):
    """Rows are missing at different places of different blocks, an excluded one among them."""
    request, _, full = problem(0.0, 1100)
    store = nc.DenseCache(1100, 8, dtype=torch.float64)
    written = torch.randperm(1100, generator=torch.Generator().manual_seed(0))[:600]
    written = written[written != 7]  # known to be a positive of query 0
    store.write(written, full.table.embeddings[written])
    sampler = nc.rf_softmax(store, 40, num_frequencies=64, nu=2.0, floor=floor)
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    alive = draw.ids[draw.columns][draw.log_weight > -torch.inf]
    assert torch.isin(alive, written).all()
    law = log_prob(sampler, request, torch.arange(1100)).exp()
    missing = ~torch.isin(torch.arange(1100), written)
    assert (law[:, missing] == 0).all()
    allowed = ~missing & ~request.exclude.mask(torch.arange(1100))
    assert (law[allowed] > 0).all()
    share = allowed.sum(1) / (1100 - request.exclude.counts)  # of uniform draws that live
    wanted = 1 - floor + floor * share
    torch.testing.assert_close(law.sum(1), wanted.double(), atol=1e-6, rtol=0)


def test_log_uniform_is_zipfs_law():
    request, _, store = problem()
    law = log_prob(nc.samplers.log_uniform(store, 4), request, torch.arange(300)).exp()
    rank = torch.arange(300, dtype=torch.float64)
    wanted = ((rank + 2) / (rank + 1)).log() / torch.tensor(301.0).double().log()
    allowed = ~request.exclude.mask(torch.arange(300))
    torch.testing.assert_close(law[allowed], wanted.expand_as(law)[allowed])
    assert abs(float(wanted.sum()) - 1) < 1e-9


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_few_queries_at_a_time_draw_what_all_at_once_draw(floor, monkeypatch):
    request, _, store = problem()
    sampler = nc.samplers.KernelSoftmax(store, 7, Quadratic(), floor=floor)
    draws, laws = [], []
    for pairs in (1 << 15, 15):  # all five queries, or two of them
        monkeypatch.setattr(kernel_module, "PAIRS", pairs)
        draws.append(draw_from(sampler, request, torch.Generator().manual_seed(0)))
        laws.append(log_prob(sampler, request, torch.arange(len(store))))
    assert torch.equal(draws[0].ids, draws[1].ids)
    assert torch.equal(draws[0].columns, draws[1].columns)
    torch.testing.assert_close(draws[0].log_weight, draws[1].log_weight)
    torch.testing.assert_close(laws[0], laws[1])
