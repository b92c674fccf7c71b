"""Chains over the dynamic index: Metropolis-Hastings with the cluster proposal."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch

from negcache.draws import from_shares, means
from negcache.errors import InputError
from negcache.indexes.clusters import ClusterIndex
from negcache.indexes.scored_clusters import ClusterScorer, ScoredClusters
from negcache.interfaces import Store
from negcache.messages import Draw, Request
from negcache.ops.metropolis import log_partition, total_variation_bound, walk
from negcache.shapes import Bool, Float64, Tensor
from negcache.stores.reading import refuse_weights

VACUOUS = 0.5
"""Total variation from which on a bound promises nothing worth having."""


@dataclass(frozen=True)
class ChainBounds:
    """How near the ends of chains of length s are to the softmax of cached scores, by query.

    Args:
        log_gamma: log of max P / Q, by enumeration; None: too many items.
        log_gamma_bound: an upper bound of it, from the radius of the clusters.
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


class WhenAsked(Mapping[str, float]):
    """Metrics that are worked out when the first of them is looked at, or saved.

    Args:
        ask: for all of them.
    """

    def __init__(self, ask: Callable[[], dict[str, float]]) -> None:
        self._ask = ask

    @cached_property
    def _found(self) -> dict[str, float]:
        return self._ask()

    def __getitem__(self, name: str) -> float:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __reduce__(self) -> Any:
        return dict, (self._found,)


class DynamicIndexChain:
    """Each draw is the end of a chain whose moves are cluster proposals.

    The longer the chains, the nearer to the softmax of cached scores; ``bounds`` says how near at
    least. Only the ends are encoded. Take the ``cached_partition`` estimator: the partition comes
    from all proposals, each corrected for its chance. Known positives are never proposed.
    Source: Monath et al., AISTATS 2023, algorithm 4 and proposition 2.

    Args:
        store: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: chains for each query, m.
        chain: states of a chain, s: the first draw and s - 1 moves.
        index: keeps the clusters; None: ``KMeansClusters()``.
        expand: as in ``DynamicIndex``.
    """

    has_density = False

    def __init__(
        self,
        store: Store,
        num_negatives: int,
        *,
        chain: int = 8,
        index: ClusterIndex | None = None,
        expand: int = 0,
    ) -> None:
        if min(num_negatives, chain) < 1:
            raise InputError(
                "num_negatives and chain of 1 or more",
                f"{num_negatives} and {chain}",
                "a chain of 1 is a draw from the proposal itself",
            )
        refuse_weights(store, "a chain over clusters")
        self.store, self.num_negatives = store, num_negatives
        self.chain = chain
        self.clusters = ClusterScorer(store, index, expand)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        scored = self.clusters.score(request)
        noise = request.uniforms(generator, self.num_negatives, self.chain, 3)
        proposed = scored.draw_scored(noise[..., :2])
        walked = walk(proposed.log_ratios, noise[..., 2])
        ends = walked.ends[..., None]
        ids, scores, ratios = (each.gather(2, ends).squeeze(2) for each in proposed)
        log_z = log_partition(proposed.log_ratios.flatten(1), scored.log_norm)
        drawn = from_shares(
            self.store, ids, scores, log_z, equal_shares(ratios > -torch.inf),
            dtype=request.queries.dtype,
        )  # fmt: skip
        metrics = WhenAsked(partial(self._metrics, scored, walked.accepted))
        alone = self.store.shard.mesh.size == 1  # several work it out together, asked or not
        return replace(drawn, metrics=metrics if alone else dict(metrics))

    @torch.no_grad()
    def _metrics(self, scored: ScoredClusters, accepted: Tensor) -> dict[str, float]:
        bound = scored.log_gamma_bound()
        promise = total_variation_bound(bound, self.chain)
        bounds = {"log_gamma_bound": bound, "tv_bound": promise, "vacuous": promise >= VACUOUS}
        return means(bounds | {"acceptance": accepted})

    @torch.no_grad()
    def bounds(self, request: Request, *, enumerate_up_to: int = 1 << 17) -> ChainBounds:
        """gamma, acceptance and what they promise, for each query of a request.

        Args:
            enumerate_up_to: so many items, at most, are all scored to know gamma exactly; never
                where several processes share them.
        """
        scored = self.clusters.score(request)
        bound = scored.log_gamma_bound()
        shared = self.store.shard.mesh.size > 1
        if shared or self.store.num_rows > enumerate_up_to:
            promise = total_variation_bound(bound, self.chain)
            return ChainBounds(None, bound, torch.exp(-bound), promise)
        exact = scored.enumerate()
        promise = total_variation_bound(exact.log_gamma, self.chain)
        return ChainBounds(exact.log_gamma, bound, exact.acceptance, promise)


def equal_shares(alive: Bool[Tensor, "B m"]) -> Float64[Tensor, "B m"]:
    """log-shares of draws that stand for as much as each other; -inf for the others."""
    count = alive.sum(dim=1, keepdim=True).double()
    return (-count.log()).expand(alive.shape).masked_fill(~alive, -torch.inf)
