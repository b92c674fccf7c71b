"""Uniform draws: from all ids but those that a query may not draw, and of several at once."""

import torch

from negcache.exclusion import Exclusion
from negcache.shapes import Float, Float64, Int, Tensor


def draw_allowed(
    exclude: Exclusion, num_items: int, noise: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """Uniform among the ids that each query may draw; arbitrary where it may draw nothing."""
    ranks = (noise * (num_items - exclude.counts)[:, None]).long()
    return exclude.allowed(ranks, num_items)


def draw_distinct(total: int, count: int, generator: torch.Generator) -> Int[Tensor, "n"]:
    """``count`` of the numbers below ``total``, or all if they are fewer; ascending.

    Every set of so many is as likely; memory and work grow with ``count`` alone.
    """
    found = torch.arange(total if total <= 4 * count else 0)
    while len(found) < min(count, total):
        more = torch.randint(total, (count,), generator=generator)
        found = torch.cat([found, more]).unique()
    return found[torch.randperm(len(found), generator=generator)[:count]].sort().values


def log_sum_of_allowed(
    log_weight: Float[Tensor, "B"], exclude: Exclusion, ids: Int[Tensor, "M"]
) -> Float64[Tensor, "M"]:
    """log of the sum of weights of the queries that each of these distinct items may stand for.

    -inf where it may stand for none. Costs B + M and the few pairs that are excluded.
    """
    weight = log_weight.double().exp()
    rows, columns = exclude.among(ids)
    total = weight.sum().expand(len(ids)).index_add(0, columns, -weight[rows])
    none = torch.bincount(columns, minlength=len(ids)) == len(weight)
    return total.clamp_min(0).log().masked_fill(none, -torch.inf)
