"""Several samplers as one: each query draws from all of them."""

import math
from typing import cast

import torch

from negcache.errors import InputError
from negcache.protocols import Cache, DensitySampler, Draw, Law, Request, Sampler
from negcache.shapes import Float, Int, Tensor


class Mixture:
    """Pools the draws of several samplers, ``w_y = -log sum_d m_d q_d(y)``, every occurrence kept.

    Unbiased where one of them is, and never worse weighted than the best of them: an item that any
    of them is likely to draw gets a small weight. With ``Uniform`` among them no weight exceeds
    log(N / m_uniform), however stale the cache: a bound on the damage of a bad proposal.

    Args:
        samplers: any with a density; at least one must reach every item; at most one cache.
    """

    has_density = True
    coverage = 1.0

    def __init__(self, *samplers: Sampler) -> None:
        wrong = [type(s).__name__ for s in samplers if not s.has_density]
        if wrong or len(samplers) < 2:
            raise InputError(
                "two or more samplers with has_density",
                ", ".join(wrong) or f"{len(samplers)} sampler",
                "mix the samplers themselves, then wrap the mixture in SharedDraws",
            )
        self.samplers = [cast(DensitySampler, s) for s in samplers]
        if all(s.coverage < 1 for s in self.samplers):
            raise InputError(
                "a sampler that reaches every item",
                "none",
                "add Uniform, or use one of them alone: it corrects for its own coverage",
            )
        caches = {id(s.cache): s.cache for s in samplers if s.cache is not None}
        if len(caches) > 1:
            raise InputError(
                "samplers over one cache", f"{len(caches)} caches", "give them the same cache"
            )
        self.cache: Cache | None = next(iter(caches.values()), None)
        self.num_negatives = sum(s.num_negatives for s in self.samplers)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        draws = [sampler.draw(request, generator) for sampler in self.samplers]
        drawn = torch.cat([d.ids[d.columns] for d in draws], dim=1)
        alive = torch.cat([d.log_weight > -torch.inf for d in draws], dim=1)
        ids, columns = torch.unique(drawn, return_inverse=True)
        law = Law(parts=tuple(d.law for d in draws))
        log_q = self.log_prob(request, ids, law).gather(1, columns)
        weight = (-log_q - math.log(drawn.shape[1])).masked_fill(~alive, -torch.inf)
        figures = {name: value for d in draws for name, value in d.figures.items()}
        return Draw(ids, columns, weight, law=law, figures=figures)

    def log_prob(
        self, request: Request, ids: Int[Tensor, "M"], law: Law | None = None
    ) -> Float[Tensor, "B M"]:
        """``log sum_d (m_d / m) q_d(y)``."""
        laws = law.parts if law is not None else [None] * len(self.samplers)
        terms = [
            sampler.log_prob(request, ids, part) + math.log(sampler.num_negatives)
            for sampler, part in zip(self.samplers, laws, strict=True)
        ]
        return torch.logsumexp(torch.stack(terms), dim=0) - math.log(self.num_negatives)
