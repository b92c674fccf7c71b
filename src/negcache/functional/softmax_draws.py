"""Draws that come near a softmax of cached scores without its normaliser: how they are weighed."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from negcache.functional.draws import use_columns
from negcache.protocols import Draw
from negcache.shapes import Bool, Float64, Int, Tensor


def equal_shares(alive: Bool[Tensor, "B m"]) -> Float64[Tensor, "B m"]:
    """log-shares of draws that stand for as much as each other; -inf for the dead."""
    count = alive.sum(dim=1, keepdim=True).double()
    return (-count.log()).expand(alive.shape).masked_fill(~alive, -torch.inf)


def pinned_draw(
    ids: Int[Tensor, "B m"],
    scores: Float64[Tensor, "B m"],
    log_z: Float64[Tensor, "B"],
    log_share: Float64[Tensor, "B m"],
    dtype: torch.dtype,
) -> Draw:
    """Draws with an estimate of the partition beside them; for either estimator.

    Args:
        scores: s~ of each draw.
        log_z: estimate of log sum exp(s~) over the query's negatives.
        log_share: -inf where an item may not stand for the query.
        dtype: of the weights.
    """
    dead = log_share == -torch.inf
    weight = (log_z[:, None] + log_share - scores).masked_fill(dead, -torch.inf)
    return use_columns(ids, weight.to(dtype), log_z.to(dtype), log_share.to(dtype))


def plain_draw(ids: Int[Tensor, "B m"], alive: Bool[Tensor, "B m"], dtype: torch.dtype) -> Draw:
    """Draws that stand for themselves alone, each with weight 0."""
    weight = torch.zeros(alive.shape, dtype=dtype, device=alive.device)
    return use_columns(ids, weight.masked_fill(~alive, -torch.inf))


def highest_distinct(
    scores: Float64[Tensor, "B n"], slots: Int[Tensor, "B n"], count: int
) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
    """Columns of the ``count`` highest scores of distinct slots, and these; -inf: no more."""
    by_slot = slots.argsort(dim=1, stable=True)
    ordered = slots.gather(1, by_slot)
    repeat = torch.zeros_like(ordered, dtype=torch.bool)
    repeat[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeat = torch.zeros_like(repeat).scatter_(1, by_slot, repeat)
    best = scores.masked_fill(repeat, -torch.inf).topk(count, dim=1)
    return best.indices, best.values


def with_figures(draw: Draw, figures: Mapping[str, Tensor]) -> Draw:
    """The draw with the means of these figures; what is infinite or of nothing is left out."""
    means = {name: float(each.double().mean()) for name, each in figures.items() if each.numel()}
    return replace(draw, figures={k: v for k, v in means.items() if math.isfinite(v)})
