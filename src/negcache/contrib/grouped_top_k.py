"""The negative cache as published code truncates it: the best row of each group of slots."""

import math

import torch

from negcache.draws import from_shares
from negcache.errors import InputError
from negcache.interfaces import Store
from negcache.messages import Draw, Request
from negcache.ops.cumulative import invert_cdf
from negcache.ops.two_stage import masked_chunks
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import refuse_shards, scored_rows


class GroupedTopK:
    """Draws from the softmax over the best row of each of k groups of consecutive slots.

    The partition is that of the k rows alone: another, truncated loss, not a faster sampler; the
    second best of a group is lost. Never unbiased. Holds [B, S].
    Source: google-research/negative_cache, its ``top_k``.

    Args:
        store: of S rows, a multiple of k.
        num_negatives: draws per query, m.
        k: groups.
    """

    has_density = False

    def __init__(self, store: Store, num_negatives: int, k: int) -> None:
        refuse_shards(store, "the best of groups", "use CachedSoftmax, which is exact")
        if num_negatives < 1 or not 1 <= k <= store.num_rows or store.num_rows % k:
            raise InputError(
                f"num_negatives of 1 or more, and a k that {store.num_rows} rows are a multiple of",
                f"{num_negatives} and {k}",
                "groups are of the same size",
            )
        self.store, self.num_negatives, self.k = store, num_negatives, k

    @torch.no_grad()
    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        rows = scored_rows(request, self.store)
        logits = torch.cat([each.clone() for _, each in masked_chunks(rows)], dim=1)
        scores, slots = grouped_top_k(logits, self.k)
        log_z = scores.logsumexp(dim=1)
        chosen = invert_cdf(scores, request.uniforms(generator, self.num_negatives))
        scores, slots = scores.gather(1, chosen), slots.gather(1, chosen)
        log_share = torch.full_like(scores, -math.log(self.num_negatives))
        log_share = log_share.masked_fill(scores == -torch.inf, -torch.inf)
        ids, dtype = self.store.ids(slots), request.queries.dtype
        return from_shares(self.store, ids, scores, log_z, log_share, dtype=dtype)


def grouped_top_k(
    scores: Float[Tensor, "B S"], k: int
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """The largest score of each of k groups of consecutive columns, and its column.

    Examples:
        >>> grouped_top_k(torch.tensor([[4.0, 1.0, 3.0, 2.0]]), 2)
        (tensor([[4., 3.]]), tensor([[0, 2]]))
    """
    best = scores.unflatten(1, (k, -1)).max(dim=2)
    first = torch.arange(0, scores.shape[1], scores.shape[1] // k, device=scores.device)
    return best.values, best.indices + first
