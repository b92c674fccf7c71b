"""Draws without replacement: exact in expectation by enumeration, drawn by the law they claim."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from roster import problem

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.samplers.distinct import sum_and_sample_masses
from negcache.testing import reference
from negcache.testing.conformance import chi_square_p, tile


def sequences(law, length):
    """Every ordered draw without replacement with its chance: p1 p2/(1-p1) ..."""
    for picks in itertools.permutations(range(len(law)), length):
        chance, left = 1.0, 1.0
        for pick in picks:
            chance *= float(law[pick]) / left
            left -= float(law[pick])
        yield list(picks), chance


def shares(law, picks):
    """log-shares of an ordered draw, the last with the mass of all items not yet drawn."""
    left = law.log().index_fill(0, torch.tensor(picks[:-1]), -torch.inf).logsumexp(0)
    return sum_and_sample_masses(law[picks].log()[None], left[None])[0]


@pytest.mark.parametrize("draws", [2, 3])
def test_sum_and_sample_is_exact_in_expectation(draws):
    """Over all ordered tuples of 7 items: the surrogate's gradient is that of the full softmax."""
    request, items, _ = problem(num_items=7)
    row = torch.zeros(1, dtype=torch.long)
    exclude = nc.exclusion.Exclusion.from_pairs(row, row, 1)
    request = nc.messages.Request(request.queries[:1], request.score, row, exclude)
    items = items.clone().requires_grad_()
    logits = request.score(request.queries, items)[0]
    negatives = torch.arange(1, 7)
    law = torch.softmax(logits[negatives].detach(), 0)
    share = (1 - torch.softmax(logits.detach(), 0)[0]).item()
    expected = torch.zeros(())
    for picks, chance in sequences(law, draws):
        omega = shares(law, picks).exp()
        drawn = logits[negatives[picks]]
        expected = expected + chance * share * ((omega * drawn).sum() - logits[0])
    truth = torch.logsumexp(logits, 0) - logits[0]
    ours, theirs = (torch.autograd.grad(x, items, retain_graph=True)[0] for x in (expected, truth))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_sum_and_sample_partition_is_unbiased_at_any_staleness(drift):
    request, items, store = problem(drift, num_items=7)
    fresh = request.score(request.queries[:1], items)[0]
    law = torch.softmax(request.score(request.queries[:1], store.table.embeddings)[0], 0)
    total = 0.0
    for picks, chance in sequences(law, 3):
        omega = shares(law, picks)
        total += chance * float((fresh[picks] + omega - law[picks].log()).exp().sum())
    assert math.log(total) == pytest.approx(float(fresh.logsumexp(0)), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.003, 0.001])
