"""Share each query's draws with the whole batch."""

from typing import cast

import torch

from negcache.errors import InputError
from negcache.functional.draws import pool
from negcache.protocols import DensitySampler, Draw, Request, Sampler


class SharedDraws:
    """Pools a sampler's per-query draws: B x m encoded items stand for every query.

    At a given number of encoded items this is worth more than any other choice we measured. The
    pooled weights, ``log c_j - log sum_b m q_b(j)``, keep every query's partition unbiased; use
    the ``corrected`` estimator.

    Args:
        sampler: any sampler of per-query draws whose density is known.
    """

    has_density = False

    def __init__(self, sampler: Sampler) -> None:
        if not sampler.has_density:
            raise InputError(
                "a sampler with has_density", type(sampler).__name__, "use it without SharedDraws"
            )
        self.sampler = cast(DensitySampler, sampler)
        self.cache = sampler.cache

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        own = self.sampler.draw(request, generator)
        log_prob = self.sampler.log_prob(request, own.ids, own.law)
        return pool(own, log_prob, request.exclude, self.sampler.coverage)
