"""Chains, rejection and mining over the dynamic index, against exact laws."""

import math
import pickle

import pytest
import torch
from dynamic import EVERY, clusters, low_rank
from pace import slow
from roster import NUM_ITEMS, ROWS, problem
from setting import Setting

import negcache as nc
from negcache.contrib.miner import DynamicIndexMiner
from negcache.draws import draw as draw_from
from negcache.ops import bounds, metropolis, rejection
from negcache.samplers.chain import DynamicIndexChain
from negcache.samplers.dynamic_index import DynamicIndex
from negcache.samplers.rejection import DynamicIndexRejection
from negcache.stores.reencoders import Corrector
from negcache.testing import reference
from negcache.testing.conformance import check_sampler, chi_square_p, tile


def laws(sampler, request, store):
    """By other means than the sampler's own: Q and s~ - V of every item, who is excluded."""
    table = sampler.clusters.index.table
    values = request.score(request.queries, table.centres)[:, table.labels].double()
    scores = request.score(request.queries, store.table.embeddings).double()
    excluded = request.exclude.mask(EVERY)
    proposal = torch.softmax(values.masked_fill(excluded, -torch.inf), dim=1)
    return proposal, scores - values, excluded


def chain_law(proposal, ratios, excluded, length):
    """The law of the end of a chain of this length, by its transition matrix."""
    ratios = ratios.masked_fill(excluded, -torch.inf)
    accept = (ratios[None] - ratios[:, None]).clamp(max=0).exp()
    accept[:, excluded] = 0.0
    matrix = proposal * accept
    matrix = matrix - torch.diag(matrix.diag())
    matrix = matrix + torch.diag(1 - matrix.sum(dim=1))
    return proposal @ torch.linalg.matrix_power(matrix, length - 1)


def frequencies(sampler, request, rounds, seed):
    draw = draw_from(sampler, tile(request, rounds), torch.Generator().manual_seed(seed))
    drawn = draw.ids[draw.columns].view(rounds, ROWS, -1)
    return [torch.bincount(drawn[:, row].flatten(), minlength=NUM_ITEMS) for row in range(ROWS)]


