"""Known positives that would be nearly every proposal: the index samplers leave them out."""

import pytest
import torch
from dynamic import Counting, clusters
from partition import log_prob
from torch.nn import functional as F

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.estimators import softmax_loss
from negcache.indexes.sg_tree import TreeClusters
from negcache.testing import reference
from negcache.testing.conformance import chi_square_p, tile

ITEMS, QUERIES, CLOSE, D = 1000, 4, 10, 16
EVERY = torch.arange(ITEMS)


def scene(temperature=0.05):
    """Four queries; ten items close to each are its positives, and so is its target elsewhere."""
    noise = torch.Generator().manual_seed(0)
    queries = torch.eye(D, dtype=torch.float64)[:QUERIES]
    items = torch.randn(ITEMS, D, generator=noise, dtype=torch.float64)
    items[:, :QUERIES] *= 0.03
    rows = torch.arange(QUERIES).repeat_interleave(CLOSE)
    items[: len(rows)] = queries[rows] + 0.05 * items[: len(rows)]
    items = F.normalize(items, dim=1)
    targets = torch.arange(QUERIES) + len(rows)
    known = torch.cat([rows, torch.arange(QUERIES)]), torch.cat([EVERY[: len(rows)], targets])
    score = nc.DotScore(temperature).double().requires_grad_(False)
    store = nc.DenseCache(ITEMS, D, dtype=torch.float64)
    store.write(EVERY, items)
    exclude = nc.exclusion.Exclusion.from_pairs(*known, num_rows=QUERIES)
    return nc.messages.Request(queries, score, targets, exclude), items, store


def tree(store, num_negatives, **settings):
    return nc.contrib.DynamicIndexTree(store, num_negatives, TreeClusters(base=1.3), **settings)


CASES = {
    "plain": lambda c, m: nc.DynamicIndex(c, m, index=clusters(60)),
    "two_levels": lambda c, m: nc.DynamicIndex(c, m, index=clusters(60), expand=3),
    "chain": lambda c, m: nc.samplers.DynamicIndexChain(c, m, index=clusters(60)),
    "chain_two_levels": lambda c, m: nc.samplers.DynamicIndexChain(
        c, m, index=clusters(60), expand=3
    ),
    "rejection": lambda c, m: nc.samplers.DynamicIndexRejection(c, m, rounds=2, index=clusters(60)),
    "tree": lambda c, m: tree(c, m, rounds=2),
    "miner": lambda c, m: nc.contrib.DynamicIndexMiner(c, m, top_clusters=5, index=clusters(60)),
}


def losses(draw, request, items):
    """Of every query, and how the loss pulls at it."""
    queries = request.queries.clone().requires_grad_()
    logits = request.score(queries, items[draw.ids]).gather(1, draw.columns)
    estimator = nc.log_q_corrected if draw.log_z is None else nc.cached_partition
    positive = request.score.paired(queries, items[request.positives][:, None]).squeeze(1)
    loss = softmax_loss(positive, estimator(logits, draw))
    return loss.detach(), torch.autograd.grad(loss.sum(), queries)[0]


@pytest.mark.parametrize("num_negatives", [1, 4, 8])
@pytest.mark.parametrize("name", CASES)
def test_there_is_a_loss_and_a_gradient_in_every_step(name, num_negatives):
    """Proposals by all items of a cluster were positives in every step: loss 0 and no gradient."""
    request, items, store = scene()
    truth = reference.log_partition(request, items)
    own = request.score(request.queries, items).gather(1, request.positives[:, None]).squeeze(1)
    truth = torch.logaddexp(truth, own) - own
    assert ((truth - 6.9).abs() < 0.7).all()
    many = tile(request, 50)
    draw = draw_from(CASES[name](store, num_negatives), many, torch.Generator().manual_seed(0))
    loss, gradient = losses(draw, many, items)
    assert (draw.log_weight > -torch.inf).any(dim=1).all()
    assert (gradient.norm(dim=1) > 1e-2).all()
    if name != "miner":
        mean = loss.view(50, QUERIES).mean(dim=0)
        assert ((mean - truth).abs() < 1).all(), (mean, truth)


def brute(sampler, request, store):
    """Q, t = s~ - V and P of every item by other means; nothing for what is excluded."""
    table = sampler.clusters.index.table
    values = request.score(request.queries, table.centres)[:, table.labels]
    scores = request.score(request.queries, store.table.embeddings)
    excluded = request.exclude.mask(EVERY)
    everything = values.softmax(dim=1)
    assert ((everything * excluded).sum(dim=1) > 0.5).all(), "positives would be most proposals"
    ratios = (scores - values).masked_fill(excluded, -torch.inf)
    softmax = scores.masked_fill(excluded, -torch.inf).softmax(dim=1)
    return values.masked_fill(excluded, -torch.inf).softmax(dim=1), ratios, softmax


