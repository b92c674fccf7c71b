"""How far a gradient from sampled negatives is off, under laws that were not drawn.

A pool in which item j is to be expected e_j times holds it with the chance ``c = 1 - exp(-e_j)``.
Where it does, it counts as p / c, and the softmax over what was drawn makes ``p / (p + c (1 - p))``
of it; where it does not, p is missing. The mean square of both over ``(1 - p+)^2``, the square of
the gradient itself, is the noise (embeddings of unit norm). For small p it is ``sum p_j^2 / e_j``;
however rare a hard negative is, it cannot err by more than p. On the side of the items the errors
of all queries add up. One drawn pool tells the sums for any other law: item j stands for
``seen_j / e_j`` items.
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
    # of all B queries, from pairs among the b that were looked at
    scale = (queries - 1) / max(len(p) - 1, 1)
    noise = [_errors(p, -torch.expm1(-1 / each), scale) for each in rarity]
    return torch.stack([(stands_for.double() * each).sum() for each in noise]) / signal


def _errors(
    p: Float64[Tensor, "b M"], chance: Float64[Tensor, "M"], scale: float
) -> Float64[Tensor, "M"]:
    """Mean square of what each item errs by, which is drawn with a chance, or missed.

    Args:
        scale: of pairs of queries.
    """
    drawn = p * (1 - p) * (1 - chance) / (p + chance * (1 - p)).clamp_min(1e-30)

    def squares(errors: Tensor) -> Tensor:
        """The mean of the sides of the queries and of the items."""
        own = errors.square().sum(dim=0)
        pairs = (errors.sum(dim=0).square() - own).clamp_min(0) * scale
        return own + pairs / 2

    return chance * squares(drawn) + (1 - chance) * squares(p)