@pytest.mark.parametrize(("chain", "rounds"), [(1, 400), (2, 400), (200, 60)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_chain_ends_follow_the_exact_law(chain, rounds, seed):
    """Test 16: one state against Q, two against the two-step law, 200 against P."""
    request, _, store = problem(temperature=0.4)
    sampler = DynamicIndexChain(store, 30, chain=chain, index=clusters(25))
    counts = frequencies(sampler, request, rounds, seed)
    proposal, ratios, excluded = laws(sampler, request, store)
    for row in range(ROWS):
        law = chain_law(proposal[row], ratios[row], excluded[row], chain)
        if chain == 200:
            torch.testing.assert_close(
                law, reference.softmax_law(request, store.table.embeddings)[row], atol=1e-4, rtol=0
            )
        assert (counts[row][law < 1e-300] == 0).all()
        assert chi_square_p(counts[row], law * rounds * 30) > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rejection_draws_follow_the_softmax(seed):
    request, _, store = problem(temperature=0.5)
    sampler = DynamicIndexRejection(store, 30, index=clusters(60))
    counts = frequencies(sampler, request, 400, seed)
    law = reference.softmax_law(request, store.table.embeddings)
    for row in range(ROWS):
        assert (counts[row][law[row] == 0] == 0).all()
        assert chi_square_p(counts[row], law[row] * 400 * 30) > 1e-4


def test_rejection_takes_rounding_at_large_logits_for_what_it_is():
    """Rows as a tower gives them, logits of 20,000: rounding alone is above a thousandth."""
    noise = torch.Generator().manual_seed(0)
    items = 150 * torch.nn.functional.normalize(torch.randn(NUM_ITEMS, 64, generator=noise), dim=1)
    store = nc.DenseCache(NUM_ITEMS, 64)
    store.write(EVERY, items)
    score, rows = nc.DotScore(1.0, normalize=False).requires_grad_(False), torch.arange(ROWS)
    exclude = nc.exclusion.Exclusion.from_pairs(rows, rows + ROWS, ROWS)
    request = nc.messages.Request(items[:ROWS], score, rows + ROWS, exclude)
    sampler = DynamicIndexRejection(store, 4, index=clusters(NUM_ITEMS))
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    best = reference.softmax_law(request, items).argmax(dim=1)
    assert (draw.ids[draw.columns] == best[:, None]).all(), "one item has all the mass"
    wide = DynamicIndexRejection(store, 4, rounds=2, index=clusters())
    draw_from(wide, request, torch.Generator().manual_seed(0))
    wide.clusters.index.table.radius.mul_(0.01)
    with pytest.raises(nc.InputError, match="radius"):
        draw_from(wide, request, torch.Generator().manual_seed(0))


def test_what_rounding_may_do_grows_with_logits_and_with_the_spacing_of_products():
    envelope = torch.tensor([[-1e4, 2.0], [-torch.inf, 5.0]]).double()
    assert rejection.tolerance(envelope, 2.0**-23) == pytest.approx(1e-3 + 0.16 * 2.0**-23 * 1e6)
    assert rejection.tolerance(envelope[:0], 2.0**-23) == rejection.TOLERANCE
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert rejection.spacing(torch.float32, gpu) == torch.finfo(torch.float32).eps
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        assert rejection.spacing(torch.float32, gpu) == 2.0**-10
        assert rejection.spacing(torch.float32, cpu) == torch.finfo(torch.float32).eps
        assert rejection.spacing(torch.float64, gpu) == torch.finfo(torch.float64).eps
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def reversed_walk(log_ratios, uniforms):
    return metropolis.walk(-log_ratios.clamp_min(-50), uniforms)


def never_moves(log_ratios, uniforms):
    return metropolis.walk(log_ratios, torch.ones_like(uniforms))


@pytest.mark.parametrize("broken", [reversed_walk, never_moves])
def test_broken_chains_are_caught(broken, monkeypatch):
    """Acceptance the wrong way round, and a chain that stays where it began, as in public code."""
    monkeypatch.setattr("negcache.samplers.chain.walk", broken)
    with pytest.raises(AssertionError):
        test_chain_ends_follow_the_exact_law(2, 400, 0)


def keep_everything(log_ratios, uniforms, tolerated):
    return rejection.first_kept(torch.zeros_like(log_ratios), uniforms)


def test_a_rejection_sampler_that_keeps_everything_is_caught(monkeypatch):
    monkeypatch.setattr("negcache.samplers.rejection.first_kept", keep_everything)
    with pytest.raises(AssertionError):
        test_rejection_draws_follow_the_softmax(0)


@pytest.mark.parametrize("expand", [0, 3])
def test_bounds_hold_and_say_when_they_say_nothing(expand):
    request, _, store = problem(temperature=0.5)
    sampler = DynamicIndexChain(store, 6, chain=40, index=clusters(60), expand=expand)
    found = sampler.bounds(request)
    assert found.log_gamma is not None
    assert (found.log_gamma <= found.log_gamma_bound).all()
    assert (found.acceptance >= torch.exp(-found.log_gamma)).all()
    assert (found.acceptance <= 1).all()
    expected = torch.exp(-39 * torch.exp(-found.log_gamma))
    torch.testing.assert_close(found.tv_bound, expected)
    assert torch.equal(found.vacuous, expected >= 0.5)
    coarse = sampler.bounds(request, enumerate_up_to=10)
    assert coarse.log_gamma is None
    torch.testing.assert_close(coarse.log_gamma_bound, found.log_gamma_bound)
    assert (coarse.tv_bound >= found.tv_bound).all()
    assert (coarse.acceptance <= found.acceptance).all()
    if not expand:
        proposal, ratios, excluded = laws(sampler, request, store)
        softmax = reference.softmax_law(request, store.table.embeddings)
        gamma = (softmax / proposal).masked_fill(excluded, 0).amax(1)
        torch.testing.assert_close(found.log_gamma, gamma.log())
        for row in range(ROWS):
            for length in (2, 8, 40):
                law = chain_law(proposal[row], ratios[row], excluded[row], length)
                far = (law - softmax[row]).abs().sum() / 2
                assert far <= torch.exp(-(length - 1) / gamma[row])
        radius = sampler.clusters.index.table.radius.max()
        published = 2 * request.score.scale * radius * request.queries.norm(dim=1)
        assert (found.log_gamma <= published).all()
    metrics = draw_from(sampler, request, torch.Generator()).metrics
    assert 0 < metrics["acceptance"] < 1
    torch.testing.assert_close(metrics["log_gamma_bound"], float(found.log_gamma_bound.mean()))
    torch.testing.assert_close(metrics["tv_bound"], float(coarse.tv_bound.mean()))
    assert metrics["vacuous"] == float(coarse.vacuous.double().mean())


def test_a_draw_works_no_bounds_out_unless_its_metrics_are_looked_at(monkeypatch):
    asked = []

    def counted(law, *rest):
        asked.append(law)
        return bounds.log_gamma_bound(law, *rest)

    monkeypatch.setattr("negcache.indexes.scored_clusters.log_gamma_bound", counted)
    request, _, store = problem()
    draw = draw_from(DynamicIndexChain(store, 4, index=clusters(25)), request, torch.Generator())
    assert not asked
    metrics = dict(draw.metrics)
    assert len(asked) == 1
    assert set(metrics) == {"log_gamma_bound", "tv_bound", "vacuous", "acceptance"}
    assert pickle.loads(pickle.dumps(draw.metrics)) == metrics
    assert len(asked) == 1


def test_the_chain_accepts_as_often_as_its_bounds_say():
    request, _, store = problem(temperature=0.4)
    sampler = DynamicIndexChain(store, 20, chain=200, index=clusters(25))
    metrics = draw_from(sampler, tile(request, 20), torch.Generator().manual_seed(0)).metrics
    assert abs(metrics["acceptance"] - float(sampler.bounds(request).acceptance.mean())) < 0.01


@pytest.mark.parametrize(
    "build",
    [
        lambda store: DynamicIndexChain(store, 6, chain=3, index=clusters()),
        lambda store: DynamicIndexRejection(store, 6, tries=32, index=clusters(40)),
    ],
)
def test_partitions_are_unbiased_for_the_cached_scores_whatever_is_excluded(build):
    """The likeliest items are excluded: a third of the proposals and more are refused."""
    request, _, store = problem(drift=0.3)
    likely = request.score(request.queries, store.table.embeddings).topk(12, dim=1).indices
    exclude = request.exclude.and_also(torch.arange(ROWS).repeat_interleave(12), likely.flatten())
    request = nc.messages.Request(request.queries, request.score, request.positives, exclude)
    truth = reference.log_partition(request, store.table.embeddings)
    draw = draw_from(build(store), tile(request, 2000), torch.Generator().manual_seed(0))
    ratio = (draw.log_z.view(2000, ROWS) - truth).exp()
    error = ratio.std(dim=0) / 2000**0.5
    assert (ratio.mean(dim=0) - 1).abs().max() < 0.1
    assert ((ratio.mean(dim=0) - 1).abs() < 4.5 * error).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("build", [slow(DynamicIndexChain), DynamicIndexRejection])
def test_partitions_are_unbiased_over_the_subsets_that_a_cache_may_hold(build):
    """Each row held stands for two items: half of the partition is missing without the coverage."""
    request, items, _ = problem(num_items=60, temperature=0.7)
    truth, ratios = reference.log_partition(request, items), []
    for seed in range(200):
        store = nc.SubsetCache(60, 8, 30, dtype=torch.float64, seed=seed)
        store.write(torch.arange(60), items)
        draw = draw_from(
            build(store, 8, index=clusters(5)), request, torch.Generator().manual_seed(seed)
        )
        ratios.append((draw.log_z - truth).exp())
    ratio = torch.stack(ratios)
    error = ratio.std(dim=0) / len(ratios) ** 0.5
    assert (error < 0.03).all(), "the test could not tell"
    assert ((ratio.mean(dim=0) - 1).abs() < 4.5 * error).all()


def test_rejections_that_find_nothing_fall_back_on_importance_and_say_so():
    """Draws that nothing was kept for weigh by their importance: means under P stay right."""
    request, _, store = problem(temperature=0.2)
    sampler = DynamicIndexRejection(store, 200, tries=1, rounds=1, index=clusters(60))
    draw = draw_from(sampler, tile(request, 40), torch.Generator().manual_seed(0))
    assert 0.3 < draw.metrics["not_found"] < 1
    share = draw.log_share.exp()
    torch.testing.assert_close(share.sum(dim=1), torch.ones(len(share)).double())
    held = torch.zeros(len(share), NUM_ITEMS, dtype=torch.float64)
    held.scatter_add_(1, draw.ids[draw.columns], share)
    held = held.view(40, ROWS, NUM_ITEMS).mean(dim=0)
    law = reference.softmax_law(request, store.table.embeddings)
    assert ((held - law).abs().sum(dim=1) / 2 < 0.08).all()
    naive = torch.zeros(len(share), NUM_ITEMS, dtype=torch.float64)
    naive.scatter_add_(1, draw.ids[draw.columns], torch.full_like(share, 1 / 200))
    naive = naive.view(40, ROWS, NUM_ITEMS).mean(dim=0)
    assert ((naive - law).abs().sum(dim=1) / 2 > 0.15).any()


def test_the_miner_takes_distinct_high_scores_of_the_best_clusters():
    request, _, store = problem()
    sampler = DynamicIndexMiner(store, 10, chain=4, top_clusters=3, index=clusters())
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    table = sampler.clusters.index.table
    best = request.score(request.queries, table.centres).topk(3, dim=1).indices
    scores = request.score(request.queries, store.table.embeddings)
    for row in range(ROWS):
        kept = draw.ids[draw.columns[row]][draw.log_weight[row] == 0]
        assert len(kept.unique()) == len(kept)
        assert torch.isin(table.labels[kept], best[row]).all()
        assert scores[row, kept].mean() > scores[row].mean() + 1
    assert set(draw.log_weight.unique().tolist()) <= {0.0, -math.inf}


def test_coordinates_that_are_not_scored_as_they_are_have_no_radius():
    request, items, _ = problem()
    store = low_rank(items, reencoder=Corrector())
    check_sampler(DynamicIndex(store, 6, index=clusters()), request, items, rounds=50)
    chain = DynamicIndexChain(store, 6, index=clusters())
    found = chain.bounds(request, enumerate_up_to=10)
    assert (found.log_gamma_bound == torch.inf).all()
    assert found.vacuous.all()
    assert "log_gamma_bound" not in draw_from(chain, request, torch.Generator()).metrics
    assert chain.bounds(request).log_gamma.isfinite().all()
    with pytest.raises(nc.InputError, match="scored as they are"):
        draw_from(DynamicIndexRejection(store, 6, index=clusters()), request, torch.Generator())


def test_the_metrics_of_a_draw_reach_the_report():
    setting = Setting(
        lambda store: DynamicIndexChain(store, 4, index=clusters()), estimator=nc.cached_partition
    )
    setting.step()
    assert set(setting.loss.report().sampler) == {
        "acceptance", "log_gamma_bound", "tv_bound", "vacuous",
    }  # fmt: skip