def frequencies(sampler, request, rounds, seed):
    draw = draw_from(sampler, tile(request, rounds), torch.Generator().manual_seed(seed))
    assert (draw.log_weight > -torch.inf).all()
    drawn = draw.ids[draw.columns].view(rounds, QUERIES, -1)
    counts = [torch.bincount(drawn[:, row].flatten(), minlength=ITEMS) for row in range(QUERIES)]
    return torch.stack(counts), draw


def two_steps(proposal, ratios):
    """The law of chains of two states: moves to what is no worse are always made."""
    moves = proposal * (ratios[None] - ratios[:, None]).clamp(max=0).exp().nan_to_num(0.0)
    return proposal @ moves + proposal * (1 - moves.sum(dim=1))


def two(store, num_negatives, **settings):
    return nc.samplers.DynamicIndexChain(store, num_negatives, chain=2, **settings)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_proposal_and_chains_follow_their_laws_exactly(seed):
    request, _, store = scene()
    plain, chain = (each(store, 30, index=clusters(60)) for each in (nc.DynamicIndex, two))
    for sampler in (plain, chain):
        counts, _ = frequencies(sampler, request, 100, seed)
        proposal, ratios, _ = brute(sampler, request, store)
        for row in range(QUERIES):
            law = proposal[row] if sampler is plain else two_steps(proposal[row], ratios[row])
            assert counts[row][law == 0].sum() == 0
            assert chi_square_p(counts[row], law * 100 * 30) > 1e-4
    log_q = log_prob(plain, request, EVERY)
    proposal = brute(plain, request, store)[0]
    torch.testing.assert_close(log_q, proposal.log(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rejection_draws_follow_the_softmax_of_what_is_allowed(seed):
    request, _, store = scene(0.1)
    sampler = nc.samplers.DynamicIndexRejection(store, 30, index=clusters(800))
    counts, draw = frequencies(sampler, request, 50, seed)
    softmax = brute(sampler, request, store)[2]
    assert draw.metrics["not_found"] < 0.01
    for row in range(QUERIES):
        assert counts[row][softmax[row] == 0].sum() == 0
        assert chi_square_p(counts[row], softmax[row] * 50 * 30) > 1e-4


@pytest.mark.parametrize("name", ["chain", "chain_two_levels", "rejection", "tree"])
def test_partitions_are_unbiased(name):
    request, items, store = scene(0.15)
    truth = reference.log_partition(request, items)
    draw = draw_from(CASES[name](store, 4), tile(request, 2000), torch.Generator().manual_seed(0))
    ratio = (draw.log_z.view(2000, QUERIES) - truth).exp()
    error = ratio.std(dim=0) / 2000**0.5
    assert (error < 0.02).all(), "the test could not tell"
    assert ((ratio.mean(dim=0) - 1).abs() < 4.5 * error).all()


@pytest.mark.parametrize("name", CASES)
def test_a_query_that_may_draw_nothing_has_loss_0_and_no_gradient(name):
    request, items, store = scene()
    none = request.exclude.and_also(torch.full((ITEMS,), 1), EVERY)
    empty = nc.messages.Request(request.queries, request.score, request.positives, none)
    draw = draw_from(CASES[name](store, 4), empty, torch.Generator().manual_seed(0))
    loss, gradient = losses(draw, empty, items)
    assert loss[1] == 0
    assert (gradient[1] == 0).all()
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert (draw.log_weight[1] == -torch.inf).all()
    assert (draw.log_weight[[0, 2, 3]] > -torch.inf).any(dim=1).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda c: nc.samplers.DynamicIndexRejection(c, 2, rounds=50, index=clusters(60)),
        lambda c: tree(c, 2, rounds=50),
    ],
    ids=["rejection", "tree"],
)
def test_queries_that_may_draw_nothing_are_not_waited_for(build):
    """All of them: no more rows are looked at than for the draws that stand in their place."""
    request, _, store = scene()
    everything = EVERY.repeat(QUERIES), torch.arange(QUERIES).repeat_interleave(ITEMS)
    exclude = nc.exclusion.Exclusion.from_pairs(*everything[::-1], num_rows=QUERIES)
    sampler = build(store)
    draw_from(sampler, request, torch.Generator().manual_seed(0))
    counting = Counting(store)
    draw_from(
        sampler,
        nc.messages.Request(request.queries, request.score, request.positives, exclude),
        torch.Generator().manual_seed(0),
    )
    assert counting.count < 2 * ITEMS
