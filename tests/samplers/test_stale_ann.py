"""Hard negatives from stale rows: identities, laws, the unbiased tail, resume, bad input."""

import collections
import itertools

import pytest
import torch
from pace import slow
from roster import DIM, NUM_ITEMS, ROWS, problem
from setting import D, N, Setting

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.samplers.stale_ann import StaleTopK
from negcache.stores import Snapshot
from negcache.testing import reference
from negcache.testing.conformance import check_sampler, chi_square_p


def drawn(draw):
    """Ids in the draw's columns, -1 where they do not count."""
    return draw.ids[draw.columns].masked_fill(draw.log_weight == -torch.inf, -1)


def pool_of(items, size, seed=0):
    policy = Snapshot(5)
    pool = nc.SubsetCache(len(items), DIM, size, dtype=torch.float64, refresh=policy, seed=seed)
    pool.write(torch.arange(len(items)), items)
    return pool


def log_partition(sampler, request, items, seed):
    draw = draw_from(sampler, request, torch.Generator().manual_seed(seed))
    logits = request.score(request.queries, items[draw.ids]).gather(1, draw.columns)
    return torch.logsumexp(logits + draw.log_weight, dim=1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 20},
        {"depth": 6},
        {"depth": 20, "shared": True},
        slow({"depth": 6, "tail": 4}),
        {"depth": 20, "tail": 4},
        slow({"depth": NUM_ITEMS, "tail": 2}),
    ],
    ids=str,
)
def test_laws(settings):
    request, items, store = problem(0.3)
    for seed in (0, 1, 2):
        sampler = StaleTopK(store, 6, **settings)
        check_sampler(sampler, request, items, unbiased="tail" in settings, seed=seed)


def test_laws_over_a_pool():
    request, items, _ = problem()
    check_sampler(StaleTopK(pool_of(items, 150), 6, depth=9), request, items, unbiased=False)
    check_sampler(StaleTopK(pool_of(items, 150), 6, shared=True), request, items, unbiased=False)


def test_all_items_and_no_tail_are_full_softmax_over_the_snapshot():
    request, items, store = problem()
    draw = draw_from(StaleTopK(store, NUM_ITEMS), request, torch.Generator())
    queries = request.queries.clone().requires_grad_()
    fresh = items.clone().requires_grad_()
    logits = request.score(queries, fresh)
    positive = logits.gather(1, request.positives[:, None]).squeeze(1)
    terms = nc.log_q_corrected(
        request.score(queries, fresh[draw.ids]).gather(1, draw.columns), draw
    )
    ours = nc.estimators.softmax_loss(positive, terms)
    truth = reference.full_softmax_losses(logits, request.positives, request.exclude)
    torch.testing.assert_close(ours, truth, atol=1e-10, rtol=0)
    for mine, exact in zip(
        torch.autograd.grad(ours.sum(), (queries, fresh), retain_graph=True),
        torch.autograd.grad(truth.sum(), (queries, fresh)),
        strict=True,
    ):
        torch.testing.assert_close(mine, exact, atol=1e-10, rtol=0)


def test_without_depth_these_are_the_hardest_as_head_and_tail_finds_them():
    request, _, store = problem(0.3)
    mine = draw_from(StaleTopK(store, 6), request, torch.Generator())
    theirs = draw_from(nc.samplers.HeadTail(store, 6, 0), request, torch.Generator())
    assert torch.equal(drawn(mine).sort(1).values, drawn(theirs).sort(1).values)
    assert (mine.log_weight == 0).all()


def test_known_positives_take_no_place_among_the_best():
    """A query whose best item is excluded gets as many negatives as any other."""
    request, items, store = problem()
    best = request.score(request.queries, items).topk(7, dim=1).indices
    rows = torch.arange(ROWS)[:, None].expand(-1, 3)
    request = nc.messages.Request(
        request.queries, request.score, best[:, 0],
        nc.exclusion.Exclusion.from_pairs(rows.flatten(), best[:, :3].flatten(), ROWS),
    )  # fmt: skip
    found = drawn(draw_from(StaleTopK(store, 4), request, torch.Generator()))
    assert torch.equal(found.sort(1).values, best[:, 3:].sort(1).values)


