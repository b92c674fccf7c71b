"""Rules that build draws: per-query draws in columns, pooled draws, given negatives."""

import math

import torch

from negcache.exclusion import Exclusion
from negcache.protocols import Draw, Law
from negcache.shapes import Float, Int, Tensor


def use_columns(
    drawn: Int[Tensor, "B m"],
    log_weight: Float[Tensor, "B m"],
    log_z: Float[Tensor, "B"] | None = None,
    log_share: Float[Tensor, "B m"] | None = None,
    law: Law | None = None,
) -> Draw:
    """A draw from each query's own items, repeats allowed; every distinct item is listed once."""
    ids, columns = torch.unique(drawn, return_inverse=True)
    return Draw(ids, columns, log_weight, log_z, log_share, law)


def pool(
    draw: Draw, log_prob: Float[Tensor, "B M"], exclude: Exclusion, coverage: float = 1.0
) -> Draw:
    """Let each query's draws stand for every query of the batch.

    The weight of item j is ``log c_j - log(expected count of j in the pool)``, ``c_j`` the count
    seen and ``sum_b m q_b(j)`` the count expected; equal for all queries, -inf where j may not
    stand for one. Unbiased for every Z_b-.

    Args:
        draw: per-query draws in column form.
        log_prob: log q_b(j) for every query and every drawn id.
        exclude: what may not stand for each query.
        coverage: chance that the law reaches an item at all; each reached one stands for more.
    """
    assert draw.columns is not None
    alive = draw.log_weight != -torch.inf  # a NaN stays alive, to be seen
    seen = torch.bincount(draw.columns[alive], minlength=len(draw.ids)).to(log_prob.dtype)
    log_expected = math.log(alive.shape[1] * coverage) + torch.logsumexp(log_prob, dim=0)
    weight = torch.where(seen > 0, seen.log() - log_expected, -torch.inf)
    barred = exclude.mask(draw.ids)
    return Draw(draw.ids, None, weight.expand_as(barred).masked_fill(barred, -torch.inf))


def given(negatives: Int[Tensor, "B h"], exclude: Exclusion, dtype: torch.dtype) -> Draw:
    """The user's own negatives, each with weight 0: they stand for themselves alone.

    Padding (-1), excluded items and repeats within a row get weight -inf, and cost no encoding.
    """
    rows = torch.arange(len(negatives), device=negatives.device)[:, None].expand_as(negatives)
    ordered = negatives.sort(dim=1).values
    repeat = torch.zeros_like(ordered, dtype=torch.bool)
    repeat[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    dead = repeat | (ordered < 0) | exclude.contains(rows, ordered.clamp_min(0))
    ids = torch.unique(ordered[~dead])
    width = negatives.shape[1] if len(ids) else 0
    columns = torch.searchsorted(ids, ordered.contiguous()).clamp_(max=max(len(ids) - 1, 0))
    weight = torch.zeros(ordered.shape, dtype=dtype, device=ids.device)
    return Draw(ids, columns[:, :width], weight.masked_fill(dead, -torch.inf)[:, :width])
