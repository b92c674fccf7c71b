"""``SoftmaxLoss`` and ``SoftmaxHead`` are siblings over one step: equal losses and gradients."""

import copy
from functools import partial

import pytest
import torch

import negcache as nc

N, D, B, M = 300, 6, 8, 5

SAMPLERS = {
    "cached": nc.CachedSoftmax,
    "quadratic": nc.quadratic,
    "random_features": partial(nc.rf_softmax, num_frequencies=16, nu=3.0),
    "uniform": nc.Uniform,
    "shared": lambda table, m: nc.SharedDraws(nc.Uniform(table, m)),
    "clusters": lambda table, m: nc.DynamicIndex(table, m),
    "full": lambda table, m: nc.FullSoftmax(table),
}


def siblings(sampler, normalize=False, absolute=False):
    """A head without bias, and a loss over an embedding with the head's vectors."""
    torch.manual_seed(0)
    settings = {"normalize": normalize, "absolute": absolute, "temperature": 0.3}
    head = nc.SoftmaxHead(N, D, sampler, M, bias=False, seed=3, dtype=torch.float64, **settings)
    tower = copy.deepcopy(head.classes)
    score = nc.DotScore(0.3, normalize=normalize, absolute=absolute)
    table = nc.LiveTable(tower, score.embed if normalize else None)
    loss_fn = nc.SoftmaxLoss(tower, torch.arange(N), sampler(table, M), score, seed=3)
    return head, loss_fn


def batch(noise, several):
    queries = torch.randn(B, D, generator=noise, dtype=torch.float64)
    if not several:
        return queries, torch.randint(N, (B,), generator=noise)
    positives = torch.randint(N, (B, 3), generator=noise)
    positives[::2, 1:] = -1
    return queries, positives


def gradients(loss, queries, weight):
    """The loss, and its gradients to the queries and to all vectors."""
    found = torch.autograd.grad(loss, [queries, weight])
    return [loss.detach(), found[0], found[1].to_dense()]


def assert_siblings(head, loss_fn, several=False, steps=4):
    """Also after the optimizer has moved the vectors, and the indexes with them."""
    noise = torch.Generator().manual_seed(5)
    weights = head.classes.weight, loss_fn.item_tower.weight
    for _ in range(steps):
        queries, positives = batch(noise, several)
        found = []
        for each, weight in zip((head, loss_fn), weights, strict=True):
            rows = queries.clone().requires_grad_()
            loss = (
                each(rows, targets=positives) if several and each is head else each(rows, positives)
            )
            found.append(gradients(loss, rows, weight))
            with torch.no_grad():
                weight -= 0.1 * found[-1][2]
        loss_fn.step()
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
        assert found[0][2].any()
        one, other = head.report(), loss_fn.report()
        assert one.encoded_grad == other.encoded_grad
        assert one.masked_hits == other.masked_hits
        assert one.effective_sample_size == pytest.approx(other.effective_sample_size)
    assert torch.equal(*(each.generators.get_state() for each in (head, loss_fn)))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_on_the_same_draw_loss_and_gradients_are_the_same(name, several):
    normalize = name == "random_features"
    assert_siblings(*siblings(SAMPLERS[name], normalize=normalize), several)


def test_absolute_softmax_too():
    assert_siblings(*siblings(nc.quadratic, absolute=True))


def test_another_seed_is_another_draw():
    head, loss_fn = siblings(nc.Uniform)
    loss_fn.generators.training.manual_seed(4)
    with pytest.raises(AssertionError):
        assert_siblings(head, loss_fn)
