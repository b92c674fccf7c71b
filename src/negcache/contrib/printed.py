"""The dynamic index as printed: ends of Metropolis-Hastings chains with weight 0."""

from dataclasses import replace

import torch

from negcache.indexes.clusters import ClusterIndex
from negcache.interfaces import Store
from negcache.messages import Draw, Request
from negcache.samplers.chain import DynamicIndexChain


class ChainAsPrinted:
    """Algorithm 4 of Monath et al. as printed: the partition is of the drawn items alone.

    The draws are those of ``DynamicIndexChain``; only their weights differ. Never unbiased.
    Source: Monath et al., AISTATS 2023.

    Args:
        store: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: chains for each query, m.
        chain: states of a chain.
        index: keeps the clusters; None: ``KMeansClusters()``.
    """

    has_density = False

    def __init__(
        self,
        store: Store,
        num_negatives: int,
        *,
        chain: int = 2,
        index: ClusterIndex | None = None,
    ) -> None:
        self.store = store
        self.sampler = DynamicIndexChain(store, num_negatives, chain=chain, index=index)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        draw = self.sampler.draw(request, generator)
        weight = draw.weight.masked_fill(draw.weight > -torch.inf, 0.0)
        return replace(draw, weight=weight, log_z=None, log_share=None)
