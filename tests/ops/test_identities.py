"""Identity tests: no statistics, no tolerance beyond rounding; full softmax is the only truth."""

import itertools
import math

import pytest
import torch
from partition import log_prob
from roster import ROSTER, problem

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.draws import given
from negcache.estimators import cached_partition, log_q_corrected, softmax_loss
from negcache.interfaces import Proposal
from negcache.pooled import share
from negcache.testing import reference
from negcache.testing.conformance import check_estimator, check_sampler


def random(*shape, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


@pytest.mark.parametrize("estimator", [log_q_corrected, cached_partition])
def test_all_negatives_are_cross_entropy(estimator):
    check_estimator(estimator, 5 * random(4, 30))


def test_an_estimator_with_a_wrong_weight_is_caught():
    with pytest.raises(AssertionError, match="cross-entropy"):
        check_estimator(
            lambda logits, draw: logits + 0 * draw.log_weight.nan_to_num(neginf=0),
            5 * random(4, 30),
        )


def loss_of(sampler, estimator, queries, items, request, seed=0):
    """One draw's loss per query with gradient to queries and items, as SoftmaxLoss computes it."""
    draw = draw_from(sampler, request, torch.Generator().manual_seed(seed))
    if draw.columns is None:
        logits = request.score(queries, items[draw.ids])
    else:
        logits = request.score.paired(queries, items[draw.ids][draw.columns])
    positive = request.score.paired(queries, items[request.positives][:, None])[:, 0]
    return softmax_loss(positive, estimator(logits, draw)), draw, positive, logits


def gradients(losses, *leaves):
    return torch.autograd.grad(losses.sum(), leaves, retain_graph=True)


@pytest.mark.parametrize("num_negatives", [1, 4, 32])
def test_fresh_cache_every_draw_is_exact_in_value(num_negatives):
    """Both estimators have the surrogate's gradient, and the value -log p+, draw by draw."""
    request, items, store = problem()
    queries = request.queries.clone().requires_grad_()
    items = items.clone().requires_grad_()
    sampler = nc.CachedSoftmax(store, num_negatives)
    truth = reference.full_softmax_losses(
        request.score(request.queries, items), request.positives, request.exclude
    )
    for seed in range(5):
        one, draw, positive, logits = loss_of(
            sampler, log_q_corrected, queries, items, request, seed
        )
        other, *_ = loss_of(sampler, cached_partition, queries, items, request, seed)
        published = reference.surrogate(positive, logits, draw.log_z)
        torch.testing.assert_close(one, truth, atol=1e-10, rtol=0)
        torch.testing.assert_close(other, truth, atol=1e-10, rtol=0)
        expected = gradients(published, queries, items)
        for losses in (one, other):
            for ours, theirs in zip(gradients(losses, queries, items), expected, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_stale_cache_cached_partition_is_the_surrogate():
    request, items, store = problem(drift=0.4)
    queries, items = request.queries.clone().requires_grad_(), items.clone().requires_grad_()
    losses, draw, positive, logits = loss_of(
        nc.CachedSoftmax(store, 3), cached_partition, queries, items, request
    )
    value = torch.nn.functional.softplus(draw.log_z - positive)
    torch.testing.assert_close(losses, value, atol=1e-10, rtol=0)
    published = reference.surrogate(positive, logits, draw.log_z)
    for ours, theirs in zip(
        gradients(losses, queries, items), gradients(published, queries, items), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("build", [nc.Uniform, nc.CachedSoftmax])
def test_weights_give_the_partition_at_any_staleness(build):
    """w = -log(m q), q the true law; sum_y q_y exp(s_y + w_y) = Z- to 1e-12, s fresh."""
    request, items, store = problem(drift=0.5)
    if build is nc.CachedSoftmax:
        law = reference.softmax_law(request, store.table.embeddings)
    else:
        allowed = (~request.exclude.mask(torch.arange(len(items)))).double()
        law = allowed / allowed.sum(1, keepdim=True)
    sampler = build(store, 200)
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    chances = 200 * law[:, draw.ids].gather(1, draw.columns)
    torch.testing.assert_close(draw.log_weight, -chances.log(), atol=1e-10, rtol=0)

    log_q = log_prob(sampler, request, torch.arange(len(items)))
    torch.testing.assert_close(log_q.exp(), law, atol=1e-12, rtol=0)
    logits = request.score(request.queries, items)
    terms = law * (logits - log_q).exp().nan_to_num(posinf=0.0)
    torch.testing.assert_close(
        terms.sum(1).log(), reference.log_partition(request, items), atol=1e-12, rtol=0
    )


def test_expected_surrogate_is_the_full_gradient():
    """One draw, every pick weighted by its law: the full softmax gradient to 1e-12."""
    request, items, _cache = problem(num_items=40)
    items = items.clone().requires_grad_()
    logits = request.score(request.queries, items)
    law = reference.softmax_law(request, items.detach())
    positive = logits.gather(1, request.positives[:, None])[:, 0]
    log_z = reference.log_partition(request, items.detach())
    share = torch.sigmoid(positive - log_z).detach()
    expected = ((1 - share) * ((law * logits).sum(1) - positive)).sum()
    truth = reference.full_softmax_losses(logits, request.positives, request.exclude).sum()
    ours, theirs = (torch.autograd.grad(x, items, retain_graph=True)[0] for x in (expected, truth))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_pooled_draws_are_unbiased_by_enumeration(drift):
    """Two queries, one draw each over 6 items: the expectation over all 36 pools is Z-."""
    request, items, store = problem(drift, num_items=6)
    exclude = nc.exclusion.Exclusion.from_pairs(torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    request = nc.messages.Request(request.queries[:2], request.score, torch.tensor([0, 1]), exclude)
    everything = torch.arange(6)
    log_q = log_prob(nc.CachedSoftmax(store, 1), request, everything)
    logits = request.score(request.queries, items)
    expected = torch.zeros(2, dtype=torch.float64)
    for first, second in itertools.product(range(6), range(6)):
        chance = (log_q[0, first] + log_q[1, second]).exp()
        if chance == 0:
            continue
        ids, seen = torch.tensor([first, second]).unique(return_counts=True)
        pooled = share(ids, seen, torch.logsumexp(log_q[:, ids], dim=0), request)
        expected += chance * (logits[:, pooled.ids] + pooled.log_weight).exp().sum(1)
    torch.testing.assert_close(
        expected.log(), reference.log_partition(request, items), atol=1e-12, rtol=0
    )


def test_merged_duplicates_equal_unmerged():
    """c copies with weight w are one entry with weight w + log c: value and gradient."""
    logits = random(1, 3, grad=True)
    twice = logits[:, [0, 1, 1, 1, 2]]
    weight = torch.tensor([[0.1, 0.2, 0.2, 0.2, 0.3]], dtype=torch.float64)
    merged = logits + torch.tensor([[0.1, 0.2 + math.log(3), 0.3]], dtype=torch.float64)
    positive = torch.zeros(1, dtype=torch.float64)
    one, other = softmax_loss(positive, twice + weight), softmax_loss(positive, merged)
    torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        *gradients(one, logits), *gradients(other, logits), atol=1e-12, rtol=0
    )


def test_given_negatives_beside_a_sampler_are_exact_head_and_unbiased_tail():
    """Head with weight 0 plus the expectation of the tail is Z-, whatever the head."""
    request, items, _cache = problem(drift=0.5)
    negatives = torch.tensor([[3, 4, -1], [9, 9, 8], [5, 6, 7], [-1, -1, -1], [10, 11, 12]])
    head = given(negatives, request.exclude, torch.float64)
    mine = negatives >= 0
    rows = torch.arange(5)[:, None].expand_as(negatives)[mine]
    rest = request.exclude.and_also(rows, negatives[mine])
    tail = nc.messages.Request(request.queries, request.score, request.positives, rest)
    logits = request.score(request.queries, items)
    own = logits[:, head.ids].gather(1, head.columns) + head.log_weight
    both = torch.logaddexp(torch.logsumexp(own, 1), reference.log_partition(tail, items))
    torch.testing.assert_close(both, reference.log_partition(request, items), atol=1e-12, rtol=0)


def test_gradcheck():
    weight = random(3, 4, seed=4)
    draw = nc.messages.Draw(torch.arange(4), None, weight)
    positive, logits = random(3, seed=5, grad=True), random(3, 4, seed=6, grad=True)
    assert torch.autograd.gradcheck(
        lambda p, s: softmax_loss(p, log_q_corrected(s, draw)), (positive, logits)
    )


@pytest.mark.parametrize("case", ROSTER, ids=lambda case: case.name)
def test_no_gradient_flows_into_a_law_also_under_a_learned_score(case):
    request, _, store = problem()
    score = nc.DotScore(0.3, learn_temperature=True).double()
    learned = nc.messages.Request(request.queries, score, request.positives, request.exclude)
    draw = draw_from(case.build(store), learned, torch.Generator().manual_seed(0))
    fields = [f for f in (draw.log_weight, draw.log_z, draw.log_share) if f is not None]
    assert not any(field.requires_grad for field in fields)
    assert not store.table.embeddings.requires_grad


def test_learned_temperature_gets_the_full_softmax_derivative():
    """In expectation over all picks of one draw, on a fresh store."""
    request, items, _cache = problem(num_items=40)
    score = nc.DotScore(0.3, learn_temperature=True).double()
    logits = score(request.queries, items)
    truth = reference.full_softmax_losses(logits, request.positives, request.exclude).sum()
    law = reference.softmax_law(request, items)
    log_z = reference.log_partition(request, items)
    positive = logits.gather(1, request.positives[:, None])[:, 0]
    total = torch.zeros((), dtype=torch.float64)
    for pick in range(40):
        share = torch.zeros(5, 1, dtype=torch.float64)
        draw = nc.messages.Draw(torch.tensor([pick]), None, share, log_z, share)
        losses = softmax_loss(positive, cached_partition(logits[:, [pick]], draw))
        total = total + (law[:, pick] * losses).sum()
    ours, theirs = (
        torch.autograd.grad(x, score.log_scale, retain_graph=True)[0] for x in (total, truth)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("estimator", [log_q_corrected, cached_partition])
def test_an_all_masked_query_has_loss_zero_and_no_gradient(estimator):
    request, items, store = problem(num_items=6)
    rows, ids = torch.zeros(6, dtype=torch.long), torch.arange(6)
    excluded = nc.messages.Request(
        request.queries, request.score, request.positives, request.exclude.and_also(rows, ids)
    )
    queries = request.queries.clone().requires_grad_()
    losses, *_ = loss_of(nc.CachedSoftmax(store, 2), estimator, queries, items, excluded)
    losses.sum().backward()
    assert losses[0] == 0
    assert torch.isfinite(losses).all()
    assert (queries.grad[0] == 0).all()
    assert (queries.grad[1:] != 0).any()


def test_in_batch_log_q_is_unbiased_by_enumeration():
    """One query, two others whose positives are drawn from pi: all 36 batches, duplicates too."""
    request, items, _ = problem(num_items=6)
    pi = torch.tensor([0.3, 0.25, 0.2, 0.1, 0.1, 0.05], dtype=torch.float64)
    sampler = nc.InBatch(pi.log())
    logits = request.score(request.queries[:1], items)
    expected = torch.zeros((), dtype=torch.float64)
    for others in itertools.product(range(6), range(6)):
        positives = torch.tensor([0, *others])
        exclude = nc.exclusion.Exclusion.from_pairs(torch.arange(3), positives, 3)
        batch = nc.messages.Request(request.queries[:3], request.score, positives, exclude)
        draw = draw_from(sampler, batch, torch.Generator())
        chance = pi[list(others)].prod()
        expected += chance * (logits[0, draw.ids] + draw.log_weight[0]).exp().sum()
    torch.testing.assert_close(expected.log(), logits[0, 1:].logsumexp(0), atol=1e-12, rtol=0)


def test_plain_in_batch_counts_every_occurrence():
    request, _, _ = problem()
    positives = torch.tensor([0, 1, 2, 1, 1])
    exclude = nc.exclusion.Exclusion.from_pairs(torch.arange(5), positives, 5)
    batch = nc.messages.Request(request.queries, request.score, positives, exclude)
    draw = draw_from(nc.InBatch(), batch, torch.Generator())
    assert draw.ids.tolist() == [0, 1, 2]
    torch.testing.assert_close(draw.log_weight[0].exp().tolist(), [0.0, 3.0, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize("build", [nc.Uniform, nc.CachedSoftmax])
def test_a_query_without_any_item_left_takes_no_part_in_a_pool(build):
    request, items, store = problem(num_items=40)
    rows, ids = torch.full((40,), 2), torch.arange(40)
    request = nc.messages.Request(
        request.queries, request.score, request.positives, request.exclude.and_also(rows, ids)
    )
    sampler = nc.SharedDraws(build(store, 6))
    assert (draw_from(sampler, request, torch.Generator()).log_weight[2] == -torch.inf).all()
    check_sampler(sampler, request, items, rounds=2000)


@pytest.mark.slow
def test_a_pool_joined_by_the_batch_is_unbiased_by_enumeration():
    """Three queries: all pairs of other positives drawn from pi, all draws of a fixed law.

    The others' laws do not leave their positives out: then they would not be fixed.
    """
    request, items, store = problem(drift=0.5, num_items=5)
    pi = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1], dtype=torch.float64)
    sampler = nc.SharedDraws(nc.CachedSoftmax(store, 1), log_popularity=pi.log())
    logits = request.score(request.queries[:1], items)
    log_q = torch.log_softmax(request.score(request.queries[:3], store.table.embeddings), 1)
    expected, own = torch.zeros((), dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    exclude = nc.exclusion.Exclusion.from_pairs(own, own, 3)
    for others in itertools.product(range(5), range(5)):
        positives = torch.tensor([0, *others])
        batch = nc.messages.Request(request.queries[:3], request.score, positives, exclude)
        for picks in itertools.product(range(5), repeat=3):
            chance = pi[list(others)].prod() * log_q[torch.arange(3), list(picks)].sum().exp()
            sampler.sampler = Forced(torch.tensor(picks)[:, None], log_q)
            draw = draw_from(sampler, batch, torch.Generator())
            expected += chance * (logits[0, draw.ids] + draw.log_weight[0]).exp().sum()
    torch.testing.assert_close(expected.log(), logits[0, 1:].logsumexp(0), atol=1e-12, rtol=0)


@pytest.mark.parametrize("joined", [False, True])
def test_a_pool_counts_no_masked_hit(joined):
    """``log c_j - log(sum_b m q_b(j) + (B - 1) pi_j)``: c counts draws that may stand, and targets.

    Half of what is drawn is a known positive of the query that drew it.
    """
    request, _, _ = problem()
    counts = torch.ones(300, dtype=torch.float64)
    counts[[0, 1, 2, 7, 8, 299]] = 100
    pi = counts / counts.sum()
    sampler = nc.Popularity(counts, 40, power=1.0)
    own = draw_from(sampler, request, torch.Generator().manual_seed(0))
    alive = own.log_weight > -torch.inf
    assert (~alive).sum() > 20
    seen = torch.bincount(own.ids[own.columns][alive], minlength=300).double()
    expected = (pi * ~request.exclude.mask(torch.arange(300))).sum(0) * 40
    if joined:
        seen += torch.bincount(request.targets, minlength=300)
        expected += (len(request.targets) - 1) * pi
    pool = nc.SharedDraws(sampler, log_popularity=pi.log() if joined else None)
    draw = draw_from(pool, request, torch.Generator().manual_seed(0))
    assert torch.equal(draw.ids, seen.nonzero()[:, 0])
    wanted = (seen / expected).log()[draw.ids].expand_as(draw.log_weight)
    wanted = wanted.masked_fill(request.exclude.mask(draw.ids), -torch.inf)
    torch.testing.assert_close(draw.log_weight, wanted, atol=1e-9, rtol=0)


def test_averaged_draws_are_unbiased_and_disjoint_ones_add_up():
    """log c_1 + log c_2 with c_1 + c_2 = 1 for the same items; unchanged for disjoint sets."""
    request, items, store = problem(drift=0.5, num_items=12)
    logits, everything = request.score(request.queries, items), torch.arange(12)
    truth = reference.log_partition(request, items)
    laws = [
        log_prob(s, request, everything) for s in (nc.Uniform(store, 1), nc.CachedSoftmax(store, 1))
    ]
    terms = [(q.exp() * (logits - q).exp()).nan_to_num(0.0).sum(1).log() for q in laws]
    weighted = torch.stack([terms[0] + math.log(0.3), terms[1] + math.log(0.7)])
    torch.testing.assert_close(torch.logsumexp(weighted, 0), truth, atol=1e-12, rtol=0)
    halves = []
    for part in (everything[:6], everything[6:]):
        excluded = (
            torch.arange(5).repeat_interleave(6),
            everything[~torch.isin(everything, part)].repeat(5),
        )
        exclude = request.exclude.and_also(*excluded)
        inside = nc.messages.Request(request.queries, request.score, request.positives, exclude)
        log_q = log_prob(nc.CachedSoftmax(store, 1), inside, everything)
        halves.append((log_q.exp() * (logits - log_q).exp()).nan_to_num(0.0).sum(1).log())
    torch.testing.assert_close(torch.logaddexp(*halves), truth, atol=1e-12, rtol=0)


class Forced:
    """Returns the picks it is given, under a law it is told."""

    has_density, store, num_negatives = True, None, 1

    def __init__(self, picks, log_q):
        self.picks, self.log_q = picks, log_q

    def propose(self, request, generator):
        picked = self.log_q.gather(1, self.picks)
        return Proposal(lambda noise: (self.picks, picked), lambda ids: self.log_q[:, ids])


@pytest.mark.slow
def test_items_that_only_a_partial_cache_reaches_count_in_a_joined_pool():
    """Half of the items are held, and only the first five are ever positives."""
    noise = torch.Generator().manual_seed(4)
    items = torch.nn.functional.normalize(
        torch.randn(20, 4, generator=noise, dtype=torch.float64), dim=1
    )
    pi = torch.zeros(20, dtype=torch.float64)
    pi[:5] = 0.2
    score, rest, ratios = nc.DotScore(0.7).double(), torch.arange(20) >= 5, []
    for seed in range(600):
        store = nc.SubsetCache(20, 4, 10, dtype=torch.float64, seed=seed)
        store.write(torch.arange(20), items)
        sampler = nc.SharedDraws(nc.CachedSoftmax(store, 4), log_popularity=pi.log())
        positives = torch.randint(0, 5, (4,), generator=noise)
        exclude = nc.exclusion.Exclusion.from_pairs(torch.arange(4), positives, 4)
        draw = draw_from(sampler, nc.messages.Request(items[5:9], score, positives, exclude), noise)
        scores = score(items[5:9], items).detach().exp()
        found = (scores[:, draw.ids] * draw.log_weight.exp())[:, rest[draw.ids]].sum(dim=1)
        ratios.append(found / scores[:, rest].sum(dim=1))
    means = torch.stack(ratios)
    z = (means.mean(dim=0) - 1) / (means.std(dim=0) / len(means) ** 0.5)
    assert z.abs().max() < 4.5, z
