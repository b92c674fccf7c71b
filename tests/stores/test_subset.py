"""A store of some of the items: laws, weights by enumeration, membership."""

import itertools
import math

import pytest
import torch
from roster import DIM, problem

import negcache as nc
from negcache.draws import draw, propose
from negcache.testing import reference
from negcache.testing.conformance import check_sampler, check_store


@pytest.mark.parametrize("rho", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("size", [5, 37, 100])
def test_laws(size, rho):
    check_store(lambda: nc.SubsetCache(100, 3, size, refresh=rho), rho)


class Chosen(nc.SubsetCache):
    """A subset cache that holds the given items."""

    def __init__(self, items, fresh):
        super().__init__(len(fresh), DIM, len(items), dtype=torch.float64)
        self.place.fill_(-1)
        self.held.copy_(torch.tensor(items))
        self.place[self.held] = torch.arange(len(items))
        self.write(torch.arange(len(fresh)), fresh)


def test_row_weights_are_unbiased_over_all_subsets():
    """Each of the 20 halves of 6 items, every item of its law: the mean is Z- (methods 6)."""
    request, items, _ = problem(num_items=6)
    one = nc.exclusion.Exclusion.from_pairs(torch.tensor([0]), torch.tensor([0]), 1)
    request = nc.messages.Request(request.queries[:1], request.score, torch.tensor([0]), one)
    fresh, everything = request.score(request.queries, items), torch.arange(6)
    estimates = []
    for held in itertools.combinations(range(6), 3):
        sampler = nc.CachedSoftmax(Chosen(held, items), 1)
        proposal = propose(sampler, request, torch.Generator())
        log_q = proposal.log_prob(everything)
        weight = -log_q - proposal.log_coverage(everything)
        estimates.append((log_q.exp() * (fresh + weight).exp()).nan_to_num(0.0).sum(1))
        drawn = draw(sampler, request, torch.Generator().manual_seed(0))
        positive = fresh[:, 0]
        terms = nc.cached_partition(fresh[:, drawn.ids], drawn)
        by_rows = nc.estimators.softmax_loss(positive, terms)
        with_alpha = positive + math.log(0.5)  # log alpha on the positive instead
        rows = [i for i in held if i != 0]
        other = torch.logsumexp(torch.cat([with_alpha, fresh[0, rows]]), 0) - with_alpha
        torch.testing.assert_close(by_rows, other, atol=1e-12, rtol=0)
    truth = reference.log_partition(request, items)
    torch.testing.assert_close(torch.stack(estimates).mean(0).log(), truth, atol=1e-12, rtol=0)


def test_the_law_is_the_softmax_over_the_rows_held():
    request, items, _store = problem()
    half = nc.SubsetCache(300, DIM, 150, dtype=torch.float64)
    half.write(torch.arange(300), items)
    check_sampler(nc.CachedSoftmax(half, 6), request, items, unbiased=False)
    check_sampler(nc.samplers.HeadTail(half, 2, 4), request, items, unbiased=False)
    check_sampler(nc.samplers.CachedDistinct(half, 4), request, items, unbiased=False)
    drawn = draw(nc.CachedSoftmax(half, 6), request, torch.Generator())
    assert (half.slots(drawn.ids) >= 0).all()


def test_a_positive_in_any_slot_is_excluded():
    """Each held item in turn is the positive of one query: of the first slot as of the last."""
    _, _, half = problem(half=True, num_items=60)
    score = nc.DotScore(0.3).double().requires_grad_(False)
    rows = torch.arange(half.num_rows)
    exclude = nc.exclusion.Exclusion.from_pairs(rows, half.held, len(rows))
    request = nc.messages.Request(half.table.embeddings, score, half.held.clone(), exclude)
    for sampler in (
        nc.CachedSoftmax(half, 6),
        nc.samplers.CachedDistinct(half, 6),
        nc.samplers.HeadTail(half, 3, 3),
        nc.samplers.StaleTopK(half, 6, tail=2),
        nc.quadratic(half, 6),
        nc.DynamicIndex(half, 6),
    ):
        drawn = draw(sampler, request, torch.Generator().manual_seed(0))
        alive = drawn.log_weight > -torch.inf
        assert alive.any(dim=1).all()
        assert not (alive & (drawn.ids[drawn.columns] == request.positives[:, None])).any()


def test_membership_is_uniform_and_moves_on_whatever_is_drawn():
    """Writing some rows again and again does not keep them: first in, first out."""
    counts = torch.zeros(40)
    for seed in range(100):
        store = nc.SubsetCache(40, 2, 10, refresh=0.2, seed=seed)
        store.write(torch.arange(40), torch.zeros(40, 2))
        first = set(store.held.tolist())
        for _ in range(5):
            new = store.plan()
            store.commit()
            assert len(new) == 2
            assert not store.valid[store.slots(new)].any()
            store.write(torch.arange(40), torch.zeros(40, 2))
            store.step()
        assert store.valid.all()
        assert len(store.held.unique()) == 10
        counts[store.held] += 1
    assert first != set(store.held.tolist())
    expected = 100 * 10 / 40
    statistic = ((counts - expected) ** 2 / (expected * 0.75)).sum()
    assert statistic < 90  # chi-square with 39 degrees: p = 1e-5 at 88


def test_rows_leave_in_the_order_they_entered_whatever_is_written():
    """Half of the items are written again at every step, as drawn ones are; none stays for it."""
    store = nc.SubsetCache(40, 2, 10, refresh=0.2)
    store.write(torch.arange(40), torch.zeros(40, 2))
    entered = []
    for step in range(20):
        before = set(store.held.tolist())
        new = set(store.plan().tolist())
        store.commit()
        left = before - set(store.held.tolist())
        if step >= 5:
            assert left == entered[step - 5] - new, "those that came five steps ago, no others"
        entered.append(new)
        store.write(torch.tensor(sorted(new)), torch.zeros(2, 2))
        store.step()
        store.write(torch.arange(0, 40, 2), torch.ones(20, 2))


def test_training_with_a_partial_store_encodes_what_moves_in():
    torch.manual_seed(0)
    store = nc.SubsetCache(200, 4, 50, refresh=0.1)
    tower = torch.nn.Linear(4, 4)
    loss = nc.SoftmaxLoss(
        tower, torch.randn(200, 4), nc.SharedDraws(nc.CachedSoftmax(store, 2)), nc.DotScore(0.1)
    )
    loss(torch.randn(8, 4), torch.arange(8)).backward()
    loss.step()
    report = loss.report()
    assert report.encoded_nograd == 50 + 5
    assert store.valid.all()
    fresh = loss.score.embed(tower(loss.corpus[store.held])).detach()
    torch.testing.assert_close(store.table.embeddings, fresh)


@pytest.mark.parametrize("bad", [{"size": 1}, {"size": 11}, {"refresh": 2.0}])
def test_bad_input(bad):
    with pytest.raises(nc.InputError, match="Expected"):
        nc.SubsetCache(**{"num_items": 10, "dim": 2, "size": 5} | bad)
