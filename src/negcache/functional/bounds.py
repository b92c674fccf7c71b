"""How far the cluster proposal is from the softmax: gamma = max P / Q, and what follows from it."""

from typing import NamedTuple

import torch

from negcache.functional.cluster_draw import Cut, log_masses, log_norm, raised
from negcache.shapes import Float64, Tensor


def log_gamma_bound(cut: Cut, left: Cut, reach: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """An upper bound of log gamma from the cells alone.

    A member scores within ``reach r_c`` of its centre, so no ratio is above ``exp(reach r_max)``
    times Zhat over ``sum_c n_c exp(V_c - reach r_c)``. Never above the published
    ``2 reach r_max`` where nothing is barred.

    Args:
        cut: what is proposed from.
        left: the same with the items that may stand for the query alone.
        reach: how fast the logit of each query can change with distance: scale times norm.
    """
    highest = raised(left, reach).values - left.values
    highest = highest.masked_fill((left.size == 0) | highest.isnan(), -torch.inf).amax(dim=1)
    least = torch.logsumexp(log_masses(raised(left, -reach)), dim=1)
    return (highest + log_norm(cut) - least).nan_to_num(nan=torch.inf)


class Exact(NamedTuple):
    """By enumeration: log of max P / Q, and the share of moves that a chain at rest accepts."""

    log_gamma: Float64[Tensor, "B"]
    acceptance: Float64[Tensor, "B"]


def enumerate_chain(log_ratios: Float64[Tensor, "B N"], log_q: Float64[Tensor, "B N"]) -> Exact:
    """What independence chains do, from every item's t = s~ - V and log Q.

    -inf in both for what is not an item of the query; log Q of the others need not sum to 1: what
    is left is the chance of a proposal that is barred, and refused.
    """
    ascending = log_ratios.argsort(dim=1)
    chance = log_q.gather(1, ascending).exp()
    ratio = log_ratios.gather(1, ascending)
    top = ratio[:, -1:].clamp_min(torch.finfo(ratio.dtype).min)
    weight = (ratio - top).exp()
    total = (chance * weight).sum(dim=1)
    above = chance.flip(1).cumsum(1).flip(1) - chance
    accepted = (chance * weight * (chance + 2 * above)).sum(dim=1) / total
    return Exact(-total.log(), accepted.nan_to_num(nan=0.0))
