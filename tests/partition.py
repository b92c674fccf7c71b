"""The partition function over what a store holds, and what draws say of it."""

import math
from dataclasses import replace

import torch

from negcache.draws import draw, propose
from negcache.interfaces import Sampler, Store
from negcache.messages import Draw, Request
from negcache.testing import reference


def log_z_of_rows(request: Request, items: torch.Tensor, store: Store) -> torch.Tensor:
    """log of the sum of exp(s) over the items with a written row, each for 1 / coverage [B]."""
    unseen = torch.ones(len(items), dtype=torch.bool)
    unseen[store.ids(store.valid.nonzero().squeeze(1))] = False
    rows, ids = unseen.expand(len(request.positives), -1).nonzero(as_tuple=True)
    seen = replace(request, exclude=request.exclude.and_also(rows, ids))
    return reference.log_partition(seen, items) - math.log(store.coverage)


def log_z_of_draw(draw: Draw, request: Request, items: torch.Tensor) -> torch.Tensor:
    """What one draw makes of the partition function [B]."""
    logits = request.score(request.queries, items[draw.ids])
    if draw.columns is not None:
        logits = logits.gather(1, draw.columns)
    return torch.logsumexp(logits + draw.log_weight, dim=1)


def assert_unbiased(
    sampler: Sampler, request: Request, items: torch.Tensor, log_z: torch.Tensor, rounds: int
) -> None:
    """The mean of exp(estimate) is Z: within 4.5 of its own standard errors, for every query."""
    generator = torch.Generator().manual_seed(7)
    draws = [draw(sampler, request, generator) for _ in range(rounds)]
    estimates = torch.stack([log_z_of_draw(each, request, items) for each in draws])
    assert_mean(estimates, log_z)


def assert_mean(estimates: torch.Tensor, log_z: torch.Tensor) -> None:
    """The mean of exp(estimates) [rounds, B] is exp(log_z) [B]."""
    some = log_z > -torch.inf
    assert (estimates[:, ~some] == -torch.inf).all(), "nothing stands for a query without negatives"
    ratio = (estimates[:, some] - log_z[some]).exp()
    error = ratio.std(dim=0) / len(ratio) ** 0.5 + 1e-6
    z = ((ratio.mean(dim=0) - 1) / error).abs().max()
    assert z < 4.5, f"the partition estimate is unbiased (|z| = {z:.1f})"


def table_of(store: Store, items: torch.Tensor) -> torch.Tensor:
    """What the store remembers of every item; nan where it has no written row [N, D]."""
    table = torch.full_like(items, torch.nan)
    slots = store.valid.nonzero().squeeze(1)
    table[store.ids(slots)] = store.rows(slots)
    return table


def assert_rows_are_there(sampler: Sampler, request: Request, store: Store) -> None:
    """What counts for a query has a row in the store, and one that was written."""
    drawn = draw(sampler, request, torch.Generator().manual_seed(7))
    ids = drawn.ids if drawn.columns is None else drawn.ids[drawn.columns]
    slots = store.slots(ids.expand(drawn.log_weight.shape)[drawn.log_weight > -torch.inf])
    assert len(slots), "something counts"
    assert ((slots >= 0) & store.valid[slots.clamp_min(0)]).all(), "what counts has a row"


def log_prob(sampler: Sampler, request: Request, ids: torch.Tensor) -> torch.Tensor:
    """log q of these items under a sampler whose law needs no noise [B, M]."""
    return propose(sampler, request, torch.Generator()).log_prob(ids)