def test_no_place_is_lost_where_fewer_are_left_than_the_depth():
    """Six of eight items are excluded: both others are drawn, whatever the noise."""
    request, _, store = problem(num_items=8)
    rows = torch.arange(ROWS).repeat_interleave(6)
    exclude = nc.exclusion.Exclusion.from_pairs(rows, torch.arange(6).repeat(ROWS), ROWS)
    request = nc.messages.Request(request.queries, request.score, request.positives, exclude)
    for seed in range(20):
        draw = draw_from(StaleTopK(store, 2, depth=8), request, torch.Generator().manual_seed(seed))
        assert (drawn(draw).sort(1).values == torch.tensor([6, 7])).all()


def test_rows_never_written_are_no_negatives():
    request, items, _ = problem()
    store = nc.DenseCache(NUM_ITEMS, DIM, dtype=torch.float64)
    store.write(torch.arange(0, NUM_ITEMS, 2), items[::2])
    for tail in (0, 5):
        found = drawn(draw_from(StaleTopK(store, 100, tail=tail), request, torch.Generator()))
        assert (found[:, :100] >= 0).all()
        assert (found[found >= 0] % 2 == 0).all()


@pytest.mark.usefixtures("unchecked")
def test_negatives_are_uniform_among_the_deepest():
    request, _, store = problem()
    sampler, generator = StaleTopK(store, 2, depth=8), torch.Generator().manual_seed(0)
    best = drawn(draw_from(StaleTopK(store, 8), request, generator)).sort(1).values
    counts = torch.zeros(ROWS, NUM_ITEMS, dtype=torch.long)
    for _ in range(400):
        two = drawn(draw_from(sampler, request, generator))
        assert (two[:, 0] != two[:, 1]).all()
        counts.scatter_add_(1, two, torch.ones_like(two))
    of_best = counts.gather(1, best)
    assert (of_best.sum(1) == 800).all(), "nothing beyond the depth is drawn"
    for row in of_best:
        assert chi_square_p(row, torch.full((8,), 100.0)) > 1e-4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("depth", "each"), [slow(2, 2), (3, 2), slow(3, 1)])
def test_with_a_tail_the_mean_over_every_draw_is_the_partition_function(depth, each):
    """Every pair of (choice of the head, item of the tail) of 8 items; stale rows."""
    request, items, store = problem(0.5, num_items=8)
    one = nc.exclusion.Exclusion.from_pairs(torch.tensor([0, 0]), torch.tensor([0, 5]), 1)
    request = nc.messages.Request(request.queries[:1], request.score, torch.tensor([0]), one)
    sampler = StaleTopK(store, each, depth=depth, tail=1)
    fresh = request.score(request.queries, items)[0]
    estimates, times = {}, collections.Counter()
    for seed in range(400):
        draw = draw_from(sampler, request, torch.Generator().manual_seed(seed))
        *head, tail = drawn(draw)[0].tolist()
        weighted = fresh[[*head, tail]] + draw.log_weight[0]
        estimates[frozenset(head), tail] = torch.logsumexp(weighted, 0).exp()
        times[frozenset(head), tail] += 1
    best = drawn(draw_from(StaleTopK(store, depth), request, torch.Generator()))[0].tolist()
    rest = set(range(8)) - {0, 5} - set(best)
    wanted = itertools.product(map(frozenset, itertools.combinations(best, each)), rest)
    assert estimates.keys() == set(wanted)
    counts = torch.tensor(list(times.values()))
    assert chi_square_p(counts, torch.full(counts.shape, 400 / len(counts))) > 1e-4
    mean = torch.stack(list(estimates.values())).mean().log()
    truth = reference.log_partition(request, items)[0]
    torch.testing.assert_close(mean, truth, atol=1e-12, rtol=0)


def test_a_tail_over_a_pool_is_unbiased_over_pools():
    request, items, _ = problem(temperature=1.0, num_items=60)
    estimates = [
        log_partition(StaleTopK(pool_of(items, 20, seed), 4, depth=6, tail=4), request, items, seed)
        for seed in range(400)
    ]
    ratio = (torch.stack(estimates) - reference.log_partition(request, items)).exp()
    z = (ratio.mean(0) - 1) / (ratio.std(0) / 400**0.5)
    assert z.abs().max() < 4.5


