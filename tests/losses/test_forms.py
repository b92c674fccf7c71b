"""Several positives, the rest form and mini-batches: the same loss, however it is computed."""

import pytest
import torch
from setting import B, D, N, Setting
from torch import nn

import negcache as nc


def gradients(setting):
    parameters = [*setting.query_tower.parameters(), *setting.item_tower.parameters()]
    return [p.grad.clone() for p in parameters]


def test_several_positives_are_pick_all_labels():
    """The mean over a query's positives of -log softmax against the non-positives alone."""
    setting = Setting(nc.FullSoftmax)
    positives = torch.full((B, 4), -1)
    positives[:, 0], positives[::2, 2] = torch.arange(B), torch.arange(100, 100 + B)[::2]
    positives[0, 3] = 299
    features = torch.randn(B, D, generator=torch.Generator().manual_seed(0))
    setting.data.manual_seed(0)
    loss = setting.forward(positives=positives)
    score = setting.loss.score
    queries = score.embed(setting.query_tower(features))
    logits = score(queries, score.embed(setting.item_tower.net(setting.corpus)))
    losses = []
    for row in range(B):
        mine = [p for p in positives[row].tolist() if p >= 0]
        barred = {*mine, row, row + B, row + 2 * B}  # the known ones, and those of this batch
        others = logits[row, [y for y in range(N) if y not in barred]]
        each = [torch.logsumexp(torch.cat([logits[row, p][None], others]), 0) - logits[row, p]
                for p in mine]  # fmt: skip
        losses.append(torch.stack(each).mean())
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    ours, theirs = (
        torch.autograd.grad(x, setting.query_tower.weight)[0]
        for x in (loss, torch.stack(losses).mean())
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda cache: nc.SharedDraws(nc.CachedSoftmax(cache, 2)),
        lambda cache: nc.CachedRest(cache, 20),
        lambda cache: nc.InBatch(torch.zeros(N)),
        lambda cache: nc.SharedDraws(nc.Mixture(nc.CachedSoftmax(cache, 1), nc.Uniform(cache, 1))),
    ],
)
def test_one_positive_in_a_padded_row_is_that_positive(sampler):
    padded = torch.full((B, 3), -1)
    padded[:, 1] = torch.arange(B)
    one, other = Setting(sampler), Setting(sampler)
    for _ in range(3):
        torch.testing.assert_close(one.step(positives=padded), other.step())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_mini_batches_give_the_same_gradient_and_encode_each_item_twice(size):
    """Dropout draws its masks anew in the backward pass: from the state it had in the forward."""
    sampler = lambda cache: nc.SharedDraws(nc.CachedSoftmax(cache, 2))  # noqa: E731
    whole, parts = Setting(sampler), Setting(sampler, mini_batch_size=size)
    for setting in (whole, parts):
        setting.item_tower.with_gradient.clear()
        setting.forward().backward()
    for ours, theirs in zip(gradients(parts), gradients(whole), strict=True):
        torch.testing.assert_close(ours, theirs)
    rows = parts.item_tower.with_gradient
    assert max(rows) <= size
    assert sum(rows) == sum(whole.item_tower.with_gradient) * (1 if size == 1000 else 2)


def test_mini_batches_with_dropout_repeat_their_masks():
    setting = Setting(nc.FullSoftmax, dropout=0.5, mini_batch_size=50)
    seen = []
    setting.item_tower.net[0].register_forward_hook(lambda m, x, y: seen.append(y.detach() == 0))
    setting.forward().backward()
    assert len(seen) == 12
    first, again = seen[:6], seen[6:]
    assert all(any(torch.equal(a, b) for b in again) for a in first)


def test_the_rest_keeps_value_and_query_gradient_exact_on_a_fresh_cache():
    exact = Setting(nc.FullSoftmax)
    rest = Setting(lambda cache: nc.CachedRest(cache, 10), rho=1.0)
    for _ in range(3):  # rho 1: the cache is fresh at every step
        one, other = rest.forward(), exact.forward()
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)
        ours, theirs = (
            torch.autograd.grad(x, s.query_tower.weight, retain_graph=True)[0]
            for x, s in ((one, rest), (other, exact))
        )
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_the_item_side_of_the_rest_is_divided_by_the_chance_to_be_encoded_as_a_negative_only():
    """A positive that is encoded for sure keeps its gradient; a rare negative gets more of it."""
    setting = Setting(lambda cache: nc.CachedRest(cache, 10))
    draws = []
    own = setting.loss.sampler.draw
    setting.loss.sampler.draw = lambda *args: draws.append(own(*args)) or draws[-1]
    setting.forward()
    draw = draws[0]
    certain = torch.isin(draw.ids, torch.arange(B))
    assert (draw.rest.inclusion[certain] == 1).all()
    assert (draw.rest.inclusion[~certain] < 1).any()
    assert (draw.rest.inclusion > 0).all()


def test_a_query_without_any_positive_is_refused():
    setting = Setting(nc.FullSoftmax)
    positives = torch.arange(B)[:, None].clone()
    positives[3] = -1
    with pytest.raises(nc.InputError, match="a positive for every query"):
        setting.forward(positives=positives)


@pytest.mark.parametrize("size", [0, -3])
def test_a_mini_batch_of_nothing_is_refused(size):
    with pytest.raises(nc.InputError, match="mini_batch_size"):
        nc.SoftmaxLoss(
            nn.Linear(2, 2), torch.zeros(5, 2), nc.InBatch(), nc.DotScore(), mini_batch_size=size
        )
