"""How far the cluster proposal is from the softmax: gamma = max P / Q, and what follows from it."""

from typing import NamedTuple

import torch

from negcache.functional.cluster_draw import CellLaw
from negcache.shapes import Float64, Tensor


def log_gamma_bound(law: CellLaw, reach: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """An upper bound of log gamma from the cells alone.

    A member scores within ``reach r_c`` of its centre, so no ratio is above ``exp(reach r_max)``
    times Zhat over ``sum_c n_c exp(V_c - reach r_c)``. Never above the published
    ``2 reach r_max``. Infinite where a query may draw nothing.

    Args:
        law: what is proposed from.
        reach: how fast the logit of each query can change with distance: scale times norm.
    """
    away = reach[:, None] * law.cut.radius
    highest = away.masked_fill(law.log_masses == -torch.inf, -torch.inf).amax(dim=1)
    least = torch.logsumexp(law.log_masses - away, dim=1)
    return (highest + law.log_norm - least).nan_to_num(nan=torch.inf)


class Exact(NamedTuple):
    """By enumeration: log of max P / Q, and the share of moves that a chain at rest accepts."""

    log_gamma: Float64[Tensor, "B"]
    acceptance: Float64[Tensor, "B"]


def enumerate_chain(log_ratios: Float64[Tensor, "B N"], log_q: Float64[Tensor, "B N"]) -> Exact:
    """What independence chains do, from every item's t = s~ - V and log Q.

    -inf in both for what may not stand for the query.
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
