"""The dynamic index as it was run: hard negatives from the clusters nearest to a query."""

from dataclasses import replace

import torch

from negcache.draws import plain
from negcache.errors import InputError
from negcache.indexes.clusters import ClusterIndex
from negcache.indexes.scored_clusters import ClusterScorer
from negcache.interfaces import Store
from negcache.messages import Draw, Request
from negcache.shapes import Float64, Int, Tensor


class DynamicIndexMiner:
    """The highest scores among draws from each query's best clusters, with weight 0.

    What the published experiments did in place of chains that mix: a miner of hard negatives, not
    an estimate of the partition. For comparison. Source: Monath et al., AISTATS 2023, section 5.

    Args:
        store: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: draws per query that are kept, m; fewer where so many distinct ones are not
            met.
        chain: draws that are made for each one kept.
        top_clusters: clusters drawn from, those whose centres score highest.
        index: keeps the clusters; None: ``KMeansClusters()``.
    """

    has_density = False

    def __init__(
        self,
        store: Store,
        num_negatives: int,
        *,
        chain: int = 2,
        top_clusters: int = 100,
        index: ClusterIndex | None = None,
    ) -> None:
        if min(num_negatives, chain, top_clusters) < 1:
            raise InputError(
                "num_negatives, chain and top_clusters of 1 or more",
                f"{num_negatives}, {chain} and {top_clusters}",
                "published: chains of 2, at most 100 clusters",
            )
        self.store, self.num_negatives = store, num_negatives
        self.chain, self.top_clusters = chain, top_clusters
        self.clusters = ClusterScorer(store, index)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        scored = self.clusters.score(request)
        law = scored.law.best(self.top_clusters, self.store.shard.mesh)
        scored = replace(scored, law=law)
        noise = request.uniforms(generator, self.num_negatives, self.chain, 2)
        ids, scores, ratios = (each.flatten(1) for each in scored.draw_scored(noise))
        scores = scores.masked_fill(ratios == -torch.inf, -torch.inf)
        best, scores = highest_distinct(scores, ids, self.num_negatives)
        alive = scores > -torch.inf
        ids, metrics = ids.gather(1, best), {"distinct": alive}
        return plain(ids, alive, dtype=request.queries.dtype, metrics=metrics)


def highest_distinct(
    scores: Float64[Tensor, "B n"], ids: Int[Tensor, "B n"], count: int
) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
    """Columns of the ``count`` highest scores of distinct items, and these; -inf: no more."""
    by_id = ids.argsort(dim=1, stable=True)
    ordered = ids.gather(1, by_id)
    repeat = torch.zeros_like(ordered, dtype=torch.bool)
    repeat[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeat = torch.zeros_like(repeat).scatter_(1, by_id, repeat)
    best = scores.masked_fill(repeat, -torch.inf).topk(count, dim=1)
    return best.indices, best.values