def test_mining_in_a_pool_draws_the_hardest_of_the_pool_with_weight_0():
    request, items, _ = problem()
    store = pool_of(items, 40)
    draw = draw_from(StaleTopK(store, 3), request, torch.Generator())
    logits = request.score(request.queries, items)
    logits[request.exclude.rows, request.exclude.ids] = -torch.inf
    outside = torch.ones(NUM_ITEMS, dtype=torch.bool)
    outside[store.ids(torch.arange(40))] = False
    hardest = logits.masked_fill(outside, -torch.inf).topk(3, dim=1).indices
    assert torch.equal(drawn(draw).sort(1).values, hardest.sort(1).values)
    assert (draw.log_weight == 0).all()


@pytest.mark.parametrize("size", [150, NUM_ITEMS])
def test_shared_negatives_are_everyones_but_where_they_are_positives(size):
    request, items, _ = problem()
    store = pool_of(items, size)
    own = draw_from(StaleTopK(store, 6), request, torch.Generator())
    shared = draw_from(StaleTopK(store, 6, shared=True), request, torch.Generator())
    assert torch.equal(shared.ids, own.ids)
    excluded = request.exclude.mask(shared.ids)
    assert torch.equal(shared.log_weight == -torch.inf, excluded)
    assert (shared.log_weight[~excluded] == 0).all()


def stale_corpus(store):
    return StaleTopK(store, 4, depth=20)


def stale_corpus_with_tail(store):
    return StaleTopK(store, 4, tail=4)


def stale_pool(shared):
    pool = nc.SubsetCache(N, D, 60, refresh=Snapshot(3))
    return StaleTopK(pool, 4, shared=shared)


@pytest.mark.parametrize(
    "build",
    [
        stale_corpus,
        stale_corpus_with_tail,
        lambda _: stale_pool(False),
        lambda _: stale_pool(True),
    ],
    ids=["corpus", "tail", "pool", "shared_pool"],
)
def test_a_resumed_run_is_the_run_that_never_stopped(build):
    whole, resumed = (
        Setting(build, refresh=Snapshot(3)),
        Setting(build, refresh=Snapshot(3), seed=5),
    )
    for _ in range(4):  # a snapshot, and a step beyond
        whole.step()
    resumed.corpus.copy_(whole.corpus)
    resumed.load(whole.state())
    for _ in range(5):
        assert torch.equal(whole.step(), resumed.step())
    everything = torch.arange(whole.loss.store.num_rows)
    for side in ("rows", "ids"):
        ours, theirs = (getattr(each.loss.store, side)(everything) for each in (whole, resumed))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("build", [stale_corpus, lambda _: stale_pool(True)], ids=["ance", "snm"])
def test_training_lowers_the_full_softmax_loss(build):
    setting = Setting(build, refresh=Snapshot(3))

    def full_loss():
        with torch.no_grad():
            queries = setting.query_tower(torch.eye(D)[:4])
            logits = setting.loss.score(
                setting.loss.score.embed(queries),
                setting.loss.score.embed(setting.item_tower(setting.corpus)),
            )
            return torch.nn.functional.cross_entropy(logits, torch.arange(4))

    def step():
        loss = setting.loss(setting.query_tower(torch.eye(D)[:4]), torch.arange(4), torch.arange(4))
        setting.optimizer.zero_grad()
        loss.backward()
        setting.optimizer.step()
        setting.loss.step()

    before = full_loss()
    for _ in range(60):
        step()
    assert full_loss() < before - 1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_negatives": 0}, "num_negatives 0"),
        ({"num_negatives": 5, "depth": 4}, "num_negatives 5, depth 4"),
        ({"num_negatives": 5, "depth": 21}, "20 cached rows.*depth 21"),
        ({"num_negatives": 5, "tail": -1}, "tail -1"),
        ({"num_negatives": 5, "tail": 1, "shared": True}, "without a tail"),
    ],
)
def test_bad_input(settings, match):
    _, items, _ = problem()
    with pytest.raises(nc.InputError, match=match):
        StaleTopK(pool_of(items, 20), **settings)
