"""Theorem 2.1 of Blanc & Rendle by enumeration: unbiased gradients need the softmax law itself."""

import itertools

import pytest
import torch
from partition import log_prob

import negcache as nc
from negcache.ops.kernels import Quadratic

N = 5


def setting():
    """A query, five items, the first the positive; all float64."""
    noise = torch.Generator().manual_seed(0)
    store = nc.DenseCache(N, 3, dtype=torch.float64)
    store.write(torch.arange(N), torch.randn(N, 3, generator=noise, dtype=torch.float64))
    query = torch.randn(1, 3, generator=noise, dtype=torch.float64)
    score = nc.DotScore(1.0, normalize=False).double().requires_grad_(False)
    zero = torch.zeros(1, dtype=torch.long)
    request = nc.messages.Request(
        query, score, zero, nc.exclusion.Exclusion.from_pairs(zero, zero, 1)
    )
    return store, request, score(query, store.table.embeddings)[0]


def expected_gradient(log_q, logits, m, keep_hits=False):
    """Over all ordered draws of m items: the mean gradient with respect to the five logits."""
    total = torch.zeros(N, dtype=torch.float64)
    for drawn in itertools.product(range(N), repeat=m):
        drawn = torch.tensor(drawn)
        chance = log_q[drawn].sum().exp()
        if chance == 0:
            continue
        s = logits.clone().requires_grad_()
        weight = -log_q[drawn] - torch.tensor(m).double().log()
        if not keep_hits:
            weight = weight.masked_fill(drawn == 0, -torch.inf)
        loss = nc.estimators.softmax_loss(s[:1], (s[drawn] + weight)[None])
        total += chance * torch.autograd.grad(loss.sum(), s)[0]
    return total


def error(log_q, m, **how):
    _, _, logits = setting()
    truth = logits.softmax(0) - torch.eye(N, dtype=torch.float64)[0]
    return float((expected_gradient(log_q, logits, m, **how) - truth).norm())


def law(sampler):
    store, request, _ = setting()
    return log_prob(sampler(store), request, torch.arange(N))[0]


@pytest.mark.parametrize("m", [1, 2])
def test_the_softmax_over_the_negatives_is_unbiased(m):
    assert error(law(lambda store: nc.CachedSoftmax(store, 1)), m) < 1e-12


@pytest.mark.parametrize(
    "sampler",
    [
        lambda store: nc.Uniform(store, 1),
        lambda store: nc.quadratic(store, 1),
        lambda store: nc.samplers.ExactKernel(store, 1, Quadratic(1.0)),
    ],
    ids=["uniform", "quadratic", "flat_quadratic"],
)
def test_any_other_law_is_biased_and_less_so_with_more_draws(sampler):
    one, two, four = (error(law(sampler), m) for m in (1, 2, 4))
    assert one > 0.05
    assert one > two > four > 1e-3


def test_hits_on_the_positive_are_masked_never_kept():
    """With the positive in the law: masked hits leave Z- unbiased, kept ones err for good."""
    _, _, logits = setting()
    with_positive = logits.log_softmax(0)
    seen = with_positive[1:].exp() * (logits[1:] - with_positive[1:]).exp()
    torch.testing.assert_close(seen.sum(), logits[1:].exp().sum(), atol=1e-12, rtol=0)
    masked = [error(with_positive, m) for m in (1, 2, 4)]
    kept = [error(with_positive, m, keep_hits=True) for m in (1, 2, 4)]
    assert masked[0] > masked[1] > masked[2]
    assert masked[2] < 0.5 * masked[0]
    assert max(kept) - min(kept) < 1e-9
    assert kept[0] > 0.05
