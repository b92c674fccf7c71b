"""The batch's positives as negatives: what their popularity must be, and what has none."""

import warnings
from dataclasses import replace

import pytest
import torch
from roster import NUM_ITEMS, popularity, problem
from torch import nn

import negcache as nc
from negcache.draws import draw as draw_from

SAMPLERS = {
    "in_batch": nc.InBatch,
    "shared": lambda log_pi: nc.SharedDraws(
        nc.Uniform(range(len(log_pi)), 4), log_popularity=log_pi
    ),
}


@pytest.mark.parametrize("build", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize(
    ("wrong", "total"),
    [
        (popularity(NUM_ITEMS), 301.0),
        (torch.zeros(NUM_ITEMS), 300.0),
        ((popularity(NUM_ITEMS) * 2).log(), 2.0),
        ((popularity(NUM_ITEMS) / 2).log(), 0.5),
        (torch.full((NUM_ITEMS,), torch.nan), torch.nan),
    ],
    ids=["shares", "zeros", "twice", "half", "nan"],
)
def test_what_is_not_the_log_of_shares_is_refused(build, wrong, total):
    with pytest.raises(
        nc.InputError, match="log_popularity whose exp sums to about 1; got"
    ) as told:
        build(wrong)
    found = float(told.value.got.split()[3])
    assert found == pytest.approx(total, abs=1, nan_ok=True)


@pytest.mark.parametrize("build", SAMPLERS.values(), ids=SAMPLERS)
def test_smoothed_and_rough_shares_are_taken(build):
    counts = torch.zeros(NUM_ITEMS)
    counts[:20] = torch.arange(20.0)
    for shares in (counts.clamp_min(1) / counts.clamp_min(1).sum(), counts / counts.sum()):
        for rough in (0.8, 1.0, 1.2):
            assert build((shares * rough).log()).log_popularity is not None


def never_a_positive():
    """Popularities of a training set in which item 1, here a target, never occurs; in float64."""
    shares = popularity(NUM_ITEMS)
    shares[1] = 0
    return (shares / shares.sum()).log()


def test_in_batch_items_that_are_never_positives_stand_for_no_query():
    """Finite loss and weights; all other weights are as if they were alone."""
    request, items, _ = problem()
    log_pi = never_a_positive()
    draw = draw_from(nc.InBatch(log_pi), request, torch.Generator())
    assert (draw.log_weight[:, draw.ids == 1] == -torch.inf).all()
    others = draw.ids[draw.ids != 1]
    wanted = (-log_pi[others] - torch.tensor(4.0).log()).expand(5, -1)
    wanted = wanted.masked_fill(request.exclude.mask(others), -torch.inf)
    torch.testing.assert_close(draw.log_weight[:, draw.ids != 1], wanted)
    loss = nc.SoftmaxLoss(nn.Identity(), items, nc.InBatch(log_pi), request.score)
    assert loss(request.queries, request.positives).isfinite()


def test_a_target_that_neither_the_pool_nor_the_batch_reaches_stands_for_no_query():
    """Item 1 has no row in the partial store, and never was a positive."""
    request, items, _ = problem()
    request = replace(
        request, exclude=nc.exclusion.Exclusion.from_pairs(torch.arange(5), request.positives, 5)
    )
    store = nc.SubsetCache(NUM_ITEMS, 8, 150, dtype=torch.float64, seed=3)
    store.write(torch.arange(NUM_ITEMS), items)
    assert int(store.slots(torch.tensor([1]))) == -1
    sampler = nc.SharedDraws(nc.CachedSoftmax(store, 4), log_popularity=never_a_positive())
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    assert (draw.log_weight < torch.inf).all()
    assert (draw.log_weight[:, draw.ids == 1] == -torch.inf).all()


def test_a_batch_of_one_query_is_warned_of_once():
    request, items, _ = problem()
    sampler = nc.InBatch()
    loss = nc.SoftmaxLoss(nn.Identity(), items, sampler, request.score)
    with pytest.warns(UserWarning, match="a batch of one query has no negatives"):
        value = loss(request.queries[:1], request.positives[:1])
    assert value == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(request.queries[:1], request.positives[:1])
        draw_from(nc.InBatch(), request, torch.Generator())