@pytest.mark.parametrize(
    ("build", "before"),
    [(lambda c: nc.samplers.CachedDistinct(c, 4), 3), (lambda c: nc.samplers.HeadTail(c, 3, 1), 3)],
    ids=["distinct", "head_tail"],
)
def test_in_float32_the_last_weight_is_that_of_float64(build, before, temperature):
    """The last draw stands for all that is left, however little the others leave of the mass."""
    request, _, store = problem(num_items=1000, temperature=temperature)
    narrow = nc.DenseCache(1000, 8)
    narrow.write(torch.arange(1000), store.table.embeddings.float())
    asked = replace(
        request, queries=request.queries.float(), score=nc.DotScore(temperature).float()
    )
    draw = draw_from(build(narrow), asked, torch.Generator().manual_seed(0))
    drawn = draw.ids[draw.columns]
    logits = request.score(asked.queries.double(), narrow.table.embeddings.double())
    logits = logits.masked_fill(request.exclude.mask(torch.arange(1000)), -torch.inf)
    left = logits.scatter(1, drawn[:, :before], -torch.inf).logsumexp(1)
    last = drawn[:, -1:]
    assert (left - logits.logsumexp(1)).min() < math.log(1e-6), "nearly nothing is left"
    wanted = left[:, None] - logits.gather(1, last)
    torch.testing.assert_close(draw.log_weight[:, -1:].double(), wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distinct_draws_follow_the_sequential_law(seed):
    """Ordered pairs of 12 items, against p1 p2 / (1 - p1)."""
    request, _, store = problem(num_items=12, temperature=0.5)
    law = reference.softmax_law(request, store.table.embeddings)[4]
    alone = nc.messages.Request(
        request.queries[4:], request.score, request.positives[4:], request.exclude.slice(4, 5)
    )
    draw = draw_from(
        nc.samplers.CachedDistinct(store, 2),
        tile(alone, 20_000),
        torch.Generator().manual_seed(seed),
    )
    drawn = draw.ids[draw.columns]
    assert (drawn[:, 0] != drawn[:, 1]).all()
    counts = torch.bincount(drawn[:, 0] * 12 + drawn[:, 1], minlength=144)
    expected = torch.zeros(144, dtype=torch.float64)
    for (a, b), chance in sequences(law, 2):
        expected[a * 12 + b] = chance * 20_000
    assert chi_square_p(counts, expected) > 1e-4


@pytest.mark.parametrize("num_items", [60, 1000])
def test_no_item_is_drawn_twice(num_items):
    """Few items have most of the mass: with replacement every query would meet one again."""
    request, _, store = problem(num_items=num_items, temperature=0.03)
    draw = draw_from(
        nc.samplers.CachedDistinct(store, 8), tile(request, 20), torch.Generator().manual_seed(0)
    )
    assert (draw.log_weight > -torch.inf).all()
    ordered = draw.ids[draw.columns].sort(dim=1).values
    assert (ordered[:, 1:] != ordered[:, :-1]).all()


def test_no_item_of_the_head_is_in_the_tail():
    for num_items in (60, 4000):
        request, _, store = problem(num_items=num_items, temperature=0.1)
        draw = draw_from(
            nc.samplers.HeadTail(store, 3, 5), tile(request, 20), torch.Generator().manual_seed(0)
        )
        drawn = draw.ids[draw.columns]
        assert not (drawn[:, :3, None] == drawn[:, None, 3:]).any()


def test_drawing_all_items_is_the_full_softmax():
    """m = the items left: nothing is left to chance, for distinct and for head draws."""
    request, items, store = problem(drift=0.4, num_items=12)
    left = 12 - int(request.exclude.counts.max())
    truth = reference.log_partition(request, items)
    for sampler in (
        nc.samplers.CachedDistinct(store, 12),
        nc.samplers.HeadTail(store, 12, 0),
        nc.samplers.HeadTail(store, left, 3),
    ):
        draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
        logits = request.score.paired(request.queries, items[draw.ids][draw.columns])
        drawn = torch.logsumexp(logits + draw.log_weight, 1)
        short = request.exclude.counts == 12 - left  # for these every item was drawn
        torch.testing.assert_close(drawn[short], truth[short], atol=1e-9, rtol=0)


def test_head_and_tail_is_exact_in_expectation():
    """Head of 3 of 12 items plus the expectation of one draw from the rest is Z-, fresh or not."""
    request, items, store = problem(drift=0.5, num_items=12)
    fresh, stale = (request.score(request.queries, x) for x in (items, store.table.embeddings))
    excluded = request.exclude.mask(torch.arange(12))
    for row in range(5):
        allowed = (~excluded[row]).nonzero()[:, 0]
        best = allowed[stale[row, allowed].topk(3).indices]
        draw = draw_from(
            nc.samplers.HeadTail(store, 3, 1), request, torch.Generator().manual_seed(row)
        )
        drawn = draw.ids[draw.columns[row]]
        assert set(drawn[:3].tolist()) == set(best.tolist())
        torch.testing.assert_close(draw.log_weight[row, :3], torch.zeros(3).double())
        rest = [y for y in allowed.tolist() if y not in best.tolist()]
        chance = torch.softmax(stale[row, rest], 0)
        weight = -chance[rest.index(int(drawn[3]))].log()
        torch.testing.assert_close(draw.log_weight[row, 3], weight, atol=1e-10, rtol=0)
        tail = (chance * (fresh[row, rest] - chance.log()).exp()).sum()
        both = fresh[row, best].exp().sum() + tail
        truth = reference.log_partition(request, items)[row]
        torch.testing.assert_close(both.log(), truth, atol=1e-12, rtol=0)
        shares = draw.log_share[row].exp()
        torch.testing.assert_close(shares.sum(), torch.ones(()).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "build",
    [
        lambda store: nc.samplers.CachedDistinct(store, 0),
        lambda store: nc.samplers.HeadTail(store, 0, 3),
        lambda store: nc.samplers.HeadTail(store, 300, 1),
    ],
)
def test_bad_numbers_are_refused(build):
    _, _, store = problem()
    with pytest.raises(nc.InputError, match="Expected"):
        build(store)
