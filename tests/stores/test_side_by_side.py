"""Several streaming caches as one: golden vectors NC-5 and NC-6, one row an item, draws, states."""

from copy import deepcopy

import pytest
import torch
from torch import nn, tensor

import negcache as nc
from negcache.draws import draw, propose
from negcache.estimators import cached_partition, softmax_loss
from negcache.exclusion import Exclusion
from negcache.messages import Draw, Request
from negcache.stores import SideBySide
from negcache.towers.static import Bags

F64, D = torch.float64, 4


def cache_of(size, dim=D, **settings):
    return nc.StreamingCache(size, dim, dtype=F64, refresh=0.0, **settings)


def filled(caches, *contents):
    """Each with (ids, rows); features are the rows times 10."""
    group = SideBySide(caches)
    for number, (ids, rows) in enumerate(contents):
        rows = tensor(rows, dtype=F64).view(len(ids), -1)
        group.receive(tensor(ids), 10 * rows, into=number)
        group.write(tensor(ids), rows)
    return group


def request_of(queries, targets):
    exclude = Exclusion.from_pairs(torch.arange(len(queries)), targets, len(queries))
    return Request(queries, nc.DotScore(1.0, normalize=False).double(), targets, exclude)


def test_values_and_gradient_of_two_caches():
    """NC-5: {1} and {-1} in two caches are {1, -1} in one: NC-1, and NC-2's gradient."""
    group = filled([cache_of(2, 1), cache_of(2, 1)], ([5], [1.0]), ([9], [-1.0]))
    queries, positives = tensor([-1.0, 1, 3], dtype=F64), tensor([2.0, 2, 1], dtype=F64)
    request = request_of(queries[:, None], tensor([1, 1, 1]))
    log_z = draw(nc.CachedSoftmax(group, 1), request, torch.Generator()).log_z
    u = torch.ones((), dtype=F64, requires_grad=True)
    zeros = torch.zeros(3, 1, dtype=F64)
    picked = Draw(tensor([5, 9]), tensor([[0], [1], [0]]), zeros, log_z, zeros)
    fresh = (u * queries * tensor([1.0, -1, 1], dtype=F64))[:, None]
    loss = softmax_loss(u * queries * positives, cached_partition(fresh, picked)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(1.404414675, abs=1e-8)
    assert u.grad.item() == pytest.approx(0.024714491, abs=1e-8)


def test_fresh_rows_go_to_the_cache_that_they_are_of():
    """NC-6: picks 0, 1 and 3 of {1, 2, 3} and {-1, -2}, encoded as ten times what was stored."""
    caches = [cache_of(3, 1), cache_of(2, 1)]
    group = filled(caches, ([7, 2, 8], [1.0, 2, 3]), ([1, 4], [-1.0, -2]))
    assert group.ids(torch.arange(5)).tolist() == [7, 2, 8, 1, 4]
    picks = group.ids(tensor([0, 1, 3]))
    group.write(picks, group[picks])
    assert caches[0].table.embeddings.flatten().tolist() == [10, 20, 3]
    assert caches[1].table.embeddings.flatten().tolist() == [-10, -2]
    assert group.rows(tensor([3, 0, 4, 2])).flatten().tolist() == [-10, 10, -2, 3]


@pytest.mark.parametrize("kind", ["cached", "index", "quadratic"])
def test_draws_are_those_of_one_cache_with_all_rows(kind):
    """Also where a block of rows begins in one cache and ends in the next, and as rows change."""
    noise = torch.Generator().manual_seed(0)
    ids, rows = torch.randperm(999, generator=noise)[:500], torch.randn(500, D, generator=noise)
    one, group = cache_of(500), SideBySide([cache_of(300), cache_of(77), cache_of(123)])
    bounds = [slice(300), slice(300, 377), slice(377, 500)]
    build = {
        "cached": lambda store: nc.CachedSoftmax(store, 3),
        "index": lambda store: nc.DynamicIndex(store, 3),
        "quadratic": lambda store: nc.quadratic(store, 3),
    }[kind]
    both = [build(one), build(group)]
    for step in range(2):
        for number, its in enumerate(bounds):
            group.receive(ids[its], rows[its], into=number)
            group.write(ids[its], (1 + step) * rows[its].to(F64))
        one.receive(ids, rows)
        one.write(ids, (1 + step) * rows.to(F64))
        request = request_of(rows[:6].to(F64), ids[:6])
        drawn = [draw(each, request, torch.Generator().manual_seed(1)) for each in both]
        assert torch.equal(drawn[0].ids, drawn[1].ids)
        torch.testing.assert_close(drawn[0].log_weight, drawn[1].log_weight)


def test_sums_over_rows_hear_of_each_change_where_it_stands():
    noise = torch.Generator().manual_seed(0)
    ids, rows = torch.arange(500), torch.randn(500, D, generator=noise, dtype=F64)
    group = SideBySide([cache_of(300), cache_of(200)])
    for number, its in enumerate((slice(300), slice(300, 500))):
        group.receive(ids[its], rows[its], into=number)
        group.write(ids[its], rows[its])
    request, sampler = request_of(rows[:6], ids[:6]), nc.quadratic(group, 3)
    before = propose(sampler, request, torch.Generator()).log_prob(ids)
    few = tensor([7, 310, 420])
    group.write(few, 2 * rows[few])
    found, wanted = (
        propose(each, request, torch.Generator()).log_prob(ids)
        for each in (sampler, nc.quadratic(group, 3))
    )
    assert not torch.allclose(found, before)
    torch.testing.assert_close(found, wanted)


def test_an_item_stays_in_its_cache_and_has_one_row():
    group = filled([cache_of(2), cache_of(2)], ([3, 4], [[1.0] * D] * 2), ([5], [[1.0] * D]))
    group.receive(tensor([3, 6]), torch.full((2, D), 10.0, dtype=F64), into=1)
    group.commit()
    assert group.caches[0].ring.held.tolist() == [3, 4]
    assert sorted(group.caches[1].ring.held.tolist()) == [5, 6]
    group.receive(tensor([8]), torch.ones(1, D, dtype=F64))
    group.commit()
    assert sorted(group.caches[0].ring.held.tolist()) == [3, 8], "3 came again, 4 has left"
    assert group.slots(tensor([3, 4, 6])).ge(0).tolist() == [True, False, True]


def test_features_of_texts_come_back_in_the_order_they_are_asked_for():
    group = SideBySide([cache_of(2), cache_of(2)])
    group.receive(tensor([1, 2]), Bags(tensor([7, 8, 9]), tensor([0, 2])))
    group.receive(tensor([3]), Bags(tensor([4, 5, 6]), tensor([0])), into=1)
    found = group[tensor([3, 2, 1])]
    assert found.tokens.tolist() == [4, 5, 6, 9, 7, 8]
    assert found.starts.tolist() == [0, 3, 4]


def test_weights_are_those_of_each_cache():
    caches = [cache_of(2, row_weight="uniform", num_items=10), cache_of(2, row_weight="dedup")]
    group = filled(caches, ([3, 4], [[1.0] * D] * 2), ([5, 6], [[1.0] * D] * 2))
    group.commit()
    assert group.log_weights.exp().tolist()[:2] == pytest.approx([5, 5])
    assert torch.equal(group.log_weights[2:], caches[1].log_weights)
    assert SideBySide([cache_of(2), cache_of(2)]).log_weights is None


class Training:
    """Two streams into two caches, and a plain loop over them."""

    def __init__(self):
        torch.manual_seed(0)
        self.tower = nn.Linear(6, D, dtype=F64)
        self.group = SideBySide([nc.StreamingCache(9, D, dtype=F64), cache_of(5)])
        sampler = nc.SharedDraws(nc.CachedSoftmax(self.group, 3))
        self.loss_fn = nc.SoftmaxLoss(self.tower, self.group, sampler, nc.DotScore(0.3))
        self.optimizer = torch.optim.Adam(self.loss_fn.parameters(), 1e-2)
        self.loss_fn.step_with(self.optimizer)

    def step(self, number):
        noise = torch.Generator().manual_seed(number)
        features = torch.randn(40, 6, dtype=F64, generator=torch.Generator().manual_seed(9))
        for cache, (low, high) in enumerate([(0, 25), (20, 40)]):
            seen = torch.randint(low, high, (4,), generator=noise)
            self.group.receive(seen, features[seen], into=cache)
        loss = self.loss_fn(self.tower(features[seen] + 0.1), seen)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def test_a_resumed_run_is_the_straight_one():
    straight, resumed = Training(), Training()
    for number in range(4):
        straight.step(number)
    resumed.loss_fn.load_state_dict(straight.loss_fn.state_dict())
    resumed.optimizer.load_state_dict(deepcopy(straight.optimizer.state_dict()))
    after = [[run.step(number) for number in range(4, 9)] for run in (straight, resumed)]
    assert after[0] == after[1]
    assert all(after[0]), "there are negatives"
    assert torch.equal(straight.group.valid, resumed.group.valid)


def test_what_does_not_go_together_is_refused():
    cache = cache_of(2)
    for caches in ([], [cache, cache], [cache, cache_of(2, dim=D + 1)]):
        with pytest.raises(nc.InputError, match="different caches, all of one dim"):
            SideBySide(caches)
    group, other = SideBySide([cache, cache_of(3)]), SideBySide([cache_of(2)])
    with pytest.raises(nc.InputError, match="2 caches side by side"):
        group.load_state_dict(other.state_dict())
    with pytest.raises(nc.InputError, match="items that have come and not left"):
        group[tensor([1])]
