"""How far the cluster proposal is from the softmax: gamma = max P / Q, and what follows from it."""

from typing import NamedTuple

import torch

from negcache.distributed import ALONE, Mesh
from negcache.ops.cluster_draw import ClusterLaw
from negcache.ops.shards import Masses
from negcache.shapes import Float64, Tensor


def log_gamma_bound(
    law: ClusterLaw, lipschitz: Float64[Tensor, "B"], mesh: Mesh = ALONE
) -> Float64[Tensor, "B"]:
    """An upper bound of log gamma from the clusters alone.

    A member scores within ``lipschitz r_c`` of its centre, so no ratio is above
    ``exp(lipschitz r_max)`` times Zhat over ``sum_c n_c exp(V_c - lipschitz r_c)``. Never above the
    published ``2 lipschitz r_max``. Infinite where a query may draw nothing.

    Args:
        law: what is proposed from.
        lipschitz: how fast the logit of each query can change with distance: scale times norm.
        mesh: processes, each with a law over clusters of its own.
    """
    away = lipschitz[:, None] * law.partition.radius
    highest = away.masked_fill(law.log_masses == -torch.inf, -torch.inf).amax(dim=1)
    least = torch.logsumexp(law.log_masses - away, dim=1)
    log_norm, least = (Masses(mesh, each).log_total for each in (law.log_norm, least))
    return (mesh.largest(highest) + log_norm - least).nan_to_num(nan=torch.inf)


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
