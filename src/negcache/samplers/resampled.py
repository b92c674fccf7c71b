"""Draws in two stages: a cheap sampler proposes a pool, cached scores choose from it."""

import math

import torch

from negcache.errors import InputError
from negcache.functional.two_stage import invert_cdf
from negcache.indexes.coordinates import as_coordinates
from negcache.protocols import Cache, Draw, Request, Sampler
from negcache.samplers.shared import SharedDraws
from negcache.shapes import Float, Int, Tensor

ROWS = 256
"""Cached rows of the pool that are held at a time: a bound on memory."""


class Resampled:
    """Shared draws from the softmax of cached scores over a pool of proposals.

    The proposals of all queries, shared, are a pool with weights that make every query's partition
    unbiased; each query draws from ``softmax(s~ + log weight)`` over the pool, and these draws are
    shared once more. Only what is drawn last is encoded, so the pool may be many times as large:
    its cached rows or coordinates are all that is read. Weights multiply, so the partition is
    unbiased at any staleness; take the ``corrected`` estimator. Source: sampling-importance
    resampling (Rubin 1987) with the pooled weights of ``SharedDraws``.

    Args:
        sampler: proposes, such as ``DynamicIndex``; its density must be known. Its
            ``num_negatives`` is the pool's size per query.
        cache: whose scores choose; None: the sampler's own.
        num_negatives: draws per query from the pool.
    """

    has_density = False

    def __init__(
        self, sampler: Sampler, num_negatives: int = 1, *, cache: Cache | None = None
    ) -> None:
        if num_negatives < 1:
            raise InputError("num_negatives of 1 or more", f"{num_negatives}", "draw at least one")
        if None not in (cache, sampler.cache) and cache is not sampler.cache:
            raise InputError(
                "proposals and choice over one cache", "two caches", "leave cache= out"
            )
        cache = sampler.cache if cache is None else cache
        if cache is None:
            raise InputError(
                "a cache to choose by", "a sampler without one", "pass cache=, such as a DenseCache"
            )
        self.pool, self.cache, self.num_negatives = SharedDraws(sampler), cache, num_negatives
        self.source = as_coordinates(cache)

    @torch.no_grad()
    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        pool = self.pool.draw(request, generator)
        if not len(pool.ids):  # nobody may draw anything
            return pool
        noise = request.uniforms(generator, self.num_negatives)
        logits = self._scores(request, pool.ids).double() + pool.log_weight
        log_norm = torch.logsumexp(logits, dim=1, keepdim=True)
        alive = log_norm.squeeze(1) > -torch.inf  # a query that may draw something of the pool
        drawn = invert_cdf(logits[alive], noise[alive])
        places, seen = torch.unique(drawn, return_counts=True)
        log_chance = (logits - log_norm)[alive][:, places]
        log_expected = torch.logsumexp(log_chance, dim=0) + math.log(self.num_negatives)
        weight = pool.log_weight[:, places] + (seen.double().log() - log_expected)
        weight, figures = weight.to(request.queries.dtype), {"pool": float(len(pool.ids))}
        return Draw(pool.ids[places], None, weight, figures=pool.figures | figures)

    def _scores(self, request: Request, ids: Int[Tensor, "U"]) -> Float[Tensor, "B U"]:
        """Cached scores of every query against the pool; an item that is not cached scores 0."""
        slots = self.source.slots(ids)
        held = (slots >= 0) & self.source.valid[slots.clamp_min(0)]
        queries = self.source.see_queries(request.queries)
        parts = []
        for some in slots.clamp_min(0).split(ROWS):
            items = self.source.see_items(self.source.coordinates(some))
            parts.append(request.score(queries, items.to(queries.dtype)))
        return torch.cat(parts, dim=1).where(held, 0.0)
