"""The dynamic index: draws by clusters of items that lie close together, not by all items."""

import torch

from negcache.errors import InputError
from negcache.indexes.clusters import ClusterIndex
from negcache.indexes.scored_clusters import ClusterScorer
from negcache.interfaces import Proposal, Store
from negcache.messages import Request


class DynamicIndex:
    """Independent draws for each query: a cluster by its size and centre, then any of its members.

    ``q_b(y) = exp(V_c) / Zhat``, V the score of the centre of the item's cluster, Zhat over the
    items that may stand for the query. A draw looks at the centres alone, and its weights are
    honest at any age of centres, coordinates and clusters.
    Source: Monath et al., AISTATS 2023, with weights ``-log(m q)`` in place of the chains.

    Args:
        store: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
        index: keeps the clusters; None: ``KMeansClusters()``.
        expand: coarse clusters that each query looks into, where clusters are many; 0: all clusters
            are scored for all queries.
    """

    has_density = True

    def __init__(
        self,
        store: Store,
        num_negatives: int,
        *,
        index: ClusterIndex | None = None,
        expand: int = 0,
    ) -> None:
        if num_negatives < 1:
            raise InputError("num_negatives of 1 or more", f"{num_negatives}", "draw at least one")
        self.store, self.num_negatives = store, num_negatives
        self.clusters = ClusterScorer(store, index, expand)

    def propose(self, request: Request, generator: torch.Generator) -> Proposal:
        return self.clusters.score(request).proposal(self.num_negatives)
