"""Chains over the dynamic index: Metropolis-Hastings with the cluster proposal."""

import math
from dataclasses import dataclass

import torch

from negcache.errors import InputError
from negcache.functional.metropolis import log_partition, total_variation_bound, walk
from negcache.functional.softmax_draws import equal_shares, pinned_draw, plain_draw, with_figures
from negcache.indexes.cells import CellIndex
from negcache.indexes.proposal import ClusterProposal
from negcache.protocols import Cache, Draw, Request
from negcache.shapes import Bool, Float64, Tensor

VACUOUS = 0.5
"""Total variation from which on a bound promises nothing worth having."""


@dataclass(frozen=True)
class ChainBounds:
    """How near the ends of chains of length s are to the softmax of cached scores, by query.

    Args:
        log_gamma: log of max P / Q, by enumeration; None: too many items.
        log_gamma_bound: an upper bound of it, from the radius of the cells.
        acceptance: share of moves that a chain at rest accepts; where there are too many items
            to enumerate, the least it can be, 1 / gamma.
        tv_bound: ``exp(-(s - 1) / gamma)``, which the total variation never exceeds.
    """

    log_gamma: Float64[Tensor, "B"] | None
    log_gamma_bound: Float64[Tensor, "B"]
    acceptance: Float64[Tensor, "B"]
    tv_bound: Float64[Tensor, "B"]

    @property
    def vacuous(self) -> Bool[Tensor, "B"]:
        """Whether the bound is ``VACUOUS`` or more."""
        return self.tv_bound >= VACUOUS


class DynamicIndexChain:
    """Each draw is the end of a chain whose moves are cluster proposals.

    The longer the chains, the nearer to the softmax of cached scores; ``bounds`` says how near at
    least. Only the ends are encoded. Take the ``pinned`` estimator: the partition comes from all
    proposals, each corrected for its chance. Known positives are never proposed.
    Source: Monath et al., AISTATS 2023, algorithm 4 and proposition 2.

    Args:
        cache: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: chains for each query, m.
        chain: states of a chain, s: the first draw and s - 1 moves.
        weights: False: weight 0 for every end, as printed; the partition is of the draws alone.
        index: keeps the cells; None: ``KMeansCells()``.
        expand: as in ``DynamicIndex``.
    """

    has_density = False

    def __init__(
        self,
        cache: Cache,
        num_negatives: int,
        *,
        chain: int = 8,
        weights: bool = True,
        index: CellIndex | None = None,
        expand: int = 0,
    ) -> None:
        if min(num_negatives, chain) < 1:
            raise InputError(
                "num_negatives and chain of 1 or more",
                f"{num_negatives} and {chain}",
                "a chain of 1 is a draw from the proposal itself",
            )
        self.cache, self.num_negatives = cache, num_negatives
        self.chain, self.weights = chain, weights
        self.proposal = ClusterProposal(cache, index, expand)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        asked = self.proposal.ask(request)
        noise = request.uniforms(generator, self.num_negatives, self.chain, 3)
        proposed = asked.propose(noise[..., :2])
        walked = walk(proposed.log_ratios, noise[..., 2])
        ends = walked.ends[..., None]
        slots, scores, ratios = (each.gather(2, ends).squeeze(2) for each in proposed)
        ids, alive, dtype = self.cache.ids(slots), ratios > -torch.inf, request.queries.dtype
        if self.weights:
            log_z = log_partition(proposed.log_ratios.flatten(1), asked.law.log_norm)
            log_z = log_z - math.log(self.cache.coverage)
            draw = pinned_draw(ids, scores, log_z, equal_shares(alive), dtype)
        else:
            draw = plain_draw(ids, alive, dtype)
        bound = asked.log_gamma_bound()
        promise = total_variation_bound(bound, self.chain)
        figures = {"log_gamma_bound": bound, "tv_bound": promise, "vacuous": promise >= VACUOUS}
        return with_figures(draw, figures | {"acceptance": walked.accepted})

    @torch.no_grad()
    def bounds(self, request: Request, *, enumerate_up_to: int = 1 << 17) -> ChainBounds:
        """gamma, acceptance and what they promise, for each query of a request.

        Args:
            enumerate_up_to: so many items, at most, are all scored to know gamma exactly.
        """
        asked = self.proposal.ask(request)
        bound = asked.log_gamma_bound()
        if self.cache.num_rows > enumerate_up_to:
            promise = total_variation_bound(bound, self.chain)
            return ChainBounds(None, bound, torch.exp(-bound), promise)
        exact = asked.enumerate()
        promise = total_variation_bound(exact.log_gamma, self.chain)
        return ChainBounds(exact.log_gamma, bound, exact.acceptance, promise)


def as_printed(
    cache: Cache, num_negatives: int, *, chain: int = 2, index: CellIndex | None = None
) -> DynamicIndexChain:
    """Algorithm 4 of Monath et al. as printed: chain ends with weight 0. For comparison."""
    return DynamicIndexChain(cache, num_negatives, chain=chain, weights=False, index=index)
