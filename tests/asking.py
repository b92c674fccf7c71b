"""A small loss in float64 whose cache is stale, and what may be asked of it."""

import torch
from torch import nn

import negcache as nc
from negcache.diagnosis import Settings

N, D, B = 60, 6, 8


def stale_loss(sampler=None, *, estimator=nc.log_q_corrected, score=None, move=0.3):
    """Filled, then the item tower moves on: rows are as they were before."""
    noise = torch.Generator().manual_seed(1)
    corpus = torch.randn(N, D, generator=noise, dtype=torch.float64)
    torch.manual_seed(2)
    tower = nn.Sequential(nn.Dropout(0.5), nn.Linear(D, D)).double()
    known = nc.KnownPositives.from_pairs(torch.arange(B).repeat(2), torch.arange(2 * B))
    store = nc.DenseCache(N, D, refresh=0.1)
    build = sampler or (lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 2)))
    score = score or nc.DotScore(0.3)
    loss_fn = nc.SoftmaxLoss(
        tower, corpus, build(store), score, known_positives=known, estimator=estimator
    )
    loss_fn.fill_cache()
    with torch.no_grad():
        for parameter in tower.parameters():
            step = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
            parameter += move * step
    return loss_fn


def asked(several=False):
    """Queries, positives, rows of the known positives."""
    noise = torch.Generator().manual_seed(3)
    queries = torch.randn(B, D, generator=noise, dtype=torch.float64)
    positives = torch.arange(B)
    if several:
        positives = torch.stack([positives, torch.arange(B, 2 * B)], dim=1)
        positives[0, 1] = -1
    return queries, positives, torch.arange(B)


def plain(repeats, **more):
    """No sampler but those that are named."""
    return Settings(repeats, advise=False, **more)
