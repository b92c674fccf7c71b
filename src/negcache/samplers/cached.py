"""The negative cache: draws from the softmax over cached embeddings, exactly."""

import math

import torch

from negcache.errors import InputError
from negcache.functional.draws import use_columns
from negcache.functional.two_stage import cell_log_masses, draw_from_cells
from negcache.protocols import Cache, Draw, Request
from negcache.shapes import Float, Int, Tensor


class CachedSoftmax:
    """Independent draws for each query, ``q_b(y) = exp(s~_by) / Z~_b-`` over the cached rows.

    On a fresh cache one draw gives an unbiased softmax gradient, and any number the exact loss.
    A draw costs one pass of scores over the cache; nothing of size [B, N] is held.
    Source: Lindgren et al., NeurIPS 2021, with known positives excluded by id.

    Args:
        cache: the rows drawn from; the training step keeps it up to date.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
    """

    has_density = True

    def __init__(self, cache: Cache, num_negatives: int) -> None:
        if not 1 <= num_negatives <= cache.num_items:
            raise InputError(
                f"num_negatives between 1 and the {cache.num_items} cached items",
                f"{num_negatives}",
                "draw fewer, or use FullSoftmax",
            )
        self.cache, self.num_negatives = cache, num_negatives

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        masses = cell_log_masses(request, self.cache)
        log_z = torch.logsumexp(masses, dim=1)
        noise = request.uniforms(generator, self.num_negatives, 2)
        found = draw_from_cells(request, self.cache, masses, noise)
        dead = (log_z == -torch.inf)[:, None]
        log_share = torch.full_like(found.logits, -math.log(self.num_negatives))
        log_weight = (log_share + log_z[:, None] - found.logits).masked_fill(dead, -torch.inf)
        return use_columns(found.ids, log_weight, log_z, log_share)

    def log_prob(
        self, request: Request, ids: Int[Tensor, "M"], log_z: Tensor | None = None
    ) -> Float[Tensor, "B M"]:
        """``s~_by - log Z~_b-``; a pass over the cache unless the draw's ``log_z`` is given."""
        if log_z is None:
            log_z = torch.logsumexp(cell_log_masses(request, self.cache), dim=1)
        logits = request.score(request.queries, self.cache.rows(ids)).detach()
        barred = request.exclude.mask(ids) | ~self.cache.valid[ids]
        return (logits - log_z[:, None]).masked_fill(barred, -torch.inf)
