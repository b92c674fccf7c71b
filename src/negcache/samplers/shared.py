"""Share each query's draws with the whole batch, and the batch's own positives with them."""

import math
from dataclasses import replace
from typing import cast

import torch

from negcache.door import check_popularity
from negcache.errors import InputError
from negcache.functional.draws import share
from negcache.protocols import DensitySampler, Draw, Request, Sampler
from negcache.shapes import Float, Tensor


class SharedDraws:
    """Pools a sampler's per-query draws: B x m encoded items stand for every query.

    At a given number of encoded items this is worth more than any other choice we measured. The
    pooled weights, ``log c_j - log sum_b m q_b(j)``, keep every query's partition unbiased; use
    the ``corrected`` estimator.

    With ``log_popularity`` the batch's other positives, which are encoded anyway, join the pool:
    ``log c_j - log(sum_b m q_b(j) + (B - 1) pi_j)``, unbiased to O(1/B) if batches are drawn from
    pi: a query's law leaves its own positive out, so it is not quite independent of the batch.

    Args:
        sampler: any sampler of per-query draws whose density is known.
        num_encoded: keep a random choice of so many of the B x m draws, and weigh them for it:
            fewer negatives than queries; None: all.
        log_popularity: log pi of every item [N], its share of training positives, -inf for none;
            None: the batch's positives stand for their own queries alone.
    """

    has_density = False

    def __init__(
        self,
        sampler: Sampler,
        *,
        num_encoded: int | None = None,
        log_popularity: Float[Tensor, "N"] | None = None,
    ) -> None:
        if not sampler.has_density:
            raise InputError(
                "a sampler with has_density", type(sampler).__name__, "use it without SharedDraws"
            )
        if num_encoded is not None and num_encoded < 1:
            raise InputError("num_encoded of 1 or more", f"{num_encoded}", "or None, for all")
        if log_popularity is not None:
            check_popularity(log_popularity)
        self.sampler = cast(DensitySampler, sampler)
        self.cache = sampler.cache
        self.num_encoded, self.log_popularity = num_encoded, log_popularity

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        own = self.sampler.draw(request, generator)
        assert own.columns is not None
        if self.log_popularity is not None:
            request.over(len(self.log_popularity))
        drawn, kept = own.ids[own.columns].flatten(), own.log_weight.flatten() > -torch.inf
        total = len(drawn)
        count = min(self.num_encoded or total, total)
        if count < total:  # a random choice, masked hits among it
            chosen = torch.randperm(total, generator=generator)[:count].to(drawn.device)
            drawn, kept = drawn[chosen], kept[chosen]
        log_times = math.log(self.sampler.num_negatives * count / total)
        if self.log_popularity is None:
            ids, seen = torch.unique(drawn[kept], return_counts=True)
            log_prob = self.sampler.log_prob(request, ids, own.law)
            log_expected = torch.logsumexp(log_prob, dim=0) + log_times
            log_expected += math.log(self.sampler.coverage)
            return replace(share(ids, seen, log_expected, request), figures=own.figures)
        ids, seen = torch.unique(torch.cat([drawn[kept], request.targets]), return_counts=True)
        log_prob = self.sampler.log_prob(request, ids, own.law)
        log_expected = torch.logsumexp(log_prob, dim=0) + log_times
        log_pi = self.log_popularity.to(log_expected)[ids]
        coverage = math.log(self.sampler.coverage)  # what the batch reaches needs no help of it
        log_expected = log_expected.where(log_pi > -torch.inf, log_expected + coverage)
        by_batch = request.others.to(log_expected).log() + log_pi
        drawn = share(ids, seen, torch.logaddexp(log_expected, by_batch), request)
        return replace(drawn, figures=own.figures)
