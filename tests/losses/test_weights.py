"""Weights of queries, reductions, and dimensions that do not fit."""

import pytest
import torch
from setting import B, D, N
from torch import nn
from torch.nn import functional as F

import negcache as nc
from negcache.validation import check_weighting


def full():
    """The loss whose draw is every item: cross-entropy itself."""
    torch.manual_seed(0)
    corpus = torch.randn(N, D)
    tower = nn.Linear(D, D)
    loss_fn = nc.SoftmaxLoss(tower, corpus, nc.FullSoftmax(corpus), nc.DotScore(0.5))
    queries = torch.randn(B, D, requires_grad=True)
    return loss_fn, queries, torch.randint(N, (B,))


def exact(loss_fn, queries, positives):
    items = loss_fn.score.embed(loss_fn.item_tower(loss_fn.corpus))
    logits = loss_fn.score(loss_fn.score.embed(queries), items)
    return F.cross_entropy(logits, positives, reduction="none")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_are_those_of_cross_entropy(reduction, weighted):
    loss_fn, queries, positives = full()
    weight = torch.rand(B) if weighted else None
    ours = loss_fn(queries, positives, weight=weight, reduction=reduction)
    each = exact(loss_fn, queries, positives)
    used = torch.ones(B) if weight is None else weight
    wanted = {"mean": (each * used).sum() / used.sum(), "sum": (each * used).sum()}
    torch.testing.assert_close(ours, wanted.get(reduction, each * used))
    gradients = [
        torch.autograd.grad(loss.sum(), [queries, *loss_fn.item_tower.parameters()])
        for loss in (ours, wanted.get(reduction, each * used))
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_bad_weights_and_reductions_are_refused_before_anything_is_encoded():
    loss_fn, queries, positives = full()
    loss_fn.item_tower.register_forward_hook(lambda *_: pytest.fail("encoded"))
    with pytest.raises(nc.InputError, match="a finite weight"):
        loss_fn(queries, positives, weight=torch.full((B,), torch.nan))
    for wrong in (torch.ones(B - 1), torch.ones(B, 1)):
        with pytest.raises(nc.InputError, match="a finite weight for each of the 16"):
            check_weighting(wrong, "mean", B)
    with pytest.raises(nc.InputError, match="reduction"):
        loss_fn(queries, positives, reduction="average")


@pytest.mark.parametrize("kind", ["loss", "head"])
def test_weights_without_a_sum_have_no_mean(kind):
    loss_fn, queries, positives = full()
    module = loss_fn if kind == "loss" else nc.SoftmaxHead(N, D)
    signs = torch.ones(B)
    signs[::2] = -1
    for weight in (torch.zeros(B), signs):
        with pytest.raises(nc.InputError, match="a sum to divide by; got a sum of 0"):
            module(queries, positives, weight=weight)
    assert module(queries, positives, weight=torch.zeros(B), reduction="sum") == 0


def test_dimensions_that_do_not_fit_are_refused():
    corpus, positives = torch.randn(N, D), torch.arange(B)
    store = nc.DenseCache(N, D + 1)
    loss_fn = nc.SoftmaxLoss(nn.Linear(D, D), corpus, nc.CachedSoftmax(store, 1), nc.DotScore())
    loss_fn.item_tower.register_forward_hook(lambda *_: pytest.fail("encoded"))
    with pytest.raises(nc.InputError, match=r"rows of the store of the queries' 8 dimensions"):
        loss_fn(torch.randn(B, D), positives)
    other = nc.SoftmaxLoss(nn.Linear(D, D + 2), corpus, nc.Uniform(corpus, 3), nc.DotScore())
    with pytest.raises(nc.InputError, match=r"embeddings of items of the queries' 8 dimensions"):
        other(torch.randn(B, D), positives)
