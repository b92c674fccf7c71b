"""Uniform draws from all ids but those that a query may not draw."""

from negcache.exclusion import Exclusion
from negcache.shapes import Float, Int, Tensor


def draw_allowed(
    exclude: Exclusion, num_items: int, noise: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """Uniform among the ids that each query may draw; arbitrary where it may draw nothing."""
    ranks = (noise * (num_items - exclude.counts)[:, None]).long()
    return exclude.allowed(ranks, num_items)
