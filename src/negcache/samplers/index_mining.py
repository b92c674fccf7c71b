"""The dynamic index as it was run: hard negatives from the cells nearest to a query."""

from dataclasses import replace

import torch

from negcache.errors import InputError
from negcache.functional.softmax_draws import highest_distinct, plain_draw, with_figures
from negcache.indexes.cells import CellIndex
from negcache.indexes.proposal import ClusterProposal
from negcache.protocols import Cache, Draw, Request


class DynamicIndexMiner:
    """The highest scores among draws from each query's best cells, with weight 0.

    What the published experiments did in place of chains that mix: a miner of hard negatives, not
    an estimate of the partition. For comparison. Source: Monath et al., AISTATS 2023, section 5.

    Args:
        cache: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: draws per query that are kept, m; fewer where so many distinct ones are not
            met.
        chain: draws that are made for each one kept.
        top_cells: cells drawn from, those whose centres score highest.
        index: keeps the cells; None: ``KMeansCells()``.
    """

    has_density = False

    def __init__(
        self,
        cache: Cache,
        num_negatives: int,
        *,
        chain: int = 2,
        top_cells: int = 100,
        index: CellIndex | None = None,
    ) -> None:
        if min(num_negatives, chain, top_cells) < 1:
            raise InputError(
                "num_negatives, chain and top_cells of 1 or more",
                f"{num_negatives}, {chain} and {top_cells}",
                "published: chains of 2, at most 100 cells",
            )
        self.cache, self.num_negatives = cache, num_negatives
        self.chain, self.top_cells = chain, top_cells
        self.proposal = ClusterProposal(cache, index)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        asked = self.proposal.ask(request)
        asked = replace(asked, law=asked.law.best(self.top_cells))
        noise = request.uniforms(generator, self.num_negatives, self.chain, 2)
        slots, scores, ratios = (each.flatten(1) for each in asked.propose(noise))
        scores = scores.masked_fill(ratios == -torch.inf, -torch.inf)
        best, scores = highest_distinct(scores, slots, self.num_negatives)
        alive = scores > -torch.inf
        draw = plain_draw(self.cache.ids(slots.gather(1, best)), alive, request.queries.dtype)
        return with_figures(draw, {"distinct": alive})
