"""Slow, exact, float64, loops welcome: the truth that tests and docs share."""

import math

import torch

from negcache.exclusion import Exclusion
from negcache.messages import Request
from negcache.shapes import Float, Float64, Int, Tensor


def negatives_of(row: int, num_items: int, exclude: Exclusion) -> list[int]:
    """The items that may stand for a query: everything but its excluded ids."""
    lo, hi = int(exclude.offsets[row]), int(exclude.offsets[row + 1])
    excluded = set(exclude.ids[lo:hi].tolist())
    return [item for item in range(num_items) if item not in excluded]


def full_softmax_losses(
    logits: Float[Tensor, "B N"], positives: Int[Tensor, "B"], exclude: Exclusion
) -> Float[Tensor, "B"]:
    """-log p+ of each query over its positive and every item it may draw; gradient flows.

    Source: methods of the softmax itself, L = -s+ + log(exp(s+) + sum over negatives of exp(s)).
    """
    losses = []
    for row, positive in enumerate(positives.tolist()):
        kept = [positive, *negatives_of(row, logits.shape[1], exclude)]
        losses.append(torch.logsumexp(logits[row, kept], dim=0) - logits[row, positive])
    return torch.stack(losses)


def softmax_law(request: Request, items: Float[Tensor, "N D"]) -> Float64[Tensor, "B N"]:
    """Probability that one exact draw for each query returns each item; 0 where it may not."""
    logits = request.score(request.queries, items).double()
    law = torch.zeros_like(logits)
    for row in range(len(logits)):
        kept = negatives_of(row, len(items), request.exclude)
        law[row, kept] = torch.softmax(logits[row, kept], dim=0)
    return law


def log_partition(request: Request, items: Float[Tensor, "N D"]) -> Float64[Tensor, "B"]:
    """log Z- of each query: log of the sum of exp(s) over every item it may draw."""
    logits = request.score(request.queries, items).double()
    rows = [
        torch.logsumexp(logits[row, negatives_of(row, len(items), request.exclude)], dim=0)
        for row in range(len(logits))
    ]
    return torch.stack(rows)


def surrogate(
    positive_logits: Float[Tensor, "B"],
    negative_logits: Float[Tensor, "B m"],
    log_z: Float[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """The published surrogate: ``sg(1 - p+) (mean_j s_j - s+)``. Only its gradient has a meaning.

    Args:
        negative_logits: fresh scores of items drawn from the cached softmax.
        log_z: log of the cached partition over the negatives.

    Source: Lindgren et al., NeurIPS 2021; google-research/negative_cache.
    """
    positive_share = torch.sigmoid(positive_logits - log_z).detach()
    return (1 - positive_share) * (negative_logits.mean(dim=1) - positive_logits)


def gumbel_argmax(
    scores: Float[Tensor, "B S"], noise: Float[Tensor, "B S"], scale: float = 1.0
) -> Int[Tensor, "B 1"]:
    """The arg-max of ``scale * scores + noise``: one exact draw if the noise is Gumbel."""
    return (scale * scores + noise).argmax(dim=1, keepdim=True)


def staleness(cached: Float[Tensor, "M D"], fresh: Float[Tensor, "M D"]) -> Float[Tensor, "M"]:
    """``||cached - fresh||^2 / ||fresh||^2``; infinite where a fresh row is 0 and the other not."""
    return torch.stack(
        [(old - new).square().sum() / new.square().sum() for old, new in zip(cached, fresh)]  # noqa: B905
    )


def saturation_share(num_items: int, ceiling: float = 16.6) -> float:
    """Chance that the largest of n Gumbel variates lies beyond what float32 noise can reach.

    Examples:
        >>> [round(saturation_share(n), 3) for n in (131_072, 1_000_000, 10_000_000)]
        [0.008, 0.06, 0.461]
    """
    return -math.expm1(-num_items * math.exp(-ceiling))
