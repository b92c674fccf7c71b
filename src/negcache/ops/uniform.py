"""Uniform draws: from all ids but those that a query may not draw, and of several at once."""

import torch

from negcache.exclusion import Exclusion
from negcache.shapes import Float, Int, Tensor


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
