"""How much of a gradient's noise is that of the sampled negatives, under laws that were not drawn.

A pool in which item j is expected e_j times estimates a query's gradient with an error whose square
is ``sum_j p_j^2 / e_j`` (embeddings of unit norm, draws as good as independent); the gradient
itself has the square ``(1 - p+)^2``. On the side of the items, p_j is the sum over the queries. One
drawn pool tells both sums for any other law: item j counts ``seen_j / e_j`` times.
"""

from typing import NamedTuple

import torch

from negcache.shapes import Float, Float64, Tensor


class Chances(NamedTuple):
    """What some queries make of a pool.

    Args:
        softmax: p of each item for each query, the positive in the sum.
        among: the same, of the negatives alone.
        missed: 1 - p+ of each query.
    """

    softmax: Float[Tensor, "b M"]
    among: Float[Tensor, "b M"]
    missed: Float[Tensor, "b"]


def chances(
    positive: Float[Tensor, "b"], logits: Float[Tensor, "b M"], log_weight: Float[Tensor, "M"]
) -> Chances:
    """From fresh scores; -inf among ``logits`` where an item may not stand.

    Args:
        log_weight: log of how many items each stands for.
    """
    log_rest = torch.logsumexp(logits + log_weight, dim=1)
    log_all = torch.logaddexp(log_rest, positive)
    within = log_rest.masked_fill(log_rest == -torch.inf, 0.0)
    return Chances(
        (logits - log_all[:, None]).exp(),
        (logits - within[:, None]).exp(),
        (log_rest - log_all).exp(),
    )


def relative_noise(
    found: Chances,
    stands_for: Float[Tensor, "M"],
    rarity: Float64[Tensor, "L M"],
    queries: int,
) -> Float64[Tensor, "L"]:
    """Noise of the negatives over the noise of the batch, in the square, under each of L laws.

    The mean of the sides of the queries and of the items.

    Args:
        found: of some of the queries.
        stands_for: how many items each of the pool stands for.
        rarity: 1 / e of each item under each law, or what that is to be expected.
        queries: of the whole batch, B.
    """
    p = found.softmax.double()
    signal = found.missed.double().square().sum().clamp_min(1e-30)
    squares = p.square().sum(dim=0)
    # of all B queries, from pairs among the b that were looked at
    pairs = (p.sum(dim=0).square() - squares).clamp_min(0) * ((queries - 1) / max(len(p) - 1, 1))
    per_item = stands_for.double() * rarity
    by_query = (per_item * squares).sum(dim=1) / signal
    by_item = (per_item * (squares + pairs)).sum(dim=1) / signal
    return (by_query + by_item) / 2
