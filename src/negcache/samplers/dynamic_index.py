"""The dynamic index: draws by cells of items that lie close together, without a pass over them."""

import math

import torch

from negcache.errors import InputError
from negcache.functional.draws import use_columns
from negcache.indexes.cells import CellIndex
from negcache.indexes.proposal import ClusterProposal
from negcache.protocols import Cache, Draw, Law, Request
from negcache.shapes import Float, Int, Tensor


class DynamicIndex:
    """Independent draws for each query: a cell by its size and centre, then any of its members.

    ``q_b(y) = exp(V_c) / Zhat``, V the score of the centre of the item's cell, Zhat over the items
    that may stand for the query. A draw looks at the centres alone, and its weights are honest at
    any age of centres, coordinates and cells.
    Source: Monath et al., AISTATS 2023, with weights ``-log(m q)`` in place of the chains.

    Args:
        cache: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
        index: keeps the cells; None: ``KMeansCells()``.
        expand: coarse cells that each query looks into, where cells are many; 0: all cells are
            scored for all queries.
    """

    has_density = True

    def __init__(
        self, cache: Cache, num_negatives: int, *, index: CellIndex | None = None, expand: int = 0
    ) -> None:
        if num_negatives < 1:
            raise InputError("num_negatives of 1 or more", f"{num_negatives}", "draw at least one")
        self.cache, self.num_negatives = cache, num_negatives
        self.proposal = ClusterProposal(cache, index, expand)

    @property
    def coverage(self) -> float:
        return self.cache.coverage

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        asked = self.proposal.ask(request)
        slots, inverse = asked.draw(request.uniforms(generator, self.num_negatives, 2))
        weight = inverse - math.log(self.num_negatives * self.coverage)
        return use_columns(self.cache.ids(slots), weight.to(request.queries.dtype))

    def log_prob(
        self, request: Request, ids: Int[Tensor, "M"], law: Law | None = None
    ) -> Float[Tensor, "B M"]:
        """V of each item's cell less log Zhat; the centres are scored once more."""
        log_q = self.proposal.ask(request).log_prob(self.cache.slots(ids))
        return log_q.to(request.queries.dtype)
