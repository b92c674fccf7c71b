"""Every item that is not a positive, with equal chance. The sampler to copy."""

import math
from collections.abc import Sized

import torch

from negcache.door import count_items
from negcache.errors import InputError
from negcache.functional.draws import draw_allowed, use_columns
from negcache.protocols import Draw, Law, Request
from negcache.shapes import Float, Int, Tensor


class Uniform:
    """Independent uniform draws for each query, ``q_b(y) = 1 / (N - excluded_b)``.

    Args:
        items: what is drawn from: a corpus, a cache, anything of length N.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
    """

    has_density = True
    coverage = 1.0
    cache = None

    def __init__(self, items: Sized, num_negatives: int) -> None:
        self.num_items = count_items(items)
        if not 1 <= num_negatives <= self.num_items:
            raise InputError(
                f"num_negatives between 1 and the {self.num_items} items",
                f"{num_negatives}",
                "draw fewer, or use FullSoftmax",
            )
        self.num_negatives = num_negatives

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        request.over(self.num_items)
        noise = request.uniforms(generator, self.num_negatives)
        drawn = draw_allowed(request.exclude, self.num_items, noise)
        allowed = self.num_items - request.exclude.counts
        weight = allowed.to(request.queries.dtype).log() - math.log(self.num_negatives)
        return use_columns(drawn, weight[:, None].expand(drawn.shape))

    def log_prob(
        self, request: Request, ids: Int[Tensor, "M"], law: Law | None = None
    ) -> Float[Tensor, "B M"]:
        """-log(allowed items) where the query may draw the id."""
        log_q = -(self.num_items - request.exclude.counts).to(request.queries.dtype).log()
        barred = request.exclude.mask(ids)
        return log_q[:, None].expand(barred.shape).masked_fill(barred, -torch.inf)
