"""The whole cache in the denominator, the most wanted items encoded."""

import torch

from negcache.errors import InputError
from negcache.functional.rest import draw_with_rest
from negcache.protocols import Cache, Draw, Request


class CachedRest:
    """Distinct items for the whole batch; cached rows that were not encoded stay in the sum.

    An item is encoded with chance ``min(1, c sum_b p~_b(y))``, by systematic sampling. On a fresh
    cache loss and query gradient are exact for every draw, item gradients unbiased; on a stale one
    the rest carries stale scores: the low-variance end of the scale, where ``SharedDraws`` with
    ``corrected`` is the unbiased one. Costs a second pass over the cache. ``corrected`` only.

    Args:
        cache: a row for every item.
        num_encoded: items encoded a step beside the batch's positives, on average.
    """

    has_density = False

    def __init__(self, cache: Cache, num_encoded: int) -> None:
        if not 1 <= num_encoded <= cache.num_items:
            raise InputError(
                f"num_encoded between 1 and the {cache.num_items} cached items",
                f"{num_encoded}",
                "encode fewer, or use FullSoftmax",
            )
        if cache.coverage < 1:
            raise InputError(
                "a cache with a row for every item",
                f"one that holds {cache.coverage:.1%} of them",
                "use DenseCache, or SharedDraws(CachedSoftmax(...)) on this one",
            )
        self.cache, self.num_encoded = cache, num_encoded

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        if getattr(request.score, "absolute", False):
            raise InputError(
                "a score that is linear in the query", "absolute=True", "use SharedDraws"
            )
        uniform = torch.rand((), generator=generator, dtype=torch.float64)
        start = uniform.to(request.queries.device)
        return draw_with_rest(request, self.cache, self.num_encoded, start)
