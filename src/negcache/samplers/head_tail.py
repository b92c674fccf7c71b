"""The best-scored cached items for certain, the others by chance."""

import math

import torch

from negcache.errors import InputError
from negcache.functional.distinct import draw_head_and_tail, head_and_tail_shares
from negcache.functional.draws import use_columns
from negcache.functional.views import within
from negcache.protocols import Cache, Draw, Request


class HeadTail:
    """Each query's ``head`` best cached items, and ``tail`` independent draws from the rest.

    The head counts with weight 0, the tail with ``-log(m q)`` over what is left: unbiased for Z-
    at any staleness. Best where the cached softmax is peaked. With ``tail = 0`` these are hard
    negatives, top-k of a cache, as ANCE mines them from an index: never unbiased.

    Args:
        cache: the rows drawn from.
        head: best items per query.
        tail: draws per query from the others.
    """

    has_density = False

    def __init__(self, cache: Cache, head: int, tail: int) -> None:
        if head < 1 or tail < 0 or head + tail > cache.num_rows:
            raise InputError(
                f"head of 1 or more, tail of 0 or more, at most {cache.num_rows} together",
                f"head {head}, tail {tail}",
                "use CachedSoftmax for no head, FullSoftmax for all",
            )
        self.cache, self.head, self.tail = cache, head, tail

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        noise = request.uniforms(generator, self.tail, 2)
        inside = within(request, self.cache)
        slots, logits, log_norm, log_tail = draw_head_and_tail(inside, self.cache, self.head, noise)
        dead = logits == -torch.inf
        log_share = head_and_tail_shares(logits, log_norm, log_tail, self.head)
        log_share = log_share.masked_fill(dead, -torch.inf)
        log_stands = -math.log(self.cache.coverage)
        weight = log_share - (logits - log_norm[:, None]) + log_stands
        return use_columns(
            self.cache.ids(slots),
            weight.masked_fill(dead, -torch.inf),
            log_norm + log_stands if self.tail else None,
            log_share if self.tail else None,
        )
