"""How often each item is to be expected of all queries' laws: a sum for each cluster, once."""

import torch

from negcache.ops.cluster_draw import ClusterLaw, clusters_of_one_row
from negcache.ops.cpu_chances import Chances
from negcache.shapes import Float, Float64, Int, Tensor

LOST = 1e-6
"""Below this share of what is subtracted from, a difference is worked out anew."""


def log_expected(
    law: ClusterLaw, places: Int[Tensor, "M"], log_share: Float[Tensor, "B"] | None = None
) -> Float64[Tensor, "M"]:
    """log of the sum over the queries of Q(place), each times its share; -inf at place -1.

    Members of a cluster are as likely as each other, for every query that may draw them: one sum
    over the queries of which it has all members, and for each item those pairs of a query and a
    cluster of which some members are excluded.

    Args:
        law: of clusters that all queries share.
        places: distinct but for -1.
        log_share: log of each query's share; None: 0.
    """
    norm = law.log_norm
    share = torch.zeros_like(norm) if log_share is None else log_share.double()
    whole = _whole(law, log_share) / law.partition.size[0].clamp_min(1)
    of_pairs, pairs = _by_pair(law, share)
    less, width = law.lessened, law.partition.values.shape[1]
    clusters = clusters_of_one_row(law.partition, places.clamp_min(0))
    rows, columns = law.exclude.among(places)
    keys = rows * width + clusters[columns]
    gone = pairs[torch.searchsorted(less.keys, keys)] if len(keys) else pairs[:0]
    added = of_pairs[clusters]
    left = added.index_add(0, columns, -gone)
    total = whole[clusters] + left.clamp_min(0.0)
    lost = (total < LOST * added).nonzero().squeeze(1)
    found = total.log()
    if len(lost):
        chance = law.log_chance(places[lost]) + share[:, None]
        found[lost] = torch.logsumexp(chance, dim=0)
    return found.masked_fill(places < 0, -torch.inf)


def _whole(law: ClusterLaw, log_share: Float[Tensor, "B"] | None) -> Float64[Tensor, "W"]:
    """Of each cluster, the sum over the queries that may draw all of its members."""
    chances = law.chances
    if log_share is None and isinstance(chances, Chances):
        return chances.expected
    less, table = law.lessened, law.table
    share = torch.zeros_like(law.log_norm) if log_share is None else log_share.double()
    masses = table.masses[less.where]
    table.masses[less.where] = 0.0
    whole = table.expected(share.exp())[: law.partition.values.shape[1]]
    table.masses[less.where] = masses
    return whole


def _by_pair(
    law: ClusterLaw, share: Float64[Tensor, "B"]
) -> tuple[Float64[Tensor, "W"], Float64[Tensor, "P"]]:
    """Of a member of each cluster: the sum over the queries that may not draw all of them.

    Returns:
        It, and the same pair by pair; 0 for a pair of which nobody is left.
    """
    less, values = law.lessened, law.partition.values
    chance = values[less.where] - law.log_norm[less.rows] + share[less.rows]
    pairs = chance.exp().where(less.left > 0, 0.0)
    return pairs.new_zeros(values.shape[1]).index_add_(0, less.columns, pairs), pairs
