"""Exact draws over the dynamic index: multi-level rejection, down an SG tree."""

from typing import Protocol, runtime_checkable

import torch

from negcache.draws import from_shares
from negcache.errors import InputError
from negcache.indexes.clusters import ClusterIndex
from negcache.indexes.scored_clusters import ClusterScorer, ScoredClusters
from negcache.interfaces import Store
from negcache.messages import Draw, Request
from negcache.ops.metropolis import log_partition
from negcache.ops.rejection import log_shares
from negcache.ops.tree_draw import Frontier, TreeArrays, draw_from_tree
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import project_items, refuse_shards


@runtime_checkable
class TreeIndex(ClusterIndex, Protocol):
    """Clusters that are cut from a tree, such as ``TreeClusters``."""

    def subtrees(self) -> tuple[TreeArrays, Frontier]:
        """The tree as it is since ``update``, and the nodes that draws begin at."""
        ...


class DynamicIndexTree:
    """Draws from the softmax of cached scores itself, down a tree whose balls bound the scores.

    A draw that ends at a known positive begins again; one that comes to no end within ``rounds`` is
    made by the clusters instead, and its share of the partition is its own importance, as in
    ``DynamicIndexRejection``. The flat one accepts as often, or more often where positives score
    high, and costs less: this one is for small scales and comparison. Take ``cached_partition``.
    Source: Monath et al., AISTATS 2023, algorithm 1, corrected.

    Args:
        store: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: draws per query, m.
        index: ``TreeClusters()`` of ``negcache.indexes.sg_tree``.
        rounds: moves of every draw, one level down or to the beginning again.
    """

    has_density = False

    def __init__(
        self, store: Store, num_negatives: int, index: TreeIndex, *, rounds: int = 200
    ) -> None:
        if min(num_negatives, rounds) < 1:
            raise InputError(
                "num_negatives and rounds of 1 or more",
                f"{num_negatives} and {rounds}",
                "200 rounds suit small scales",
            )
        self.store, self.num_negatives, self.rounds = store, num_negatives, rounds
        self.index, self.clusters = index, ClusterScorer(store, index)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        """As ``Sampler.draw``.

        Raises:
            InputError: the store does not score coordinates as they are, so radii say nothing; or
                several processes share it.
        """
        refuse_shards(self.store, "rejection down a tree", "use DynamicIndexRejection")
        scored = self.clusters.score(request)
        scored.check_radius()
        proposed = scored.draw_scored(request.uniforms(generator, self.num_negatives, 1, 2))
        ids, scores, ratios = (each.squeeze(2) for each in proposed)
        found, places = self._search(scored, generator)
        kept, norm = places >= 0, scored.law.log_norm
        log_z = log_partition(ratios, norm)
        shares = log_shares(kept, ratios.masked_fill(kept, 0.0), norm, log_z)
        scores = found.where(kept, scores)
        not_found = ~kept & ~scored.law.empty[:, None]
        ids = self.store.ids(places.clamp_min(0)).where(kept, ids)
        return from_shares(
            self.store, ids, scores, log_z, shares,
            dtype=request.queries.dtype, metrics={"not_found": not_found},
        )  # fmt: skip

    def _search(
        self, scored: ScoredClusters, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B m"], Int[Tensor, "B m"]]:
        """Cached scores and slots of draws down the tree; -1 where one came to no end."""
        tree, frontier = self.index.subtrees()

        def logits(queries: Int[Tensor, "n"], items: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
            rows = project_items(scored.store, scored.store.rows(items))[:, None]
            pairs = scored.queries[queries], rows.to(scored.queries.dtype)
            return scored.score.paired(*pairs).detach().squeeze(1)

        # One number from the generator, however many rounds this process makes.
        noise = torch.Generator().manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
        places = draw_from_tree(
            tree,
            frontier,
            logits,
            scored.lipschitz,
            self.num_negatives,
            noise,
            exclude=scored.excluded,
            rounds=self.rounds,
        ).items
        queries = torch.arange(len(places), device=places.device)[:, None]
        queries = queries.expand_as(places).flatten()
        scores = logits(queries, places.clamp_min(0).flatten()).double()
        return scores.view(places.shape), places
