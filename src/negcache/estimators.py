"""Fresh scores and a draw's weights become the terms of a partition function, and a loss.

An estimator returns log-terms ``[B, k]`` with ``logsumexp ~ log Z_b-``. Terms of several draws
over disjoint items are concatenated, and ``softmax_loss`` does the rest.
"""

import torch

from negcache.errors import InputError
from negcache.messages import Draw
from negcache.ops.pool_sum import log_sum
from negcache.shapes import Float, Tensor


def softmax_loss(
    positive_logits: Float[Tensor, "B *p"], log_terms: Float[Tensor, "B k"]
) -> Float[Tensor, "B *p"]:
    """-log p+ of each positive against the terms: ``logsumexp([s+, terms]) - s+``.

    With every non-positive item as a term this is ``torch.nn.functional.cross_entropy`` over all
    items. Terms of -inf take no part; a query without any has loss 0. Several positives of a query
    never compete with each other (pick-all-labels).
    """
    log_z = (
        log_sum(log_terms).reshape(-1, *[1] * (positive_logits.ndim - 1)).expand_as(positive_logits)
    )
    return torch.logaddexp(positive_logits, log_z) - positive_logits


def log_q_corrected(logits: Float[Tensor, "B k"], draw: Draw) -> Float[Tensor, "B k"]:
    """``s_j + w_j``: unbiased for Z- whatever the staleness of the law that drew.

    ``w_j = -log(expected number of times j is drawn)``, and the fresh score replaces the stale one.
    Use it for many draws per query. Source: Bengio & Senecal 2008; Blanc & Rendle 2018, section 2.
    """
    return draw.weighted(logits)


def cached_partition(logits: Float[Tensor, "B k"], draw: Draw) -> Float[Tensor, "B k"]:
    """``log Z~ + log share_j + (s_j - sg(s_j))``: the partition is the sampler's own estimate.

    The gradient is the surrogate of the negative cache, ``(1 - p~+) (sum_j share_j grad s_j -
    grad s+)``, and the value is ``softplus(log Z~ - s+)``. Use it for one draw per query, or a
    fresh cache. Source: Lindgren et al. 2021.

    Raises:
        InputError: the draw carries no estimate of its own (pooled draws do not).
    """
    if draw.log_z is None or draw.log_share is None:
        raise InputError(
            "a draw with log_z and log_share for the cached_partition estimator",
            "a draw without them",
            "use log_q_corrected, or a per-query sampler such as CachedSoftmax",
        )
    return (draw.log_z[:, None] + draw.log_share) + (logits - logits.detach())
