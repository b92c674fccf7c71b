"""Draws without replacement from the softmax over cached embeddings."""

import math

import torch

from negcache.errors import InputError
from negcache.functional.distinct import draw_distinct, sum_and_sample_shares
from negcache.functional.draws import use_columns
from negcache.functional.views import within
from negcache.protocols import Cache, Draw, Request


class CachedDistinct:
    """m different items for each query, drawn one after the other from the cached softmax.

    Sum-and-sample: all but the last count with their own probability, the last with what is left.
    Unbiased for Z- at any staleness (corrected), and for the gradient on a fresh cache (pinned);
    never two draws on one item. See Kool et al. 2019 (arXiv:1903.06059) for draws without
    replacement. A step costs m rounds of stage two: for tens of draws, not thousands.

    Args:
        cache: the rows drawn from.
        num_negatives: different items per query, m.
    """

    has_density = False

    def __init__(self, cache: Cache, num_negatives: int) -> None:
        if not 1 <= num_negatives <= cache.num_rows:
            raise InputError(
                f"num_negatives between 1 and the {cache.num_rows} cached rows",
                f"{num_negatives}",
                "draw fewer, or use FullSoftmax",
            )
        self.cache, self.num_negatives = cache, num_negatives

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        noise = request.uniforms(generator, self.num_negatives, 2)
        inside = within(request, self.cache)
        slots, logits, log_norm, log_left = draw_distinct(inside, self.cache, noise)
        dead = logits == -torch.inf
        log_prob = (logits - log_norm[:, None]).masked_fill(dead, -torch.inf)
        log_share = sum_and_sample_shares(log_prob, log_left - log_norm)
        log_share = log_share.masked_fill(dead, -torch.inf)
        log_stands = -math.log(self.cache.coverage)
        weight = (log_share - log_prob + log_stands).masked_fill(dead, -torch.inf)
        return use_columns(self.cache.ids(slots), weight, log_norm + log_stands, log_share)
